"""A small folder of images, and a cache that is the test's own."""

import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def image_folder(tmp_path):
    """train: 4 cats, 3 dogs; val: 2 of each; plain colours: red = 10 * number, blue = 200 for dogs."""
    for split, cats, dogs in (("train", 4, 3), ("val", 2, 2)):
        for name, count, blue in (("cat", cats, 0), ("dog", dogs, 200)):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (20 + i, 16), (10 * i, 0, blue)).save(folder / f"{i}.png")
    return tmp_path
