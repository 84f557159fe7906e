"""The demo: what it says of an image against the same computed otherwise; its page through the server; its limits."""

import socket
import sys
import zlib
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import timm
import torch
from gradio_client import Client, handle_file
from PIL import Image
from torch import Tensor, nn

import attnorm.models  # noqa: F401  registers the networks with timm
from attnorm.cli import main
from attnorm.evidence.demo import POLICY
from attnorm.evidence.demo_examples import EXAMPLES, example_images
from attnorm.evidence.demo_network import LOWEST_SCORE, DemoNetwork
from attnorm.evidence.demo_page import Found, Page
from attnorm.layers.attentive import AttentiveNorm

from .demo_server import CLASSIFIERS, DETECTORS, serving

CPU = torch.device("cpu")
CLOTHES = {"T-shirt": "T-shirt/top", "trousers": "Trouser", "dress": "Dress", "boot": "Ankle boot", "bag": "Bag"}


@pytest.fixture(scope="module")
def classifiers() -> list[DemoNetwork]:
    return [DemoNetwork(name, CPU) for name in CLASSIFIERS]


@pytest.fixture(scope="module")
def detectors() -> list[DemoNetwork]:
    return [DemoNetwork(name, CPU) for name in DETECTORS]


@pytest.fixture(scope="module")
def boot() -> Image.Image:
    return EXAMPLES["fashion_mnist"]()["boot"]


def test_classes_are_those_of_the_network_by_itself(classifiers: list[DemoNetwork], boot: Image.Image):
    """The same weights through timm, on the image made ready by hand."""
    pixels = np.asarray(boot.convert("L").resize((28, 28), Image.Resampling.BILINEAR), dtype=np.float32) / 255
    for network in classifiers:
        model = timm.create_model(network.checkpoint, pretrained=True).eval()
        mean, std = network.meta.mean[0], network.meta.std[0]
        probabilities = model(torch.tensor((pixels - mean) / std)[None, None]).softmax(1)[0]
        answer = network.answer(boot)
        assert list(answer.classes.values()) == pytest.approx(probabilities.topk(5).values.tolist(), abs=1e-5)
        assert next(iter(answer.classes)) == "Ankle boot"
        assert answer.objects == []


def test_mixtures_are_those_that_the_layers_apply(classifiers: list[DemoNetwork], boot: Image.Image):
    """Each layer's output is its standardised input with the scales and shifts that the shown weights mix."""
    plain, attentive = classifiers
    assert plain.answer(boot).mixtures == {}
    layers = {key: m for key, m in attentive.model.named_modules() if isinstance(m, AttentiveNorm)}
    calls: dict[str, tuple[Tensor, Tensor]] = {}

    def keeper(name: str) -> Any:
        return lambda _, inputs, output: calls.update({name: (inputs[0], output)})

    handles = [layer.register_forward_hook(keeper(name)) for name, layer in layers.items()]
    mixtures = attentive.answer(boot).mixtures
    for handle in handles:
        handle.remove()
    assert list(mixtures) == list(layers)
    for name, layer in layers.items():
        x, y = calls[name]
        standard = nn.functional.batch_norm(x, layer.running_mean, layer.running_var, eps=layer.eps)  # type: ignore[arg-type]
        weights = torch.tensor(mixtures[name], dtype=torch.float32)
        expected = standard * (weights @ layer.weight)[:, None, None] + (weights @ layer.bias)[:, None, None]
        torch.testing.assert_close(y, expected.relu(), rtol=1e-4, atol=1e-4)  # the layers have ReLU inside
    assert len({tuple(weights) for weights in mixtures.values()}) == len(layers)


def test_the_drawn_clothes_are_what_they_are_called(classifiers: list[DemoNetwork]):
    for network in classifiers:
        drawn = example_images(network.checkpoint, network.meta)
        found = {name: next(iter(network.answer(image).classes)) for name, image in drawn.items()}
        assert found == CLOTHES


def test_other_examples(detectors: list[DemoNetwork]):
    """Of data that nothing is drawn for, such as the file of a COCO detector, there are none."""
    assert example_images("runs/mine/best.safetensors", detectors[0].meta) == {}
    assert len(example_images(detectors[0].checkpoint, detectors[0].meta)) == 2
    assert list(EXAMPLES["digits"]()) == [str(digit) for digit in range(10)]
    assert len(EXAMPLES["shapes"]()) == 3


def test_equal_names_stay_apart(classifiers: list[DemoNetwork], boot: Image.Image, monkeypatch: pytest.MonkeyPatch):
    """ImageNet has two classes of one name: neither may hide the other."""
    top = [{"label": "crane", "class": 134, "probability": 0.6}, {"label": "crane", "class": 517, "probability": 0.3}]
    monkeypatch.setattr("attnorm.evidence.demo_network.classify", lambda *_: top)
    assert classifiers[0].answer(boot).classes == {"crane (134)": 0.6, "crane (517)": 0.3}


def test_the_slider_hides_objects_without_detecting_anew(detectors: list[DemoNetwork]):
    """Above the highest score nothing is drawn; above the lowest, boxes cover more of the picture than at 0.5."""
    image = EXAMPLES["nuclei"]()["a few nuclei"]
    answers = [network.answer(image) for network in detectors]
    scores = [[entry["score"] for entry in answer.objects] for answer in answers]
    assert all(min(each) > LOWEST_SCORE and max(each) > 0.9 for each in scores)
    assert [len(answer.mixtures) for answer in answers] == [0, 4]
    page = Page(detectors, [], max_file_mb=1)
    found = Found(image, [answer.objects for answer in answers])

    def coloured(threshold: float) -> list[int]:
        return [int((np.ptp(np.asarray(p), axis=2) > 60).sum()) for p in page.redraw(found, threshold) if p is not None]

    none, some, all_of_them = coloured(1.0), coloured(0.5), coloured(LOWEST_SCORE)
    assert none == [0, 0]
    assert all(0 < few < many for few, many in zip(some, all_of_them, strict=True))
    assert page.redraw(None, 0.5) == [None, None]


def png_of(width: int, height: int) -> bytes:
    """The start of a PNG that claims a size."""
    header = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\0\0\0"
    chunks = ((13, header), (0, b"IDAT"))
    parts = [length.to_bytes(4, "big") + part + zlib.crc32(part).to_bytes(4, "big") for length, part in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_the_page_through_its_server(boot: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An image, files that are none, one that is too large; and no connection but to this machine."""
    addressed: list[Any] = []
    connect = socket.socket.connect
    monkeypatch.setattr(socket.socket, "connect", lambda s, to: (addressed.append(to), connect(s, to))[1])
    boot.save(tmp_path / "boot.png")
    (tmp_path / "notes.png").write_text("not an image")
    (tmp_path / "<b>huge.png").write_bytes(png_of(10_000, 10_000))
    with serving(*CLASSIFIERS) as url:
        assert httpx.get(url).headers["content-security-policy"] == POLICY
        client = Client(url, verbose=False)

        def show(name: str) -> list[Any]:
            return list(client.predict(handle_file(tmp_path / name), 0.5, api_name="/show"))

        outputs = show("boot.png")
        labels = [value for value in outputs if isinstance(value, dict) and "confidences" in value]
        assert [value["label"] for value in labels] == ["Ankle boot", "Ankle boot"]
        assert [len(value["confidences"]) for value in labels] == [5, 5]
        assert sum("ms** per image" in str(value) for value in outputs) == 2
        assert sum("<svg" in str(value) for value in outputs) == 1  # of the network that has AN
        said = str(show("notes.png"))
        assert "notes.png cannot be shown: its content is none of AVIF, BMP" in said
        assert "<svg" not in said
        said = str(show("<b>huge.png"))
        assert "an image may have at most 89478485 pixels; this one claims 10000x10000" in said
        assert "<b>" not in said
        for size, status in ((1_000_000, 200), (1_100_000, 413)):
            files = {"files": ("random.png", b"x" * size)}
            assert httpx.post(f"{url}/gradio_api/upload", files=files).status_code == status
    assert {address[0] for address in addressed} == {"127.0.0.1"}


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--against", DETECTORS[0]], 2, "both networks must have the same task; got resnet20_cifar classifies images"),
        (["--port", "70000"], 2, "port must be from 0 to 65535; got 70000"),
        (["--max-file-mb", "0"], 2, "max_file_mb must be at least 1; got 0"),
        (["--host", "192.0.2.1"], 1, "the demo must be able to listen on 192.0.2.1:7860, and cannot"),
    ],
)
def test_what_cannot_be_served_is_said_in_one_line(
    flags: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
):
    assert main(["demo", "--checkpoint", CLASSIFIERS[0], *flags]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_a_port_that_is_taken(capsys: pytest.CaptureFixture[str]):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["demo", "--checkpoint", CLASSIFIERS[0], "--port", str(port)]) == 1
    assert f"listen on 127.0.0.1:{port}, and cannot" in capsys.readouterr().err


def test_without_gradio_the_extra_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    for name in ("attnorm.evidence.demo", "attnorm.evidence.demo_page"):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["demo", "--checkpoint", CLASSIFIERS[0]]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("attnorm demo needs the package gradio, which is not installed: pip install 'attnorm[demo]'")
