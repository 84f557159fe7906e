"""Settings of `attnorm hub`. Imports nothing heavy."""

import re
from dataclasses import dataclass

from attnorm.errors import ConfigError

_LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class HubConfig:
    """A trained network as a folder in timm's layout, with a model card, and that folder on the Hugging Face hub.

    Without --push nothing leaves this machine. With it, the command says what it would upload, and does so with --yes.
    The hub's own login is used: `hf auth login`, or HF_TOKEN.

    Args:
        output: folder to write: config.json, model.safetensors and README.md. Without checkpoint, one that was written
            before and is pushed as it is now.
        checkpoint: .safetensors file that `attnorm train`, `convert` or `swap` wrote, the name of a trained network
            that comes with the package, or another folder or hf-hub: name.
        licence: of the weights, by the hub's identifier such as apache-2.0, cc-by-nc-4.0 or other. Yours to say: it
            depends on the data and on the weights that the training started from.
        record: record.json of the run, for the card; the one beside the checkpoint when not given.
        compare: compare.json with the network's results over several seeds, for the card.
        push: USER/NAME on the hub to upload the folder to.
        public: let everyone see a repository that is new; private otherwise.
        revision: branch to upload to; the main one when not given.
        yes: do upload.
    """

    output: str
    checkpoint: str | None = None
    licence: str | None = None
    record: str | None = None
    compare: str | None = None
    push: str | None = None
    public: bool = False
    revision: str | None = None
    yes: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.checkpoint is None and self.push is None:
            raise ConfigError("checkpoint must name what to write, or push where to upload output to; got neither")
        if self.checkpoint is None:
            self._refuse(("licence", "record", "compare"), "a checkpoint, which is written")
        elif self.licence is None:
            raise ConfigError(
                "licence must say under which terms others may use the weights, such as apache-2.0; it depends on the "
                "data and on the weights that the training started from, so nothing is assumed"
            )
        else:
            check_licence(self.licence)
        if self.push is None:
            self._refuse(("public", "revision", "yes"), "push")

    def _refuse(self, names: tuple[str, ...], partner: str) -> None:
        for name in names:
            if getattr(self, name):
                raise ConfigError(f"{name} belongs to {partner}, and there is none; leave it out")


def check_licence(licence: str) -> None:
    """Refuse what cannot be one of the hub's identifiers.

    Raises:
        ConfigError: It cannot.
    """
    if not _LICENCE.fullmatch(licence):
        raise ConfigError(f"licence must be an identifier of the hub's, such as apache-2.0 or other; got {licence!r}")
