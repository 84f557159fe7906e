"""What every AN layer of a network mixes, taken down while the network runs."""

from collections.abc import Callable
from fnmatch import fnmatchcase
from types import TracebackType
from typing import Self

from torch import Tensor, nn

from attnorm.errors import ConfigError
from attnorm.layers.attentive import AttentiveNorm
from attnorm.layers.walk import named_modules


class MixtureWatch:
    """Keeps the mixture weights of the last forward pass; a context manager.

    It listens to each layer's attention, so weights are those that the call used, not computed a second time. A layer
    that is listened to calls its attention as a module, where it would have taken the closed form: equal but for
    rounding.

    Args:
        model: in evaluation mode.
        pattern: shell pattern of the layers' names.
        name: of the network, for messages.

    Attributes:
        layers: the AN layers that are watched, by name.

    Raises:
        ConfigError: the network has no AN layer, or none of that name.
    """

    def __init__(self, model: nn.Module, pattern: str = "*", name: str = "the network") -> None:
        found = {key: module for key, module in named_modules(model) if isinstance(module, AttentiveNorm)}
        if not found:
            raise ConfigError(
                f"inspect looks at AN layers, and {name} has none; give a checkpoint of a network with AN, see "
                "`attnorm models --filter '*_an*'`"
            )
        self.layers = {key: module for key, module in found.items() if fnmatchcase(key, pattern)}
        if not self.layers:
            raise ConfigError(
                f"layers must match the name of an AN layer of {name}, such as {next(iter(found))}; got {pattern!r}"
            )
        self._seen: dict[str, list[Tensor]] = {}
        self._handles = [layer.attention.register_forward_hook(self._keeper(key)) for key, layer in self.layers.items()]

    def _keeper(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def keep(_: nn.Module, __: tuple[Tensor, ...], weights: Tensor) -> None:
            self._seen.setdefault(name, []).append(weights.detach())

        return keep

    def take(self) -> dict[str, list[Tensor]]:
        """Lambda (N, K) of every call since the last time, by the name of the layer, in the order they first ran."""
        seen, self._seen = self._seen, {}
        return seen

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
