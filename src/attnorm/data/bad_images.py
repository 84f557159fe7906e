"""The images of a data set that turned out to be unreadable: named, counted, and not more than allowed."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch

from attnorm.data.config import shortened
from attnorm.errors import DataError, shown

log = logging.getLogger("attnorm.data")

_NAMED = 20  # so many files are named in a message
LONGEST = 200  # characters of a file name in a message


class UnreadableImagesError(DataError):
    """More images are unreadable than `max_bad_images` allows."""

    def __init__(self, message: str) -> None:
        # A loader's worker process sends an exception back as a traceback's text, from which it is made again:
        # keep the last line only, which is the message.
        kind = f"{type(self).__module__}.{type(self).__name__}: "
        super().__init__(message.strip().rsplit("\n", 1)[-1].removeprefix(kind))


class BadImages:
    """The images found unreadable so far, by this process and its workers together.

    Args:
        files: a name per image; may be slow to give one.
        limit: so many may be unreadable (max_bad_images).
        title: the part's name in messages.
    """

    def __init__(self, files: Sequence[str], limit: int, title: str) -> None:
        self.files, self.limit, self.title = files, limit, title
        # Shared with the workers, so that the limit holds for all of them together.
        self._bad = torch.zeros(len(files), dtype=torch.bool).share_memory_()

    def __contains__(self, index: int) -> bool:
        return bool(self._bad[index])

    def add(self, index: int, error: Exception) -> None:
        """Name an image in a warning.

        Raises:
            UnreadableImagesError: it is one too many.
        """
        self._bad[index] = True
        log.warning("skipped %s: %s", shown(self.files[index], LONGEST), error)
        if int(self._bad.sum()) > self.limit:
            bad = [shown(name, LONGEST) for name in self.names()]
            raise UnreadableImagesError(
                f"{self.title}: at most {self.limit} images may be unreadable (max_bad_images); "
                f"found {len(bad)}: {shortened(bad, _NAMED)}; mend or remove them, or raise max_bad_images"
            )

    def names(self) -> list[str]:
        """The names of the images."""
        # Of a copy: nonzero counts first and lists then, and fails where a worker adds an image in between.
        return [self.files[int(i)] for i in self._bad.clone().nonzero()]
