"""What to say where a package is missing: `pip install attnorm` alone brings torch, everything else is an extra."""

from collections.abc import Iterator
from contextlib import contextmanager

from attnorm.errors import MissingPackageError

# By the name that is imported: the smallest extra of pyproject.toml that brings it, itself or by a package it needs.
EXTRAS = {
    "PIL": "models",
    "huggingface_hub": "models",
    "numpy": "models",
    "safetensors": "models",
    "timm": "models",
    "torchvision": "models",
    "yaml": "models",
    "faster_coco_eval": "train",
    "jsonargparse": "train",
    "lightning": "train",
    "matplotlib": "train",
    "pynvml": "train",
    "rich": "train",
    "scipy": "train",
    "sklearn": "train",
    "tensorboard": "train",
    "torchdata": "train",
    "fastapi": "demo",
    "gradio": "demo",
    "uvicorn": "demo",
    "onnx": "export",
    "onnx_ir": "export",
    "onnxruntime": "export",
    "onnxscript": "export",
    "wandb": "wandb",
    "pycocotools": "cocoapi",
}


@contextmanager
def naming_extras(what: str) -> Iterator[None]:
    """Within it, an import of a package that is not installed says which extra brings it.

    Args:
        what: What needs the package, for the message.

    Raises:
        MissingPackageError: Names package, extra and command. Of a package that no extra brings, Python's own error.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        # A name with dots is a part of a package that is there: not missing, but too old or damaged.
        if error.name not in EXTRAS:
            raise
        install = f"pip install 'attnorm[{EXTRAS[error.name]}]'"
        raise MissingPackageError(
            f"{what} needs the package {error.name}, which is not installed: {install}", name=error.name
        ) from error
