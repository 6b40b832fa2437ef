"""Whether a tokenizer keeps the names of entities apart: they must be one-to-one as tokens."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from transformers import PreTrainedTokenizerBase

from caption_cache.errors import InputError
from kgc_seq2seq.graph.names import Key
from kgc_seq2seq.text.token_table import TokenTable


def token_keys(tokenizer: PreTrainedTokenizerBase, names: Sequence[str]
               ) -> tuple[list[str], list[int]]:
    """Tokenize names.

    Returns:
        A key for each name, equal exactly when the tokens are; and the places of the names that
        have no tokens, or unknown ones.
    """
    table = TokenTable.build(tokenizer, names)
    bounds = table.offsets.tolist()
    words = list(map(str, table.tokens.tolist()))
    keys = [" ".join(words[start:end]) for start, end in pairwise(bounds)]
    unknown = np.flatnonzero(table.tokens == tokenizer.unk_token_id)
    owners = np.searchsorted(table.offsets, unknown, side="right") - 1
    bad = np.union1d(owners, np.flatnonzero(np.diff(table.offsets) == 0))
    return keys, bad.tolist()


def token_key(tokenizer: PreTrainedTokenizerBase) -> Key:
    """Make `graph.names.resolve_collisions` compare names by their tokens.

    Raises:
        InputError: When called with a name that the tokenizer cannot spell.
    """
    def key(names: Sequence[str]) -> list[str]:
        keys, bad = token_keys(tokenizer, names)
        if bad:
            raise InputError(f"{len(bad):,} names hold characters that the tokenizer lacks, such "
                             f"as {names[bad[0]]!r}; give others by --names, or train a tokenizer "
                             "of your own (model.init: scratch) and leave --tokenizer out.")
        return keys

    return key
