"""Asks for every address outside the site that the README and the pages of docs/ link to, and names those that fail.

To be run by hand, `make docs-links`: it needs a network, and whether others' servers answer is no test of this project.
"""

import re
import sys
import urllib.error
import urllib.request
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"\]\((https?://[^)\s]+)\)")
TIMEOUT_S = 20


def links() -> dict[str, list[str]]:
    """The addresses, and the pages that link to each."""
    found: dict[str, list[str]] = defaultdict(list)
    for page in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")):
        for address in LINK.findall(page.read_text("utf-8")):
            found[address].append(str(page.relative_to(ROOT)))
    return found


def failure(address: str) -> str | None:
    """What an address answers instead of its page; None if the page comes."""
    request = urllib.request.Request(address, headers={"User-Agent": "attnorm docs"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S):
            return None
    except (urllib.error.URLError, OSError) as error:
        return str(error)


def main() -> int:
    """Prints a line for each address that fails; 1 if there is one."""
    found = links()
    with ThreadPoolExecutor(8) as pool:
        answers = dict(zip(found, pool.map(failure, found), strict=True))
    lost = {address: said for address, said in answers.items() if said is not None}
    for address, said in lost.items():
        print(f"{address}: {said}; linked from {', '.join(sorted(set(found[address])))}")
    print(f"{len(found) - len(lost)} of {len(found)} addresses answer")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
