"""`attnorm export`: a finished network as a file for other programs, compared with the network before it is there."""

from collections.abc import Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from attnorm.deploy import onnx_file, pt2_file
from attnorm.deploy.config import ExportConfig
from attnorm.deploy.quantize import calibration_images, quantize
from attnorm.deploy.subject import Subject, read_subject
from attnorm.deploy.trace import trace
from attnorm.deploy.verify import Difference, compare
from attnorm.errors import JobError
from attnorm.extras import naming_extras
from attnorm.files import replacing, write_json_atomic


def export(config: ExportConfig) -> dict[str, Any]:
    """Traces, writes, compares; the file is there only if its outputs are the network's.

    Args:
        config: What to export, where to.

    Returns:
        output, format, model, outputs (names), opset (None of a .pt2), `size` in bytes, `nodes` by operator,
        `differences` (shape, absolute, relative; of int8, the float file's), tolerance; of int8 `float_nodes` and the
        number of calibration images too. Written to `config.json` when that is given.

    Raises:
        ConfigError: What was asked for does not go together.
        CheckpointError: The checkpoint cannot be used.
        JobError: The network cannot be traced, or the outputs differ by more than the tolerance.
        MissingPackageError: A package of the extra is not installed.
    """
    if not config.is_pt2:
        with naming_extras("attnorm export to ONNX"):
            for package in ("onnx", "onnxruntime", "onnxscript"):
                import_module(package)
    subject = read_subject(config)
    images = calibration_images(config, subject.meta) if config.int8 else None
    result: dict[str, Any] = {
        "output": config.output,
        "format": "pt2" if config.is_pt2 else "onnx",
        "model": subject.meta.model,
        "outputs": subject.outputs,
        "opset": None if config.is_pt2 else config.opset,
        "tolerance": config.tolerance,
    }
    with replacing(config.output) as temporary:
        differences = _write(config, subject, temporary)
        _check(differences, subject, config.tolerance)
        result["differences"] = [asdict(difference) for difference in differences]
        if images is not None:
            result["float_nodes"] = quantize(temporary, temporary, images)
            result["calibration_images"] = sum(len(batch) for batch in images)
        count = pt2_file.count_nodes if config.is_pt2 else onnx_file.count_nodes
        result |= {"size": temporary.stat().st_size, "nodes": count(temporary)}
    if config.json is not None:
        write_json_atomic(config.json, result)
    return result


def _write(config: ExportConfig, subject: Subject, path: Path) -> list[Difference]:
    """Writes the file in float, and says how far its outputs are from the network's."""
    static = config.static or subject.detects
    if subject.detects:
        from attnorm.deploy.detectors import write_detector

        write_detector(subject, config.opset, path)
    elif config.is_pt2:
        pt2_file.write_pt2(trace(subject, static=static), subject, path)
        return compare(pt2_file.pt2_runner(path), subject, static=static)
    else:
        onnx_file.write_onnx(trace(subject, static=static), subject, config.opset, path)
    return compare(onnx_file.onnx_runner(path, subject.outputs), subject, static=static)


def _check(differences: Sequence[Difference], subject: Subject, tolerance: float) -> None:
    worst = max(differences, key=lambda difference: difference.relative)
    if not worst.relative <= tolerance:
        raise JobError(
            f"the file's outputs must be those of {subject.meta.model} to {tolerance:g} of the largest, and differ by "
            f"{worst.relative:.1e} for images {worst.shape}; nothing was written: raise --tolerance if that will do"
        )


def describe(result: dict[str, Any]) -> list[str]:
    """The result in lines to print."""
    opset = f", opset {result['opset']}" if result["opset"] else ""
    nodes = result["nodes"]
    frequent = ", ".join(f"{count} {name}" for name, count in list(nodes.items())[:6])
    lines = [
        f"{result['output']}: {result['model']} as {result['format']}{opset}, {result['size'] / 1e6:.2f} MB, "
        f"{sum(nodes.values())} nodes ({frequent}{', ...' if len(nodes) > 6 else ''})"
    ]
    lines += [
        f"  images {' x '.join(map(str, row['shape']))}: largest difference to the network {row['absolute']:.1e}, "
        f"{row['relative']:.1e} of the largest output"
        for row in result["differences"]
    ]
    if "float_nodes" in result:
        left = ", ".join(f"{count} {name}" for name, count in result["float_nodes"].items())
        lines.append(
            f"  then 8 bits, ranges from {result['calibration_images']} images; in float are {left}; measure the "
            "file's accuracy before it is used: docs/export.md"
        )
    return lines
