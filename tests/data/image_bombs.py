"""Small image files that would take an unwary reader's memory or hours."""

import struct
import zlib
from collections.abc import Callable

from PIL import Image, features

from tests.data.image_corpus import chunk, saved, tiff

PNG = b"\x89PNG\r\n\x1a\n"


def png(width: int, height: int, *chunks: bytes, bits: int = 8) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0))
    return PNG + head + b"".join(chunks) + chunk(b"IEND", b"")


def zeros(count: int) -> bytes:
    """So many zeros compressed, a thousandth of their size."""
    deflate = zlib.compressobj(9)
    first, block = ((deflate.compress(bytes(2**20)) + deflate.flush(zlib.Z_FULL_FLUSH)) for _ in range(2))
    rest = zlib.compressobj(9, wbits=-15)
    last = rest.compress(bytes(count % 2**20)) + rest.flush()
    whole = first + block * (count // 2**20 - 1) if count >= 2**20 else first[:2]
    return whole + last + struct.pack(">I", count % 65_521 << 16 | 1)  # Adler-32 of zeros


def one_colour_png() -> bytes:
    """30,000 by 30,000 pixels, all there, in 110 KB."""
    return png(30_000, 30_000, chunk(b"IDAT", zeros(30_000 * (30_000 // 8 + 1))), bits=1)


def text_png() -> bytes:
    """100 MB of a comment."""
    return png(1, 1, chunk(b"zTXt", b"Comment\0\0" + zeros(10**8)), chunk(b"IDAT", zlib.compress(b"\0\0")))


def texts_png() -> bytes:
    """Comments of just under Pillow's limit for one, 900 of them."""
    comments = [chunk(b"zTXt", b"%d\0\0" % number + zeros(2**20 - 1)) for number in range(3)] * 300
    return png(1, 1, *comments, chunk(b"IDAT", zlib.compress(b"\0\0")))


def profile_png() -> bytes:
    return png(1, 1, chunk(b"iCCP", b"icc\0\0" + zeros(10**8)), chunk(b"IDAT", zlib.compress(b"\0\0")))


def wide_frame_gif() -> bytes:
    """One pixel of screen, and a frame of 65,535 by 65,535."""
    content = bytearray(saved(Image.new("P", (1, 1)), "GIF"))
    place = content.index(b",", content.index(b"GIF") + 13)
    content[place + 5 : place + 9] = b"\xff" * 4
    return bytes(content)


def patched(content: bytes, mark: bytes, offset: int, new: bytes) -> bytes:
    place = content.index(mark) + offset
    return content[:place] + new + content[place + len(new) :]


def webp(side: int) -> bytes:
    """An animation of 8 by 8 pixels on a canvas of `side` by `side`."""
    few = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green")]
    content = saved(few[0], "WEBP", save_all=True, append_images=few[1:], lossless=True)
    return patched(content, b"VP8X", 12, 2 * struct.pack("<I", side - 1)[:3])


def jpeg_of_scans(count: int) -> bytes:
    """4,000 by 4,000 pixels in grey, gone over so many times more: 50 bytes and 8 ms each."""
    content = saved(Image.new("L", (4_000, 4_000), 128), "JPEG", progressive=True)
    last, end = content.rindex(b"\xff\xc4"), content.rindex(b"\xff\xd9")
    return content[:end] + content[last:end] * count + content[end:]


def tiled_tiff() -> bytes:
    """10 by 10 pixels in a tile of 32,768 by 32,768, all there."""
    packed = zeros(2**30)
    sizes = {256: (10,), 257: (10,), 322: (2**15,), 323: (2**15,)}
    return tiff(sizes | {258: (8,), 259: (8,), 262: (1,), 277: (1,), 324: (-1,), 325: (len(packed),)}, packed)


def painted_over_tiff() -> bytes:
    """Two strips of 4 MB, given a hundred thousand times."""
    sizes = {256: (4096,), 257: (2048,), 278: (1024,)}
    strips = {273: (-1,) * 100_000, 279: (2**22,) * 100_000}
    return tiff(sizes | {258: (8,), 259: (1,), 262: (1,), 277: (1,)} | strips, bytes(2**22))


def tags_tiff() -> bytes:
    """Sixty thousand tags, all with the same megabyte of text."""
    data_at = 8 + 2 + 12 * 60_000 + 4
    entries = b"".join(struct.pack("<HHII", 1000 + tag, 2, 2**20, data_at) for tag in range(60_000))
    return b"II*\0" + struct.pack("<IH", 8, 60_000) + entries + bytes(4) + bytes(2**20)


def tags_jpeg() -> bytes:
    """The same in EXIF data."""
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 3000)
    exif += b"".join(struct.pack("<HHII", 1000 + tag, 2, 20_000, 8 + 2 + 36_000 + 4) for tag in range(3000))
    exif += bytes(4) + bytes(20_000)
    content = saved(Image.new("L", (8, 8)), "JPEG")
    return content[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + content[2:]


def loop_tiff() -> bytes:
    """Pages that follow each other in a circle."""
    content = saved(Image.new("L", (4, 4)), "TIFF", save_all=True, append_images=[Image.new("L", (4, 4))])
    (first,) = struct.unpack("<I", content[4:8])
    (count,) = struct.unpack("<H", content[first : first + 2])
    (second,) = struct.unpack("<I", content[first + 2 + 12 * count :][:4])
    (more,) = struct.unpack("<H", content[second : second + 2])
    end = second + 2 + 12 * more
    return content[:end] + struct.pack("<I", first) + content[end + 4 :]


def avif() -> bytes:
    content = saved(Image.new("RGB", (8, 8)), "AVIF")
    return patched(content, b"ispe", 8, b"\x7f\xff\xff\xff" * 2)


def jpeg_header() -> bytes:
    return patched(saved(Image.new("L", (8, 8)), "JPEG"), b"\xff\xc0", 5, b"\xff\xff\xff\xff")


def bmp_header() -> bytes:
    return patched(saved(Image.new("L", (8, 8)), "BMP"), b"BM", 18, b"\xff\xff\xff\x7f" * 2)


def tiff_header() -> bytes:
    return tiff({256: (2**32 - 1,), 257: (2**32 - 1,), 258: (8,), 259: (1,), 262: (1,), 273: (-1,), 279: (1,)}, b"\0")


def gif_header() -> bytes:
    return patched(saved(Image.new("P", (1, 1)), "GIF"), b"GIF", 6, b"\xff" * 4)


REFUSED: dict[str, Callable[[], bytes]] = {
    "one_colour.png": one_colour_png,
    "header.png": lambda: png(2**31 - 1, 2**31 - 1, chunk(b"IDAT", zlib.compress(b"\0\0"))),
    "text.png": text_png,
    "texts.png": texts_png,
    "profile.png": profile_png,
    "header.gif": gif_header,
    "wide_frame.gif": wide_frame_gif,
    "canvas.webp": lambda: webp(16_383),
    "header.jpg": jpeg_header,
    "scans.jpg": lambda: jpeg_of_scans(5000),
    "header.bmp": bmp_header,
    "header.tif": tiff_header,
    "tiled.tif": tiled_tiff,
    "painted_over.tif": painted_over_tiff,
    "tags.tif": tags_tiff,
    "header.ppm": lambda: b"P6 999999999 999999999 255\n" + bytes(100),
    "digits.ppm": lambda: b"P6 " + b"9" * 10**6 + b" 1 255\n",
    **({"header.avif": avif} if features.check("avif") else {}),
}
READ: dict[str, Callable[[], bytes]] = {"tags.jpg": tags_jpeg, "loop.tif": loop_tiff}
