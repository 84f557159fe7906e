"""From the JSON records to the Markdown that docs/performance.md shows. Every number in it passes through here."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.contenders import CONTENDERS
from benchmarks.results_table import markdown_table
from benchmarks.step_cost import BACKWARD, FORWARD
from benchmarks.sync_cost import RATIOS as SYNC_RATIOS
from benchmarks.targets import DETECTOR_TARGETS, FAMILY_TARGETS, GPU_TARGETS, LAYER_TARGETS, NETWORK_TARGETS, Target

Row = Mapping[str, Any]
LAYER_COLUMNS = {
    "an_bn_train": "AN / BN, training",
    "an_bn_relu_train": "AN+ReLU / BN+ReLU, training",
    "an_bn_eval": "AN / BN, evaluation",
    "released_an_train": "released formulation / AN, training",
}
NETWORK_COLUMNS = {
    "an_bn_train": "resnet50_an / resnet50, training",
    "se_an_train": "seresnet50 / resnet50_an, training",
    "an_bn_eval": "resnet50_an / resnet50, evaluation",
}


def ratio(value: Row, digits: int = 2, target: Target | None = None) -> str:
    """A ratio with its interval and, where there is one, its target and whether the median keeps it."""
    low, median, high = (f"{value[end]:.{digits}f}" for end in ("low", "median", "high"))
    wanted = "" if target is None else f"; {target}: {'met' if target.met(value['median']) else 'missed'}"
    return f"{median} [{low}, {high}]{wanted}"


def milliseconds(value: Row) -> str:
    """A time with half the distance between its quartiles."""
    spread = (value["high"] - value["low"]) / 2
    if value["median"] >= 999.5:  # which three digits would write with an exponent
        return f"{value['median']:.0f} ± {spread:.0f}"
    return f"{value['median']:.3g} ± {spread:.2g}"


def _float32(record: Row) -> list[Row]:
    return [row for row in record["rows"] if row["dtype"] == "float32"]


def layer_sentence(record: Row) -> str:
    """What AN costs in a layer, in one sentence."""
    rows = _float32(record)

    def span(key: str, layout: str) -> str:
        values = [row["ratios"][key]["median"] for row in rows if row["layout"] == layout and key in row["ratios"]]
        return f"{min(values):.2f} to {max(values):.2f}" if values else "(not measured)"

    return (
        f"One training step of an AN layer takes {span('an_bn_train', 'NCHW')} times nn.BatchNorm2d's time in NCHW and "
        f"{span('an_bn_train', 'channels_last')} times in channels_last; the released formulation takes "
        f"{span('released_an_train', 'NCHW')} and {span('released_an_train', 'channels_last')} times ours (medians "
        "over ResNet-50's shapes, on a CPU).\n"
    )


def network_sentence(record: Row) -> str:
    """What AN costs in a network, in one sentence."""
    parts: list[str] = []
    for row in record["rows"]:
        value = row["ratios"][f"an_bn_{row['kind']}"]
        mode = "training" if row["kind"] == "train" else "evaluation"
        parts.append(f"{ratio(value, 3)} times resnet50's time in {mode} ({row['layout']})")
    return f"resnet50_an takes {_listed(parts)}.\n"


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def layer_ratios(record: Row) -> str:
    """The ratios with their targets, float32."""
    lines: list[list[str]] = []
    for row in _float32(record):
        targets = LAYER_TARGETS.get((row["shape"], row["layout"]), {})
        cells = [
            ratio(row["ratios"][key], target=targets.get(key)) if key in row["ratios"] else "" for key in LAYER_COLUMNS
        ]
        lines.append([f"{row['shape']} {row['layout']}", *cells])
    return markdown_table(["layer", *LAYER_COLUMNS.values()], lines)


def layer_bfloat16(record: Row) -> str:
    """The ratios in bfloat16, which have no targets."""
    lines = [
        [f"{row['shape']} {row['layout']}", *(ratio(row["ratios"][key]) for key in LAYER_COLUMNS)]
        for row in record["rows"]
        if row["dtype"] == "bfloat16"
    ]
    return markdown_table(["layer, bfloat16", *LAYER_COLUMNS.values()], lines)


def layer_times(record: Row) -> str:
    """Milliseconds of every layer: forward and backward of a training step, and evaluation."""
    lines: list[list[str]] = []
    for row in _float32(record):
        for name, times in row["contenders"].items():
            cells = [milliseconds(times[f"{kind}_ms"]) for kind in ("forward", "backward", "eval")]
            lines.append([f"{row['shape']} {row['layout']}", name, *cells])
        lines.extend([f"{row['shape']} {row['layout']}", name, note, note, note] for name, note in row["notes"].items())
    return markdown_table(["layer", "", "forward, ms", "backward, ms", "evaluation, ms"], lines)


def contenders(_: Row) -> str:
    """Who is compared, and why."""
    return "\n".join(f"- **{contender.name}**: {contender.reason}" for contender in CONTENDERS.values()) + "\n"


def bandwidth(record: Row) -> str:
    """Bytes that a training step must move, the share of the copy bandwidth at which it does, and what its ops move."""
    lines: list[list[str]] = []
    for row in _float32(record):
        copy = 2 * row["x_bytes"] / row["train_copy_ms"]["median"]  # bytes per ms
        for name, times in row["contenders"].items():
            known = CONTENDERS.get(name)
            moved = times.get("train_traffic")
            needed = known.passes[0] * row["x_bytes"] if known is not None and known.passes is not None else None
            share = None if needed is None else needed / times["train_ms"]["median"] / copy
            lines.append(
                [
                    f"{row['shape']} {row['layout']}",
                    name,
                    "" if needed is None else f"{needed / 1e6:.0f}",
                    "" if share is None else f"{share:.0%}",
                    "" if moved is None else f"{moved / row['x_bytes']:.1f}",
                    f"{copy / 1e6:.1f}",
                ]
            )
    headings = ["layer", "", "must move, MB", "share of copy", "operations move, in x", "copy, GB/s"]
    return markdown_table(headings, lines)


def step_parts(record: Row) -> str:
    """Milliseconds of the parts of AN's training step beside BN's; a rest is what the parts leave of the whole."""
    lines: list[list[str]] = []
    for row in record["rows"]:
        cells = [f"{row['shape']} {row['layout']}"]
        for phase, names in (("forward", FORWARD), ("backward", BACKWARD)):
            whole = row[f"AN_{phase}_ms"]["median"]
            parts = [row["parts_ms"][name] for name in names]
            cells += [f"{row[f'BN_{phase}_ms']['median']:.2f}", f"{whole:.2f}", *(f"{part:.2f}" for part in parts)]
            cells.append(f"{whole - sum(parts):.2f}")
        # 8 passes over x, of which a copy makes 2.
        floor = 4 * row["copy_ms"]["median"]
        lines.append([*cells, f"{floor:.2f}", f"{row['operations']['forward']} + {row['operations']['backward']}"])
    headings = ["layer", "BN fwd", "AN fwd", "moments", "middle", "affine", "rest"]
    headings += ["BN bwd", "AN bwd", "sums", "middle", "dx", "rest", "8 passes at copy speed", "operations"]
    return markdown_table(headings, lines)


def layer_memory(record: Row) -> str:
    """Bytes kept for the backward pass, in sizes of x."""
    names = [name for name in CONTENDERS if any(name in row["contenders"] for row in _float32(record))]
    lines: list[list[str]] = []
    for row in _float32(record):
        saved = {name: cost["saved_bytes"] / row["x_bytes"] for name, cost in row["contenders"].items()}
        cells = [f"{saved[name]:.3f}" if name in saved else "" for name in names]
        lines.append([f"{row['shape']} {row['layout']}", *cells])
    return markdown_table(["layer", *names], lines)


def network_ratios(record: Row) -> str:
    """The ratios of whole networks with their targets."""
    lines: list[list[str]] = []
    for layout in dict.fromkeys(row["layout"] for row in record["rows"]):
        ratios = {
            key: value for row in record["rows"] if row["layout"] == layout for key, value in row["ratios"].items()
        }
        cells = [ratio(ratios[key], 3, NETWORK_TARGETS.get(key)) if key in ratios else "" for key in NETWORK_COLUMNS]
        lines.append([layout, *cells])
    return markdown_table(["layout", *NETWORK_COLUMNS.values()], lines)


def network_times(record: Row) -> str:
    """Milliseconds per step, parameters and saved bytes of the networks."""
    lines: list[list[str]] = []
    for row in record["rows"]:
        baseline = row["networks"]["resnet50"].get("saved_bytes")
        for name, cost in row["networks"].items():
            saved = cost.get("saved_bytes")
            part = None if saved is None or baseline is None else saved / baseline
            lines.append(
                [
                    f"{name}, {row['layout']}, {'training' if row['kind'] == 'train' else 'evaluation'}",
                    milliseconds(cost[f"{row['kind']}_ms"]),
                    f"{cost['parameters'] / 1e6:.2f}",
                    "" if saved is None else f"{saved / 1e6:.1f}",
                    "" if part is None else f"{part:.4f}" + _kept(name, part),
                ]
            )
    headings = ["network", "ms per step", "parameters, M", "saved for backward, MB", "of resnet50's"]
    return markdown_table(headings, lines)


def family_ratios(record: Row) -> str:
    """Of each other family AN's price, and AOGNet's forward pass against a plain one, with their targets."""
    lines: list[list[str]] = []
    for row in record["rows"]:
        names = list(row["networks"])
        mode = "training" if row["kind"] == "train" else "evaluation"
        for key, value in row["ratios"].items():
            shown = f"{names[-1]} / {names[0]}" if key.startswith("an_bn") else f"{names[0]} / {names[-1]}"
            lines.append([f"{shown}, {mode}", row["layout"], ratio(value, 3, FAMILY_TARGETS.get((names[0], key)))])
    return markdown_table(["ratio of times", "layout", "measured"], sorted(lines))


def detector_ratios(record: Row) -> str:
    """A detector's price: AN's beside BatchNorm's, and both beside torchvision's detector, with their targets."""
    modes = {"train": "training", "fine_tune": "fine-tuning", "eval": "evaluation"}
    pairs = {"an_bn": "AN / BN", "an_torchvision": "AN / torchvision's", "bn_torchvision": "BN / torchvision's"}
    lines: list[list[str]] = []
    for row in record["rows"]:
        for key, value in row["ratios"].items():
            pair = pairs[key.removesuffix("_" + row["kind"])]
            measured = ratio(value, 3, DETECTOR_TARGETS.get(key))
            lines.append([f"{pair}, {modes[row['kind']]}", row["layout"], measured])
    return markdown_table(["ratio of times", "layout", "measured"], lines)


def detector_times(record: Row) -> str:
    """Milliseconds per step and parameters of the detectors."""
    modes = {"train": "training", "fine_tune": "fine-tuning", "eval": "evaluation"}
    lines = [
        [f"{name}, {row['layout']}, {modes[row['kind']]}",
         milliseconds(cost["eval_ms" if row["kind"] == "eval" else "train_ms"]), f"{cost['parameters'] / 1e6:.2f}"]
        for row in record["rows"]
        for name, cost in row["networks"].items()
    ]  # fmt: skip
    return markdown_table(["detector", "ms per step", "parameters, M"], lines)


def sync_ratios(record: Row) -> str:
    """What synchronising costs a training step, and AN's beside BatchNorm's."""
    rows = record["rows"]
    taken = {key: " / ".join(pair) for key, pair in SYNC_RATIOS.items() if all(key in row["ratios"] for row in rows)}
    lines = [[row["network"], *(ratio(row["ratios"][key]) for key in taken)] for row in rows]
    return markdown_table(["network", *taken.values()], lines)


def sync_sent(record: Row) -> str:
    """What the norms of a network send in a training step."""
    lines: list[list[str]] = []
    for row in record["rows"]:
        for name, sent in row["sent"].items():
            phases = (sent["forward"], sent["backward"])
            cells = [str(phase["collectives"]) for phase in phases] + [f"{4e-3 * p['values']:.1f}" for p in phases]
            lines.append([row["network"], name, *cells])
    return markdown_table(["network", "", "gathers", "sums", "kB forward", "kB backward"], lines)


def sync_provenance(record: Row) -> str:
    """As for the others, and how busy the machine was with other work."""
    loads = _listed([f"{row['load_before']}" for row in record["rows"]])
    return f"{provenance(record).rstrip()} Load average before each network: {loads}.\n"


def _kept(name: str, part: float) -> str:
    target = NETWORK_TARGETS["saved_an_bn"]
    return f" ({target}: {'met' if target.met(part) else 'missed'})" if name == "resnet50_an" else ""


def gpu(record: Row) -> str:
    """What benchmarks/gpu.py measured: every line a name, a value with its interval, a target."""
    lines: list[list[str]] = []
    for row in record["rows"]:
        for entry in row["entries"]:
            target = GPU_TARGETS.get(entry.get("target", ""))
            shown = ratio(entry["ratio"], 3, target) if "ratio" in entry else entry["text"]
            lines.append([row["part"], entry["name"], shown])
    return markdown_table(["part", "", "measured"], lines)


def provenance(record: Row) -> str:
    """What made the figures, and whether the run came to its end."""
    versions = ", ".join(f"{key} {value}" for key, value in record["versions"].items())
    machine = ", ".join(f"{key} {value}" for key, value in record["machine"].items() if value is not None)
    commit = f"commit {record['git']['commit'][:12]}" if record["git"]["commit"] else "commit unknown"
    changed = " with uncommitted changes" if record["git"]["dirty"] else ""
    ended = f"finished {record['finished']}" if record["finished"] else f"**unfinished**, begun {record['started']}"
    return f"`{record['command']}`, {ended}, {commit}{changed}; {versions}; {machine}.\n"


# What a page can ask for by name, with the kind of record that it is made from; None: from none.
TABLES: dict[str, tuple[str | None, Callable[[Row], str]]] = {
    "layer_sentence": ("layer-cost", layer_sentence),
    "layer_ratios": ("layer-cost", layer_ratios),
    "layer_bfloat16": ("layer-cost", layer_bfloat16),
    "layer_times": ("layer-cost", layer_times),
    "layer_contenders": (None, contenders),
    "layer_bandwidth": ("layer-cost", bandwidth),
    "layer_memory": ("layer-cost", layer_memory),
    "step_parts": ("step-cost", step_parts),
    "step_provenance": ("step-cost", provenance),
    "layer_provenance": ("layer-cost", provenance),
    "network_sentence": ("network-cost", network_sentence),
    "network_ratios": ("network-cost", network_ratios),
    "network_times": ("network-cost", network_times),
    "network_provenance": ("network-cost", provenance),
    "family_ratios": ("families-cost", family_ratios),
    "family_provenance": ("families-cost", provenance),
    "detector_ratios": ("detector-cost", detector_ratios),
    "detector_times": ("detector-cost", detector_times),
    "detector_provenance": ("detector-cost", provenance),
    "sync_ratios": ("sync-cost", sync_ratios),
    "sync_sent": ("sync-cost", sync_sent),
    "sync_provenance": ("sync-cost", sync_provenance),
    "gpu": ("gpu-cost", gpu),
    "gpu_provenance": ("gpu-cost", provenance),
}
