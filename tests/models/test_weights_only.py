"""Pretrained weights in a library's cache may be anybody's: what they ask for is not run."""

import contextlib
import os

import pytest
import timm
import torch
from torchvision.models import get_model, get_model_weights

from attnorm.errors import JobError
from attnorm.models.transfer import pretrained_network

# Python's unpickler sets an object's state from a pair; torch's restricted one fails at it with a TypeError, upon which
# timm takes Python's.
UNRESTRICTING = b"ccollections\nOrderedDict\n)R(N}tb0"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """torch.hub's folder, with a file of the name given whose pickle leaves the file "ran" beside it."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", raising=False)

    def poison(name, start=b""):
        (tmp_path / "checkpoints").mkdir()
        # The form before torch 1.6: the magic number and the version, each a pickle, then the content.
        numbers = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}."
        payload = b"\x80\x02" + start + b"cposix\nsystem\nX\x09\x00\x00\x00touch ran\x85R."
        (tmp_path / "checkpoints" / name).write_bytes(numbers + payload + b"\x80\x02].")
        return tmp_path / "ran"

    return poison


def torchvision_file():
    return os.path.basename(get_model_weights("resnet18").DEFAULT.url)


OVERLAY = {"hf_hub_id": None, "url": "https://localhost/poison.pth"}


def test_torchvision(cache):
    ran = cache(torchvision_file())
    with pytest.raises(JobError):
        pretrained_network("torchvision:resnet18")
    assert not ran.exists()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def test_timm(cache):
    ran = cache("poison.pth", UNRESTRICTING)
    with pytest.raises(JobError):
        pretrained_network("resnet18", pretrained_cfg_overlay=OVERLAY)
    assert not ran.exists()


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_the_attacks_are_live(cache, library):
    """By themselves both libraries run it: the tests above would see it."""
    ran = cache(torchvision_file() if library == "torchvision" else "poison.pth", UNRESTRICTING)
    build = {
        "torchvision": lambda: get_model("resnet18", weights="DEFAULT"),
        "timm": lambda: timm.create_model("resnet18", pretrained=True, pretrained_cfg_overlay=OVERLAY),
    }
    with contextlib.suppress(Exception):  # whatever comes of a state dict that is a number
        build[library]()
    assert ran.exists()
