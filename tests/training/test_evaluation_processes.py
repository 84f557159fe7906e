"""Evaluation over several processes gives the numbers of one: no image is left out, none counts twice."""

import json

import pytest
from timm.data import ImageNetInfo

from attnorm.data.imagenet_files import subset_wnids
from tests.imagenet import write_classes, write_image
from tests.processes import run_together
from tests.training.evaluating import results

WNIDS = ImageNetInfo().label_names()


@pytest.fixture
def uneven(tmp_path):
    """Odd numbers of images everywhere, so that the processes' shares differ; one image cannot be read."""
    for n in range(1001):
        write_image(tmp_path / "val" / WNIDS[n % 1000] / f"ILSVRC2012_val_{n + 1:08d}.JPEG", n)
    (tmp_path / "val" / WNIDS[500] / "ILSVRC2012_val_00000501.JPEG").write_bytes(b"broken")
    (tmp_path / "real.json").write_text(json.dumps([[n % 1000, *range(n % 7)] if n % 4 else [] for n in range(1001)]))
    write_classes(tmp_path / "imagenet-a", subset_wnids("imagenet_a"))
    write_image(tmp_path / "imagenet-a" / WNIDS[6] / "another.JPEG", 1000)
    write_classes(tmp_path / "imagenet-o", WNIDS[::5], start=1001)
    write_image(tmp_path / "imagenet-o" / WNIDS[0] / "another.JPEG", 1300)
    return tmp_path


@pytest.mark.parametrize("processes", [2, 4])
def test_several_processes_evaluate_as_one(uneven, tmp_path, tally, processes):
    """Scores of outliers are gathered, so that even areas are equal to the last bit; sums of losses are rounded."""
    alone = results(str(uneven))
    counts = {name: alone[name]["count"] for name in alone}
    # 750 of 1001 sets are not empty: every fourth, from the first, is
    assert counts == {"imagenet": 1000, "imagenet_real": 750, "imagenet_a": 201, "imagenet_o": 401}
    first, *others = run_together(results, processes, tmp_path / "meeting", str(uneven))
    assert all(other == first for other in others)
    for name, numbers in alone.items():
        assert {**first[name], "loss": 0} == {**numbers, "loss": 0}
        assert first[name].get("loss", 0) == pytest.approx(numbers.get("loss", 0), rel=1e-6)
    tally["processes"] += processes
