"""Every text of a graph, tokenized once: an example is a concatenation of slices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from kgc_seq2seq.graph.csr import Ints, Longs, expand_spans


@dataclass(frozen=True, eq=False)
class TokenTable:
    """S texts as one flat array of tokens."""

    tokens: Ints
    """All tokens, text after text, without EOS, int32 [T]."""
    offsets: Longs
    """Text ``s`` is ``tokens[offsets[s]:offsets[s + 1]]``, int64 [S + 1]."""

    @classmethod
    def build(cls, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> TokenTable:
        """Tokenize ``texts``; an empty text takes no token."""
        ids = tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []
        lengths = np.fromiter(map(len, ids), np.int64, len(ids))
        flat = np.fromiter((token for row in ids for token in row), np.int32, lengths.sum())
        return cls(flat, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))

    def lengths(self, texts: Longs) -> Longs:
        """Tokens in each of ``texts``."""
        return self.offsets[texts + 1] - self.offsets[texts]

    def spell(self, owners: Longs, texts: Longs) -> tuple[Longs, Ints]:
        """Replace each text by its tokens.

        Args:
            owners: The example each text belongs to, int64 [K], ascending.
            texts: int64 [K].

        Returns:
            The example of each token (int64, ascending) and the tokens (int32).
        """
        which, index = expand_spans(self.offsets[texts], self.lengths(texts))
        return owners[which], self.tokens[index]


def pad(owners: Longs, tokens: Ints, examples: int, value: int) -> Longs:
    """Lay tokens out one example a row.

    Args:
        owners: The example of each token, ascending.
        tokens: The tokens.
        examples: Number of rows.
        value: What fills the rest of a row.

    Returns:
        int64 [examples, longest].
    """
    counts = np.bincount(owners, minlength=examples)
    column = np.arange(len(owners)) - (np.cumsum(counts) - counts)[owners]
    table = np.full((examples, int(counts.max(initial=1))), value, np.int64)
    table[owners, column] = tokens
    return table
