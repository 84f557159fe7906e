"""Image files of every format and kind that is read, made from a seed, each with the pixels it stands for."""

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, features
from torchvision.io import decode_jpeg, decode_webp

# EXIF 2.32, tag 274: from the stored rows and columns to those of the scene
UPRIGHT = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels, 1),
}
# of Adam7, PNG's interlacing: first row and column of each pass, and the steps
PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
LOSSY = {"jpeg": decode_jpeg, "webp": decode_webp}  # by torchvision, which has decoders of its own


@dataclass(frozen=True)
class Specimen:
    """A sound image file.

    Attributes:
        name: with the usual extension.
        content: the file.
        pixels: what must be read, uint8 (H, W, 3).
        tolerance: by which a pixel may differ, where the format loses some of it.
    """

    name: str
    content: bytes
    pixels: np.ndarray
    tolerance: int = 0


def saved(image: Image.Image, format: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def has_zstd() -> bool:
    """Whether this Pillow was built with it, which it says only by failing."""
    try:
        return bool(saved(Image.new("L", (1, 1)), "TIFF", compression="zstd"))
    except OSError:
        return False


def in_rgb(grey: np.ndarray) -> np.ndarray:
    return np.stack([grey] * 3, -1)


def png(pixels: np.ndarray, *, colour_type: int, interlaced: bool = False) -> bytes:
    """A PNG of uint8 or uint16 (H, W, channels), which may be of kinds that Pillow does not write."""
    big_endian = pixels.astype(pixels.dtype.newbyteorder(">"))
    parts = [big_endian[y::dy, x::dx] for y, x, dy, dx in PASSES] if interlaced else [big_endian]
    rows = b"".join(b"\0" + row.tobytes() for part in parts if part.size for row in part)
    head = struct.pack(">IIBBBBB", *pixels.shape[1::-1], 8 * pixels.itemsize, colour_type, 0, 0, interlaced)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def tiff(tags: dict[int, tuple[int, ...]], data: bytes, kinds: str = "I") -> bytes:
    """A little-endian TIFF; the tags' values are 32-bit numbers, and -1 stands for where the data begin."""
    longer = sum(len(values) for values in tags.values() if len(values) > 1)
    after = 8 + 2 + 12 * len(tags) + 4
    values_at, data_at = after, after + 4 * longer
    entries, outside = b"", b""
    for tag, values in sorted(tags.items()):
        packed = struct.pack(f"<{len(values)}{kinds}", *(data_at if value == -1 else value for value in values))
        entries += struct.pack("<HHI", tag, 4, len(values))
        entries += packed if len(values) == 1 else struct.pack("<I", values_at + len(outside))
        outside += packed if len(values) > 1 else b""
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + b"\0\0\0\0" + outside + data


def scene(seed: int, height: int = 24, width: int = 40) -> np.ndarray:
    """Uint8 (height, width, 3), smooth, so that lossy formats keep it, and without any symmetry."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / max(height, width)
    waves = [128 + 70 * np.sin(rng.uniform(1, 6) * x + rng.uniform(1, 6) * y + rng.uniform(0, 6)) for _ in range(3)]
    return np.stack(waves, -1).round().astype(np.uint8)


def sound_images(seed: int = 0) -> list[Specimen]:
    """The whole corpus."""
    pixels = scene(seed)
    return [*_lossless(pixels), *_sixteen_bits(seed, pixels), *_lossy(pixels), *_animations(seed), *_turned(seed)]


def _lossless(pixels: np.ndarray) -> Iterator[Specimen]:
    height, width, _ = pixels.shape
    colour, grey = Image.fromarray(pixels), Image.fromarray(pixels[..., 0])
    alpha = Image.fromarray(pixels[..., ::-1].copy()[..., 0])
    rgba, la = colour.copy(), grey.copy()
    rgba.putalpha(alpha)
    la.putalpha(alpha)
    bits = Image.fromarray(pixels[..., 0] > 128)
    black_white = in_rgb(np.where(pixels[..., 0] > 128, np.uint8(255), np.uint8(0)))
    palette = Image.fromarray(pixels[..., 1] // 64, "P")
    colours = np.array([[9, 8, 7], [60, 50, 40], [200, 10, 100], [255, 250, 240]], dtype=np.uint8)
    palette.putpalette(colours.tobytes())
    by_palette, by_grey = colours[pixels[..., 1] // 64], in_rgb(pixels[..., 0])
    yield from (
        Specimen("rgb.png", saved(colour, "PNG"), pixels),
        Specimen("rgba.png", saved(rgba, "PNG"), pixels),
        Specimen("grey.png", saved(grey, "PNG"), by_grey),
        Specimen("grey_alpha.png", saved(la, "PNG"), by_grey),
        Specimen("one_bit.png", saved(bits, "PNG"), black_white),
        Specimen("palette.png", saved(palette, "PNG", transparency=b"\x00\x80\xff"), by_palette),
        Specimen("transparent_colour.png", saved(colour, "PNG", transparency=tuple(pixels[0, 0].tolist())), pixels),
        Specimen("interlaced.png", png(pixels, colour_type=2, interlaced=True), pixels),
        Specimen("rgb.bmp", saved(colour, "BMP"), pixels),
        Specimen("rgba.bmp", saved(rgba, "BMP"), pixels),
        Specimen("palette.bmp", saved(palette, "BMP"), by_palette),
        Specimen("one_bit.bmp", saved(bits, "BMP"), black_white),
        Specimen("palette.gif", saved(palette, "GIF"), by_palette),
        Specimen("interlaced.gif", saved(palette, "GIF", interlace=1), by_palette),
        Specimen("rgb.ppm", saved(colour, "PPM"), pixels),
        Specimen("text.ppm", f"P3 {width} {height} 255 {' '.join(map(str, pixels.ravel()))} ".encode(), pixels),
        Specimen("grey.pgm", saved(grey, "PPM"), by_grey),
        Specimen("rgba.webp", saved(rgba, "WEBP", lossless=True, exact=True), pixels),
        Specimen("rgba.tif", saved(rgba, "TIFF"), pixels),
        Specimen("palette.tif", saved(palette, "TIFF", compression="tiff_lzw"), by_palette),
        Specimen("fax.tif", saved(bits, "TIFF", compression="group4"), black_white),
        Specimen("pages.tif", saved(colour, "TIFF", save_all=True, append_images=[grey, rgba]), pixels),
    )
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", *(["zstd"] if has_zstd() else [])):
        yield Specimen(f"{compression}.tif", saved(colour, "TIFF", compression=compression), pixels)
    tile = np.zeros((32, 48, 3), dtype=np.uint8)
    tile[:height, :width] = pixels
    tags = {256: (width,), 257: (height,), 258: (8, 8, 8), 259: (8,), 262: (2,), 277: (3,), 322: (48,), 323: (32,)}
    packed = zlib.compress(tile.tobytes())
    yield Specimen("tiled.tif", tiff(tags | {324: (-1,), 325: (len(packed),)}, packed), pixels)


def _sixteen_bits(seed: int, pixels: np.ndarray) -> Iterator[Specimen]:
    fine = pixels.astype(np.uint16) * 257 + np.random.default_rng(seed).integers(0, 257, pixels.shape, dtype=np.uint16)
    fine = fine.clip(0, 65535).astype(np.uint16)
    grey = Image.fromarray(fine[..., 0])
    grey_8 = in_rgb((fine[..., 0] // 257).astype(np.uint8))
    yield from (
        Specimen("grey16.png", saved(grey, "PNG"), grey_8),
        Specimen("grey16.tif", saved(grey, "TIFF"), grey_8),
        Specimen("grey16.pgm", saved(grey, "PPM"), grey_8),
        Specimen("grey16_lzw.tif", saved(grey, "TIFF", compression="tiff_lzw"), grey_8),
        Specimen("rgb16.png", png(fine, colour_type=2), (fine >> 8).astype(np.uint8)),  # Pillow drops the lower byte
        Specimen("rgb16_interlaced.png", png(fine, colour_type=2, interlaced=True), (fine >> 8).astype(np.uint8)),
    )


def _lossy(pixels: np.ndarray) -> Iterator[Specimen]:
    colour, grey = Image.fromarray(pixels), Image.fromarray(pixels[..., 0])
    inks = Image.fromarray(np.concatenate([255 - pixels, np.zeros_like(pixels[..., :1])], -1), "CMYK")
    for name, image, options in (
        ("baseline.jpeg", colour, {}),
        ("progressive.jpeg", colour, {"progressive": True}),
        ("restarts.jpeg", colour, {"restart_marker_blocks": 1, "subsampling": 0}),
        ("grey.jpeg", grey, {}),
        ("lossy.webp", colour, {}),
    ):
        format = name.split(".")[1]
        content = saved(image, format, **options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torchvision's decoders move to another package
            theirs = LOSSY[format](torch.frombuffer(bytearray(content), dtype=torch.uint8)).permute(1, 2, 0).numpy()
        yield Specimen(name, content, np.broadcast_to(theirs, pixels.shape), tolerance=1)
    yield Specimen("cmyk.jpg", saved(inks, "JPEG", quality=100), pixels, tolerance=6)
    yield Specimen("cmyk_progressive.jpg", saved(inks, "JPEG", quality=100, progressive=True), pixels, tolerance=6)
    yield Specimen("jpeg.tif", saved(colour, "TIFF", compression="jpeg", quality=100), pixels, tolerance=6)
    yield Specimen("cmyk.tif", saved(inks, "TIFF", compression="tiff_lzw"), pixels)
    if features.check("avif"):
        yield Specimen("rgb.avif", saved(colour, "AVIF", quality=100, subsampling="4:4:4"), pixels, tolerance=6)


def _animations(seed: int) -> Iterator[Specimen]:
    """The first frame is what counts, whatever follows."""
    frames = [scene(seed + number, 20, 30) // 32 * 32 for number in range(3)]
    first, *others = (Image.fromarray(frame) for frame in frames)
    few = [Image.fromarray(frame[..., 0] // 32, "P") for frame in frames]
    for image in few:
        image.putpalette([value for level in range(8) for value in (30 * level, 20 * level, 10 * level)])
    colours = (frames[0][..., 0] // 32)[..., None] * np.array([30, 20, 10], dtype=np.uint8)
    yield Specimen("animated.gif", saved(few[0], "GIF", save_all=True, append_images=few[1:], duration=50), colours)
    yield Specimen("animated.png", saved(first, "PNG", save_all=True, append_images=others, duration=50), frames[0])
    webp = saved(first, "WEBP", save_all=True, append_images=others, duration=50, lossless=True)
    yield Specimen("animated.webp", webp, frames[0])


def _turned(seed: int) -> Iterator[Specimen]:
    stored = scene(seed, 12, 20)
    for orientation, turn in UPRIGHT.items():
        exif = Image.Exif()
        exif[274] = orientation
        for name, options, tolerance in (
            ("png", {}, 0),
            ("webp", {"lossless": True}, 0),
            ("tiff", {}, 0),
            ("tiff", {"compression": "tiff_lzw"}, 0),
            ("jpeg", {"quality": 100, "subsampling": 0}, 4),
            *([("avif", {"quality": 100, "subsampling": "4:4:4"}, 6)] if features.check("avif") else []),
        ):
            content = saved(Image.fromarray(stored), name, exif=exif, **options)
            kind = options.get("compression", "plain")
            yield Specimen(f"orientation_{orientation}_{kind}.{name}", content, turn(stored), tolerance)
