"""What the model reads for a query, and what it has to write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from caption_cache.links import INVERSE
from kgc_seq2seq.arrays import Bools, Ints, Longs
from kgc_seq2seq.graph.knowledge_graph import KnowledgeGraph
from kgc_seq2seq.text.catalogue import refuse_unspeakable
from kgc_seq2seq.text.context import Context, Told, in_share, mix
from kgc_seq2seq.text.denoising import corrupt, sentinels
from kgc_seq2seq.text.input_config import InputConfig
from kgc_seq2seq.text.pair_texts import PairTexts
from kgc_seq2seq.text.settings import (
    HEAD_MARK,
    PRIORITY,
    TAIL_MARK,
    Section,
    Source,
    atoms,
)
from kgc_seq2seq.text.token_table import TokenTable, pad
from kgc_seq2seq.text.tokenizer import add_relation_marks
from kgc_seq2seq.training.batches import Examples

_GROUP = {"head": "entity", "tail": "entity", "plain": "relation"}
"""Which texts a slot takes, where it is not called as they are."""
_OF_ENTITIES = ("entity", "caption", "description")
"""Texts of which each entity has one."""
_AT_ONCE = 4096
Texts = Mapping[tuple[str, str], str]


@dataclass(frozen=True)
class Part:
    """A stretch of one input."""

    source: Source
    """Where it comes from."""
    tokens: tuple[int, ...]
    """Its tokens."""
    text: str
    """The same, decoded."""
    heading: bool
    """Whether it only announces what follows."""
    left_out: bool
    """Whether the token budget kept it from being read."""


@dataclass(frozen=True, eq=False)
class _Run:
    """Items that stand side by side in the inputs of a batch of queries."""

    owner: Longs
    """The query of each item, int64 [n], ascending."""
    pieces: list[tuple[Source, Longs]]
    """The texts of each item, int64 [n, k], piece by piece: a piece is read as a whole or not."""
    heading: bool = False


class Verbalizer:
    """Turns queries into token ids, by one of the `settings`.

    The target is the answer's name and EOS. Facts come from the train split; the one asked for
    is left out, in whatever words it could be told (`Context`).
    """

    def __init__(
        self, graph: KnowledgeGraph, captions: Mapping[str, str],
        tokenizer: PreTrainedTokenizerBase, config: InputConfig, seed: int,
        pair_captions: Texts | None = None, relation_captions: Texts | None = None,
        smaller: Verbalizer | None = None,
    ) -> None:
        """Tokenize every text of the graph once.

        Args:
            graph: The graph.
            captions: Text by entity id; an entity without one has no caption.
            tokenizer: It gets a mark for every relation, if it has none and the setting reads it.
            config: What to include.
            seed: Of the choice of facts.
            pair_captions: Text by (entity id, neighbour id), which is read after a fact about
                the two; as `caption_cache.captions.read_link_captions` gives them.
            relation_captions: Likewise by (entity id, relation id), read where it is asked for.
            smaller: The same of the graph without its last entities: what that has tokenized is
                taken from there.

        Raises:
            InputError: Two names have the same tokens, or a name has tokens the vocabulary lacks.
        """
        self.graph = graph
        self.config = config
        self.tokenizer = tokenizer
        self._captions, self._seed = captions, seed
        self._links = pair_captions, relation_captions
        self.context = Context(graph, config, seed)
        self.eos = int(tokenizer.eos_token_id)
        self.pad = int(tokenizer.pad_token_id)
        self._sections = config.sections()
        self._pairs, pair_texts = PairTexts.build(pair_captions or {}, graph.entity_ids)
        self._questions, question_texts = PairTexts.build(
            relation_captions or {}, graph.entity_ids, _relation_places(graph))
        slots = {slot for section in self._sections for slot, _ in atoms(section.item)}
        literals = dict.fromkeys(text for section in self._sections for template in (
            section.item, section.heading, section.between, section.pair_caption)
            for slot, text in atoms(template) if not slot)
        texts: dict[str, Sequence[str]] = {
            "entity": graph.entity_names,
            "relation": graph.relation_names,
            "mark": add_relation_marks(tokenizer, 2 * graph.num_relations)
            if "mark" in slots else (),
            "direction": (TAIL_MARK, HEAD_MARK),
            "caption": [captions.get(key, "") for key in graph.entity_ids]
            if "caption" in slots else (),
            "description": graph.entity_descriptions if config.descriptions else (),
            "pair_caption": pair_texts,
            "relation_caption": question_texts,
            "literal": ["", *literals],
        }
        tables = []
        for name, group in texts.items():
            known = (smaller._texts(name) if smaller and name in _OF_ENTITIES else
                     TokenTable.build(tokenizer, ()))
            tables += [known, TokenTable.build(tokenizer, group[len(known.lengths) :])]
        self._table = TokenTable.joined(tables)
        starts = accumulate(map(len, texts.values()), initial=0)
        self._spans = dict(zip(texts, pairwise(starts), strict=True))
        self._first = {name: start for name, (start, _) in self._spans.items()}
        self._nothing = self._first["literal"]
        self._literals = {text: self._nothing + place
                          for place, text in enumerate(literals, start=1)}
        refuse_unspeakable(graph, self._table, tokenizer)

    def over(self, graph: KnowledgeGraph, captions: Mapping[str, str]) -> Verbalizer:
        """The same for a graph with more entities behind those of this one.

        Args:
            graph: It.
            captions: Of entities that are new.
        """
        return Verbalizer(graph, {**self._captions, **captions}, self.tokenizer, self.config,
                          self._seed, *self._links, smaller=self)

    def _texts(self, group: str) -> TokenTable:
        """The tokens of the texts of one group."""
        return self._table.part(np.arange(*self._spans[group]))

    def names(self) -> tuple[Ints, Longs]:
        """Every entity's name ended by EOS: tokens int32 [T] and offsets int64 [N + 1]."""
        count = self.graph.num_entities
        offsets = self._table.offsets[: count + 1]
        tokens = np.insert(self._table.tokens[: offsets[-1]], offsets[1:], self.eos)
        return tokens.astype(np.int32), offsets + np.arange(count + 1)

    def inputs(self, queries: Ints, epoch: int) -> Longs:
        """Token ids of the inputs.

        Args:
            queries: int32 [B, 3]: entity, relation in ``0 … 2R - 1``, and the answer, which only
                serves to leave the asked fact out; -1 where it is not given.
            epoch: From 1 in training: another epoch, other facts. 0 in evaluation.

        Returns:
            int64 [B, L], filled up with the padding token.
        """
        lengths, tokens = self._spelled(queries, epoch)
        return pad(lengths, tokens, self.eos, self.pad)

    def examples(self, queries: Ints, epoch: int, denoising: float = 0.0) -> Examples:
        """Examples of a training, made at once; a batch of them has the tensors of `Seq2Seq`.

        Args:
            queries: As in `inputs`, with answers.
            epoch: As in `inputs`.
            denoising: Share of the examples that lose spans of their input and have these for a
                target, drawn by seed, epoch and query.
        """
        made = [self._spelled(queries[start : start + _AT_ONCE], epoch)
                for start in range(0, len(queries), _AT_ONCE)]
        lengths, tokens = map(np.concatenate, zip(*made, strict=True))
        inputs = TokenTable(tokens, np.append(0, np.cumsum(lengths)))
        targets, written = self._table, queries[:, 2].astype(np.int64)
        if denoising:
            lots = mix(self._seed, epoch, 3, *queries.T)
            chosen = in_share(lots, denoising)
            inputs, spans = corrupt(inputs, chosen, lots, sentinels(self.tokenizer))
            targets = TokenTable.joined([targets.part(written), spans])
            written = np.arange(len(queries)) + len(queries) * chosen

        def batch(rows: Longs, step: int) -> dict[str, Tensor]:
            read = torch.from_numpy(inputs.padded(rows, self.eos, self.pad))
            return {"input_ids": read, "attention_mask": (read != self.pad).long(),
                    "labels": torch.from_numpy(targets.padded(written[rows], self.eos, -100))}

        return Examples(1 + np.stack([inputs.lengths, targets.lengths[written]], axis=1), batch)

    def targets(self, entities: Ints) -> Longs:
        """Token ids of the answers' names with EOS, int64 [B, T], filled up with -100."""
        return self._table.padded(entities.astype(np.int64), self.eos, -100)

    def parts(self, query: Ints, epoch: int = 0) -> list[Part]:
        """What the model reads for one query, in order, and what it would have read besides.

        Args:
            query: int32 [3], as a row of the queries of `inputs`.
            epoch: As in `inputs`.
        """
        runs = self._runs(self.graph.fold(query[None]), epoch)
        kept = self._kept(runs, 1)
        pieces = [(run, source, texts[item], keep[item])
                  for run, keeps in zip(runs, kept, strict=True) for item in range(len(run.owner))
                  for (source, texts), keep in zip(run.pieces, keeps, strict=True)]
        parts, room = [], self.config.max_tokens - 1
        for run, source, texts, keep in pieces:
            tokens = self._table.spell(texts, np.cumsum(self._table.lengths[texts])).tolist()
            read = len(tokens) * bool(keep)
            if self.config.truncate == "right":
                read = min(len(tokens), room)
                room -= read
            parts += [Part(source, tuple(piece), str(self.tokenizer.decode(piece)).strip(),
                           run.heading, left_out)
                      for piece, left_out in ((tokens[:read], False), (tokens[read:], True))
                      if piece]
        return parts

    def _spelled(self, queries: Ints, epoch: int) -> tuple[Longs, Ints]:
        """Tokens in each input without its EOS, int64 [B], and these tokens, input by input."""
        texts, ends, bounds = self._assemble(queries, epoch)
        tokens, lengths = self._table.spell(texts, ends), np.diff(bounds)
        most = self.config.max_tokens - 1
        if self.config.truncate == "right" and (lengths > most).any():
            place = np.arange(len(tokens)) - np.repeat(bounds[:-1], lengths)
            tokens, lengths = tokens[place < most], np.minimum(lengths, most)
        return lengths, tokens

    def _assemble(self, queries: Ints, epoch: int) -> tuple[Longs, Longs, Longs]:
        """Put the texts of the inputs together.

        Returns:
            The texts, int64 [K], those of the first query first; the running total of their
            tokens, int64 [K]; and where the tokens of each query begin and end, int64 [B + 1].
        """
        count = len(queries)
        runs = self._runs(self.graph.fold(queries), epoch)
        widths = [sum(texts.shape[1] for _, texts in run.pieces) for run in runs]
        items = np.stack([np.bincount(run.owner, minlength=count) for run in runs], axis=1)
        sizes = items * widths
        # Where the texts of each run begin in each query: behind those of the runs before.
        starts = (np.cumsum(sizes) - sizes.ravel()).reshape(sizes.shape)
        texts = np.empty(int(sizes.sum()), np.int64)
        places = []
        for number, run in enumerate(runs):
            first = np.cumsum(items[:, number]) - items[:, number]
            turn = np.arange(len(run.owner)) - first[run.owner]
            place = starts[run.owner, number] + turn * widths[number]
            for _, piece in run.pieces:
                places.append(place[:, None] + np.arange(piece.shape[1]))
                texts[places[-1]] = piece
                place = place + piece.shape[1]
        last = np.cumsum(sizes.sum(axis=1))
        ends = np.cumsum(self._table.lengths[texts])
        bounds = np.append(0, ends)[np.append(0, last)]
        if self.config.truncate == "priority" and (
                np.diff(bounds) >= self.config.max_tokens).any():
            kept = [keep for keeps in self._kept(runs, count) for keep in keeps]
            for where, keep in zip(places, kept, strict=True):
                texts[where[~keep]] = self._nothing
            ends = np.cumsum(self._table.lengths[texts])
            bounds = np.append(0, ends)[np.append(0, last)]
        return texts, ends, bounds

    def _kept(self, runs: list[_Run], count: int) -> list[list[Bools]]:
        """Which items of each piece of each run the token budget allows.

        Sources are served in the order of `PRIORITY`; of one source, items are read from the
        first on while there is room.
        """
        kept = [[np.ones(len(run.owner), bool) for _ in run.pieces] for run in runs]
        if self.config.truncate == "right":
            return kept
        room = np.full(count, self.config.max_tokens - 1)
        for source in PRIORITY:
            for run, keeps in zip(runs, kept, strict=True):
                for place, (of, texts) in enumerate(run.pieces):
                    if of != source:
                        continue
                    # What belongs to an item goes with it.
                    cost = self._table.lengths[texts].sum(axis=1) * keeps[0]
                    total = np.cumsum(cost)
                    before = (total - cost)[np.searchsorted(run.owner, run.owner)]
                    if source != "query":
                        keeps[place] = keeps[0] & (total - before <= room[run.owner])
                    spent = np.bincount(run.owner, cost * keeps[place], minlength=count)
                    room -= spent.astype(np.int64)
        return kept

    def _runs(self, queries: Ints, epoch: int) -> list[_Run]:
        """Everything that could be read for folded queries, in order."""
        everyone = np.arange(len(queries))
        entity, relation = queries[:, 0].astype(np.int64), queries[:, 1].astype(np.int64)
        facts: Told | None = None
        runs = []
        for section in self._sections:
            if section.heading:
                runs.append(_Run(everyone, [
                    (section.source, self._fill(section.heading, len(queries)))], heading=True))
            match section.source:
                case "query" | "instruction":
                    turned, plain = np.divmod(relation, self.graph.num_relations)
                    run = self._run(section, everyone, entity=entity, relation=relation,
                                    mark=relation, plain=plain, direction=turned)
                case "caption" | "description":
                    has = np.flatnonzero(
                        self._table.lengths[self._first[section.source] + entity])
                    run = self._run(section, has, **{section.source: entity[has]})
                case "relation caption":
                    found = self._questions.find(entity, relation, -1)
                    if epoch:
                        # There are captions of what train answers: were a fact's own answer
                        # enough, every training query would have one, and few of test.
                        found[self.context.answers(queries) < 2] = -1
                    has = np.flatnonzero(found >= 0)
                    run = self._run(section, has, relation_caption=found[has])
                case "fact":
                    facts = self.context.facts(queries, epoch)
                    run = self._told(section, facts)
                    if section.pair_caption:
                        run.pieces.append(self._pair_captions(section, facts))
                case "two hops":
                    assert facts is not None  # sections of facts stand before
                    run = self._told(section, self.context.two_hops(queries, facts, epoch))
                case _:
                    run = self._told(section, self.context.examples(queries, epoch))
            runs.append(run)
        return runs

    def _told(self, section: Section, told: Told) -> _Run:
        """Facts as the items of a section."""
        return self._run(section, told.owner, head=told.head, relation=told.relation,
                         tail=told.tail)

    def _pair_captions(self, section: Section, facts: Told) -> tuple[Source, Longs]:
        """The captions of the pairs of facts.

        Where the answer is told by a fact of another relation, its caption is read like any other:
        that one alone had none would tell it.
        """
        found = self._pairs.find(facts.head, facts.tail, -1)
        texts = self._fill(section.pair_caption, len(found), pair_caption=found)
        texts[found < 0] = self._nothing
        return "pair caption", texts

    def _run(self, section: Section, owner: Longs, **slots: Longs) -> _Run:
        """The items of a section."""
        texts = self._fill(section.item, len(owner), **slots)
        if section.between:
            between = self._fill(section.between, len(owner))
            between[np.diff(owner, prepend=-1) != 0] = self._nothing
            texts = np.hstack([between, texts])
        return _Run(owner, [(section.source, texts)])

    def _fill(self, template: str, count: int, **slots: Longs) -> Longs:
        """The texts of ``count`` copies of a template, int64 [count, k]."""
        columns = [self._first[_GROUP.get(slot, slot)] + slots[slot] if slot else
                   np.full(count, self._literals[text]) for slot, text in atoms(template)]
        return np.stack(columns, axis=1)


def _relation_places(graph: KnowledgeGraph) -> dict[str, int]:
    """The numbers of relations by their ids in the caption cache; folded, as queries are."""
    count = graph.num_relations
    forward = {key: place for place, key in enumerate(graph.relation_ids)}
    return forward | {INVERSE + key: place + count * (not graph.symmetric[place])
                      for key, place in forward.items()}
