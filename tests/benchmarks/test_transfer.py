"""The transfer study: how data are cut, what its tables say, and which runs it takes."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import transfer, transfer_pages
from benchmarks.transfer import Run, Study


def record(**top1):
    """A record with two seeds; the arms not given are all 50."""
    arms = {arm: [50.0, 50.0] for arm in transfer_pages.ARMS}
    return {
        "format": transfer_pages.FORMAT, "finished": "2026-01-02T03:04:05+00:00", "command": "python -m x",
        "study": vars(Study()), "seeds": [0, 1], "parameters": {"bn": 78042, "an": 80000}, "swap_differs_by": 1e-12,
        "versions": {"torch": "2"}, "machine": {"cores": 2, "cuda": None},
        "top1": {"source": {"bn": [60.0, 62.0], "an": [61.0, 63.0]}, "fashion_mnist": arms, "cifar10": arms | top1},
    }  # fmt: skip


def test_tables():
    """Differences by hand: +1 and +3 points are 2 on average, 12.706 * sqrt(2) / sqrt(2) points of half width."""
    made = record(swapped=[52.0, 55.0], bn=[51.0, 52.0])
    lines = transfer_pages.difference_table(made).splitlines()
    assert lines[0] == "| difference in points [95%] | CIFAR-10 | Fashion-MNIST |"
    start = "| BN swapped to AN, fine-tuned − BN, fine-tuned"
    assert lines[2] == f"{start} | +2.00 [-10.71, +14.71], no difference shown | +0.00 |"
    accuracy = transfer_pages.accuracy_table(made).splitlines()
    assert "| BN swapped to AN, fine-tuned | 53.50 ± 2.12 | 50.00 ± 0.00 |" in accuracy


def test_the_section_and_the_picture_come_between_the_markers(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("")
    page = tmp_path / "docs" / "results.md"
    page.write_text("a\n<!-- transfer transfer_x:begin -->\nold\n<!-- transfer transfer_x:end -->\nb\n")
    (tmp_path / "results" / "transfer_x.json").write_text(json.dumps(record()))
    transfer_pages.renew(tmp_path / "results", tmp_path)
    text = page.read_text()
    assert "old" not in text
    assert "78,042" in text
    assert "(top-1 there: BN 61.00 %, AN 62.00 %)" in text
    assert (tmp_path / "docs" / "images" / "transfer_x.png").stat().st_size > 10_000


def test_pictures_of_both_sets_are_alike():
    grey = torch.randint(0, 256, (2, 1, 28, 28), dtype=torch.uint8)
    made = transfer.as_pictures(grey)
    assert made.shape == (2, 3, 32, 32)
    assert made[:, :, :2].sum() == made[..., -2:].sum() == 0
    assert all(torch.equal(made[:, channel, 2:-2, 2:-2], grey[:, 0]) for channel in range(3))
    colour = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(transfer.as_pictures(colour), colour)


def test_a_run_that_is_done_is_not_repeated(monkeypatch, tmp_path):
    commands = []
    monkeypatch.setattr(transfer, "attnorm", lambda *arguments: commands.append(arguments))
    run = Run(model="resnet8_cifar", data=tmp_path, epochs=2, lr=0.5, output=tmp_path / "run", initial=Path("a.x"))
    transfer.trained(run, Study(), 7)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "record.json").touch()
    transfer.trained(run, Study(), 7)
    assert len(commands) == 1
    given = [str(part) for part in commands[0]]
    pairs = {"--lr": "0.5", "--epochs": "2", "--seed": "7", "--initial-checkpoint": "a.x"}
    assert {name: given[given.index(name) + 1] for name in pairs} == pairs


def test_only_complete_seeds_count(tmp_path):
    arms = {"source": ("bn", "an"), **dict.fromkeys(transfer.SETS, transfer_pages.ARMS)}
    for seed in (0, 1):
        for part, names in arms.items():
            for place, arm in enumerate(names):
                folder = tmp_path / f"seed{seed}" / part / arm
                folder.mkdir(parents=True)
                content = {"top1": 10.0 * seed + place, "versions": {}, "environment": {}, "params": 1}
                (folder / "record.json").write_text(json.dumps(content))
        swap = {"largest_difference": 10.0 ** -(8 + seed)}
        (tmp_path / f"seed{seed}" / "source" / "swapped.json").write_text(json.dumps(swap))
    both = transfer.result(Study(), tmp_path, [0, 1])
    assert both["top1"]["source"] == {"bn": [0.0, 10.0], "an": [1.0, 11.0]}
    assert both["swap_differs_by"] == 1e-8
    (tmp_path / "seed0" / "cifar10" / "swapped" / "record.json").unlink()
    assert transfer.result(Study(), tmp_path, [0, 1])["seeds"] == [1]
    with pytest.raises(SystemExit, match="seed 0 lacks"):
        transfer.result(Study(), tmp_path, [0])


def test_two_studies_do_not_share_a_folder(tmp_path):
    transfer.check_study(Study(), tmp_path)
    transfer.check_study(Study(), tmp_path)
    with pytest.raises(SystemExit, match="another study"):
        transfer.check_study(Study(lr=0.2), tmp_path)
