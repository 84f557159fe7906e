"""`attnorm models`: the list, what was published, and one network described."""

import json
import subprocess
import sys
from pathlib import Path

from attnorm.cli import main


def test_models_lists_names_and_parameters(tmp_path, capsys):
    assert main(["models", "--filter", "resnet8*", "--json", str(tmp_path / "models.json")]) == 0
    content = {item["name"]: item["parameters"] for item in json.loads((tmp_path / "models.json").read_text())}
    assert content.keys() == {"resnet8_cifar", "resnet8_cifar_an", "resnet8_cifar_se"}
    # 3x3 convolutions of 3-16-(16x2)-(32x2)-(64x2) channels, two 1x1 shortcuts, nine BatchNorms, 10 classes.
    convolutions = 9 * (3 * 16 + 16 * 16 * 2 + 16 * 32 + 32 * 32 + 32 * 64 + 64 * 64) + 16 * 32 + 32 * 64
    norms = 2 * (16 * 3 + 32 * 3 + 64 * 3)
    assert content["resnet8_cifar"] == convolutions + norms + 65 * 10
    assert main(["models", "--filter", "resnet8*"]) == 0
    text = capsys.readouterr().out
    assert "resnet8_cifar_an" in text
    assert "faster_rcnn_NETWORK_fpn, mask_rcnn_NETWORK_fpn, cascade_mask_rcnn_NETWORK_fpn" in text.splitlines()[-1]


def test_models_shows_what_was_published(tmp_path, capsys):
    """AN's row beside that of its BN twin, which is timm's network; both recipes; nothing where there is nothing."""
    assert main(["models", "--filter", "resnet50*"]) == 0
    lines = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}
    assert lines["resnet50"] == ["25.56", "M", "76.99", "[1]"]
    assert lines["resnet50_an"] == ["25.76", "M", "78.41", "[1]"]
    assert lines["resnet50_an_all"] == ["26.95", "M", "77.8", "[2]"]
    assert lines["resnet50_an_bn123"] == ["26.75", "M"]
    assert main(["models", "--filter", "aognet_40m", "--json", str(tmp_path / "models.json")]) == 0
    (model,) = json.loads((tmp_path / "models.json").read_text())
    assert [(row["recipe"], row["top1"], row["top5"]) for row in model["published"]] == [
        ("normal", 80.16, 95.06), ("advanced", 81.3, 95.53), ("normal", 80.2, 95.1), ("advanced", 81.2, 95.6)
    ]  # fmt: skip


def test_models_describes_one_network(tmp_path, capsys):
    assert main(["models", "--describe", "aognet_1m_cifar_an", "--plot", str(tmp_path / "graphs.svg")]) == 0
    text = capsys.readouterr().out
    assert text.startswith("aognet_1m_cifar_an: AOGNet, ")
    assert "AN, K = 20" in text
    assert (tmp_path / "graphs.svg").read_text().lstrip().startswith("<?xml")


def test_a_reader_that_has_seen_enough_is_no_error():
    """`attnorm models | head -1` ends quietly."""
    command = f"{sys.executable} -m attnorm.cli models --describe aognet_40m_an | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=Path(__file__).parents[2] / "src")
    assert done.stdout.startswith("aognet_40m_an: AOGNet")
    assert done.stderr == ""
