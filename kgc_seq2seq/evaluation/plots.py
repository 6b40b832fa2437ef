"""Plots as inline SVG that take the colours of the page around them."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from kgc_seq2seq.evaluation.ranks import middle

_INK, _BLUE, _ORANGE, _GREY = "#1f2937", "#2563a8", "#c2681c", "#6b7280"
_COLOURS = {_INK: "currentColor", _BLUE: "var(--blue)", _ORANGE: "var(--orange)",
            _GREY: "var(--grey)"}
_WIDTH = 5.4
"""Inches: narrow, so that a phone need not shrink the letters much."""


def relation_bars(by_relation: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """MRR (of a bracket its middle) by relation and the end that is asked for, best first.

    Args:
        by_relation: As `results.summarize` gives it.
        names: Of the relations, by id.
    """
    order = sorted(by_relation, key=lambda key: middle(by_relation[key]["both"]["mrr"]))
    return _bars([f"{names[key]} ({by_relation[key]['tail']['count']})" for key in order],
                 {f"{side} asked for": [middle(by_relation[key][side]["mrr"]) for key in order]
                  for side in ("tail", "head")}, "filtered MRR", end=1)


def weight_bars(weights: Mapping[str, Mapping[str, float]], names: Mapping[str, str]) -> str:
    """The weights of a scorer in a fusion, by relation and by the end that is asked for.

    Args:
        weights: By id of the relation, then by end.
        names: Of the relations, by id.
    """
    order = sorted(weights, key=lambda key: sum(weights[key].values()))
    ends = list(next(iter(weights.values())))
    return _bars([names.get(key, key) for key in order],
                 {f"{end} asked for": [weights[key][end] for key in order] for end in ends},
                 "weight")


def learning_curve(history: Sequence[Mapping[str, float]]) -> str:
    """Loss, and MRR on valid, over the steps.

    Args:
        history: The lines of ``metrics.jsonl``.
    """
    def paint(figure: Figure) -> None:
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
        for axes in (left, right):
            axes.spines["top"].set_visible(False)

    return _draw(3.0, paint)


def reliability_diagram(bins: Sequence[Mapping[str, float]]) -> str:
    """Of answers with about this probability, how many are right; and how many there are.

    Args:
        bins: As `calibration.reliability` gives them.
    """
    def paint(figure: Figure) -> None:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
        upper.plot([0, 1], [0, 1], color=_GREY, linewidth=1, linestyle="--")
        upper.plot([each["confidence"] for each in bins], [each["accuracy"] for each in bins],
                   color=_BLUE, marker="o")
        upper.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="share that is right")
        lower.bar([(each["low"] + each["high"]) / 2 for each in bins],
                  [each["count"] for each in bins],
                  [0.9 * (each["high"] - each["low"]) for each in bins], color=_ORANGE)
        lower.set(xlabel="probability of the best answer", ylabel="queries")
        for axes in (upper, lower):
            axes.spines[["top", "right"]].set_visible(False)

    return _draw(3.6, paint)


def _bars(
    labels: Sequence[str], series: Mapping[str, Sequence[float]], unit: str,
    end: float | None = None,
) -> str:
    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        height = 0.8 / len(series)
        for number, (name, values) in enumerate(series.items()):
            shift = 0.4 - (number + 0.5) * height
            axes.barh([row + shift for row in range(len(labels))], values, 0.95 * height,
                      color=(_BLUE, _ORANGE)[number % 2], label=name)
        axes.set_yticks(range(len(labels)), [_shortened(label) for label in labels],
                        parse_math=False)
        axes.set_ylim(-0.6, len(labels) - 0.4)
        axes.set_xlabel(unit)
        if end is not None:
            axes.set_xlim(0, end)
        axes.grid(axis="x", alpha=0.3)
        figure.legend(loc="outside upper right", ncols=len(series), frameon=False)
        axes.spines[["top", "right"]].set_visible(False)

    return _draw(0.7 + 0.4 * len(labels), paint)


def _shortened(label: str) -> str:
    return label if len(label) <= 34 else label[:33] + "…"


def _draw(height: float, paint: Callable[[Figure], None]) -> str:
    """The SVG of a figure so many inches high."""
    style: dict[Any, Any] = {
        "svg.fonttype": "none", "svg.hashsalt": "report", "text.color": _INK,
        "axes.edgecolor": _INK, "axes.labelcolor": _INK, "xtick.color": _INK,
        "ytick.color": _INK, "font.size": 9.0}
    buffer = io.StringIO()
    with mpl.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # scripts that the font lacks
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        paint(figure)
        # Without a date and with a fixed salt, equal figures give equal text.
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    for colour, name in _COLOURS.items():
        text = text.replace(colour, name)
    return text[text.index("<svg"):]
