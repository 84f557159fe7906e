"""Links from a page to files of the repository work on a code-hosting page and on the site alike.

A page links by relative paths, such as ../configs/quickstart/coco.yaml. On the site those files are pages too: what is
linked is shown there, under `source/`, so that the site is whole without a network and wherever the code lies. The
README's place has the start page, CHANGELOG.md and CONTRIBUTING.md have pages of their own, and figures' data (.json)
are files to be downloaded.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
ROOT_PAGES = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
LINK = re.compile(r"\]\((?!https?:|mailto:|#|<)([^)\s#]+)((?:#[^)\s]*)?)\)")
DATA = ".json"
LANGUAGES = {".py": "python", ".yaml": "yaml", ".sbatch": "bash", ".cff": "yaml"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each file of the repository that a page links to."""
    for name, page in ROOT_PAGES.items():
        if page != "index.md":
            files.append(File.generated(config, page, content=(ROOT / name).read_text("utf-8")))
    shown: set[str] = set()
    waiting = [(repository_path(file), file.content_string) for file in files.documentation_pages()]
    while waiting:
        for target in linked_files(*waiting.pop()) - shown:
            shown.add(target)
            if target.endswith(DATA):
                files.append(File.generated(config, site_path(target), abs_src_path=str(ROOT / target)))
                continue
            content = source_page(target)
            files.append(File.generated(config, site_path(target), content=content))
            if (ROOT / target).is_dir():  # its page links to what is in it
                waiting.append((target, content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point the page's links at the places that the linked files have on the site."""
    place = repository_path(page.file)

    def moved(match: re.Match[str]) -> str:
        target = in_repository(place, match[1])
        if not (ROOT / target).exists():
            return match[0]  # mkdocs refuses it, with the name of the page
        return f"]({posixpath.relpath(site_path(target), posixpath.dirname(page.file.src_uri) or '.')}{match[2]})"

    return LINK.sub(moved, markdown)


def repository_path(file: File) -> str:
    """Where a page of the site lies in the repository."""
    for name, page in ROOT_PAGES.items():
        if file.src_uri == page and page != "index.md":
            return name
    if file.src_uri.startswith("source/"):
        return file.src_uri.removeprefix("source/").removesuffix(".md")
    return f"docs/{file.src_uri}"


def site_path(path: str) -> str:
    """Where a file of the repository lies on the site."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if path.endswith(DATA):
        return f"source/{path}"
    return ROOT_PAGES.get(path, f"source/{path}.md")


def in_repository(place: str, link: str) -> str:
    """The path in the repository that a link on the page at `place` leads to."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(place), link))


def linked_files(place: str, text: str) -> set[str]:
    """The files and folders of the repository, outside docs/, that a page links to."""
    targets = {in_repository(place, match[1]) for match in LINK.finditer(text)}
    outside = {target for target in targets if not target.startswith(("docs/", "../")) and target not in ROOT_PAGES}
    return {target for target in outside if (ROOT / target).exists()}


def source_page(path: str) -> str:
    """A page that shows a file as it is, or the names in a folder."""
    file = ROOT / path
    heading = f"---\ntitle: {path}\nsearch:\n  exclude: true\n---\n\n# {file.name}\n\n`{path}` in the repository.\n\n"
    if file.is_dir():
        return heading + "".join(f"- [{name}]({file.name}/{name})\n" for name in sorted(p.name for p in file.iterdir()))
    language = LANGUAGES.get(file.suffix, "text")
    return f"{heading}````{language}\n{file.read_text('utf-8')}\n````\n"
