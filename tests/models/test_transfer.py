"""Weights taken over: by our names, timm's flattened ones, a detector's, and those of the authors' files."""

import pytest
import timm
import torch
from torch import nn
from torch.testing import assert_close

from attnorm.errors import CheckpointError, ConfigError, JobError
from attnorm.models import create_model, transfer
from attnorm.models.released import to_released
from attnorm.models.transfer import pretrained_weights, take_weights
from attnorm.training.checkpoint import CheckpointMeta, save_checkpoint


def network(name, seed=0, **options):
    """With entries drawn from a seed, running statistics too."""
    torch.manual_seed(seed)
    net = create_model(name, **options).eval()
    for key, value in net.state_dict().items():
        if value.is_floating_point():
            nn.init.uniform_(value, *((0.5, 1.5) if key.endswith("running_var") else (-0.1, 0.1)))
    return net


def checkpoint(path, model, net, num_classes):
    meta = CheckpointMeta(
        model=model,
        num_classes=num_classes,
        in_chans=3,
        classes=tuple(map(str, range(num_classes))),
        dataset="folder",
        image_size=64,
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        crop_pct=1.0,
        interpolation="bilinear",
    )
    save_checkpoint(path, net, meta)
    return path


IMAGES = torch.linspace(0, 1, 2 * 3 * 64 * 64).view(2, 3, 64, 64)


def test_other_classes(tmp_path):
    """Everything but the classifier is taken; the classifier stays as it was drawn."""
    source = network("resnet10t", num_classes=7)
    target = network("resnet10t", 1, num_classes=3)
    own = {name: target.state_dict()[name].clone() for name in ("fc.weight", "fc.bias")}
    path = checkpoint(tmp_path / "a.safetensors", "resnet10t", source, 7)
    report = take_weights(target, path)
    assert report.source == str(path)
    assert report.other_shape == {"fc.weight": "(7, 512) for (3, 512)", "fc.bias": "(7,) for (3,)"}
    assert set(report.taken) == set(target.state_dict()) - {"fc.weight", "fc.bias"}
    assert report.missing == report.left_out == ()
    with torch.no_grad():
        assert torch.equal(target.forward_features(IMAGES), source.forward_features(IMAGES))
    for name, value in own.items():
        assert torch.equal(target.state_dict()[name], value)
    assert str(report).splitlines()[1] == "  2 of another shape: fc.weight (7, 512) for (3, 512), fc.bias (7,) for (3,)"
    assert report.to_dict()["taken"] == report.taken


def test_the_same_classes(tmp_path):
    source, target = network("resnet10t", num_classes=7), network("resnet10t", 1, num_classes=7)
    torch.save({"model": source.half().state_dict()}, tmp_path / "a.pth")
    report = take_weights(target, tmp_path / "a.pth")
    assert len(report.taken) == len(target.state_dict())
    assert str(report).endswith(f": {len(report.taken)} of the network's {len(report.taken)} entries taken")
    for name, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], value.to(target.state_dict()[name].dtype))


@pytest.mark.parametrize("name", ["resnet10t", "convnext_atto", "mobilenetv2_100_an", "aognet_1m_cifar_an"])
def test_feature_networks(tmp_path, name):
    """Of timm's making: with the same names, with "stages_0" for "stages.0", or with all names under "model"."""
    source = network(name, num_classes=7)
    features = timm.create_model(name, features_only=True).eval()
    report = take_weights(features, source.state_dict(), name="here")
    assert report.source == "here"
    assert report.missing == ()
    assert report.other_shape == {}
    assert set(report.taken) == set(features.state_dict())
    with torch.no_grad():
        expected = source.forward_intermediates(IMAGES, intermediates_only=True)
        for found, level in zip(features(IMAGES), expected[-len(features.feature_info.channels()) :], strict=True):
            assert_close(found, level)
    # The head, and what timm's feature network has cut away before it.
    heads = ("fc.", "classifier.", "head.", "conv_head.", "bn2.")
    assert all(key.startswith(heads) for key in report.left_out)
    torch.save({f"module.{key}": value for key, value in source.state_dict().items()}, tmp_path / "a.pth")
    assert take_weights(features, tmp_path / "a.pth").taken == report.taken


@pytest.mark.parametrize(("name", "scheme"), [("mobilenetv2_100_an", "aognet-v2"), ("resnet18_an", "ivmcl-release")])
def test_files_of_the_authors(tmp_path, name, scheme):
    """By the road of load_released, the classifier included where it fits, and as the backbone of a detector file."""
    source = network(name, num_classes=5)
    theirs = to_released(source, scheme)
    torch.save({"state_dict": {f"module.network.{key}": value for key, value in theirs.items()}}, tmp_path / "a.pth")
    target = network(name, 1, num_classes=5)
    report = take_weights(target, tmp_path / "a.pth")
    assert set(report.taken) == set(source.state_dict())
    for key, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[key], value), key
    detector = {f"backbone.{key}": value for key, value in theirs.items() if not key.startswith(("fc.", "classifier."))}
    torch.save({"state_dict": {**detector, "neck.x.weight": torch.ones(1)}}, tmp_path / "b.pth")
    target = network(name, 1, num_classes=5)
    report = take_weights(target, tmp_path / "b.pth")
    assert {key.rpartition(".")[0] for key in report.missing} == {target.pretrained_cfg["classifier"]}
    with torch.no_grad():
        assert torch.equal(target.forward_features(IMAGES), source.forward_features(IMAGES))


@pytest.mark.parametrize(
    ("source", "options", "part"),
    [
        ("resnet18", {}, r"must have the weights of the whole backbone, but \d+ of its \d+ entries do not fit"),
        ("resnet10t", {"in_chans": 1}, r"1 of its 70 entries .*\(conv1.0.weight \(24, 1, 3, 3\) for \(24, 3, 3, 3\)\)"),
    ],
)
def test_other_networks_are_refused(tmp_path, source, options, part):
    """And nothing is changed."""
    path = checkpoint(tmp_path / "a.safetensors", source, network(source, num_classes=3, **options), 3)
    target = network("resnet10t", 1, num_classes=3)
    before = {key: value.clone() for key, value in target.state_dict().items()}
    with pytest.raises(CheckpointError, match=part):
        take_weights(target, path)
    assert all(torch.equal(value, before[key]) for key, value in target.state_dict().items())


def test_files_that_are_none(tmp_path):
    target = network("resnet10t")
    (tmp_path / "a.pth").write_text("no weights")
    for name in ("a.pth", "missing.pth"):
        with pytest.raises(CheckpointError, match=name):
            take_weights(target, tmp_path / name)


def test_pretrained_weights_that_do_not_exist():
    with pytest.raises(ConfigError, match="timm publishes; it has none of resnet50_an: give"):
        pretrained_weights("resnet50_an")


def test_without_a_network_there_is_one_line(monkeypatch):
    """Whatever the library that downloads raises, in however many lines."""

    def fails(*args, **kwargs):
        raise OSError("no route to host\nand much more")

    monkeypatch.setattr(transfer, "create_model", fails)
    with pytest.raises(JobError, match=r"of resnet10t must be .*\(OSError: no route to host\): go online") as error:
        pretrained_weights("resnet10t")
    assert "\n" not in str(error.value)
