"""The page and the files of `attnorm inspect`; the page is complete in itself, like that of a comparison."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from attnorm.evidence.inspect_plots import LABELLED, by_depth, class_means, examples, histograms, spread
from attnorm.evidence.inspect_table import HEADINGS, sentences, table_rows
from attnorm.evidence.plots import inline_svg, save_png
from attnorm.evidence.report import STYLE
from attnorm.files import write_json_atomic, write_text_atomic

OWN_STYLE = """
dl.words { display: block; }
dl.words dd { margin: 0 0 .5rem; }
@media screen and (max-width: 40rem) { figure svg { min-width: 40rem; } }
"""
TITLES = {
    "depth": "What depth does",
    "classes": "What classes get",
    "examples": "What single images get",
    "histograms": "How the weights are distributed",
}


def write_result(result: Mapping[str, Any], pictures: Sequence[np.ndarray], folder: Path) -> list[str]:
    """Writes pictures, page and numbers, each complete or not at all; the numbers last.

    Args:
        result: the content of inspect.json.
        pictures: of its examples, uint8 (H, W, 3) each.
        folder: where to.

    Returns:
        Lines that say what lies where.
    """
    figures = draw(result, pictures)
    for name in TITLES.keys() - figures.keys():
        (folder / f"{name}.png").unlink(missing_ok=True)  # of an earlier run
    for name, figure in figures.items():
        save_png(figure, folder / f"{name}.png")
    write_text_atomic(folder / "report.html", render_report(result, figures))
    write_json_atomic(folder / "inspect.json", result)
    return [f"report: {folder / 'report.html'}", f"numbers: {folder / 'inspect.json'}"]


def draw(result: Mapping[str, Any], pictures: Sequence[np.ndarray]) -> dict[str, Figure]:
    """The figures for which there is something to draw, by the name of their file."""
    layers = result["layers"]
    classified = [layer for layer in layers if layer["lambda_share_between_classes"] is not None]
    figures: dict[str, Figure] = {}
    if layers:
        figures["depth"] = by_depth(result)
    if classified:
        figures["classes"] = class_means(spread(classified), result["classes"])
    if pictures and any(layer["per_image"] for layer in layers):
        figures["examples"] = examples(result, pictures)
    if layers:
        figures["histograms"] = histograms(spread(layers))
    return figures


def render_report(result: Mapping[str, Any], figures: Mapping[str, Figure]) -> str:
    """The page for the content of an inspect.json."""
    title = f"What the mixture of {result['model']} does on {result['dataset']}"
    count = "no classes"
    if result["classes"] is not None:
        filled = sum(row["images"] > 0 for row in result["classes"])
        count = f"{len(result['classes'])} classes"
        count = count if filled == len(result["classes"]) else f"of {filled} of {count}"
    what = f"{result['images']:,} images, {count}; {len(result['layers'])} AN layers; {result['finished'][:10]}"
    parts = [
        f"<h1>{_text(title)}</h1>",
        f'<p class="what">{_text(what)}</p>',
        _list(sentences(result), "verdicts"),
        f'<div class="wide">{_table(HEADINGS, table_rows(result))}</div>',
    ]
    for name, figure in figures.items():
        caption = _caption(name, result)
        parts += [
            f"<h2>{TITLES[name]}</h2>",
            f'<figure><div class="wide">{inline_svg(figure, TITLES[name])}</div>{caption}</figure>',
        ]
    parts += [
        "<h2>What the words mean</h2>",
        _pairs(result["definitions"], "words"),
        _dead_components(result["layers"]),
        "<h2>What made it</h2>",
        _provenance(result),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>{STYLE}{OWN_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body>\n</html>\n"
    )


def _caption(name: str, result: Mapping[str, Any]) -> str:
    drawn = [layer["name"] for layer in spread(result["layers"])]
    some = "" if len(drawn) == len(result["layers"]) else (
        f" Drawn: {len(drawn)} of {len(result['layers'])} layers, at equal distances in depth; --layers chooses others."
    )  # fmt: skip
    text = {
        "depth": "Layers from left to right as they run. Left: how much of the weights' variance lies between classes; "
        f"{result['class_rule']}. Adjusted shares below 0 are not drawn. Right: how much the layer's scales vary.",
        "classes": "Mean weight of the images of a class, minus the mean of all images: red above, blue below. Rows "
        "are classes, columns components by their number. Both are sorted by the first pair of singular vectors, the "
        "direction in which classes differ most: classes at the top and components at the left go together, and so do "
        f"those at the other ends.{some}" + (
            "" if sum(row["images"] > 0 for row in result["classes"] or ()) <= LABELLED else
            " The classes are too many to be named; their means are in inspect.json."
        ),
        "examples": "The first image of each of some classes, and its own weights: a row per layer, a cell per "
        "component in its own order. The weights as they are stand in inspect.json.",
        "histograms": "Share of the inputs by weight, in bins of 0.02: a thin line per component, the bold one for all "
        f"together.{some}",
    }[name]  # fmt: skip
    return f"<figcaption>{_text(text)}</figcaption>"


def _dead_components(layers: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [layer["name"], ", ".join(map(str, layer["off"])) or "–", ", ".join(map(str, layer["constant"])) or "–"]
        for layer in layers
        if layer["off"] or layer["constant"]
    ]
    table = _table(("layer", "off", "constant"), rows)
    return f'<h2>Dead components</h2>\n<div class="wide">{table}</div>' if rows else ""


def _provenance(result: Mapping[str, Any]) -> str:
    pairs = {"checkpoint": result["checkpoint"], **result["environment"], **result["versions"]}
    if result["git"]["commit"]:
        pairs["commit"] = result["git"]["commit"] + (" with changes" if result["git"]["dirty"] else "")
    pairs |= {f"note {i}": note for i, note in enumerate(result["notes"], 1)}
    settings = "\n".join(f"{key}: {value}" for key, value in result["config"].items() if value is not None)
    return f"{_pairs(pairs)}\n<details><summary>All settings</summary><pre>{_text(settings)}</pre></details>"


def _text(value: str) -> str:
    return html.escape(value)


def _pairs(pairs: Mapping[str, Any], css: str = "facts") -> str:
    rows = "".join(f"<dt>{_text(k)}</dt><dd>{_text(str(v))}</dd>" for k, v in pairs.items() if v is not None)
    return f'<dl class="{css}">{rows}</dl>'


def _list(items: Sequence[str], css: str) -> str:
    return f'<ul class="{css}">' + "".join(f"<li>{_text(item)}</li>" for item in items) + "</ul>"


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{_text(cell)}</th>" for cell in headings)
    body = "".join("<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
