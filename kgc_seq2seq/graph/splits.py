"""Carving train, valid and test out of one set of triples."""

from __future__ import annotations

import numpy as np

from caption_cache.errors import InputError
from kgc_seq2seq.arrays import Ints, Longs
from kgc_seq2seq.graph.csr import number_rows


def check_shares(*shares: float) -> None:
    """Check the shares of valid and test that a user asks for.

    Raises:
        InputError: One is not between 0 and 1, or they leave nothing for train.
    """
    if not all(0 < share < 1 for share in shares) or sum(shares) >= 1:
        raise InputError("--valid and --test are shares of the triples: each must lie between "
                         "0 and 1, and both together below 1.")


def carve(
    triples: Ints, valid: float, test: float, seed: int, kin: Longs | None = None
) -> tuple[Ints, Ints, Ints]:
    """Split triples at random so that nothing leaks and nothing is unseen.

    Triples that link the same two entities by the same relation, in either order, stay in one
    split: a symmetric fact and its mirror are never apart. Every entity and every relation keeps
    at least one train triple.

    Args:
        triples: Distinct triples, int32 [n, 3].
        valid: Share of the triples wanted in valid.
        test: Share of the triples wanted in test.
        seed: Same seed, same splits.
        kin: Relations with equal numbers count as the same relation here, int64 [R]: those that
            say the same, forwards or backwards. None takes each for itself.

    Returns:
        train, valid and test, each int32 [·, 3] in the order of ``triples``. Valid and test are
        smaller than wanted where coverage does not allow more.
    """
    if not len(triples):
        return triples, triples, triples
    head, relation, tail = triples.T
    pairs = np.stack([relation if kin is None else kin[relation].astype(np.int32),
                      np.minimum(head, tail), np.maximum(head, tail)], axis=1)
    unit = number_rows(pairs)
    count = int(unit.max()) + 1
    priority = np.random.default_rng(seed).permutation(count)[unit]
    # The first unit, in random order, of every entity and of every relation stays in train.
    reserved = np.zeros(count, bool)
    for column in (np.concatenate([head, tail]), relation):
        ranks = np.resize(priority, len(column))
        order = np.argsort(ranks, kind="stable")
        _, first = np.unique(column[order], return_index=True)
        reserved[np.resize(unit, len(column))[order[first]]] = True
    # The others are dealt out in random order until each split has its share.
    free = np.flatnonzero(~reserved)
    sizes = np.bincount(unit, minlength=count)
    rank = np.empty(count, np.int64)
    rank[unit] = priority
    free = free[np.argsort(rank[free])]
    dealt = np.cumsum(sizes[free])
    split = np.zeros(count, np.int8)
    split[free[dealt <= (valid + test) * len(triples)]] = 1
    split[free[dealt <= test * len(triples)]] = 2
    train, valid_, test_ = (triples[split[unit] == part] for part in range(3))
    return train, valid_, test_
