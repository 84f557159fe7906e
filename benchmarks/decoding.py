"""How long one core takes to read, decode and augment a photograph for training.

    python -m benchmarks.decoding DIR [DIR ...] [--images 1000] [--json FILE]

Each DIR is searched for images, which are read as `attnorm train` reads a folder (a random crop resized to 224 pixels,
flipped half of the time). Processor time, of files that the operating system has in memory already: what storage takes
comes on top. Writes benchmarks/results/decoding.json, from which docs/scale.md reckons.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from attnorm.data import DataConfig
from attnorm.data.augment import SampleKey
from attnorm.data.folder import file_dataset, image_files
from attnorm.data.imagenet_files import path_source
from benchmarks.record import Record, options_of, parser


def measure(folder: Path, images: int) -> dict[str, Any]:
    """The milliseconds of up to so many images of a folder, drawn at random; the row of the record."""
    paths = image_files(folder)
    chosen = [paths[i] for i in np.random.default_rng(0).permutation(len(paths))[:images]]
    source = path_source(["image"], [0] * len(chosen), chosen)
    dataset = file_dataset(DataConfig(dataset="folder"), source, "train", str(folder))
    torch.set_num_threads(1)
    sizes = []
    for path in chosen:  # which brings the files into memory, too
        with Image.open(path) as image:
            sizes.append((Path(path).stat().st_size, image.width * image.height))
    times = []
    dataset.__getitems__([SampleKey(0, 0, 0)])  # what is imported and made once
    for i in range(len(chosen)):
        start = time.process_time()
        dataset.__getitems__([SampleKey(i, 0, 0)])
        times.append(1e3 * (time.process_time() - start))
    return {
        "folder": folder.name,
        "images": len(chosen),
        "mean_bytes": float(np.mean([size for size, _ in sizes])),
        "mean_pixels": float(np.mean([pixels for _, pixels in sizes])),
        "mean_ms": float(np.mean(times)),
        "deviation_ms": float(np.std(times)),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module's docstring."""
    command_line = parser("How long a core takes to decode a photograph.", "decoding")
    command_line.add_argument("folders", type=Path, nargs="+", help="folders of images")
    command_line.add_argument("--images", type=int, default=1000, help="how many of each folder")
    options = command_line.parse_args(arguments)
    record = Record(options.json, "decoding", "cpu", {n: v for n, v in options_of(options).items() if n != "folders"})
    for folder in options.folders:
        record.add(measure(folder, options.images))
    record.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main())
