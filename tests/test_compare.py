"""Ranks that are kept, slices of them, intervals of differences, calibration: against twins."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accelerate import Accelerator
from conftest import random_graph, write_tiny
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from caption_cache.errors import InputError
from kgc_seq2seq import cli
from kgc_seq2seq.calibrate import best_answers, calibrate_run
from kgc_seq2seq.completer import Completer, Query
from kgc_seq2seq.config import RunConfig
from kgc_seq2seq.evaluate import record
from kgc_seq2seq.evaluation.calibration import BINS, reliability
from kgc_seq2seq.evaluation.compare import bootstrap_means, paired_differences
from kgc_seq2seq.evaluation.ranks import HITS, Ranks, metrics
from kgc_seq2seq.evaluation.results import ranks_of, read_ranks, read_result, summarize
from kgc_seq2seq.evaluation.slices import slices
from kgc_seq2seq.graph.describe import describe_graph
from kgc_seq2seq.graph.folder import read_graph
from kgc_seq2seq.graph.knowledge_graph import KnowledgeGraph
from kgc_seq2seq.runs import Fusion, Part
from kgc_seq2seq.text.tokenizer import TokenizerConfig
from kgc_seq2seq.text.verbalizer import InputConfig
from kgc_seq2seq.train import run_training
from kgc_seq2seq.training.loop import TrainingConfig
from kgc_seq2seq.training.model import ModelConfig


def some_ranks(count: int, seed: int = 0, worst: int = 30, width: int | None = None) -> Ranks:
    random = np.random.default_rng(seed)
    return Ranks(random.integers(0, worst, count), random.integers(0, 2, count),
                 None if width is None else random.integers(0, width, count))


def measured(run: Path, graph: KnowledgeGraph, found: Ranks, **how: Any) -> Path:
    """A run folder with nothing but a result on test, written as evaluation writes it."""
    run.mkdir()
    (run / "config.yaml").write_text("dataset: ../tiny\n")
    (run / "training.json").write_text(json.dumps({"seed": 0, "system": run.name}))
    name = f"test-{how['ranks']}" if how else "test"
    record(run, name, graph, "test", found, Accelerator(cpu=True), how)
    return run


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6))
def test_slices_are_those_of_a_plain_count(seed: int) -> None:
    graph = random_graph(seed, entities=15, facts=45)
    graph = replace(graph, entity_descriptions=["" if e % 3 else "a thing" for e in range(15)])
    pictured = np.random.default_rng(seed).random(graph.num_entities) < 0.5
    degree = Counter(end for h, _, t in set(map(tuple, graph.train.tolist())) for end in {h, t})
    pairs = {frozenset((h, t)) for h, _, t in graph.train.tolist()}
    kind = {relation["id"]: relation["cardinality"]
            for relation in describe_graph(graph)["by_relation"]}

    def bucket(entity: int) -> str:
        ends = [("0", 0), ("1–2", 2), ("3–9", 9), ("10–29", 29), ("30–99", 99), ("100–999", 999)]
        return next((label for label, high in ends if degree[entity] <= high), "1000+")

    expected: dict[str, list[str]] = {}
    for forward in (True, False):
        for h, r, t in graph.test.tolist():
            given_, answer = (h, t) if forward else (t, h)
            row = {
                "cardinality": kind[graph.relation_ids[r]],
                "entities": "both seen in train" if degree[h] and degree[t] else "one unseen",
                "linked": "linked in train" if {h, t} in pairs else "not linked",
                "given_degree": bucket(given_), "answer_degree": bucket(answer),
                "given_text": "without" if given_ % 3 else "with",
                "given_image": "with" if pictured[given_] else "without",
                "answer_image": "with" if pictured[answer] else "without"}
            for name, label in row.items():
                expected.setdefault(name, []).append(label)
    found = slices(graph, graph.test, pictured)
    assert found.keys() == {name for name, labels in expected.items() if len(set(labels)) > 1}
    for name, parts in found.items():
        for label, chosen in parts.items():
            assert chosen.tolist() == [each == label for each in expected[name]]


def test_slices_without_queries_of_a_side_leave_it_out() -> None:
    graph = random_graph(3)
    count = len(graph.test)
    pictured = np.zeros(graph.num_entities, bool)
    pictured[graph.test[:, 0]] = True
    pictured[graph.test[:, 2]] = False
    found = summarize(graph, graph.test, some_ranks(2 * count), pictured)["slices"]
    assert found["given_image"]["with"].keys() == {"both", "tail"}
    for parts in found.values():
        assert sum(part["both"]["count"] for part in parts.values()) == 2 * count
        for part in parts.values():
            assert part["both"]["count"] == sum(
                part[side]["count"] for side in ("tail", "head") if side in part)


def test_optimistic_ranks_are_told_from_realistic_ones() -> None:
    found = metrics(Ranks(np.array([0, 1]), np.array([2, 0])))
    assert found["mrr"] == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert found["mrr_optimistic"] == pytest.approx((1 + 1 / 2) / 2)
    within = metrics(Ranks(np.array([0, 1]), np.array([2, 0]), np.array([1, 0])))
    assert within["mrr_optimistic"] == {"low": pytest.approx((1 / 2 + 1 / 2) / 2),
                                        "high": pytest.approx((1 + 1 / 2) / 2)}


@pytest.mark.parametrize("width", [None, 4])
def test_every_rank_is_kept(tiny: Path, tmp_path: Path, width: int | None) -> None:
    graph = read_graph(tiny)
    ranks = some_ranks(2 * len(graph.test), width=width)
    how = {} if width is None else {"ranks": "certified"}
    run = measured(tmp_path / "run", graph, ranks, **how)
    name = "test" if width is None else "test-certified"
    table = read_ranks(run / "results" / f"{name}-ranks.parquet")
    assert table.select(["head", "relation", "tail", "direction"]).to_pylist() == [
        {"head": graph.entity_ids[h], "relation": graph.relation_ids[r],
         "tail": graph.entity_ids[t], "direction": side}
        for side in ("tail", "head") for h, r, t in graph.test.tolist()]
    again = ranks_of(table)
    assert metrics(again) == metrics(ranks) == read_result(
        run / "results" / f"{name}.json")["both"]


def test_results_are_sliced_by_image_where_there_are_images(tiny: Path, tmp_path: Path) -> None:
    graph = read_graph(tiny)
    (tiny / "images" / "e4").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(tiny / "images" / "e4" / "0.png")
    ranks = some_ranks(2)
    part = measured(tmp_path / "part", graph, ranks)
    found = read_result(part / "results" / "test.json")["slices"]
    assert found["given_image"]["with"]["tail"]["count"] == 1
    assert found["answer_image"]["with"]["head"]["count"] == 1
    fusion = tmp_path / "fusion"
    fusion.mkdir()
    Fusion("fused", Part("generator", "../part", ""), (Part("scorer", "../scorer", ""),)).save(
        fusion / "config.yaml")
    (fusion / "training.json").write_text("{}")
    assert record(fusion, "test", graph, "test", ranks, Accelerator(cpu=True), {}
                  )["slices"] == found
    (tiny / "images" / "stranger").mkdir()  # which the audit names; results do without
    assert "given_image" not in record(part, "test", graph, "test", ranks, Accelerator(cpu=True),
                                       {})["slices"]


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 60))
def test_bootstrap_means_are_distributed_as_of_rows_drawn_one_by_one(
    seed: int, count: int
) -> None:
    values = np.random.default_rng(seed).integers(0, 3, (count, 2)).astype(float)
    found = bootstrap_means(values, 3000, seed)
    drawn = np.random.default_rng(seed + 1).integers(0, count, (3000, count))
    plain = values[drawn].mean(axis=1)
    spread = plain.std(axis=0) + 1e-9
    assert found.shape == plain.shape
    assert (np.abs(found.mean(axis=0) - values.mean(axis=0)) < 0.1 * spread + 1e-9).all()
    assert (np.abs(found.std(axis=0) - plain.std(axis=0)) < 0.1 * spread + 1e-9).all()
    assert (np.abs(np.cov(found.T) - np.cov(plain.T)) < 0.15 * spread.max() ** 2 + 1e-9).all()
    assert np.array_equal(found, bootstrap_means(values, 3000, seed))


def test_memory_does_not_change_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).random((50, 3))
    whole = bootstrap_means(values, 100, seed=3)
    monkeypatch.setattr("kgc_seq2seq.evaluation.compare._CELLS_AT_ONCE", 333)
    np.testing.assert_allclose(bootstrap_means(values, 100, seed=3), whole)


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6))
@example(seed=68148)
def test_differences_are_those_of_the_metrics_and_their_intervals_hold_them(seed: int) -> None:
    one, two = some_ranks(200, seed), some_ranks(200, seed + 1, worst=20)
    resamples = 4000  # so many that chance moves an interval's end by far less than is allowed
    alone = np.arange(200)
    found = paired_differences(one, two, alone, resamples, seed)
    before, after = metrics(one), metrics(two)
    assert list(found) == ["mrr", *(f"hits@{k}" for k in HITS)]
    for name, value in found.items():
        assert value["difference"] == pytest.approx(after[name] - before[name])
        assert value["low"] <= value["difference"] <= value["high"]
    for value in paired_differences(one, one, alone, 100, seed).values():
        assert value == {"difference": 0.0, "low": 0.0, "high": 0.0}
    bracketed = Ranks(two.better, two.tied, np.random.default_rng(seed).integers(0, 3, 200))
    back = paired_differences(bracketed, one, alone, resamples, seed)
    for name, value in paired_differences(one, bracketed, alone, resamples, seed).items():
        exactly = found[name]
        assert value["low"] < exactly["low"] + 0.02
        assert value["high"] > exactly["high"] - 0.02
        assert back[name]["difference"] == pytest.approx(-value["difference"])
        assert abs(back[name]["low"] + value["high"]) < 0.02
        assert abs(back[name]["high"] + value["low"]) < 0.02


def test_answers_of_one_query_are_drawn_together() -> None:
    one, two = some_ranks(60, 1), some_ranks(60, 2)
    alone = paired_differences(one, two, np.arange(60), 4000, 0)["mrr"]
    copies = np.tile(np.arange(60), 4)
    four = paired_differences(one[copies], two[copies], copies, 4000, 0)["mrr"]
    assert four["difference"] == pytest.approx(alone["difference"])
    for end in ("low", "high"):  # four answers that say the same are no news
        assert four[end] == pytest.approx(alone[end], abs=0.01)
    queries = np.random.default_rng(3).integers(0, 9, 60)
    queries[:9] = np.arange(9)
    found = paired_differences(one, two, queries, 4000, 0)["mrr"]
    gap = 1 / two.realistic - 1 / one.realistic
    rows = [np.flatnonzero(queries == query) for query in range(9)]
    draws = np.random.default_rng(4).integers(0, 9, (4000, 9))
    plain = [gap[np.concatenate([rows[query] for query in draw])].mean() for draw in draws]
    assert found["low"] == pytest.approx(np.quantile(plain, 0.025), abs=0.02)
    assert found["high"] == pytest.approx(np.quantile(plain, 0.975), abs=0.02)


def compared(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = cli.main(["compare", *map(str, words)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_runs_are_compared_query_by_query(
    tmp_path: Path, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = read_graph(tiny)
    good = Ranks(np.array([0, 0]), np.zeros(2, np.int64))
    bad = Ranks(np.array([1, 3]), np.zeros(2, np.int64))
    a, b = measured(tmp_path / "a", graph, bad), measured(tmp_path / "b", graph, good)
    code, out, _ = compared(capsys, a, b, "--json", "--resamples", "200")
    assert code == 0
    found = json.loads(out)
    gap = found["differences"][str(b)]["both"]["mrr"]
    assert gap["difference"] == pytest.approx(1 - (1 / 2 + 1 / 4) / 2)
    assert gap["low"] >= 1 / 2 - 1e-9  # the smaller of the two gains
    assert gap["high"] <= 3 / 4 + 1e-9
    assert found["differences"][str(b)]["tail"]["mrr"]["difference"] == pytest.approx(1 / 2)
    assert [run["system"] for run in found["runs"]] == ["a", "b"]
    code, out, _ = compared(capsys, a, b)
    assert "+0.6250 [" in out
    assert compared(capsys, a, b)[1] == out  # seeded
    assert "give 1 or more" in compared(capsys, a, b, "--resamples", "0")[2]


def test_unlike_protocols_are_refused_unless_told(
    tmp_path: Path, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ranks = Ranks(np.array([0, 1]), np.zeros(2, np.int64))
    a = measured(tmp_path / "a", read_graph(tiny), ranks)
    b = measured(tmp_path / "b", read_graph(tiny), ranks)
    result = json.loads((b / "results" / "test.json").read_text())
    result["protocol"]["ties"] = "optimistic"
    (b / "results" / "test.json").write_text(json.dumps(result))
    code, _, said = compared(capsys, a, b)
    assert code == 2
    assert "rule for ties" in said
    code, out, _ = compared(capsys, a, b, "--anyway")
    assert code == 0
    assert "other rule for ties" in out

    (tiny / "test.tsv").write_text("head\trelation\ttail\ne4\tcolour\te8\n")
    c = measured(tmp_path / "c", read_graph(tiny), ranks)
    code, _, said = compared(capsys, a, c)
    assert code == 2
    assert "data set" in said
    code, out, _ = compared(capsys, a, c, "--anyway", "--json")
    assert json.loads(out)["differences"] == {str(c): None}
    code, out, _ = compared(capsys, a, c, "--anyway")
    assert "did not rank the same queries" in out


def test_what_was_not_measured_so_is_refused_with_the_mend(
    tmp_path: Path, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ranks = Ranks(np.array([0, 1]), np.zeros(2, np.int64))
    a = measured(tmp_path / "a", read_graph(tiny), ranks)
    kept = a / "results" / "test-ranks.parquet"
    assert f"run 'kgc evaluate {a} --split valid'" in compared(capsys, a, a, "--split", "valid")[2]
    assert compared(capsys, a, a, "--ranks", "certified")[0] == 2
    kept.write_text("no table")
    assert "is no table of ranks" in compared(capsys, a, a)[2]
    kept.unlink()
    assert "to keep the rank of every query" in compared(capsys, a, a)[2]


@settings(max_examples=50)
@given(rows=st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40))
def test_reliability_is_that_of_a_plain_count(rows: list[tuple[float, bool]]) -> None:
    found = reliability(np.array([p for p, _ in rows]), np.array([right for _, right in rows]))
    bins: dict[int, list[tuple[float, bool]]] = {}
    for p, right in rows:
        bins.setdefault(next(b for b in range(BINS) if p * BINS <= b + 1), []).append((p, right))
    error = sum(abs(sum(right for _, right in part) - sum(p for p, _ in part))
                for part in bins.values()) / len(rows)
    assert found["ece"] == pytest.approx(error)
    assert [(round(part["low"] * BINS), part["count"]) for part in found["bins"]] == [
        (b, len(part)) for b, part in sorted(bins.items())]


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generator trained for a second on the tiny data set."""
    folder = tmp_path_factory.mktemp("small")
    write_tiny(folder / "tiny")
    run_training(RunConfig(
        dataset=str(folder / "tiny"), out=str(folder / "run"),
        model=ModelConfig(d_model=16, d_ff=16, num_heads=2),
        tokenizer=TokenizerConfig(pieces=60, words=20), input=InputConfig(captions=False),
        training=TrainingConfig(steps=60, batch_size=8, validate_every=60)))
    return folder / "run"


def test_calibrated_probabilities_are_those_of_predictions(small_run: Path) -> None:
    completer = Completer.from_pretrained(small_run)
    graph, some = completer.graph, completer.graph.train
    confidence, right = best_answers(completer, some)
    for number, (head, relation, tail) in enumerate(some.tolist()):
        found = completer.complete(
            Query(graph.entity_ids[head], graph.relation_ids[relation]), graph.num_entities)
        left = [answer for answer in found
                if not answer.known or answer.id == graph.entity_ids[tail]]
        total = sum(answer.probability for answer in left)
        assert confidence[number] == pytest.approx(left[0].probability / total, rel=0.005)
        assert right[number] == (left[0].id == graph.entity_ids[tail])


def test_calibration_is_written_beside_the_results(
    small_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["calibrate", str(small_run), "--split", "valid", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads((small_run / "results" / "valid-calibration.json").read_text())
    hits = read_result(small_run / "results" / "valid.json")["both"]["hits@1"]
    assert found["both"]["accuracy"] == pytest.approx(hits)
    assert found["both"]["count"] == sum(part["count"] for part in found["both"]["bins"]) == 2
    completer = Completer.from_pretrained(small_run)
    sure, _ = best_answers(completer, completer.graph.valid)
    assert [found[side]["confidence"] for side in ("tail", "head")] == pytest.approx(sure)
    assert sure[0] != sure[1]
    assert cli.main(["calibrate", str(small_run)]) == 0
    assert capsys.readouterr().out.split("\n")[1].split()[:2] == ["both", "2"]


def test_a_run_is_calibrated_when_its_training_has_ended(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    with pytest.raises(InputError, match="has not ended"):
        calibrate_run(tmp_path, "valid")
