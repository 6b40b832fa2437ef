"""The sampling protocol of KGT5, to compare with numbers that were published under it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from caption_cache.errors import InputError
from kgc_seq2seq.arrays import Ints, Longs
from kgc_seq2seq.decoding.exact import ExactSearch
from kgc_seq2seq.decoding.logits_processor import TrieLogitsProcessor, spelt_entities
from kgc_seq2seq.decoding.nodes import Prior
from kgc_seq2seq.text.verbalizer import Verbalizer


@dataclass(frozen=True)
class SampledRanks:
    """Ranks among sampled answers, as KGT5 (Saxena et al. 2022) and its successors report.

    Names are sampled without constraint, those of no entity and the known answers are dropped;
    the rank is ``1 + better + ties // 2``, and N where the gold was never drawn: too high or too
    low, and another one with every seed. `ranking.exact_ranks` is the true one.
    """

    samples: int = 500
    """Names drawn for each query."""
    top_k: int = 50
    """Each token is drawn from so many, the most probable ones: the default of transformers'
    ``generate``, which the published code left as it is."""
    draws_seed: int = 0
    """Of the draws; protocols have the training's seed beside it."""
    kind: ClassVar[str] = "sampled"
    """What results call them."""

    def __post_init__(self) -> None:
        if self.samples < 1 or self.top_k < 1:
            raise InputError(f"{self.samples} samples from {self.top_k} tokens are asked for; "
                             "give 1 or more of both.")

    def __call__(
        self, search: ExactSearch, verbalizer: Verbalizer, queries: Ints, owner: Longs, gold: Ints,
        prior: Prior | None = None,
    ) -> tuple[Longs, ...]:
        """As `ranking.Ranker`: a rank without ties.

        Raises:
            InputError: There is a prior: it has no part in the drawing of names.
        """
        if prior is not None:
            raise InputError("Sampled ranks are those of a generator alone; give the generator's "
                             "run, or ask for exact ranks.")
        graph, device = verbalizer.graph, search.decoder.device
        depth = len(search.trie.levels) - 2
        speller = TrieLogitsProcessor(search.nodes, verbalizer.pad)
        rank = np.zeros(len(gold), np.int64)
        keys = graph.query_keys(queries[:, 0], queries[:, 1])
        unknown = np.full((1, 1), -1, np.int32)
        for number, query in enumerate(queries):
            ids = torch.from_numpy(verbalizer.inputs(np.hstack([query[None], unknown]), 0))
            ids = ids.to(device)
            torch.manual_seed(hash((self.draws_seed, int(keys[number]))) % 2**63)
            with torch.inference_mode():
                drawn: Any = search.decoder.model.generate(  # type: ignore[misc]
                    input_ids=ids, do_sample=True, top_k=self.top_k, max_new_tokens=depth,
                    num_return_sequences=self.samples)
                entity = torch.unique(spelt_entities(speller, drawn))
                entity = entity[entity >= 0]
                encoded = search.decoder.encode(ids, torch.ones_like(ids))
                score = search.gold_scores(encoded, torch.zeros_like(entity), entity)
            scores = np.full(graph.num_entities, -np.inf, np.float32)
            scores[entity.cpu().numpy()] = score.cpu().numpy()
            rows = np.flatnonzero(owner == number)
            own = scores[gold[rows]]
            scores[graph.known_answers[int(keys[number])]] = -np.inf
            better = (scores > own[:, None]).sum(axis=1)
            tied = (scores == own[:, None]).sum(axis=1)
            rank[rows] = np.where(np.isneginf(own), graph.num_entities, 1 + better + tied // 2)
        return rank - 1, np.zeros_like(rank)
