"""Static quantisation to 8 bits through onnxruntime: ranges of activations from real images."""

import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from attnorm.data import DataConfig, load_data
from attnorm.data.config import BUILTIN
from attnorm.deploy.config import ExportConfig
from attnorm.deploy.onnx_file import AN, INPUT
from attnorm.errors import ConfigError, DataError
from attnorm.training.header import CheckpointMeta
from attnorm.training.objective import prepare_images

BATCH = 32  # images that calibration looks at together
ACTIVATIONS = ("Relu", "Clip")


def calibration_images(config: ExportConfig, meta: CheckpointMeta) -> list[Tensor]:
    """Prepared images (N, C, H, W) in batches, spread evenly over images of the training part, cut as for evaluation.

    Raises:
        ConfigError: The data set must be named.
        DataError: The data are missing, or of other channels than the network's.
    """
    name = config.dataset or meta.dataset
    if config.dataset is None and name.startswith("hfds:"):
        raise ConfigError(f"dataset must be given: the checkpoint names {name}, and is not followed")
    # Of the built-in sets "val" is a part of the training images; other sets give theirs by the name "train".
    data = load_data(
        DataConfig(
            dataset=name,
            data_dir=config.data_dir,
            val_split="val" if name in BUILTIN else "train",
            image_size=meta.image_size,
            crop_pct=meta.crop_pct,
            interpolation=meta.interpolation,
        ),
        ("val",),
    )
    if data.in_chans != meta.in_chans:
        raise DataError(f"{name} must have the network's {meta.in_chans} channels, and has {data.in_chans}")
    assert data.val is not None
    count = len(data.val)
    wanted = min(config.calibration_images, count)
    chosen = [index * count // wanted for index in range(wanted)]
    mean, std = torch.tensor(meta.mean), torch.tensor(meta.std)
    parts = [chosen[start : start + BATCH] for start in range(0, wanted, BATCH)]
    return [prepare_images(data.val.__getitems__(part)[0], mean, std) for part in parts]


def quantize(source: Path, target: Path, images: list[Tensor], *, an_in_float: bool = True) -> dict[str, int]:
    """Writes an ONNX file in 8 bits: per-channel weights, activations by the ranges that the images give them.

    Args:
        source: The file in float.
        target: The file to write; may be the source.
        images: Batches of prepared images (N, C, H, W).
        an_in_float: Leave out AN's own nodes: its statistics are sums over all pixels, and its coefficients multiply
            every pixel.

    Returns:
        How many nodes of which operator compute in float.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        # Shapes only, without which every quantisation warns; the exporter has optimised already.
        shaped = Path(folder) / "shaped.onnx"
        quant_pre_process(str(source), str(shaped), skip_optimization=True, skip_symbolic_shape=True)
        names = [node.name for node in onnx.load(str(shaped)).graph.node]
        quantize_static(
            str(shaped),
            str(target),
            cast(Any, _Reader(images)),  # the class is a protocol in all but name
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[name for name in names if an_in_float and AN in name],
        )
    return _float_nodes(target)


class _Reader:
    """onnxruntime's CalibrationDataReader, which it asks for a batch until there is none."""

    def __init__(self, images: list[Tensor]) -> None:
        self._images: Iterator[Tensor] = iter(images)

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self._images, None)
        return None if batch is None else {INPUT: batch.numpy()}


def _float_nodes(path: Path) -> dict[str, int]:
    """Operators of a quantised file that compute in float, with their numbers.

    One in 8 bits has inputs that were 8 bits before and an output that is rounded to 8 bits, itself or behind an
    activation: such a group is what onnxruntime runs as one integer operator.
    """
    import onnx

    graph = onnx.load(str(path)).graph
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)

    def is_rounded(name: str) -> bool:
        return bool(readers.get(name)) and all(
            reader.op_type == "QuantizeLinear" or (reader.op_type in ACTIVATIONS and is_rounded(reader.output[0]))
            for reader in readers[name]
        )

    in_8_bits = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    found: Counter[str] = Counter()
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            continue
        if in_8_bits.intersection(node.input) and is_rounded(node.output[0]):
            in_8_bits.update(node.output)
        else:
            found[node.op_type] += 1
    return dict(found.most_common())
