"""What the weights of a fusion are fitted to: questions whose answers are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from caption_cache.progress import tracked
from kgc_seq2seq.arrays import Ints
from kgc_seq2seq.decoding.best_first import top_k
from kgc_seq2seq.decoding.nodes import Allowed
from kgc_seq2seq.decoding.tree_decoder import Encoded
from kgc_seq2seq.evaluation.kept import Found, Kept, once
from kgc_seq2seq.evaluation.ranking import QUERIES_AT_ONCE, encode_queries
from kgc_seq2seq.graph.knowledge_graph import KnowledgeGraph
from kgc_seq2seq.scorers.prior import Candidates, Voice
from kgc_seq2seq.systems.generator import Generator
from kgc_seq2seq.systems.system import as_tensors


def gather(
    graph: KnowledgeGraph, generator: Generator | None, voices: Sequence[Voice], triples: Ints,
    best: int | None = None, kept: Kept | None = None,
) -> Candidates:
    """Both questions of triples, with the exact log-probabilities of their candidates.

    Args:
        graph: Of the triples.
        generator: Gives the names' probabilities; without one, all names are equally probable.
        voices: S scorers.
        triples: int32 [n, 3].
        best: The candidates are the answer, each part's so many best, and as many drawn from all
            others, which stand for those (`stand_ins`): weights that only hold among the best
            would lift what no part believes. None: all entities. Either way, other known answers
            are none.
        kept: What the generator has said already, and where to keep what it will say: it takes
            next to all of the time.

    Returns:
        Of 2n questions: of all tail queries in the order of ``triples``, then of all head queries.
    """
    questions = graph.queries(triples)
    # Relations together, each of which costs a scorer much; equal queries side by side.
    order = np.lexsort(questions[:, [2, 0, 1]].T)
    lots = torch.Generator().manual_seed(0)
    parts = [_gather(graph, generator, voices, questions[order[start : start + QUERIES_AT_ONCE]],
                     best, lots, kept)
             for start in tracked(range(0, len(order), QUERIES_AT_ONCE),
                                  f"scoring candidates, {QUERIES_AT_ONCE} queries at once")]
    width = max(part.offsets.shape[1] for part in parts)
    whole = Candidates(
        torch.cat([functional.pad(part.parts, (0, 0, 0, width - part.parts.shape[1]))
                   for part in parts]),
        torch.cat([functional.pad(part.offsets, (0, width - part.offsets.shape[1]),
                                  value=-torch.inf) for part in parts]),
        torch.cat([part.gold for part in parts]), torch.cat([part.relations for part in parts]))
    return whole[torch.from_numpy(np.argsort(order)).to(whole.gold.device)]


def _gather(
    graph: KnowledgeGraph, generator: Generator | None, voices: Sequence[Voice], questions: Ints,
    best: int | None, lots: torch.Generator, kept: Kept | None,
) -> Candidates:
    device = voices[0].places.device
    # Questions that share a query share what is said of it.
    queries, shared = np.unique(questions[:, :2], axis=0, return_inverse=True)
    query, gold = (torch.from_numpy(column.astype(np.int64)).to(device)
                   for column in (shared, questions[:, 2]))
    heads, relations = as_tensors(queries, device)
    writer = None if generator is None else _Writer(generator, queries, kept)
    tables = torch.stack([voice.log_softmax(heads, relations) for voice in voices])
    owner, known = (torch.from_numpy(column.astype(np.int64)).to(device) for column in
                    graph.known_answers.rows(graph.query_keys(queries[:, 0], queries[:, 1])))
    may = torch.ones(tables.shape[1:], dtype=torch.bool, device=device)
    may[owner, known] = False
    tables, may, relations = tables[:, query], may[query], relations[query]
    rows = torch.arange(len(gold), device=device)
    stands_for = torch.ones_like(tables[0])
    if best is not None:
        count = min(best, int(may.sum(1).min()))
        chosen = torch.zeros_like(may)
        if count:
            if writer:
                chosen.scatter_(1, writer.best(count, owner, known)[query], True)
            for table in tables:
                chosen.scatter_(1, table.masked_fill(~may, -torch.inf).topk(count, 1).indices, True)
        chosen &= may
        drawn = stand_ins(may & ~chosen, tables, best * (len(voices) + (writer is not None)), lots)
        may = chosen | (drawn > 0)
        stands_for = torch.where(drawn > 0, drawn, 1.0)
    may[rows, gold] = True
    owner, entity = may.nonzero().unbind(1)
    said = tables[:, owner, entity]
    names = writer.log_probabilities(query[owner], entity) if writer else torch.zeros_like(said[0])
    # A row a question, its candidates in its first columns.
    column = (may.cumsum(1) - 1)[owner, entity]
    said = torch.cat([names[None], said]).double()
    parts = said.new_zeros(len(gold), int(may.sum(1).max()), len(said))
    offsets = torch.full_like(parts[..., 0], -torch.inf)
    parts[owner, column] = said.T
    offsets[owner, column] = stands_for[owner, entity].double().log()
    unwritten = parts[..., 0].isneginf()  # that no generator writes is no candidate
    offsets[unwritten] = -torch.inf
    parts[unwritten] = 0
    return Candidates(parts, offsets, (may.cumsum(1) - 1)[rows, gold], relations)


@dataclass(frozen=True)
class _Writer:
    """A generator, asked some queries."""

    generator: Generator
    """It."""
    queries: Ints
    """Distinct, int32 [Q, 2]."""
    kept: Kept | None
    """As in `gather`."""

    def best(self, count: int, owner: Tensor, known: Tensor) -> Tensor:
        """The best entities, [Q, count], but for those of the pairs (query, entity)."""
        def find() -> Found:
            search = self.generator.search
            allowed = Allowed.without(search.nodes, owner, known)
            return top_k(search, self._encoded, count, allowed=allowed).entities.cpu().numpy()

        return torch.from_numpy(once(self.kept, self.queries, find)).to(owner.device)

    def log_probabilities(self, owner: Tensor, entity: Tensor) -> Tensor:
        """Of the P pairs (query, entity), float32 [P]; -inf: no name of the generator's."""
        def find() -> Found:
            search = self.generator.search
            lowest = torch.full((len(self.queries),), -torch.inf, device=owner.device)
            found = search.sweep(self._encoded, lowest,
                                 allowed=Allowed.only(search.nodes, owner, entity))
            names: Found = np.full((len(self.queries), self.generator.graph.num_entities), -np.inf,
                                   np.float32)
            names[found.queries, found.entities] = found.scores
            said: Found = names[pairs]
            return said

        pairs = owner.cpu().numpy(), entity.cpu().numpy()
        questions = np.column_stack([self.queries[pairs[0]], pairs[1]]).astype(np.int32)
        return torch.from_numpy(once(self.kept, questions, find)).to(owner.device)

    @cached_property
    def _encoded(self) -> Encoded:
        return encode_queries(self.generator.search, self.generator.verbalizer, self.queries)


def stand_ins(
    among: Tensor, log_probabilities: Tensor, count: int, lots: torch.Generator
) -> Tensor:
    """Draw a few entities that stand for many in sums over them (importance sampling).

    Half of the draws are even, half by what scorers believe: what holds much of their probability
    would else be missed by most draws. All are taken where they are no more than the draws.

    Args:
        among: What is drawn from, bool [Q, N].
        log_probabilities: Of S scorers, float32 [S, Q, N].
        count: How often is drawn for each query, with replacement.
        lots: Draws; on the CPU.

    Returns:
        How many each stands for, float32 [Q, N], 1 in the mean over draws; 0: not drawn.
    """
    even = among / among.sum(1, keepdim=True).clamp(min=1)
    believed = log_probabilities.exp().mean(0) * among
    total = believed.sum(1, keepdim=True)
    chances = torch.where(total > 0, (even + believed / total) / 2, even)
    chances[~among.any(1)] = 1  # of nothing nothing is drawn, whatever multinomial wants
    places = torch.multinomial(chances.cpu(), count, replacement=True, generator=lots)
    times = torch.zeros_like(chances).scatter_add_(
        1, places.to(chances.device), torch.ones_like(places, dtype=chances.dtype,
                                                      device=chances.device))
    few = among.sum(1, keepdim=True) <= count
    return torch.where(few, 1.0, times / (count * chances)).masked_fill(~among, 0)
