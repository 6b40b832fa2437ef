"""The embedded graph is consistent, and is what its source tables say."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from caption_cache.images import decode
from kgc_seq2seq.graph import nations as package
from kgc_seq2seq.graph.folder import read_graph
from kgc_seq2seq.graph.knowledge_graph import SPLITS, KnowledgeGraph

HERE = Path(package.__file__).parent


@pytest.fixture(scope="module")
def graph() -> KnowledgeGraph:
    return read_graph(HERE)


@pytest.fixture(scope="module")
def facts(graph: KnowledgeGraph) -> set[tuple[str, str, str]]:
    rows = np.concatenate([graph.split(split) for split in SPLITS])
    return {(graph.entity_ids[h], graph.relation_ids[r], graph.entity_ids[t])
            for h, r, t in rows.tolist()}


def pairs(facts: set[tuple[str, str, str]], relation: str) -> set[tuple[str, str]]:
    return {(h, t) for h, r, t in facts if r == relation}


def test_size(graph: KnowledgeGraph, facts: set[tuple[str, str, str]]) -> None:
    assert 850 <= graph.num_entities <= 950
    assert len(facts) == sum(len(graph.split(split)) for split in SPLITS) >= 3500


def test_each_nation_has_one_of_each(facts: set[tuple[str, str, str]]) -> None:
    nations = {h for h, _ in pairs(facts, "capital")}
    assert len(nations) == 195  # 193 members of the UN and two observers
    for relation in ("capital", "continent", "subregion", "driving_side", "flag_layout"):
        assert Counter(h for h, _ in pairs(facts, relation)) == dict.fromkeys(nations, 1)
    for relation in ("currency", "official_language", "flag_colour"):
        assert {h for h, _ in pairs(facts, relation)} == nations
    for relation in ("borders", "member_of", "coast", "river", "mountains"):
        assert {h for h, _ in pairs(facts, relation)} <= nations


def test_capitals_are_distinct(facts: set[tuple[str, str, str]]) -> None:
    assert max(Counter(t for _, t in pairs(facts, "capital")).values()) == 1


def test_borders_are_mirrored_and_never_with_oneself(facts: set[tuple[str, str, str]]) -> None:
    borders = pairs(facts, "borders")
    assert borders == {(b, a) for a, b in borders}
    assert all(a != b for a, b in borders)


def test_continents_follow_from_subregions(facts: set[tuple[str, str, str]]) -> None:
    of_region = dict(pairs(facts, "part_of"))
    region = dict(pairs(facts, "subregion"))
    assert dict(pairs(facts, "continent")) == {n: of_region[region[n]] for n in region}


@pytest.mark.parametrize(("name", "members"), [
    ("european-union", 27), ("nato", 32), ("african-union", 54), ("asean", 10), ("opec", 12),
    ("commonwealth-of-nations", 56), ("council-of-europe", 46), ("oecd", 38), ("mercosur", 5),
])
def test_organisations_have_as_many_members_as_they_had_on_the_date(
    facts: set[tuple[str, str, str]], name: str, members: int
) -> None:
    assert sum(t == name for _, t in pairs(facts, "member_of")) == members


@pytest.mark.parametrize(("nation", "neighbours"), [
    ("china", 14), ("russia", 14), ("brazil", 10), ("germany", 9), ("dr-congo", 9),
    ("switzerland", 5), ("australia", 0), ("lesotho", 1), ("portugal", 1), ("zambia", 8),
])
def test_nations_have_as_many_neighbours_as_on_the_map(
    facts: set[tuple[str, str, str]], nation: str, neighbours: int
) -> None:
    assert sum(h == nation for h, _ in pairs(facts, "borders")) == neighbours


def test_splits_are_eighty_ten_ten(graph: KnowledgeGraph) -> None:
    sizes = np.array([len(graph.split(split)) for split in SPLITS])
    np.testing.assert_allclose(sizes / sizes.sum(), [0.8, 0.1, 0.1], atol=0.005)


def test_nothing_occurs_only_outside_train(graph: KnowledgeGraph) -> None:
    assert set(graph.train[:, [0, 2]].ravel()) == set(range(graph.num_entities))
    assert set(graph.train[:, 1]) == set(range(graph.num_relations))


def test_no_fact_leaks_from_one_split_into_another(graph: KnowledgeGraph) -> None:
    """Neither the fact itself, nor its mirror, nor another relation between the same two."""
    linked = [{frozenset((h, t)) for h, _, t in graph.split(split).tolist()} for split in SPLITS]
    for one in range(3):
        for other in range(one):
            assert not linked[one] & linked[other]


def test_files_are_what_the_source_tables_say(tmp_path: Path) -> None:
    script = [sys.executable, str(ROOT / "scripts" / "build_nations.py"), "--out", str(tmp_path)]
    subprocess.run(script, check=True, capture_output=True)
    for file in tmp_path.iterdir():
        assert file.read_bytes() == (HERE / file.name).read_bytes(), file.name


def test_written_data_set_is_the_graph_with_its_flags(
    graph: KnowledgeGraph, nations: Path
) -> None:
    assert read_graph(nations).fingerprint == graph.fingerprint
    flags = list((nations / "images").glob("*/flag.png"))
    assert 150 <= len(flags) < 195  # some cannot be drawn so
    assert {flag.parent.name for flag in flags} <= set(graph.entity_ids)
    decode(flags[0].read_bytes())


def test_captions_name_the_colours_that_the_facts_name(
    facts: set[tuple[str, str, str]], nations: Path
) -> None:
    """The captioner sees pixels only, so this checks drawings and facts against each other."""
    from caption_cache.captions import read_captions

    colours: dict[str, set[str]] = {}
    for nation, colour in pairs(facts, "flag_colour"):
        colours.setdefault(nation, set()).add(colour.replace("-", " "))
    texts = read_captions(nations).texts
    said = {nation: set(text.split(". ")[0].removeprefix("colours ").split(", "))
            for nation, text in texts.items()}
    hits = sum(len(said[nation] & colours[nation]) for nation in said)
    assert hits / sum(len(colours[nation]) for nation in said) > 0.95
    assert hits / sum(len(words) for words in said.values()) > 0.95
