"""The errors that a user can cause, and what the command line makes of them.

Every message is one line with three parts: what must hold, what came instead, what to do.
"""


def shown(text: str, length: int = 80) -> str:
    """Text from a file as it may go to a terminal or a picture: one line, no control characters, not endless."""
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= length else text[: length - 3] + "..."


class ConfigError(ValueError):
    """The arguments or the recipe are wrong or contradict each other. Exit code 2, raised before any work is done."""


class JobError(RuntimeError):
    """The job could not be done although it was asked for correctly. Exit code 1."""


class DataError(JobError):
    """Data are missing, empty or damaged."""


class CheckpointError(JobError):
    """A checkpoint is damaged, or belongs to another network."""


class PeerError(JobError):
    """Another process of the job has ended, or does not answer."""


class DivergedError(JobError):
    """The loss left the finite numbers."""


class MissingPackageError(ImportError, JobError):
    """A package is not installed that an extra of this one brings."""
