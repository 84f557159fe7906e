"""Real data sets, mask by mask as pycocotools reads them."""

import contextlib
import io

import pytest
import torch
from pycocotools.coco import COCO

from attnorm.data import DataConfig, load_detection, make_loader


def truth(path):
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(path)


@pytest.fixture(params=["facade512", "nuclei", "coco_free"])
def name(request):
    return request.param


@pytest.mark.parametrize("part", ["train", pytest.param("val", marks=pytest.mark.slow)])
def test_boxes_and_masks_are_pycocotools(shared_data, name, part):
    data = load_detection(DataConfig(dataset="coco", data_dir=str(shared_data / name)), (part,))
    ours = getattr(data, part)
    theirs = truth(str(shared_data / name / "annotations" / f"instances_{part}.json"))
    assert [(c.id, c.name) for c in data.categories] == [
        (c["id"], c["name"]) for c in theirs.loadCats(theirs.getCatIds())
    ]
    labels = {id: label for label, id in enumerate(sorted(theirs.getCatIds()), 1)}
    with_objects = [id for id in theirs.imgs if theirs.getAnnIds(id, iscrowd=False)]
    assert ours.annotations.image_ids.tolist() == with_objects
    for index in range(0, len(ours), 11):
        image, target = ours[index][0], ours.annotations.target(index)
        annotations = theirs.loadAnns(theirs.getAnnIds(with_objects[index], iscrowd=False))
        assert target["labels"].tolist() == [labels[a["category_id"]] for a in annotations]
        masks = torch.stack([torch.from_numpy(theirs.annToMask(a)) for a in annotations])
        assert torch.equal(target["masks"], masks)
        assert masks.shape[1:] == image.shape[1:]
        boxes = torch.tensor([a["bbox"] for a in annotations])
        torch.testing.assert_close(target["boxes"], torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1))
        torch.testing.assert_close(target["area"], torch.tensor([float(a["area"]) for a in annotations]))


def test_the_ground_truth_is_the_file(shared_data, name):
    """Every annotation with its crowds, in the order of the images; masks compared as pixels."""
    ours = load_detection(DataConfig(dataset="coco", data_dir=str(shared_data / name)), ("val",)).val.ground_truth()
    theirs = truth(str(shared_data / name / "annotations" / "instances_val.json"))
    again = COCO()
    again.dataset = ours
    with contextlib.redirect_stdout(io.StringIO()):
        again.createIndex()
    expected = [a for id in theirs.imgs for a in theirs.imgToAnns[id]]
    assert len(ours["annotations"]) == len(expected) == len(theirs.anns)
    for mine, other in zip(ours["annotations"], expected, strict=True):
        for field in ("image_id", "category_id", "bbox", "area", "iscrowd"):
            assert mine[field] == other[field]
    for mine, other in list(zip(ours["annotations"], expected, strict=True))[::23]:
        assert (again.annToMask(mine) == theirs.annToMask(other)).all()
    crowds = [(m, o) for m, o in zip(ours["annotations"], expected, strict=True) if m["iscrowd"]]
    assert len(crowds) == (2 if name == "coco_free" else 0)
    assert all((again.annToMask(mine) == theirs.annToMask(other)).all() for mine, other in crowds)


def test_every_image_is_read(shared_data):
    data = load_detection(DataConfig(dataset="coco", data_dir=str(shared_data / "coco_free")))
    assert data.notes == (
        "coco train: 8 of 588 annotations are crowds: not learnt from, and no error where they are detected",
        "coco val: 2 of 254 annotations are crowds: not learnt from, and no error where they are detected",
    )
    for part in (data.train, data.val):
        sizes = [
            tuple(image.shape[1:]) for images, _ in make_loader(part, batch_size=4, train=False) for image in images
        ]
        assert sizes == [part.annotations.size(i) for i in range(len(part))]
