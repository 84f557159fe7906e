"""COCO's run-length encoding of masks, read without a mask being made.

A mask (height, width) is the lengths of its runs, column by column, the first of zeros. COCO's files hold them as
numbers, or compressed to a text: each length but the first three less the length two before, in groups of five bits.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

LENGTHS = npt.NDArray[np.int64]
MOST_GROUPS = 8  # of five bits: 40 bits hold the pixels of any image, and shifts cannot overflow


def run_lengths(counts: str | bytes | list[int]) -> LENGTHS:
    """The lengths of the runs in an RLE's `counts`.

    Raises:
        ValueError: `counts` is no run-length encoding.
    """
    if isinstance(counts, list):
        if not all(type(count) is int and 0 <= count < 32**MOST_GROUPS for count in counts):
            raise ValueError("run lengths must be whole numbers from 0")
        return np.array(counts, dtype=np.int64)
    return _decompress(counts.encode() if isinstance(counts, str) else counts)


def check_size(segmentation: dict[str, Any], height: int, width: int) -> None:
    """Refuses an RLE that is not of an image of that size, since what reads it trusts it.

    Raises:
        ValueError: says what is wrong.
    """
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if size != [height, width]:
        raise ValueError(f"size must be [{height}, {width}], the image's height and width; got {size}")
    if not isinstance(counts, str | bytes | list):
        raise ValueError("an RLE needs counts")
    pixels = int(run_lengths(counts).sum())
    if pixels != height * width:
        raise ValueError(f"runs must cover the image's {height * width} pixels; they cover {pixels}")


def _decompress(text: bytes) -> LENGTHS:
    codes = np.frombuffer(text, dtype=np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero((codes & 32) == 0)  # bit 5: another group follows
    if len(codes) == 0 or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise ValueError("the text of an RLE is damaged")
    starts = np.concatenate([[0], ends[:-1] + 1])
    groups = ends - starts + 1
    if groups.max() > MOST_GROUPS:
        raise ValueError("the text of an RLE is damaged")
    position = np.arange(len(codes)) - np.repeat(starts, groups)
    lengths = np.add.reduceat((codes & 31) << (5 * position), starts)
    lengths -= np.where(codes[ends] & 16, np.left_shift(1, 5 * groups), 0)  # bit 4 of the last group: the sign
    for first in (1, 2):
        lengths[first::2] = lengths[first::2].cumsum()
    if lengths.min() < 0:
        raise ValueError("the text of an RLE is damaged")
    return lengths
