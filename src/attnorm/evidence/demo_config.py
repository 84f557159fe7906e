"""Settings of `attnorm demo`. Imports nothing heavy: the command line reads its flags from here."""

from dataclasses import dataclass
from typing import Literal

from attnorm.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """A page in the browser: drop an image and see what one network, or two side by side, make of it.

    Shown are the most likely classes, or the objects of a detector, the mixture weights of every AN layer and the time
    per image. The page is served to this machine alone, and neither it nor the server asks another one for anything.

    Args:
        checkpoint: .safetensors file that `attnorm train`, `convert` or `swap` wrote, or the name of a trained network
            that comes with the package, see `attnorm models`.
        against: a second one, of the same task, to stand beside it.
        host: address to listen on; 0.0.0.0 lets everyone in the network use the page, which has no password.
        port: to listen on; a free one is taken when it is 0.
        max_file_mb: images of more megabytes are refused.
        device: auto takes a CUDA device where there is one.
    """

    checkpoint: str
    against: str | None = None
    host: str = "127.0.0.1"
    port: int = 7860
    max_file_mb: int = 10
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def __post_init__(self) -> None:
        """Refuses what cannot be meant."""
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"port must be from 0 to 65535; got {self.port}")
        if self.max_file_mb < 1:
            raise ConfigError(f"max_file_mb must be at least 1; got {self.max_file_mb}")

    @property
    def max_file_bytes(self) -> int:
        """The largest file that is taken."""
        return self.max_file_mb * 2**20
