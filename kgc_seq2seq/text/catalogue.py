"""Whether a tokenizer keeps the names of entities apart: they must be one-to-one as tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from caption_cache.errors import InputError
from kgc_seq2seq.graph.knowledge_graph import KnowledgeGraph
from kgc_seq2seq.graph.names import Key, collision_groups
from kgc_seq2seq.text.token_table import TokenTable
from kgc_seq2seq.text.tokenizer import add_missing_letters


def token_keys(tokenizer: PreTrainedTokenizerBase, names: Sequence[str]
               ) -> tuple[pa.Array, list[int]]:
    """Tokenize names as a run that starts from a pretrained tokenizer does.

    Args:
        tokenizer: It gets the letters that it lacks.
        names: The names.

    Returns:
        A key for each name, bytes [N], equal exactly when the tokens are; and the places of the
        names that have no tokens, or such as can be in no name.
    """
    add_missing_letters(tokenizer, names)
    return _keys(TokenTable.build(tokenizer, names), len(names), tokenizer)


def _keys(
    table: TokenTable, count: int, tokenizer: PreTrainedTokenizerBase
) -> tuple[pa.Array, list[int]]:
    """As `token_keys`, of the first ``count`` texts of a table: a key is its tokens' bytes."""
    bounds = table.offsets[: count + 1]
    keys = pa.Array.from_buffers(pa.large_binary(), count, [
        None, pa.py_buffer(bounds * table.tokens.itemsize), pa.py_buffer(table.tokens)])
    lacking = np.flatnonzero(np.isin(table.tokens[: bounds[-1]], [
        tokenizer.unk_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id]))
    owners = np.searchsorted(bounds, lacking, side="right") - 1
    bad = np.union1d(owners, np.flatnonzero(np.diff(bounds) == 0))
    return keys, bad.tolist()


def token_key(tokenizer: PreTrainedTokenizerBase) -> Key:
    """Make `graph.names.resolve_collisions` compare names by their tokens.

    Raises:
        InputError: When called with a name that the tokenizer cannot spell.
    """
    def key(names: Sequence[str]) -> pa.Array:
        keys, bad = token_keys(tokenizer, names)
        if bad:
            raise InputError(f"{len(bad):,} names have no tokens, or hold marks of the tokenizer's "
                             f"own, such as {names[bad[0]]!r}; give others by --names.")
        return keys

    return key


def refuse_unspeakable(
    graph: KnowledgeGraph, table: TokenTable, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Check that names and entities correspond one to one as tokens.

    Args:
        graph: Its N names are the first N texts of ``table``.
        table: The tokens.
        tokenizer: Made them.

    Raises:
        InputError: A name has no tokens, unknown ones or marks of its end, or two names have the
            same.
    """
    names, ids = graph.entity_names, graph.entity_ids
    keys, bad = _keys(table, len(names), tokenizer)
    if bad:
        raise InputError(f"{len(bad)} names hold characters that the tokenizer lacks, or marks of "
                         f"its own, such as {names[bad[0]]!r}; rename them, or train anew, when it "
                         "gets those letters.")
    twins, _ = collision_groups(keys)
    if len(twins):
        one, other = twins[:2].tolist()
        raise InputError(f"{len(twins)} names have the same tokens as another's, such as "
                         f"{names[one]!r} ({ids[one]}) and {names[other]!r} ({ids[other]}); "
                         "rename them.")
