"""A folder in timm's layout goes to the Hugging Face hub: its three files and nothing else."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from attnorm.errors import CheckpointError, ConfigError, JobError, shown
from attnorm.extras import naming_extras
from attnorm.hub.folder import CARD, FILES, save_pretrained
from attnorm.models.hub import LOCAL, check_name, check_revision, resolve
from attnorm.training.checkpoint import load_checkpoint


@dataclass(frozen=True, kw_only=True)
class Upload:
    """What goes where.

    Attributes:
        folder: That holds the files.
        sizes: Of the files, in bytes, by name.
        name: USER/NAME.
        private: Whether a repository that is new is closed to others.
        revision: Branch; None for the main one.
    """

    folder: Path
    sizes: dict[str, int]
    name: str
    private: bool
    revision: str | None

    def lines(self) -> list[str]:
        """For a person who is to agree."""
        to = f"{self.name} on the hub" + (f", branch {self.revision}" if self.revision else "")
        files = [f"  {name:<18} {size:>15,} bytes" for name, size in self.sizes.items()]
        return [f"from {self.folder} to {to}, {'private' if self.private else 'open to everyone'}:", *files]


def plan_upload(folder: str | Path, name: str, *, private: bool = True, revision: str | None = None) -> Upload:
    """Look at what would be uploaded; nothing is sent.

    Raises:
        ConfigError: The name or the revision cannot be one.
        CheckpointError: The folder is not a whole network with its card.
    """
    check_name(name)
    if revision is not None:
        check_revision(revision)
    folder = Path(folder)
    resolve(f"{LOCAL}{folder}")
    if not (folder / CARD).is_file() or (folder / CARD).is_symlink():
        raise CheckpointError(f"{folder} must have a model card, {CARD}; `attnorm hub --checkpoint` writes it")
    load_checkpoint(folder)  # what cannot be read here, nobody can read there
    sizes = {file: (folder / file).stat().st_size for file in FILES}
    return Upload(folder=folder, sizes=sizes, name=name, private=private, revision=revision)


def upload(plan: Upload, *, token: str | None = None, message: str | None = None, create_pr: bool = False) -> str:
    """Send the files.

    Args:
        plan: What goes where.
        token: Of the hub; that of its own login when not given.
        message: Of the commit.
        create_pr: Propose the files instead of putting them there.

    Returns:
        The address of the repository.

    Raises:
        JobError: The hub refuses or cannot be reached, or everyone could see what was to be private.
    """
    with naming_extras("the hub"):
        from huggingface_hub import HfApi

        # That of httpx or httpx2, whichever the hub's library has.
        from huggingface_hub.errors import HTTPError  # pyright: ignore[reportPrivateImportUsage]

    api = HfApi(token=token, library_name="attnorm")
    try:
        address = api.create_repo(plan.name, private=plan.private, exist_ok=True)
        if plan.private and not api.model_info(plan.name).private:
            raise JobError(
                f"{plan.name} must be private, and is there already, open to everyone: nothing was uploaded; "
                "agree with --public, or name another"
            )
        api.upload_folder(
            repo_id=plan.name,
            folder_path=plan.folder,
            allow_patterns=list(FILES),
            revision=plan.revision,
            commit_message=message or "Upload network with attnorm",
            create_pr=create_pr,
        )
    except (HTTPError, OSError) as error:
        reason = shown(" ".join(str(error).split()), 200)
        raise JobError(f"the hub must take {plan.name}, and does not: {reason}; `hf auth login` logs in") from None
    return str(address)


def push_to_hf_hub(
    source: nn.Module | str | Path,
    repo_id: str,
    *,
    private: bool = True,
    revision: str | None = None,
    token: str | None = None,
    commit_message: str | None = None,
    create_pr: bool = False,
    **saving: Any,
) -> str:
    """Upload a network to the Hugging Face hub, from where "hf-hub:USER/NAME" loads it.

    Args:
        source: A folder of :func:`save_pretrained`, which is uploaded as it is; or anything that it takes.
        repo_id: USER/NAME. It is made where it is not there.
        private: Whether a new one is closed to others.
        revision: Branch; the main one when not given.
        token: Of the hub; that of its own login when not given.
        commit_message: Of the commit.
        create_pr: Propose the files instead of putting them there.
        **saving: Arguments of :func:`save_pretrained`, such as `licence`; needed but for a folder.

    Returns:
        The address of the repository.

    Raises:
        ConfigError: Something of this cannot be meant.
        CheckpointError: The network cannot be used.
        JobError: The hub refuses or cannot be reached.
    """
    sending: dict[str, Any] = {"token": token, "message": commit_message, "create_pr": create_pr}
    if not saving:
        if isinstance(source, nn.Module) or not Path(source).is_dir():
            raise ConfigError(
                "licence must be given, and meta with a network itself, unless a written folder is pushed"
            )
        return upload(plan_upload(source, repo_id, private=private, revision=revision), **sending)
    with tempfile.TemporaryDirectory() as outer:
        folder = save_pretrained(source, Path(outer) / "network", name=repo_id, **saving)
        return upload(plan_upload(folder, repo_id, private=private, revision=revision), **sending)
