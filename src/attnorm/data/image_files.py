"""From an image file to its pixels: the one door for image files, whoever made them."""

from __future__ import annotations

import os
import re
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import IO, cast

from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from attnorm.data.images import convert
from attnorm.errors import DataError, shown

# What is opened, by Pillow's names, and what such files are called; the content decides, not the name. No others: some
# of Pillow's formats start programs (EPS) or are not images of pixels.
FORMATS = {
    "AVIF": (".avif",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "JPEG": (".jpeg", ".jpg"),
    "PNG": (".png",),
    "PPM": (".pgm", ".ppm"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
EXTENSIONS = tuple(sorted(extension for extensions in FORMATS.values() for extension in extensions))
MAX_PIXELS = 2**28 // 3  # 89 million: a quarter of a GiB in RGB, which is Pillow's default too
BYTES_PER_PIXEL = 24  # of memory while reading; measured up to 20, of an animated WebP
_MAX_SCANS = 100  # of a JPEG; each goes over the whole image, however few its bytes. libtiff's limit too
_MAX_LAYERS = 8  # how often a file may paint each pixel; a TIFF in planes does so once for each of its channels
_MAX_TAGS = 8  # how often the tags of a TIFF may take each byte of the file; they can all name the same
_TILE_WIDTH, _TILE_LENGTH = 322, 323  # TIFF's tags
_TIFF = re.compile(rb"(II|MM)(?:(\*\0|\0\*)|\+\0|\0\+)")  # the second group is not BigTIFF's
_TAG_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}  # of a value
_MARKER = re.compile(rb"\xff([\xc0-\xcf\xd9-\xfe])(..)?", re.DOTALL)  # of a JPEG, with the segment's length
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # by EXIF's orientation


def read_image(file: str | IO[bytes], in_chans: int = 3, size: tuple[int, int] | None = None) -> Image.Image:
    """Read an image upright and in RGB (in_chans 3) or grey (in_chans 1), 8 bits: the one door for image files.

    EXIF's orientation is applied; of an animation the first frame is taken; 16-bit grey is scaled to 8 bits; alpha is
    dropped, as torchvision and timm do. Of a file that is cut short nothing is taken.

    Whatever the file, reading takes at most BYTES_PER_PIXEL (24) bytes of memory for each of at most MAX_PIXELS (89
    million) pixels, 128 MiB, and a hundred times the file's size; of an image of more pixels nothing is decoded.
    Pillow's own limits are left as they are and not relied upon. Not for several threads at once.

    Args:
        file: a path or an open binary file.
        in_chans: 3 or 1.
        size: (width, height) that the image is said to have; where the stored image has it and the upright one has not,
            the image stays as it is stored.

    Raises:
        DataError: the file is damaged, is no image of FORMATS, claims more than MAX_PIXELS, is made to take hours, or
            has pixels of no known scale (32 bits). Does not name the file, the caller knows it.
    """
    if isinstance(file, str) and not os.path.isfile(file):  # opening a pipe would wait for ever
        raise DataError("not a readable image: there is no such file, or it is a folder, a pipe or a device")
    try:
        with warnings.catch_warnings(), _whole_files_only():
            warnings.simplefilter("ignore")  # about EXIF data, which do not touch the pixels, and about sizes
            with _opened(file) as opened, Image.open(opened, formats=_formats()) as image:
                _check_cost(image)
                image.load()
                return convert(_upright(image, size), in_chans)
    except DataError:
        raise
    except UnidentifiedImageError:
        raise DataError(f"not a readable image: its content is none of {', '.join(FORMATS)}, or damaged") from None
    except Exception as error:  # on damaged bytes Pillow's decoders raise a dozen kinds, down to AttributeError
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"not a readable image: {shown(reason, 200)}") from error


@cache
def _formats() -> tuple[str, ...]:
    """Those of FORMATS that this Pillow has."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


@contextmanager
def _whole_files_only() -> Iterator[None]:
    """Pillow gives what there is of a file cut short, grey below, where a program has set LOAD_TRUNCATED_IMAGES."""
    before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


@contextmanager
def _opened(file: str | IO[bytes]) -> Iterator[IO[bytes]]:
    with open(file, "rb") if isinstance(file, str) else nullcontext(file) as opened:
        _check_tags(opened)
        yield opened


def _check_tags(file: IO[bytes]) -> None:
    """Refuse a TIFF whose tags would fill the memory, which Pillow before 13 reads all of to open a file.

    Raises:
        DataError: says so.
    """
    length = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(16)
    if not (found := _TIFF.match(head)):
        return
    order = "<" if found[1] == b"II" else ">"
    start, count, tag = ("4xI8x", "H", "2xHI4x") if found[2] else ("8xQ", "Q", "2xHQ8x")
    if len(head) < 16 or (directory := struct.unpack(order + start, head)[0]) >= length:
        return
    file.seek(directory)
    entries = file.read()
    first, size = struct.calcsize(order + count), struct.calcsize(order + tag)
    number = struct.unpack_from(order + count, entries)[0] if len(entries) >= first else 0
    number = min(number, (len(entries) - first) // size)
    tags = struct.iter_unpack(order + tag, entries[first : first + number * size])
    taken = sum(min(_TAG_BYTES.get(kind, 1) * values, length) for kind, values in tags)
    if taken > _MAX_TAGS * length:
        raise DataError(f"a TIFF's tags may take each byte of the file {_MAX_TAGS} times; these take more")


def _check_cost(image: ImageFile.ImageFile) -> None:
    """Refuse an image whose decoding would take more memory or time than its size allows, before any of it is decoded.

    Raises:
        DataError: says so.
    """
    sizes = [image.size]
    if isinstance(image, TiffImageFile):
        tags = image.tag_v2
        sizes.append((tags.get(_TILE_WIDTH, 1), tags.get(_TILE_LENGTH, 1)))  # a tile is decoded whole
    for width, height in sizes:
        if width * height > MAX_PIXELS:
            raise DataError(f"an image may have at most {MAX_PIXELS} pixels; this one claims {width}x{height}")
    areas = [tile.extents or (0, 0, 0, 0) for tile in image.tile]
    painted = sum((right - left) * (lower - upper) for left, upper, right, lower in areas)
    if painted > _MAX_LAYERS * image.width * image.height:
        raise DataError(f"an image may paint each pixel {_MAX_LAYERS} times; this one does so more often")
    if isinstance(image, JpegImageFile) and _scans(cast(IO[bytes], image.fp)) > _MAX_SCANS:
        raise DataError(f"a JPEG may have at most {_MAX_SCANS} scans; this one has more")


def _scans(file: IO[bytes]) -> int:
    """How many scans a JPEG has; its file is left where it was."""
    place = file.tell()
    file.seek(0)
    content = file.read()
    file.seek(place)
    count, end = 0, 0
    while (marker := _MARKER.search(content, end)) and marker[1] != b"\xd9":
        count += marker[1] == b"\xda"
        # the length counts its own two bytes; after a scan's header its data follow, in which no marker can stand
        end = marker.end(1) + int.from_bytes(marker[2] or b"", "big")
    return count


def _upright(image: Image.Image, size: tuple[int, int] | None) -> Image.Image:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # as above; the pixels are good, only the EXIF block is not
        return image
    if orientation not in _UPRIGHT or (orientation >= 5 and image.width != image.height and image.size == size):
        return image
    return image.transpose(_UPRIGHT[orientation])
