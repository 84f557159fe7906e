"""What is wrong with a file, gathered so that all of it is said at once."""

from __future__ import annotations

from collections import defaultdict

from attnorm.data.config import shortened

NAMED = 10  # places of each kind that are said; the others are counted, a file can have millions


class Problems:
    """Kinds of problems, each with where it was found."""

    def __init__(self) -> None:
        self._counts: defaultdict[str, int] = defaultdict(int)
        self._first: defaultdict[str, list[str]] = defaultdict(list)

    def add(self, kind: str, where: str) -> None:
        """Note a problem; `kind` in the plural, such as "boxes without area"."""
        self._counts[kind] += 1
        if self._counts[kind] <= NAMED:
            self._first[kind].append(where)

    def __bool__(self) -> bool:
        return bool(self._counts)

    def __str__(self) -> str:
        return "; ".join(
            f"{count} {kind} ({shortened(self._first[kind], NAMED, count)})" for kind, count in self._counts.items()
        )
