"""Span corruption: an input loses spans of its tokens, and the target is to write them.

As in T5 (arXiv 1910.10683, section 3.1.4) a sentinel stands in the place of each span, and before
it in the target. Ours is where the spans lie: one in each of as many equal stretches of the text.
"""

from __future__ import annotations

import numpy as np
from transformers import PreTrainedTokenizerBase

from kgc_seq2seq.arrays import Bools, Ints
from kgc_seq2seq.graph.csr import expand_spans
from kgc_seq2seq.text.context import Lots, mix
from kgc_seq2seq.text.token_table import TokenTable

LOST = 0.15
"""Share of the tokens that are lost, as in T5."""
MEAN = 3
"""Tokens of a span in the mean, as in T5."""
_SENTINELS = 50
"""The settings of the verbalizer use others."""


def sentinels(tokenizer: PreTrainedTokenizerBase) -> Ints:
    """The tokens that stand for spans, int32 [_SENTINELS]."""
    names = [f"<extra_id_{number}>" for number in range(_SENTINELS)]
    return np.array(tokenizer.convert_tokens_to_ids(names), np.int32)


def corrupt(
    texts: TokenTable, chosen: Bools, lots: Lots, sentinels: Ints
) -> tuple[TokenTable, TokenTable]:
    """Take spans out of texts.

    Args:
        texts: N texts.
        chosen: From which spans are taken, bool [N].
        lots: What decides where, uint64 [N].
        sentinels: From `sentinels`.

    Returns:
        The texts without the spans, and the spans of each text; none of one that is not chosen.
    """
    most = np.minimum(texts.lengths, len(sentinels))
    spans = np.where(chosen, np.clip(np.rint(texts.lengths * LOST / MEAN), 1, most), 0).astype(
        np.int64)
    owner, turn = expand_spans(np.zeros_like(spans), spans)
    begin, end = (place * texts.lengths[owner] // spans[owner] for place in (turn, turn + 1))
    wanted, place = (mix(turn, number, state=lots[owner]) for number in (0, 1))
    sizes = np.minimum(1 + (wanted % np.uint64(2 * MEAN - 1)).astype(np.int64), end - begin)
    start = texts.offsets[owner] + begin + (
        place % (end - begin - sizes + 1).astype(np.uint64)).astype(np.int64)

    left = texts.tokens.copy()
    left[start] = sentinels[turn]
    keep = np.ones(len(left), bool)
    keep[expand_spans(start + 1, sizes - 1)[1]] = False
    firsts = np.cumsum(sizes) - sizes
    taken = np.insert(texts.tokens[expand_spans(start, sizes)[1]], firsts, sentinels[turn])
    count = len(texts.lengths)
    lost = np.bincount(owner, sizes - 1, minlength=count).astype(np.int64)
    return (TokenTable(left[keep], texts.offsets - np.append(0, np.cumsum(lost))),
            TokenTable(taken, np.append(0, np.cumsum(lost + 2 * spans))))
