"""Reading single images: orientation, modes, damage, and what evaluation does to them."""

import numpy as np
import pytest
import torch
from PIL import Image

from attnorm.data import eval_transform
from attnorm.data.image_files import read_image
from attnorm.data.images import to_tensor
from attnorm.errors import DataError

PIXELS = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10


def rgb(file):
    image = read_image(str(file))
    assert image.mode == "RGB"
    return np.asarray(image)


def test_modes_become_rgb(tmp_path):
    file = tmp_path / "x.png"
    grey = np.stack([PIXELS] * 3, -1)
    Image.fromarray(PIXELS).save(file)
    assert np.array_equal(rgb(file), grey)
    Image.fromarray(PIXELS.astype(np.uint16) * 257).save(file)  # 16 bits: 65535 is white
    assert np.array_equal(rgb(file), grey)
    Image.fromarray(PIXELS > 100).save(file)
    assert np.array_equal(rgb(file)[..., 0], np.where(PIXELS > 100, 255, 0))
    palette = Image.fromarray(PIXELS // 100, "P")
    palette.putpalette([1, 2, 3, 40, 50, 60, 70, 80, 90])
    palette.save(file, transparency=b"\x00\x80\xff")
    assert np.array_equal(rgb(file), np.array([[1, 2, 3], [40, 50, 60], [70, 80, 90]])[PIXELS // 100])
    colour = np.random.default_rng(0).integers(0, 256, (4, 6, 4), dtype=np.uint8)
    Image.fromarray(colour).save(file)  # RGBA: alpha is dropped
    assert np.array_equal(rgb(file), colour[..., :3])
    cyan = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    cyan.save(tmp_path / "x.jpg", quality=100)
    np.testing.assert_allclose(rgb(tmp_path / "x.jpg"), np.broadcast_to([0, 255, 255], (8, 8, 3)), atol=3)


@pytest.mark.parametrize("content", [b"", b"a line of text", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0"])
def test_no_image(tmp_path, content):
    (tmp_path / "x.jpg").write_bytes(content)
    with pytest.raises(DataError, match="not a readable image") as caught:
        read_image(str(tmp_path / "x.jpg"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [(90, 60), (60, 90), (64, 64), (65, 300), (20, 20), (1, 1), (3, 1)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_eval_transform_equals_torchvisions_resize_and_centre_crop(size, interpolation):
    from torchvision.transforms import CenterCrop, InterpolationMode, Resize

    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    expected = CenterCrop(56)(Resize(64, InterpolationMode(interpolation))(image))
    ours = eval_transform(56, 0.875, interpolation)(image)
    assert torch.equal(ours, torch.from_numpy(np.array(expected)).permute(2, 0, 1))


def test_eval_transform_converts_to_the_networks_channels():
    colour = Image.new("RGB", (40, 40), (10, 200, 30))
    grey = eval_transform(32, in_chans=1)(colour)
    assert grey.shape == (1, 32, 32)
    assert grey.unique().item() == colour.convert("L").getpixel((0, 0))
    assert eval_transform(32)(Image.new("L", (40, 40), 9)).shape == (3, 32, 32)


def test_a_very_long_image_does_not_fill_the_memory():
    # resized as a whole it would have 64 x 4,000,000 pixels
    image = Image.new("RGB", (62_500, 1), (1, 2, 3))
    assert eval_transform(56)(image).unique().tolist() == [1, 2, 3]


def test_to_tensor_is_channels_first():
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert np.array_equal(to_tensor(Image.fromarray(pixels)), pixels.transpose(2, 0, 1))
