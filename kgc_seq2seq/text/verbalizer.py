"""What the model reads for a query, and what it has to write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

from caption_cache.errors import InputError
from kgc_seq2seq.graph.csr import Ints, Longs, expand_spans
from kgc_seq2seq.graph.knowledge_graph import KnowledgeGraph
from kgc_seq2seq.text.pair_texts import PairTexts
from kgc_seq2seq.text.token_table import TokenTable, pad
from kgc_seq2seq.text.tokenizer import add_relation_marks

CAPTION_MARK, FACT_MARK = "<extra_id_98>", "<extra_id_97>"


@dataclass(frozen=True)
class InputConfig:
    """What goes into the model's input."""

    neighbours: int = 3
    """At most so many facts of the train split about the query's entity; 0 for none."""
    vary_neighbours: bool = True
    """In training, read a random number of facts from 0 to ``neighbours``: the model learns to
    answer from the query alone as well, and short inputs make cheap steps."""
    captions: bool = True
    """Whether the caption of the query's entity is read, and with each fact that of the pair."""
    max_tokens: int = 256
    """Facts, then the caption, are left out of an input that would be longer."""

    def __post_init__(self) -> None:
        if self.neighbours < 0:
            raise InputError(f"input.neighbours is {self.neighbours}; give 0 or more.")
        if self.max_tokens < 32:
            raise InputError(f"input.max_tokens is {self.max_tokens}; give at least 32.")


class Verbalizer:
    """Turns queries into token ids.

    The input reads ``entity <relation_r> relation <c> caption <f> relation neighbour <f> … EOS``,
    with captions of pairs ``<f> relation neighbour <c> caption``;
    the target is the answer's name and EOS. Facts come from the train split, and the one asked
    for is left out, in whichever direction it is stated.
    """

    def __init__(
        self, graph: KnowledgeGraph, captions: Mapping[str, str],
        tokenizer: PreTrainedTokenizerBase, config: InputConfig, seed: int,
        pair_captions: Mapping[tuple[str, str], str] | None = None,
    ) -> None:
        """Tokenize every text of the graph once.

        Args:
            graph: The graph.
            captions: Text by entity id; an entity without one has no caption.
            tokenizer: It gets a mark for every relation, if it has none.
            config: What to include.
            seed: Of the choice of facts.
            pair_captions: Text by (entity id, neighbour id), which is read after a fact about
                the two; as `caption_cache.captions.read_link_captions` gives them.

        Raises:
            InputError: Two names have the same tokens, or a name has tokens the vocabulary lacks.
        """
        self.graph = graph
        self.tokenizer = tokenizer
        self.captions = captions
        self.pair_captions = pair_captions
        self.config = config
        self.seed = seed
        self.eos = int(tokenizer.eos_token_id)
        self.pad = int(tokenizer.pad_token_id)
        self._pairs, pair_texts = PairTexts.build(pair_captions or {}, graph.entity_ids)
        sections = {
            "entity": graph.entity_names,
            "relation": graph.relation_names,
            "relation_mark": add_relation_marks(tokenizer, 2 * graph.num_relations),
            "caption": [captions.get(key, "") for key in graph.entity_ids],
            "caption_mark": [CAPTION_MARK],
            "fact_mark": [FACT_MARK],
            "nothing": [""],
            "pair_caption": pair_texts,
        }
        self.table = TokenTable.build(
            tokenizer, [text for section in sections.values() for text in section])
        starts = np.cumsum([0, *map(len, sections.values())])
        self._text = dict(zip(sections, starts.tolist(), strict=False))
        refuse_unspeakable(graph, self.table, int(tokenizer.unk_token_id))

    def over(self, graph: KnowledgeGraph, captions: Mapping[str, str]) -> Verbalizer:
        """The same for a graph with more entities behind those of this one.

        Args:
            graph: It.
            captions: Of entities that are new.
        """
        return Verbalizer(graph, {**self.captions, **captions}, self.tokenizer, self.config,
                          self.seed, self.pair_captions)

    def names(self) -> tuple[Ints, Longs]:
        """Every entity's name ended by EOS: tokens int32 [T] and offsets int64 [N + 1]."""
        count = self.graph.num_entities
        offsets = self.table.offsets[: count + 1]
        tokens = np.insert(self.table.tokens[: offsets[-1]], offsets[1:], self.eos)
        return tokens.astype(np.int32), offsets + np.arange(count + 1)

    def inputs(self, queries: Ints, epoch: int) -> Longs:
        """Token ids of the inputs.

        Args:
            queries: int32 [B, 3]: entity, relation in ``0 … 2R - 1``, and the answer, which only
                serves to leave the asked fact out; -1 where there is none to leave out.
            epoch: From 1 in training: another epoch, other facts. 0 in evaluation.

        Returns:
            int64 [B, L], filled up with the padding token.
        """
        queries = self.graph.fold(queries)
        example = np.arange(len(queries))
        entity, relation = queries[:, 0].astype(np.int64), queries[:, 1].astype(np.int64)
        fact, said, neighbour = self._facts(queries, epoch)
        caption = self._text["caption"] + entity
        captioned = example[(self.table.lengths(caption) > 0) & self.config.captions]
        # Parts of the inputs, each with the example it belongs to and its texts.
        parts: list[tuple[Longs, list[Longs]]] = [
            (example, [self._text["entity"] + entity, self._text["relation_mark"] + relation,
                       self._text["relation"] + relation]),
            (captioned, [np.full_like(captioned, self._text["caption_mark"]),
                         caption[captioned]]),
            (fact, [np.full_like(fact, self._text["fact_mark"]), self._text["relation"] + said,
                    self._text["entity"] + neighbour,
                    *self._pair_captions(entity[fact], neighbour)]),
        ]
        owner = np.concatenate([np.repeat(owners, len(texts)) for owners, texts in parts])
        text = np.concatenate([np.stack(texts, axis=1).ravel() for _, texts in parts])
        part_ends = np.concatenate([np.tile(np.arange(len(texts)) == len(texts) - 1, len(owners))
                                    for owners, texts in parts])
        order = np.argsort(owner, kind="stable")
        fits = self._fits(owner[order], text[order], part_ends[order], len(queries))
        owners, tokens = self.table.spell(owner[order][fits], text[order][fits])
        return self._end(owners, tokens, len(queries), self.pad)

    def _pair_captions(self, entity: Longs, neighbour: Longs) -> list[Longs]:
        """What is read after each fact: the mark and the caption of the pair, or nothing."""
        if not self.config.captions or not len(self._pairs.keys):
            return []
        found = self._pairs.find(entity, neighbour, -1)
        nothing = self._text["nothing"]
        return [np.where(found < 0, nothing, self._text["caption_mark"]),
                np.where(found < 0, nothing, self._text["pair_caption"] + found)]

    def targets(self, entities: Ints) -> Longs:
        """Token ids of the answers' names with EOS, int64 [B, T], filled up with -100."""
        owners, tokens = self.table.spell(np.arange(len(entities)), entities.astype(np.int64))
        return self._end(owners, tokens, len(entities), -100)

    def input_lengths(self, queries: Ints) -> Longs:
        """About how many tokens the input of each query takes, int64 [n]."""
        entity = queries[:, 0].astype(np.int64)
        known = self.graph.neighbours.spans(entity)[1]
        captions = self.table.lengths(self._text["caption"] + entity) * self.config.captions
        lengths: Longs = captions + 4 * np.minimum(known, self.config.neighbours)
        return lengths

    def _facts(self, queries: Ints, epoch: int) -> tuple[Longs, Longs, Longs]:
        """Chosen facts: the example of each, its relation, and the neighbour."""
        graph = self.graph
        owner, rows = graph.neighbours.rows(queries[:, 0].astype(np.int64))
        said, neighbour = rows[:, 0], rows[:, 1]
        asked, answer = queries[owner, 1], queries[owner, 2]
        # In either direction, so that a symmetric fact's mirror does not give the answer away.
        same = (neighbour == answer) & (said % graph.num_relations == asked % graph.num_relations)
        owner, asked, said, neighbour = (
            column[~same] for column in (owner, asked, said, neighbour))
        # The choice must not depend on the answer, so only query and fact draw the lots.
        lot = mix(self.seed, epoch, queries[owner, 0], asked, said, neighbour)
        order = np.lexsort([lot, owner])
        counts = np.bincount(owner, minlength=len(queries))
        place = np.arange(len(owner)) - (np.cumsum(counts) - counts)[owner]
        limit = np.full(len(queries), self.config.neighbours)
        if epoch and self.config.vary_neighbours:
            lots = mix(self.seed, epoch, *queries.T)
            limit = (lots % np.uint64(self.config.neighbours + 1)).astype(np.int64)
        order = order[place < limit[owner]]
        return owner[order], said[order].astype(np.int64), neighbour[order].astype(np.int64)

    def _fits(
        self, owner: Longs, text: Longs, part_ends: npt.NDArray[np.bool_], count: int
    ) -> npt.NDArray[np.bool_]:
        """Which texts belong to a part that lies wholly within its example's token budget."""
        lengths = self.table.lengths(text)
        sizes = np.bincount(owner, lengths, minlength=count).astype(np.int64)
        end = np.cumsum(lengths) - (np.cumsum(sizes) - sizes)[owner]
        last = np.flatnonzero(part_ends)
        fits = end[last] < self.config.max_tokens
        return np.repeat(fits, np.diff(last, prepend=-1))

    def _end(self, owners: Longs, tokens: Ints, count: int, fill: int) -> Longs:
        """Lay out one example a row, each ended by EOS."""
        ends = np.searchsorted(owners, np.arange(count), side="right")
        return pad(np.insert(owners, ends, np.arange(count)), np.insert(tokens, ends, self.eos),
                   count, fill)


def refuse_unspeakable(graph: KnowledgeGraph, table: TokenTable, unknown: int) -> None:
    """Check that names and entities correspond one to one as tokens.

    Args:
        graph: Its N names are the first N texts of ``table``.
        table: The tokens.
        unknown: The token that stands for what the vocabulary lacks.

    Raises:
        InputError: A name has no tokens or unknown ones, or two names have the same.
    """
    names = graph.entity_names
    lengths = np.diff(table.offsets[: len(names) + 1])
    owner, place = expand_spans(table.offsets[: len(names)], lengths)
    bad = np.unique(np.concatenate([owner[table.tokens[place] == unknown],
                                    np.flatnonzero(lengths == 0)]))
    if len(bad):
        raise InputError(f"{len(bad)} names hold characters that the tokenizer lacks, such as "
                         f"{names[bad[0]]!r}; rename them, or train a tokenizer on them "
                         "(model.init: scratch).")
    width = int(lengths.max())
    rows = pad(owner, table.tokens[place], len(names), -1)[:, :width]
    _, first, group = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    twin = np.flatnonzero(first[group] != np.arange(len(names)))
    if len(twin):
        one, other = first[group[twin[0]]], twin[0]
        raise InputError(f"{len(twin)} names have the same tokens as another's, such as "
                         f"{names[one]!r} ({graph.entity_ids[one]}) and {names[other]!r} "
                         f"({graph.entity_ids[other]}); rename them.")


def mix(*parts: int | Ints) -> npt.NDArray[np.uint64]:
    """Hash columns of integers, elementwise (SplitMix64's finalizer, chained)."""
    state = np.zeros(1, np.uint64)
    with np.errstate(over="ignore"):
        for part in parts:
            state = (state ^ np.asarray(part).astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return state
