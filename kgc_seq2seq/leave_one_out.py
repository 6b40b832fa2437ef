"""Which parts of the input moved an answer: its log-probability without each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from kgc_seq2seq.decoding.exact import ExactSearch
from kgc_seq2seq.text.settings import Source
from kgc_seq2seq.text.token_table import pad
from kgc_seq2seq.text.verbalizer import Verbalizer

_AT_ONCE = 64


@dataclass(frozen=True)
class Effect:
    """What one part of the context does to one answer."""

    source: Source
    """Where the part comes from."""
    text: str
    """What it says."""
    change: float
    """log p(name) without the part less log p(name) with it, natural logarithm: below 0, it
    speaks for the answer."""


def leave_one_out(
    search: ExactSearch, verbalizer: Verbalizer, query: tuple[int, int], answer: int
) -> list[Effect]:
    """Leave every part of the context out, one at a time, and score the answer's name again.

    What the token budget had left out does not come in for what is taken away.

    Args:
        search: Model and trie.
        verbalizer: Of the same graph.
        query: Entity, and relation in ``0 … 2R - 1``.
        answer: The entity whose name is scored.

    Returns:
        The effects, in the order in which the parts are read.
    """
    read = [part for part in verbalizer.parts(np.array([*query, -1], np.int32))
            if not part.left_out]
    context = [place for place, part in enumerate(read)
               if part.source not in ("query", "instruction") and not part.heading]
    scores: list[float] = []
    variants = [-1, *context]  # the place of what is left out
    for start in range(0, len(variants), _AT_ONCE):
        rows = [[token for place, part in enumerate(read) if place != out for token in part.tokens]
                for out in variants[start : start + _AT_ONCE]]
        ids = torch.from_numpy(pad(
            np.array([len(row) for row in rows]), np.concatenate(rows).astype(np.int32),
            verbalizer.eos, verbalizer.pad)).to(search.decoder.device)
        with torch.inference_mode():
            encoded = search.decoder.encode(ids, ids != verbalizer.pad)
        owners = torch.arange(len(rows), device=ids.device)
        scores += search.gold_scores(encoded, owners, torch.full_like(owners, answer)).tolist()
    return [Effect(read[place].source, read[place].text, score - scores[0])
            for place, score in zip(context, scores[1:], strict=True)]


def effects_text(answer: str, effects: Sequence[Effect]) -> str:
    """The effects as lines, the strongest first."""
    lines = [f"log p({answer}) would change by, without:"]
    lines += [f"  {effect.change:+7.3f}  {effect.source}: {effect.text}"
              for effect in sorted(effects, key=lambda effect: -abs(effect.change))]
    return "\n".join(lines if effects else ["Nothing was read beside the query."])
