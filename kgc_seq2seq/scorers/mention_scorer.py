"""Answers that texts name: a scorer that learns, by relation, what a mention is worth (ours)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from caption_cache.errors import InputError
from kgc_seq2seq.decoding.ragged import spread
from kgc_seq2seq.graph.knowledge_graph import KnowledgeGraph
from kgc_seq2seq.scorers.known import MENTIONS, Known
from kgc_seq2seq.scorers.mentions import Mentions
from kgc_seq2seq.scorers.one_vs_all import Queries
from kgc_seq2seq.scorers.scorer import Batch, EntityScorer, Feed, Vocabulary


@dataclass(frozen=True)
class MentionConfig:
    """What a mention is worth."""

    words: int = 16
    """Width of the vectors of words around mentions, which tell of what relation a text speaks; 0:
    they are not read."""
    shrinkage: float = 0.5
    """Weight of the squares of vectors, and of those by which the weights of relations differ from
    the common ones, over the whole of train: a relation of few facts keeps near to these."""

    def __post_init__(self) -> None:
        if self.words < 0:
            raise InputError(f"model.words is {self.words}; give 0 or more.")
        if self.shrinkage < 0:
            raise InputError(f"model.shrinkage is {self.shrinkage}; give 0 or more.")


class MentionScorer(EntityScorer):
    """``s(h, r, t) = a_r(h, t) + b_r(t, h)``.

    ``a_r(x, y)`` is what it is worth that the text of x names y, 0 where it does not: the share of
    the name that stands there times ``p_r + q_r · rarity + u_r · Σ w``, w the vectors of the words
    around it (`Mentions`); ``b_r`` alike. p and q are the common numbers and the relation's own. It
    knows nothing else: all entities without a mention are equally probable.
    """

    name = "mentions"
    title = "mentions"
    Config = MentionConfig
    config: MentionConfig

    def __init__(self, config: MentionConfig, vocabulary: Vocabulary,
                 vectors: Mapping[str, Known]) -> None:
        super().__init__(config, vocabulary, vectors)
        mentions = self._mentions
        named, order = mentions.name.sort(stable=True)
        for side, (given, pair) in enumerate((
                (mentions.text, torch.arange(len(named))), (named, order))):
            self.register_buffer(f"given_{side}", given, persistent=False)
            self.register_buffer(f"pair_{side}", pair, persistent=False)
        relations = 2 * len(vocabulary.relation_ids)
        self.common = nn.Parameter(torch.zeros(2, 2))
        self.own = nn.Parameter(torch.zeros(relations, 2, 2))
        if config.words:
            count = 1 + int(mentions.around.max()) if len(named) else 1
            self.words = nn.Parameter(0.1 * torch.randn(count, config.words))
            self.asks = nn.Parameter(torch.zeros(relations, 2, config.words))
        self.examples = 1  # `feed` knows how many there are

    @classmethod
    def reads(cls, config: MentionConfig) -> tuple[str, ...]:
        """The mentions."""
        return (MENTIONS,)

    @property
    def _mentions(self) -> Mentions:
        return Mentions(*(self.get_buffer(f"{MENTIONS}_{key}") for key in Mentions.STORED))

    def score(self, heads: Tensor, relations: Tensor) -> Tensor:
        """As in `EntityScorer`."""
        mentions = self._mentions
        weights = self.common + self.own[relations]  # [B, 2, 2]: side, share or rarity
        total: Tensor = weights.new_zeros(len(heads), len(self.vocabulary.entity_ids))
        for side, other in enumerate((mentions.name, mentions.text)):
            owner, place = _rows(self.get_buffer(f"given_{side}"), heads.contiguous())
            pair = self.get_buffer(f"pair_{side}")[place]
            plain, rare = weights[owner, side].unbind(1)
            worth = plain + rare * mentions.rarity[pair]
            if self.config.words:
                around = functional.embedding_bag(mentions.around[pair], self.words, mode="sum",
                                                  padding_idx=0)
                worth = worth + (around * self.asks[relations, side][owner]).sum(1)
            worth = mentions.share[pair] * worth
            total = total.index_put((owner, other[pair]), worth, accumulate=True)
        return total

    def loss(self, batch: Batch) -> Tensor:
        """Cross-entropy over all entities.

        Args:
            batch: With ``queries`` of `Queries`.
        """
        head, relation, tail = batch["queries"].unbind(1)
        total: Tensor = functional.cross_entropy(self.score(head, relation), tail, reduction="sum")
        drawn = [weight for name, weight in self.named_parameters() if name != "common"]
        return total + (self.config.shrinkage * len(head) / self.examples
                        * torch.stack([weight.square().sum() for weight in drawn]).sum())

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
    return spread(start, torch.searchsorted(keys, wanted, right=True) - start)
