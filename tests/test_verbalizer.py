"""The verbalizer's settings: against a plain twin, and that no input tells the fact asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from conftest import ROOT, random_graph
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from caption_cache.errors import InputError
from kgc_seq2seq.graph.folder import read_graph
from kgc_seq2seq.graph.importers import ImportConfig, import_dataset
from kgc_seq2seq.graph.knowledge_graph import KnowledgeGraph
from kgc_seq2seq.text.context import Context
from kgc_seq2seq.text.input_config import InputConfig
from kgc_seq2seq.text.settings import PRIORITY, SETTINGS
from kgc_seq2seq.text.token_table import TokenTable
from kgc_seq2seq.text.tokenizer import TokenizerConfig, graph_texts, train_tokenizer
from kgc_seq2seq.text.verbalizer import Verbalizer

MODES = ("all", "same_relation", "released_bug")
ORDERINGS = ("random", "relevant", "linking", "diverse")
Pairs = dict[tuple[str, str], str]
Fact = tuple[int, int, int]


def everything(setting: str, **options: object) -> InputConfig:
    """All that a setting has a place for."""
    sources = {section.source for section in SETTINGS[setting]}
    return InputConfig(setting=setting, **{
        "neighbours": 5, "descriptions": "description" in sources,
        "two_hop": 3 * ("two hops" in sources), "relation_examples": 3 * ("example" in sources),
        "caption_scopes": ("entity", "pair", "relation"), "max_tokens": 10**6, **options})


# --- A twin that writes strings with loops -------------------------------------------------------

def lot(*parts: int) -> int:
    state = 0
    for part in parts:
        state = ((state ^ part) + 0x9E3779B97F4A7C15) % 2**64
        state = ((state ^ state >> 30) * 0xBF58476D1CE4E5B9) % 2**64
        state = ((state ^ state >> 27) * 0x94D049BB133111EB) % 2**64
        state ^= state >> 31
    return state


class Twin:
    """What a model reads, written as in the documents, one fact after the other."""

    def __init__(self, graph: KnowledgeGraph, config: InputConfig, seed: int, own: dict[str, str],
                 pairs: Pairs, questions: Pairs) -> None:
        self.graph, self.config, self.seed = graph, config, seed
        self.own, self.pairs, self.questions = own, pairs, questions
        self.count = graph.num_relations
        self.facts = sorted({fact for h, r, t in graph.train.tolist()
                             for fact in ((h, self.fold(r), t), (t, self.fold(r + self.count), h))})
        self.held_out = {fact for h, r, t in [*graph.valid.tolist(), *graph.test.tolist()]
                         for fact in ((h, self.fold(r), t), (t, self.fold(r + self.count), h))}

    def fold(self, relation: int) -> int:
        names = self.graph.relation_names
        plain = relation % self.count
        return plain if names[plain] == names[plain + self.count] else relation

    def turned(self, relation: int) -> int:
        return (relation + self.count) % (2 * self.count)

    def states(self, said: int, asked: int) -> bool:
        """Whether ``x said y`` gives ``x asked y`` away: nine of ten pairs of many agree."""
        if said % self.count == asked % self.count:
            return True
        triples = {(h, r, t) for h, r, t in self.graph.train.tolist() if h != t}
        both = triples | {(t, r + self.count, h) for h, r, t in triples}
        linked = {(h, t) for h, r, t in both if r == said}
        agree = {(h, t) for h, r, t in both if r == asked} & linked
        return len(agree) >= 10 and len(agree) >= 0.8 * len(linked)

    def is_it(self, fact: Fact, asked: int) -> bool:
        """Whether it is a fact of ``asked``, perhaps as seen from its other end."""
        return fact[1] == asked or fact == (fact[2], self.fold(self.turned(asked)), fact[0])

    def asked(self, query: Fact, other: int) -> bool:
        return other == query[2] or (*query[:2], other) in self.held_out

    def relevance(self, one: int, other: int) -> float:
        with_one, with_other = ({h for h, r, _ in self.facts if r == relation}
                                for relation in (one, other))
        return len(with_one & with_other) / max(1, len(with_one | with_other))

    def confidence(self, asked: int, said: int) -> float:
        asked_of, said_of = ({(h, t) for h, r, t in self.facts if r == relation}
                             for relation in (asked, said))
        return len(asked_of & said_of) / len(said_of) if said != asked else 0

    def told(self, query: Fact, epoch: int) -> list[Fact]:
        entity, relation, answer = query
        facts = [fact for fact in self.facts if fact[0] == entity]
        if self.config.context_mode == "same_relation":
            facts = [fact for fact in facts if fact[1] == relation]
        if self.config.context_mode == "released_bug":
            facts = [fact for fact in facts
                     if fact[2] >= self.count and relation >= self.count / 2]
        drawn = lot(self.seed, epoch, entity, relation, answer % 2**64, 1)
        shown = epoch and drawn < self.config.revealed * 2**64
        facts = [fact for fact in facts if (shown and fact == query) or not (
            (self.is_it(fact, relation) if self.config.implying else
             self.states(fact[1], relation)) and self.asked(query, fact[2]))]
        lots = {fact: lot(self.seed, epoch, entity, relation, *fact[1:]) for fact in facts}
        facts.sort(key=lots.__getitem__)
        if self.config.ordering == "relevant":
            facts.sort(key=lambda fact: -self.relevance(relation, fact[1]))
        if self.config.ordering == "linking":
            facts.sort(key=lambda fact: -self.confidence(relation, fact[1]))
        if self.config.ordering == "diverse":
            turns = {fact: sum(lots[other] < lots[fact] for other in facts if other[1] == fact[1])
                     for fact in facts}
            facts.sort(key=turns.__getitem__)
        most = self.config.neighbours
        if epoch and self.config.vary_neighbours:
            most = lot(self.seed, epoch, entity, relation, answer % 2**64) % (most + 1)
        return facts[:most]

    def two_hops(self, query: Fact, told: list[Fact], epoch: int) -> list[Fact]:
        found: dict[Fact, int] = {}
        for _, _, via in told:
            rows = [fact for fact in self.facts if fact[0] == via]
            for turn in range(min(self.config.two_hop, len(rows))):
                drawn = lot(self.seed, epoch, 2, *query[:2], via, turn)
                found.setdefault(rows[drawn % len(rows)], drawn)
        return sorted((fact for fact in found if query[0] not in (fact[0], fact[2])),
                      key=found.__getitem__)[: self.config.two_hop]

    def examples(self, query: Fact, epoch: int, order: list[Fact]) -> list[Fact]:
        """``order`` is how the seed has shuffled train."""
        entity, relation, _ = query
        rows = [fact for fact in order if fact[1] == relation % self.count]
        if not rows:
            return []
        first = lot(self.seed, epoch, 1, entity, relation) % len(rows)
        rows = (rows + rows)[first : first + min(len(rows), self.config.relation_examples + 2)]
        facts = [(h, relation, t) if relation < self.count else (t, relation, h)
                 for h, _, t in rows]
        return [(h, r, t) for h, r, t in facts
                if entity not in (h, t) or not self.asked(query, t if h == entity else h)
                ][: self.config.relation_examples]

    def parts(self, query: Fact, epoch: int, order: list[Fact]) -> Iterator[tuple[str, str, int]]:
        """Source, text, and the number of the fact it hangs on."""
        names, relations, ids = (self.graph.entity_names, self.graph.relation_names,
                                 self.graph.entity_ids)
        e, r, _ = query
        config, key = self.config, ids[e]
        told = self.told(query, epoch)
        own = self.own.get(key)
        relation_ids = [*self.graph.relation_ids, *("^" + key for key in self.graph.relation_ids)]
        question = self.questions.get((key, relation_ids[r]))
        if epoch and sum(fact[:2] == (e, r) for fact in self.facts) < 2:
            question = None
        pairs = [self.pairs.get((key, ids[t]), "") for _, _, t in told]
        hops = self.two_hops(query, told, epoch) if config.two_hop else []
        examples = self.examples(query, epoch, order) if config.relation_examples else []
        description = self.graph.entity_descriptions[e] if config.descriptions else ""
        if config.setting == "kgt5":
            mark = 55 if r < self.count else 56
            yield "query", f"<extra_id_{mark}> {names[e]} | {relations[r % self.count]} |", 0
            return
        if config.setting == "compact":
            yield "query", f"{names[e]}<relation_{r}> {relations[r]}", 0
            if own:
                yield "caption", f"<extra_id_98> {own}", 0
            if question:
                yield "relation caption", f"<extra_id_98> {question}", 0
            if description:
                yield "description", f"<extra_id_96> {description}", 0
            for place, ((_, said, t), pair) in enumerate(zip(told, pairs, strict=True)):
                yield "fact", f"<extra_id_97> {relations[said]} {names[t]}", place
                if pair:
                    yield "pair caption", f"<extra_id_98> {pair}", place
            for h, said, t in hops:
                yield "two hops", f"<extra_id_95> {names[h]} {relations[said]} {names[t]}", 0
            for h, said, t in examples:
                yield "example", f"<extra_id_94> {names[h]} {relations[said]} {names[t]}", 0
            return
        multimodal = config.setting == "mmkg-t5"
        yield "query", f"query: {names[e]} | {relations[r]}\n", 0
        if multimodal and own:
            yield "caption", f"<extra_id_94> {own}", 0
        if multimodal and question:
            yield "relation caption", f"<extra_id_93> {question}", 0
        if description:
            yield "description", f"<extra_id_96> {description}", 0
        if config.neighbours:
            yield "fact", "entity context:" if config.relation_examples else "context:", -1
        mark = 95 if multimodal else 98
        for place, ((_, said, t), pair) in enumerate(zip(told, pairs, strict=True)):
            yield "fact", f"<extra_id_{mark}> {relations[said]} | {names[t]}", place
            if multimodal and pair:
                yield "pair caption", f"<extra_id_98> {pair}", place
        for h, said, t in hops:
            yield "two hops", f"<extra_id_97> {names[h]} | {relations[said]} | {names[t]}", 0
        if multimodal:
            if config.relation_examples:
                yield "example", "\nrelation examples:", -1
            for place, (h, said, t) in enumerate(examples):
                mark = "<extra_id_95> " if place else ""
                yield "example", f"{mark}{names[h]} | {relations[said]} | {names[t]}", 0
            yield "instruction", ("\n" + config.instruction.format(
                entity=names[e], relation=relations[r]) + "\ntarget:"), 0

    def write(self, query: Fact, epoch: int, order: list[Fact],
              tokenizer: PreTrainedTokenizerBase) -> list[int]:
        parts = [(source, tokenizer(text, add_special_tokens=False).input_ids, place)
                 for source, text, place in self.parts(query, epoch, order)]
        most = self.config.max_tokens - 1
        if self.config.truncate == "right":
            whole = tokenizer(" ".join(
                text for _, text, _ in self.parts(query, epoch, order))).input_ids
            return [*whole[:-1][:most], whole[-1]]
        kept, facts = set(), set()
        for source in PRIORITY:
            full = False
            for number, (of, tokens, place) in enumerate(parts):
                if of != source or (source == "pair caption" and place not in facts):
                    continue
                full |= len(tokens) > most and source != "query"
                if not full:
                    kept.add(number)
                    most -= len(tokens)
                    facts |= {place} if source == "fact" else set()
        return [token for number, (_, tokens, _) in enumerate(parts) if number in kept
                for token in tokens] + [tokenizer.eos_token_id]


def with_rules(seed: int) -> KnowledgeGraph:
    """A random graph; in two of three, relation 1 repeats relation 0, as it is or turned."""
    graph = random_graph(seed, facts=60)
    graph = replace(graph, entity_descriptions=tuple(
        f"described {i}" if i % 3 else "" for i in range(graph.num_entities)))
    if seed % 3 == 0:
        return graph
    copied = graph.train[graph.train[:, 1] == 0]
    if seed % 3 == 2:
        copied = copied[:, ::-1]
    copied = copied.copy()
    copied[:, 1] = 1
    train = np.concatenate([graph.train[graph.train[:, 1] != 1], copied])
    return replace(graph, train=train.astype(np.int32))


@settings(max_examples=60)
@given(st.data())
def test_an_input_is_what_its_plain_twin_writes(data: st.DataObject) -> None:
    seed = data.draw(st.integers(0, 10**6), "seed")
    random = np.random.default_rng(seed)
    setting = data.draw(st.sampled_from(sorted(SETTINGS)))
    graph = with_rules(seed)
    config = everything(
        setting, context_mode=data.draw(st.sampled_from(MODES)),
        ordering=data.draw(st.sampled_from(ORDERINGS)), implying=data.draw(st.booleans()),
        revealed=data.draw(st.sampled_from([0.0, 0.5])),
        neighbours=data.draw(st.integers(0, 6)), truncate=data.draw(
            st.sampled_from(["priority", "right"])),
        max_tokens=data.draw(st.sampled_from([32, 60, 10**6])),
        vary_neighbours=data.draw(st.booleans()))
    ids = graph.entity_ids
    own = {key: f"looks {random.integers(9)}" for key in ids if random.random() < 0.5}
    pairs = {(ids[one], ids[other]): f"both {random.integers(99)}"
             for one, other in random.integers(0, len(ids), (60, 2))}
    questions = {(ids[one], f"{'^' * random.integers(2)}r{relation}"): f"asked {one}"
                 for one, relation in random.integers(0, (len(ids), 2), (20, 2))}
    texts = graph_texts(graph, own, [*pairs.values(), *questions.values()], config.literals())
    tokenizer = train_tokenizer(texts, TokenizerConfig(pieces=90, words=60))
    verbalizer = Verbalizer(graph, own, tokenizer, config, seed, pairs, questions)
    twin = Twin(graph, config, seed, own, pairs, questions)
    rows = sorted({tuple(row) for row in graph.train.tolist()})
    order = [rows[i] for i in np.random.default_rng([seed, 1]).permutation(len(rows))]
    epoch = data.draw(st.integers(0, 2))
    queries = np.concatenate([graph.training_queries, graph.fold(graph.queries(graph.test))])
    queries[random.random(len(queries)) < 0.3, 2] = -1
    queries = random.permutation(queries)[:20].astype(np.int32)
    for query, row in zip(queries, verbalizer.inputs(queries, epoch), strict=True):
        expected = twin.write(tuple(query.tolist()), epoch, order, tokenizer)
        assert row[row != verbalizer.pad].tolist() == expected, tokenizer.decode(row)
        parts = verbalizer.parts(query, epoch)
        assert [token for part in parts if not part.left_out for token in part.tokens] == (
            expected[:-1])
        assert config.max_tokens < 10**6 or not any(part.left_out for part in parts)


# --- No input tells the fact that is asked for ---------------------------------------------------

class Detector:
    """Finds the asked fact in token ids, in whatever words of a setting it could be told."""

    def __init__(self, graph: KnowledgeGraph, tokenizer: PreTrainedTokenizerBase, setting: str,
                 told_by: dict[int, list[int]]) -> None:
        self.graph = graph
        self.told_by = told_by
        bar = [] if setting == "compact" else ["|"]
        mark = {"compact": 97, "mmkg-t5": 95}.get(setting, 98)
        texts = [*graph.entity_names, *graph.relation_names, f"<extra_id_{mark}>", *bar]
        self.table = TokenTable.build(tokenizer, texts)
        self.first = graph.num_entities
        self.mark, self.bar = len(texts) - 1 - len(bar), [len(texts) - 1] * len(bar)
        # A name ends where something else begins: "Guinea" is not told by "Guinea-Bissau".
        ends = [f"<extra_id_{i}>" for i in range(100)] + ["</s>", "<pad>"]
        headings = tokenizer(["relation examples:", "Write", "target:"],
                             add_special_tokens=False).input_ids
        marks = tokenizer.convert_tokens_to_ids(ends)
        self.ends = np.array([*marks, *(tokens[0] for tokens in headings)])
        # And another name's end is no name.
        self.starts = np.array([*marks, *(tokens[-1] for tokens in headings)])

    def facts(self, queries: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Rows, and the texts that may not stand there."""
        everyone = np.arange(len(queries))
        count = self.graph.num_relations
        relation = queries[:, 1].astype(np.int64)
        kin = [(everyone, relation), (everyone, (relation + count) % (2 * count))]
        for asked, tellers in self.told_by.items():
            rows = np.flatnonzero(relation == asked)
            kin += [(rows, np.full(len(rows), said)) for said in tellers]
        for rows, said in kin:
            entity, answer = queries[rows, 0].astype(np.int64), queries[rows, 2].astype(np.int64)
            name, bar = self.first + said, [np.full(len(rows), place) for place in self.bar]
            if not len(rows):
                continue
            yield rows, np.stack([np.full(len(rows), self.mark), name, *bar, answer], 1)
            yield rows, np.stack([entity, *bar, name, *bar, answer], 1)
            yield rows, np.stack([answer, *bar, name, *bar, entity], 1)

    def tells(self, inputs: np.ndarray, queries: np.ndarray) -> np.ndarray:
        """Which rows tell the fact asked for."""
        found = np.zeros(len(queries), bool)
        for rows, texts in self.facts(queries):
            starts = None if texts[0, 0] == self.mark else self.starts
            found[rows] |= contains(inputs[rows], self.table, texts, self.ends, starts)
        return found


@given(st.lists(st.sampled_from(["", "a", "thing b", "c c c"]), max_size=12))
def test_texts_are_tokenized_in_parts_as_at_once(texts: list[str]) -> None:
    tokenizer = train_tokenizer({"a thing b c": 9}, TokenizerConfig(pieces=20, words=0))
    whole = TokenTable.build(tokenizer, texts)
    with patch("kgc_seq2seq.text.token_table._AT_ONCE", 3):
        parts = TokenTable.build(tokenizer, texts)
    assert (parts.tokens.dtype, parts.offsets.dtype) == (np.int32, np.int64)
    assert parts.tokens.tolist() == whole.tokens.tolist()
    assert parts.offsets.tolist() == whole.offsets.tolist()
    assert len(whole.offsets) == len(texts) + 1


def contains(inputs: np.ndarray, table: TokenTable, texts: np.ndarray, ends: np.ndarray,
             starts: np.ndarray | None = None) -> np.ndarray:
    """Whether each row of token ids holds the texts of its row between a start and an end."""
    lengths = table.lengths[texts].sum(axis=1)
    tokens = table.spell(texts.ravel(), np.cumsum(table.lengths[texts.ravel()]))
    column = np.arange(len(tokens)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    needle = np.full((len(texts), int(lengths.max())), -1)
    needle[np.repeat(np.arange(len(texts)), lengths), column] = tokens
    # Where the first token stands, compare the others.
    row, start = np.nonzero(inputs == needle[:, :1])
    if starts is not None:
        begun = (start > 0) & np.isin(inputs[row, start - 1], starts)
        row, start = row[begun], start[begun]
    for place in range(1, needle.shape[1]):
        here = np.minimum(start + place, inputs.shape[1] - 1)
        fits = (inputs[row, here] == needle[row, place]) | (needle[row, place] < 0)
        row, start = row[fits], start[fits]
    ended = np.isin(inputs[row, np.minimum(start + lengths[row], inputs.shape[1] - 1)], ends)
    return np.bincount(row[ended], minlength=len(inputs)) > 0


def pair_texts(graph: KnowledgeGraph) -> Pairs:
    """A caption of its own for every linked pair of train."""
    linked = np.unique(np.sort(graph.train[:, [0, 2]], axis=1), axis=0)
    ids = graph.entity_ids
    return {pair: f"view {place:05}" for place, (one, other) in enumerate(linked.tolist())
            for pair in ((ids[one], ids[other]), (ids[other], ids[one]))}


def check(graph: KnowledgeGraph, configs: list[InputConfig], rules: dict[int, list[int]]) -> None:
    """Verbalize all queries of all splits, and look for what was asked."""
    pairs = pair_texts(graph)
    literals = [text for setting in SETTINGS for text in everything(setting).literals()]
    tokenizer = train_tokenizer(graph_texts(graph, {}, [*pairs.values()], literals),
                                TokenizerConfig())
    view = TokenTable.build(tokenizer, ["view 00000"]).tokens[0]
    train = graph.training_queries
    # In evaluation no answer is given.
    others = graph.fold(graph.queries(np.concatenate([graph.valid, graph.test])))
    hidden = others.copy()
    hidden[:, 2] = -1
    for config in configs:
        verbalizer = Verbalizer(graph, {}, tokenizer, config, 0, pairs)
        detector = Detector(graph, tokenizer, config.setting, rules)
        told = 0
        for given_, true, epoch in ((train, train, 1), (hidden, others, 0)):
            # Of like length together: the width of a table is that of its longest row.
            order = np.argsort(verbalizer.examples(given_, epoch).lengths[:, 0])
            for rows in np.array_split(order, max(1, len(order) // 2000)):
                inputs = verbalizer.inputs(given_[rows], epoch)
                queries = true[rows]
                bad = detector.tells(inputs, queries)
                assert not bad.any(), tokenizer.decode(inputs[bad.argmax()])
                told += int((inputs == view).sum())
        # The search can find something: what is not asked for is told.
        assert told or not config.reads("pair") or config.context_mode == "released_bug"


@pytest.mark.parametrize("setting", ["compact", "mmkg-t5"])
def test_what_valid_and_test_hold_changes_no_input_that_may_tell_what_implies_it(
    setting: str
) -> None:
    graph = with_rules(4)
    pairs = pair_texts(graph)
    config = everything(setting, implying=True, neighbours=40, relation_examples=0,
                        caption_scopes=("pair",), descriptions=False)
    tokenizer = train_tokenizer(graph_texts(graph, {}, [*pairs.values()], config.literals()),
                                TokenizerConfig())
    known = {tuple(fact) for fact in graph.training_queries.tolist()}
    queries = np.array([(e, r, -1) for e in range(graph.num_entities)
                        for r in range(2 * graph.num_relations)], np.int32)
    queries = queries[np.unique(graph.fold(queries.copy()), axis=0, return_index=True)[1]]

    def read(answers: list[list[int]]) -> list[list[int]]:
        other = replace(graph, valid=graph.valid[:0], test=np.array(answers, np.int32))
        rows = Verbalizer(other, {}, tokenizer, config, 0, pairs).inputs(queries, 0)
        return [row[row > 0].tolist() for row in rows]

    unknown = [[h, r, t] for h in range(graph.num_entities) for t in range(graph.num_entities)
               for r in range(graph.num_relations) if h != t and (h, r, t) not in known]
    assert read(unknown[::2]) == read(unknown[1::2])


def combinations() -> list[InputConfig]:
    return [everything("kgt5"), *(
        everything(setting, context_mode=mode, ordering=ordering, vary_neighbours=False,
                   caption_scopes=("pair",), neighbours=40, descriptions=False)
        for setting, mode, ordering in product(
            ("compact", "kgt5-context", "mmkg-t5"), MODES, ORDERINGS))]


def test_no_input_of_the_nations_tells_what_is_asked(nations: Path) -> None:
    """Every query of every split, in every setting, mode and ordering."""
    check(read_graph(nations), combinations(), {})


def test_no_input_of_mkg_w_tells_what_is_asked(tmp_path: Path) -> None:
    """As above, on real data that leaks: every query, in each setting, mode and ordering once."""
    source = Path(os.environ.get("KGC_SHARED", ROOT.parent / "shared")) / "data" / "MKG-W"
    if not source.is_dir():
        pytest.skip(f"needs {source}; KGC_SHARED names the folder of shared data")
    import_dataset(ImportConfig("momok", source, tmp_path / "mkg-w"))
    graph = read_graph(tmp_path / "mkg-w")
    options = {"vary_neighbours": False, "caption_scopes": ("pair",), "descriptions": False,
               "neighbours": 8, "relation_examples": 2, "two_hop": 2}
    check(graph, [
        everything("compact", ordering="diverse", **options),
        everything("mmkg-t5", context_mode="same_relation", ordering="relevant", **options),
        everything("kgt5-context", context_mode="released_bug", ordering="linking",
                   **{**options, "relation_examples": 0}),
        everything("kgt5"),
    ], {})


@pytest.mark.parametrize("turned", [False, True])
def test_what_a_rule_implies_is_not_told(turned: bool) -> None:
    """Relation 1 repeats relation 0, as it is or turned: who knows one knows the other."""
    graph = with_rules(4 if not turned else 5)
    told_by = {0: [1, 3 + 1] , 1: [0, 3 + 0], 3: [3 + 1, 1], 4: [3 + 0, 0]}
    check(graph, combinations(), {
        asked: [said for said in others if (said // 3 == asked // 3) != turned]
        for asked, others in told_by.items()})


def test_what_a_symmetric_relation_implies_is_not_told() -> None:
    """Who knows the spouse knows whose husband one is, and the other way round."""
    graph = random_graph(0, entities=26, relations=2)  # its last relation is symmetric
    husband = np.arange(24).reshape(-1, 2)
    spouse = np.where(husband[:, :1] % 4, husband, husband[:, ::-1])  # stored either way
    train = np.concatenate([np.insert(pairs, 1, relation, axis=1)
                            for relation, pairs in enumerate((husband, spouse))])
    friends = [[24, 0, 25], [1, 0, 24]]  # something to tell
    graph = replace(graph, train=np.concatenate([train, friends]).astype(np.int32),
                    valid=graph.valid[:0], test=graph.test[:0])
    context = Context(graph, InputConfig(neighbours=99, vary_neighbours=False), 0)
    queries = graph.training_queries
    told = context.facts(queries, 1)
    assert not (told.tail == queries[told.owner, 2]).any()
    assert len(told.owner)
    implying = Context(graph, InputConfig(neighbours=99, vary_neighbours=False, implying=True), 0)
    told = implying.facts(queries, 1)
    assert (told.tail == queries[told.owner, 2]).sum() == 4 * len(husband)


@pytest.mark.parametrize("turned", [False, True])
def test_what_a_rule_implies_is_told_if_so_wanted(turned: bool) -> None:
    """Of a train fact, the one that a rule makes of it; of neither is the fact itself told."""
    graph = with_rules(4 if not turned else 5)
    context = Context(graph, InputConfig(implying=True, neighbours=99, vary_neighbours=False), 0)
    train = graph.training_queries
    queries = train[(train[:, 1] == 0) & (train[:, 0] != train[:, 2])]
    told = context.facts(queries, 1)
    names_it = told.tail == queries[told.owner, 2]
    other = 1 + turned * graph.num_relations
    stated = np.bincount(told.owner[names_it & (told.relation == other)], minlength=len(queries))
    assert len(queries) >= 10
    assert (stated == 1).all()
    assert not (names_it & (told.relation == 0)).any()


def test_of_so_many_train_facts_the_asked_one_is_revealed_and_of_valid_and_test_none() -> None:
    graph = random_graph(1, entities=30, relations=4, facts=300)
    context = Context(graph, InputConfig(revealed=0.3, neighbours=99, vary_neighbours=False), 0)

    def seen(queries: np.ndarray, epoch: int) -> np.ndarray:
        told = context.facts(queries, epoch)
        is_it = (told.relation == queries[told.owner, 1]) & (told.tail == queries[told.owner, 2])
        return np.bincount(told.owner[is_it], minlength=len(queries))

    shares = [seen(graph.training_queries, epoch).mean() for epoch in (1, 2)]
    assert all(0.25 < share < 0.35 for share in shares)
    assert shares[0] != shares[1]  # others in another epoch
    assert not seen(graph.training_queries, 0).any()
    held_out = graph.fold(graph.queries(np.concatenate([graph.valid, graph.test])))
    assert not seen(held_out.astype(np.int32), 1).any()


@pytest.mark.parametrize("implying", [False, True])
def test_the_same_relation_the_other_way_round_is_another_fact(implying: bool) -> None:
    graph = random_graph(1)
    graph = replace(graph, train=np.array([[0, 0, 1], [1, 0, 0], [2, 0, 2]], np.int32))
    context = Context(graph, InputConfig(implying=implying, vary_neighbours=False), 0)
    back = graph.num_relations
    told = context.facts(np.array([[0, 0, 1], [0, back, 1], [2, 0, 2], [2, back, 2]], np.int32), 1)
    assert list(zip(told.owner, told.relation, told.tail, strict=True)) == (
        [(0, back, 1), (1, 0, 1)] if implying else [])


def test_the_released_fault_leaves_what_the_documents_say() -> None:
    """Tail queries of the first half of the relations read no fact, others nearly all."""
    graph = random_graph(1, entities=30, relations=4, facts=300)
    context = Context(graph, InputConfig(context_mode="released_bug", neighbours=99), 0)
    whole = Context(graph, InputConfig(neighbours=99), 0)
    queries = graph.training_queries
    told, all_ = (np.bincount(one.facts(queries, 0).owner, minlength=len(queries))
                  for one in (context, whole))
    early = queries[:, 1] < 2
    assert not told[early].any()
    kept = told[~early].sum() / all_[~early].sum()
    assert 0.7 < kept < 1  # 4 of 30 entities have a number below that of the relations


def test_settings_refuse_what_they_have_no_place_for() -> None:
    for options, sentence in [
        ({"setting": "kgt5", "descriptions": True}, r"input\.descriptions has no place in .* kgt5"),
        ({"setting": "kgt5-context", "relation_examples": 2}, r"input\.relation_examples has no"),
        ({"caption_scopes": ()}, r"give at least one"),
        ({"caption_scopes": ("pair", "summary")}, r"not both of a kind"),
        ({"caption_scopes": ("entity", "profile")}, r"not both of a kind"),
        ({"instruction": "write {answer}"}, r"has the slot \{answer\}"),
        ({"instruction": "write {entity"}, r"input\.instruction: .*the slots are"),
        ({"two_hop": -1}, r"input\.two_hop is -1"),
        ({"revealed": 1.0}, r"input\.revealed is 1\.0; give a number from 0 to below 1"),
    ]:
        with pytest.raises(InputError, match=sentence):
            InputConfig(**options)
