"""Every text of a graph, tokenized once: an example is a concatenation of slices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from transformers import PreTrainedTokenizerBase

from kgc_seq2seq.arrays import Ints, Longs

_AT_ONCE = 2**14


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
        flat, lengths = [np.zeros(0, np.int32)], [np.zeros(0, np.int64)]
        # Lists of tokens take thirty times the memory of the table.
        for start in range(0, len(texts), _AT_ONCE):
            ids = tokenizer(list(texts[start : start + _AT_ONCE]), add_special_tokens=False,
                            return_attention_mask=False, return_token_type_ids=False)["input_ids"]
            lengths.append(np.fromiter(map(len, ids), np.int64, len(ids)))
            flat.append(np.fromiter((token for row in ids for token in row), np.int32,
                                    lengths[-1].sum()))
        return cls(np.concatenate(flat), np.cumsum(np.concatenate([[0], *lengths])))

    @classmethod
    def joined(cls, tables: Sequence[TokenTable]) -> TokenTable:
        """The texts of several tables, one table after the other."""
        lengths = np.concatenate([table.lengths for table in tables])
        return cls(np.concatenate([table.tokens for table in tables]),
                   np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))

    @cached_property
    def lengths(self) -> Longs:
        """Tokens in each text, int64 [S]."""
        return np.diff(self.offsets)

    def part(self, texts: Longs) -> TokenTable:
        """Some of the texts, int64 [B], as a table of their own."""
        ends = np.cumsum(self.lengths[texts])
        return TokenTable(self.spell(texts, ends), np.append(0, ends))

    def spell(self, texts: Longs, ends: Longs) -> Ints:
        """Replace each text by its tokens.

        Args:
            texts: int64 [K].
            ends: The running total of their lengths, int64 [K].

        Returns:
            Their tokens, one text after the other.
        """
        lengths = self.lengths[texts]
        index = np.repeat(self.offsets[texts] - (ends - lengths), lengths)
        index += np.arange(len(index))
        tokens: Ints = self.tokens[index]
        return tokens

    def padded(self, texts: Longs, end: int, fill: int) -> Longs:
        """`pad` the tokens of ``texts``, int64 [B]."""
        lengths = self.lengths[texts]
        return pad(lengths, self.spell(texts, np.cumsum(lengths)), end, fill)


def pad(lengths: Longs, tokens: Ints, end: int, fill: int) -> Longs:
    """Lay tokens out one example a row.

    Args:
        lengths: Tokens of each example, int64 [B].
        tokens: Those of the first example, then those of the second, …
        end: What ends each example.
        fill: What fills the rest of a row.

    Returns:
        int64 [B, longest + 1].
    """
    table = np.full((len(lengths), int(lengths.max(initial=0)) + 1), fill, np.int64)
    table[np.arange(table.shape[1]) < lengths[:, None]] = tokens
    table[np.arange(len(lengths)), lengths] = end
    return table
