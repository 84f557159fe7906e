"""One HTML page that tells a comparison: verdict, table, pictures, how to read them, and what made them.

The page is complete in itself (styles, pictures as SVG inside), follows the reader's light or dark setting and prints.
"""

import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

from attnorm.evidence.curves import CAPTION, learning_curves
from attnorm.evidence.plots import accuracies, inline_svg
from attnorm.evidence.spelled_out import spell_out
from attnorm.evidence.summary import describe_data, headline, history, shown_metrics, verdicts
from attnorm.evidence.table import cost_table, outcome_table
from attnorm.training.metric import Metric

NAMED_IN_TITLE = 2
SENTENCES_ABOVE = 4

STYLE = """
:root { color-scheme: light dark;
  --ink: #1c1e21; --soft: #5c6370; --ground: #ffffff; --line: #d9dce1; --panel: #f5f6f8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --soft: #9aa3ad; --ground: #16181c; --line: #343a42; --panel: #1e2126; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 64rem; padding: 2rem 1.5rem 4rem; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
p.what, figcaption { color: var(--soft); margin: 0 0 1rem; }
ul.verdicts { list-style: none; margin: 1rem 0; padding: .8rem 1.1rem; background: var(--panel);
  border-left: 4px solid var(--soft); border-radius: 4px; }
ul.verdicts li + li { margin-top: .4rem; }
ul.verdicts li.first { font-weight: 600; }
.wide { overflow-x: auto; }
.wide.picture svg { min-width: 44rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { padding: .4rem .5rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th { color: var(--soft); font-weight: 600; vertical-align: bottom; white-space: normal; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
td:first-child { min-width: 10.5rem; max-width: 17rem; white-space: normal; }
li { overflow-wrap: anywhere; }
td small { color: var(--soft); }
table.words td, table.words th { text-align: left; white-space: normal; }
figure { margin: 0 0 1rem; }
figure svg { width: 100%; height: auto; display: block; }
pre { background: var(--panel); padding: .8rem 1rem; border-radius: 4px; white-space: pre-wrap; overflow-wrap: anywhere;
  font-size: .85rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.2rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
@media print {
  :root { --ink: #000; --soft: #444; --ground: #fff; --line: #bbb; --panel: #f5f6f8; }
  :root { font-size: 11px; }
  body { max-width: none; padding: 0; font-size: 1rem; }
  h2 { break-after: avoid; }
  figure, tr { break-inside: avoid; }
  .wide { overflow: visible; }
  .wide.picture svg { min-width: 0; max-height: 25cm; }
  table { font-size: .86rem; }
  th, td { padding: .25rem .4rem; }
}
"""


def render_report(result: Mapping[str, Any]) -> str:
    """The page for the content of a compare.json."""
    title, metric = _title(result), shown_metrics(result)[0]
    what = (
        f"{describe_data(result['data'])} in {result['data']['classes']} classes; "
        f"{result['config']['epochs']} epochs; seeds {result['config']['seeds']}; {result['finished'][:10]}"
    )
    run_headings = ("network", "seed", f"{metric.label}, %", "best epoch's, %", "epochs", "training time")
    parts = [
        f"<h1>{_text(title)}</h1>",
        f'<p class="what">{_text(what)}</p>',
        _verdicts(result),
        _table(*outcome_table(result)),
        _in_words(result),
        "<h2>Where the runs ended</h2>",
        _figure(inline_svg(accuracies(result), f"{metric.label} of every run and differences to the baseline")),
        "<h2>How they went</h2>",
        _figure(inline_svg(learning_curves(result), "learning curves"), CAPTION),
        "<h2>What they cost</h2>",
        _table(*cost_table(result)),
        _networks(result),
        "<h2>How to read this</h2>",
        _list(result["notes"]),
        "<h2>Every run</h2>",
        _table(run_headings, [_run_row(run, metric) for run in result["runs"]]),
        "<h2>What made it</h2>",
        _provenance(result),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def _title(result: Mapping[str, Any]) -> str:
    baseline, others = result["baseline"], [m["name"] for m in result["models"] if m["name"] != result["baseline"]]
    if not others:
        return baseline
    named = " and ".join(others) if len(others) <= NAMED_IN_TITLE else f"{len(others)} networks"
    return f"{named} against {baseline}"


def _verdicts(result: Mapping[str, Any]) -> str:
    """What is shown, at a glance: the verdicts, or where they are many their sum, and what must stand beside them."""
    first = headline(result)
    items = [] if first is None else [f'<li class="first">{_text(first)}</li>']
    told = result["cautions"] if _many(result) else [*verdicts(result), *result["cautions"]]
    items += [f"<li>{_text(line)}</li>" for line in told]
    return f'<ul class="verdicts">{"".join(items)}</ul>' if items else ""


def _in_words(result: Mapping[str, Any]) -> str:
    """The verdicts that are too many to stand above the table."""
    return _list(verdicts(result)) if _many(result) else ""


def _many(result: Mapping[str, Any]) -> bool:
    return len(verdicts(result)) > SENTENCES_ABOVE


def _networks(result: Mapping[str, Any]) -> str:
    """The options of the networks that have some, in words."""
    spelled = [(model["name"], spell_out(model["name"])) for model in result["models"]]
    rows = [[name, words or "as it is registered"] for name, words in spelled]
    if not any(words for _, words in spelled):
        return ""
    return "<h2>The networks</h2>\n" + _table(("network", "what its options mean"), rows, css="words")


def _run_row(run: Mapping[str, Any], metric: Metric) -> list[str]:
    start = [run["model"], str(run["seed"])]
    if run["record"] is None:
        return [*start, "failed", "–", "–", "–"]
    epochs = history(run)
    seconds = sum(epoch["seconds"] for epoch in epochs)
    duration = f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"
    best = max(metric.percent(epoch) or 0.0 for epoch in epochs)
    return [*start, f"{run[metric.name]:.2f}", f"{best:.2f}", str(len(epochs)), duration]


def _provenance(result: Mapping[str, Any]) -> str:
    environment = result["environment"]
    pairs = [(key.replace("_", " "), value) for key, value in environment.items() if value not in (None, "", {})]
    rows = "".join(f"<dt>{_text(key)}</dt><dd>{_text(_plain(value))}</dd>" for key, value in pairs)
    config = json.dumps(result["config"], indent=2)
    return (
        f"<pre>{_text(result['command'])}</pre>\n<dl>{rows}</dl>\n"
        f"<details><summary>All settings</summary><pre>{_text(config)}</pre></details>"
    )


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items() if item is not None)
    if isinstance(value, list):
        return " — or, in other runs: ".join(_plain(item) for item in value)
    return str(value)


def _text(value: str) -> str:
    return html.escape(value)


def _list(items: Sequence[str]) -> str:
    return '<ul class="notes">' + "".join(f"<li>{_text(item)}</li>" for item in items) + "</ul>"


def _figure(svg: str, caption: str = "") -> str:
    text = f"<figcaption>{_text(caption)}</figcaption>" if caption else ""
    return f'<figure><div class="wide picture">{svg}</div>{text}</figure>'


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]], css: str = "") -> str:
    """A table that scrolls within the page where it is wider; the first cell of a row is its name."""
    head = "".join(f"<th>{_text(cell)}</th>" for cell in headings)
    body = "".join(
        f"<tr><td>{_name(row[0])}</td>" + "".join(f"<td>{_lines(cell)}</td>" for cell in row[1:]) + "</tr>"
        for row in rows
    )
    kind = f' class="{css}"' if css else ""
    return f'<div class="wide"><table{kind}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _name(name: str) -> str:
    """A name that may break before each of its options."""
    return _text(name).replace(":", "<wbr>:")


def _lines(cell: str) -> str:
    return "<br>".join(
        f"<small>{_text(line)}</small>" if number else _text(line) for number, line in enumerate(cell.split("\n"))
    )
