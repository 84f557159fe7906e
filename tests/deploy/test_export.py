"""`attnorm export`: the files, what they say of themselves, and what is refused."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from attnorm.cli import main
from attnorm.deploy import subject, verify
from attnorm.deploy.config import ExportConfig
from attnorm.deploy.export import export
from attnorm.errors import ConfigError, JobError
from attnorm.layers.attentive import AttentiveNorm
from attnorm.models import create_model, model_names
from benchmarks.inference_cost import enliven
from tests.deploy.test_fold import NODES, SIZES
from tests.training.saved_detector import save_tiny_detector

AN, BN = "resnet20_cifar_an.fashion_mnist", "resnet20_cifar.fashion_mnist"
# A program with the file alone: neither this package nor PyTorch. It prints the probabilities of pictures.
ALONE = """
import json, sys
import numpy as np, onnxruntime
from PIL import Image
session = onnxruntime.InferenceSession(sys.argv[1])
card = json.loads(session.get_modelmeta().custom_metadata_map["attnorm"])
mean, std = (np.array(card[key], np.float32).reshape(-1, 1, 1) for key in ("mean", "std"))
for path in sys.argv[2:]:
    pixels = np.asarray(Image.open(path).convert("L" if card["in_chans"] == 1 else "RGB"), np.float32)
    pixels = pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1) / 255
    logits = session.run(["logits"], {"images": ((pixels - mean) / std)[None]})[0][0]
    shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    print(json.dumps(dict(zip(card["classes"], shares.tolist(), strict=True))))
assert not {"attnorm", "torch"} & set(sys.modules)
"""
# The same with a .pt2, which needs PyTorch.
ALONE_PT2 = """
import json, sys
import numpy as np, torch
from PIL import Image
files = {"attnorm.json": ""}
network = torch.export.load(sys.argv[1], extra_files=files).module()
card = json.loads(files["attnorm.json"])
mean, std = (torch.tensor(card[key]).view(-1, 1, 1) for key in ("mean", "std"))
for path in sys.argv[2:]:
    pixels = torch.from_numpy(np.array(Image.open(path).convert("L")))[None] / 255
    logits = network(((pixels - mean) / std)[None])[0][0]
    print(json.dumps(dict(zip(card["classes"], logits.softmax(0).tolist(), strict=True))))
assert "attnorm" not in sys.modules
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The shipped AN network in both formats, its BN twin, and what the command says of each."""
    folder = tmp_path_factory.mktemp("export")
    said = {}
    for name, checkpoint in (("an.onnx", AN), ("an.pt2", AN), ("bn.onnx", BN)):
        said[name] = export(ExportConfig(checkpoint=checkpoint, output=str(folder / name)))
    return folder, said


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Pictures of the network's own size, so that no resizing stands between the pixels and the network."""
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    for index in range(3):
        coarse = Image.fromarray(generator.integers(0, 256, (4, 4), np.uint8))
        coarse.resize((28, 28)).save(folder / f"{index}.png")
    return folder


@pytest.mark.parametrize(("name", "program"), [("an.onnx", ALONE), ("an.pt2", ALONE_PT2)])
def test_file_and_metadata_alone_reproduce_predict(files, pictures, tmp_path, name, program):
    """In a process that does not import this package; to 1e-5 of a probability, float32 through twenty layers."""
    output = tmp_path / "predictions"
    assert main(["predict", "--checkpoint", AN, "--input", str(pictures), "--output", str(output)]) == 0
    predictions = json.loads((output / "predictions.json").read_text())["predictions"]
    paths = [item["image"] for item in predictions]
    command = [sys.executable, "-c", program, str(files[0] / name), *paths]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    for line, item in zip(done.stdout.splitlines(), predictions, strict=True):
        shares = json.loads(line)
        for row in item["top"]:
            assert shares[row["label"]] == pytest.approx(row["probability"], abs=1e-5)


def test_report_is_of_the_file(files):
    folder, said = files
    for name, result in said.items():
        assert result["size"] == (folder / name).stat().st_size
        shapes = [row["shape"] for row in result["differences"]]
        assert len({shape[0] for shape in shapes}) == 3
        assert any(shape[2] != shape[3] for shape in shapes)
        assert all(row["relative"] < 1e-5 for row in result["differences"])
    graph = onnx.load(folder / "an.onnx")
    onnx.checker.check_model(graph, full_check=True)
    assert sum(said["an.onnx"]["nodes"].values()) == len(graph.graph.node)
    assert graph.opset_import[0].version == said["an.onnx"]["opset"]
    axes = [[d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in graph.graph.input]
    assert axes == [["batch", 1, "height", "width"]]


def test_a_network_with_an_has_few_nodes_more(files):
    """Of the BN network's, convolutions with their norms inside and activations, nothing is added but AN itself."""
    said = files[1]
    layers = sum(isinstance(m, AttentiveNorm) for m in create_model("resnet20_cifar_an").modules())
    an, bn = (said[name]["nodes"] for name in ("an.onnx", "bn.onnx"))
    assert "BatchNormalization" not in bn
    assert sum(an.values()) - sum(bn.values()) <= NODES * layers + SIZES * 3
    assert (an["Conv"], an["Relu"]) == (bn["Conv"], bn["Relu"])


def test_no_path_of_this_machine_is_in_a_file(files):
    source = str(Path(torch.__file__).parents[1]).encode()
    for name in ("an.onnx", "an.pt2"):
        assert source not in (files[0] / name).read_bytes()


def test_beyond_the_tolerance_nothing_is_written(tmp_path, monkeypatch, capsys):
    def worse(*arguments, **options):
        return [verify.Difference((1, 1, 28, 28), 1.0, 0.5)]

    monkeypatch.setattr("attnorm.deploy.export.compare", worse)
    output = tmp_path / "net.onnx"
    flags = ["--checkpoint", BN, "--output", str(output)]
    assert main(["export", *flags, "--json", str(tmp_path / "said.json")]) == 1
    assert "differ by 5.0e-01" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert main(["export", *flags, "--tolerance", "0.6"]) == 0
    assert output.is_file()


def test_a_wrong_output_is_a_difference():
    """What `compare` finds: the error itself, NaN as infinitely far, a wrong number of objects too."""
    truth = torch.tensor([[1.0, -4.0]])
    assert verify._difference((1,), [(truth + 1, truth)]) == verify.Difference((1,), 1.0, 0.25)
    assert verify._difference((1,), [(truth * float("nan"), truth)]).relative == float("inf")
    assert verify._difference((1,), [(truth[:, :1], truth)]).relative == float("inf")
    nothing = truth[:0]
    assert verify._difference((1,), [(nothing, nothing)]).relative == 0


def test_features_of_a_network_by_name(tmp_path, lively):
    output = tmp_path / "net.onnx"
    result = export(ExportConfig(model="resnet8_cifar_an", output=str(output), features=True))
    assert max(row["relative"] for row in result["differences"]) < 1e-5
    card = json.loads({p.key: p.value for p in onnx.load(output).metadata_props}["attnorm"])
    assert len(card["strides"]) == len(result["outputs"]) > 2


def test_static_takes_one_image(tmp_path):
    output = tmp_path / "net.onnx"
    result = export(ExportConfig(model="resnet8_cifar_an", num_classes=5, output=str(output), static=True, opset=18))
    value = onnx.load(output).graph.input[0].type.tensor_type.shape
    assert [d.dim_value for d in value.dim] == [1, 3, 32, 32]
    assert "Shape" not in result["nodes"]


def test_int8_is_of_the_images_and_leaves_an_in_float(tmp_path):
    """On the digits, of which a run of a second is enough: most answers are those of the float network."""
    run = tmp_path / "run"
    flags = ["--model", "resnet8_cifar_an", "--dataset", "digits", "--epochs", "2", "--batch-size", "64", "--lr", "0.1"]
    assert main(["train", *flags, "--output", str(run)]) == 0
    checkpoint = str(run / "best.safetensors")
    assert Path(checkpoint).is_file(), list(run.iterdir())
    output = tmp_path / "int8.onnx"
    result = export(ExportConfig(checkpoint=checkpoint, output=str(output), int8=True, calibration_images=64))
    assert result["calibration_images"] == 64
    assert result["float_nodes"]["Gemm"] == 3 * 3
    assert "Conv" not in result["float_nodes"]
    graph = onnx.load(output).graph
    assert sum(tensor.data_type == onnx.TensorProto.INT8 for tensor in graph.initializer) >= 9


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"output": "a.onnx"}, "checkpoint or model must be given"),
        ({"checkpoint": AN, "output": "a.bin"}, "must end in .onnx or .pt2"),
        ({"checkpoint": AN, "output": "a.onnx", "format": "pt2"}, "must end in .pt2"),
        ({"checkpoint": AN, "output": "a.onnx", "pretrained": True}, "belong to model"),
        ({"model": "mask_rcnn_resnet50_fpn", "output": "a.onnx"}, "is a detector: give a checkpoint"),
        ({"checkpoint": AN, "output": "a.pt2", "int8": True}, "int8 is for"),
        ({"checkpoint": AN, "output": "a.onnx", "data_dir": "x"}, "add --int8"),
        ({"checkpoint": AN, "output": "a.onnx", "opset": 9}, "opset must be from 18"),
        ({"checkpoint": AN, "output": "a.onnx", "tolerance": 0.0}, "tolerance must be above 0"),
        ({"checkpoint": "mask_rcnn_resnet10_small_fpn.nuclei", "output": "a.pt2"}, "is a detector"),
        ({"checkpoint": "mask_rcnn_resnet10_small_fpn.nuclei", "output": "a.onnx", "int8": True}, "is a detector"),
    ],
)
def test_what_cannot_be_meant_is_refused(flags, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=words):
        export(ExportConfig(**flags))
    assert list(tmp_path.iterdir()) == []


def test_a_detector_by_the_authors_conventions_is_refused(tmp_path):
    checkpoint = save_tiny_detector(tmp_path / "net.safetensors", conventions="v1")
    with pytest.raises(ConfigError, match=r"conventions must be modern.*--features"):
        export(ExportConfig(checkpoint=str(checkpoint), output=str(tmp_path / "net.onnx")))
    assert not (tmp_path / "net.onnx").exists()


def test_a_network_that_cannot_be_traced_is_refused(tmp_path, monkeypatch):
    def fails(*arguments, **options):
        raise RuntimeError("data-dependent\nexpression")

    monkeypatch.setattr(torch.export, "export", fails)
    with pytest.raises(JobError, match=r"traceable.*data-dependent expression.*--static"):
        export(ExportConfig(model="resnet8_cifar", output=str(tmp_path / "a.onnx")))


KINDS = [
    "mask_rcnn",
    pytest.param("cascade_mask_rcnn", marks=pytest.mark.slow),
    pytest.param("faster_rcnn", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("kind", KINDS)
def test_detectors_find_what_they_find(tmp_path, kind):
    """As many objects, and the same, in three images; the first was not the one that was traced."""
    checkpoint = save_tiny_detector(tmp_path / "net.safetensors", kind)
    output = tmp_path / "net.onnx"
    result = export(ExportConfig(checkpoint=str(checkpoint), output=str(output)))
    assert len(result["differences"]) == 3
    assert ("mask_probabilities" in result["outputs"]) == (kind != "faster_rcnn")
    assert json.loads({p.key: p.value for p in onnx.load(output).metadata_props}["attnorm"])["category_ids"] == [3, 7]


@pytest.fixture
def lively(monkeypatch):
    """Networks by name come with weights under which every layer counts; timm's own start with branches of 0."""

    def create(name, **options):
        model = create_model(name, **options)
        if options.get("features_only"):
            return model  # takes the weights of one that came before
        side = 32 if "cifar" in name else 64
        return enliven(model, torch.randn(4, 3, side, side, generator=torch.Generator().manual_seed(0)))

    torch.manual_seed(0)
    monkeypatch.setattr(subject, "create_model", create)


NETWORKS = [*model_names(), "resnet50", "mobilenetv2_100", "densenet121"]
SMALL = "resnet10_small_an"  # half a minute for a network of timm's usual size
EVERY = [pytest.param(name, marks=() if name == SMALL else pytest.mark.slow) for name in NETWORKS]


# In a chain of random layers rounding grows: mobilenetv2_100_an is itself 6e-5 from its outputs in float64.
ROUNDING = 1e-3


def exported(folder, name, ending, **settings):
    """What is said of a network by name, on small images."""
    side = 32 if "cifar" in name else 64
    return export(
        ExportConfig(model=name, output=str(folder / f"net{ending}"), image_size=side, tolerance=ROUNDING, **settings)
    )


@pytest.mark.parametrize("name", EVERY)
def test_every_network(tmp_path, lively, name):
    """As ONNX, at three sizes of batches and images."""
    assert len({tuple(row["shape"]) for row in exported(tmp_path, name, ".onnx")["differences"]}) == 3


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_as_archive(tmp_path, lively, name):
    exported(tmp_path, name, ".pt2")


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_features_of_every_network(tmp_path, lively, name):
    exported(tmp_path, name, ".onnx", features=True)
