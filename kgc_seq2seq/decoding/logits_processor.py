"""The trie as a constraint on ``model.generate`` of any transformers model."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import LogitsProcessor

from kgc_seq2seq.decoding.nodes import TrieNodes

GHOST = -1e8
"""Beam search fills up with copies at scores below this when it runs out of legal names."""


class TrieLogitsProcessor(LogitsProcessor):
    """Lets only names of the trie be generated: greedy, by beams or by sampling.

    Every row's node is carried from step to step. Beams change places between steps, so a row
    finds its node by a hash of what it has generated; equal texts have equal nodes.
    """

    def __init__(
        self, nodes: TrieNodes, pad: int, start: int = 1, *, in_place: bool = False
    ) -> None:
        """Prepare for one model.

        Args:
            nodes: The trie, on the model's device.
            pad: The padding token: all that may follow a finished name.
            start: Tokens before the name: 1 for an encoder-decoder, the length of the prompt
                for a decoder-only model.
            in_place: Write into the scores instead of a copy. Where the vocabulary is large, to
                come by a copy's memory takes most of the time. ``generate`` never looks at
                the scores before the mask again, but in greedy search and sampling with
                ``output_logits``.
        """
        self.nodes = nodes
        self.pad = pad
        trie = nodes.trie
        self._vocabulary = int(trie.tokens.max()) + 2
        parents = torch.from_numpy(trie.parents).to(nodes.device, torch.int64)
        # Children are ordered by token, and parents by number, so this ascends.
        tokens = torch.from_numpy(trie.tokens[1:]).to(nodes.device)
        self._edges = parents[1:] * self._vocabulary + tokens
        generator = torch.Generator().manual_seed(0)
        self._factors = torch.randint(-2**62, 2**62, (len(trie.levels) + 1,),
                                      generator=generator).to(nodes.device)
        self.start = start
        self.in_place = in_place
        self._hashes = self._at = torch.zeros(0, dtype=torch.long, device=nodes.device)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Forbid every token that continues no name.

        Args:
            input_ids: int64 [rows, t].
            scores: float [rows, V].

        Returns:
            ``-inf`` at forbidden tokens, float [rows, V].
        """
        if input_ids.shape[1] == self.start:
            at = input_ids.new_zeros(len(input_ids))
        else:
            before = self._hash(input_ids[:, self.start : -1])
            place = torch.searchsorted(self._hashes, before).clamp(max=len(self._hashes) - 1)
            at = torch.where(self._hashes[place] == before, self._at[place], -1)
            at = self.child(at, input_ids[:, -1])
        self._hashes, order = torch.sort(self._hash(input_ids[:, self.start :]))
        self._at = at[order]

        # What has left the trie is a ghost and may only be padded, as a finished name.
        over = (at < 0) | self.nodes.is_leaf(at.clamp(min=0))
        going = (~over).nonzero().flatten()
        row, child = self.nodes.edges(at[going])
        row, token = going[row], self.nodes.token(child)
        legal = scores[row, token]
        masked = (scores.fill_(-torch.inf) if self.in_place
                  else torch.full_like(scores, -torch.inf))
        masked[over, self.pad] = 0
        masked[row, token] = legal
        return masked

    def child(self, at: Tensor, tokens: Tensor) -> Tensor:
        """The node each token leads to from ``at`` [rows], -1 if none does."""
        known = (at >= 0) & (tokens < self._vocabulary)
        keys = torch.where(known, at * self._vocabulary + tokens, -1)
        place = torch.searchsorted(self._edges, keys).clamp(max=len(self._edges) - 1)
        return torch.where(self._edges[place] == keys, place + 1, -1)

    def _hash(self, ids: Tensor) -> Tensor:
        """One int64 for each row; int64 arithmetic wraps around.

        Rows longer than any name have ended or left the trie, whatever comes then.
        """
        ids = ids[:, : len(self._factors)]
        return ((ids + 1) * self._factors[: ids.shape[1]]).sum(dim=1)


def generated_entities(
    processor: TrieLogitsProcessor, sequences: Tensor, scores: Tensor, per_query: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The entities that a beam search wrote, without ghosts.

    Asked for more beams than there are legal names, ``generate`` returns copies of real ones
    with scores about -1e9.

    Args:
        processor: What constrained it.
        sequences: int64 [Q * per_query, t], as ``generate`` gives them, best first.
        scores: ``sequences_scores``, float [Q * per_query].
        per_query: ``num_return_sequences``.

    Returns:
        The query of each entity, the entity, and its score.
    """
    spelt = spelt_entities(processor, sequences)
    index = ((spelt >= 0) & (scores > GHOST)).nonzero().flatten()
    query, entity = index // per_query, spelt[index]
    # A copy stands below its original; a length penalty may lift it above any fixed score.
    same = (query[:, None] == query) & (entity[:, None] == entity)
    first = ~same.tril(-1).any(dim=1)
    return query[first], entity[first], scores[index[first]]


def spelt_entities(processor: TrieLogitsProcessor, sequences: Tensor) -> Tensor:
    """The entity whose name each sequence spells, -1 if none, int64 [rows]; as ``generate``
    gives them, int64 [rows, t]."""
    nodes = processor.nodes
    at = sequences.new_zeros(len(sequences))
    for column in sequences[:, processor.start :].T:
        done = (at >= 0) & nodes.is_leaf(at.clamp(min=0))
        at = torch.where(done, at, processor.child(at, column))
    ends = (at >= 0) & nodes.is_leaf(at.clamp(min=0))
    return torch.where(ends, nodes.entity(at.clamp(min=0)), -1)
