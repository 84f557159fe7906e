"""Masks as COCO stores them: polygons, and runs of zeros and ones down the columns (RLE), plain or compressed.

The one place that calls the mask functions of faster-coco-eval. There `counts` is bytes, in JSON files text.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from faster_coco_eval.core import mask as coco
from torch import Tensor

Size = tuple[int, int]  # height, width
Piece = tuple[bytes, bool]  # one instance of `Segmentations`: its bytes, and whether they are polygons

MAX_SIDE = 65_535  # pixels: JPEG's limit, and then the library's 32 bits hold the number of an image's pixels
MAX_OUTLINE = 2**22  # pixels: drawing an instance's polygons takes 50 bytes and 0.3 microseconds for each


def encode(masks: Tensor | np.ndarray) -> list[dict[str, Any]]:
    """Masks (n, H, W) of zeros and others to compressed RLE, ready for JSON."""
    array = np.asarray(masks).astype(bool).astype(np.uint8)
    if len(array) == 0:
        return []
    rles = coco.encode(np.asfortranarray(array.transpose(1, 2, 0)))
    return [{"size": [int(n) for n in rle["size"]], "counts": rle["counts"].decode()} for rle in rles]


def decode(rles: Sequence[dict[str, Any]], size: Size) -> Tensor:
    """Compressed RLEs of images of one size to masks, uint8 (n, H, W)."""
    if not rles:
        return torch.zeros(0, *size, dtype=torch.uint8)
    return torch.from_numpy(np.ascontiguousarray(coco.decode(list(rles)).transpose(2, 0, 1)))


def run_lengths(counts: bytes) -> np.ndarray:
    """The runs that compressed counts stand for, int64: zeros first, then ones, in turn.

    A number is written in groups of 5 bits, the lowest first, each as the character 48 + group, + 32 where another
    group follows; it is signed, and from the fourth on the difference to the run two before.

    Raises:
        ValueError: the text is not of that form.
    """
    groups = np.frombuffer(counts, dtype=np.uint8).astype(np.int64) - 48
    last = np.flatnonzero((groups & 32) == 0)
    if len(groups) == 0 or groups.min() < 0 or groups.max() > 63 or len(last) == 0 or last[-1] != len(groups) - 1:
        raise ValueError("not compressed counts")
    first = np.concatenate(([0], last[:-1] + 1))
    lengths = last - first + 1
    if lengths.max() > 7:
        raise ValueError("a run beyond 32 bits")
    places = np.arange(len(groups)) - np.repeat(first, lengths)
    values = np.add.reduceat((groups & 31) << (5 * places), first)
    values -= np.where(groups[last] & 16, np.int64(1) << (5 * lengths), 0)
    values[1::2] = values[1::2].cumsum()
    values[2::2] = values[2::2].cumsum()
    return values


@dataclass(frozen=True)
class Segmentations:
    """The masks of all instances, in the form of the file, packed: a Python object each would fill the memory.

    Attributes:
        data: bytes one after another: the float64 of polygons, with NaN between two polygons of an instance, or the
            characters of compressed RLE.
        starts: (A + 1,), where each instance's bytes begin in `data`.
        polygons: bool (A,), whether they are polygons.
    """

    data: np.ndarray
    starts: np.ndarray
    polygons: np.ndarray

    def stored(self, index: int, size: Size) -> list[list[float]] | dict[str, Any]:
        """An instance's mask as in a COCO file: a list of polygons, or a compressed RLE."""
        return _unpacked(self._piece(index), size)

    def masks(self, indices: Sequence[int], size: Size) -> Tensor:
        """The masks of instances of one image, uint8 (n, H, W)."""
        return decode([_rle(self._piece(index), size) for index in indices], size)

    def _piece(self, index: int) -> Piece:
        return self.data[self.starts[index] : self.starts[index + 1]].tobytes(), bool(self.polygons[index])


def _unpacked(piece: Piece, size: Size) -> list[list[float]] | dict[str, Any]:
    data, polygons = piece
    if not polygons:
        return {"size": list(size), "counts": data.decode()}
    numbers = np.frombuffer(data)
    parts = np.split(numbers, np.flatnonzero(np.isnan(numbers)))
    return [part[~np.isnan(part)].tolist() for part in parts]


def _rle(piece: Piece, size: Size) -> dict[str, Any]:
    stored = _unpacked(piece, size)
    return stored if isinstance(stored, dict) else coco.merge(coco.frPyObjects(stored, *size))  # pyright: ignore


def area(piece: Piece, size: Size) -> int:
    """The number of pixels in a mask."""
    return int(coco.area([_rle(piece, size)])[0])


def pack(pieces: Sequence[Piece]) -> Segmentations:
    """Join what `piece` gave for each instance."""
    lengths = [len(data) for data, _ in pieces]
    return Segmentations(
        np.frombuffer(b"".join(data for data, _ in pieces), dtype=np.uint8),
        np.concatenate(([0], np.cumsum(lengths, dtype=np.int64))),
        np.array([polygons for _, polygons in pieces], dtype=bool),
    )


def piece(segmentation: Any, size: Size) -> Piece:
    """Check one instance's segmentation and make it what `Segmentations` holds.

    Args:
        segmentation: as in a COCO file: polygons [[x, y, x, y, ...], ...], or {"size", "counts"}.
        size: of the image.

    Returns:
        The bytes, and whether they are polygons.

    Raises:
        ValueError: it is none of these, or does not fit the image; the message says what it is, in the plural.
    """
    if max(size) > MAX_SIDE:
        raise ValueError(f"masks of images with a side above {MAX_SIDE} pixels")
    if isinstance(segmentation, dict):
        return _runs_piece(segmentation, size), False
    if not isinstance(segmentation, list):
        raise ValueError("segmentations that are neither polygons nor RLE")
    numbers = array("d")
    outline = 0.0  # at most; what it is takes longer to find
    for polygon in segmentation:
        if numbers:
            numbers.append(math.nan)
        numbers.extend(_checked(polygon, size))
        outline += len(polygon) / 2 * (max(polygon) - min(polygon) + 1)
    if outline > MAX_OUTLINE and sum(map(_outline, segmentation)) > MAX_OUTLINE:
        raise ValueError(f"polygons with outlines above {MAX_OUTLINE} pixels")
    return numbers.tobytes(), True


def _checked(polygon: Any, size: Size) -> list[float]:
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
        raise ValueError("polygons with fewer than 6 numbers or an odd number of them")
    if not {int, float}.issuperset(map(type, polygon)) or not _is_finite_sum(polygon):
        raise ValueError("polygons with coordinates that are no finite numbers")
    # Drawing a polygon takes memory along its outline, far outside the image too.
    if min(polygon) < -max(size) or max(polygon) > 2 * max(size):
        raise ValueError("polygons that leave the image by more than its side")
    return polygon


def _is_finite_sum(numbers: list[float]) -> bool:
    try:
        return math.isfinite(sum(numbers))
    except OverflowError:  # a whole number that is too large for a float
        return False


def _outline(polygon: list[float]) -> float:
    """The pixels that the library draws: of each edge its longer extent, and one."""
    points = np.asarray(polygon, dtype=np.float64).reshape(-1, 2)
    return float(np.abs(points - np.roll(points, 1, axis=0)).max(1).sum() + len(points))


def _runs_piece(rle: dict[str, Any], size: Size) -> bytes:
    counts = rle.get("counts")
    if rle.get("size") != list(size):
        raise ValueError("RLEs of another size than the image")
    pixels = size[0] * size[1]
    try:
        if isinstance(counts, str):
            runs = run_lengths(counts.encode())
        elif isinstance(counts, list) and {int}.issuperset(map(type, counts)):
            runs = np.array(counts, dtype=np.int64)
        else:
            raise ValueError("neither of both")
        # each by itself too: the sum could pass through all the 64 bits and come out right
        proper = runs.min() >= 0 and runs.max() <= pixels and runs.sum() == pixels
    except (ValueError, OverflowError):
        proper = False
    if not proper:
        raise ValueError("RLEs whose runs do not make up the image")
    if isinstance(counts, str):
        return counts.encode()
    return coco.frPyObjects({"size": list(size), "counts": counts}, *size)["counts"]  # pyright: ignore
