"""Finds whose text names whom, by the words and pairs of words that names and texts share (ours).

A name counts as named by how much of it a text holds, rare words more than common ones, so that
spellings may differ a little. What stands in brackets at its end, as in *Hamlet (1948 film)*, tells
names apart and is hardly ever said; it is left out. What else is said around a mention may tell of
which relation it speaks: *born in Paris*, *Mayor of Paris*.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from caption_cache.errors import InputError
from caption_cache.progress import tracked
from kgc_seq2seq.arrays import Ints, Longs
from kgc_seq2seq.scorers.mentions import Mentions

LEAST = 0.3
"""Less of a name is no mention."""
BEFORE, AFTER = 10, 5
"""So many words around a mention are kept."""
OFTEN = 5
"""What stands there less often is left out."""
AT_ONCE = 1000
"""So many texts are compared with all names at once."""
_WORD = r"(?u)\w+"
_BRACKETS = re.compile(r"\s*\([^()]*\)\s*$")


def find_mentions(
    names: Sequence[str], texts: Sequence[str], *, show_progress: bool = True
) -> Mentions:
    """Which names each text holds.

    Of a name, its distinct words and pairs of neighbouring words count, each by its weight
    ``ln((1 + D) / (1 + n)) + 1`` where it stands in n of the D = 2N names and texts, as in
    scikit-learn's smoothed inverse document frequency. `Mentions.share` is the part of a name's
    weight that a text holds, `Mentions.rarity` the weight itself over ``ln(1 + D)``.
    `Mentions.around` numbers the words before and after the longest run of the name's words, and
    the nearest of them once more.

    Args:
        names: Of N entities.
        texts: Of the same, without their own names where these say nothing of others.
        show_progress: Show a bar on standard error.

    Raises:
        InputError: scikit-learn is not installed, or there is not one word.
    """
    try:
        from scipy import sparse
        from sklearn.feature_extraction.text import CountVectorizer
    except ImportError:
        raise InputError("To find mentions needs scikit-learn; install it with "
                         "pip install 'kgc-seq2seq[vectors]'.") from None
    bare = [_BRACKETS.sub("", name) for name in names]
    counter = CountVectorizer(token_pattern=_WORD, ngram_range=(1, 2), binary=True,
                              dtype=np.float32)
    try:
        words = counter.fit_transform([*bare, *texts])
    except ValueError:  # an empty vocabulary
        raise InputError("The names and texts of the entities hold no word; fill in "
                         "entities.tsv.") from None
    rarity = np.log((1 + words.shape[0]) / (1 + words.getnnz(axis=0))) + 1
    weights = words[: len(names)] @ sparse.diags(rarity.astype(np.float32))
    whole = np.asarray(weights.sum(axis=1)).ravel()
    weights = weights.T.tocsr()
    found = []
    for start in tracked(range(0, len(texts), AT_ONCE), f"mentions in {AT_ONCE} texts",
                         visible=show_progress):
        part = (words[len(names) + start : len(names) + start + AT_ONCE] @ weights).tocoo()
        text, name = part.row.astype(np.int64) + start, part.col.astype(np.int64)
        good = (part.data >= LEAST * whole[name]) & (text != name)
        order = np.lexsort((name[good], text[good]))
        found.append((text[good][order], name[good][order], part.data[good][order]))
    text, name, held = (np.concatenate(column) for column in zip(*found, strict=True))
    shares = np.minimum(held / whole[name], 1)
    around = _around([_words(said) for said in texts], [_words(said) for said in bare], text, name,
                     show_progress=show_progress)
    return Mentions(*map(torch.from_numpy, (
        text, name, shares, held / np.float32(np.log(1 + words.shape[0])), around)))


def _words(said: str) -> list[str]:
    return re.findall(_WORD, said.lower())


def _around(
    texts: Sequence[Sequence[str]], names: Sequence[Sequence[str]], text: Longs, name: Longs, *,
    show_progress: bool,
) -> Ints:
    """`Mentions.around` of pairs, texts ascending."""
    known: dict[tuple[str, str], int] = {}
    table = np.zeros((len(text), BEFORE + AFTER + 2), np.int32)
    common = Counter(word for words in texts for word in set(words))
    last, places = -1, dict[str, list[int]]()
    pairs = tracked(range(len(text)), "words around mentions", visible=show_progress)
    for row, owner, named in zip(pairs, text.tolist(), name.tolist(), strict=True):
        words = texts[owner]
        if owner != last:
            last, places = owner, {}
            for place, word in enumerate(words):
                places.setdefault(word, []).append(place)
        start, end = _run(words, places, names[named], common)
        before, after = words[max(0, start - BEFORE) : start], words[end : end + AFTER]
        found = [(side, word) for side, said in (
            ("before", before), ("after", after), ("just before", before[-1:]),
            ("just after", after[:1])) for word in said]
        table[row, : len(found)] = [known.setdefault(term, len(known) + 1) for term in found]
    often = np.bincount(table.ravel(), minlength=len(known) + 1) >= OFTEN
    often[0] = False
    return np.where(often, often.cumsum(), 0).astype(np.int32)[table]


def _run(
    words: Sequence[str], places: Mapping[str, Sequence[int]], name: Sequence[str],
    common: Mapping[str, int],
) -> tuple[int, int]:
    """Where the longest run of a name's words begins and ends that holds the rarest one there."""
    rarest = min((place for place, word in enumerate(name) if word in places),
                 key=lambda place: common[name[place]])
    best = 0, 0
    for place in places[name[rarest]]:
        first = place - rarest  # where the name would begin
        start, end = place, place + 1
        while start > max(first, 0) and words[start - 1] == name[start - 1 - first]:
            start -= 1
        while end < min(first + len(name), len(words)) and words[end] == name[end - first]:
            end += 1
        if end - start > best[1] - best[0]:
            best = start, end
    return best
