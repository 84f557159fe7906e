"""Backbones: which features are taken, what the pyramid makes of them, and what of the network trains."""

import math

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from attnorm import sync_norm
from attnorm.detection.backbone import Backbone
from attnorm.detection.config import DetectorConfig
from attnorm.errors import ConfigError
from attnorm.layers import AttentiveBatchNorm2d, AttentiveGroupNorm
from tests.detection.synchronised import step, step_of_one_image, whole_batch
from tests.processes import run_together

# An AOGNet with all that is special of it (Dropout2d in the last two stages), and few channels.
SMALL_AOGNET = {"widths": (8, 16, 16, 32, 32), "depths": (1, 1, 1, 1), "dims": (2, 2, 2, 2), "prune": (0, 1, 1, 0)}
SMALL_SWIN = {
    "img_size": 64,
    "embed_dim": 12,
    "depths": (1, 1, 1, 1),
    "num_heads": (1, 2, 2, 2),
    "window_size": 2,
}


def backbone(name="resnet18_an", options=None, **settings):
    torch.manual_seed(0)
    return Backbone(name, DetectorConfig(**settings), **(options or {}))


def images(samples=2, side=64):
    torch.manual_seed(1)
    return torch.randn(samples, 3, side, side)


@pytest.mark.parametrize("norm", ["none", "gn", "an_gn"])
def test_the_pyramid_is_its_definition(norm):
    """Lateral 1x1 convolutions, nearest upsampling by 2, 3x3 convolutions, every second pixel of the last level."""
    net = backbone("resnet10t", fpn_norm=norm, num_components=(2, 3, 4, 5)).eval()
    features = timm.create_model("resnet10t", features_only=True).eval()
    features.load_state_dict(net.body.state_dict())
    with torch.no_grad():
        levels = features(images())[1:]
        above = None
        expected = {}
        for i in (3, 2, 1, 0):
            lateral = net.fpn.inner_blocks[i](levels[i])
            conv = net.fpn.inner_blocks[i][0]
            if norm == "none":
                assert_close(lateral, F.conv2d(levels[i], conv.weight, conv.bias))
            else:
                assert conv.bias is None
                assert len(net.fpn.inner_blocks[i]) == len(net.fpn.layer_blocks[i]) == 2
            above = lateral if above is None else lateral + above.repeat_interleave(2, 2).repeat_interleave(2, 3)
            expected[str(i)] = net.fpn.layer_blocks[i](above)
        expected["pool"] = expected["3"][..., ::2, ::2]
        found = net(images())
    assert list(found) == ["0", "1", "2", "3", "pool"]
    for name, level in found.items():
        assert_close(level, expected[name])
    norms = [
        block[1] for i in range(4) for block in (net.fpn.inner_blocks[i], net.fpn.layer_blocks[i]) if norm != "none"
    ]
    if norm == "an_gn":
        assert [type(n) for n in norms] == [AttentiveGroupNorm] * 8
        assert [len(n.weight) for n in norms] == [2, 2, 3, 3, 4, 4, 5, 5]  # finest level first
    elif norm == "gn":
        assert [(type(n), n.num_groups) for n in norms] == [(nn.GroupNorm, 32)] * 8


def test_the_pyramid_starts_from_xavier():
    """Uniform within sqrt(6 / (fan in + fan out)); torchvision starts from another distribution."""
    net = backbone("resnet10t")
    for module in net.fpn.modules():
        if isinstance(module, nn.Conv2d):
            bound = math.sqrt(6 / ((module.in_channels + 256) * module.kernel_size[0] ** 2))
            assert 0.99 * bound < module.weight.abs().max() <= bound
            assert not module.bias.any()


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("resnet50_an", (256, 512, 1024, 2048)),
        ("aognet_12m", (128, 256, 512, 824)),
        ("aognet_40m_an", (224, 448, 896, 1400)),
        ("densenet121_an", (256, 512, 1024, 1024)),
        ("mobilenetv2_100_an", (24, 32, 96, 320)),
        ("hrnet_w18_small", (128, 256, 512, 1024)),
        ("vgg11_bn", (256, 512, 512, 512)),
        ("convnext_atto", (40, 80, 160, 320)),
    ],
)
def test_features_of_strides_4_to_32(name, channels):
    """Reference 5.1, and timm's families: of AOGNet the first stage, not the stem, which has the same stride."""
    with torch.device("meta"):
        net = backbone(name)
    assert tuple(block[0].in_channels for block in net.fpn.inner_blocks) == channels


def test_features_with_channels_last():
    """Swin Transformers give (N, H, W, C)."""
    net = backbone("swin_tiny_patch4_window7_224", SMALL_SWIN).eval()
    with torch.no_grad():
        features = [feature.permute(0, 3, 1, 2) for feature in net.body(images())]
        expected = net.fpn(dict(zip("0123", features, strict=True)))
        found = net(images())
    assert [feature.shape[1] for feature in features] == [12, 24, 48, 96]
    for name, level in found.items():
        assert_close(level, expected[name])


def test_networks_that_timm_has_for_one_size_see_images_of_others():
    """As if they had been built for the other size, by timm itself."""
    options = {key: value for key, value in SMALL_SWIN.items() if key != "img_size"}
    for size in ((64, 96), (160, 96)):
        net = backbone("swin_tiny_patch4_window7_224", options).eval()
        theirs = timm.create_model("swin_tiny_patch4_window7_224", features_only=True, img_size=size, **options).eval()
        theirs.load_state_dict(net.body.state_dict())
        image = torch.randn(1, 3, *size)
        with torch.no_grad():
            assert_close(net.body(image), theirs(image))


@pytest.mark.parametrize(
    ("name", "settings", "part"),
    [
        ("efficientformerv2_s0", {}, "must take images of any size, and efficientformerv2_s0 does not"),
        ("vit_tiny_patch16_224", {}, "vit_tiny_patch16_224 has them at 16: choose"),
        ("resnet20_cifar_an", {}, "has them at 1, 2, 4: choose"),
        ("resnet50_na", {}, "did you mean .*resnet50"),
        ("hrnet_w18_small", {"frozen_stages": 1}, "frozen_stages must be 0 for hrnet_w18_small"),
    ],
)
def test_networks_that_cannot_serve(name, settings, part):
    with torch.device("meta"), pytest.raises(ConfigError, match=part):
        backbone(name, **settings)


def trained(net):
    """Names of the entries that a training step changes: running statistics and parameters with a gradient."""
    before = {name: value.clone() for name, value in net.body.state_dict().items()}
    net.eval()
    net.train()
    sum(level.square().mean() for level in net(images()).values()).backward()
    after = net.body.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    return changed | {name for name, p in net.body.named_parameters() if p.grad is not None}


STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def expected_of(net, policy, frozen):
    """The same by the rules: of a stem and stages 1 to 4 the first `frozen` stages are still."""
    norms = [
        f"{name}." for name, m in net.body.named_modules() if hasattr(m, "running_mean") or hasattr(m, "attention")
    ]
    still = [("conv1", "bn1", "layer1"), ("layer2",), ("layer3",), ("layer4",)][:frozen]
    for name in net.body.state_dict():
        in_norm = name.startswith(tuple(norms))
        statistic = name.endswith(STATISTICS)
        moves = policy in ("train", "sync") or not (statistic or (in_norm and policy == "frozen"))
        if moves and not name.startswith(tuple(f"{part}." for stage in still for part in stage)):
            yield name


@pytest.mark.parametrize("frozen", [0, 1, 4])
@pytest.mark.parametrize("policy", ["frozen", "eval", "train", "sync"])
def test_what_trains(policy, frozen):
    """Of BatchNorm, AN and AN's attention norm alike; a change of mode does not bring anything back."""
    net = backbone(norm_policy=policy, frozen_stages=frozen)
    found = trained(net)
    assert found == set(expected_of(net, policy, frozen))
    names = {"layer2.0.bn1." + entry for entry in ("weight", "running_var", "attention.logits.norm.running_mean")}
    if frozen < 2:
        assert len(names & found) == {"frozen": 0, "eval": 1, "train": 3, "sync": 3}[policy]


@pytest.mark.parametrize("policy", ["frozen", "eval"])
def test_running_statistics_in_training(policy):
    """The features in training are those of evaluation, with a batch of one too."""
    net = backbone(norm_policy=policy, frozen_stages=1)
    for norm in net.body.modules():
        if getattr(norm, "running_mean", None) is not None:
            nn.init.uniform_(norm.running_mean, -0.5, 0.5)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)
    with torch.no_grad():
        expected = net.eval().body(images(1))
        for found, level in zip(net.train().body(images(1)), expected, strict=True):
            assert_close(found, level, rtol=1e-4, atol=1e-4)


def test_frozen_stages_survive_other_converters():
    """sync_norm puts other modules in the place of BatchNorms; those of frozen stages stay in evaluation mode."""
    net = backbone("resnet10t", frozen_stages=1)
    sync_norm(net)
    found = trained(net)
    assert not {name for name in found if name.startswith(("conv1", "bn1", "layer1"))}
    assert "layer2.0.bn1.running_mean" in found


def test_dropout_goes_on_behind_frozen_norms():
    """Reference 5.4: AOGNet's Dropout2d is active while fine-tuning, except in frozen stages."""
    for frozen, drops in ((2, (3, 4)), (4, ())):
        net = backbone("aognet_12m_an", SMALL_AOGNET, frozen_stages=frozen, norm_policy="eval").train()
        x = images(side=96)
        with torch.no_grad():
            first, second = net.body(x), net.body(x)
        differ = [i for i in range(1, 5) if not torch.equal(first[i], second[i])]
        assert tuple(differ) == drops


def test_synchronised_in_one_process_is_ordinary_training():
    plain, synchronised = backbone(norm_policy="train"), backbone(norm_policy="sync")
    for a, b in zip(plain(images()).values(), synchronised(images()).values(), strict=True):
        assert_close(a, b)
    for name, value in plain.state_dict().items():
        assert_close(synchronised.state_dict()[name], value, rtol=1e-4, atol=1e-4)
    assert all(m.synchronised for m in synchronised.body.modules() if isinstance(m, AttentiveBatchNorm2d))


def test_synchronised_in_two_processes(tmp_path):
    """Each sees one image of a batch of two: features and running statistics are those of the whole batch."""
    expected = step(Backbone("resnet18_an", DetectorConfig(norm_policy="train")), whole_batch())
    for rank, found in enumerate(run_together(step_of_one_image, 2, tmp_path)):
        for name, value in expected.items():
            part = value[rank : rank + 1] if name.startswith("level") else value
            assert_close(found[name], part, rtol=1e-4, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
