"""The wheel and the source distribution of dist/, installed where nothing else is: `make test-wheel`.

Not part of the ordinary suite, which holds the same promises by hiding packages (tests/test_extras.py): each
environment takes gigabytes.
"""

import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
from PIL import Image

import attnorm
from attnorm.cli import COMMANDS
from attnorm.models import shipped
from tests.docs.blocks import blocks
from tests.release.environments import ROOT, SDIST, WHEEL, Environment, install, make_environment, wheel

CARDS = shipped.cards()
CLASSIFIER = "resnet20_cifar_an.fashion_mnist"
BEYOND_TORCH = ("timm", "torchvision", "numpy", "lightning", "jsonargparse", "safetensors")
LAYERS = """
import torch, attnorm
net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU()).eval()
images = torch.randn(4, 3, 9, 9)
before = net(images)
attnorm.replace_norm(net, {"1": 4}, preserve_function=True)
torch.testing.assert_close(net(images), before)
layer = attnorm.AttentiveGroupNorm(8, 4)
layer(net(images)).square().sum().backward()
print(type(net[1]).__name__, layer.weight.grad.isfinite().all().item(), attnorm.__file__)
"""


@pytest.fixture(scope="module", autouse=True)
def built():
    if not (WHEEL.is_file() and SDIST.is_file()):
        pytest.fail(f"{WHEEL} and {SDIST.name} must be there: make build")


@pytest.fixture(scope="module")
def torch_alone(tmp_path_factory) -> Environment:
    return make_environment(tmp_path_factory.mktemp("alone"), wheel())


@pytest.fixture(scope="module")
def with_models(tmp_path_factory) -> Environment:
    return make_environment(tmp_path_factory.mktemp("models"), wheel("models"))


@pytest.fixture(scope="module")
def with_train(tmp_path_factory) -> Environment:
    return make_environment(tmp_path_factory.mktemp("train"), wheel("train"))


def readme_example(folder: Path) -> Path:
    """README's first block of Python, as a file."""
    code = next(block.text for block in blocks("README.md") if block.language == "python")
    file = folder / "example.py"
    file.write_text(code, encoding="utf-8")
    return file


def picture(folder: Path) -> Path:
    """A grey picture of 28x28 pixels with a bright bar."""
    pixels = np.zeros((28, 28), np.uint8)
    pixels[4:24, 10:18] = 200
    Image.fromarray(pixels).save(folder / "picture.png")
    return folder / "picture.png"


def missing(environment: Environment, *command: str) -> str:
    """The extra that a command says is missing, in one line."""
    done = environment.run(*command)
    assert done.returncode == 1, done.stdout
    line = done.stderr.splitlines()[-1]
    found = re.search(r"needs the package \w+, which is not installed: pip install 'attnorm\[(\w+)\]'$", line)
    assert found, done.stderr
    return found[1]


def test_torch_alone_layers_work_and_are_the_wheels(torch_alone: Environment):
    name, finite, file = torch_alone.output("python", "-c", LAYERS).split()
    assert (name, finite) == ("AttentiveBatchNorm2d", "True")
    assert Path(file).is_relative_to(torch_alone.folder)
    absent = f"from importlib.util import find_spec; print([n for n in {BEYOND_TORCH!r} if find_spec(n)])"
    assert torch_alone.output("python", "-c", absent).strip() == "[]"


def test_torch_alone_the_command_line_helps_and_names_the_extras(torch_alone: Environment):
    assert torch_alone.output("attnorm", "--help").startswith("usage: attnorm COMMAND")
    assert torch_alone.output("attnorm", "--version") == f"attnorm {attnorm.__version__}\n"
    assert {command: missing(torch_alone, "attnorm", command, "--help") for command in COMMANDS} == dict.fromkeys(
        COMMANDS, "train"
    )
    assert missing(torch_alone, "python", "-c", "import attnorm; attnorm.load_released('x')") == "models"
    assert missing(torch_alone, "python", "-c", "import attnorm.models") == "models"


def test_a_type_checker_reads_the_installed_package(with_models: Environment):
    """Types of calls are known and a wrong argument is found: user_program.py has both."""
    program = with_models.work / "user_program.py"
    program.write_text((ROOT / "tests/release/user_program.py").read_text("utf-8"), "utf-8")
    settings = {"include": [program.name], "typeCheckingMode": "strict", "reportUnnecessaryTypeIgnoreComment": "error"}
    (with_models.work / "pyrightconfig.json").write_text(json.dumps(settings), "utf-8")
    run = [sys.executable, "-m", "pyright", "--pythonpath", str(with_models.python)]
    done = subprocess.run(run, cwd=with_models.work, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_models_the_readmes_example_runs(with_models: Environment):
    with_models.output("python", readme_example(with_models.work))
    assert missing(with_models, "attnorm", "models") == "train"


@pytest.mark.parametrize("name", [name for name, card in CARDS.items() if card["task"] == "classification"])
def test_models_shipped_networks_load(with_models: Environment, name: str):
    code = f"""
import timm, torch, attnorm.models
net = timm.create_model({name!r}, pretrained=True).eval()
print(net(torch.zeros(1, *net.pretrained_cfg["input_size"])).isfinite().all().item())
"""
    assert with_models.output("python", "-c", code).strip() == "True"


def test_train_the_readmes_example_runs(with_train: Environment):
    with_train.output("python", readme_example(with_train.work))


def test_train_networks_are_compared_on_the_digits(with_train: Environment):
    flags = "--dataset digits --epochs 1 --warmup-epochs 0 --batch-size 64 --seeds 0,1 --workers 0 --progress none"
    with_train.output(
        *("attnorm", "compare", "--models", "resnet8_cifar,resnet8_cifar_an", *flags.split(), "--output", "digits")
    )
    compared = json.loads((with_train.work / "digits/compare.json").read_text("utf-8"))
    assert {run["model"] for run in compared["runs"]} == {"resnet8_cifar", "resnet8_cifar_an"}
    assert (with_train.work / "digits/report.html").stat().st_size > 10_000


@pytest.mark.parametrize("name", CARDS)
def test_train_shipped_networks_predict(with_train: Environment, name: str):
    image = picture(with_train.work)
    with_train.output("attnorm", "predict", "--checkpoint", name, "--input", image, "--output", name)
    result = json.loads((with_train.work / name / "predictions.json").read_text("utf-8"))
    assert len(result["predictions"]) == 1


def test_train_commands_of_other_extras_name_them(with_train: Environment):
    assert missing(with_train, "attnorm", "export", "--checkpoint", CLASSIFIER, "--output", "net.onnx") == "export"
    assert missing(with_train, "attnorm", "demo", "--checkpoint", CLASSIFIER) == "demo"


def test_export_a_network_becomes_a_file_for_others(tmp_path: Path):
    environment = make_environment(tmp_path, wheel("export"))
    environment.output("attnorm", "export", "--checkpoint", CLASSIFIER, "--output", "net.onnx")
    run = "import onnxruntime as ort; print([i.name for i in ort.InferenceSession('net.onnx').get_inputs()])"
    assert len(json.loads(environment.output("python", "-c", run).replace("'", '"'))) == 1


def test_demo_the_page_is_served(tmp_path: Path):
    environment = make_environment(tmp_path, wheel("demo"))
    command = [environment.folder / "bin" / "attnorm", "demo", "--checkpoint", CLASSIFIER, "--port", "0"]
    with subprocess.Popen(command, cwd=environment.work, stdout=subprocess.PIPE, text=True) as page:
        try:
            assert page.stdout is not None
            address = re.search(r"http://127\.0\.0\.1:\d+", page.stdout.readline())
            assert address
            with urlopen(address[0], timeout=60) as answer:
                assert answer.status == 200
        finally:
            page.terminate()


def test_the_source_distribution_installs_with_pip_and_leaves_nothing_behind(tmp_path: Path):
    """Built by pip in an environment of its own, as a clone is by `pip install .`; the help needs not even torch."""
    environment = make_environment(tmp_path)
    before = environment.files()
    environment.output("python", "-m", "pip", "install", "--quiet", "--no-deps", SDIST)
    assert environment.output("attnorm", "--help").startswith("usage: attnorm COMMAND")
    environment.output("python", "-m", "pip", "uninstall", "--quiet", "--yes", "attnorm")
    assert [
        path for path in environment.files() - before if "attnorm" in str(path.relative_to(environment.folder))
    ] == []


def test_the_documentation_is_built_from_the_source_distribution(with_train: Environment, tmp_path: Path):
    with tarfile.open(SDIST) as archive:
        archive.extractall(tmp_path, filter="data")
    source = tmp_path / SDIST.name.removesuffix(".tar.gz")
    install(with_train, "--group", f"{source / 'pyproject.toml'}:docs")
    site = tmp_path / "site"
    with_train.output("mkdocs", "build", "--strict", "--quiet", "-f", source / "mkdocs.yml", "-d", site)
    pages = [os.path.relpath(page, source / "docs") for page in (source / "docs").rglob("*.md")]
    assert [page for page in pages if not (site / page).with_suffix(".html").is_file()] == []
