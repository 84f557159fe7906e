"""Settings of `attnorm export`. Imports nothing heavy."""

from dataclasses import dataclass
from typing import Literal

from attnorm.detection.config import is_detector
from attnorm.errors import ConfigError

OPSETS = range(18, 24)  # below, ReduceL2 takes no computed axes; above, onnxruntime 1.20 reads no file


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """A network as an ONNX file or a torch.export archive, which needs neither this package nor its configuration.

    The file takes batches and images of any size and says how images are prepared. Before it is written its outputs are
    compared with the network's own, at several sizes; where they differ, nothing is written.

    Args:
        checkpoint: .safetensors file that `attnorm train`, `convert` or `swap` wrote, or the name of a trained network
            that comes with the package, see `attnorm models`.
        model: in place of a checkpoint, a network by name, with random weights.
        pretrained: with model, the weights that timm or torchvision publishes.
        num_classes: with model, the number of classes; the network's own when not given.
        output: file to write: .onnx or .pt2.
        format: of the file; told from the ending of output when not given.
        features: the backbone's feature maps in place of classes, coarser from output to output.
        static: one image of the network's own size and nothing else, for programs that cannot do more.
        image_size: side of the images that are traced and compared, in pixels; the checkpoint's when not given.
        opset: version of ONNX's operators.
        tolerance: largest difference to the network's own outputs that is accepted, as a share of the largest output.
        int8: weights and activations in 8 bits (ONNX only), after looking at images of a data set for their ranges.
        dataset: for int8, data set to calibrate on, named as for `attnorm train`; the one it was trained on when not
            given.
        data_dir: for int8, folder that holds the data.
        calibration_images: for int8, how many images of its training part are looked at.
        json: also write what was written and how far its outputs differ to this file.
    """

    checkpoint: str | None = None
    model: str | None = None
    pretrained: bool = False
    num_classes: int | None = None
    output: str
    format: Literal["onnx", "pt2"] | None = None
    features: bool = False
    static: bool = False
    image_size: int | None = None
    opset: int = 20
    tolerance: float = 1e-4
    int8: bool = False
    dataset: str | None = None
    data_dir: str | None = None
    calibration_images: int = 256
    json: str | None = None

    def __post_init__(self) -> None:
        """Refuses what cannot be meant."""
        if (self.checkpoint is None) == (self.model is None):
            raise ConfigError("checkpoint or model must be given, and not both")
        if self.model is None and (self.pretrained or self.num_classes is not None):
            raise ConfigError("pretrained and num_classes belong to model; a checkpoint has its own weights")
        if self.model is not None and is_detector(self.model):
            raise ConfigError(
                f"model must be a classification network, and {self.model} is a detector: give a checkpoint"
            )
        ending = self.output.rpartition(".")[2]
        if ending not in ("onnx", "pt2") or self.format not in (None, ending):
            raise ConfigError(f"output must end in .{self.format or 'onnx or .pt2'}; got {self.output}")
        if self.opset not in OPSETS:
            raise ConfigError(f"opset must be from {OPSETS[0]} to {OPSETS[-1]}; got {self.opset}")
        if not 0 < self.tolerance < 1:
            raise ConfigError(
                f"tolerance must be above 0 and below 1, a share of the largest output; got {self.tolerance}"
            )
        for name in ("num_classes", "image_size", "calibration_images"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1; got {value}")
        self._check_int8()

    def _check_int8(self) -> None:
        if self.int8 and (self.is_pt2 or self.features or self.model is not None):
            raise ConfigError(
                "int8 is for classification networks of a checkpoint, as ONNX: leave out features and model"
            )
        if not self.int8 and (self.dataset is not None or self.data_dir is not None):
            raise ConfigError("dataset and data_dir are what int8 is calibrated on: add --int8 or leave them out")

    @property
    def is_pt2(self) -> bool:
        """Whether a torch.export archive is asked for."""
        return self.output.endswith(".pt2")
