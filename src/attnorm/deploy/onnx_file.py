"""ONNX files: written through torch's exporter, run by onnxruntime."""

import ast
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.export import ExportedProgram

from attnorm.deploy.fold import FoldedGroupNorm, FoldedNorm
from attnorm.deploy.subject import Subject
from attnorm.deploy.trace import quiet
from attnorm.training.header import KEY

INPUT = "images"
AN = "/an/"  # stands in the names of all nodes of an AN layer
_AXES = {0: "batch", 2: "height", 3: "width"}


def write_onnx(program: ExportedProgram, subject: Subject, opset: int, path: Path) -> None:
    """Writes a program; the file's metadata has the subject's card under "attnorm".

    Args:
        program: From `attnorm.deploy.trace`.
        subject: The network that it is of.
        opset: Version of ONNX's operators.
        path: The file.
    """
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    with quiet():
        made = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=opset,
            input_names=[INPUT],
            output_names=list(subject.outputs),
            verbose=False,
        )
    assert made is not None
    model = cast(Any, made.model)
    _name_nodes(model)
    # The exporter notes at every node from which line of which file on this machine it comes.
    ClearMetadataAndDocStringPass()(model)
    _name_axes(model)
    model.metadata_props[KEY] = subject.card()
    made.save(str(path))


def _name_nodes(model: Any) -> None:
    """Calls nodes by the module that they come from, those of AN with AN in between: "layer1.0.bn1/an/Gemm_17"."""
    folded = {f"{kind.__module__}.{kind.__name__}" for kind in (FoldedNorm, FoldedGroupNorm)}
    for index, node in enumerate(model.graph):
        kinds, scopes = (
            ast.literal_eval(node.metadata_props.get(f"pkg.torch.onnx.{key}", "[]"))
            for key in ("class_hierarchy", "name_scopes")
        )
        depth = next((depth for depth, kind in enumerate(kinds) if kind in folded), None)
        within = scopes[-2:-1] if depth is None else [scopes[depth]]  # the last scope is the node's own
        module = "".join(within).removeprefix("network").removeprefix(".")  # as the wrapper that is traced calls it
        node.name = f"{module}{'/' if depth is None else AN}{node.op_type}_{index}"


def _name_axes(model: Any) -> None:
    """Calls the sizes of the input "batch", "height" and "width", and wherever else they occur too."""
    sizes = model.graph.inputs[0].shape
    names = {str(sizes[axis].value): name for axis, name in _AXES.items() if not isinstance(sizes[axis], int)}
    for value in (*model.graph.inputs, *model.graph.outputs):
        for axis, size in enumerate(value.shape):
            if not isinstance(size, int):
                value.shape[axis] = names.get(str(size.value), str(size.value))


def onnx_runner(path: Path, outputs: tuple[str, ...]) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """What runs an ONNX file on the CPU through onnxruntime, in as many threads as torch: images in, outputs out."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> tuple[Tensor, ...]:
        found = session.run(list(outputs), {INPUT: images.numpy()})
        return tuple(torch.from_numpy(value) for value in found)

    return run


def count_nodes(path: Path) -> dict[str, int]:
    """How many nodes of which operator an ONNX file has, the most frequent first."""
    import onnx

    graph = onnx.load(str(path), load_external_data=False).graph
    return dict(Counter(node.op_type for node in graph.node).most_common())
