"""`attnorm predict`: the most likely classes of images, or the objects in them, as JSON and as pictures."""

from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from attnorm.data import eval_transform
from attnorm.data.image_files import EXTENSIONS, read_image
from attnorm.errors import ConfigError, DataError
from attnorm.files import replacing, write_json_atomic
from attnorm.training.checkpoint import CheckpointMeta, check_classifies, load_checkpoint
from attnorm.training.objective import prepare_images
from attnorm.training.processes import Processes, choose_device
from attnorm.training.use_config import PredictConfig

TOP = 5


class Predictor(Protocol):
    """What is done with each image.

    Attributes:
        ending: of the names of the pictures.
        model: name of the network.
    """

    ending: str
    model: str

    @property
    def results(self) -> list[dict[str, Any]] | None:
        """Of a detector all objects so far, as COCO's result files have them; else None."""
        ...

    def read(self, path: Path) -> Any:
        """The image, upright.

        Raises:
            DataError: it is unreadable.
        """
        ...

    def predict(self, image: Any, picture: Path) -> dict[str, Any]:
        """Draws the answer to a file, and gives it."""
        ...

    def summary(self) -> dict[str, Any]:
        """What there is to say besides the answers."""
        ...


def predict(config: PredictConfig) -> dict[str, Any]:
    """Classifies images one by one, prepared as the evaluation of the run that made the checkpoint prepared its own.

    With a detector's checkpoint, detects what is in them.

    Args:
        config: checkpoint, images, and the folder for predictions.json and one PNG per image.

    Returns:
        The content of predictions.json: checkpoint, model, `predictions` (image, picture, and `top` with label,
        class index and probability, the best first) and `unreadable`, the names of images that could not be read. Of a
        detector, `predictions` has image, picture, image_id, height, width and the number of `objects`; besides there
        are score_threshold and `categories` (id, name), and the objects are in results.json, a results file of COCO.

    Raises:
        CheckpointError: the checkpoint cannot be used.
        ConfigError: a score threshold for a network that detects nothing.
        DataError: there are no images.
    """
    device = choose_device(config.device, Processes())
    output, root = Path(config.output), Path(config.input)
    images = find_images(root, output)
    predictor = _predictor(config, device)
    predictions: list[dict[str, Any]] = []
    unreadable: list[str] = []
    for path in images:
        try:
            image = predictor.read(path)
        except DataError:
            unreadable.append(str(path))
            continue
        name = path.relative_to(root) if root.is_dir() else Path(path.name)
        picture = output / name.parent / f"{name.name}.{predictor.ending}.png"
        answer = predictor.predict(image, picture)
        predictions.append({"image": str(path), "picture": str(picture.relative_to(output)), **answer})
    result = {
        "checkpoint": config.checkpoint,
        "model": predictor.model,
        "predictions": predictions,
        "unreadable": unreadable,
        **predictor.summary(),
    }
    if predictor.results is not None:
        write_json_atomic(output / "results.json", predictor.results)
    write_json_atomic(output / "predictions.json", result)
    return result


def _predictor(config: PredictConfig, device: torch.device) -> Predictor:
    model, meta = load_checkpoint(config.checkpoint)
    check_classifies(meta, config.checkpoint)
    if meta.detector is not None:
        from attnorm.training.predict_detection import DetectionPredictor

        return DetectionPredictor(cast(Any, model.to(device)), meta, config.score_threshold)
    if config.score_threshold is not None:
        raise ConfigError(f"score_threshold is for detectors, and {config.checkpoint} is a {meta.model}: leave it out")
    return ClassPredictor(model.to(device), meta)


class ClassPredictor:
    """See `Predictor`: the most likely classes."""

    ending = f"top{TOP}"
    results: list[dict[str, Any]] | None = None

    def __init__(self, model: nn.Module, meta: CheckpointMeta) -> None:
        self.network, self.meta = model, meta
        self.model = meta.model

    def read(self, path: Path) -> tuple[Any, Tensor]:
        """The image to show, and its uint8 pixels (C, H, W) as the network takes them."""
        image, meta = read_image(str(path)), self.meta
        return image, eval_transform(meta.image_size, meta.crop_pct, meta.interpolation, meta.in_chans)(image)

    def predict(self, image: tuple[Any, Tensor], picture: Path) -> dict[str, Any]:
        """Bars beside the image; `top`."""
        shown, pixels = image
        top = classify(self.network, pixels, self.meta, next(self.network.parameters()).device)
        draw(shown, top, picture)
        return {"top": top}

    def summary(self) -> dict[str, Any]:
        """Nothing besides."""
        return {}


def find_images(path: Path, output: Path) -> list[Path]:
    """The image itself, or the images of a folder and its subfolders, by name, without what lies in `output`.

    Raises:
        DataError: there is nothing at `path`, or no image in it.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"input must be an image or a folder of images, and there is nothing at {path}")
    found = sorted(item for item in path.rglob("*") if item.suffix.lower() in EXTENSIONS and item.is_file())
    found = [item for item in found if not item.resolve().is_relative_to(output.resolve())]
    if not found:
        raise DataError(f"input must hold images ({', '.join(EXTENSIONS)}), and {path} has none")
    return found


@torch.no_grad()
def classify(model: nn.Module, pixels: Tensor, meta: CheckpointMeta, device: torch.device) -> list[dict[str, Any]]:
    """The TOP most likely classes of one image (C, H, W), the best first, with their probabilities."""
    mean, std = torch.tensor(meta.mean, device=device), torch.tensor(meta.std, device=device)
    logits = model(prepare_images(pixels[None].to(device), mean, std))[0]
    probabilities, classes = logits.float().softmax(0).topk(min(TOP, meta.num_classes))
    return [
        # A network may have more outputs than the data set had classes: such an output has no name.
        {"label": meta.classes[c] if c < len(meta.classes) else f"class {c}", "class": c, "probability": p}
        for c, p in zip(classes.tolist(), probabilities.tolist(), strict=True)
    ]


def draw(image: Any, top: list[dict[str, Any]], path: Path) -> None:
    """Saves the image with its labels and their probabilities as bars beside it."""
    from matplotlib.figure import Figure  # the class itself: no window, no global state

    figure = Figure(figsize=(8, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.2))
    left.imshow(image)
    left.set_axis_off()
    bars = right.barh([item["label"] for item in top], [item["probability"] for item in top], color="#4477aa")
    right.bar_label(bars, [f"{item['probability']:.1%}" for item in top], padding=4)
    right.invert_yaxis()
    right.set_xlim(0, 1.15)
    right.set_xticks([0, 0.5, 1], ["0%", "50%", "100%"])
    right.set_xlabel("probability")
    right.spines[["top", "right"]].set_visible(False)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)
