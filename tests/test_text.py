"""What the model reads and writes: names one to one, and never the fact that is asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
from conftest import random_graph
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from caption_cache.captions import read_captions
from caption_cache.errors import InputError
from kgc_seq2seq.graph.folder import read_graph
from kgc_seq2seq.graph.knowledge_graph import SPLITS, KnowledgeGraph
from kgc_seq2seq.text.catalogue import token_keys
from kgc_seq2seq.text.input_config import InputConfig
from kgc_seq2seq.text.settings import FACT_MARK
from kgc_seq2seq.text.tokenizer import (
    TokenizerConfig,
    add_relation_marks,
    graph_texts,
    train_tokenizer,
)
from kgc_seq2seq.text.verbalizer import Verbalizer

SMALL = TokenizerConfig(pieces=80, words=50)


def make(graph: KnowledgeGraph, texts: dict[str, str] | None = None, seed: int = 0,
         **config: int | bool) -> tuple[Verbalizer, PreTrainedTokenizerBase]:
    texts = texts or {}
    tokenizer = train_tokenizer(graph_texts(graph, texts), SMALL)
    return Verbalizer(graph, texts, tokenizer, InputConfig(**config), seed), tokenizer


@pytest.fixture(scope="module")
def nations_verbalizer(nations: Path) -> tuple[Verbalizer, PreTrainedTokenizerBase]:
    graph = read_graph(nations)
    captions = read_captions(nations).texts
    tokenizer = train_tokenizer(graph_texts(graph, captions), TokenizerConfig())
    return Verbalizer(graph, captions, tokenizer, InputConfig(
        neighbours=1000, vary_neighbours=False, max_tokens=10**6), seed=0), tokenizer


def test_frequent_words_are_one_token_and_all_others_are_spelt() -> None:
    tokenizer = train_tokenizer({"alpha beta": 9, "alpha gamma, delta": 5, "gamma": 1},
                                TokenizerConfig(pieces=40, words=3))
    assert tokenizer.tokenize("beta alpha") == ["▁beta", "▁alpha"]
    assert tokenizer.tokenize("gamma,") == ["▁gamma", ","]
    assert len(tokenizer.tokenize("delta")) > 1
    assert tokenizer.unk_token_id not in tokenizer("lamed gate").input_ids


def test_tokenizer_survives_the_disk_with_its_marks(tmp_path: Path) -> None:
    tokenizer = train_tokenizer({"alpha beta": 9}, SMALL)
    marks = add_relation_marks(tokenizer, 3)
    text = f"beta {marks[2]} alpha <extra_id_5>"
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert add_relation_marks(loaded, 3) == marks
    assert len(loaded) == len(tokenizer)
    assert loaded(text).input_ids == tokenizer(text).input_ids
    assert all(len(loaded(mark, add_special_tokens=False).input_ids) == 1 for mark in marks)


def test_letters_that_a_vocabulary_lacks_tell_names_apart() -> None:
    tokenizer = train_tokenizer({"alpha beta": 9}, SMALL)
    names = ["alpeć", "alpeč", "ćalpe", "山", "川", "alpe 山", "alpe"]
    keys, bad = token_keys(tokenizer, names)
    assert not bad and pc.count_distinct(keys).as_py() == len(names)
    size = len(tokenizer)
    assert size == len(train_tokenizer({"alpha beta": 9}, SMALL)) + len("ćč山川")
    assert token_keys(tokenizer, names)[0].equals(keys) and len(tokenizer) == size


def test_too_few_pieces_are_refused() -> None:
    with pytest.raises(InputError, match=r"tokenizer\.pieces 5 .*larger"):
        train_tokenizer({"many different characters": 1}, TokenizerConfig(pieces=5))


def test_an_input_reads_entity_relation_caption_facts(tiny: Path) -> None:
    graph = read_graph(tiny)
    verbalizer, tokenizer = make(graph, {"e0": "round, red"}, neighbours=9)
    rows = verbalizer.inputs(np.array([[0, 1, -1], [3, 3, -1]], np.int32), epoch=0)
    first, second = (tokenizer.decode(row[row != verbalizer.pad]) for row in rows)
    assert first.startswith(
        "thing apple<relation_1> colour<extra_id_98> round, red<extra_id_97> ")
    facts = first.removesuffix("</s>").split(FACT_MARK)[1:]
    assert sorted(fact.strip() for fact in facts) == [
        "beside thing pear", "colour thing red", "kind thing fruit"]
    assert second.startswith("thing fruit<relation_3> kind of<extra_id_97> ")
    targets = verbalizer.targets(np.array([3, 1], np.int32))
    assert [tokenizer.decode(row[row >= 0]) for row in targets] == [
        "thing fruit</s>", "thing pear</s>"]


def test_names_are_the_targets(tiny: Path) -> None:
    graph = read_graph(tiny)
    verbalizer, _ = make(graph)
    tokens, offsets = verbalizer.names()
    targets = verbalizer.targets(np.arange(graph.num_entities, dtype=np.int32))
    for entity, row in enumerate(targets):
        assert tokens[offsets[entity] : offsets[entity + 1]].tolist() == row[row >= 0].tolist()


def stated_facts(text: str) -> set[str]:
    return {fact.removesuffix("</s>").strip() for fact in text.split(FACT_MARK)[1:]}


@pytest.mark.parametrize("split", SPLITS)
def test_the_asked_fact_is_never_in_the_input(
    nations_verbalizer: tuple[Verbalizer, PreTrainedTokenizerBase], split: str
) -> None:
    """With every fact about every entity read, over all queries of the nations graph."""
    verbalizer, tokenizer = nations_verbalizer
    graph = verbalizer.graph
    for query in np.array_split(graph.queries(graph.split(split)), 50):
        texts = tokenizer.batch_decode(verbalizer.inputs(query, epoch=1))
        for (entity, relation, answer), text in zip(query.tolist(), texts, strict=True):
            name = graph.entity_names[answer]
            plain = relation % graph.num_relations
            told = {f"{graph.relation_names[r]} {name}"
                    for r in (plain, plain + graph.num_relations)}
            facts = stated_facts(text.replace("<pad>", ""))
            assert not told & facts, (graph.entity_names[entity], text)
            # All else that train says of the entity is there.
            rows = graph.neighbours[entity].tolist()
            assert facts == {f"{graph.relation_names[r]} {graph.entity_names[n]}"
                             for r, n in rows if n != answer or r % graph.num_relations != plain}


@settings(max_examples=50)
@given(st.integers(0, 10**6))
def test_facts_come_from_train_and_do_not_depend_on_the_answer(seed: int) -> None:
    graph = random_graph(seed)
    verbalizer, tokenizer = make(graph, seed=seed, neighbours=3)
    queries = graph.queries(graph.test)
    hidden = queries.copy()
    hidden[:, 2] = -1
    trained = {tuple(row) for row in graph.training_queries.tolist()}
    texts = tokenizer.batch_decode(verbalizer.inputs(hidden, epoch=0))
    said = {f"{graph.entity_names[e]}: {graph.relation_names[r]} {graph.entity_names[a]}"
            for e, r, a in trained}
    for (entity, _, _), text in zip(queries.tolist(), texts, strict=True):
        facts = stated_facts(text.replace("<pad>", ""))
        assert len(facts) <= 3
        assert all(f"{graph.entity_names[entity]}: {fact}" in said for fact in facts)
    # Hiding the answer of a fact that train does not hold, nor its mirror, changes no choice.
    mirror = queries.copy()
    mirror[:, 1] = (mirror[:, 1] + graph.num_relations) % (2 * graph.num_relations)
    new = [i for i, (row, turned) in enumerate(zip(
        graph.fold(queries).tolist(), graph.fold(mirror).tolist(), strict=True))
        if tuple(row) not in trained and tuple(turned) not in trained]
    with_answer = tokenizer.batch_decode(verbalizer.inputs(queries, epoch=0))
    assert [stated_facts(with_answer[i].replace("<pad>", "")) for i in new] == [
        stated_facts(texts[i].replace("<pad>", "")) for i in new]


def test_evaluation_reads_the_same_facts_every_time_and_training_varies(tiny: Path) -> None:
    graph = read_graph(tiny)
    verbalizer, _ = make(graph, neighbours=2)
    query = np.array([[0, 1, -1]], np.int32)
    assert np.array_equal(verbalizer.inputs(query, 0), verbalizer.inputs(query, 0))
    seen = {verbalizer.inputs(query, epoch).tobytes() for epoch in range(1, 30)}
    assert len(seen) > 3
    # The choice of one query is the same alone and among others.
    both = verbalizer.inputs(np.array([[3, 3, -1], [0, 1, -1]], np.int32), 5)[1]
    alone = verbalizer.inputs(query, 5)[0]
    assert both[both != 0].tolist() == alone[alone != 0].tolist()


def test_a_long_input_loses_whole_facts_then_the_caption_but_never_the_query(tiny: Path) -> None:
    graph = read_graph(tiny)
    caption = {"e0": "red " * 12}
    verbalizer, tokenizer = make(graph, caption, neighbours=9, max_tokens=32)
    rows = verbalizer.inputs(np.array([[0, 1, -1]], np.int32), 0)
    text = tokenizer.decode(rows[0])
    assert rows.shape[1] <= 32
    assert text.startswith("thing apple<relation_1> colour<extra_id_98> red")
    assert text.endswith("</s>")
    assert all(fact in {"beside thing pear", "colour thing red", "kind thing fruit"}
               for fact in stated_facts(text))
    verbalizer, tokenizer = make(graph, {"e0": "red " * 60}, neighbours=9, max_tokens=32)
    rows = verbalizer.inputs(np.array([[0, 1, -1]], np.int32), 0)
    assert tokenizer.decode(rows[0]).startswith("thing apple<relation_1> colour")
    assert rows.shape[1] <= 32


def test_without_captions_none_is_read(tiny: Path) -> None:
    verbalizer, tokenizer = make(read_graph(tiny), {"e0": "round, red"}, captions=False)
    rows = verbalizer.inputs(np.array([[0, 1, -1]], np.int32), 0)
    assert "round" not in tokenizer.decode(rows[0])


def test_names_that_are_equal_as_tokens_are_refused(tiny: Path) -> None:
    (tiny / "entities.tsv").write_text(
        (tiny / "entities.tsv").read_text() + "e9\tthing  pear\n")  # two spaces
    graph = read_graph(tiny)
    both = r"same tokens .*'thing pear' \(e1\).*'thing  pear' \(e9\)"
    with pytest.raises(InputError, match=both):
        make(graph)


def test_names_with_unknown_characters_are_refused(tiny: Path) -> None:
    graph = read_graph(tiny)
    tokenizer = train_tokenizer({"thing apple": 1}, TokenizerConfig(pieces=40))
    with pytest.raises(InputError, match=r"names hold characters .*'thing [a-z]+'"):
        Verbalizer(graph, {}, tokenizer, InputConfig(), 0)


def test_examples_made_at_once_are_those_made_one_by_one(
    nations: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kgc_seq2seq.text.verbalizer._AT_ONCE", 1000)
    graph = read_graph(nations)
    texts = read_captions(nations).texts
    tokenizer = train_tokenizer(graph_texts(graph, texts), TokenizerConfig())
    queries = graph.training_queries
    for truncate in ("priority", "right"):
        verbalizer = Verbalizer(graph, texts, tokenizer, InputConfig(
            max_tokens=40, truncate=truncate), seed=0)
        for epoch in (0, 3):
            examples = verbalizer.examples(queries, epoch)
            for rows in np.random.default_rng(epoch).permutation(len(queries))[:96].reshape(3, 32):
                chosen = queries[rows]
                batch = examples.batch(rows, 0)
                inputs, targets = verbalizer.inputs(chosen, epoch), verbalizer.targets(chosen[:, 2])
                assert np.array_equal(batch["input_ids"], inputs)
                assert np.array_equal(batch["attention_mask"], inputs != verbalizer.pad)
                assert np.array_equal(batch["labels"], targets)
                read, written = (inputs != verbalizer.pad).sum(1), (targets >= 0).sum(1)
                assert read.max() <= 40
                assert np.array_equal(examples.lengths[rows], np.stack([read, written], axis=1))
                one = verbalizer.inputs(chosen[:1], epoch)[0]
                assert np.array_equal(one, inputs[0, : len(one)])
