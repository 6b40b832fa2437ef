"""The page of a report for people: one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from caption_cache.disk import replacing
from caption_cache.images import data_url
from kgc_seq2seq.evaluation.plots import (
    learning_curve,
    relation_bars,
    reliability_diagram,
    weight_bars,
)
from kgc_seq2seq.evaluation.ranks import middle

_METRICS = {"mrr": "MRR", "hits@1": "Hits@1", "hits@3": "Hits@3", "hits@10": "Hits@10"}
_RANKS = {
    "exact": "All ranks are exact",
    "certified": "Ranks lie in certified brackets, and a figure of two ends holds the exact one",
}
_SLICES = {
    "cardinality": "Cardinality of the relation",
    "entities": "Entities that train knows",
    "linked": "Facts of train between the two entities",
    "given_degree": "Train facts of the given entity",
    "answer_degree": "Train facts of the answer",
    "given_image": "Image of the given entity",
    "answer_image": "Image of the answer",
    "given_text": "Description of the given entity",
}


@dataclass(frozen=True)
class Example:
    """A test query and what the run made of it."""

    question: tuple[str, str, str]
    """Head, relation and tail by name; ``?`` stands for the one that is asked for."""
    image: Image.Image | None
    """A picture of the given entity; of the right answer where only that has one."""
    pictured: str
    """Whose picture it is."""
    caption: str
    """What the captioner said of the given entity."""
    answers: Sequence[tuple[str, float]]
    """The best answers with their probabilities, other known answers left out."""
    gold: str
    """The right answer."""
    rank: float
    """Its filtered rank, of a bracket the best."""


@dataclass(frozen=True)
class Report:
    """What a report is made of."""

    run: str
    """The run folder."""
    result: Mapping[str, Any]
    """On test, as `results.summarize` and `results.protocol` give it."""
    sizes: Mapping[str, int]
    """How many there are of what in the data set."""
    comparison: Mapping[str, Any]
    """With other systems, as `compare.compare` gives it; this run is the first."""
    history: Sequence[Mapping[str, float]]
    """The lines of ``metrics.jsonl``; empty for what was not trained."""
    calibration: Mapping[str, Any] | None
    """As `calibration.reliability` gives it, where it was measured."""
    relation_names: Mapping[str, str]
    """Names by id."""
    worst: Iterable[Example]
    """The queries whose right answer stands lowest."""
    examples: Iterable[Example]
    """Queries that were chosen by nothing but their place."""


def write_report(path: Path, report: Report) -> None:
    """Write the report of a run, whole, to an HTML file."""
    name = escape(str(report.result["protocol"]["dataset"]))
    sections = "".join(_section(title, body) for title, body in (
        ("How good is it?", _how_good(report)),
        ("On what?", _on_what(report)),
        ("Compared with what?", _compared(report)),
        ("Which relations are hard?", _relations(report)),
        ("Which queries are hard?", _slices(report)),
        ("Can its probabilities be trusted?", _calibration(report)),
        ("What do its parts weigh?", _weights(report)),
        ("How did it learn?", _learning(report)),
        ("Where is it worst?", _gallery(
            "The test queries whose right answer stands lowest, at most two of a relation.",
            report.worst)),
        ("What does it answer?", _gallery(
            "The first test facts of each relation whose head has a picture; nothing is chosen "
            "by hand.", report.examples)),
        ("Protocol", _protocol(report.result["protocol"])),
    ) if body)
    with replacing(path) as aside:
        aside.write_text(f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{name}: report</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>{_STYLE}</style></head><body><main>
<h1>{name}</h1><p class="run">{escape(report.run)}</p>
{sections}</main></body></html>
""", "utf-8")


def _section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>\n{body}</section>\n"


def _how_good(report: Report) -> str:
    both = report.result["both"]
    figures = "".join(
        f'<div><b>{value}</b><span>{words}</span></div>' for value, words in (
            (_between(both["hits@1"], "{:.0%}"), "of the right answers stand at rank 1"),
            (_between(both["hits@10"], "{:.0%}"), "stand among the first ten"),
            (_between(both["mrr"], "{:.3f}"), "filtered MRR")))
    names = {"mr": "MR", **_METRICS, "mrr_optimistic": "MRR, ties optimistic"}
    names = {name: words for name, words in names.items() if name in both}
    rows = [[side, *(_number(report.result[side][name], name) for name in names),
             f"{report.result[side]['count']:,}"] for side in ("tail", "head", "both")]
    return f'<div class="figures">{figures}</div>' + _table(
        ["asked for", *names.values(), "queries"], rows)


def _on_what(report: Report) -> str:
    stamp = report.result["protocol"]
    sizes = ", ".join(f"<b>{count:,}</b> {escape(what)}" for what, count in report.sizes.items())
    system = escape(str(stamp.get("system", "the run")))
    return (f"<p>{escape(str(stamp['dataset']))}: {sizes}.</p><p>Each {escape(stamp['split'])} "
            "fact is asked for twice, "
            f"(head, relation, ?) and (?, relation, tail). {_RANKS[stamp['ranks']]}: every one of "
            f"the {stamp['candidates']:,} entities is a candidate, other known facts are left out, "
            f"ties count with their mean rank. The system is <b>{system}</b>.</p>")


def _compared(report: Report) -> str:
    first, *others = report.comparison["runs"]
    rows = [[f"<b>{escape(first['run'])}</b>", *(_number(first["both"][name], name)
                                                 for name in _METRICS), "", ""]]
    for other in others:
        difference = report.comparison["differences"][other["run"]]
        rows.append([escape(other["run"]),
                     *(_number(other["both"][name], name) for name in _METRICS),
                     *(_difference(difference["both"][name]) if difference else "other queries"
                       for name in ("mrr", "hits@10"))])
    coverage = report.comparison["bootstrap"]["coverage"]
    strange = "".join(
        f"<p>{escape(name)} was measured under another protocol: other "
        f"{escape(', other '.join(words))}.</p>"
        for name, words in report.comparison["unlike"].items() if words)
    return _table(["system", *_METRICS.values(), "MRR, difference", "Hits@10, difference"], rows
                  ) + (f"{strange}<p>Differences to this run with their {coverage:.0%} intervals, "
                       "by paired bootstrap over the queries: where an interval holds 0, the two "
                       "may as well be equal.</p>")


def _relations(report: Report) -> str:
    return ("<p>MRR on test, the number of test facts in brackets.</p>"
            + _figure(relation_bars(report.result["by_relation"], report.relation_names)))


def _slices(report: Report) -> str:
    body = []
    for name, parts in report.result.get("slices", {}).items():
        rows = [[escape(label), f"{part['both']['count']:,}", _bar(part["both"]["mrr"]),
                 _number(part["both"]["hits@10"], "hits@10")] for label, part in parts.items()]
        body.append(f"<div><h3>{_SLICES.get(name, escape(name))}</h3>"
                    + _table(["", "queries", "MRR", "Hits@10"], rows) + "</div>")
    return f'<div class="columns">{"".join(body)}</div>' if body else ""


def _calibration(report: Report) -> str:
    if report.calibration is None:
        return (f"<p>That was not measured; <code>kgc calibrate {escape(report.run)}</code> "
                "does, then write the report again.</p>")
    both = report.calibration["both"]
    return (f"<p>On average the best answer has probability {both['confidence']:.1%}, and "
            f"{both['accuracy']:.1%} of the best answers are right; the expected calibration "
            f"error is <b>{both['ece']:.1%}</b> (tail {report.calibration['tail']['ece']:.1%}, "
            f"head {report.calibration['head']['ece']:.1%}). On the dashed line, an answer that "
            "is given 70 % is right in 70 % of the cases; above it the run is too modest, below "
            "it too bold.</p>" + _figure(reliability_diagram(both["bins"])))


def _weights(report: Report) -> str:
    weights = report.result["protocol"].get("weights")
    if not weights:
        return ""
    plain = {part: value for part, value in weights.items() if isinstance(value, int | float)}
    body = _table(["part", "weight"], [[escape(part), f"{value:.3f}"]
                                       for part, value in plain.items()]) if plain else ""
    plots = "".join(
        f"<div><h3>{escape(part)}</h3>{_figure(weight_bars(values, report.relation_names))}</div>"
        for part, values in weights.items() if part not in plain)
    return (f"<p>The weights of the fusion's parts, fitted on valid.</p>{body}"
            + f'<div class="columns">{plots}</div>' * bool(plots))


def _learning(report: Report) -> str:
    if not report.history:
        return ""
    stamp = report.result["protocol"]
    chosen = (f" (step {stamp['best_step']:,} of {stamp['steps']:,})"
              if "best_step" in stamp and "steps" in stamp else "")
    return ("<p>Loss on train, and filtered MRR on valid, by which the model was "
            f"chosen{chosen}.</p>" + _figure(learning_curve(report.history)))


def _gallery(words: str, examples: Iterable[Example]) -> str:
    cards = "".join(map(_card, examples))
    return (f'<p>{words} Other answers known to be right are left out; <span class="gold">✓</span> '
            f'marks the right one.</p><div class="gallery">{cards}</div>') if cards else ""


def _protocol(stamp: Mapping[str, Any]) -> str:
    return '<table class="protocol">' + "".join(
        f"<tr><th>{escape(key.replace('_', ' '))}</th><td>{escape(_plain(value))}</td></tr>"
        for key, value in stamp.items() if key != "weights") + "</table>"


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return str(value)


def _number(value: float | Mapping[str, float], name: str) -> str:
    return _between(value, "{:,.1f}" if name == "mr" else "{:.3f}")


def _between(value: float | Mapping[str, float], style: str) -> str:
    """A number, or both ends of a bracket where they are not written alike."""
    ends = value.values() if isinstance(value, Mapping) else (value,)
    return "–".join(dict.fromkeys(style.format(end) for end in ends))


def _difference(value: Mapping[str, float]) -> str:
    return "{difference:+.3f}<br><small>{low:+.3f} … {high:+.3f}</small>".format_map(value)


def _bar(share: float | Mapping[str, float]) -> str:
    return (f'<span class="track"><span class="bar" style="width:{100 * middle(share):.1f}%">'
            f"</span></span> {_number(share, 'mrr')}")


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are HTML already."""
    def line(cells: Sequence[str], tag: str) -> str:
        first, *rest = cells
        return f"<tr><th>{first}</th>" + "".join(
            f"<{tag}>{cell}</{tag}>" for cell in rest) + "</tr>"

    return (f'<div class="wide"><table>{line(header, "th")}'
            f'{"".join(line(row, "td") for row in rows)}</table></div>')


def _figure(svg: str) -> str:
    return f"<figure>{svg}</figure>"


def _card(example: Example) -> str:
    head, relation, tail = map(escape, example.question)
    pictured = escape(example.pictured)
    of = f"<span>{pictured}</span>" if example.pictured not in example.question else ""
    picture = (f'<div class="picture"><img alt="{pictured}" src="{_small(example.image)}">{of}'
               "</div>" if example.image else '<div class="picture">no image</div>')
    rows = "".join(
        f'<li class="{"gold" if name == example.gold else ""}">'
        f'<span class="bar" style="width:{100 * probability:.1f}%"></span>'
        f'<span class="name">{"✓ " if name == example.gold else ""}{escape(name)}</span>'
        f'<span class="share">{probability:.0%}</span></li>'
        for name, probability in example.answers)
    named = any(name == example.gold for name, _ in example.answers)
    below = "" if named else (f'<p class="gold">✓ {escape(example.gold)} '
                              f'stands at rank {example.rank:,g}</p>')
    caption = f"<p class='caption'>{escape(example.caption)}</p>" if example.caption else ""
    return (f'<div class="card">{picture}<h3>{head} <span>{relation}</span> {tail}</h3>{caption}'
            f"<ol>{rows}</ol>{below}</div>")


def _small(image: Image.Image) -> str:
    small = image.copy()
    small.thumbnail((240, 120))
    return data_url(small, "png")


_STYLE = """
:root { color-scheme: light dark; --ink: #1f2937; --paper: #ffffff; --soft: #f3f4f6;
  --line: #d1d5db; --bar: #bfdbfe; --good: #15803d; --blue: #2563a8; --orange: #c2681c;
  --grey: #6b7280; }
@media (prefers-color-scheme: dark) { :root { --ink: #e5e7eb; --paper: #111827; --soft: #1f2937;
  --line: #374151; --bar: #1e4273; --good: #4ade80; --blue: #7db4f0; --orange: #f0a35e;
  --grey: #9ca3af; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 1.5rem; }
h1 { margin: 0; } h2 { margin: 2.5rem 0 .5rem; } h3 { margin: 1rem 0 .3rem; font-size: 1rem; }
.run { margin: 0; color: var(--grey); overflow-wrap: anywhere; }
code { background: var(--soft); padding: .1rem .3rem; border-radius: .2rem;
  overflow-wrap: anywhere; }
.figures { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1rem 0; }
.figures div { flex: 1 1 10rem; padding: 1rem; border-radius: .5rem; background: var(--soft); }
.figures b { display: block; font-size: 2rem; line-height: 1.2; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: .5rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; }
th { font-weight: 600; } th:first-child { text-align: left; padding-left: 0; min-width: 8rem;
  white-space: normal; overflow-wrap: anywhere; }
td:last-child, th:last-child { padding-right: 0; } small { color: var(--grey); }
.columns { display: grid; gap: 0 2.5rem; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(min(24rem, 100%), 1fr)); }
.columns table { width: 100%; } .columns th, .columns td { padding: .3rem .4rem; }
.columns th:first-child { min-width: 4.5rem; padding-left: 0; }
.track { display: inline-block; width: 4rem; height: .7rem; background: var(--soft); }
.track .bar { display: block; height: 100%; background: var(--blue); }
.protocol { font-size: .85rem; } .protocol td { text-align: left; white-space: normal;
  overflow-wrap: anywhere; }
.protocol th { vertical-align: top; padding-left: 0; text-align: left; }
figure { margin: .5rem 0; } figure svg { max-width: 44rem; width: 100%; height: auto; }
.gallery { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(17rem, 100%), 1fr)); }
.card { background: var(--soft); border-radius: .5rem; padding: 1rem; break-inside: avoid; }
.picture { height: 5rem; display: flex; gap: .6rem; align-items: end; color: var(--grey);
  font-size: .8rem; } .picture span { min-width: 0; overflow-wrap: anywhere; }
.picture img { max-height: 100%; max-width: 70%; border: 1px solid var(--line); }
.card h3 { margin: .5rem 0 .2rem; } .card h3 span { font-weight: 400; }
.caption { margin: .2rem 0 .6rem; font-size: .8rem; color: var(--grey); }
.card ol { list-style: none; margin: 0; padding: 0; }
.card li { position: relative; display: flex; justify-content: space-between; margin: .2rem 0;
  padding: 0 .4rem; }
.card .bar { position: absolute; inset: 0 auto 0 0; background: var(--bar); border-radius: .2rem; }
.card .name, .card .share { position: relative; }
.gold { color: var(--good); font-weight: 600; } .card p.gold { margin: .5rem 0 0; }
@media (max-width: 30rem) { main { padding: 1rem; } table { font-size: .875rem; }
  th, td { padding: .3rem .4rem; } .track { width: 3rem; } }
@media print { :root { --ink: #000000; --paper: #ffffff; --soft: #f3f4f6; --line: #d1d5db;
  --bar: #bfdbfe; --good: #15803d; --blue: #2563a8; --orange: #c2681c; --grey: #6b7280; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  main { max-width: none; padding: 0; } body { font-size: 10pt; } h2 { margin-top: 1.5rem; }
  h2, h3, h2 + p { break-after: avoid; } figure, tr, .columns > div { break-inside: avoid; }
  .wide { overflow: visible; } table { font-size: 9pt; } th { white-space: normal; }
  th, td { padding: .2rem .4rem; } th:first-child { min-width: 6.5rem; }
  .columns { grid-template-columns: 1fr 1fr; gap: 0 1.5rem; } .track { width: 3rem; }
  figure svg { max-width: 30rem; }
  .gallery { grid-template-columns: repeat(3, 1fr); gap: .6rem; } .card { padding: .6rem; } }
"""
