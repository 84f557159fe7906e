"""The table of the ImageNet path, and how the answers of two networks are counted."""

import torch

from benchmarks import imagenette


def test_a_row():
    step = {
        "model": "resnet18_an", "epochs": 5, "baseline_top1": 50.2, "trained_top1": 55.2, "evaluated_top1": 55.2,
        "converted_and_reloaded_top1": 55.2, "converted_and_reloaded_loss_differs_by": 0.0,
        "difference": {"difference": 5.0, "interval": [1.94, 8.04], "only_an_right": 150, "only_bn_right": 100},
    }  # fmt: skip
    assert imagenette.table({"steps": [step]}).splitlines()[2] == (
        "| resnet18_an | 5 | 50.2 | 55.2 | +5.0 [+1.9, +8.0] | 150 / 100 | 55.2 | 55.2 | 0 |"
    )


def test_answers_are_kept_image_by_image():
    answers = imagenette.Answers()
    answers.add(torch.tensor([[1.0, 2.0], [3.0, 0.0]]), torch.tensor([1, 1]))
    answers.add(torch.tensor([[0.0, 1.0]]), torch.tensor([1]))
    assert torch.cat(answers.right).tolist() == [True, False, True]
    assert answers.result() == {"right": 2}


def test_only_the_images_that_differ_count(monkeypatch, tmp_path):
    """Of five images AN alone gets two right, BN alone one: a difference of 20 points."""
    answers = {"an": [1, 1, 1, 0, 0], "bn": [1, 0, 0, 1, 0]}
    monkeypatch.setattr(imagenette, "_answers", lambda file, _: torch.tensor(answers[file.parent.name]).bool())
    found = imagenette.differ(tmp_path / "an", tmp_path / "bn", tmp_path)
    assert (found["only_an_right"], found["only_bn_right"], found["images"]) == (2, 1, 5)
    assert found["difference"] == 20
    assert found["interval"] == imagenette.image_interval(2, 1, 5)
