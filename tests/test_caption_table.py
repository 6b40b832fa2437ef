"""Captions of pairs in the token table: what the training loop reads."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from conftest import random_graph
from hypothesis import given
from hypothesis import strategies as st
from test_caption_build import paint
from test_caption_scopes import Viewer

from caption_cache.build import Task, build
from caption_cache.captions import read_captions, read_link_captions
from kgc_seq2seq.graph.folder import read_graph
from kgc_seq2seq.text.input_config import InputConfig
from kgc_seq2seq.text.pair_texts import PairTexts
from kgc_seq2seq.text.settings import CAPTION_MARK, FACT_MARK
from kgc_seq2seq.text.tokenizer import TokenizerConfig, graph_texts, train_tokenizer
from kgc_seq2seq.text.verbalizer import Verbalizer

ids = [f"e{i}" for i in range(6)]
pairs = st.dictionaries(st.tuples(st.sampled_from([*ids, "x"]), st.sampled_from(ids)),
                        st.sampled_from(["red", "blue", "green"]), max_size=12)


@given(pairs)
def test_every_pair_finds_its_text_and_no_other(captions: dict[tuple[str, str], str]) -> None:
    lookup, texts = PairTexts.build(captions, ids)
    assert len(set(texts)) == len(texts)
    heads, neighbours = (axis.ravel() for axis in np.indices((6, 6)))
    for head, neighbour, text in zip(
            heads, neighbours, lookup.find(heads, neighbours, -1), strict=True):
        expected = captions.get((ids[head], ids[neighbour]))
        assert (None if text < 0 else texts[text]) == expected


def test_model_reads_captions_by_entity_and_by_pair_without_the_store(tiny: Path) -> None:
    (tiny / "entities.tsv").write_text("id\tname\n" + "".join(
        f"e{i}\tEntity {i}\n" for i in range(9)))
    for i in range(4):
        paint(tiny / f"images/e{i}/a.png", i)
    build(tiny, Viewer(), show_progress=False)
    build(tiny, Viewer(), Task(scope="pair", keep_all=True), show_progress=False)
    graph = read_graph(tiny)
    own, both = read_captions(tiny).texts, read_link_captions(tiny, "pair").texts
    shutil.rmtree(tiny / "captions")  # from here on, only the token table is there
    said = {**own, **{f"{head} {neighbour}": text for (head, neighbour), text in both.items()}}
    tokenizer = train_tokenizer(graph_texts(graph, said), TokenizerConfig(pieces=80, words=50))
    verbalizer = Verbalizer(graph, own, tokenizer, InputConfig(
        neighbours=9, vary_neighbours=False, max_tokens=10**6,
        caption_scopes=("entity", "pair")), 0, both)
    queries = graph.queries(graph.train)
    texts = tokenizer.batch_decode(verbalizer.inputs(queries, epoch=1))
    captioned = plain = 0
    for (entity, _, answer), text in zip(queries.tolist(), texts, strict=True):
        start, *facts = text.replace("<pad>", "").removesuffix("</s>").split(FACT_MARK)
        assert start.partition(CAPTION_MARK)[2].strip() == own.get(f"e{entity}", "")
        for fact in facts:
            told, _, caption = fact.partition(CAPTION_MARK)
            neighbour = f"e{told.split()[-1]}"
            # That of the pair asked for could hint at the answer.
            assert caption.strip() == (
                "" if neighbour == f"e{answer}" else both.get((f"e{entity}", neighbour), ""))
            captioned += bool(caption)
            plain += not caption
    assert captioned
    assert plain
    silent = Verbalizer(graph, own, tokenizer, InputConfig(
        captions=False, caption_scopes=("entity", "pair")), 0, both)
    assert CAPTION_MARK not in "".join(tokenizer.batch_decode(silent.inputs(queries, epoch=1)))


def test_captions_of_pairs_change_nothing_where_there_are_none() -> None:
    graph = random_graph(3)
    tokenizer = train_tokenizer(graph_texts(graph, {}), TokenizerConfig(pieces=80, words=50))
    queries = graph.queries(graph.train)
    config = InputConfig(caption_scopes=("entity", "pair"))
    one, other = (Verbalizer(graph, {}, tokenizer, config, 0, captions)
                  for captions in (None, {("nobody", "e1"): "red"}))
    assert one.inputs(queries, 1).tolist() == other.inputs(queries, 1).tolist()
