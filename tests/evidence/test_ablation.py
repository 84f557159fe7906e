"""Which networks an ablation makes, worked out by hand, and what it refuses."""

import pytest

from attnorm.errors import ConfigError
from attnorm.evidence.ablation import Network, describe_networks, expand, parse_ablation

BN, AN = "resnet8_cifar", "resnet8_cifar_an"


def names(models: tuple[str, ...], text: str) -> list[str]:
    return [network.name for network in expand(models, parse_ablation(text))]


def test_parse():
    assert parse_ablation("num_components=2,5,10") == {"num_components": ("2", "5", "10")}
    parsed = parse_ablation("gate=sigmoid, softmax:norm=bn,an")
    assert list(parsed.items()) == [("norm", ("bn", "an")), ("gate", ("sigmoid", "softmax"))]


def test_every_value_of_one_option():
    assert names((BN, AN), "num_components=2,5-5-10") == [
        BN, f"{AN}:num_components=2", f"{AN}:num_components=5-5-10"
    ]  # fmt: skip


def test_options_are_crossed():
    assert names((AN,), "num_components=2,5:gate=sigmoid,softmax") == [
        f"{AN}:num_components=2:gate=sigmoid",
        f"{AN}:num_components=2:gate=softmax",
        f"{AN}:num_components=5:gate=sigmoid",
        f"{AN}:num_components=5:gate=softmax",
    ]


def test_what_only_an_has_is_crossed_with_an_alone():
    """GroupNorm has no components, so that it occurs once; and SE has norms that can be AN's."""
    assert names((BN, "resnet8_cifar_se"), "num_components=2,5:norm=gn,an") == [
        f"{model}:norm={rest}"
        for model in (BN, "resnet8_cifar_se")
        for rest in ("gn", "an:num_components=2", "an:num_components=5")
    ]


def test_networks_that_stay_as_they_are_say_why():
    models = (BN, AN, f"{BN}:norm=an:gate=softmax", f"{BN}:norm=gn")
    assert expand(models, parse_ablation("gate=sigmoid,softmax")) == [
        Network(BN, ("it has no AN that gate could be of",)),
        Network(f"{AN}:gate=sigmoid"),
        Network(f"{AN}:gate=softmax"),
        Network(f"{BN}:norm=an:gate=softmax", ("it names its gate itself",)),
        Network(f"{BN}:norm=gn", ("it has no AN that gate could be of",)),
    ]
    assert expand((AN, BN), parse_ablation("norm=gn")) == [
        Network(AN, ("it has AN under its own name",)),
        Network(f"{BN}:norm=gn"),
    ]


def test_the_places_of_an():
    assert names(("resnet50_an",), "placement=resnet_bn2,resnet_bn3,resnet_bn123") == [
        f"resnet50_an:placement=resnet_{place}" for place in ("bn2", "bn3", "bn123")
    ]


def test_detectors_have_the_options_of_their_backbones():
    detectors = ("mask_rcnn_resnet18_fpn", "mask_rcnn_resnet18_an_fpn")
    assert names(detectors, "num_components=2,5") == [
        detectors[0], f"{detectors[1]}:num_components=2", f"{detectors[1]}:num_components=5"
    ]  # fmt: skip


def test_the_list_is_shown():
    assert describe_networks(expand((BN, AN), parse_ablation("gate=softmax")), 3) == [
        "2 networks, 3 seeds: 6 runs",
        "  resnet8_cifar  (the baseline; as it is: it has no AN that gate could be of)",
        "  resnet8_cifar_an:gate=softmax",
    ]


@pytest.mark.parametrize(
    ("models", "text", "message"),
    [
        ((AN,), "num_components", "ablate must be OPTION=VALUE,VALUE such as num_components=2,5,10; got 'num_comp"),
        ((AN,), "gate=", "got 'gate='"),
        ((AN,), "gate=softmax,,sigmoid", "got 'gate=softmax,,sigmoid'"),
        ((AN,), "gate=softmax:gate=sigmoid", "got gate twice"),
        ((AN,), "gate=softmax,softmax", "ablate must name each value once; got 'gate=softmax,softmax'"),
        ((AN,), "k=2,5", "an option must be one of norm, placement, num_components, gate, .*; got 'k=2'"),
        ((BN,), "k=2,5", "an option must be one of"),
        ((AN,), "num_components=2,many", "num_components must be a number such as 10; got 'many'"),
        ((BN,), "norm=bn,ln", "norm must be one of bn, gn, an, an_gn; got 'ln'"),
        ((AN,), "gate=softmax,relu", "gate must be one of .* got 'relu'"),
        ((AN,), "placement=resnet_bn1,resnet_bn3", "placement .*resnet_bn3"),
        ((BN,), "gate=sigmoid,softmax", "changes none .resnet8_cifar: it has no AN that gate could be of"),
        (("resnet8_cifra",), "norm=bn,an", "did you mean resnet8_cifar"),
    ],
)
def test_refused(models: tuple[str, ...], text: str, message: str):
    with pytest.raises(ConfigError, match=message):
        names(models, text)
