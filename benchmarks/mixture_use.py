"""How much a trained AN network uses its mixture: does what a layer applies depend on the image at all?

    python benchmarks/mixture_use.py --dataset fashion_mnist --data-dir DIR --json FILE RUN/last.safetensors ...

For every AN layer, over the evaluation part: the standard deviation over images of the mixture weights lambda and of
the scales gamma = lambda @ weight, the latter relative to their size; and the share of lambda's variance that lies
between classes. A layer whose gamma does not vary is a BatchNorm with a detour.
"""

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attnorm.data import DataConfig, load_data, make_loader
from attnorm.files import write_json_atomic
from attnorm.layers.attentive import AttentiveNorm
from attnorm.training.checkpoint import load_checkpoint
from attnorm.training.objective import prepare_images
from attnorm.training.record import environment, versions


@torch.no_grad()
def mixtures(checkpoint: str, config: DataConfig) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    """Lambda (images, K) and gamma (images, C) of every AN layer, and the labels (images,)."""
    model, meta = load_checkpoint(checkpoint)
    data = load_data(config, parts=("val",))
    assert data.val is not None
    weights: dict[str, list[Tensor]] = {}

    def watch(name: str, layer: AttentiveNorm) -> None:
        def keep(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            weights.setdefault(name, []).append(layer.mixture_weights(inputs[0]))

        layer.register_forward_pre_hook(keep)

    layers = {name: module for name, module in model.named_modules() if isinstance(module, AttentiveNorm)}
    for name, layer in layers.items():
        watch(name, layer)
    mean, std = torch.tensor(meta.mean), torch.tensor(meta.std)
    labels: list[Tensor] = []
    for images, targets in make_loader(data.val, batch_size=500, train=False):
        model(prepare_images(images, mean, std))
        labels.append(targets)
    lambdas = {name: torch.cat(parts) for name, parts in weights.items()}
    return lambdas, {name: w @ layers[name].weight for name, w in lambdas.items()}, torch.cat(labels)


def between_classes(values: Tensor, labels: Tensor) -> float:
    """Share of the variance of values (images, K) that lies between classes (eta squared), all K together."""
    centred = values - values.mean(0)
    groups = [centred[labels == label] for label in labels.unique()]
    between = sum(len(group) * group.mean(0).square().sum() for group in groups)
    return float(between / centred.square().sum())


def describe(lambdas: Tensor, gammas: Tensor, labels: Tensor) -> dict[str, float]:
    """The numbers of one layer."""
    return {
        "components": lambdas.shape[1],
        "lambda_mean": float(lambdas.mean()),
        "lambda_std_over_images": float(lambdas.std(0).mean()),
        "lambda_share_between_classes": between_classes(lambdas, labels),
        "gamma_mean": float(gammas.mean()),
        "gamma_std_over_images_relative": float(gammas.std(0).mean() / gammas.abs().mean()),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description="How much trained AN networks use their mixtures.")
    parser.add_argument("checkpoints", nargs="+")
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--data-dir")
    parser.add_argument("--json", required=True, help="where the numbers go")
    options = parser.parse_args(arguments)
    config = DataConfig(dataset=options.dataset, data_dir=options.data_dir)
    networks: list[dict[str, Any]] = []
    for checkpoint in options.checkpoints:
        lambdas, gammas, labels = mixtures(checkpoint, config)
        layers = {name: describe(lambdas[name], gammas[name], labels) for name in lambdas}
        networks.append({"checkpoint": "/".join(Path(checkpoint).parts[-3:]), "layers": layers})
        for name, row in layers.items():
            print(networks[-1]["checkpoint"], name, {key: round(value, 4) for key, value in row.items()})
    made = {
        "date": datetime.now(UTC).date().isoformat(),
        "versions": versions(),
        "machine": environment(torch.device("cpu")),
    }
    write_json_atomic(options.json, {"dataset": options.dataset, **made, "networks": networks})
    return 0


if __name__ == "__main__":
    sys.exit(main())
