"""Evaluation with sets of labels, with some of the outputs, and of outliers, against counts and areas by hand."""

import json

import pytest
import torch
from timm.data import ImageNetInfo
from torch import nn

from attnorm.cli import main
from attnorm.errors import DataError, JobError
from attnorm.models import create_model
from attnorm.training.checkpoint import CheckpointMeta, save_checkpoint
from attnorm.training.evaluation import Tally, evaluate
from attnorm.training.outliers import OutlierTally, measures
from tests.imagenet import write_classes, write_image

WNIDS = ImageNetInfo().label_names()
CPU = torch.device("cpu")


def counted(logits, labels, outputs=None):
    tally = Tally(CPU, outputs)
    for row, label in zip(logits, labels, strict=True):
        tally.add(torch.tensor([row]), torch.tensor([label]))
    return tally.result()


def test_any_of_a_set_of_labels_is_right():
    """Outputs ranked 6, 5, ..., 0. Right at once: the set with 6; within five: that with 2 and that with 1 and 4."""
    row = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    result = counted([row] * 4, [[6, 0, -1], [2, -1, -1], [0, 1, -1], [1, 4, 0]])
    assert result == {"top1": 25.0, "top5": 75.0, "count": 4}  # no loss: there is not one label


def test_an_output_that_may_not_answer_is_out_of_the_running():
    """Of seven outputs the odd ones compete: 5 is first although 6 is higher, and the loss is over three outputs."""
    row = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert counted([row] * 2, [5, 3])["top1"] == 0
    result = counted([row] * 2, [5, 3], outputs=[1, 3, 5])
    assert (result["top1"], result["top5"], result["count"]) == (50, 100, 2)
    log_sum = torch.tensor([1.0, 3.0, 5.0]).exp().sum().log().item()
    assert result["loss"] == pytest.approx(log_sum - (5 + 3) / 2, rel=1e-6)


def test_restriction_equals_a_network_without_the_other_outputs():
    """A second way to the same numbers: cut the columns out and number the labels anew."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(500, 40, generator=generator)
    outputs = [1, 2, 5, 11, 12, 13, 20, 31, 39]
    places = torch.randint(9, (500,), generator=generator)
    whole, cut = Tally(CPU, outputs), Tally(CPU)
    whole.add(logits, torch.tensor(outputs)[places])
    cut.add(logits[:, outputs], places)
    assert whole.result() == cut.result()
    assert 5 < whole.result()["top1"] < 20


# Scores of three outliers and four others, best first: 1, 0, 1, 0, 0, 1, 0. Precision where an outlier is found: 1/1,
# 2/3, 3/6. Of the 12 pairs of an outlier and another the outlier is the higher one in 4 + 3 + 1.
BY_HAND = {"aupr": 100 * (1 + 2 / 3 + 1 / 2) / 3, "auroc": 100 * 8 / 12, "fpr95": 100 * 3 / 4}
RANKED = torch.tensor([1, 0, 1, 0, 0, 1, 0])


def test_measures_of_a_detector_by_hand():
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3])
    assert measures(scores, RANKED) == pytest.approx(BY_HAND)
    assert measures(scores, 1 - RANKED) != pytest.approx(BY_HAND)  # which side is positive matters


def test_equal_scores_are_found_together():
    """All seven alike: precision is the share of outliers, every pair is undecided, and all others come along."""
    assert measures(torch.zeros(7), RANKED) == pytest.approx({"aupr": 300 / 7, "auroc": 50.0, "fpr95": 100.0})


def test_false_positives_are_counted_where_95_percent_are_found():
    """Twenty outliers: 19 of them are 95 %, found above one of four others; the last lies below all."""
    scores = torch.tensor([*range(100, 90, -1), 90.5, *range(90, 81, -1), 80.0, 79.0, 78.0, 1.0])
    labels = torch.tensor([1] * 10 + [0] + [1] * 9 + [0] * 3 + [1])
    assert measures(scores, labels)["fpr95"] == 25.0


@pytest.mark.parametrize(("score", "order"), [("max_softmax", [2, 0, 1]), ("max_logit", [1, 2, 0])])
def test_scores_by_hand(score, order):
    """Outputs 0 and 2 may answer. Probabilities: 1 / (1 + 1/e), 1 / (1 + 1/e^3), 1/2; largest logits: 5, 3, 4."""
    logits = torch.tensor([[5.0, 9.0, 4.0], [0.0, 9.0, 3.0], [4.0, 9.0, 4.0]])
    tally = OutlierTally([0, 2], score)
    tally.add(logits, torch.zeros(3))
    (scores,) = tally.scores
    assert scores.argsort(descending=True).tolist() == order
    if score == "max_softmax":
        e = torch.e
        expected = torch.tensor([-1 / (1 + 1 / e), -1 / (1 + e**-3), -0.5], dtype=torch.float64)
        torch.testing.assert_close(scores, expected)
    else:
        assert scores.tolist() == [-5, -3, -4]


def test_sure_answers_keep_their_order():
    """Probabilities 1 - 2e-9 and 1 - 1e-13 are both 1 in single precision, which would make them one score."""
    tally = OutlierTally()
    tally.add(torch.tensor([[20.0, 0.0], [30.0, 0.0]]), torch.tensor([1, 0]))
    assert tally.result()["auroc"] == 100


def test_outliers_that_cannot_be_measured():
    tally = OutlierTally()
    with pytest.raises(DataError, match="there are 0 outliers among 0 images"):
        tally.result()
    tally.add(torch.tensor([[1.0, 0.0], [float("nan"), 0.0]]), torch.tensor([1, 0]))
    with pytest.raises(JobError, match="for 1 of 2 images they are not"):
        tally.result()


class Colours(nn.Module):
    """Image n of `tests.imagenet` gets row n % 7 of a table."""

    def __init__(self):
        super().__init__()
        self.rows = nn.Parameter(torch.eye(7)[torch.tensor([3, 4, 0, 1, 2, 6, 5])])

    def forward(self, images):
        return self.rows[(images[:, 0, 0, 0] * 250 + images[:, 1, 0, 0]).round().long() % 7]


def test_evaluate_takes_another_measure():
    """Images 0 to 3 of `Colours` are given the classes 3, 4, 0, 1; three of the labels agree."""
    images = torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1).expand(4, 2, 1, 1).clone()
    images[:, 0] = 0
    batches = [(images[:3], torch.tensor([3, 4, 2])), (images[3:], torch.tensor([1]))]
    result = evaluate(Colours(), batches, mean=(0.0,) * 2, std=(1 / 255,) * 2, measure=Tally(CPU, range(7)))
    assert (result["top1"], result["count"]) == (75.0, 4)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A network of ImageNet's 1000 classes whose answer is output 7, then 3, 300, 301, ... by its classifier's bias."""
    torch.manual_seed(0)
    model = create_model("resnet20_cifar", num_classes=1000)
    with torch.no_grad():
        model.get_classifier().weight.mul_(1e-3)
        model.get_classifier().bias.copy_(-torch.arange(1000) / 100)
        model.get_classifier().bias[7], model.get_classifier().bias[3] = 3, 2
    meta = CheckpointMeta(
        model="resnet20_cifar",
        num_classes=1000,
        in_chans=3,
        classes=tuple(WNIDS),
        dataset="imagenet",
        image_size=8,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        crop_pct=1.0,
        interpolation="bilinear",
    )
    path = tmp_path_factory.mktemp("checkpoint") / "network.safetensors"
    save_checkpoint(path, model, meta)
    return path


def measured(checkpoint, tmp_path, *flags):
    answer = tmp_path / "answer.json"
    assert main(["eval", "--checkpoint", str(checkpoint), "--json", str(answer), *map(str, flags)]) == 0
    return json.loads(answer.read_text())


@pytest.fixture
def few(tmp_path):
    """A folder with val images of three of ImageNet's classes, outputs 3, 300 and 5; the wnids sort otherwise."""
    write_classes(tmp_path / "data" / "val", [WNIDS[3], WNIDS[300], WNIDS[5]])
    return tmp_path / "data"


def test_a_folder_with_some_of_the_networks_classes(checkpoint, few, tmp_path, capsys):
    """Output 7 comes first, and then 3: with all outputs competing no image is right at once, with three one is."""
    flags = ("--dataset", "folder", "--data-dir", few)
    result = measured(checkpoint, tmp_path, *flags)
    assert (result["top1"], result["count"], result["classes"], result["outputs"]) == (0, 3, 3, 1000)
    assert "3 images of 3 classes, all 1000 outputs compete" in capsys.readouterr().out
    result = measured(checkpoint, tmp_path, *flags, "--restrict-classes")
    assert (result["top1"], result["top5"]) == (pytest.approx(100 / 3), 100)
    assert (result["classes"], result["outputs"], result["network_outputs"]) == (3, 3, 1000)
    assert "3 images, 3 of 1000 outputs compete" in capsys.readouterr().out


def test_class_names_that_the_network_does_not_have(checkpoint, tmp_path, capsys):
    write_classes(tmp_path / "data" / "val", [WNIDS[3], "cat"])
    flags = ["--dataset", "folder", "--data-dir", str(tmp_path / "data")]
    assert main(["eval", "--checkpoint", str(checkpoint), *flags]) == 1
    assert "must have the 1000 classes" in (line := capsys.readouterr().err)
    assert "or some of them by the same names; it has 2" in line


@pytest.fixture(scope="module")
def variants(tmp_path_factory):
    """A folder that holds ImageNet's val, real.json and ImageNet-O, each in little."""
    root = tmp_path_factory.mktemp("variants")
    for i, wnid in enumerate(WNIDS):
        write_image(root / "val" / wnid / f"ILSVRC2012_val_{i + 1:08d}.JPEG", i)
    # One in ten has no right label; of the others every third has 3 and 7 beside its own.
    sets = [[] if i % 10 == 0 else [i, 3, 7] if i % 3 == 0 else [i] for i in range(1000)]
    (root / "real.json").write_text(json.dumps(sets))
    write_classes(root / "imagenet-o", WNIDS[100:300], start=3000)
    return root


def test_several_data_sets_at_once(checkpoint, variants, tmp_path, capsys):
    """Output 7 is the answer everywhere, then 3, then 0, 1, 2.

    Of the 1000 classes one is right at once and five are within the first five. ReaL leaves 100 out; 300 of the 900
    others have 3 and 7 as further labels, 7 (not divisible by 3) has its own, and of 1, 2, 3 the first two are alone.
    """
    flags = ("--dataset", "imagenet,imagenet_real,imagenet_o", "--data-dir", variants)
    plain, real, outliers = measured(checkpoint, tmp_path, *flags)["results"]
    assert (plain["top1"], plain["top5"], plain["count"]) == (0.1, 0.5, 1000)
    assert plain["loss"] > 0
    divisible = sum(i % 3 == 0 and i % 10 != 0 for i in range(1000))
    assert (real["count"], real["left_out"], real["loss"]) == (900, 100, None)
    assert real["top1"] == pytest.approx(100 * (divisible + 1) / 900)
    assert real["top5"] == pytest.approx(100 * (divisible + 1 + 2) / 900)
    assert (outliers["count"], outliers["outliers"], outliers["outputs"]) == (400, 200, 200)
    assert 0 < outliers["aupr"] < 100
    assert not {"top1", "loss", "published"} & outliers.keys()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[0] for line in lines] == [f"resnet20_cifar on {name}" for name in flags[1].split(",")]
    assert ", 100 without a label left out" in lines[1]
    assert "200 outliers are the positives, score max_softmax" in lines[2]
    assert "200 of 1000 outputs compete" in lines[2]


def test_the_published_numbers_stand_beside_the_measured_ones():
    """Weights do not say by which of two published recipes they were made: both are shown."""
    from attnorm.training import inference

    assert inference._published("resnet20_cifar", "imagenet") == []
    rows = inference._published("aognet_12m_an", "imagenet_a")
    assert [(row["recipe"], row["top1"], row["top5"]) for row in rows] == [
        ("normal", 9.5, 38.5),
        ("advanced", 13.3, 42.6),
    ]
    shown = {"model": "aognet_12m_an", "dataset": "imagenet_a", "top1": 9.25, "top5": 40.0, "loss": None, "count": 7500,
             "left_out": 0, "classes": 200, "outputs": 200, "network_outputs": 1000, "published": rows}  # fmt: skip
    assert inference.describe(shown) == [
        "aognet_12m_an on imagenet_a: top-1 9.25, top-5 40.00, loss not finite, 7500 images, "
        "200 of 1000 outputs compete",
        "  published: top-1 9.5, top-5 38.5 (normal recipe, docs/classification of iVMCL-Release)",
        "  published: top-1 13.3, top-5 42.6 (advanced recipe, docs/classification of iVMCL-Release)",
    ]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dataset", "digits,digits"], "dataset must name each data set once"),
        (["--dataset", "imagenet", "--id-dir", "x"], "id_dir belongs to dataset imagenet_o"),
        (["--dataset", "imagenet,imagenet_z", "--data-dir", "x"], "dataset must be one of digits"),
        (["--outlier-score", "entropy"], "outlier_score"),
    ],
)
def test_settings_that_cannot_be_meant(checkpoint, flags, message, capsys):
    assert main(["eval", "--checkpoint", str(checkpoint), *flags]) == 2
    assert message in capsys.readouterr().err
