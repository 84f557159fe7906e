"""Weights in timm's layout: a folder, on this disk or on the Hugging Face hub, of config.json and model.safetensors.

    local-dir:FOLDER        hf-hub:USER/NAME[@REVISION]

These names of timm's are checkpoints wherever a file's path is, and so is the path of such a folder by itself. What
others wrote is not trusted: two files are read, by these names alone and of bounded size, and never a pickle.
"""

import re
from functools import cache
from pathlib import Path

from attnorm.errors import CheckpointError, ConfigError, JobError, shown
from attnorm.extras import naming_extras
from attnorm.models import shipped

CONFIG, WEIGHTS = "config.json", "model.safetensors"
LOCAL, REMOTE = "local-dir:", "hf-hub:"
LIMITS = {CONFIG: 8_000_000, WEIGHTS: 20_000_000_000}  # bytes; 22 thousand classes with descriptions have 2 MB
_PART = r"\w(?:[\w.-]{0,94}\w)?"  # as the hub allows
_NAME = re.compile(rf"{_PART}(?:/{_PART})?", re.ASCII)
_REVISION = re.compile(r"\w[\w./-]{0,254}", re.ASCII)
_PICKLES = (".bin", ".pth", ".pt", ".ckpt", ".tar", ".pkl")


def is_place(path: str | Path) -> bool:
    """Whether a name or path is that of a place in timm's layout."""
    return str(path).startswith((LOCAL, REMOTE)) or (Path(path) / CONFIG).is_file()


def resolve(path: str | Path) -> Path:
    """The file of weights that a checkpoint's path stands for: in timm's layout, shipped, or the path as it is.

    Raises:
        ConfigError: It is no name that the hub can have.
        CheckpointError: There are no such two files in the folder, or they are too large.
        JobError: The hub does not give them.
    """
    text = str(path)
    if text.startswith(REMOTE):
        return fetch(text.removeprefix(REMOTE))
    if text.startswith(LOCAL) or Path(path).is_dir():
        return _weights_in(Path(text.removeprefix(LOCAL)))
    return shipped.resolve(path)


def config_beside(weights: Path) -> Path | None:
    """The config.json that belongs to a file of weights; None where the file is not in timm's layout."""
    path = weights.parent / CONFIG
    return path if weights.name == WEIGHTS and path.is_file() else None


def check_name(name: str) -> None:
    """Refuse what cannot be the name of a repository on the hub.

    Raises:
        ConfigError: It cannot.
    """
    if not _NAME.fullmatch(name) or ".." in name or "--" in name:
        raise ConfigError(f"a name on the hub must be USER/NAME, of letters, digits, '-', '_' and '.'; got {name!r}")


def check_revision(revision: str) -> None:
    """Refuse what cannot be a branch, tag or commit.

    Raises:
        ConfigError: It cannot.
    """
    if not _REVISION.fullmatch(revision) or ".." in revision:
        raise ConfigError(f"a revision must be a branch, a tag or a commit; got {revision!r}")


@cache  # one process reads one state of a repository, however often it looks
def fetch(name: str) -> Path:
    """Fetch a network from the hub into its cache, from where it is read without a network later.

    Args:
        name: USER/NAME, or USER/NAME@REVISION with a branch, a tag or a commit.

    Returns:
        The file of weights; config.json, of the same commit, lies beside it.

    Raises:
        ConfigError: That cannot be a name.
        CheckpointError: A file is too large or missing.
        JobError: The hub cannot be reached, or gives nothing by that name.
    """
    repository, at, pinned = name.partition("@")
    revision = pinned if at else None
    check_name(repository)
    if revision is not None:
        check_revision(revision)
    with naming_extras("hf-hub:"):
        from huggingface_hub import hf_hub_download

        # That of httpx or httpx2, whichever the hub's library has.
        from huggingface_hub.errors import (
            HTTPError,  # pyright: ignore[reportPrivateImportUsage]
            LocalEntryNotFoundError,
            RemoteEntryNotFoundError,
        )

    path = ""
    for file, limit in LIMITS.items():
        try:
            found = hf_hub_download(repository, file, revision=revision, dry_run=True)
            if found.file_size is None or found.file_size > limit:
                raise CheckpointError(f"{file} of hf-hub:{name} must have at most {limit:,} bytes; {found.file_size}")
            revision = found.commit_hash  # the second file is of the same state as the first
            path = hf_hub_download(repository, file, revision=revision)
        except RemoteEntryNotFoundError:
            raise CheckpointError(
                f"hf-hub:{name} must have {CONFIG} and {WEIGHTS}, as timm writes them, and has no {file}; "
                "other files, such as pytorch_model.bin, are not read"
            ) from None
        except LocalEntryNotFoundError:
            raise JobError(
                f"hf-hub:{name} must be on the hub or in its cache; the hub cannot be reached, and {file} is not in "
                "the cache: connect, or give a folder"
            ) from None
        except (HTTPError, OSError) as error:
            reason = shown(" ".join(str(error).split()), 200)
            raise JobError(f"hf-hub:{name} must be on the hub and open to you; it says: {reason}") from None
    return Path(path)


def _weights_in(folder: Path) -> Path:
    if not folder.is_dir():
        raise CheckpointError(f"{LOCAL} must be followed by a folder, and there is none {folder}")
    for name, limit in LIMITS.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{folder} must hold {CONFIG} and {WEIGHTS}, and has no {name}{_instead(folder)}")
        if not _is_inside(path):
            raise CheckpointError(f"{path} must be a file of that folder, and is a link out of it")
        if path.stat().st_size > limit:
            raise CheckpointError(f"{path} must have at most {limit:,} bytes, and has {path.stat().st_size:,}")
    return folder / WEIGHTS


def _is_inside(path: Path) -> bool:
    """Whether a file is where it seems to be; the hub's cache links from a snapshot to blobs beside all snapshots."""
    target, folder = path.resolve(), path.parent.resolve()
    blobs = folder.parent.parent / "blobs"
    return target.is_relative_to(folder) or (folder.parent.name == "snapshots" and target.parent == blobs)


def _instead(folder: Path) -> str:
    """What a folder holds that may be meant."""
    names = sorted(path.name for path in folder.iterdir())
    checkpoints = [name for name in names if name.endswith(".safetensors") and name != WEIGHTS]
    pickles = [name for name in names if name.endswith(_PICKLES)]
    if "best.safetensors" in checkpoints:
        return f"; it is a run: give its file, {folder / 'best.safetensors'}"
    if checkpoints:
        return f"; there is {shown(checkpoints[0])}, which may be a checkpoint by itself"
    if pickles:
        return f"; {shown(pickles[0])} is a pickle, which is not read: save the weights as safetensors"
    return ""
