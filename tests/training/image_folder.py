"""A folder of small images for runs that read files."""

from pathlib import Path

import numpy as np
from PIL import Image


def write_images(root: Path, *, broken: bool = False) -> Path:
    """Two classes of 20 + 20 images; where `broken`, every second one of the evaluation part: those of odd ranks."""
    rng = np.random.default_rng(0)
    for part in ("train", "val"):
        for n in range(40):
            file = root / part / f"class{n // 20}" / f"{n:02}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            if broken and part == "val" and n % 2:
                file.write_bytes(b"broken")
            else:
                Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(file)
    return root
