"""What goes to the hub: three files, to a private place, and nothing before somebody has said yes."""

import json
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest

import attnorm
from attnorm.cli import main
from attnorm.models import create_model
from attnorm.training.checkpoint import load_checkpoint, save_checkpoint
from tests.hub.hub_server import http
from tests.training.test_checkpoint import META


class Api:
    """Stands in for `huggingface_hub.HfApi`."""

    calls: list[tuple]
    is_private: bool
    error: Exception | None

    def __init__(self, token=None, library_name=None):
        self.calls.append(("login", token))

    def create_repo(self, name, *, private, exist_ok):
        if self.error is not None:
            raise self.error
        self.calls.append(("create", name, private, exist_ok))
        return f"https://hub.test/{name}"

    def model_info(self, name):
        return SimpleNamespace(private=self.is_private)

    def upload_folder(self, *, repo_id, folder_path, allow_patterns, revision, commit_message, create_pr):
        files = {name: (Path(folder_path) / name).read_bytes() for name in allow_patterns}
        self.calls.append(("upload", repo_id, files, revision, create_pr))


@pytest.fixture
def api(monkeypatch):
    monkeypatch.setattr(Api, "calls", [], raising=False)
    monkeypatch.setattr(Api, "is_private", True, raising=False)
    monkeypatch.setattr(Api, "error", None, raising=False)
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    return Api


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "net.safetensors"
    save_checkpoint(path, create_model(META.model, num_classes=3, in_chans=1), META)
    return path


def hub(*arguments):
    return main(["hub", *map(str, arguments)])


def push(checkpoint, folder):
    return hub("--checkpoint", checkpoint, "--output", folder, "--licence", "mit", "--push", "me/net", "--yes")


def test_it_is_shown_and_then_sent(checkpoint, tmp_path, api, capsys):
    folder = tmp_path / "net"
    assert hub("--checkpoint", checkpoint, "--output", folder, "--licence", "mit", "--push", "me/net") == 0
    said = capsys.readouterr().out
    assert api.calls == []
    assert "me/net on the hub, private" in said
    assert "nothing was uploaded" in said
    for name in ("README.md", "config.json", "model.safetensors"):
        assert f"{(folder / name).stat().st_size:,} bytes" in next(
            line for line in said.splitlines() if name in line and "bytes" in line
        )
    (folder / "secret.txt").write_text("x")
    (folder / "README.md").write_text("mine")
    assert hub("--output", folder, "--push", "me/net", "--yes") == 0
    login, create, (what, name, files, revision, create_pr) = api.calls
    assert login == ("login", None)
    assert create == ("create", "me/net", True, True)
    assert (what, name, revision, create_pr) == ("upload", "me/net", None, False)
    assert files.keys() == {"README.md", "config.json", "model.safetensors"}
    assert files["README.md"] == b"mine"
    assert "https://hub.test/me/net" in capsys.readouterr().out


def test_public_and_branch(checkpoint, tmp_path, api):
    folder = tmp_path / "net"
    api.is_private = False
    options = ("--push", "me/net", "--public", "--revision", "v2", "--yes")
    assert hub("--checkpoint", checkpoint, "--output", folder, "--licence", "mit", *options) == 0
    assert api.calls[1] == ("create", "me/net", False, True)
    assert api.calls[2][3] == "v2"


def test_nothing_goes_where_everyone_would_see_it(checkpoint, tmp_path, api, capsys):
    api.is_private = False
    assert push(checkpoint, tmp_path / "net") == 1
    assert "open to everyone: nothing was uploaded" in capsys.readouterr().err
    assert [call[0] for call in api.calls] == ["login", "create"]


def test_what_the_hub_says_is_one_line(checkpoint, tmp_path, api, capsys):
    api.error = http.ConnectError("no\nroute\x1b[2J")
    assert push(checkpoint, tmp_path / "net") == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.strip().isprintable()
    assert "hf auth login" in said


def test_from_python(checkpoint, tmp_path, api):
    """A checkpoint, with what the card needs; or a folder as it is. What is sent loads and names its place."""
    assert attnorm.push_to_hf_hub(checkpoint, "me/net", licence="mit", token="t") == "https://hub.test/me/net"
    assert api.calls[0] == ("login", "t")
    files = api.calls[-1][2]
    assert b'"hf-hub:me/net"' in files["README.md"]
    (tmp_path / "got").mkdir()
    for name, content in files.items():
        (tmp_path / "got" / name).write_bytes(content)
    assert load_checkpoint(tmp_path / "got")[1] == META
    (tmp_path / "got" / "README.md").write_text("mine")
    attnorm.push_to_hf_hub(tmp_path / "got", "me/other", create_pr=True)
    assert api.calls[-1][1:] == ("me/other", files | {"README.md": b"mine"}, None, True)


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        ("--output {new}", 2, "checkpoint must name what to write"),
        ("--checkpoint {net} --output {new}", 2, "licence must say"),
        ("--checkpoint {net} --output {new} --licence MIT!", 2, "identifier of the hub's"),
        ("--checkpoint {net} --output {new} --licence mit --yes", 2, "yes belongs to push"),
        ("--checkpoint {net} --output {new} --licence mit --push me/../net", 2, "USER/NAME"),
        ("--checkpoint {net} --output {new} --licence mit --record {new}", 2, "there is no file"),
        ("--output {new} --push me/net --licence mit", 2, "licence belongs to a checkpoint"),
        ("--output {new} --push me/net", 1, "there is none"),
        ("--output {bare} --push me/net", 1, "must have a model card"),
        ("--checkpoint {missing} --output {new} --licence mit", 1, "there is no file"),
    ],
)
def test_what_cannot_be_meant(arguments, code, part, checkpoint, tmp_path, api, capsys):
    bare = attnorm.save_pretrained(checkpoint, tmp_path / "bare", licence="mit")
    (bare / "README.md").unlink()
    places = {"net": checkpoint, "new": tmp_path / "new", "bare": bare, "missing": tmp_path / "no.safetensors"}
    assert hub(*arguments.format(**places).split()) == code
    said = capsys.readouterr().err
    assert part in said
    assert said.count("\n") == 1
    assert not (tmp_path / "new").exists()
    assert api.calls == []


def test_a_card_that_is_a_link_is_not_sent(checkpoint, tmp_path, api):
    folder = attnorm.save_pretrained(checkpoint, tmp_path / "net", licence="mit")
    (folder / "README.md").rename(tmp_path / "elsewhere")
    (folder / "README.md").symlink_to(tmp_path / "elsewhere")
    assert hub("--output", folder, "--push", "me/net", "--yes") == 1
    assert api.calls == []


def test_config_and_weights_agree(checkpoint, tmp_path):
    folder = attnorm.save_pretrained(checkpoint, tmp_path / "net", licence="mit")
    config = json.loads((folder / "config.json").read_text())
    assert config["pretrained_cfg"]["license"] == "mit"
    assert config["pretrained_cfg"]["mean"] == list(META.mean)
    assert config["attnorm"]["classes"] == list(META.classes)
