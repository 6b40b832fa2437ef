"""A report for people: one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

SHOWN_SIDES = ("tail", "head", "both")
_BLUE, _ORANGE, _GREY = "#2563a8", "#c2681c", "#6b7280"


@dataclass(frozen=True)
class Example:
    """A test query and what the model made of it."""

    entity: str
    """Name of the given entity."""
    relation: str
    """Name of the relation."""
    image: Image.Image | None
    """A picture of the given entity."""
    caption: str
    """What the captioner said of it."""
    answers: Sequence[tuple[str, float]]
    """The best answers with their probabilities, other known answers left out."""
    gold: str
    """The right answer."""
    rank: float
    """Its exact filtered rank."""


def write_report(
    path: Path,
    result: dict[str, Any],
    history: Sequence[dict[str, float]],
    relation_names: dict[str, str],
    examples: Iterable[Example],
) -> None:
    """Write the report of a run.

    Args:
        path: The HTML file.
        result: On test, as `results.summarize` and `results.protocol` give it.
        history: The lines of ``metrics.jsonl``; none for a fusion.
        relation_names: Names by id.
        examples: Queries for the gallery.
    """
    stamp = result["protocol"]
    both = result["both"]
    body = f"""
<h1>{escape(stamp["dataset"])}</h1>
<p class="lead">Given a head and a relation the model finds the tail, and the other way round. The
right answer stands at rank 1 in <b>{both["hits@1"]:.0%}</b> of the test queries and among the
first ten in <b>{both["hits@10"]:.0%}</b>; the filtered MRR is
<b>{both["mrr"]:.3f}</b>. All ranks are exact: every one of the {stamp["candidates"]:,} entities
is a candidate, facts already known are left out, ties count with their mean rank.</p>
{_metrics_table(result)}
<h2>Which relations are hard?</h2>
<p>MRR on test by relation and by the end that is asked for; the number of test facts in brackets.
</p>
<figure>{_relation_plot(result["by_relation"], relation_names)}</figure>
{_learning(stamp, history)}
<h2>Test queries, looked at one by one</h2>
<p>The first test facts of each relation whose head has a picture. Other answers known to be right
are left out; <span class="gold">✓</span> marks the right one.</p>
<div class="gallery">{"".join(map(_card, examples))}</div>
<h2>Protocol</h2>
<table class="protocol">{"".join(
    f"<tr><th>{escape(key.replace('_', ' '))}</th><td>{escape(_plain(value))}</td></tr>"
    for key, value in stamp.items())}</table>
"""
    path.write_text(f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(stamp["dataset"])}: report</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>{_STYLE}</style></head><body><main>{body}</main></body></html>
""", "utf-8")


def _learning(stamp: dict[str, Any], history: Sequence[dict[str, float]]) -> str:
    """The learning curve; a fusion has none."""
    if not history:
        return ""
    return f"""<h2>How it learnt</h2>
<p>Loss on train, and filtered MRR on valid, by which the model was chosen
(step {stamp["best_step"]:,} of {stamp["steps"]:,}).</p>
<figure>{_curve_plot(history)}</figure>"""


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return str(value)


def _metrics_table(result: dict[str, Any]) -> str:
    names = [name for name in result["both"] if name != "count"]
    head = "".join(f"<th>{name.upper() if name.startswith('m') else name.title()}</th>"
                   for name in names)
    rows = "".join(
        f"<tr><th>{side}</th>"
        + "".join(f"<td>{result[side][name]:.{1 if name == 'mr' else 3}f}</td>" for name in names)
        + f"<td>{result[side]['count']:,}</td></tr>"
        for side in SHOWN_SIDES)
    return f"<table><tr><th>asked for</th>{head}<th>queries</th></tr>{rows}</table>"


def _relation_plot(by_relation: dict[str, Any], names: dict[str, str]) -> str:
    order = sorted(by_relation, key=lambda key: by_relation[key]["both"]["mrr"])
    figure = Figure(figsize=(8, 0.6 + 0.42 * len(order)), layout="constrained")
    axes = figure.subplots()
    for shift, side, colour in ((0.2, "tail", _BLUE), (-0.2, "head", _ORANGE)):
        axes.barh([row + shift for row in range(len(order))],
                  [by_relation[key][side]["mrr"] for key in order], 0.38, color=colour,
                  label=f"{side} asked for")
    axes.set_yticks(range(len(order)), [
        f"{names[key]} ({by_relation[key]['tail']['count']})" for key in order])
    axes.set_xlim(0, 1)
    axes.set_xlabel("filtered MRR on test")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="lower right", frameon=False)
    _bare(axes)
    return _svg(figure)


def _curve_plot(history: Sequence[dict[str, float]]) -> str:
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    left = figure.subplots()
    right = left.twinx()
    losses = [(line["step"], line["loss"]) for line in history if "loss" in line]
    scores = [(line["step"], line["valid_mrr"]) for line in history if "valid_mrr" in line]
    if losses:
        left.plot(*zip(*losses, strict=True), color=_GREY, linewidth=1)
    if scores:
        right.plot(*zip(*scores, strict=True), color=_BLUE, marker="o")
    left.set_xlabel("step")
    left.set_ylabel("loss", color=_GREY)
    left.set_ylim(bottom=0)
    right.set_ylabel("MRR on valid", color=_BLUE)
    right.set_ylim(0, 1)
    left.spines["top"].set_visible(False)
    right.spines["top"].set_visible(False)
    return _svg(figure)


def _bare(axes: Any) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    # No date and a fixed salt: equal figures give equal text.
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg"):]


def _card(example: Example) -> str:
    picture = (f'<img alt="{escape(example.entity)}" src="{_data_url(example.image)}">'
               if example.image else '<div class="none">no image</div>')
    rows = "".join(
        f'<li class="{"gold" if name == example.gold else ""}">'
        f'<span class="bar" style="width:{100 * probability:.1f}%"></span>'
        f'<span class="name">{"✓ " if name == example.gold else ""}{escape(name)}</span>'
        f'<span class="share">{probability:.0%}</span></li>'
        for name, probability in example.answers)
    named = any(name == example.gold for name, _ in example.answers)
    below = "" if named else (f'<p class="gold">✓ {escape(example.gold)} '
                              f'stands at rank {example.rank:g}</p>')
    caption = f"<p class='caption'>{escape(example.caption)}</p>" if example.caption else ""
    return (f'<section class="card">{picture}<h3>{escape(example.entity)} '
            f'<span>{escape(example.relation)}</span> ?</h3>{caption}<ol>{rows}</ol>{below}'
            "</section>")


def _data_url(image: Image.Image) -> str:
    small = image.copy()
    small.thumbnail((240, 120))
    buffer = io.BytesIO()
    small.save(buffer, "png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


_STYLE = """
:root { color-scheme: light dark; --ink: #1f2937; --paper: #ffffff; --soft: #f3f4f6;
  --line: #d1d5db; --bar: #bfdbfe; --good: #15803d; }
@media (prefers-color-scheme: dark) { :root { --ink: #e5e7eb; --paper: #111827; --soft: #1f2937;
  --line: #374151; --bar: #1e3a5f; --good: #4ade80; } }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 1.5rem; }
h1 { margin: 0 0 .5rem; } h2 { margin-top: 2.5rem; } .lead { font-size: 1.1rem; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid var(--line); text-align: right; }
th:first-child { text-align: left; }
.protocol { font-size: .85rem; } .protocol td { text-align: left; overflow-wrap: anywhere; }
.protocol th { vertical-align: top; white-space: nowrap; font-weight: 600; }
figure { margin: 0; background: #ffffff; border-radius: .5rem; overflow-x: auto; }
figure svg { max-width: 100%; height: auto; }
.gallery { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(17rem, 100%), 1fr)); }
.card { background: var(--soft); border-radius: .5rem; padding: 1rem; break-inside: avoid; }
.card img { height: 5rem; border: 1px solid var(--line); }
.card .none { height: 5rem; display: grid; place-items: center; }
.card h3 { margin: .5rem 0 .2rem; font-size: 1rem; } .card h3 span { font-weight: 400; }
.caption { margin: .2rem 0 .6rem; font-size: .8rem; opacity: .8; }
.card ol { list-style: none; margin: 0; padding: 0; }
.card li { position: relative; display: flex; justify-content: space-between; margin: .2rem 0;
  padding: 0 .4rem; }
.card .bar { position: absolute; inset: 0 auto 0 0; background: var(--bar); border-radius: .2rem; }
.card .name, .card .share { position: relative; }
.gold { color: var(--good); font-weight: 600; } .card p.gold { margin: .5rem 0 0; }
"""
