"""`attnorm swap`: a trained network becomes one with AN that computes the same, to be fine-tuned."""

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from attnorm import __version__
from attnorm.errors import CheckpointError, ConfigError
from attnorm.files import write_json_atomic
from attnorm.layers.attentive import AttentiveNorm
from attnorm.layers.convert import is_norm, replace_norm
from attnorm.layers.walk import named_modules
from attnorm.models import create_model
from attnorm.models.spec import Spec, parse_spec
from attnorm.training.checkpoint import CheckpointMeta, load_weights, save_checkpoint
from attnorm.training.swap_config import SwapConfig
from attnorm.training.swap_source import read_source

# Of the largest output. The weights are kept in float32, so that a mixture's sum is right to seven digits, and a deep
# network in training mode makes such a difference some hundred times larger.
TOLERANCE = 1e-4
IMAGES = 4  # that the outputs are compared on


def swap(config: SwapConfig) -> dict[str, Any]:
    """Converts, compares and writes a checkpoint: complete or not at all.

    Args:
        config: what to convert, where to.

    Returns:
        model: name of the new network; source: of the one before; output; `replaced` of `norms` norms; parameters
        before and after; largest_difference, of the outputs, as a share of the largest output, and the same by mode,
        in `differences`; tolerance; provenance. Written to `config.json` too when that is given.

    Raises:
        ConfigError: the network is unknown, has AN already, or has no norms at the places asked for.
        CheckpointError: the weights are not of the network, or the outputs differ.
        JobError: the weights cannot be fetched.
    """
    source = read_source(config)
    spec = parse_spec(source.meta.model)
    name = config.named(spec.name, _norm(spec, source.model))
    swapped = _swapped(config, name, source.model, source.meta)
    differences = outputs_differ(source.model, swapped, source.meta)
    largest = max(differences.values())
    if not largest <= TOLERANCE:
        raise CheckpointError(
            f"the outputs of {name} must be those of {source.meta.model} to {TOLERANCE:g}, and differ by {largest:.1e} "
            "of the largest: nothing was written; please report it with the network's name"
        )
    meta = replace(source.meta, model=name, attnorm_version=__version__)
    meta = replace(meta, provenance={"swapped_from": source.meta.model, **(meta.provenance or {})})
    save_checkpoint(config.output, swapped.eval(), meta)
    replaced = sum(isinstance(module, AttentiveNorm) for _, module in named_modules(swapped))
    result = {
        "model": name,
        "source": source.meta.model,
        "output": config.output,
        "replaced": replaced,
        "norms": sum(is_norm(module) for _, module in named_modules(source.model)),
        "parameters": {"before": _count(source.model), "after": _count(swapped)},
        "largest_difference": largest,
        "differences": differences,
        "tolerance": TOLERANCE,
        "provenance": meta.provenance,
    }
    if config.json is not None:
        write_json_atomic(config.json, result)
    return result


def describe(result: dict[str, Any]) -> list[str]:
    """The result in lines for a person."""
    before, after = result["parameters"]["before"], result["parameters"]["after"]
    modes = ", ".join(f"{mode} {value:.1e}" for mode, value in result["differences"].items())
    lines = [
        f"{result['source']}: AN in place of {result['replaced']} of {result['norms']} norms, "
        f"{before / 1e6:.2f} -> {after / 1e6:.2f} M parameters",
        f"outputs equal on random images, largest difference by mode: {modes} of the largest output "
        f"(at most {result['tolerance']:g})",
        f"written      {result['output']} ({result['model']})",
        f"to fine-tune: attnorm train --model {result['model']} --initial-checkpoint {result['output']} ...",
    ]
    licence = result["provenance"].get("licence")
    return lines + ([f"licence of the weights: {licence}"] if licence else [])


def _norm(spec: Spec, model: nn.Module) -> str:
    """The value of the option norm, after refusing networks that have AN."""
    if any(isinstance(module, AttentiveNorm) for module in model.modules()):
        raise ConfigError(f"{spec.name} has AN already, and swap puts it in: fine-tune it as it is")
    return "an_gn" if spec.options.get("norm") == "gn" else "an"


def _swapped(config: SwapConfig, name: str, source: nn.Module, meta: CheckpointMeta) -> nn.Module:
    """The network that the new name builds, with the converted weights: what a checkpoint will be read into."""
    built = create_model(name, num_classes=meta.num_classes, in_chans=meta.in_chans)
    spec = parse_spec(name)
    torch.manual_seed(config.seed)
    converted = replace_norm(
        copy.deepcopy(source),
        config.placement,
        spec.options.get("num_components"),
        preserve_function=True,
        layer_options=spec.layer_options,
    )
    load_weights(built, converted.state_dict(), name)
    return built.eval()


def outputs_differ(first: nn.Module, second: nn.Module, meta: CheckpointMeta) -> dict[str, float]:
    """The largest difference of two networks' outputs as a share of the first's largest, by mode.

    Both are computed in float64 on copies, on the same random images; in training mode with the same random draws.

    Args:
        first: network for images of `meta`.
        second: likewise.
        meta: says how large images are.
    """
    generator = torch.Generator().manual_seed(0)
    size = (IMAGES, meta.in_chans, meta.image_size, meta.image_size)
    images = torch.randn(size, generator=generator, dtype=torch.float64)
    found: dict[str, float] = {}
    for mode in ("evaluation", "training"):
        one, other = (_output(model, images, training=mode == "training") for model in (first, second))
        found[mode] = ((one - other).abs().max() / one.abs().max()).item()
    return found


@torch.no_grad()
def _output(model: nn.Module, images: Tensor, *, training: bool) -> Tensor:
    copied = copy.deepcopy(model).double().train(training)
    torch.manual_seed(0)
    return copied(images)


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
