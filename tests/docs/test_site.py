"""The site: links that leave docs/ lead to pages of it, lost ones stop the build, the references are whole."""

import importlib.util
import re
import threading
from collections.abc import Iterator
from dataclasses import fields
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import attnorm
from attnorm import data, detection, models, training
from attnorm.cli import COMMANDS
from attnorm.training.use_config import EvalConfig, PredictConfig
from tests.docs.blocks import ROOT

pytest.importorskip("mkdocs", reason="the site needs `make docs`")
griffe = pytest.importorskip("griffe")

from mkdocs.commands.build import build  # noqa: E402
from mkdocs.config import load_config  # noqa: E402
from mkdocs.exceptions import Abort  # noqa: E402
from mkdocs.utils.yaml import yaml_load  # noqa: E402

API = "\n".join(path.read_text("utf-8") for path in sorted((ROOT / "docs" / "api").glob("*.md")))
SHOWN = re.compile(r"^::: (attnorm[\w.]*)\n((?: {4}.*\n| *\n)*)", re.MULTILINE)


def hook(name: str) -> ModuleType:
    """A module of docs/site, which mkdocs loads by its path too."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / "site" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build_site(folder: Path, page: str) -> Path:
    """Build a site of one page with the rules for links that mkdocs.yml has; where it is then."""
    (folder / "docs").mkdir()
    (folder / "docs" / "index.md").write_text(page)
    (folder / "mkdocs.yml").write_text("site_name: one page")
    ours = yaml_load((ROOT / "mkdocs.yml").read_text("utf-8"))
    rules = {name: ours[name] for name in ("strict", "validation", "markdown_extensions", "not_in_nav")}
    config = load_config(
        str(folder / "mkdocs.yml"),
        **rules,
        hooks=[str(ROOT / "docs" / "site" / "repository_links.py")],
        nav=["index.md", "changelog.md", "contributing.md"],
        plugins=[],
        theme="mkdocs",
        use_directory_urls=False,
    )
    build(config)
    return folder / "site"


def test_links_to_the_repository_are_pages_of_the_site(tmp_path: Path):
    """A file is shown as it is, a folder has a list, figures are copied, the changelog is a page."""
    recipe, figures = "configs/quickstart/digits.yaml", "benchmarks/results/transfer_cifar10.json"
    links = ("CHANGELOG.md", recipe, "configs/slurm", figures, "README.md")
    site = build_site(tmp_path, "\n".join(f"[x](../{link})\n" for link in links))
    page = (site / "index.html").read_text()
    for place in ("changelog.html", f"source/{recipe}.html", "source/configs/slurm.html", f"source/{figures}"):
        assert f'href="{place}"' in page
        assert (site / place).is_file()
    assert (site / "source" / figures).read_bytes() == (ROOT / figures).read_bytes()
    shown = re.sub(r"<[^>]+>", "", (site / f"source/{recipe}.html").read_text())
    assert all(line.split("#")[0] in shown for line in (ROOT / recipe).read_text().splitlines())
    assert 'href="slurm/train.sbatch.html"' in (site / "source/configs/slurm.html").read_text()


@pytest.mark.parametrize("link", ["../no_such_file.py", "no_such_page.md", "../CHANGELOG.md#no-such-part"])
def test_a_lost_link_stops_the_build(tmp_path: Path, link: str, caplog: pytest.LogCaptureFixture):
    with pytest.raises(Abort, match="1 warnings in strict mode"):
        build_site(tmp_path, f"[x]({link})\n")
    assert link.removeprefix("../CHANGELOG.md") in caplog.text


@pytest.mark.parametrize(("command", "settings"), [("eval", EvalConfig), ("predict", PredictConfig)])
def test_the_reference_of_a_command_has_its_flags(command: str, settings: type[Any]):
    """All fields of its settings and nothing else, each with words on it."""
    entries = re.findall(r"^- `--([\w-]+)[^`]*`  \n    (.*)", hook("command_reference").section(command), re.MULTILINE)
    assert [name.replace("-", "_") for name, _ in entries] == [item.name for item in fields(settings)]
    assert all(len(words.split()) > 3 for _, words in entries)


def test_the_reference_has_every_command():
    page = hook("command_reference").on_page_markdown(
        (ROOT / "docs" / "commands.md").read_text("utf-8"), None, None, None
    )
    assert re.findall(r"^## attnorm (\w+)$", page, re.MULTILINE) == list(COMMANDS)


def test_addresses_are_asked_for(tmp_path: Path):
    """By a server here: a page that comes, one that does not, one that nobody serves."""
    (tmp_path / "page.html").write_text("here")
    serve = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("localhost", 0), serve) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://localhost:{server.server_port}"
        failure = hook("external_links").failure
        assert failure(f"{address}/page.html") is None
        assert "404" in failure(f"{address}/lost.html")
        server.shutdown()
    assert "refused" in failure(f"{address}/page.html")


def test_every_public_name_has_its_entry():
    found = {path.rpartition(".")[2] for path, _ in SHOWN.findall(API)} | set(re.findall(r"\b\w+\b", API))
    for module in (attnorm, models, detection, data, training):
        assert set(module.__all__) <= found, module.__name__


def shown_objects() -> Iterator[Any]:
    """Every function and class that the reference shows by its own name."""
    package = griffe.load("attnorm", search_paths=[str(ROOT / "src")], docstring_parser="google", resolve_aliases=True)
    for path, options in SHOWN.findall(API):
        entry = package[path.removeprefix("attnorm.")]
        entry = entry.final_target if entry.is_alias else entry
        members = re.search(r"members: \[([^\]]*)\]", options)
        yield from (entry[name] for name in re.findall(r"\w+", members[1] if members else ""))
        if not entry.is_module:
            yield entry


def test_entries_say_what_is_taken_and_what_is_raised():
    """Arguments are named in the docstring, and so is each error that the function itself raises."""
    checked = 0
    for entry in shown_objects():
        if entry.is_attribute:
            continue
        assert entry.docstring is not None, entry.path
        text = entry.docstring.value
        if entry.is_function:
            unnamed = [p.name for p in entry.parameters if p.name != "self" and not re.search(rf"\b{p.name}\b", text)]
            assert unnamed == [], entry.path
            raised = set(re.findall(r"\braise (\w+Error)\(", entry.source)) - {"NotImplementedError"}
            assert all(error in text for error in raised), entry.path
            checked += 1
    assert checked > 40
