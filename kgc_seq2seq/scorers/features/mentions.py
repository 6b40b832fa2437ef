"""Finds whose text names whom, by the words and pairs of words that names and texts share (ours).

A name counts as named by how much of it a text holds, rare words more than common ones, so that
spellings may differ a little. What stands in brackets at its end, as in *Hamlet (1948 film)*, tells
names apart and is hardly ever said; it is left out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import torch

from caption_cache.errors import InputError
from caption_cache.progress import tracked
from kgc_seq2seq.scorers.mentions import Mentions

LEAST = 0.3
"""Less of a name is no mention."""
AT_ONCE = 1000
"""So many texts are compared with all names at once."""
_BRACKETS = re.compile(r"\s*\([^()]*\)\s*$")


def find_mentions(
    names: Sequence[str], texts: Sequence[str], *, show_progress: bool = True
) -> Mentions:
    """Which names each text holds.

    Of a name, its distinct words and pairs of neighbouring words count, each by its weight
    ``ln((1 + D) / (1 + n)) + 1`` where it stands in n of the D = 2N names and texts, as in
    scikit-learn's smoothed inverse document frequency. `Mentions.share` is the part of a name's
    weight that a text holds, `Mentions.rarity` the weight itself over ``ln(1 + D)``.

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
    counter = CountVectorizer(token_pattern=r"(?u)\w+", ngram_range=(1, 2), binary=True,
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
    return Mentions(*map(torch.from_numpy, (
        text, name, shares, held / np.float32(np.log(1 + words.shape[0])))))
