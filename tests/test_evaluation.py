"""Ranks and metrics against their definitions."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from conftest import random_generator, random_graph
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kgc_seq2seq.completer import Completer
from kgc_seq2seq.config import RunConfig
from kgc_seq2seq.decoding.nodes import Prior
from kgc_seq2seq.evaluation import dense, ranking
from kgc_seq2seq.evaluation.dense import rank_by_scores
from kgc_seq2seq.evaluation.kept import Kept
from kgc_seq2seq.evaluation.ranking import (
    CertifiedRanks,
    encode_queries,
    exact_ranks,
    rank_triples,
)
from kgc_seq2seq.evaluation.ranks import Ranks, metrics
from kgc_seq2seq.evaluation.results import summarize
from kgc_seq2seq.evaluation.sampled import SampledRanks
from kgc_seq2seq.text.input_config import InputConfig
from kgc_seq2seq.text.tokenizer import TokenizerConfig
from kgc_seq2seq.train import run_training
from kgc_seq2seq.training.loop import TrainingConfig
from kgc_seq2seq.training.model import ModelConfig
from kgc_seq2seq.training.optimizer import OptimizerConfig


def test_ties_count_with_their_mean_rank() -> None:
    ranks = Ranks(better=np.array([0, 2, 4]), tied=np.array([0, 1, 3]))
    assert ranks.optimistic.tolist() == [1, 3, 5]
    assert ranks.pessimistic.tolist() == [1, 4, 8]
    assert ranks.realistic.tolist() == [1, 3.5, 6.5]
    values = metrics(ranks)
    assert values["mr"] == pytest.approx(11 / 3)
    assert values["mrr"] == pytest.approx((1 + 1 / 3.5 + 1 / 6.5) / 3)
    assert (values["hits@1"], values["hits@3"]) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert (values["hits@10"], values["count"]) == (1.0, 3)


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.integers(1, 5), st.booleans())
@example(0, 2, True)
def test_ranks_equal_those_of_sorted_scores(
    accelerator: Accelerator, seed: int, at_once: int, tying: bool
) -> None:
    """Also with a prior that puts scores on a grid, so that many tie."""
    generator = random_generator(seed)
    graph, search, verbalizer = generator.graph, generator.search, generator.verbalizer
    written = {tuple(query): search.all_scores(encode_queries(
        search, verbalizer, np.array([query], np.int32)))[0]
        for query in graph.queries(graph.test)[:, :2].tolist()}
    wanted = {query: np.round(scores) if tying else scores for query, scores in written.items()}

    def table(queries: np.ndarray) -> np.ndarray:
        return np.stack([wanted[tuple(query)] for query in queries.tolist()])

    def prior_of(queries: np.ndarray) -> Prior:
        return Prior.of(search.nodes, torch.from_numpy(table(queries) - np.stack(
            [written[tuple(query)] for query in queries.tolist()])))

    def rank(ranker: CertifiedRanks | None = None) -> Ranks:
        return rank_triples(search, verbalizer, graph.test, accelerator, ranker,
                            prior_of if tying else None)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "QUERIES_AT_ONCE", at_once)
        ranks = rank()

    facts = {tuple(fact) for split in ("train", "valid", "test")
             for fact in graph.split(split).tolist()}
    facts |= {(t, r, h) for h, r, t in facts if graph.symmetric[r]}
    better, tied = [], []
    for end in (2, 0):
        for fact in graph.test.tolist():
            relation = fact[1] if end == 2 else fact[1] + graph.num_relations
            scores = wanted[fact[2 - end], relation]
            gap = scores - scores[fact[end]]
            margin = ranking.TOLERANCE * max(1, abs(scores[fact[end]]))
            # Two scores that differ by about the margin may fall on either side of it.
            if (np.abs(np.abs(gap) - margin) < margin / 2)[np.arange(len(gap)) != fact[end]].any():
                return
            rival = []
            for other in range(graph.num_entities):
                changed = list(fact)
                changed[end] = other
                rival.append(tuple(changed) not in facts)
            better.append(int((gap[rival] > margin).sum()))
            tied.append(int((np.abs(gap[rival]) <= margin).sum()))
    assert ranks.better.tolist() == better
    assert ranks.tied.tolist() == tied
    assert any(tied) or (seed, tying) != (0, True), "the grid is too fine"
    certified = rank(CertifiedRanks(tolerance=0))
    assert certified.better.tolist() == better
    assert certified.tied.tolist() == tied
    assert certified.open.tolist() == [0] * len(better)
    cheap = rank(CertifiedRanks(budget=2))
    assert (cheap.optimistic <= ranks.optimistic).all()
    assert (cheap.pessimistic + cheap.open >= ranks.pessimistic).all()
    exactly, between = metrics(ranks), metrics(cheap)
    for name, value in between.items():
        if name != "count":
            assert value["low"] - 1e-9 <= exactly[name] <= value["high"] + 1e-9
    whole = rank_by_scores(graph, graph.test, table)
    assert whole.better.tolist() == better
    assert whole.tied.tolist() == tied


def test_a_killed_evaluation_goes_on(
    accelerator: Accelerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = random_generator(5)
    graph, search, verbalizer = generator.graph, generator.search, generator.verbalizer
    monkeypatch.setattr(ranking, "QUERIES_AT_ONCE", 2)
    monkeypatch.setattr(dense, "QUERIES_AT_ONCE", 2)
    lasting, calls = math.inf, 0

    def tick() -> None:
        nonlocal calls
        calls += 1
        if calls > lasting:
            raise KeyboardInterrupt

    def ranker(*words: Any) -> tuple[np.ndarray, ...]:
        tick()
        return exact_ranks(*words)

    def score(queries: np.ndarray) -> np.ndarray:
        tick()
        return search.all_scores(encode_queries(search, verbalizer, queries))

    for name, rank in (
            ("search", lambda kept: rank_triples(
                search, verbalizer, graph.test, accelerator, ranker, kept=kept)),
            ("dense", lambda kept: rank_by_scores(graph, graph.test, score, kept=kept))):
        lasting, calls = math.inf, 0
        whole, batches = rank(None), calls
        assert batches > 3
        for seed, done in ((0, 0), (0, 2), (1, 0)):  # of another training nothing is done
            lasting, calls = 2, 0
            kept = Kept(tmp_path / name, {"seed": seed}, accelerator)
            if not done:
                with pytest.raises(KeyboardInterrupt):
                    rank(kept)
                continue
            lasting = math.inf
            ranks = rank(kept)
            assert calls == batches - done
            assert np.array_equal(ranks.better, whole.better)
            assert np.array_equal(ranks.tied, whole.tied)


def test_sampling_follows_the_published_rules(
    accelerator: Accelerator, tiny: Path, tmp_path: Path
) -> None:
    run_training(RunConfig(
        dataset=str(tiny), out=str(tmp_path / "run"),
        model=ModelConfig(d_model=16, d_ff=16, num_heads=2),
        tokenizer=TokenizerConfig(pieces=60, words=20), input=InputConfig(captions=False),
        optimizer=OptimizerConfig(learning_rate=0.01, warmup_steps=10),
        training=TrainingConfig(steps=300, batch_size=8, validate_every=300)))
    completer = Completer.from_pretrained(tmp_path / "run")
    graph, generator = completer.graph, completer.generator
    some = graph.train[graph.train[:, 1] == 1]

    def ranks(samples: int, seed: int = 0) -> np.ndarray:
        found = rank_triples(generator.search, generator.verbalizer, some, accelerator,
                             SampledRanks(samples, draws_seed=seed))
        assert found.open is None  # neither certain nor within a bracket
        return found.optimistic

    few = ranks(3)
    assert few.tolist() == ranks(3).tolist()
    assert few.tolist() != ranks(3, seed=1).tolist()
    assert few.max() == graph.num_entities  # never drawn
    exact = rank_triples(generator.search, generator.verbalizer, some, accelerator).optimistic
    many = ranks(500)
    drawn = many < graph.num_entities
    assert drawn.sum() > len(some)
    assert (many[drawn] <= exact[drawn]).all()  # whatever is better was drawn at most once


def test_a_sampled_answer_stands_before_half_of_its_ties(
    accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = random_generator(0)
    graph, search = generator.graph, generator.search
    gold = int(graph.test[0, 2])
    known = graph.known_answers[int(graph.query_keys(*graph.test[:1, :2].T)[0])]
    drawn = [gold, *np.setdiff1d(np.arange(graph.num_entities), known)[:2]]
    monkeypatch.setattr("kgc_seq2seq.evaluation.sampled.spelt_entities",
                        lambda *_: torch.tensor(drawn))
    monkeypatch.setattr(search, "gold_scores", lambda *_: torch.zeros(len(drawn)))
    found = rank_triples(search, generator.verbalizer, graph.test[:1], accelerator,
                         SampledRanks(1))
    assert found.optimistic[0] == 2


def test_summary_parts_directions_and_relations() -> None:
    graph = random_graph(3)
    count = len(graph.test)
    ranks = Ranks(np.arange(2 * count), np.zeros(2 * count, np.int64))
    summary = summarize(graph, graph.test, ranks)
    assert summary["tail"]["mr"] == (count + 1) / 2
    assert summary["head"]["mr"] == count + (count + 1) / 2
    assert summary["both"]["count"] == 2 * count
    by_relation = summary["by_relation"].values()
    assert sum(values["both"]["count"] for values in by_relation) == 2 * count
    total = sum(values["head"]["mr"] * values["head"]["count"] for values in by_relation)
    assert total / count == pytest.approx(summary["head"]["mr"])
