"""Reading a data-set folder, and the look-ups of the graph against plain dicts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pytest
from conftest import TINY, random_graph
from hypothesis import given
from hypothesis import strategies as st

from caption_cache.errors import InputError
from kgc_seq2seq import cli
from kgc_seq2seq.graph.csr import Csr
from kgc_seq2seq.graph.folder import prepare_graph, read_graph, write_table, write_triples
from kgc_seq2seq.graph.knowledge_graph import SPLITS
from kgc_seq2seq.graph.prepared import Texts
from kgc_seq2seq.graph.splits import carve


def test_a_folder_is_read_as_it_stands(tiny: Path) -> None:
    graph = read_graph(tiny)
    assert graph.name == "tiny"
    assert graph.num_entities == 9
    assert graph.relation_names == ("kind", "colour", "beside", "kind of", "colour of", "beside")
    assert graph.symmetric.tolist() == [False, False, True]
    assert graph.valid.tolist() == [[2, 0, 3]]
    assert graph.train.dtype == np.int32
    assert graph.train[0].tolist() == [0, 0, 3]


def test_an_inverse_without_a_name_gets_one(edited: Callable[[str, str], Path]) -> None:
    folder = edited("relations.tsv", "id\tname\nkind\tkind\ncolour\tcolour\nbeside\tbeside\n")
    assert read_graph(folder).relation_names[3] == "inverse of kind"


@pytest.mark.parametrize(("file", "change", "words"), [
    ("entities.tsv", None, ["entities.tsv is missing"]),
    ("test.tsv", None, ["test.tsv is missing"]),
    ("valid.tsv", lambda t: "head\trelation\ttail\n", ["valid.tsv", "no triple"]),
    ("valid.tsv", lambda t: "", ["valid.tsv", "empty"]),
    ("train.tsv", lambda t: t.replace("e5\tkind", "e99\tkind"),
     ["train.tsv, line 5", "'e99'", "entities.tsv"]),
    ("train.tsv", lambda t: t.replace("e5\tkind", "e5\tkindd"),
     ["train.tsv, line 5", "'kindd'", "relations.tsv"]),
    ("train.tsv", lambda t: t.replace("e1\tkind\te3", "e1\tkind"),
     ["train.tsv, line 3", "2 cells"]),
    ("train.tsv", lambda t: t.replace("head\t", "Head\t"), ["train.tsv, line 1", "'head'"]),
    ("entities.tsv", lambda t: t + "e3\tanother\n", ["entities.tsv, line 11", "'e3'", "line 5"]),
    ("entities.tsv", lambda t: t + "e9\tthing pear\n",
     ["entities.tsv, line 11", "name 'thing pear'", "line 3"]),
    ("entities.tsv", lambda t: t + "e9\t\n", ["entities.tsv, line 11", "name is empty"]),
    ("relations.tsv", lambda t: t + "kind\tsort\tsort of\n", ["relations.tsv, line 5", "'kind'"]),
    ("relations.tsv", lambda t: t + "sort\tsort\tkind\n",
     ["relations.tsv, line 5", "inverse of 'sort'", "called 'kind'", "line 2"]),
    ("dataset.json", lambda t: "{", ["dataset.json", "JSON"]),
    ("dataset.json", lambda t: "[]", ["dataset.json", "object"]),
])
def test_bad_input_is_refused_with_file_and_line(
    tiny: Path, file: str, change: Callable[[str], str] | None, words: list[str]
) -> None:
    if change is None:
        (tiny / file).unlink()
    else:
        (tiny / file).write_text(change(TINY.get(file, "")))
    with pytest.raises(InputError) as caught:
        read_graph(tiny)
    sentence = str(caught.value)
    assert all(word in sentence for word in words), sentence
    assert "\n" not in sentence


def test_bytes_that_are_no_utf8_are_refused_with_the_line(tiny: Path) -> None:
    (tiny / "entities.tsv").write_bytes(b"id\tname\ne0\tpl\xe4tt\n")
    with pytest.raises(InputError, match=r"entities.tsv, line 2: .*UTF-8"):
        read_graph(tiny)


def test_what_is_told_of_a_folder_may_begin_with_a_byte_order_mark(tiny: Path) -> None:
    (tiny / "dataset.json").write_text('\ufeff{"name": "other"}\n')
    assert read_graph(tiny).name == "other"


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a folder"):
        read_graph(tmp_path / "nowhere")


@given(st.integers(0, 10**6))
def test_look_ups_equal_those_of_dicts(seed: int) -> None:
    graph = random_graph(seed)
    count = graph.num_relations
    known: dict[tuple[int, int], set[int]] = {}
    for h, r, t in np.concatenate([graph.train, graph.valid, graph.test]).tolist():
        known.setdefault((h, r), set()).add(t)
        known.setdefault((t, r + count), set()).add(h)
        if graph.symmetric[r]:
            known.setdefault((t, r), set()).add(h)
            known.setdefault((h, r + count), set()).add(t)
    for entity in range(graph.num_entities):
        for relation in range(2 * count):
            key = entity * 2 * count + relation
            assert set(graph.known_answers[key].tolist()) == known.get((entity, relation), set())
    around: dict[int, set[tuple[int, int]]] = {}
    for h, r, t in graph.train.tolist():
        back = r if graph.symmetric[r] else r + count
        around.setdefault(h, set()).add((r, t))
        around.setdefault(t, set()).add((back, h))
    for entity in range(graph.num_entities):
        rows = [tuple(row) for row in graph.neighbours[entity].tolist()]
        assert len(rows) == len(set(rows))
        assert set(rows) == around.get(entity, set())
    assert graph.train_degree.tolist() == [
        sum(e in (h, t) for h, _, t in set(map(tuple, graph.train.tolist())))
        for e in range(graph.num_entities)]


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(0, 99)), max_size=40),
       st.lists(st.integers(-7, 7), max_size=10))
def test_groups_equal_a_dict_of_lists(rows: list[tuple[int, int]], asked: list[int]) -> None:
    keys = np.array([key for key, _ in rows], np.int64)
    csr = Csr.group(keys, np.array([value for _, value in rows], np.int32))
    twin: dict[int, list[int]] = {}
    for key, value in rows:
        twin.setdefault(key, []).append(value)
    owner, values = csr.rows(np.array(asked, np.int64))
    assert owner.tolist() == [i for i, key in enumerate(asked) for _ in twin.get(key, [])]
    assert values.tolist() == [value for key in asked for value in twin.get(key, [])]
    assert all(csr[key].tolist() == twin.get(key, []) for key in asked)


@given(st.integers(0, 10**6), st.floats(0, 0.4), st.floats(0, 0.4))
def test_splits_part_the_triples_and_leave_nothing_unseen(
    seed: int, valid: float, test: float
) -> None:
    graph = random_graph(seed, facts=60)
    triples = np.concatenate([graph.train, graph.valid, graph.test])
    mirrored = triples[triples[:, 1] == 2][:, [2, 1, 0]]
    triples = np.unique(np.concatenate([triples, mirrored]), axis=0)
    parts = carve(triples, valid, test, seed)
    together = np.concatenate(parts)
    assert sorted(map(tuple, together.tolist())) == sorted(map(tuple, triples.tolist()))
    assert set(parts[0][:, [0, 2]].ravel()) == set(triples[:, [0, 2]].ravel())
    assert set(parts[0][:, 1]) == set(triples[:, 1])
    assert len(parts[1]) <= valid * len(triples) + 2
    assert len(parts[2]) <= test * len(triples) + 2
    where = {tuple(row): part for part, rows in enumerate(parts) for row in rows.tolist()}
    for (h, r, t), part in where.items():
        assert where.get((t, r, h), part) == part
    again = carve(triples, valid, test, seed)
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))


def test_splits_reach_the_shares_where_coverage_allows() -> None:
    triples = np.array([(h, 0, t) for h in range(30) for t in range(30, 60)], np.int32)
    sizes = [len(part) for part in carve(triples, 0.1, 0.1, 0)]
    assert sizes == [720, 90, 90]


def test_fingerprint_tells_graphs_apart(tiny: Path) -> None:
    before = read_graph(tiny).fingerprint
    assert read_graph(tiny).fingerprint == before
    (tiny / "test.tsv").write_text(TINY["test.tsv"].replace("e7", "e8"))
    assert read_graph(tiny).fingerprint != before


@given(st.integers(0, 10**6))
def test_a_prepared_graph_is_the_same_graph(seed: int) -> None:
    plain = random_graph(seed)
    with TemporaryDirectory() as name:
        folder = Path(name)
        ids, relations = pa.array(plain.entity_ids), pa.array(plain.relation_ids)
        write_table(folder / "entities.tsv", {"id": ids, "name": pa.array(plain.entity_names)})
        write_table(folder / "relations.tsv", {
            "id": relations, "name": pa.array(plain.relation_names[:3]),
            "inverse_name": pa.array(plain.relation_names[3:])})
        for split in SPLITS:
            write_triples(folder / f"{split}.tsv", plain.split(split), ids, relations)
        graph = prepare_graph(folder)
        assert isinstance(graph.train, np.memmap) and isinstance(graph.entity_names, Texts)
        assert read_graph(folder).fingerprint == plain.fingerprint
        for group in ("known_answers", "neighbours"):
            for part in ("keys", "offsets", "values"):
                assert np.array_equal(getattr(getattr(graph, group), part),
                                      getattr(getattr(plain, group), part))
        assert list(graph.entity_names) == list(plain.entity_names)
        assert list(graph.entity_names[2:5]) == list(plain.entity_names[2:5])
        assert graph.entity_names[-1] == plain.entity_names[-1]


def test_prepared_arrays_are_left_aside_when_a_table_changes(tiny: Path) -> None:
    assert cli.main(["prepare", str(tiny)]) == 0
    assert isinstance(read_graph(tiny).train, np.memmap)
    (tiny / "test.tsv").write_text(TINY["test.tsv"] + "e0\tbeside\te2\n")
    assert len(read_graph(tiny).test) == 2
    assert cli.main(["prepare", str(tiny)]) == 0
    assert isinstance(read_graph(tiny).train, np.memmap)
    (tiny / ".prepared" / "train.npy").write_bytes(b"damaged")
    assert len(read_graph(tiny).train) == 10
    (tiny / "train.tsv").write_text("broken")
    with pytest.raises(InputError, match=r"train\.tsv"):
        read_graph(tiny)
