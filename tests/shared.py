"""Where files lie that tests use when they are there: reference facts and real images beside the repository."""

import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


def shared_file(path: str) -> Path:
    """A file of the shared folder: $ATTNORM_SHARED, or `shared` beside the repository. It may not exist."""
    return Path(os.environ.get("ATTNORM_SHARED", REPOSITORY.parent / "shared")) / path
