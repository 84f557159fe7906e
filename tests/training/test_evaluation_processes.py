"""Evaluation over two processes gives the numbers of one: no image is left out, none counts twice."""

import json

import pytest
import torch
from timm.data import ImageNetInfo

from attnorm.data.imagenet_files import subset_wnids
from tests.imagenet import write_classes, write_image
from tests.training.evaluating import process, results

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


def test_two_processes_evaluate_as_one(uneven):
    """Scores of outliers are gathered, so that even areas are equal to the last bit; sums of losses are rounded."""
    alone = results(str(uneven))
    counts = {name: alone[name]["count"] for name in alone}
    # 750 of 1001 sets are not empty: every fourth, from the first, is
    assert counts == {"imagenet": 1000, "imagenet_real": 750, "imagenet_a": 201, "imagenet_o": 401}
    output = uneven / "output"
    output.mkdir()
    torch.multiprocessing.spawn(process, (2, str(uneven / "meeting"), str(uneven), str(output)), nprocs=2)
    first, second = (json.loads((output / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    for name, numbers in alone.items():
        assert {**first[name], "loss": 0} == {**numbers, "loss": 0}
        assert first[name].get("loss", 0) == pytest.approx(numbers.get("loss", 0), rel=1e-6)
