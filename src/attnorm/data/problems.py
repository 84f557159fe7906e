"""What is wrong with a file, gathered so that all of it is said at once."""

from __future__ import annotations

from collections import defaultdict

from attnorm.data.config import shortened


class Problems:
    """Kinds of problems, each with where it was found."""

    def __init__(self) -> None:
        self.found: defaultdict[str, list[str]] = defaultdict(list)

    def add(self, kind: str, where: str) -> None:
        """Note a problem; `kind` in the plural, such as "boxes without area"."""
        self.found[kind].append(where)

    def __bool__(self) -> bool:
        return bool(self.found)

    def __str__(self) -> str:
        return "; ".join(f"{len(where)} {kind} ({shortened(where)})" for kind, where in self.found.items())
