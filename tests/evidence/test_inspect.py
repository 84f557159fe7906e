"""`attnorm inspect`: a network whose weights are known by hand, whole runs against weights taken otherwise, errors."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attnorm.cli import main
from attnorm.data import DataConfig, load_data
from attnorm.errors import ConfigError, JobError
from attnorm.evidence.inspect_config import InspectConfig
from attnorm.evidence.inspect_data import Batch
from attnorm.evidence.inspect_pass import look
from attnorm.evidence.mixture_summary import summarise
from attnorm.evidence.mixture_watch import MixtureWatch
from attnorm.layers import AttentiveBatchNorm2d
from attnorm.layers.attentive import AttentiveNorm
from attnorm.layers.walk import named_modules
from attnorm.models import create_model
from attnorm.training.checkpoint import CheckpointMeta, save_checkpoint

from ..training.saved_detector import save_tiny_detector, write_three_images
from .test_report import Page

PROJECTION = torch.tensor([[2.0, 0.0], [0.0, -1.5], [1.0, 1.0]], dtype=torch.float64)
VALUES = torch.tensor([[[0.1, 0.4]], [[0.9, 0.2]], [[0.5, -3.0]]], dtype=torch.float64)  # of three classes


class Mixed(nn.Module):
    """AN that sees each image; is called twice; sees four inputs for each image; and sees the first batch only."""

    def __init__(self) -> None:
        super().__init__()
        self.whole, self.twice, self.parts, self.some = self.layer(), self.layer(), self.layer(), self.layer()
        self.calls = 0

    @staticmethod
    def layer() -> AttentiveBatchNorm2d:
        made = AttentiveBatchNorm2d(2, 3, logit_norm=None, logit_bias=False, statistic="mean").double()
        made.attention.logits.weight.data.copy_(PROJECTION)
        return made

    def forward(self, x: Tensor) -> None:
        self.whole(x)
        self.twice(self.twice(x))
        self.parts(x.repeat(4, 1, 1, 1))
        self.calls += 1
        if self.calls == 1:
            self.some(x)


class Constants:
    """Images of one colour each, which stays what it is: class c has about the channels VALUES[c]."""

    name, rule, notes = "constants", "by hand", ()
    classes: tuple[str, ...] | None = ("a", "b", "c")

    def __init__(self, batch_size: int, classified: bool = True) -> None:
        self.batch_size = batch_size
        self.labels = np.arange(20) % 3
        self.means = VALUES[self.labels, 0] + torch.linspace(0, 0.3, 20, dtype=torch.float64)[:, None]
        if not classified:
            self.classes = None

    def batches(self):
        for start in range(0, 20, self.batch_size):
            chosen = slice(start, start + self.batch_size)
            images = [mean[:, None, None].expand(2, 3, 3) for mean in self.means[chosen]]
            yield Batch(images, None if self.classes is None else self.labels[chosen])

    def show(self, model, images):
        model(torch.stack(list(images)))


@pytest.fixture
def no_pictures(monkeypatch):
    monkeypatch.setattr("attnorm.evidence.inspect_pass._picture", lambda image: np.zeros((1, 1, 3), np.uint8))


@pytest.mark.parametrize("batch_size", [1, 7, 20])
def test_weights_known_by_hand(batch_size, no_pictures):
    """Lambda is hard_sigmoid(projection @ mean): what the sums say of it is what numpy says."""
    source, model = Constants(batch_size), Mixed().eval()
    with MixtureWatch(model) as watch:
        seen = look(model, watch, source, examples=2)
    weights = np.clip(source.means.numpy() @ PROJECTION.numpy().T + 3, 0, 6) / 6
    found = summarise(seen.layers["whole"])
    assert seen.images == 20
    assert seen.per_class == [7, 7, 6]
    assert list(seen.layers) == ["whole", "twice", "parts", "some"]
    assert [row["mean"] for row in found["per_component"]] == pytest.approx(weights.mean(0).tolist(), rel=1e-12)
    assert found["lambda_std_over_images"] == pytest.approx(weights.std(0, ddof=1).mean(), rel=1e-12)
    between = sum(
        np.square(weights[source.labels == c].mean(0) - weights.mean(0)).sum() * np.sum(source.labels == c)
        for c in range(3)
    )
    share = between / np.square(weights - weights.mean(0)).sum()
    assert found["lambda_share_between_classes"] == pytest.approx(share, rel=1e-9)
    assert {name: (s.per_image, s.samples) for name, s in seen.layers.items()} == {
        "whole": (True, 20),
        "twice": (False, 40),
        "parts": (False, 80),
        "some": (batch_size == 20, batch_size),
    }
    assert summarise(seen.layers["parts"])["lambda_mean"] == pytest.approx(weights.mean(), rel=1e-12)
    # Of two of three classes, the first image each.
    assert [(e.position, e.label) for e in seen.examples] == [(0, 0), (1, 1)]
    own = seen.examples[1].weights
    assert own["whole"] == pytest.approx(weights[1].tolist(), rel=1e-12)
    assert own.keys() == {name for name, statistics in seen.layers.items() if statistics.per_image}


def test_examples_where_classes_have_no_images(no_pictures):
    """Of four classes wanted the second and the fourth have no images: two others, the first to come, fill up."""
    source, model = Constants(3), Mixed().eval()
    source.classes = tuple("abcdefgh")
    source.labels = np.array([5, 5, 4, 7, 0, 1, 5, 0] + [3] * 12)
    with MixtureWatch(model) as watch:
        seen = look(model, watch, source, examples=4)  # of classes 0, 2, 4, 6
    assert [(e.position, e.label) for e in seen.examples] == [(4, 0), (2, 4), (0, 5), (3, 7)]


def test_images_without_classes(no_pictures):
    source, model = Constants(7, classified=False), Mixed().eval()
    with MixtureWatch(model, "whole") as watch:
        seen = look(model, watch, source, examples=9)
    assert list(seen.layers) == ["whole"]
    assert seen.per_class == []
    assert [e.position for e in seen.examples] == list(range(9))
    assert summarise(seen.layers["whole"])["lambda_share_between_classes"] is None


def test_weights_that_are_not_finite_are_refused(no_pictures):
    model = Mixed().eval()
    model.parts.attention.logits.weight.data[0, 0] = torch.nan
    with MixtureWatch(model) as watch, pytest.raises(JobError, match="mixture weights of parts must be finite"):
        look(model, watch, Constants(7))


def test_watching_ends_and_changes_nothing():
    layer = AttentiveBatchNorm2d(2, 3).eval()
    x = torch.randn(4, 2, 3, 3)
    before = layer(x)
    assert layer.has_closed_form
    with MixtureWatch(nn.Sequential(layer)) as watch:
        torch.testing.assert_close(layer(x), before)
        (weights,) = watch.take()["0"]
        torch.testing.assert_close(weights, layer.mixture_weights(x))
        watch.take()
        assert watch.take() == {}
    assert layer.has_closed_form


def save(path: Path, name: str = "resnet8_cifar_an", **fields: Any) -> Path:
    """A network of random weights that says it was trained on the digits."""
    torch.manual_seed(0)
    known = {"num_classes": 10, "in_chans": 1, "classes": tuple("0123456789"), "mean": (0.3,), "std": (0.4,)} | fields
    meta = CheckpointMeta(
        model=name, dataset="digits", image_size=8, crop_pct=1.0, interpolation="bilinear", **known
    )  # fmt: skip
    save_checkpoint(path, create_model(name, num_classes=known["num_classes"], in_chans=known["in_chans"]), meta)
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save(tmp_path_factory.mktemp("inspect") / "net.safetensors")


@pytest.fixture(scope="module")
def made(checkpoint, tmp_path_factory):
    """A whole run on the digits: the folder that it wrote."""
    output = tmp_path_factory.mktemp("made") / "new" / "folder"
    assert main(["inspect", "--checkpoint", str(checkpoint), "--output", str(output), "--batch-size", "100"]) == 0
    return output


def keeper(kept: dict[str, Tensor], name: str) -> Any:
    def keep(layer: Any, inputs: tuple[Tensor, ...]) -> None:
        kept[name] = layer.mixture_weights(inputs[0])

    return keep


@torch.no_grad()
def lambdas(checkpoint: Path) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """All weights, computed by another way than inspect's: each layer's own method, on the input that it gets."""
    from attnorm.training.checkpoint import load_checkpoint

    model, meta = load_checkpoint(checkpoint)
    kept: dict[str, Tensor] = {}
    for name, layer in named_modules(model):
        if isinstance(layer, AttentiveNorm):
            layer.register_forward_pre_hook(keeper(kept, name))
    data = load_data(DataConfig(dataset="digits"), ("val",)).val
    assert data is not None
    images, labels = data.__getitems__(range(len(data)))
    model((images.float() / 255 - meta.mean[0]) / meta.std[0])
    return {name: weights.double().numpy() for name, weights in kept.items()}, labels.numpy()


def test_a_whole_run_has_the_numbers_of_all_weights(checkpoint, made):
    result = json.loads((made / "inspect.json").read_text())
    weights, labels = lambdas(checkpoint)
    assert [layer["name"] for layer in result["layers"]] == list(weights)
    assert result["images"] == len(labels)
    assert [row["images"] for row in result["classes"]] == np.bincount(labels).tolist()
    for layer in result["layers"]:
        own = weights[layer["name"]]
        # float32 activations, batched otherwise
        assert layer["lambda_mean"] == pytest.approx(own.mean(), rel=1e-5)
        assert layer["lambda_std_over_images"] == pytest.approx(own.std(0, ddof=1).mean(), rel=1e-4)
        within = sum(np.square(own[labels == c] - own[labels == c].mean(0)).sum() for c in range(10))
        share = 1 - within / np.square(own - own.mean(0)).sum()
        assert layer["lambda_share_between_classes"] == pytest.approx(share, rel=1e-3)
        assert sum(map(sum, layer["histogram"])) == own.size
    for example in result["examples"]:
        assert labels[: example["position"] + 1].tolist().index(example["class"]) == example["position"]
        for name, own in example["lambda"].items():
            assert own == pytest.approx(weights[name][example["position"]].tolist(), abs=1e-4)
    assert [example["class"] for example in result["examples"]] == [0, 1, 2, 3, 5, 6, 7, 8]


def test_the_report_has_every_layer_and_loads_nothing(made):
    result = json.loads((made / "inspect.json").read_text())
    page = Page((made / "report.html").read_text())
    assert not page.open
    for layer in result["layers"]:
        assert layer["name"] in page.cells
        assert f"{100 * layer['lambda_share_between_classes']:.1f}%" in page.cells
    assert not set(page.tags) & {"script", "link", "img", "iframe", "object", "embed"}
    for _, name, value in page.attributes:
        if name in ("src", "href", "xlink:href"):
            assert value.startswith(("#", "data:image/png;base64,"))
        elif not name.startswith("xmlns"):
            assert "//" not in value
    for word in result["definitions"]:
        assert word in (made / "report.html").read_text()
    for picture in ("depth", "classes", "examples", "histograms"):
        assert (made / f"{picture}.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in made.iterdir() if path.suffix == ".part") == []


def test_fewer_images_are_evenly_spread(checkpoint, tmp_path, capsys):
    flags = ["--max-images", "50", "--layers", "layer[12]*", "--images", "0"]
    (tmp_path / "examples.png").write_bytes(b"of an earlier run")
    assert main(["inspect", "--checkpoint", str(checkpoint), "--output", str(tmp_path), *flags]) == 0
    result = json.loads((tmp_path / "inspect.json").read_text())
    data = load_data(DataConfig(dataset="digits"), ("val",)).val
    assert data is not None
    labels = [int(data[i * len(data) // 50][1]) for i in range(50)]
    assert [row["images"] for row in result["classes"]] == np.bincount(labels, minlength=10).tolist()
    assert [layer["name"] for layer in result["layers"]] == ["layer1.0.bn1", "layer2.0.bn1"]
    assert not (tmp_path / "examples.png").exists()
    out = capsys.readouterr().out
    assert re.search(r"layer1\.0\.bn1 +10 ", out)
    assert f"report: {tmp_path}/report.html" in out


def test_components_that_are_off_are_told(tmp_path, capsys):
    """The logit norm's weight and bias put one component at 0 and two at one value, for all images."""
    from attnorm.training.checkpoint import load_checkpoint

    path = save(tmp_path / "dead.safetensors")
    model, meta = load_checkpoint(path)
    norm = model.get_submodule("layer2.0.bn1.attention.logits.norm")
    norm.weight.data[[1, 4, 6]] = 0  # pyright: ignore
    norm.bias.data[[1, 4, 6]] = torch.tensor([-9.0, 0.6, -0.6])  # pyright: ignore
    save_checkpoint(path, model, meta)
    flags = ["--output", str(tmp_path), "--max-images", "40", "--layers", "layer2*", "--images", "3"]
    assert main(["inspect", "--checkpoint", str(path), *flags]) == 0
    (layer,) = json.loads((tmp_path / "inspect.json").read_text())["layers"]
    assert (layer["off"], layer["constant"]) == ([1], [4, 6])
    assert [layer["per_component"][k]["mean"] for k in (1, 4, 6)] == pytest.approx([0, 0.6, 0.4])
    assert "3 of 10 components are dead, in layer2.0.bn1 (1 off, 2 constant)." in capsys.readouterr().out
    assert "Dead components" in (tmp_path / "report.html").read_text()


def test_a_detector(tmp_path, capsys):
    """FPN layers see images, the box head regions; classes are those of the largest area."""
    norms = {"fpn_norm": "an_gn", "box_head": "4conv1fc", "box_norm": "an_gn"}
    path = save_tiny_detector(tmp_path / "net.safetensors", "faster_rcnn", **norms)
    data = write_three_images(tmp_path / "data")
    flags = ["--checkpoint", str(path), "--data-dir", str(data), "--output", str(tmp_path / "out")]
    assert main(["inspect", *flags]) == 0
    result = json.loads((tmp_path / "out" / "inspect.json").read_text())
    # Image 40: a cat of 600 pixels and a dog of 400; 41: a cat; 42: nothing.
    assert [(row["name"], row["images"]) for row in result["classes"]] == [("dog", 0), ("cat", 2), ("(no objects)", 1)]
    kinds = {layer["name"]: (layer["per_image"], layer["samples"]) for layer in result["layers"]}
    heads = {name for name, (per_image, _) in kinds.items() if not per_image}
    assert len(heads) == 4
    assert all(name.startswith("roi_heads") and kinds[name][1] > 3 for name in heads)
    fpn = [layer for layer in result["layers"] if layer["per_image"]]
    assert fpn
    assert all(layer["samples"] == 3 and layer["share_by_chance"] == 0.5 for layer in fpn)
    assert "no images" in capsys.readouterr().out
    assert "see regions of images" in (tmp_path / "out" / "report.html").read_text()


@pytest.fixture
def refused(capsys, tmp_path):
    """Runs a command that must fail with this exit code; gives its one line."""

    def call(code, *arguments, output=None):
        output = tmp_path / "out" if output is None else output
        assert main(["inspect", "--output", str(output), *map(str, arguments)]) == code
        out, err = capsys.readouterr()
        assert out == ""
        (line,) = err.splitlines()
        assert not Path(output, "inspect.json").exists()
        return line

    return call


def test_a_network_without_an(refused, tmp_path):
    path = save(tmp_path / "bn.safetensors", "resnet8_cifar")
    assert f"resnet8_cifar of {path} has none" in refused(2, "--checkpoint", path)


def test_a_pattern_that_matches_nothing(refused, checkpoint):
    line = refused(2, "--checkpoint", checkpoint, "--layers", "stage*")
    assert "such as layer1.0.bn1; got 'stage*'" in line


def test_a_broken_checkpoint(refused, tmp_path):
    path = tmp_path / "broken.safetensors"
    path.write_bytes(b"not weights")
    assert "must be a whole .safetensors file" in refused(1, "--checkpoint", path)


def test_data_of_other_channels(refused, tmp_path):
    path = save(tmp_path / "rgb.safetensors", in_chans=3, mean=(0.5,) * 3, std=(0.5,) * 3)
    line = refused(1, "--checkpoint", path)
    assert f"digits must have the 3 channels of {path}, it has 1" in line


def test_an_output_that_cannot_be_written(refused, checkpoint, tmp_path):
    (tmp_path / "file").write_text("")
    line = refused(1, "--checkpoint", checkpoint, output=tmp_path / "file" / "folder")
    assert "output must be a folder that can be written to" in line


def test_a_detector_on_classes(refused, tmp_path):
    path = save_tiny_detector(tmp_path / "net.safetensors", "faster_rcnn", fpn_norm="an_gn")
    assert "a detector needs boxes" in refused(2, "--checkpoint", path, "--dataset", "digits")


@pytest.mark.parametrize("flag", ["--annotations", "--image-folder"])
def test_settings_for_detectors_only(refused, checkpoint, flag):
    assert "does nothing for resnet8_cifar_an on digits; got x" in refused(2, "--checkpoint", checkpoint, flag, "x")


@pytest.mark.parametrize("flag", ["--batch-size", "--image-size"])
def test_settings_that_do_nothing_for_a_detector(refused, tmp_path, flag):
    path = save_tiny_detector(tmp_path / "net.safetensors", "faster_rcnn", fpn_norm="an_gn")
    assert "does nothing for faster_rcnn_resnet10t_fpn on coco; got 7" in refused(2, "--checkpoint", path, flag, "7")


@pytest.mark.parametrize(
    ("field", "value"), [("output", " "), ("images", -1), ("max_images", 1), ("batch_size", 0), ("workers", -1)]
)
def test_settings_that_cannot_be_meant(field, value):
    with pytest.raises(ConfigError, match=field):
        InspectConfig(**{"checkpoint": "x", "output": "o", field: value})


def test_flags():
    """A flag is a promise."""
    flags = """
        annotations batch_size checkpoint data_dir dataset device image_folder image_size images layers max_bad_images
        max_images output val_split workers
    """
    assert sorted(InspectConfig.__dataclass_fields__) == flags.split()
