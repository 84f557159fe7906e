"""The resume states of a run, resume-NNNNNNNN.ckpt: the number is that of the batches that are done.

Each is written whole under another name before it gets its own, and the last few are kept: whenever a run is killed,
one that can be gone on from is there. The newest that is whole is the one; a damaged one is named and passed over.
"""

import io
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnorm import inert_pickle
from attnorm.errors import CheckpointError, shown
from attnorm.inert_pickle import UnreadableError

if TYPE_CHECKING:
    import lightning.pytorch as pl

# Entries that a resume state has beside Lightning's own.
CONFIG_KEY = "attnorm_config"
PROCESSES_KEY = "attnorm_processes"
BATCHES_KEY = "attnorm_batches"


# What reading a damaged file has been seen to raise, beside the errors that say so.
_DAMAGED = (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, EOFError, AssertionError)


@dataclass(frozen=True)
class ResumeState:
    """What decides whether a run may go on from a file.

    Attributes:
        path: the file.
        batches: batches of the whole run that are done.
        config: the run as it was recorded.
        processes: how many trained.
    """

    path: Path
    batches: int
    config: dict[str, Any]
    processes: int


def states(folder: Path) -> list[Path]:
    """The resume states in a folder, newest first; they may be damaged."""
    return sorted((path for path in folder.glob("resume-*.ckpt") if path.is_file()), key=_batches, reverse=True)


def _batches(path: Path) -> int:
    number = path.stem.removeprefix("resume-")
    return int(number) if number.isdecimal() else -1


def save_state(trainer: "pl.Trainer", folder: Path, batches: int, *, keep: int) -> Path:
    """Writes the state of a run and removes those before the last `keep`; every process of the run calls it.

    Args:
        trainer: runs the training; see `attnorm.training.trainer`.
        folder: the output of the run.
        batches: of the whole run that are done.
        keep: how many states to leave, at least 1.

    Raises:
        JobError: the disk has no room for it; the states before are whole.
    """
    path = folder / f"resume-{batches:08d}.ckpt"
    trainer.save_checkpoint(path)
    if trainer.is_global_zero:
        remove_old_states(folder, batches, keep=keep)
    return path


def remove_old_states(folder: Path, batches: int, *, keep: int) -> None:
    """Removes the states before the last `keep`, of which that of so many batches is the newest.

    Those of more batches stay: the run went on from before them since they are damaged, and comes to them again.
    """
    for old in [other for other in states(folder) if _batches(other) < batches][keep - 1 :]:
        old.unlink(missing_ok=True)


def newest_state(folder: Path) -> tuple[ResumeState | None, tuple[str, ...]]:
    """The newest state in a folder that is whole, and a sentence on each newer one that is not.

    Raises:
        CheckpointError: there are states, and all are damaged.
    """
    damaged: list[str] = []
    for path in states(folder):
        try:
            return read_state(path), tuple(damaged)
        except CheckpointError as error:
            damaged.append(str(error))
    if damaged:
        raise CheckpointError(f"{'; '.join(damaged)}; there is no other to go on from: remove it to start anew")
    return None, ()


def read_state(path: Path) -> ResumeState:
    """Looks through a state, byte by byte, first without loading anything of it, then as it will be loaded.

    Raises:
        CheckpointError: it is damaged, of another program, or holds what no state needs.
    """
    import torch

    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            content = _description(archive)
        state = ResumeState(path, content[BATCHES_KEY], content[CONFIG_KEY], content[PROCESSES_KEY])
        if not (type(state.batches) is type(state.processes) is int and isinstance(state.config, dict)):
            raise UnreadableError("entries of other types")
        torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError:  # with advice in it on how to load the file all the same
        raise CheckpointError(f"{path} must be the resume state of a training run, and holds other objects") from None
    except (*_DAMAGED, zipfile.BadZipFile) as error:
        reason = shown(" ".join(str(error).split()) or type(error).__name__, 200)
        raise CheckpointError(
            f"{path} must be the resume state of a training run, but it cannot be read ({reason})"
        ) from None
    return state


def _description(archive: zipfile.ZipFile) -> Any:
    """The pickle in a file of torch.save, read as data; and every checksum is looked at, which torch.load does not."""
    # What is packed could unfold to more than the disk holds; torch.save packs nothing.
    if packed := [entry.filename for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]:
        raise UnreadableError(f"{packed[0]} is compressed")
    if (broken := archive.testzip()) is not None:
        raise UnreadableError(f"wrong checksum of {broken}")
    name = next(entry.filename for entry in archive.infolist() if entry.filename.endswith("/data.pkl"))
    calls = {"collections.OrderedDict": lambda *_: {}}
    return inert_pickle.load(io.BytesIO(archive.read(name)), calls, leaves_out=False)
