"""`attnorm inspect`: what the mixture weights of a trained network do over a data set, as numbers and a report."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from attnorm.errors import JobError
from attnorm.evidence.inspect_config import InspectConfig
from attnorm.evidence.inspect_data import open_source
from attnorm.evidence.inspect_pass import look
from attnorm.evidence.inspect_report import write_result
from attnorm.evidence.inspect_table import print_result
from attnorm.evidence.mixture_summary import DEFINITIONS, summarise
from attnorm.evidence.mixture_watch import MixtureWatch
from attnorm.layers.attentive import AttentiveNorm
from attnorm.training.checkpoint import load_checkpoint
from attnorm.training.processes import Processes, choose_device
from attnorm.training.record import environment, git_state, versions

FORMAT, FORMAT_VERSION = "attnorm-inspect", 1


def inspect(config: InspectConfig) -> dict[str, Any]:
    """Shows a data set to a network and writes report.html, inspect.json and the pictures.

    Args:
        config: what to look at.

    Returns:
        The content of inspect.json: `layers` in the order in which they run, see
        `attnorm.evidence.mixture_summary.summarise`, each with its name, type, gate and sizes; `classes` with the
        number of their images, or None; `examples`; `not_run`, the layers that had fewer than two inputs;
        `definitions`; and what made it.

    Raises:
        CheckpointError: the checkpoint cannot be used.
        ConfigError: the network has no AN layer (of such a name), or the data set is not one for it.
        DataError: the data are missing, damaged, of other channels than the network's, or fewer than two images.
        JobError: the folder cannot be written to, or a layer's weights are not finite.
    """
    device = choose_device(config.device, Processes())
    model, meta = load_checkpoint(config.checkpoint)
    with MixtureWatch(model, config.layers, f"{meta.model} of {config.checkpoint}") as watch:
        source = open_source(config, meta)
        _check_output(Path(config.output))
        seen = look(model.to(device), watch, source, examples=config.images)
    shown = {name: statistics for name, statistics in seen.layers.items() if statistics.samples > 1}
    classes = None
    if source.classes is not None:
        classes = [{"name": name, "images": n} for name, n in zip(source.classes, seen.per_class, strict=True)]
    result = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "checkpoint": config.checkpoint,
        "model": meta.model,
        "dataset": source.name,
        "images": seen.images,
        "class_rule": source.rule,
        "notes": list(source.notes),
        "classes": classes,
        "layers": [{**_identity(name, watch.layers[name]), **summarise(shown[name])} for name in shown],
        "not_run": [name for name in watch.layers if name not in shown],
        "examples": [{"position": e.position, "class": e.label, "lambda": e.weights} for e in seen.examples],
        "definitions": DEFINITIONS,
        "config": vars(config),
        "versions": versions(),
        "git": git_state(),
        "environment": environment(device),
    }
    files = write_result(result, [example.picture for example in seen.examples], Path(config.output))
    print_result(result, files)
    return result


def _identity(name: str, layer: AttentiveNorm) -> dict[str, Any]:
    components, channels = layer.weight.shape
    kind = {"name": name, "type": type(layer).__name__, "gate": layer.attention.gate}
    return {**kind, "components": components, "channels": channels}


def _check_output(folder: Path) -> None:
    """Before the pass over the data, which may take long."""
    import tempfile

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise JobError(f"output must be a folder that can be written to; {folder} is not ({error.strerror})") from None
