"""Checkpoint files in every form the authors' scripts wrote them, and what is no such file."""

import io
import json
import pickle
import random
import struct
import sys
import tarfile
import types
import zipfile

import pytest
import torch
from safetensors.torch import save_file

import attnorm
from attnorm.errors import CheckpointError
from attnorm.inert_pickle import UnreadableError
from attnorm.models import create_model
from attnorm.models.released import read_released, to_released
from attnorm.models.released.archives import Archive
from attnorm.models.released.described import Storage, TensorEntry

A = "aognet-v2"


@pytest.fixture(scope="module")
def network():
    """The smallest released network, with statistics of its own."""
    torch.manual_seed(0)
    network = create_model("mobilenetv2_100_an", num_classes=5).eval()
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_()
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 2)
    return network


@pytest.fixture(scope="module")
def theirs(network):
    """Its state dict under the keys of the first release."""
    return {key: value.clone() for key, value in to_released(network, A).items()}


@pytest.fixture
def apex(monkeypatch):
    """A class that exists when a file is written and not when it is read, as apex's on most machines."""
    module = types.ModuleType("apex_of_2019")
    LossScaler = type("LossScaler", (), {"__module__": module.__name__, "cur_scale": 128.0})
    module.LossScaler = LossScaler
    sys.modules[module.__name__] = module
    yield LossScaler
    sys.modules.pop(module.__name__, None)


def in_half(key, state):
    """The first release kept all but BatchNorms with affine parameters in half precision, AN's statistics too."""
    module, _, entry = key.rpartition(".")
    plain_norm = f"{module}.running_mean" in state and f"{module}.weight_" not in state
    return not plain_norm and entry != "num_batches_tracked"


def same(state, expected):
    return state.keys() == expected.keys() and all(torch.equal(state[key], expected[key]) for key in expected)


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("best", ["tensor", "number", "numpy"])
def test_the_first_releases_own_form(tmp_path, network, theirs, apex, legacy, best):
    """Half precision, two wrappers' prefix, an optimizer with apex objects, the accuracy as whatever it was."""
    accuracy = torch.tensor(76.5)
    if best != "tensor":
        accuracy = 76.5 if best == "number" else pytest.importorskip("numpy").float64(76.5)
    scaler = apex()
    scaler.history = [1, 2]
    halved = {key for key in theirs if in_half(key, theirs)}
    masters = [[torch.ones(3), torch.nn.Parameter(torch.ones(2))]]
    content = {
        "epoch": 150,
        "arch": "mobilenet_v2",
        "state_dict": {"module.network." + k: v.half() if k in halved else v for k, v in theirs.items()},
        "best_prec1": accuracy,
        "optimizer": {"loss_scaler": scaler, "fp32_from_fp16": masters, "state": {0: {"step": 1}}},
    }
    path = tmp_path / "model_best.pth.tar"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    del sys.modules["apex_of_2019"]
    released = read_released(path)
    report = released.report
    expected = {
        ours: (value.half().float() if key in halved else value)
        for (ours, value), key in zip(network.state_dict().items(), theirs, strict=True)
    }
    assert same(released.state, expected)
    assert (report.kind, report.where, report.prefix) == (
        "legacy" if legacy else "zip",
        "state_dict",
        "module.network.",
    )
    assert (report.epoch, report.best_top1, report.arch) == (150, 76.5, "mobilenet_v2")
    assert report.from_half == len(halved)
    assert report.left_out == {"optimizer": "the optimizer's state"}
    # 35 plain norms and 17 AN; 17 depthwise, 16 expanding and 17 projecting convolutions, stem and head.
    assert report.mapped == {"convolutions": 52, "norms": 35 * 5, "AN": 17 * 11, "classifier": 2}


@pytest.mark.parametrize(
    ("holder", "prefix"),
    [
        ("state_dict", ""),
        ("model", "module."),
        (None, "module.network."),
        (None, "network."),
        (None, "backbone."),
    ],
)
def test_structures_and_prefixes(tmp_path, network, theirs, holder, prefix):
    state = {prefix + key: value for key, value in theirs.items()}
    path = tmp_path / "current.pth"
    torch.save({"best_acc1": 70.25, holder: state, "amp": {}} if holder else {**state, "epoch": 3}, path)
    released = read_released(path)
    assert same(released.state, network.state_dict())
    assert (released.report.where, released.report.prefix) == (holder or "", prefix)
    assert released.report.best_top1 == (70.25 if holder else None)
    assert released.report.left_out == ({"amp": "mixed precision's state"} if holder else {})


def test_load_released_is_the_network(tmp_path, network, theirs):
    """The public function gives the network itself, ready to evaluate."""
    torch.save({"state_dict": theirs}, tmp_path / "x.pth")
    loaded = attnorm.load_released(tmp_path / "x.pth")
    assert not loaded.training
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded(x), network(x))


def test_a_file_saved_on_a_gpu(tmp_path, network, theirs):
    """Storages of CUDA classes lie on devices that this machine need not have."""
    path = tmp_path / "x.pth.tar"
    torch.save(theirs, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes().replace(b"ctorch\nFloatStorage\n", b"ctorch.cuda\nFloatStorage\n")
    path.write_bytes(content.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:3"))
    assert same(read_released(path).state, network.state_dict())


@pytest.mark.parametrize("legacy", [True, False])
def test_shared_and_strided_storages(tmp_path, network, theirs, legacy):
    """One storage for several tensors, and channels_last weights, are read by their strides and offsets."""
    state = {k: v.contiguous(memory_format=torch.channels_last) if v.ndim == 4 else v for k, v in theirs.items()}
    norms = [key for key, value in state.items() if value.shape == (32,)]
    together = torch.cat([state[key] for key in norms])
    state |= {key: together[32 * i : 32 * i + 32] for i, key in enumerate(norms)}
    torch.save(state, tmp_path / "x.pth", _use_new_zipfile_serialization=not legacy)
    released = read_released(tmp_path / "x.pth")
    assert same(released.state, network.state_dict())
    assert all(value.is_contiguous() for value in released.state.values())


def test_views_of_storages_as_torch_1_0_wrote_them():
    """Its format knew storages that are parts of other storages: (key, offset, size)."""
    numbers = struct.pack("<8f", *range(8))
    archive = Archive("legacy", None, 1000, lambda storage: numbers)
    entry = TensorEntry(Storage("1", torch.float32, 4, offset=2), 1, (3,), (1,))
    assert archive.read({"x": entry})["x"].tolist() == [3, 4, 5]
    beyond = TensorEntry(Storage("1", torch.float32, 4, offset=2), 1, (4,), (1,))
    with pytest.raises(UnreadableError, match="beyond its storage"):
        archive.read({"x": beyond})


def test_safetensors(tmp_path, network, theirs):
    save_file(theirs, tmp_path / "x.safetensors")
    released = read_released(tmp_path / "x.safetensors")
    assert same(released.state, network.state_dict())
    assert list(released.state) == list(network.state_dict())


def test_counters_that_old_versions_did_not_keep(tmp_path, network, theirs):
    old = {key: value for key, value in theirs.items() if not key.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "x.pth")
    released = read_released(tmp_path / "x.pth")
    assert same(released.state, network.state_dict())  # a fresh network has counted no batches either
    assert len(released.report.filled_in) == len(theirs) - len(old) == 35 + 17 * 2
    assert "filled in    69 counters" in str(released.report)


def test_the_backbone_alone(tmp_path, network, theirs):
    torch.save(theirs, tmp_path / "x.pth")
    released = read_released(tmp_path / "x.pth", backbone_only=True)
    expected = {key: value for key, value in network.state_dict().items() if "classifier" not in key}
    assert same(released.state, expected)
    assert released.report.num_classes == 0
    assert list(released.report.left_out) == ["classifier.1 (2 entries)"]
    assert released.build()(torch.zeros(1, 3, 32, 32)).shape == (1, 1280)


@pytest.mark.parametrize(("head", "scheme"), [("", "attentivenorm-detection"), ("roi_head.", "ivmcl-release")])
def test_a_detectors_backbone(tmp_path, head, scheme):
    """A detector is refused with a hint, or its backbone is taken and everything else counted."""
    network = create_model("resnet34_an" if head else "mobilenetv2_100", num_classes=0)
    backbone = to_released(network, "ivmcl-release" if head else A)
    state = {"backbone." + key: value for key, value in backbone.items()}
    state |= {"neck.fpn_convs.0.conv.weight": torch.ones(2), "rpn_head.rpn_cls.bias": torch.ones(3)}
    state |= {f"{head}bbox_head.fc_cls.bias": torch.ones(81), f"{head}mask_head.conv_logits.bias": torch.ones(81)}
    torch.save({"meta": {"epoch": 24}, "state_dict": state}, tmp_path / "mask_rcnn.pth")
    with pytest.raises(CheckpointError, match=r"a detector's.*backbone_only=True"):
        read_released(tmp_path / "mask_rcnn.pth")
    released = read_released(tmp_path / "mask_rcnn.pth", backbone_only=True)
    assert (released.scheme, released.report.num_classes, released.report.epoch) == (scheme, 0, 24)
    assert same(released.state, network.state_dict())
    assert sum(int(part.split("(")[1].split()[0]) for part in released.report.left_out) == 4


def test_torchvisions_keys_are_said_to_be(tmp_path):
    """A BN ResNet's file could be anyone's; the report must not claim more."""
    torchvision = pytest.importorskip("torchvision")
    network = torchvision.models.resnet50(num_classes=2)
    torch.save(network.state_dict(), tmp_path / "resnet50.pth")
    released = read_released(tmp_path / "resnet50.pth")
    assert released.name == "resnet50"
    assert "the keys are torchvision's" in str(released.report)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(released.build()(x), network.eval()(x))


def test_the_report_is_for_people_and_programs(tmp_path, theirs):
    state = dict(theirs) | {"features.0.1.bias": torch.full((32,), float("nan"))}
    torch.save({"state_dict": state, "epoch": 7}, tmp_path / "x.pth")
    report = read_released(tmp_path / "x.pth").report
    text = str(report)
    for part in (
        "x.pth (9.8 MB, torch, from 1.6 on)",
        "under 'state_dict'",
        "says         epoch 7",
        "scheme       aognet-v2",
        "network      mobilenetv2_100_an, 5 classes, 3 image channels",
        "known as     mobilenetv2-an-imagenet",
        "mapped       416 entries: 52 convolutions",
        "NOT FINITE   bn1.bias",
    ):
        assert part in text, text
    assert json.loads(json.dumps(report.to_dict()))["mapped"]["AN"] == 187


# ---- what is refused


@pytest.fixture
def refusal(tmp_path):
    """Writes a file and gives the one line with which it is refused."""

    def call(content, **options):
        path = tmp_path / "model_best.pth.tar"
        path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
        with pytest.raises(CheckpointError) as caught:
            read_released(path, **options)
        message = str(caught.value)
        assert message.isprintable()
        assert path.name in message
        assert len(message) < 600
        return message

    return call


def archive(**files):
    """A tar with files in it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "it is empty"),
        (b"<!DOCTYPE html><html><title>Google Drive - Virus scan warning</title>", "a web page"),
        (b"\n  <html lang='en'>", "a web page"),
        (archive(checkpoint=b"x" * 600), "a tar archive: unpack it"),
        (b"\x1f\x8b\x08" + bytes(100), "compressed: unpack it"),
        (pickle.dumps({"state_dict": 1}, 2), "torch.save did not write"),
        (b"resnet50: 76.1 %\n", "something else"),
        (b"\x08\x00\x00\x00\x00\x00\x00\x00{garbage", "damaged or cut short"),
        (b"PK\x03\x04" + bytes(200), "damaged or cut short"),
        ({}, "it holds no weights, but nothing"),
        ({"epoch": 3, "optimizer": {}}, "it holds no weights, but epoch, optimizer"),
        (torch.ones(3), "it holds one object"),
        (torch.nn.Linear(2, 2), "it holds one object (torch.nn.modules.linear.Linear)"),
        ({"weight": torch.ones(2)}, "1 keys are of none (weight, ...)"),
        ({"a\x1b[2Jb\n": torch.ones(2)}, r"'a\x1b[2Jb\n'"),
        ({"conv1.weight": torch.ones(2, 3, 7, 7), "layer1.0.conv1.weight": torch.ones(2)}, "must have the blocks of"),
        ({"conv1.weight": torch.ones(2, 3), "layer1.0.conv1.weight": torch.ones(2)}, "2 keys are of none"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_checkpoint(refusal, content, part):
    assert part in refusal(content)


def test_missing_and_folders(tmp_path):
    with pytest.raises(CheckpointError, match="there is a folder at"):
        read_released(tmp_path)
    with pytest.raises(CheckpointError, match="there is nothing at"):
        read_released(tmp_path / "x.pth")


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "resnet50d", "mobilenetv3_small_050", "resnext50_32x4d"])
def test_networks_of_others(refusal, name):
    """Also those whose keys begin like a released network's: then it says what is not as it must be."""
    message = refusal(create_model(name, num_classes=2).state_dict())
    assert "keys are of none" in message or "it is another architecture, or not whole" in message


def test_a_network_that_nobody_released(refusal):
    """The v1d stem with AN at the last norm of its bottlenecks: recognisable, but there is no such network."""
    state = {"conv1.0.weight": torch.zeros(32, 3, 3, 3)}
    for stage, blocks in enumerate((3, 4, 6, 3), 1):
        for block in range(blocks):
            state |= {f"layer{stage}.{block}.conv{i}.weight": torch.zeros(1) for i in (1, 2, 3)}
            state[f"layer{stage}.{block}.bn3.weight_"] = torch.zeros(10, 1)
    assert "those of a resnetv1d50_an_bn3" in refusal(state)


def test_what_does_not_fit_is_counted(refusal, theirs):
    state = dict(theirs)
    del state["features.3.conv.1.1.weight_"], state["features.3.conv.1.1.bias_"]
    state["features.99.extra"] = torch.ones(1)
    state["features.0.1.weight"] = torch.ones(31)
    message = refusal({"state_dict": state})
    assert "2 missing (first: features.3.conv.1.1.weight_)" in message
    assert "1 unexpected (first: features.99.extra)" in message
    assert "1 of another shape (first: features.0.1.weight (31,) for (32,))" in message


def test_another_number_of_components(refusal, network, theirs):
    """K is not in our network's name: another K is another network, not a silent one."""
    state = {k: v[:4] if v.shape[:1] == (5,) and "classifier" not in k else v for k, v in theirs.items()}
    assert "of another shape" in refusal(state)


def test_weights_of_another_type(refusal, theirs):
    assert "is of type torch.int64" in refusal(theirs | {"features.0.1.weight": torch.ones(32, dtype=torch.int64)})


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("part", [0.0001, 0.02, 0.5, 0.999])
def test_cut_short(tmp_path, refusal, theirs, legacy, part):
    """A download that stopped."""
    torch.save({"state_dict": theirs}, tmp_path / "x", _use_new_zipfile_serialization=not legacy)
    content = (tmp_path / "x").read_bytes()
    assert "damaged or cut short" in refusal(content[: int(len(content) * part)])


def test_a_flipped_bit(tmp_path, refusal, theirs):
    """The zip's checksums find it."""
    torch.save({"state_dict": theirs}, tmp_path / "x")
    content = bytearray((tmp_path / "x").read_bytes())
    content[len(content) // 2] ^= 1
    assert "Bad CRC-32" in refusal(bytes(content))


@pytest.mark.parametrize("legacy", [True, False])
def test_random_damage(refusal, tmp_path, legacy):
    """Bytes changed, lost and added anywhere: refused in one line, and never by another exception.

    The zip reader's errors of five kinds (an offset outside of the file, a name in no encoding, ...) were found so.
    """
    torch.save({"epoch": 3, "state_dict": {f"x{i}": torch.ones(3) for i in range(4)}}, tmp_path / "whole")
    if legacy:
        torch.save({"state_dict": {"x": torch.ones(3)}}, tmp_path / "whole", _use_new_zipfile_serialization=False)
    whole = (tmp_path / "whole").read_bytes()
    numbers = random.Random(0)
    for _ in range(400):
        damaged = bytearray(whole)
        at = numbers.randrange(len(damaged))
        new = numbers.randbytes(numbers.randrange(1, 5))
        damaged[at : at + numbers.choice([0, len(new), len(new)])] = new
        refusal(bytes(damaged))  # where it can still be read, its keys are no network's


def test_unfolding_zips_are_not_unfolded(refusal):
    """A compressed record may unfold to any size; torch writes none."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x/data.pkl", bytes(10_000_000))
    assert "missing, compressed or too large" in refusal(buffer.getvalue())


@pytest.mark.parametrize(
    ("claim", "part"),
    [
        (b"M\x61\x03", "is missing or shorter than its tensors"),
        (b"J\xff\xff\xff\x7f", "its tensors are larger than the file"),
        (b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f", "its tensors are larger than the file"),
        (b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\xff", "a size that is not a number from 0 to 2^63"),
    ],
)
def test_a_storage_larger_than_the_file(tmp_path, refusal, theirs, claim, part):
    """A size is a claim: no memory is taken for numbers that the file does not have."""
    torch.save({"state_dict": theirs}, tmp_path / "x", _use_new_zipfile_serialization=False)
    content = (tmp_path / "x").read_bytes()
    elements = b"M\x60\x03"  # the stem's 864, as the pickle has them
    assert elements in content
    assert part in refusal(content.replace(elements, claim, 1))
