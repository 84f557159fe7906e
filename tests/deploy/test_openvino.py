"""The exported file in a second runtime, where that is installed."""

import numpy as np
import onnxruntime
import pytest

from attnorm.deploy.config import ExportConfig
from attnorm.deploy.export import export

openvino = pytest.importorskip("openvino")


def test_openvino_computes_what_onnxruntime_does(tmp_path):
    """In float32, asked for: where the processor has it OpenVINO takes bfloat16, two digits."""
    path = str(tmp_path / "net.onnx")
    export(ExportConfig(checkpoint="resnet20_cifar_an.fashion_mnist", output=path))
    images = np.random.default_rng(0).standard_normal((3, 1, 28, 33), np.float32)
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    (truth,) = onnxruntime.InferenceSession(path).run(None, {"images": images})
    np.testing.assert_allclose(compiled({"images": images})[0], truth, rtol=0, atol=1e-5 * np.abs(truth).max())
