"""Answers that texts name: a scorer that learns, by relation, what a mention is worth (ours)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from caption_cache.errors import InputError
from kgc_seq2seq.graph.knowledge_graph import KnowledgeGraph
from kgc_seq2seq.scorers.known import MENTIONS, Known
from kgc_seq2seq.scorers.mentions import Mentions
from kgc_seq2seq.scorers.one_vs_all import Queries
from kgc_seq2seq.scorers.scorer import Batch, EntityScorer, Feed, Vocabulary


@dataclass(frozen=True)
class MentionConfig:
    """What a mention is worth."""

    shrinkage: float = 0.05
    """Weight of the squares by which the weights of relations differ from the common ones, over the
    whole of train: a relation of few facts keeps near to these."""

    def __post_init__(self) -> None:
        if self.shrinkage < 0:
            raise InputError(f"model.shrinkage is {self.shrinkage}; give 0 or more.")


class MentionScorer(EntityScorer):
    """``s(h, r, t) = a_r · m(h, t) + b_r · m(t, h)``.

    ``m(x, y)`` is how the text of x names y: the share of the name that stands there, and the share
    times its rarity (`Mentions`); both 0 where it does not. ``a_r`` and ``b_r`` are two numbers
    each, the common ones and the relation's own. It knows nothing else: all entities without a
    mention are equally probable.
    """

    name = "mentions"
    title = "mentions"
    Config = MentionConfig
    config: MentionConfig

    def __init__(self, config: MentionConfig, vocabulary: Vocabulary,
                 vectors: Mapping[str, Known]) -> None:
        super().__init__(config, vocabulary, vectors)
        text, name, share, rarity = (self.get_buffer(f"{MENTIONS}_{key}")
                                     for key in Mentions.STORED)
        how = torch.stack([share, share * rarity], 1)
        named, order = name.sort(stable=True)
        for side, values in enumerate(((text, name, how), (named, text[order], how[order]))):
            for key, value in zip(("given", "other", "how"), values, strict=True):
                self.register_buffer(f"{key}_{side}", value, persistent=False)
        self.common = nn.Parameter(torch.zeros(2, 2))
        self.own = nn.Parameter(torch.zeros(2 * len(vocabulary.relation_ids), 2, 2))
        self.examples = 1  # `feed` knows how many there are

    @classmethod
    def reads(cls, config: MentionConfig) -> tuple[str, ...]:
        """The mentions."""
        return (MENTIONS,)

    def score(self, heads: Tensor, relations: Tensor) -> Tensor:
        """As in `EntityScorer`."""
        weights = self.common + self.own[relations]  # [B, 2, 2]: side, share or rarity
        total: Tensor = weights.new_zeros(len(heads), len(self.vocabulary.entity_ids))
        for side, weight in enumerate(weights.unbind(1)):
            given, other, how = (self.get_buffer(f"{key}_{side}")
                                 for key in ("given", "other", "how"))
            owner, place = _rows(given, heads.contiguous())
            total = total.index_put((owner, other[place]), (weight[owner] * how[place]).sum(1),
                                    accumulate=True)
        return total

    def loss(self, batch: Batch) -> Tensor:
        """Cross-entropy over all entities.

        Args:
            batch: With ``queries`` of `Queries`.
        """
        head, relation, tail = batch["queries"].unbind(1)
        total: Tensor = functional.cross_entropy(self.score(head, relation), tail, reduction="sum")
        return total + (self.config.shrinkage * len(head) / self.examples
                        * self.own.square().sum())

    def feed(self, graph: KnowledgeGraph, seed: int) -> Feed:
        """As in `EntityScorer`; nothing is drawn at random."""
        queries = Queries(graph)
        self.examples = len(queries)
        return queries


def _rows(keys: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Where each of ``wanted`` (int64 [B]) stands in ascending ``keys`` (int64 [M]).

    Returns:
        Which of ``wanted``, and the place, int64 [K] each.
    """
    start = torch.searchsorted(keys, wanted)
    count = torch.searchsorted(keys, wanted, right=True) - start
    owner = torch.repeat_interleave(torch.arange(len(wanted), device=keys.device), count)
    first = count.cumsum(0) - count
    return owner, torch.arange(len(owner), device=keys.device) - first[owner] + start[owner]
