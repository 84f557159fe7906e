"""A hub in memory, which the hub's own library speaks to: its HTTP requests are answered here and leave no machine."""

import hashlib
import importlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import errors

# The library that huggingface_hub speaks HTTP with: httpx or httpx2.
http = importlib.import_module(errors.HTTPError.__module__.partition(".")[0])
_ADDRESS = re.compile(r"/(?P<repository>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")


@dataclass
class Hub:
    """Repositories with commits.

    Attributes:
        commits: The files, by repository and commit.
        branches: The commit of each branch, by repository and branch.
        requests: What files were asked for, as "METHOD path".
        claimed: Sizes that the hub says in place of the true ones, by file.
        is_down: Whether it cannot be reached.
    """

    commits: dict[tuple[str, str], dict[str, bytes]] = field(default_factory=dict)
    branches: dict[tuple[str, str], str] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    claimed: dict[str, int] = field(default_factory=dict)
    is_down: bool = False

    def put(self, repository: str, folder: Path, branch: str = "main") -> str:
        """A folder as a new commit of a branch."""
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        commit = hashlib.sha1(b"".join(files.values()) + branch.encode()).hexdigest()
        self.commits[repository, commit] = files
        self.branches[repository, branch] = commit
        return commit

    def answer(self, request: Any) -> Any:
        """The hub's response."""
        if self.is_down:
            raise http.ConnectError("no route to the hub", request=request)
        asked = _ADDRESS.fullmatch(request.url.path)
        if asked is None:  # what the library asks for its own sake
            return http.Response(404, request=request)
        self.requests.append(f"{request.method} {request.url.path}")
        repository, revision, file = asked["repository"], asked["revision"], asked["file"]
        if repository not in {name for name, _ in self.commits}:
            return http.Response(404, headers={"X-Error-Code": "RepoNotFound"}, request=request)
        commit = self.branches.get((repository, revision), revision)
        files = self.commits.get((repository, commit))
        if files is None:
            return http.Response(404, headers={"X-Error-Code": "RevisionNotFound"}, request=request)
        head = {"X-Repo-Commit": commit}
        if file not in files:
            return http.Response(404, headers={**head, "X-Error-Code": "EntryNotFound"}, request=request)
        content = files[file]
        head["ETag"] = f'"{hashlib.sha1(content).hexdigest()}"'
        if request.method == "HEAD":
            size = self.claimed.get(file, len(content))
            return http.Response(200, headers={**head, "Content-Length": str(size)}, request=request)
        return http.Response(200, headers=head, content=content, request=request)
