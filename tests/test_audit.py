"""The audit: each defect is found, clean data is passed in silence, and the repairs repair."""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import ROOT, TINY, random_graph
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from caption_cache.errors import InputError
from caption_cache.store import Row, Store
from kgc_seq2seq import cli
from kgc_seq2seq.graph.audit import audit_dataset
from kgc_seq2seq.graph.audit.findings import Finding, Severity
from kgc_seq2seq.graph.audit.triples import audit_triples
from kgc_seq2seq.graph.describe import describe_graph
from kgc_seq2seq.graph.folder import read_graph, write_table
from kgc_seq2seq.graph.importers import ImportConfig, import_dataset
from kgc_seq2seq.graph.knowledge_graph import KnowledgeGraph
from kgc_seq2seq.graph.names import Policy, resolve_collisions
from kgc_seq2seq.graph.nations import write_nations
from kgc_seq2seq.graph.relation_rules import CONFIDENCE, SUPPORT, RelationRules
from kgc_seq2seq.graph.resplit import SplitConfig, draw_splits, split_dataset

SHARED = Path(os.environ.get("KGC_SHARED", ROOT.parent / "shared")) / "data"
real = pytest.mark.skipif(not SHARED.is_dir(), reason="the real data sets are not at hand")
Edit = Callable[[str, str], Path]


def found(dataset: Path) -> dict[str, Finding]:
    findings = audit_dataset(dataset)
    assert len({finding.check for finding in findings}) == len(findings)
    assert all(len(finding.examples) <= 3 and finding.mend for finding in findings)
    return {finding.check: finding for finding in findings}


def loud(dataset: Path) -> set[str]:
    """The checks that found more than what is worth knowing."""
    return {check for check, finding in found(dataset).items()
            if finding.severity is not Severity.INFO}


def graph_of(train: Any, test: Any, entities: int = 200, relations: int = 4) -> KnowledgeGraph:
    """A graph with the given triples; valid is one of train's kind."""
    return replace(random_graph(0, entities, relations), train=np.array(train, np.int32),
                   valid=np.array([[0, 0, 1]], np.int32), test=np.array(test, np.int32))


def test_the_nations_graph_is_passed_in_silence(tmp_path: Path) -> None:
    write_nations(tmp_path / "nations")
    assert loud(tmp_path / "nations") == set()


@pytest.mark.parametrize(("file", "text", "check", "count"), [
    ("train.tsv", TINY["train.tsv"] + "e0\tkind\te3\ne0\tkind\te3\n", "train-repeats", 2),
    ("valid.tsv", TINY["valid.tsv"] + "e0\tkind\te3\n", "valid-in-train", 1),
    ("test.tsv", TINY["test.tsv"] + "e0\tkind\te3\ne0\tkind\te3\n", "test-in-train", 1),
    ("test.tsv", TINY["test.tsv"] + "e2\tkind\te3\n", "valid-in-test", 1),
    ("test.tsv", "head\trelation\ttail\n", "test-empty", 1),
    ("entities.tsv", TINY["entities.tsv"].replace("thing pear", "thing plum"),
     "name-collisions", 2),
    ("entities.tsv", TINY["entities.tsv"].replace("thing pear", "thing  ｐlum"),
     "normalized-name-collisions", 2),
    ("entities.tsv", TINY["entities.tsv"].replace("thing pear", ""), "empty-names", 1),
    ("entities.tsv", TINY["entities.tsv"].replace("thing pear", "pe\x07ar"),
     "control-characters", 1),
    ("relations.tsv", "id\tname\nkind\ta\ncolour\ta\nbeside\tb\n", "relation-name-collisions", 4),
    ("relations.tsv", "id\tname\tinverse_name\nkind\ta\tb\ncolour\tb\t\nbeside\tc\tc\n",
     "relation-name-collisions", 2),
    ("images.tsv", "entity\tpath\ne0\tgone.png\n", "images-missing", 1),
    ("images.tsv", "entity\tpath\nx0\tentities.tsv\n", "images-of-strangers", 1),
    ("images.tsv", "entity\tpath\ne0\tentities.tsv\n", "images-unreadable", 1),
])
def test_each_defect_is_loud(edited: Edit, file: str, text: str, check: str, count: int) -> None:
    before = loud(edited("train.tsv", TINY["train.tsv"]))
    dataset = edited(file, text)
    finding = found(dataset)[check]
    assert finding.severity is not Severity.INFO
    assert finding.count == count
    assert finding.examples or check.endswith("-empty")
    assert check not in before


@pytest.mark.parametrize(("file", "text", "check", "count"), [
    ("train.tsv", TINY["train.tsv"] + "e0\tbeside\te0\n", "train-self-loops", 1),
    ("entities.tsv", TINY["entities.tsv"] + "e9\tthing ten\n", "entities-without-triples", 1),
    ("test.tsv", "head\trelation\ttail\ne0\tcolour\te1\n", "test-linked-pairs", 1),
    ("entities.tsv", TINY["entities.tsv"].replace("thing pear", "x" * 500), "long-names", 1),
])
def test_what_is_worth_knowing_is_told(
    edited: Edit, file: str, text: str, check: str, count: int
) -> None:
    dataset = edited(file, text)
    assert found(dataset)[check].count == count


def test_what_train_never_shows_is_told(edited: Edit) -> None:
    edited("train.tsv", "".join(line for line in TINY["train.tsv"].splitlines(True)
                                if "beside" not in line and "e4" not in line))
    findings = found(edited("test.tsv", TINY["test.tsv"] + "e0\tbeside\te1\n"))
    assert findings["test-unseen-relations"].count == 1
    assert findings["test-unseen-relations"].severity is Severity.WARNING
    assert findings["test-unseen-entities"].count == 1


@given(st.integers(0, 10**6))
def test_triple_findings_equal_those_of_sets(seed: int) -> None:
    random = np.random.default_rng(seed)
    graph = random_graph(seed, entities=6, relations=2, facts=40)
    everything = np.concatenate([graph.train, graph.valid, graph.test])
    graph = replace(graph, **{split: everything[random.integers(0, len(everything), 12)]
                              for split in ("train", "valid", "test")})
    counts = {finding.check: finding.count for finding in audit_triples(graph)}
    lists = {split: list(map(tuple, graph.split(split).tolist()))
             for split in ("train", "valid", "test")}
    sets = {split: set(rows) for split, rows in lists.items()}
    ends = {end for h, _, t in lists["train"] for end in (h, t)}
    expected = {f"{split}-repeats": len(rows) - len(sets[split]) for split, rows in lists.items()}
    expected |= {"valid-in-train": len(sets["valid"] & sets["train"]),
                 "test-in-train": len(sets["test"] & sets["train"]),
                 "valid-in-test": len(sets["valid"] & sets["test"])}
    expected |= {f"{split}-self-loops": sum(h == t for h, _, t in rows)
                 for split, rows in lists.items()}
    expected |= {f"{split}-unseen-entities": sum(not {h, t} <= ends for h, _, t in lists[split])
                 for split in ("valid", "test")}
    linked = {pair for h, _, t in lists["train"] for pair in ((h, t), (t, h))}
    expected |= {f"{split}-linked-pairs": sum(
        (h, t) in linked and (h, r, t) not in sets["train"] for h, r, t in lists[split])
        for split in ("valid", "test")}
    assert {check: counts.get(check, 0) for check in expected} == expected


@given(st.integers(0, 10**6))
def test_rules_and_leaks_equal_those_of_sets(seed: int) -> None:
    random = np.random.default_rng(seed)
    pairs = np.unique(random.integers(0, 9, (40, 2)), axis=0)
    rows = [(a, 0, b) for a, b in pairs.tolist()]
    rows += [(a, 1, b) for a, b in pairs.tolist() if random.random() < 0.85]
    rows += [(b, 2, a) for a, b in pairs.tolist() if random.random() < 0.85]
    rows += [row for a, b in pairs.tolist()[:20] for row in ((a, 3, b), (b, 3, a))]
    triples = np.unique(np.array(rows, np.int32), axis=0)
    linked = [{(h, t) for h, r, t in rows if r == relation and h != t} for relation in range(4)]
    symmetric = random.random(4) < 0.3
    bodies = [{(min(pair), max(pair)) for pair in pairs} if said else pairs
              for pairs, said in zip(linked, symmetric, strict=True)]
    turn = [{(t, h) for h, t in pairs} for pairs in linked]
    linked, turn = ([one | other if said else one for one, other, said in zip(
        *sides, symmetric, strict=True)] for sides in ((linked, turn), (turn, linked)))
    same, inverse = set(), {relation * 5 for relation in np.flatnonzero(symmetric).tolist()}
    for body in range(4):
        for head in range(4):
            both = linked[head] | turn[head]
            straight = len(bodies[body] & (both if symmetric[body] else linked[head]))
            turned = len(bodies[body] & (both if symmetric[body] else turn[head]))
            enough = max(SUPPORT, CONFIDENCE * len(bodies[body]))
            if body != head and straight >= enough:
                same.add(body * 4 + head)
            if turned >= enough:
                inverse.add(body * 4 + head)
    rules = RelationRules.find(np.concatenate([triples, triples[::2]]), 9, 4, symmetric)
    assert (set(rules.same.tolist()), set(rules.inverse.tolist())) == (same, inverse)
    held = triples[random.permutation(len(triples))]
    test, train = held[:20], held[20:]
    known = set(map(tuple, train.tolist()))
    leaks = rules.leaks(test, train)
    for place, (h, r, t) in enumerate(test.tolist()):
        assert leaks["near-duplicate"][place] == any(
            body * 4 + r in same and (h, body, t) in known for body in range(4))
        assert leaks["inverse"][place] == any(
            body != r and body * 4 + r in inverse and (t, body, h) in known for body in range(4))
        assert leaks["symmetric"][place] == (r * 5 in inverse and (t, r, h) in known)
    clusters = rules.clusters()
    for rule in same | inverse:
        assert clusters[rule // 4] == clusters[rule % 4]


def test_leaks_are_loud_by_kind() -> None:
    base = [(i, 0, i + 60) for i in range(60)]
    graph = graph_of([*base, *[(i, 1, i + 60) for i in range(50)],
                      *[(i + 60, 2, i) for i in range(50)],
                      *[row for i in range(40) for row in ((i, 3, i + 1),)],
                      *[(i + 1, 3, i) for i in range(38)]],
                     [*[(i, 1, i + 60) for i in range(50, 60)],
                      *[(i + 60, 2, i) for i in range(50, 60)], (39, 3, 38)])
    leaks = {finding.check: finding for finding in audit_triples(graph)
             if finding.check.startswith("test-") and finding.check.endswith("-leak")}
    assert {check: finding.count for check, finding in leaks.items()} == {
        "test-near-duplicate-leak": 10, "test-inverse-leak": 10, "test-symmetric-leak": 1}
    assert leaks["test-inverse-leak"].severity is Severity.WARNING


def test_the_mirror_of_a_fact_leaks_where_a_relation_is_said_to_be_symmetric() -> None:
    graph = graph_of([(i, 0, i + 60) for i in range(60)], [(0 + 60, 0, 0), (1, 0, 62)])
    count = len(graph.relation_names) // 2
    for names, found in ((graph.relation_names, 0), (graph.relation_names[:count] * 2, 1)):
        leaks = [finding.count for finding in audit_triples(replace(graph, relation_names=names))
                 if finding.check == "test-symmetric-leak"]
        assert sum(leaks) == found


def structured(seed: int) -> KnowledgeGraph:
    """People live in towns and work in trades: ids have their place, as in real graphs."""
    random = np.random.default_rng(seed)
    rows = [(person, 0, 1000 + int(random.integers(0, 20))) for person in range(1000)]
    rows += [(person, 1, 1020 + int(random.integers(0, 20))) for person in range(1000)]
    order = random.permutation(len(rows))
    triples = np.array(rows, np.int32)[order]
    return replace(random_graph(0, 1040, 2), train=triples[400:], valid=triples[:200],
                   test=triples[200:400])


@pytest.mark.parametrize("seed", range(3))
def test_ids_of_another_numbering_are_noticed_and_own_ones_are_not(seed: int) -> None:
    graph = structured(seed)
    checks = {finding.check for finding in audit_triples(graph)}
    assert not checks & {"valid-foreign-ids", "test-foreign-ids"}
    numbering = np.random.default_rng(seed).permutation(1040).astype(np.int32)
    valid = graph.valid.copy()
    valid[:, [0, 2]] = numbering[valid[:, [0, 2]]]
    findings = {finding.check: finding for finding in audit_triples(replace(graph, valid=valid))}
    assert findings["valid-foreign-ids"].severity is Severity.ERROR
    assert "test-foreign-ids" not in findings


def test_another_mix_of_relations_is_noticed() -> None:
    graph = structured(0)
    valid = graph.valid[graph.valid[:, 1] == 0]
    train = graph.train[(graph.train[:, 1] == 1) | (np.arange(len(graph.train)) < 300)]
    checks = {finding.check for finding in audit_triples(replace(graph, valid=valid, train=train))}
    assert "valid-relation-mix" in checks


def test_images_are_opened_and_compared(tiny: Path) -> None:
    for entity in range(6):
        folder = tiny / "images" / f"e{entity}"
        folder.mkdir(parents=True)
        Image.new("RGB", (4, 4), "grey").save(folder / "a.png")
    Image.new("RGB", (4, 4), "grey").save(tiny / "images" / "e0" / "b.png")
    (tiny / "images" / "e1" / "broken.png").write_bytes(
        (tiny / "images" / "e1" / "a.png").read_bytes()[:50])
    findings = found(tiny)
    assert findings["images-unreadable"].examples == ("images/e1/broken.png: damaged",)
    assert findings["images-repeated"].count == 1
    assert (findings["images-shared"].count, findings["images-shared"].severity) == (
        6, Severity.WARNING)
    assert findings["images-coverage"].measures["share"] == pytest.approx(6 / 9)


def test_images_that_cannot_be_listed_are_a_finding(tiny: Path) -> None:
    (tiny / "images" / "nobody").mkdir(parents=True)
    assert "nobody" in found(tiny)["images-unlisted"].examples[0]


def caption(entity: str, text: str, **changes: Any) -> Row:
    return replace(Row(
        key=f"{entity} {text}", scope="entity", entity=entity, neighbour=None, relation=None,
        images=["x"], image_hashes=["x"], prompt=None, prompt_id=None, prompt_hash=None,
        captioner="c", model="m", revision="", settings="{}", back_end="", text=text,
        status="ok", reason=None, seconds=0.0), **changes)


@pytest.mark.parametrize(("source", "severity"), [
    ({"captioner": "imported"}, Severity.WARNING),
    ({"prompt_id": "entity-1", "prompt_hash": "1"}, Severity.WARNING),
    ({}, Severity.INFO),
])
def test_captions_that_name_the_answer_are_noticed(
    nations_folder: Path, source: dict[str, Any], severity: Severity
) -> None:
    graph = read_graph(nations_folder)
    named: dict[int, list[str]] = {}
    for h, _, t in graph.test[::4].tolist():
        named.setdefault(h, []).append(graph.entity_names[t])
    with Store(nations_folder).writing() as writer:
        writer.add([caption(graph.entity_ids[h], f"A view of {', '.join(names)}.", **source)
                    for h, names in named.items()])
    finding = found(nations_folder)["tail-in-captions"]
    assert finding.severity is severity
    assert finding.measures["answer"] > finding.measures["random"]
    assert finding.measures["excess"]["low"] > 0
    assert finding.count >= len(graph.test) // 4


@pytest.mark.parametrize("scope", ["commonsense", "visual"])
def test_profiles_that_name_the_answer_are_noticed(nations_folder: Path, scope: str) -> None:
    graph = read_graph(nations_folder)
    named: dict[str, list[str]] = {}
    for h, _, t in graph.test.tolist():
        named.setdefault(graph.entity_ids[h], []).append(graph.entity_names[t])
    asked = {"scope": scope, "prompt_id": f"{scope}-1", "prompt_hash": "1"}
    with Store(nations_folder).writing() as writer:
        writer.add([caption(h, f"a friend of {', '.join(names)}.", **asked)
                    for h, names in named.items()])
    findings = found(nations_folder)
    assert findings[f"{scope}-captions-coverage"].count == len(named)
    finding = findings[f"tail-in-{scope}-captions"]
    assert (finding.severity, finding.count) == (Severity.WARNING, len(graph.test))
    assert f"{scope}-captions by c m {scope}-1 [" in finding.message
    assert not {"captions-coverage", "tail-in-captions"} & findings.keys()
    with Store(nations_folder).writing() as writer:  # asked again when there were more images
        writer.add([caption(h, "a country.", images=["x", "y"], image_hashes=["x", "y"], **asked)
                    for h in named])
    assert loud(nations_folder) == set()


@pytest.mark.parametrize("symmetric", [False, True])
def test_relation_captions_that_name_the_answer_are_noticed(
    nations_folder: Path, symmetric: bool
) -> None:
    if symmetric:  # the inverse reads as the relation, and so does its caption
        ids = pa.array(read_graph(nations_folder).relation_ids)
        write_table(nations_folder / "relations.tsv", {
            "id": ids, "name": ids, "inverse_name": ids})
    graph = read_graph(nations_folder)
    assert graph.symmetric.all() == symmetric
    asked = {"scope": "relation", "prompt_id": "relation-1", "prompt_hash": "1"}

    def say(shift: int) -> dict[str, Finding]:
        """Write the answers of test down as captions of their questions, or of others."""
        named: dict[tuple[str, str], list[str]] = {}
        count = graph.num_relations
        for e, r, a in graph.queries(graph.test).tolist():
            relation = "^" * (r >= count) + graph.relation_ids[(r + shift) % count]
            named.setdefault((graph.entity_ids[e], relation), []).append(graph.entity_names[a])
        with Store(nations_folder).writing() as writer:
            writer.add([caption(entity, " and ".join(names), relation=relation, **asked)
                        for (entity, relation), names in named.items()])
        findings = found(nations_folder)
        assert findings["relation-captions-coverage"].count == len({e for e, _ in named})
        return findings

    assert not {f"{end}-in-relation-captions" for end in ("head", "tail")} & say(7).keys()
    findings = say(0)
    for end in ("tail", "head"):
        finding = findings[f"{end}-in-relation-captions"]
        assert (finding.severity, finding.count) == (Severity.WARNING, len(graph.test))


@pytest.mark.parametrize("scope", ["pair", "summary"])
def test_pair_captions_that_name_a_third_that_is_asked_for_are_noticed(
    nations_folder: Path, scope: str
) -> None:
    graph = read_graph(nations_folder)
    ids, names = graph.entity_ids, graph.entity_names
    unlinked = graph.test[~graph.linked_in_train(graph.test)]
    pairs = {(h, n) for h in set(unlinked[:, 0].tolist())
             for n in graph.neighbours[h][:, 1].tolist()[:2]}
    named = {h: " and ".join(names[t] for t in unlinked[unlinked[:, 0] == h, 2].tolist())
             for h, _ in pairs}
    asked = {"scope": scope, "prompt_id": f"{scope}-1", "prompt_hash": "1"}

    def say(texts: dict[tuple[int, int], str]) -> dict[str, Finding]:
        """Write down texts about pairs, each of which may stand either way round."""
        with Store(nations_folder).writing() as writer:
            writer.add([caption(ids[max(pair)], text, neighbour=ids[min(pair)], **asked)
                        for pair, text in texts.items()])
        return found(nations_folder)

    ends = {f"{end}-in-{scope}-captions" for end in ("head", "tail")}
    assert not ends & say(dict.fromkeys(pairs, "Both are there.")).keys()
    finding = say({(h, n): f"Both know {named[h]}." for h, n in pairs})[f"tail-in-{scope}-captions"]
    assert (finding.severity, finding.count) == (Severity.WARNING, len(unlinked))


def test_captions_from_the_pixels_alone_are_no_leak(nations: Path) -> None:
    assert loud(nations) == set()
    told = found(nations)["tail-in-captions"]  # flags show their colours
    assert told.measures["answer"] > told.measures["random"]


def test_captions_that_name_nothing_are_passed_in_silence(nations_folder: Path) -> None:
    graph = read_graph(nations_folder)
    with Store(nations_folder).writing() as writer:
        writer.add([caption(key, "A thing of some kind.", captioner="imported")
                    for key in graph.entity_ids])
    assert loud(nations_folder) == set()


def test_captions_of_pairs_of_test_are_an_error(nations_folder: Path) -> None:
    graph = read_graph(nations_folder)
    rows = [(h, t) for split in ("train", "test") for h, _, t in graph.split(split)[:50].tolist()]
    with Store(nations_folder).writing() as writer:
        writer.add([caption(graph.entity_ids[t], "Both are there.", scope="pair",
                            neighbour=graph.entity_ids[h]) for h, t in rows])
    findings = found(nations_folder)
    assert findings["test-pair-captions"].count == 50
    assert findings["test-pair-captions"].severity is Severity.ERROR
    assert "valid-pair-captions" not in findings
    with Store(nations_folder).writing() as writer:
        writer.add([caption(graph.entity_ids[0], "It is there.", scope=scope)
                    for scope in ("commonsense", "visual")])
    report = split_dataset(nations_folder, nations_folder.parent / "again", SplitConfig())
    assert report.link_captions == 100
    assert set(Store(nations_folder.parent / "again").read()["scope"].to_pylist()) == {
        "commonsense", "visual"}
    assert loud(nations_folder.parent / "again") == set()


@pytest.fixture
def nations_folder(tmp_path: Path) -> Path:
    write_nations(tmp_path / "nations")
    return tmp_path / "nations"


@pytest.mark.parametrize(("fail_on", "defect", "code"), [
    (None, True, 0), ("error", True, 1), ("warning", True, 1), ("error", False, 0),
    ("warning", False, 0)])
def test_the_command_line_fails_when_asked_to(
    nations_folder: Path, fail_on: str | None, defect: bool, code: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if defect:
        train = (nations_folder / "train.tsv").read_text().splitlines()
        with (nations_folder / "valid.tsv").open("a") as file:
            file.write(train[1] + "\n")
    words = ["audit", str(nations_folder), *(["--fail-on", fail_on] if fail_on else [])]
    assert cli.main([*words, "--json"]) == code
    answer = json.loads(capsys.readouterr().out)
    assert answer["counts"]["error"] == int(defect)
    assert cli.main(words) == code
    assert ("valid-in-train" in capsys.readouterr().out) is defect


def test_the_command_line_checks_names_as_tokens(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from kgc_seq2seq.text.tokenizer import TokenizerConfig, train_tokenizer

    entities = tiny / "entities.tsv"
    entities.write_text(entities.read_text().replace("thing pear", "thing</s>"))
    train_tokenizer({"thing apple pear plum": 9}, TokenizerConfig(pieces=25, words=0)
                    ).save_pretrained(tmp_path / "t5")
    assert cli.main(["audit", str(tiny), "--json", "--tokenizer", str(tmp_path / "t5")]) == 0
    checks = {finding["check"]: finding for finding in
              json.loads(capsys.readouterr().out)["findings"]}
    # Letters that it lacks, a training gives it.
    assert checks["unknown-tokens"]["examples"] == ["'thing</s>'"]


def test_an_audit_of_no_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a folder"):
        audit_dataset(tmp_path / "nowhere")


@given(st.integers(0, 10**6), st.booleans())
def test_new_splits_leak_nothing_and_hide_nothing(seed: int, keep_test: bool) -> None:
    random = np.random.default_rng(seed)
    graph = random_graph(seed, entities=15, relations=3, facts=120)
    pairs = graph.train[graph.train[:, 1] == 0]
    backwards = pairs[:, [2, 1, 0]] + np.array([0, 1, 0], np.int32)
    graph = replace(graph, train=np.concatenate([graph.train, backwards]),
                    valid=graph.train[random.integers(0, len(graph.train), 9)])
    splits = draw_splits(graph, SplitConfig(0.2, 0.2, seed, keep_test))
    sets = {split: set(map(tuple, rows.tolist())) for split, rows in splits.items()}
    everything = {tuple(row) for split in ("train", "valid", "test")
                  for row in graph.split(split).tolist()}
    assert set().union(*sets.values()) == everything
    assert not sets["train"] & sets["valid"] and not sets["valid"] & sets["test"]
    assert not sets["train"] & sets["test"]
    assert {end for h, _, t in sets["valid"] for end in (h, t)} <= {
        end for h, _, t in sets["train"] for end in (h, t)}
    assert {r for _, r, _ in sets["valid"]} <= {r for _, r, _ in sets["train"]}
    if keep_test:
        assert np.array_equal(splits["test"], graph.test)
    rows = np.unique(np.array(sorted(everything), np.int32), axis=0)
    rules = RelationRules.find(rows, graph.num_entities, graph.num_relations, graph.symmetric)
    for leaks in rules.leaks(splits["valid"], splits["train"]).values():
        assert not leaks.any()


def test_split_takes_everything_else_along(
    nations_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = nations_folder.parent / "again"
    words = ["split", str(nations_folder), str(out), "--valid", "0.2", "--test", "0.05"]
    assert cli.main([*words, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["triples"] == {"train": 3032, "valid": 808, "test": 202}
    assert loud(out) == set()
    assert len(list((out / "images").glob("*/*.png"))) == 176
    about = json.loads((out / "dataset.json").read_text())
    assert about["name"] == "again" and "seed 0" in about["splits"]
    assert about["licence"] == "Apache-2.0"
    assert cli.main(words) == 2
    assert cli.main([*words[:2], str(out) + "2", "--valid", "0.9", "--test", "0.2"]) == 2
    assert "below 1" in capsys.readouterr().err
    assert not Path(str(out) + "2").exists()


def test_describe_tells_cardinalities(
    nations_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["describe", str(nations_folder), "--json", "--plot",
                     str(tmp_path / "plot.png")]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["entities"] == 881
    kinds = {relation["id"]: relation["cardinality"] for relation in answer["by_relation"]}
    assert (kinds["capital"], kinds["continent"], kinds["borders"], kinds["driving_side"]) == (
        "1-1", "N-1", "N-N", "N-1")
    with Image.open(tmp_path / "plot.png") as picture:
        assert picture.width > 1000
    assert cli.main(["describe", str(nations_folder), "--plot", str(tmp_path / "plot.xyz")]) == 2


@given(st.integers(0, 10**6))
def test_cardinalities_equal_those_of_dicts(seed: int) -> None:
    graph = random_graph(seed, entities=6, facts=30)
    described = {relation["id"]: relation for relation in describe_graph(graph)["by_relation"]}
    for r, key in enumerate(graph.relation_ids):
        rows = {(h, t) for h, q, t in graph.train.tolist() if q == r}
        heads, tails = {h for h, _ in rows}, {t for _, t in rows}
        assert described[key]["triples"] == len(rows)
        if rows:
            assert described[key]["tails_per_head"] == pytest.approx(len(rows) / len(heads), 1e-3)
            assert described[key]["heads_per_tail"] == pytest.approx(len(rows) / len(tails), 1e-3)
        assert (described[key]["cardinality"] == "unseen") == (not rows)


names = st.lists(st.sampled_from(["a", "a ", "ａ", "b", "b (e1)", "b (e2)", "c", "山", "‏ש"]),
                 min_size=2, max_size=9)


@given(names, st.sampled_from(["description", "relation-hint", "id"]), st.integers(0, 99),
       st.lists(st.sampled_from(["", "one", "one two three four", "one two three five"]),
                min_size=9, max_size=9))
def test_every_policy_gives_each_a_name_of_its_own(
    chosen: list[str], policy: str, seed: int, texts: list[str]
) -> None:
    count = len(chosen)
    graph = replace(random_graph(seed, entities=count), entity_names=chosen,
                    entity_descriptions=texts[:count])
    resolved, collisions = resolve_collisions(graph, Policy(policy))
    keys = [" ".join(unicodedata.normalize("NFKC", name).split()) for name in resolved]
    assert len(set(keys)) == count
    told = {entity for group in collisions for entity in group.ids}
    plain = [" ".join(unicodedata.normalize("NFKC", name).split()) for name in chosen]
    assert told == {graph.entity_ids[i] for i in range(count) if plain.count(plain[i]) > 1}
    assert all(name == chosen[i] or name.startswith(chosen[i] + " (")
               for i, name in enumerate(resolved))


@real
def test_wordnet_is_told_of_by_its_bare_lemmas(tmp_path: Path) -> None:
    out = tmp_path / "wordnet"
    import_dataset(ImportConfig("kgbert", SHARED / "WN18RR", out, on_collision=Policy.ID))
    ids, names, *_ = zip(*(line.split("\t") for line in
                           (out / "entities.tsv").read_text("utf-8").splitlines()), strict=True)
    bare = [name.removesuffix(f" ({key})") for key, name in zip(ids, names, strict=True)]
    (out / "entities.tsv").write_text("".join(f"{key}\t{name}\n" for key, name in
                                              zip(ids, bare, strict=True)), "utf-8")
    findings = found(out)
    assert findings["name-collisions"].count == 12873
    assert findings["name-collisions"].severity is Severity.ERROR
    assert findings["test-symmetric-leak"].measures["share"] == pytest.approx(0.336, abs=0.001)


@real
def test_db15k_is_told_of_and_repaired(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset, again = tmp_path / "db15k", tmp_path / "again"
    import_dataset(ImportConfig("openke", SHARED / "DB15K", dataset,
                                texts=SHARED / "captions" / "DB15K.tsv"))
    findings = found(dataset)
    assert findings["valid-in-train"].count == 6584
    assert findings["valid-in-test"].count == 824
    assert findings["valid-repeats"].count == 9904 - 7481
    assert findings["valid-relation-mix"].measures["cosine"] == pytest.approx(0.73, abs=0.005)
    assert "test-in-train" not in findings
    captions = findings["tail-in-captions"].measures
    assert (captions["answer"], captions["random"]) == (
        pytest.approx(0.092, abs=0.006), pytest.approx(0.010, abs=0.004))
    descriptions = findings["tail-in-descriptions"].measures
    assert (descriptions["answer"], descriptions["random"]) == (
        pytest.approx(0.167, abs=0.008), pytest.approx(0.018, abs=0.005))
    assert cli.main(["split", str(dataset), str(again), "--keep-test"]) == 0
    assert {check for check in loud(again) if "-in-captions" not in check
            and "-in-descriptions" not in check} == set()
    before, after = read_graph(dataset), read_graph(again)
    assert np.array_equal(before.test, after.test)
    capsys.readouterr()


@real
@pytest.mark.parametrize(("name", "share"), [("MKG-W", 0.072), ("MKG-Y", 0.146)])
def test_clean_files_are_passed(tmp_path: Path, name: str, share: float) -> None:
    import_dataset(ImportConfig("momok", SHARED / name, tmp_path / "out"))
    findings = found(tmp_path / "out")
    assert findings["test-unseen-entities"].measures["share"] == pytest.approx(share, abs=0.0005)
    # MKG-Y says playsFor and isAffiliatedTo of the same pairs.
    assert loud(tmp_path / "out") == (set() if name == "MKG-W" else {
        "valid-near-duplicate-leak", "test-near-duplicate-leak"})


@real
@pytest.mark.parametrize(("name", "answer", "random"), [
    ("MKG-W", 0.176, 0.080), ("MKG-Y", 0.012, 0.0)])
def test_captions_of_a_model_recall_facts(
    tmp_path: Path, name: str, answer: float, random: float
) -> None:
    import_dataset(ImportConfig("momok", SHARED / name, tmp_path / "out",
                                texts=SHARED / "captions" / f"{name}.tsv"))
    finding = found(tmp_path / "out")["tail-in-captions"]
    assert finding.severity is Severity.WARNING
    assert finding.measures["answer"] == pytest.approx(answer, abs=0.006)
    assert finding.measures["random"] == pytest.approx(random, abs=0.006)


@real
def test_validation_in_another_numbering_is_told_of(tmp_path: Path) -> None:
    import_dataset(ImportConfig("openke", SHARED / "faulty" / "LBMKGC-MKG-W", tmp_path / "out"))
    findings = found(tmp_path / "out")
    assert {check for check, finding in findings.items()
            if finding.severity is Severity.ERROR} == {"valid-foreign-ids"}
    assert findings["valid-foreign-ids"].measures["tail"]["found"] == pytest.approx(0.02, abs=0.01)


@pytest.mark.parametrize("empty", [
    ["train.tsv"], ["valid.tsv", "test.tsv"], ["train.tsv", "valid.tsv", "test.tsv"],
    ["entities.tsv", "train.tsv", "valid.tsv", "test.tsv"],
    ["entities.tsv", "relations.tsv", "train.tsv", "valid.tsv", "test.tsv"]])
def test_an_empty_data_set_is_told_of_without_a_traceback(tiny: Path, empty: list[str]) -> None:
    for name in empty:
        (tiny / name).write_text(TINY[name].splitlines(True)[0])
    assert {f"{name[:-4]}-empty" for name in empty if name[0] in "tv"} <= loud(tiny)
    repaired = cli.main(["split", str(tiny), str(tiny.parent / "out"), "--test", "0.2"])
    assert repaired == (2 if "train.tsv" in empty else 0)
    assert cli.main(["describe", str(tiny)]) == 2
