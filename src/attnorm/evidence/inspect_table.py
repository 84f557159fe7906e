"""What `attnorm inspect` found, in a row per layer and in a few sentences; what is printed in the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

HEADINGS = (
    "layer",
    "K",
    "mean λ",
    "sd",
    "between classes",
    "adjusted",
    "used components",
    "directions",
    "γ varies by",
    "dead",
)


def table_rows(result: Mapping[str, Any]) -> list[list[str]]:
    """A row of cells per layer, under HEADINGS."""
    return [_row(layer) for layer in result["layers"]]


def _row(layer: Mapping[str, Any]) -> list[str]:
    dead = len(layer["off"]) + len(layer["constant"])
    return [
        layer["name"],
        str(layer["components"]),
        f"{layer['lambda_mean']:.3f}",
        f"{layer['lambda_std_over_images']:.3f}",
        _percent(layer["lambda_share_between_classes"]) if layer["per_image"] else "no images",
        _percent(layer["share_adjusted"]),
        f"{layer['used_components']:.1f}",
        "–" if layer["directions"] is None else f"{layer['directions']:.1f}",
        _percent(layer["gamma_std_over_images_relative"]),
        str(dead) if dead else "–",
    ]


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}%"


def sentences(result: Mapping[str, Any]) -> list[str]:
    """What there is to see, and what to beware of, in words."""
    layers = result["layers"]
    if not layers:
        return [f"None of the AN layers ran at least twice: {', '.join(result['not_run'])}."]
    said = [_about_classes(result), _about_use(layers), _about_dead(layers)]
    regions = [layer["name"] for layer in layers if not layer["per_image"]]
    if regions:
        said.append(
            f"{_shortened(regions)} see regions of images, or an image several times: they have no classes, and their "
            "distribution is over what they see."
        )
    if result["not_run"]:
        said.append(f"Without two inputs, and so left out: {_shortened(result['not_run'])}.")
    return [sentence for sentence in said if sentence]


def _about_classes(result: Mapping[str, Any]) -> str:
    shared = [layer for layer in result["layers"] if layer["lambda_share_between_classes"] is not None]
    if not shared:
        return f"No shares between classes: {_why_no_classes(result)}."
    first, last = shared[0], shared[-1]
    found = f"{_percent(first['lambda_share_between_classes'])} of the variance of λ lies between classes"
    if len(shared) > 1:
        found += f" in the first layer, {first['name']}, and {_percent(last['lambda_share_between_classes'])} in the "
        found += f"last, {last['name']}"
    else:
        found += f" in {first['name']}"
    return f"{found}; classes drawn at random would have {_percent(first['share_by_chance'])} between them."


def _why_no_classes(result: Mapping[str, Any]) -> str:
    if result["classes"] is None:
        return result["class_rule"]
    filled = sum(row["images"] > 0 for row in result["classes"])
    if filled < 2:
        return "all images are of one class"
    if result["images"] <= filled:
        return f"{result['images']} images of {filled} classes are too few"
    if not any(layer["per_image"] for layer in result["layers"]):
        return "no layer sees whole images"
    return "the weights do not vary"


def _about_use(layers: Sequence[Mapping[str, Any]]) -> str:
    varying = [x for x in layers if x["gamma_std_over_images_relative"] is not None]
    if not varying:
        return ""
    least = min(varying, key=lambda layer: layer["gamma_std_over_images_relative"])
    most = max(varying, key=lambda layer: layer["gamma_std_over_images_relative"])
    if least is most:
        return f"From image to image the scales γ vary by {_percent(least['gamma_std_over_images_relative'])}."
    return (
        f"The scales γ vary from input to input by {_percent(least['gamma_std_over_images_relative'])} "
        f"({least['name']}) to {_percent(most['gamma_std_over_images_relative'])} ({most['name']}) of their size."
    )


def _about_dead(layers: Sequence[Mapping[str, Any]]) -> str:
    count = sum(layer["components"] for layer in layers)
    places = [
        f"{layer['name']} ({', '.join(parts)})"
        for layer in layers
        if (parts := [f"{len(layer[kind])} {kind}" for kind in ("off", "constant") if layer[kind]])
    ]
    if not places:
        return f"None of the {count} components is dead."
    dead = sum(len(layer["off"]) + len(layer["constant"]) for layer in layers)
    return f"{dead} of {count} components are dead, in {_shortened(places)}."


def _shortened(names: Sequence[str], count: int = 5) -> str:
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")


def print_result(result: Mapping[str, Any], files: Sequence[str]) -> None:
    """Prints the table, the sentences about it and where the files lie."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        console = Console(width=120)  # a log file has no edge to wrap at
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for index, heading in enumerate(HEADINGS):
        lines = heading.replace(" ", "\n", 1) if len(heading) > 6 else heading
        table.add_column(lines, justify="right" if index else "left", vertical="bottom", no_wrap=True)
    for row in table_rows(result):
        table.add_row(*map(Text, row))
    console.print()
    console.print(table)
    console.print()
    for line in [*sentences(result), "", *files]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
