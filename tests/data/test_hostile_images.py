"""Damaged, odd and malicious image files: each is read rightly or refused in one line, in bounded memory and time."""

import io
import json
import os
import re
import tokenize
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFile

from attnorm.data import DataConfig, image_files, load_data, make_loader
from attnorm.data.image_files import BYTES_PER_PIXEL, EXTENSIONS, MAX_PIXELS, read_image
from tests.data.apart import apart
from tests.data.image_bombs import READ, REFUSED, webp
from tests.data.image_corpus import Specimen, saved, sound_images
from tests.data.reading import pixels_or_message, read_all, size_or_message
from tests.fuzz import fuzzed

CORPUS = sound_images()
CONSTANT = 2**27  # bytes: what read_image's docstring allows besides pixels and file


def written(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


def assert_message(text) -> None:
    assert isinstance(text, str), "it was read"
    assert text.isprintable()
    assert 0 < len(text) < 1000


@pytest.mark.parametrize("specimen", CORPUS, ids=lambda specimen: specimen.name)
def test_sound_images_are_read_whatever_their_name(tmp_path, specimen, tally):
    """Values against what the file was made from or against torchvision's decoder; the extension may be another's."""
    for extension in (Path(specimen.name).suffix, ".jpg", ".png"):
        pixels = pixels_or_message(written(tmp_path / f"image{extension}", specimen.content))
        assert pixels.shape == specimen.pixels.shape, pixels
        difference = np.abs(pixels.astype(int) - specimen.pixels).max()
        assert difference <= specimen.tolerance
        tally["images"] += 1


@pytest.mark.parametrize("lenient", [False, True])
def test_files_cut_short_give_all_of_their_pixels_or_an_error(tmp_path, lenient, tally):
    """At every 64th byte; `lenient`: even where Pillow's global asks for half images."""
    names, whole = [], []
    for specimen in CORPUS:
        pixels = pixels_or_message(written(tmp_path / specimen.name, specimen.content))
        for cut in range(0, len(specimen.content), 64):
            names.append(written(tmp_path / f"{cut}_{specimen.name}", specimen.content[:cut]))
            whole.append(pixels)
    refused = 0
    for name, found, expected in zip(names, apart(read_all, names, lenient, memory=2**30).value, whole, strict=True):
        if isinstance(found, str):
            assert_message(found)
            refused += 1
        else:
            np.testing.assert_array_equal(found, expected, err_msg=name)
    assert refused > 0.7 * len(names)
    tally["cut files"] += len(names)


@pytest.mark.parametrize("limit", [Image.MAX_IMAGE_PIXELS, None], ids=["pillow's limit", "no limit of pillow's"])
@pytest.mark.parametrize("name", REFUSED | READ)
def test_bombs_do_not_go_off(tmp_path, name, limit, tally):
    content = (REFUSED | READ)[name]()
    outcome = apart(size_or_message, written(tmp_path / name, content), limit, seconds=20)
    assert outcome.peak < CONSTANT + 100 * len(content)
    if name in REFUSED:
        assert_message(outcome.value)
    else:
        assert outcome.value in ((8, 8), (4, 4))
    tally["bombs"] += 1


SIDE = 3000
EXIF = Image.Exif()
EXIF[274] = 6
LARGE = {
    "rgb.png": lambda: saved(Image.new("RGB", (SIDE, SIDE)), "PNG", exif=EXIF, compress_level=1),
    "palette.png": lambda: saved(Image.new("P", (SIDE, SIDE)), "PNG", exif=EXIF, transparency=b"\0"),
    "grey16.png": lambda: saved(Image.new("I;16", (SIDE, SIDE)), "PNG", exif=EXIF, compress_level=1),
    "grey16.pgm": lambda: saved(Image.new("I;16", (SIDE, SIDE)), "PPM"),
    "cmyk.jpg": lambda: saved(Image.new("CMYK", (SIDE, SIDE)), "JPEG", exif=EXIF, progressive=True),
    "palette.gif": lambda: saved(Image.new("P", (SIDE, SIDE)), "GIF"),
    "lossy.webp": lambda: saved(Image.new("RGB", (SIDE, SIDE)), "WEBP", exif=EXIF, method=0),
    "animated.webp": lambda: webp(SIDE),
    "strip.tif": lambda: saved(
        Image.new("CMYK", (SIDE, SIDE)), "TIFF", compression="tiff_adobe_deflate", exif=EXIF, tiffinfo={278: SIDE}
    ),
    "rgba.avif": lambda: saved(
        Image.new("RGBA", (SIDE, SIDE)), "AVIF", speed=10, exif=EXIF, subsampling="4:4:4", quality=50
    ),
}


@pytest.mark.parametrize("name", [name for name in LARGE if name[-5:] != ".avif" or ".avif" in image_files.EXTENSIONS])
def test_memory_by_pixel(tmp_path, name):
    """What is read takes no more than was promised, measured of a process of its own."""
    content = LARGE[name]()
    outcome = apart(size_or_message, written(tmp_path / name, content), MAX_PIXELS)
    assert outcome.value == (SIDE, SIDE)
    assert outcome.peak < BYTES_PER_PIXEL * SIDE**2 + 2 * len(content) + 2**24


@pytest.mark.slow
def test_memory_of_the_largest_image(tmp_path):
    """Of the costliest kind."""
    side = int(MAX_PIXELS**0.5)
    content = webp(side)
    outcome = apart(size_or_message, written(tmp_path / "x.webp", content), MAX_PIXELS)
    assert outcome.value == (side, side)
    assert 16 * MAX_PIXELS < outcome.peak < BYTES_PER_PIXEL * MAX_PIXELS + CONSTANT
    assert "at most" in apart(size_or_message, written(tmp_path / "y.webp", webp(side + 1)), MAX_PIXELS).value


def test_odd_images_are_read_or_reported(shared_data, tally):
    """Truncated, corrupt, huge, CMYK, 16-bit, palette, animated; in bounded memory."""
    folder = shared_data / "odd_images"
    manifest = {f["file"]: f for f in json.loads((folder / "manifest.json").read_text())["files"]}
    files = sorted((folder / "files").iterdir())
    differ = []
    for file, found in zip(files, apart(read_all, [str(file) for file in files], memory=2**30).value, strict=True):
        entry = manifest[file.name]
        if isinstance(found, str):
            assert_message(found)
        else:
            turned = entry.get("exif_orientation", 1) in (5, 6, 7, 8)
            size = entry.get("size")
            assert size is None or list(found.shape[1::-1]) == (size[::-1] if turned else size)
        if isinstance(found, str) == entry.get("rgb_ok", False):
            differ.append(file.name)
        tally["images"] += 1
    # The manifest was seen with Pillow 13.0.0; other versions accept or refuse some other files.
    assert len(differ) <= 5, differ


@pytest.mark.parametrize("orientation", [2, 3, 5, 6, 8])
def test_real_photographs_are_turned_upright(shared_data, orientation):
    """Pillow's test photograph, stored in five ways, is one photograph."""
    folder = shared_data / "odd_images" / "files"
    upright = np.asarray(read_image(str(folder / "hopper.jpg"))).astype(int)
    turned = np.asarray(read_image(str(folder / f"hopper_orientation_{orientation}.jpg")))
    assert np.abs(turned - upright).mean() < 6  # compressed anew; turned otherwise it is above 40


def test_formats_that_are_not_promised_are_not_opened(tmp_path, tally):
    """Among them EPS, for which Pillow starts Ghostscript; under a name that is promised."""
    for format in ("EPS", "PDF", "ICO", "TGA", "PCX", "SGI", "JPEG2000", "DDS", "SPIDER", "MSP", "XBM"):
        mode = {"SPIDER": "F", "MSP": "1", "XBM": "1"}.get(format, "RGB")
        content = saved(Image.new(mode, (16, 16)), format)
        assert_message(pixels_or_message(written(tmp_path / "image.png", content)))
        tally["formats"] += 1


def test_there_is_one_door():
    """No other module opens images by itself, so that what holds here holds everywhere."""
    sources = Path(image_files.__file__).parents[1].rglob("*.py")
    opening = re.compile(r"Image\.open|ImageFile\.Parser|decode_(image|jpeg|png|gif|webp|avif)|imread")
    assert [source.name for source in sources if opening.search(without_strings(source))] == ["image_files.py"]


def without_strings(source: Path) -> str:
    """The code of a module: what its strings say, such as the examples of a model card, it does not do."""
    tokens = tokenize.generate_tokens(io.StringIO(source.read_text("utf-8")).readline)
    return "".join(token.string for token in tokens if token.type != tokenize.STRING)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_of_no_known_scale_are_refused(tmp_path, mode):
    file = written(tmp_path / "x.tif", saved(Image.new(mode, (8, 8), 1000), "TIFF"))
    assert "these have 32" in pixels_or_message(file)


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to("/dev/zero")
    for name in ("pipe.png", "link.png", "missing.png", "."):
        assert "there is no such file" in apart(size_or_message, str(tmp_path / name), MAX_PIXELS, seconds=10).value


def test_pillows_globals_are_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    for content in (CORPUS[0].content, CORPUS[0].content[:-64]):
        pixels_or_message(written(tmp_path / "x.png", content))
        assert (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS) == (True, None)


def edited(specimens: list[Specimen], start: int, edits: list[tuple[int, int, int]]) -> bytes:
    """A file with some bytes flipped, set to extremes, cut off, doubled, or taken from another file."""
    content = bytearray(specimens[start % len(specimens)].content)
    for kind, place, value in edits:
        at = place % max(len(content), 1)
        if kind == 0 and content:
            content[at] ^= 1 << value % 8
        elif kind == 1:
            content[at : at + 4] = (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f")[
                value % 4
            ]
        elif kind == 2:
            del content[at:]
        elif kind == 3:
            content[at:at] = content[at : at + value]
        else:
            other = specimens[value % len(specimens)].content
            content[at:] = other[place % len(other) :]
    return bytes(content)


EDIT = st.tuples(st.sampled_from((0, 0, 0, 1, 1, 2, 3, 4)), st.integers(0, 2**16), st.integers(0, 255))


@fuzzed(400)
@given(start=st.integers(0, len(CORPUS) - 1), edits=st.lists(EDIT, min_size=1, max_size=6))
def test_edited_files_are_read_or_refused(tmp_path, tally, monkeypatch, start, edits):
    monkeypatch.setattr(image_files, "MAX_PIXELS", 2**20)  # so that a case takes milliseconds
    file = written(tmp_path / "x.png", edited(CORPUS, start, edits))
    found = pixels_or_message(file)
    if isinstance(found, str):
        assert_message(found)
    else:
        assert found.dtype == np.uint8
        assert found.ndim == 3
        assert found.shape[2] == 3
        assert 0 < found.shape[0] * found.shape[1] <= 2**20
    tally["inputs"] += 1
    tally["read"] += not isinstance(found, str)


@pytest.fixture
def folder_with_bad_files(tmp_path):
    """Two classes with 8 good images each and, in the first, 3 bad ones, of which one has a name of several lines."""
    for part in ("train", "val"):
        for name, colour in (("cat", "red"), ("dog", "blue")):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(8):
                Image.new("RGB", (36, 30), colour).save(tmp_path / part / name / f"{number}{EXTENSIONS[number]}")
        (tmp_path / part / "cat" / "bomb.png").write_bytes(REFUSED["header.png"]())
        (tmp_path / part / "cat" / "cut.png").write_bytes(CORPUS[0].content[:200])
        (tmp_path / part / "cat" / "a\nline\x1b[31m.png").write_bytes(b"no image")
        (tmp_path / part / "cat" / "round").symlink_to(tmp_path / part / "cat")
    return tmp_path


def test_bad_files_of_a_folder_are_named_and_counted(folder_with_bad_files, caplog):
    data = load_data(DataConfig(dataset="folder", data_dir=str(folder_with_bad_files), image_size=32, max_bad_images=3))
    count = sum(len(labels) for _, labels in make_loader(data.val, batch_size=4, train=False))
    assert count == 16
    assert len(data.val) == 19  # the folder that leads back to itself was read once
    warnings = [record.getMessage() for record in caplog.records if record.getMessage().startswith("skipped")]
    assert len(warnings) == 3
    assert all(line.isprintable() for line in warnings)
    assert any(r"a\nline\x1b[31m.png" in line for line in warnings)
    assert len(data.val.bad_files()) == 3
