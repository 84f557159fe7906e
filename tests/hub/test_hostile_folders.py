"""Folders that a stranger made, and names: one line each, no memory asked for, nothing run, no path left."""

import json
import os
import pickle

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import attnorm
from attnorm.cli import main
from attnorm.errors import CheckpointError, ConfigError, JobError
from attnorm.models.hub import LIMITS, fetch
from attnorm.training.checkpoint import load_checkpoint, save_checkpoint
from tests.training.test_checkpoint import META


@pytest.fixture
def folder(tmp_path):
    """As timm writes it, without a header of ours."""
    torch.manual_seed(0)
    model = timm.create_model("resnet8_cifar_an", num_classes=3, in_chans=1)
    timm.models.save_for_hf(model, tmp_path / "net", model_args={"in_chans": 1}, safe_serialization=True)
    changed(tmp_path / "net", cfg_mean=[0.5], cfg_std=[0.25])
    return tmp_path / "net"


def refusal(place, kind=CheckpointError):
    with pytest.raises(kind) as caught:
        load_checkpoint(place)
    message = str(caught.value)
    assert "\n" not in message
    assert message.isprintable()
    assert len(message) < 600
    return message


def changed(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    images = {key[4:]: changes.pop(key) for key in list(changes) if key.startswith("cfg_")}
    config |= changes
    config["pretrained_cfg"] |= images
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"architecture": "no_such_network"}, "no_such_network"),
        ({"architecture": "hf-hub:evil/net"}, "lies on a hub"),
        ({"architecture": "local-dir:/etc"}, "lies on a hub"),
        ({"architecture": "attnorm_network", "model_args": {"spec": "hf-hub:evil/net"}}, "lies on a hub"),
        ({"architecture": "attnorm_network", "model_args": {"spec": "attnorm_network"}}, "does not fit"),
        ({"architecture": "resnet8_cifar"}, "does not fit"),
        ({"architecture": 8}, "architecture must be str"),
        ({"architecture": "a\x1b[31mb\nc"}, r"a\x1b[31mb\nc"),
        ({"model_args": {"img_size": 512}}, "img_size"),
        ({"model_args": {"global_pool": "max"}}, "global_pool"),
        ({"model_args": {"num_classes": "3"}}, "num_classes must be int"),
        ({"model_args": {"num_classes": 10**9}}, "from 0 to 1,000,000"),
        ({"model_args": {"num_classes": 999_999}}, "none of its weights"),
        ({"model_args": {"num_classes": -1}}, "num_classes"),
        ({"model_args": {"in_chans": True}}, "in_chans must be int"),
        ({"model_args": [1]}, "model_args must be"),
        ({"pretrained_cfg": {}, "cfg_mean": [0.1, 0.2]}, "mean and std"),
        ({"cfg_std": [0.0]}, "std"),
        ({"cfg_mean": ["0.5"]}, "mean must be"),
        ({"cfg_input_size": [1, 10**9, 10**9]}, "8192"),
        ({"cfg_input_size": []}, "input_size"),
        ({"cfg_input_size": [1, 32]}, "input_size"),
        ({"cfg_crop_pct": float("nan")}, "crop_pct"),
        ({"label_names": [1, 2, 3]}, "label_names must be"),
        ({"attnorm": {"format_version": 1, "model": "resnet8_cifar_an"}}, "damaged"),
        ({"attnorm": 3}, "damaged"),
    ],
)  # fmt: skip
def test_a_config_that_cannot_be_meant(folder, changes, part):
    changed(folder, **changes)
    assert part in refusal(folder)


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"null", b"\xff", b"{", b"[" * 100_000, b'{"architecture": 1e999}', b'{"pretrained_cfg": 3}'],
)
def test_a_config_that_is_none(folder, content):
    (folder / "config.json").write_bytes(content)
    assert "config.json" in refusal(f"local-dir:{folder}")


def test_files_that_are_too_large(folder):
    with (folder / "config.json").open("ab") as file:
        file.truncate(LIMITS["config.json"] + 1)  # without its bytes on the disk
    assert "8,000,000" in refusal(folder)


def test_a_pickle_is_not_opened(folder, tmp_path):
    """Of no name, even where it is all that there is; by timm's layout it would be loaded."""
    witness = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(witness),)

    (folder / "model.safetensors").unlink()
    for name in ("pytorch_model.bin", "model.safetensors.bin"):
        (folder / name).write_bytes(pickle.dumps(Evil()))
    assert "model.safetensors.bin is a pickle, which is not read" in refusal(folder)
    (folder / "model.safetensors").write_bytes(pickle.dumps(Evil()))
    refusal(folder)
    assert not witness.exists()


def test_links_out_of_the_folder(folder, tmp_path):
    """But those of the hub's cache, whose snapshots are links."""
    secret = tmp_path / "secret.safetensors"
    (folder / "model.safetensors").rename(secret)
    (folder / "model.safetensors").symlink_to(secret)
    assert "a link out of it" in refusal(folder)
    snapshot = tmp_path / "models--me--net" / "snapshots" / "abc"
    blobs = tmp_path / "models--me--net" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "1").write_bytes(secret.read_bytes())
    (blobs / "2").write_bytes((folder / "config.json").read_bytes())
    (snapshot / "model.safetensors").symlink_to("../../blobs/1")
    (snapshot / "config.json").symlink_to("../../blobs/2")
    assert attnorm.load(snapshot).num_classes == 3


def test_what_a_folder_may_be_instead(tmp_path):
    assert "there is none" in refusal(f"local-dir:{tmp_path / 'nowhere'}")
    assert "has no config.json" in refusal(tmp_path)
    save_checkpoint(
        tmp_path / "best.safetensors", timm.create_model("resnet8_cifar_an", num_classes=3, in_chans=1), META
    )
    assert "it is a run: give its file" in refusal(tmp_path)


def test_labels_that_do_not_fit_are_not_taken(folder):
    changed(folder, label_names=["one"])
    assert load_checkpoint(folder)[1].classes == ("class 0", "class 1", "class 2")
    changed(folder, label_names={"0": "a", "2": "c"})
    assert load_checkpoint(folder)[1].classes == ("class 0", "class 1", "class 2")
    changed(folder, label_names={"1": "b", "0": "a", "2": "c"})
    assert load_checkpoint(folder)[1].classes == ("a", "b", "c")


def test_an_older_file_has_all_in_one(folder):
    config = json.loads((folder / "config.json").read_text())
    flat = {**config["pretrained_cfg"], "architecture": config["architecture"], "num_classes": 3}
    flat["input_size"] = [1, 32, 32]
    (folder / "config.json").write_text(json.dumps(flat))
    meta = load_checkpoint(folder)[1]
    assert (meta.num_classes, meta.in_chans, meta.mean) == (3, 1, (0.5,))


@pytest.mark.parametrize(
    "name",
    ["", "../etc", "a/b/c", "me/net@", "me/net@../../x", "me/../net", "me/ne t", "/net", "me/net\n", "https://x.y/z",
     "me--x/net", "me/net@a@b"],
)  # fmt: skip
def test_names_that_the_hub_cannot_have(name, hub):
    refusal(f"hf-hub:{name}", ConfigError)
    assert hub.requests == []


def test_what_the_hub_does_not_give(folder, hub):
    assert "hf-hub:me/net must be on the hub" in refusal("hf-hub:me/net", JobError)
    hub.put("me/net", folder)
    assert "hf-hub:me/net@other" in refusal("hf-hub:me/net@other", JobError)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    hub.put("me/pickled", folder)
    assert "has no model.safetensors" in refusal("hf-hub:me/pickled")
    assert [line for line in hub.requests if line.endswith("pytorch_model.bin")] == []
    hub.claimed["model.safetensors"] = LIMITS["model.safetensors"] + 1
    assert "20,000,000,000" in refusal("hf-hub:me/net")
    assert [line for line in hub.requests if line.startswith("GET") and line.endswith("safetensors")] == []
    fetch.cache_clear()
    hub.is_down = True
    assert "not in the cache" in refusal("hf-hub:me/unseen", JobError)


def test_a_hostile_header_on_the_hub(folder, hub, capsys):
    """As with files: the header in the weights is not trusted either, and what is printed of it is harmless."""
    weights = load_file(folder / "model.safetensors")
    save_file(weights, folder / "model.safetensors", metadata={"attnorm": json.dumps({"format_version": "\x1b[2J\n"})})
    hub.put("me/net", folder)
    assert main(["eval", "--checkpoint", "hf-hub:me/net", "--dataset", "digits", "--device", "cpu"]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.strip().isprintable()


def test_timms_door_leads_to_no_other_place():
    for spec in ("hf-hub:evil/net", "local-dir:/etc:norm=an", "attnorm_network", "nothing"):
        with pytest.raises(ConfigError, match="spec must start with"):
            timm.create_model("attnorm_network", spec=spec)
