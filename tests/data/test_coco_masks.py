"""Polygons and run lengths, compared with pycocotools."""

import numpy as np
import pytest
import torch
from pycocotools import mask as pycoco

from attnorm.data.coco_masks import area, decode, encode, pack, piece, run_lengths


def masks(count=40, height=23, width=17):
    rng = np.random.default_rng(0)
    share = rng.random((count, 1, 1)) ** 3
    return (rng.random((count, height, width)) < share).astype(np.uint8)


def test_encoding_is_pycocotools_and_comes_back():
    truth = masks()
    rles = encode(torch.from_numpy(truth))
    theirs = pycoco.encode(np.asfortranarray(truth.transpose(1, 2, 0)))
    assert rles == [{"size": rle["size"], "counts": rle["counts"].decode()} for rle in theirs]
    assert torch.equal(decode(rles, (23, 17)), torch.from_numpy(truth))
    assert encode(torch.zeros(0, 4, 5)) == []
    assert decode([], (4, 5)).shape == (0, 4, 5)


def test_run_lengths_are_counted_down_the_columns():
    for mask, rle in zip(masks(), encode(masks()), strict=True):
        pixels = mask.ravel(order="F")
        edges = np.flatnonzero(np.diff(pixels, prepend=0)).tolist()
        np.testing.assert_array_equal(run_lengths(rle["counts"].encode()), np.diff([0, *edges, pixels.size]))
    # a run that takes several characters, and differences below zero
    wide = np.zeros((1, 1000, 3000), dtype=np.uint8)
    wide[0, 500:600, 700:] = 1
    assert run_lengths(encode(wide)[0]["counts"].encode()).tolist() == [700500, *[100, 900] * 2299, 100, 400]


@pytest.mark.parametrize("counts", [b"", b"\x00", b"zz", b"oooooooooo0", b"0o"])
def test_text_that_is_no_run_lengths(counts):
    with pytest.raises(ValueError, match=r"not compressed counts|beyond 32 bits"):
        run_lengths(counts)


def test_every_form_gives_pycocotools_mask():
    """Two polygons in one, a polygon, plain and compressed runs: packed together and taken out one by one."""
    size, (mask,) = (40, 50), masks(1, 40, 50)
    triangles = [[3.2, 4.7, 30.1, 8.5, 12.3, 33.9], [30.0, 30.0, 45.5, 31.0, 38.0, 55.0]]  # the second leaves the image
    compressed = encode(mask[None])[0]
    plain = {"size": [40, 50], "counts": run_lengths(compressed["counts"].encode()).tolist()}
    stored = [triangles, triangles[:1], plain, compressed]
    packed = pack([piece(form, size) for form in stored])
    expected = [
        pycoco.decode(pycoco.merge(pycoco.frPyObjects(triangles, *size))),
        pycoco.decode(pycoco.frPyObjects(triangles[:1], *size))[..., 0],
        mask,
        mask,
    ]
    assert torch.equal(packed.masks(range(4), size), torch.from_numpy(np.stack(expected)))
    assert torch.equal(packed.masks([2, 0], size), torch.from_numpy(np.stack([mask, expected[0]])))
    assert [packed.stored(i, size) for i in range(4)] == [triangles, triangles[:1], compressed, compressed]
    assert [area(piece(form, size), size) for form in stored] == [int(m.sum()) for m in expected]


SIZE = (4, 5)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ("polygon", "neither polygons nor RLE"),
        ([[1, 1, 2, 2]], "fewer than 6 numbers"),
        ([[1, 1, 2, 2, 3, 3, 4]], "odd number"),
        ([1, 1, 2, 2, 3, 3], "fewer than 6 numbers"),
        ([[1, 1, 2, 2, 3, "3"]], "no finite numbers"),
        ([[1, 1, 2, 2, 3, float("nan")]], "no finite numbers"),
        ([[1, 1, 2, 2, 3, 10**400]], "no finite numbers"),
        ([[1, 1, 2, 2, 3, 1e9]], "leave the image by more than its side"),
        ({"counts": [20]}, "of another size"),
        ({"size": [5, 4], "counts": [20]}, "of another size"),
        ({"size": [4, 5]}, "do not make up the image"),
        ({"size": [4, 5], "counts": [19]}, "do not make up the image"),
        ({"size": [4, 5], "counts": [-1, 21]}, "do not make up the image"),
        ({"size": [4, 5], "counts": [10.0, 10.0]}, "do not make up the image"),
        ({"size": [4, 5], "counts": [[20]]}, "do not make up the image"),
        ({"size": [4, 5], "counts": []}, "do not make up the image"),
        ({"size": [4, 5], "counts": "04"}, "do not make up the image"),
        ({"size": [4, 5], "counts": "é"}, "do not make up the image"),
    ],
)
def test_segmentations_that_are_refused(segmentation, message):
    with pytest.raises(ValueError, match=message):
        piece(segmentation, SIZE)


@pytest.mark.parametrize("segmentation", [{"size": [10**9, 9], "counts": [9 * 10**9]}, [[0, 0, 9, 9, 0, 9]]])
def test_images_whose_pixels_the_library_cannot_count(segmentation):
    with pytest.raises(ValueError, match="masks of images with a side above 65535 pixels"):
        piece(segmentation, (10**9, 9))
