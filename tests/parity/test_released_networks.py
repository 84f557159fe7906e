"""The released networks through the whole road: a file as the authors wrote it, read, mapped, built and run.

The truth is independent: state dicts listed from the original networks, and logits that they computed in float64 for
parameters filled by a published rule. The tests at the end need no reference and use this package's own networks.
"""

import json
from functools import cache

import pytest
import torch
from torch.testing import assert_close

from attnorm.errors import CheckpointError
from attnorm.models import create_model
from attnorm.models.released import SCHEMES, read_released, to_released
from attnorm.models.released.names import released_names
from attnorm.models.released.recognise import detector_parts, recognise
from tests.parity.filling import entry, network_input
from tests.shared import shared_file

A, D, R = "aognet-v2", "attentivenorm-detection", "ivmcl-release"
INDEX = shared_file("reference/state_dicts/index.json")
LOGITS = shared_file("reference/fixtures/eval_logits.json")
needs_reference = pytest.mark.skipif(not LOGITS.is_file(), reason="the reference facts are not here")

# Our names of the listed networks; a name that ends in -200e... and has no line of its own is that of the line before.
NETWORKS = {
    (A, "aognet-12m-an-imagenet"): "aognet_12m_an",
    (A, "aognet-12m-imagenet"): "aognet_12m",
    (A, "aognet-40m-an-imagenet"): "aognet_40m_an",
    (A, "aognet-40m-imagenet"): "aognet_40m",
    (A, "mobilenetv2-an-imagenet"): "mobilenetv2_100_an",
    (A, "mobilenetv2-imagenet"): "mobilenetv2_100",
    (A, "resnet-50-imagenet"): "resnet50",
    (A, "resnet-50-an-imagenet"): "resnet50_an",
    (A, "resnet-50-imagenet-200e-lbsmth-mixup"): "resnetv1d50",
    (A, "resnet-50-an-imagenet-200e-lbsmth-mixup"): "resnetv1d50_an",
    (A, "resnet-101-imagenet"): "resnet101",
    (A, "resnet-101-an-imagenet"): "resnet101_an",
    (A, "resnet-101-imagenet-200e-lbsmth-mixup"): "resnetv1d101",
    (A, "resnet-101-an-imagenet-200e-lbsmth-mixup"): "resnetv1d101_an",
    (R, "aognet_12m_an_imagenet"): "aognet_12m_an",
    (R, "aognet_12m_bn_imagenet"): "aognet_12m",
    (R, "aognet_40m_an_imagenet"): "aognet_40m_an",
    (R, "aognet_40m_bn_imagenet"): "aognet_40m",
    (R, "densenet_121_an_imagenet"): "densenet121_an",
    (R, "densenet_121_bn_imagenet"): "densenet121",
    (R, "mobilenetv2_an_imagenet"): "mobilenetv2_100_an",
    (R, "mobilenetv2_bn_imagenet"): "mobilenetv2_100",
    (R, "resnet_34_bn_imagenet"): "resnet34",
    (R, "resnet_34_an_bn1_imagenet"): "resnet34_an",
    (R, "resnet_34_an_bn2_imagenet"): "resnet34_an_bn2",
    (R, "resnet_34_an_bn12_imagenet"): "resnet34_an_bn12",
    (R, "resnet_34_se_bn2_imagenet"): "resnet34_se_bn2",
    (R, "resnet_50_bn_imagenet"): "resnet50",
    (R, "resnet_50_an_bn2_imagenet"): "resnet50_an",
    (R, "resnet_50_an_bn3_imagenet"): "resnet50_an_bn3",
    (R, "resnet_50_an_bn123_imagenet"): "resnet50_an_bn123",
    (R, "resnet_50_an_all_imagenet"): "resnet50_an_all",
    (R, "resnet_50_se_bn2_imagenet"): "resnet50_se_bn2",
    (R, "resnet_50_se_bn3_imagenet"): "resnet50_se_bn3",
    (R, "resnet_50_se_bn123_imagenet"): "resnet50_se_bn123",
    (R, "resnetv1d_50_bn_imagenet"): "resnetv1d50",
    (R, "resnetv1d_50_an_imagenet"): "resnetv1d50_an",
    (R, "resnetv1d_101_bn_imagenet_200e_ls_mixup"): "resnetv1d101",
    (R, "resnetv1d_101_an_imagenet_200e_ls_mixup"): "resnetv1d101_an",
    (R, "resnet_101_bn_imagenet"): "resnet101",
    (R, "resnet_101_an_imagenet"): "resnet101_an",
}
# One network of every family and scheme; the rest runs with the slow tests.
QUICK = {
    (A, "mobilenetv2-an-imagenet"),
    (A, "resnet-50-an-imagenet-200e-lbsmth-mixup"),
    (A, "aognet-12m-an-imagenet"),
    (R, "densenet_121_an_imagenet"),
    (R, "resnet_34_an_bn1_imagenet"),
    (R, "resnet_34_se_bn2_imagenet"),
}


def listed(scheme, name):
    """The state dict's keys and shapes, in the order of the original network."""
    path = shared_file(f"reference/state_dicts/{scheme}/{name}.json")
    return {key: tuple(shape) for key, shape in json.loads(path.read_text()).items()}


@cache
def own_shapes(model, num_classes=1000):
    with torch.device("meta"):
        network = create_model(model, num_classes=num_classes)
    return {key: tuple(value.shape) for key, value in network.state_dict().items()}


@needs_reference
def test_every_listed_network_is_here():
    """None of the reference's classification networks is left out of this file."""
    index = json.loads(INDEX.read_text())
    files = {(s, e["file"].removesuffix(".json")) for s in (A, R) for e in index[s].values() if "file" in e}
    assert {item for item in files if not item[1].startswith("mask_rcnn")} == set(NETWORKS)


@needs_reference
@pytest.mark.parametrize(("scheme", "name"), NETWORKS, ids=lambda value: value)
def test_keys_map_one_to_one(scheme, name):
    """Recognised from keys and shapes alone, and every key has its place, in the same order and shape."""
    shapes = listed(scheme, name)
    found = recognise(shapes)
    assert (found.model, found.num_classes, found.in_chans) == (NETWORKS[scheme, name], 1000, 3)
    # BN networks with torchvision's keys may come from either release.
    assert found.scheme == scheme or found.torchvision
    mapped = released_names(own_shapes(found.model), scheme)
    assert {key: shape for key, (_, shape) in mapped.items()} == shapes
    assert list(mapped) == list(shapes)
    assert {ours for ours, _ in mapped.values()} == set(own_shapes(found.model))


@needs_reference
def test_backbones_of_all_detectors():
    """In a detector the backbone's keys are those of its classification network, without a classifier."""
    count = 0
    for path in sorted(INDEX.parent.glob("*/*mask*.json")):
        shapes = listed(path.parent.name, path.stem)
        parts = detector_parts(shapes)
        backbone = {k.removeprefix("backbone."): s for k, s in shapes.items() if k.startswith("backbone.")}
        assert len(backbone) + sum(parts.values()) == len(shapes)
        found = recognise(backbone)
        scheme = R if path.parent.name == R else A
        mapped = released_names(own_shapes(found.model, 0), scheme)
        assert list(mapped) == list(backbone), path.stem
        assert {key: shape for key, (_, shape) in mapped.items()} == backbone
        kind = next(k for k in ("r50", "r101", "aognet_12m", "aognet_40m") if k in path.stem)
        attentive = "_an" if "_an_" in path.stem else ""
        assert found.model == kind.replace("r50", "resnet50").replace("r101", "resnet101") + attentive
        count += 1
    assert count == 18


@needs_reference
@pytest.mark.parametrize(
    ("scheme", "name"),
    [pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow, id="-".join(case)) for case in NETWORKS],
)
def test_logits_are_the_authors(tmp_path, scheme, name):
    """A file with the keys, prefix and format of the release gives the logits that the original network computes."""
    logits = json.loads(LOGITS.read_text())
    expected = logits["models"][scheme].get(name)
    shapes = listed(scheme, name)
    prefix = "module.network." if scheme == A else "module."
    state = {prefix + key: entry(i, key, shape) for i, (key, shape) in enumerate(shapes.items())}
    path = tmp_path / "model_best.pth.tar"
    torch.save({"epoch": 120, "state_dict": state}, path, _use_new_zipfile_serialization=scheme == R)
    released = read_released(path, dtype=torch.float64)
    path.unlink()
    assert released.report.kind == ("legacy" if scheme == A else "zip")
    assert sum(released.report.mapped.values()) == len(shapes)
    network = released.build()
    back = to_released(network, scheme)
    assert list(back) == list(shapes)
    assert all(torch.equal(back[key], state[prefix + key]) for key in shapes)
    if expected is None:
        pytest.skip("keys and values match; there are no logits of this network in the reference")
    with torch.no_grad():
        y = network(network_input(tuple(logits["input_shape"])))
    first = torch.tensor([expected["first8_sample0"], expected["first8_sample1"]], dtype=torch.float64)
    # The printed logits have 12 digits; sums over 1000 classes cancel, so their bound is that of the absolute sum.
    assert_close(y[:, :8], first, rtol=1e-8, atol=1e-9 * expected["abs_sum"] / y.numel())
    assert_close(y.abs().sum().item(), expected["abs_sum"], rtol=1e-8, atol=0)
    assert_close(y.sum().item(), expected["sum"], rtol=0, atol=1e-8 * expected["abs_sum"])


@pytest.mark.parametrize(
    ("model", "schemes"),
    [
        ("mobilenetv2_100_an", SCHEMES),
        ("resnet34_an_bn12", SCHEMES[1:]),
        ("resnet34_se_bn2", SCHEMES[1:]),
        ("resnetv1d50_an", SCHEMES),
        ("densenet121_an", SCHEMES[1:]),
        ("aognet_12m_an", SCHEMES[1:]),
    ],
)
def test_round_trip_of_our_networks(tmp_path, model, schemes):
    """Our network under the authors' keys, fine-tuned to other classes and channels, comes back bit by bit."""
    network = create_model(model, num_classes=7, in_chans=1).eval()
    state = network.state_dict()
    for scheme in schemes:
        torch.save(to_released(network, scheme), tmp_path / "x.pth")
        released = read_released(tmp_path / "x.pth")
        assert (released.name, released.scheme) == (model, scheme)
        assert (released.report.num_classes, released.report.in_chans) == (7, 1)
        assert list(released.state) == list(state)
        assert all(torch.equal(released.state[key], state[key]) for key in state)


@pytest.mark.parametrize(
    ("model", "scheme", "options", "part"),
    [
        ("densenet121_an", A, {}, "none for densenet networks; ivmcl-release has"),
        ("resnet50_se_bn2", A, {}, "none for resnet_se networks"),
        ("resnet8_cifar_an", A, {}, "must have the blocks of ResNet"),
        ("resnext50_32x4d_an", A, {}, "resembles resnet50_an but has other entries"),
        ("resnet34_an", A, {}, "aognet-v2 has no basic blocks"),
        ("vit_tiny_patch16_224", R, {}, "none for networks of this kind"),
        ("efficientnet_b0", R, {}, "must have a name in ivmcl-release"),
        ("resnet50_an", R, {"layer_options": {"gate": "softmax"}}, "every AN layer must be the paper's"),
        ("resnet50_an", R, {"num_components": 4}, "resembles resnet50_an but has other entries"),
    ],
)
def test_what_a_release_does_not_have(model, scheme, options, part):
    """Nothing is written that the authors' code could not load, or that would compute something else there."""
    with torch.device("meta"):
        network = create_model(model, **options)
    with pytest.raises(CheckpointError, match=part):
        to_released(network, scheme)
