"""Answers and reasons as pieces of HTML."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape

from kgc_seq2seq.completer import Prediction, Query
from kgc_seq2seq.explain import PartsExplanation
from kgc_seq2seq.explorer.explorer import Asked, Reasons
from kgc_seq2seq.explorer.pictures import Pictures
from kgc_seq2seq.leave_one_out import Effect
from kgc_seq2seq.text.settings import PRIORITY, Source
from kgc_seq2seq.text.verbalizer import Part

GIVEN_IMAGES = 4
"""Images of the entity that is asked about."""


def answers_html(
    asked: Asked, entity: str, description: str, pictures: Pictures, *, why: bool
) -> str:
    """The question, its ranked answers, and what each part of a fusion has in them.

    Args:
        asked: The query and its answers.
        entity: The id of the given entity.
        description: Of the same; may be empty.
        pictures: Of the data set.
        why: Whether reasons can be asked for: whether there is a button for it.
    """
    name = asked.query.name
    images = "".join(f'<img alt="{escape(name)}" src="{url}">'
                     for url in pictures.of(entity, GIVEN_IMAGES))
    texts = [f'<p class="description">{escape(description)}</p>'] if description else []
    if caption := pictures.captions.get(entity):
        texts.append(f'<p class="caption"><b>caption</b> {escape(caption)}</p>')
    about = (f'<div class="about"><div class="images">{images}</div><div>{"".join(texts)}</div>'
             "</div>" if images or texts else "")
    rows = "".join(_answer(place, answer, pictures, why)
                   for place, answer in enumerate(asked.answers, start=1))
    known = ('<p class="note"><span class="known">✓ known</span> The fact is in the data set, in '
             "one of its splits.</p>" if any(answer.known for answer in asked.answers) else "")
    return (f'<section class="kgc" aria-live="polite"><h2>{_question(asked.query)}</h2>{about}'
            f'<ol class="answers">{rows}</ol>{known}{_parts(asked.parts)}</section>')


def reasons_html(reasons: Reasons) -> str:
    """The input in colours, and what each part of its context does to the answer."""
    name = escape(reasons.answer)
    return (f'<section class="kgc" aria-live="polite"><h2>Why <b>{name}</b>?</h2>'
            "<h3>What the model read</h3>"
            f'{_input(reasons.read)}<h3>What speaks for it, and what against it</h3>'
            f'{_effects(name, reasons.effects)}</section>')


def _question(query: Query) -> str:
    given, asked = f"<b>{escape(query.name)}</b>", '<b class="asked">?</b>'
    head, tail = (given, asked) if query.direction == "tail" else (asked, given)
    return f'{head} <span class="arrow">— {escape(query.relation)} →</span> {tail}'


def _answer(place: int, answer: Prediction, pictures: Pictures, why: bool) -> str:
    image = "".join(f'<img alt="" src="{url}">' for url in pictures.of(answer.id, 1))
    caption = pictures.captions.get(answer.id, "")
    known = '<span class="known">✓ known</span>' if answer.known else ""
    # Rounded up: it is a bound.
    error = (f' <small title="what the search left unexplored">± '
             f'{math.ceil(1e4 * answer.probability_error) / 100:.2f}%</small>'
             if answer.probability_error else "")
    name = escape(answer.name)
    button = (f'<button type="button" data-answer="{name}" aria-label="Why {name}?">Why?</button>'
              if why else "")
    below = f'<p class="caption">{escape(caption)}</p>' if caption else ""
    return (f'<li><span class="rank">{place}</span><div class="what"><div class="line">'
            f'<span class="name">{name}</span>{known}{button}'
            f'<span class="share">{escape(_percent(answer.probability))}{error}</span></div>'
            f'<div class="track"><div style="width:{100 * answer.probability:.2f}%"></div></div>'
            f"{below}</div>{image}</li>")


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.0005 else "< 0.1%"


def _parts(parts: PartsExplanation) -> str:
    """What each part of a fusion has in each answer; nothing where there is one part only."""
    labels = list(parts.contributions[0])
    modalities = "".join(_modalities(label, parts.entity, weights)
                         for label, weights in parts.modalities.items())
    if len(labels) < 2:
        return modalities
    # A fusion adds up log-probabilities, an ensemble probabilities.
    logs = any(value < 0 for row in parts.contributions for value in row.values())
    best = {label: max(row[label] for row in parts.contributions) for label in labels}

    def cell(label: str, value: float) -> str:
        share = math.exp(value - best[label]) if logs else value / (best[label] or 1.0)
        return (f'<td><div class="track"><div style="width:{100 * share:.1f}%"></div></div>'
                f"{value:.3f}</td>")

    head = "".join(f'<th scope="col">{escape(label)}</th>' for label in labels)
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th>{"".join(map(cell, row, row.values()))}</tr>'
        for name, row in zip(parts.names, parts.contributions, strict=True))
    figures = ("log-probabilities, of scorers times their weight where they are added up" if logs
               else "the probabilities that add up to the answer's")
    return (f'<h3>What each part has in it</h3><p class="note">In each column the longest bar is '
            f"the answer that this part likes most; the figures are {figures}.</p>"
            '<div class="wide" tabindex="0" role="region" aria-label="Parts">'
            f'<table><tr><td></td>{head}</tr>{rows}</table></div>{modalities}')


def _modalities(label: str, entity: str, weights: dict[str, float]) -> str:
    shares = "".join(f'<div class="m{place % 3}" style="flex:{weight:.4f} 1 0" '
                     f'title="{escape(modality)}"></div>'
                     for place, (modality, weight) in enumerate(weights.items()))
    legend = "".join(f'<li><span class="swatch m{place % 3}"></span>{escape(modality)} '
                     f"{weight:.0%}</li>" for place, (modality, weight) in
                     enumerate(weights.items()))
    return (f"<h3>What {escape(label)} reads of {escape(entity)}</h3>"
            f'<div class="stack">{shares}</div><ul class="legend">{legend}</ul>')


def _input(read: Sequence[Part]) -> str:
    text = " ".join(
        f'<span class="{_source(part.source)}{" out" * part.left_out}">{escape(part.text)}</span>'
        for part in read)
    tokens: Counter[Source] = Counter()
    for part in read:
        tokens[part.source] += len(part.tokens) * (not part.left_out)
    legend = "".join(
        f'<li><span class="swatch {_source(source)}"></span>{source}, {_tokens(tokens[source])}'
        "</li>" for source in PRIORITY if source in tokens)
    left_out = sum(len(part.tokens) for part in read if part.left_out)
    if left_out:
        legend += f'<li><span class="out">struck through</span>: {_tokens(left_out)} left out</li>'
    return f'<p class="input">{text}</p><ul class="legend">{legend}</ul>'


def _tokens(count: int) -> str:
    return f"{count} token{'s' * (count != 1)}"


def _effects(name: str, effects: Sequence[Effect]) -> str:
    if not effects:
        return '<p class="note">It read nothing beside the query.</p>'
    # Half a bar at least doubles or halves: small effects must look small.
    largest = max(math.log(2), *(abs(effect.change) for effect in effects))
    ordered = sorted(effects, key=lambda effect: -abs(effect.change))
    return (f'<p class="note">Each line is left out once, all else stays; the figure says how '
            f"probable {name} is then, as a multiple of what it was. To the right: the line "
            "speaks for it, to the left: against it.</p>"
            f'<ol class="effects">{"".join(_bars(ordered, largest))}</ol>')


def _bars(effects: Sequence[Effect], largest: float) -> Iterable[str]:
    for effect in effects:
        speaks_for = effect.change < 0
        width = 50 * abs(effect.change) / largest
        word = "for" if speaks_for else "against"
        yield (
            f'<li><div class="line"><span class="{_source(effect.source)}">{effect.source}</span>'
            f'<span class="said">{escape(effect.text)}</span>'
            f'<span class="share">× {math.exp(effect.change):.2f}</span></div>'
            f'<div class="track two"><div class="{word}" title="speaks {word} it" '
            f'style="width:{width:.2f}%"></div></div></li>')


def _source(source: Source) -> str:
    return "src-" + source.replace(" ", "-")
