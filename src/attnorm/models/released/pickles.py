"""The pickle of a checkpoint: tensors are described and storages named, as :mod:`attnorm.inert_pickle` reads it."""

from typing import IO, Any

from attnorm import inert_pickle
from attnorm.inert_pickle import Opaque
from attnorm.models.released.described import CALLS, Storage, storage_of


def load(file: IO[bytes]) -> tuple[Any, dict[str, Storage]]:
    """Read one pickle from where the file stands to its end marker, see :func:`attnorm.inert_pickle.load`.

    Returns:
        The object, of plain values and what `described` holds; and all storages that it names, by key.

    Raises:
        UnreadableError: For anything but a whole pickle of a reasonable size.
    """
    storages: dict[str, Storage] = {}

    def refer(identifier: Any) -> Any:
        """Torch's pickles mean storages by persistent ids, and formerly the source code of modules."""
        if not isinstance(identifier, tuple) or len(identifier) < 5 or identifier[0] not in ("storage", b"storage"):
            return Opaque("a persistent id")
        whole, part = storage_of(identifier)
        storages.setdefault(whole.key, whole)
        return part

    return inert_pickle.load(file, CALLS, refer), storages
