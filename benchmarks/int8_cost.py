"""What 8 bits cost in accuracy: the trained networks of the package on Fashion-MNIST's test images, in onnxruntime.

    python -m benchmarks.int8_cost --data-dir DIR [--json FILE]

Each network in float; in 8 bits as `attnorm export --int8` makes it, where AN's own nodes stay in float; and with AN's
nodes in 8 bits too. Ranges come from images of the training part. Writes benchmarks/results/int8_cost.json.
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attnorm.data import DataConfig, load_data
from attnorm.deploy.config import ExportConfig
from attnorm.deploy.onnx_file import onnx_runner, write_onnx
from attnorm.deploy.quantize import calibration_images, quantize
from attnorm.deploy.subject import Subject, read_subject
from attnorm.deploy.trace import trace
from attnorm.evidence.statistics import wilson_interval
from attnorm.training.objective import prepare_images
from benchmarks.record import Record, options_of, parser

CHECKPOINTS = ("resnet20_cifar.fashion_mnist", "resnet20_cifar_an.fashion_mnist")
BATCH = 100


def answers(path: Path, subject: Subject, images: Tensor) -> Tensor:
    """The classes (N,) that a file gives uint8 images (N, C, H, W)."""
    run = onnx_runner(path, subject.outputs)
    mean, std = torch.tensor(subject.meta.mean), torch.tensor(subject.meta.std)
    return torch.cat([run(prepare_images(part, mean, std))[0].argmax(1) for part in images.split(BATCH)])


def measure(checkpoint: str, data_dir: str, images: Tensor, labels: Tensor, folder: Path) -> dict[str, Any]:
    """One row: a network in each precision."""
    config = ExportConfig(checkpoint=checkpoint, output="net.onnx", int8=True, data_dir=data_dir)
    subject = read_subject(config)
    calibration = calibration_images(config, subject.meta)
    files = {name: folder / f"{name}.onnx" for name in ("float", "int8", "int8_an_too")}
    write_onnx(trace(subject, static=False), subject, config.opset, files["float"])
    float_nodes = {
        "int8": quantize(files["float"], files["int8"], calibration),
        "int8_an_too": quantize(files["float"], files["int8_an_too"], calibration, an_in_float=False),
    }
    found = {name: answers(path, subject, images) for name, path in files.items()}
    rows: dict[str, Any] = {}
    for name, path in files.items():
        top1 = round(100 * float((found[name] == labels).double().mean()), 4)
        low, high = wilson_interval(top1, len(labels))
        rows[name] = {
            "top1": top1,
            "low": low,
            "high": high,
            "changed_answers": int((found[name] != found["float"]).sum()),
            "size": path.stat().st_size,
            "float_nodes": float_nodes.get(name),
        }
    return {"checkpoint": checkpoint, "images": len(labels), "calibration_images": sum(map(len, calibration)), **rows}


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module's docstring."""
    command_line = parser("What 8 bits cost in accuracy.", "int8_cost")
    command_line.add_argument("--data-dir", required=True, help="the folder of Fashion-MNIST")
    options = command_line.parse_args(arguments)
    data = load_data(DataConfig(dataset="fashion_mnist", data_dir=options.data_dir), ("val",))
    assert data.val is not None
    images, labels = data.val.__getitems__(range(len(data.val)))
    settings = {**options_of(options), "data_dir": "DIR"}
    record = Record(options.json, "int8-cost", "cpu", settings, ("onnx", "onnxruntime"))
    for checkpoint in CHECKPOINTS:
        with tempfile.TemporaryDirectory() as folder:
            row = measure(checkpoint, options.data_dir, images, labels, Path(folder))
        shown = "  ".join(f"{name} {row[name]['top1']:.2f}" for name in ("float", "int8", "int8_an_too"))
        print(f"{checkpoint}: {shown}", flush=True)
        record.add(row)
    record.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main())
