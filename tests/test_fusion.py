"""Fusions against brute force; weights on valid; every kind of run through the command line."""

from __future__ import annotations

import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Barrier
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from conftest import answer, die_at, random_generator
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from caption_cache.errors import InputError
from kgc_seq2seq import train, train_scorer
from kgc_seq2seq.arrays import Ints
from kgc_seq2seq.calibrate import best_answers
from kgc_seq2seq.cli import main
from kgc_seq2seq.decoding.nodes import Prior
from kgc_seq2seq.evaluation import ranking
from kgc_seq2seq.evaluation.ranking import TOLERANCE, CertifiedRanks, encode_queries, rank_triples
from kgc_seq2seq.evaluation.ranks import Ranks
from kgc_seq2seq.evaluation.sampled import SampledRanks
from kgc_seq2seq.fuse import _folds
from kgc_seq2seq.graph.knowledge_graph import KnowledgeGraph
from kgc_seq2seq.scorers.one_vs_all import DistMult, OneVsAllConfig
from kgc_seq2seq.scorers.prior import Candidates, Voice
from kgc_seq2seq.scorers.scorer import Vocabulary
from kgc_seq2seq.systems.candidates import gather, stand_ins
from kgc_seq2seq.systems.dense import Dense
from kgc_seq2seq.systems.ensemble import Ensemble, fit_mixture, gather_answers
from kgc_seq2seq.systems.fused import Fused
from kgc_seq2seq.systems.fused_scorers import FusedScorers
from kgc_seq2seq.systems.generator import NAME, Generator
from kgc_seq2seq.systems.rerank import Rerank
from kgc_seq2seq.systems.system import System

CPU = torch.device("cpu")


def parts(seed: int, scorers: int) -> tuple[Generator, tuple[Voice, ...]]:
    """A random generator and random scorers; each has never seen two entities."""
    generator, voices = random_generator(seed), []
    graph = generator.graph
    generator.search.decoder.model.shared.weight.data *= 2
    for number in range(scorers):
        scorer = DistMult(OneVsAllConfig(dim=3, init_sd=1.5), Vocabulary.of(graph), {}).eval()
        places = torch.arange(graph.num_entities)
        places[torch.randperm(graph.num_entities)[:2]] = -1
        voices.append(Voice(f"scorer {number}", scorer, places))
    return generator, tuple(voices)


def names_of(generator: Generator, queries: Ints) -> np.ndarray:
    return generator.search.all_scores(
        encode_queries(generator.search, generator.verbalizer, queries)).astype(np.float64)


def opinions(voices: tuple[Voice, ...], queries: Ints) -> np.ndarray:
    """Log-probabilities by definition, [S, Q, N]."""
    found = []
    for voice in voices:
        places = voice.places.numpy()
        for head, relation in queries.tolist():
            scores = np.zeros(len(places))
            if places[head] >= 0:
                raw = voice.scorer.score(torch.tensor([places[head]]), torch.tensor([relation])
                                         )[0].detach().double().numpy()
                scores = np.where(places >= 0, raw[places], raw[places[places >= 0]].mean())
            found.append(scores - np.logaddexp.reduce(scores))
    return np.array(found).reshape(len(voices), len(queries), -1)


def log_softmax(table: np.ndarray) -> np.ndarray:
    return table - np.logaddexp.reduce(table, axis=1)[:, None]


def brute_ranks(graph: KnowledgeGraph, triples: Ints, table: np.ndarray
                ) -> tuple[list[int], list[int]] | None:
    """Better and tied from the scores of all entities, [2n, N]; None where rounding decides."""
    better, tied = [], []
    for scores, (head, relation, gold) in zip(table, graph.queries(triples).tolist(), strict=True):
        known = set(graph.known_answers[int(graph.query_keys(
            np.array([head]), np.array([relation]))[0])].tolist())
        rivals = [entity for entity in range(graph.num_entities) if entity not in known]
        gap = scores[rivals] - scores[gold]
        margin = TOLERANCE * max(1, abs(scores[gold]))
        if (np.abs(np.abs(gap) - margin) < margin / 2).any():
            return None
        better.append(int((gap > margin).sum()))
        tied.append(int((np.abs(gap) <= margin).sum()))
    return better, tied


def check_ranks(
    system: System, graph: KnowledgeGraph, table: np.ndarray, accelerator: Accelerator,
    *rankers: CertifiedRanks
) -> None:
    """Ranks on test, exact and by ``rankers``, are those of a table, [2n, N]."""
    expected = brute_ranks(graph, graph.test, table)
    if expected is None:
        return
    for ranker in (None, *rankers):
        ranks = system.rank(graph.test, accelerator, ranker)
        assert (ranks.better.tolist(), ranks.tied.tolist()) == expected


def check_calibration(system: Fused, table: np.ndarray) -> None:
    """The best answers on test, but for other known ones, are those of a model, [2n, N]."""
    graph, left = system.graph, table.copy()
    questions = graph.queries(graph.test)
    for row, (head, relation, gold) in enumerate(questions.tolist()):
        known = graph.known_answers[int(graph.query_keys(
            np.array([head]), np.array([relation]))[0])]
        left[row, known[known != gold]] = -np.inf
    confidence, right = best_answers(SimpleNamespace(  # type: ignore[arg-type]
        graph=graph, system=system, generator=system.generator), graph.test)
    np.testing.assert_allclose(confidence, np.exp(log_softmax(left)).max(1), rtol=0.011, atol=1e-5)
    if (np.diff(np.sort(left, axis=1)[:, -2:]) > 1e-3).all():  # or rounding decides
        assert right.tolist() == (left.argmax(1) == questions[:, 2]).tolist()


def fused_weights(seed: int, scorers: int, relations: int, size: float) -> Tensor:
    """Of a generator, from far below 1 to above, and of scorers; [1 + S, 2R]."""
    generator = torch.Generator().manual_seed(seed)
    own = torch.rand(1, 2 * relations, generator=generator) * 1.5 + 0.02
    own[0, 0] = 1
    return torch.cat([own, own * size * torch.rand(scorers, 2 * relations, generator=generator)])


def check_answers(
    system: System, queries: Ints, log_p: np.ndarray, share: float = 0.001
) -> None:
    """The best answers and their probabilities are those of a normalised table, [Q, N]."""
    size = log_p.shape[1]
    for k in (3, size):
        best = system.best(queries, k)
        expected = np.take_along_axis(log_p, best.entities, 1)
        np.testing.assert_allclose(expected, -np.sort(-log_p, axis=1)[:, :k], atol=1e-4)
        assert (np.abs(best.probabilities - np.exp(expected)) <= best.errors + 1e-5).all()
        assert (best.errors <= share * best.probabilities + 1e-6).all()
        assert (np.diff(best.scores, axis=1) <= 1e-6).all()
        assert all(len(set(row)) == k for row in best.entities.tolist())


@settings(max_examples=12)
@given(st.integers(0, 10**6), st.integers(1, 3), st.sampled_from([-0.5, 0.7, 3.0]))
def test_the_fusion_found_by_search_is_that_of_brute_force(
    accelerator: Accelerator, seed: int, scorers: int, size: float
) -> None:
    generator, voices = parts(seed, scorers)
    graph = generator.graph
    weights = fused_weights(seed, scorers, graph.num_relations, size)
    fused = Fused(generator, voices, weights)
    questions = graph.queries(graph.test)
    queries = questions[:, :2]
    own, *said = weights.double().numpy()[:, queries[:, 1], None] * np.concatenate(
        [names_of(generator, queries)[None], opinions(voices, queries)])
    fitted = own + sum(said)  # the model whose likelihood the weights are chosen by
    check_ranks(fused, graph, fitted / weights[0, queries[:, 1], None].double().numpy(),
                accelerator, CertifiedRanks(tolerance=0))
    check_calibration(fused, fitted)
    check_answers(fused, queries, log_softmax(fitted), 0.011)
    best = fused.best(queries, 4)
    shares = fused.contributions(queries, best.entities)
    assert list(shares) == [NAME, *(voice.label for voice in voices)]
    np.testing.assert_allclose(sum(shares.values()), best.scores, atol=1e-4)


@settings(max_examples=12)
@given(st.integers(0, 10**6), st.integers(1, 3), st.sampled_from([-0.5, 0.7, 3.0]))
def test_scorers_alone_are_the_sum_of_their_terms(
    accelerator: Accelerator, seed: int, scorers: int, size: float
) -> None:
    generator, voices = parts(seed, scorers)
    graph = generator.graph
    weights = size * torch.rand(scorers, 2 * graph.num_relations)
    system = FusedScorers(graph, voices, weights)
    queries = graph.queries(graph.test)[:, :2]
    table = (weights.double().numpy()[:, queries[:, 1], None] * opinions(voices, queries)).sum(0)
    check_ranks(system, graph, table, accelerator)
    check_answers(system, queries, log_softmax(table))
    best = system.best(queries, 4)
    shares = system.contributions(queries, best.entities)
    assert list(shares) == [voice.label for voice in voices]
    summed = sum(shares.values())
    np.testing.assert_allclose(np.diff(summed, axis=1), np.diff(best.scores, axis=1), atol=1e-4)


@settings(max_examples=12)
@given(st.integers(0, 10**6), st.integers(1, 2), st.integers(1, 14))
def test_reranking_is_that_of_brute_force(
    accelerator: Accelerator, seed: int, scorers: int, depth: int
) -> None:
    generator, voices = parts(seed, scorers)
    graph = generator.graph
    system = Rerank(generator, voices, depth)
    queries = graph.queries(graph.test)[:, :2]
    own, said = names_of(generator, queries), opinions(voices, queries).sum(0)
    ranks = system.rank(graph.test, accelerator)
    plain = brute_ranks(graph, graph.test, own)
    apart = np.abs(np.diff(np.sort(own, axis=1))).min() > 1e-3  # rounding does not choose the best
    if plain is not None and apart:
        for row, (head, relation, gold) in enumerate(graph.queries(graph.test).tolist()):
            known = graph.known_answers[int(graph.query_keys(
                np.array([head]), np.array([relation]))[0])]
            order = [entity for entity in np.argsort(-own[row]).tolist()
                     if entity == gold or entity not in known]
            found = (int(ranks.better[row]), int(ranks.tied[row]))
            if order.index(gold) >= depth:
                assert found == (plain[0][row], plain[1][row])
                continue
            gap = np.delete(said[row][order[:depth]], order.index(gold)) - said[row][gold]
            margin = TOLERANCE * max(1, abs(said[row][gold]))
            if not (np.abs(np.abs(gap) - margin) < margin / 2).any():
                assert found == ((gap > margin).sum(), (np.abs(gap) <= margin).sum())
    if not apart:
        return
    size = graph.num_entities
    best, first = system.best(queries, size), min(depth, size)
    np.testing.assert_allclose(best.probabilities.sum(1), 1, atol=2e-3)
    normal = log_softmax(own)
    for row, entities in enumerate(best.entities.tolist()):
        top = np.argsort(-own[row])[:first]
        assert set(entities[:first]) == set(top.tolist())
        assert entities[first:] == np.argsort(-own[row])[first:].tolist()
        inner = said[row][top] - np.logaddexp.reduce(said[row][top])
        expected = dict(zip(top.tolist(), np.exp(inner) * np.exp(normal[row][top]).sum(),
                            strict=True))
        np.testing.assert_allclose(best.probabilities[row][:first],
                                   [expected[entity] for entity in entities[:first]], atol=1e-3)


@settings(max_examples=8)
@given(st.integers(0, 10**6), st.integers(1, 2))
def test_the_ensemble_is_the_mean_of_probabilities(
    accelerator: Accelerator, seed: int, scorers: int
) -> None:
    generator, voices = parts(seed, scorers)
    graph = generator.graph
    weights = torch.rand(1 + scorers).softmax(0)
    system = Ensemble(generator, voices, weights)
    queries = graph.queries(graph.test)[:, :2]
    tables = np.concatenate([log_softmax(names_of(generator, queries))[None],
                             opinions(voices, queries)])
    mixed = np.log((weights.double().numpy()[:, None, None] * np.exp(tables)).sum(0))
    check_ranks(system, graph, mixed, accelerator)
    check_answers(system, queries, mixed)
    best = system.best(queries, 4)
    np.testing.assert_allclose(sum(system.contributions(queries, best.entities).values()),
                               best.probabilities, atol=1e-5)


def test_a_scorer_says_nothing_of_what_it_has_never_seen() -> None:
    generator, (voice,) = parts(5, 1)
    missing = int((voice.places < 0).nonzero()[0])
    present = (voice.places >= 0).nonzero()[:, 0]
    heads, relations = torch.tensor([int(present[0]), missing]), torch.tensor([0, 1])
    table = voice.log_softmax(heads, relations)
    torch.testing.assert_close(table.exp().sum(1), torch.ones(2))
    assert float(table[1].max() - table[1].min()) == 0
    raw = voice.scorer.score(heads[:1], relations[:1])[0]
    by_seen = raw[present].log_softmax(0)
    torch.testing.assert_close(table[0, present].log_softmax(0), by_seen)
    torch.testing.assert_close(table[0, missing] - table[0, present[0]],
                               raw[present].mean() - raw[present[0]])
    graph = generator.graph
    grown = replace(graph, entity_ids=("new", *graph.entity_ids))
    assert Voice.of("x", voice.scorer, grown).places.tolist() == [-1, *range(graph.num_entities)]


@pytest.mark.parametrize("best", [None, 1, 3])
def test_candidates_have_the_exact_scores_of_every_part(
    best: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator, voices = parts(3, 2)
    graph = generator.graph
    # What it has never seen would tie, and ties could be cut either way.
    voices = tuple(replace(voice, places=torch.arange(graph.num_entities)) for voice in voices)
    asked = list[Ints]()
    monkeypatch.setattr("kgc_seq2seq.systems.candidates.encode_queries",
                        lambda *words: (asked.append(words[2]), encode_queries(*words))[1])
    found = gather(graph, generator, voices, graph.valid, best)
    questions = graph.queries(graph.valid)
    distinct = np.unique(questions[:, :2], axis=0)
    assert len(distinct) < len(questions)
    np.testing.assert_array_equal(np.concatenate(asked), distinct)  # none of them twice
    names, said = names_of(generator, questions[:, :2]), opinions(voices, questions[:, :2])
    assert found.relations.tolist() == questions[:, 1].tolist()
    for row, (head, relation, gold) in enumerate(questions.tolist()):
        known = set(graph.known_answers[int(graph.query_keys(
            np.array([head]), np.array([relation]))[0])].tolist()) - {gold}
        allowed = [entity for entity in range(graph.num_entities) if entity not in known]
        listed, written = torch.isfinite(found.offsets[row]), found.parts[row, :, 0]
        certain = listed & (found.offsets[row] == 0)
        draws = 3 * (best or 0)  # as many as the best of all three parts
        mine = sorted(np.round(written[certain].numpy(), 3).tolist())
        rivals = [entity for entity in allowed if entity != gold]
        wanted = set(allowed) if best is None else {gold}.union(*(
            sorted(rivals, key=lambda entity: -table[row][entity])[:best]
            for table in (names, *said)))
        others = sorted(set(allowed) - wanted)
        if best and len(others) > draws:  # some are drawn, and stand for all
            drawn = written[listed & ~certain].tolist()
            assert 0 < len(drawn) <= draws
            assert all(np.abs(names[row][others] - name).min() < 2e-3 for name in drawn)
        else:
            wanted.update(others)
        assert mine == pytest.approx(sorted(names[row][sorted(wanted)]), abs=2e-3)
        place = int(found.gold[row])
        assert float(written[place]) == pytest.approx(names[row][gold], abs=1e-4)
        assert found.parts[row, place, 1:].tolist() == pytest.approx(
            said[:, row, gold].tolist(), abs=1e-4)


def test_answers_have_the_exact_scores_of_every_part(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    generator, voices = parts(3, 2)
    graph, asked = generator.graph, list[Ints]()
    monkeypatch.setattr("kgc_seq2seq.systems.ensemble.encode_queries",
                        lambda *words: (asked.append(words[2]), encode_queries(*words))[1])
    found = gather_answers(graph, generator, voices, graph.valid)
    questions = graph.queries(graph.valid)
    distinct = np.unique(questions[:, :2], axis=0)
    assert len(distinct) < len(questions)
    np.testing.assert_array_equal(np.concatenate(asked), distinct)  # none of them twice
    queries, gold = questions[:, :2], questions[:, 2]
    tables = np.concatenate([log_softmax(names_of(generator, queries))[None],
                             opinions(voices, queries)])
    wanted = tables[:, np.arange(len(gold)), gold].T.tolist()
    assert sorted(found.T.tolist()) == pytest.approx(np.array(sorted(wanted)), abs=2e-3)


def test_drawn_candidates_stand_for_all_in_the_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    beliefs = (3 * torch.randn(2, 1, 30, generator=generator)).log_softmax(2)
    beliefs[:, :, 3] = -torch.inf
    among = torch.rand(1, 30, generator=generator) < 0.7
    queries = 20_000
    found = stand_ins(among.expand(queries, -1), beliefs.expand(-1, queries, -1), 5, generator)
    torch.testing.assert_close(found.mean(0, keepdim=True), among.float(), atol=0.1, rtol=0)
    assert int((found > 0).sum(1).max()) <= 5
    # Sums over what scorers believe are near those over all, as even draws' are not.
    believed = beliefs.exp().mean(0)
    error = (found * believed).sum(1) - (among * believed).sum()
    assert float(error.abs().max()) < (among * believed).sum()
    assert torch.equal(stand_ins(among, beliefs, 30, generator), among.float())
    assert not stand_ins(torch.zeros_like(among), beliefs, 5, generator).any()


def test_the_mixture_that_made_the_answers_is_found() -> None:
    generator = torch.Generator().manual_seed(0)
    tables = (2 * torch.randn(3, 20_000, 8, generator=generator)).softmax(2)
    weights = torch.tensor([0.6, 0.3, 0.1])
    mixed = (weights[:, None, None] * tables).sum(0)
    gold = torch.multinomial(mixed, 1, generator=generator)[:, 0]
    answers = tables[:, torch.arange(len(gold)), gold].log()
    found = fit_mixture(answers)
    torch.testing.assert_close(found, weights, atol=0.03, rtol=0)
    assert float(found.sum()) == pytest.approx(1)
    # An answer that no part believes, far below the least float32, says nothing of the parts.
    hopeless = torch.full((3, 1), -200.0)
    torch.testing.assert_close(fit_mixture(torch.cat([answers, hopeless], 1)), found, atol=1e-4,
                               rtol=0)


def test_the_heuristic_saves_work_and_changes_no_rank(accelerator: Accelerator) -> None:
    generator, voices = parts(7, 1)
    graph, search = generator.graph, generator.search
    fused = Fused(generator, voices, torch.tensor([1.0, 2.0])[:, None].expand(
        -1, 2 * graph.num_relations))

    def blind(queries: Ints) -> Prior:
        prior = fused.prior(queries)
        leaf = torch.from_numpy(search.trie.is_leaf)[:, None]
        return Prior(torch.where(leaf, prior.under, prior.under[:1]))

    ranks, positions = [], []
    for prior_of in (fused.prior, blind):
        search.positions = 0
        ranks.append(rank_triples(search, generator.verbalizer, graph.train, accelerator,
                                  prior_of=prior_of))
        positions.append(search.positions)
    assert ranks[0].better.tolist() == ranks[1].better.tolist()
    assert positions[0] < positions[1]


def test_processes_share_the_queries_and_each_has_every_rank(
    accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two threads stand for two processes, each of which waits for the other's share."""
    monkeypatch.setattr(ranking, "QUERIES_AT_ONCE", 2)
    generator, voices = parts(3, 2)
    graph, meeting = generator.graph, Barrier(2, timeout=60)
    shares: list[Tensor] = [torch.zeros(0)] * 2

    def ranked(system: System, process: int) -> Ranks:
        def add_up(share: Tensor) -> Tensor:
            assert share.any()
            shares[process] = share
            meeting.wait()
            total = shares[0] + shares[1]
            meeting.wait()
            return total

        return system.rank(graph.test, SimpleNamespace(  # type: ignore[arg-type]
            process_index=process, num_processes=2, is_main_process=not process, device=CPU,
            reduce=add_up))

    for system in (generator, Rerank(generator, voices, 5), FusedScorers(
            graph, voices, torch.ones(2, 2 * graph.num_relations))):
        alone = system.rank(graph.test, accelerator)
        with ThreadPoolExecutor(2) as pool:
            for found in pool.map(partial(ranked, system), range(2)):
                assert found.better.tolist() == alone.better.tolist()
                assert found.tied.tolist() == alone.tied.tolist()


def test_the_questions_of_a_fact_share_a_fold() -> None:
    facts = 7
    nothing = torch.zeros(2 * facts)
    folds = _folds(Candidates(nothing, nothing, nothing, nothing), 3)
    assert torch.equal(folds[:facts], folds[facts:])
    assert sorted(folds[:facts].bincount().tolist()) == [2, 2, 3]


def test_only_a_search_has_other_ranks_than_exact_ones(accelerator: Accelerator) -> None:
    generator, voices = parts(1, 1)
    graph = generator.graph
    whole = replace(voices[0], places=torch.arange(graph.num_entities))
    for system in (Dense(graph, whole, CPU), Rerank(generator, voices, 3),
                   Ensemble(generator, voices, torch.tensor([0.5, 0.5]))):
        with pytest.raises(InputError, match="ask for --ranks exact"):
            system.rank(graph.test, accelerator, CertifiedRanks())
    fused = Fused(generator, voices, torch.ones(2, 2 * graph.num_relations))
    with pytest.raises(InputError, match="Sampled ranks are those of a generator alone"):
        fused.rank(graph.test, accelerator, SampledRanks(2))


# Through the command line: tiny runs of every kind.

VALID = "head\trelation\ttail\n" + "".join(f"{h}\t{r}\t{t}\n" for h, r, t in [
    ("e2", "kind", "e3"), ("e0", "beside", "e2"), ("e4", "colour", "e8"), ("e5", "beside", "e4"),
    ("e1", "colour", "e7")])
STEPS = ["--training.steps", "30", "--training.batch_size", "8", "--training.validate_every", "30"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data set, a generator and two scorers; tests must not change it."""
    from conftest import TINY

    from kgc_seq2seq.scorers.features.choose import FeatureChoice, make_vectors

    folder = tmp_path_factory.mktemp("runs")
    (folder / "data").mkdir()
    for name, text in {**TINY, "valid.tsv": VALID}.items():
        (folder / "data" / name).write_text(text)
    make_vectors(folder / "data", FeatureChoice(dim=5), show_progress=False)
    data = ["--dataset", str(folder / "data"), *STEPS]
    assert train.main([*data, "--out", str(folder / "generator"), "--model.d_model", "16",
                       "--model.d_ff", "16", "--model.num_heads", "2", "--tokenizer.pieces", "60",
                       "--tokenizer.words", "20", "--input.captions", "false"]) == 0
    for scorer in ("distmult", "lbmkgc"):
        assert train_scorer.main([*data, "--scorer", scorer, "--out", str(folder / scorer),
                                  "--model.dim", "4", "--model.modalities", '["text"]']) == 0
    return folder


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    capsys.readouterr()
    assert main([*map(str, words)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.strip().split("\n")) == 1
    return printed.err


@pytest.mark.parametrize("method, options", [
    ("fused", ["--folds", "2"]), ("rerank", ["--depth", "3"]), ("ensemble", [])])
def test_a_fusion_is_a_run_like_any_other(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str,
    options: list[str]
) -> None:
    here = shutil.copytree(runs, tmp_path / "here")
    out = here / "fusion"
    command = ["fuse", here / "generator", here / "distmult", here / "lbmkgc", "--out", out,
               "--method", method, *options]
    tested = answer(capsys, *command)
    about = tested["protocol"]
    assert about["split"] == "test"
    assert about["system"] == "generator + DistMult + LBMKGC"
    assert (about["method"], about["ranks"]) == (method, "exact")
    assert about["weights_fitted_on"] == (None if method == "rerank" else "valid")
    assert [part["run"] for part in about["parts"]] == ["../generator", "../distmult",
                                                        "../lbmkgc"]
    if method == "fused":
        assert list(about["weights"]) == ["generator", "DistMult", "LBMKGC"]
        assert about["weights"]["DistMult"]["kind"].keys() == {"tail", "head"}
        tried = about["shrinkage_chosen_by"]["held_out_log_likelihood"]
        assert len(set(tried.values())) > 1
        assert tried[str(about["shrinkage"])] == max(tried.values())
        said = [[part[relation][side] for side in ("tail", "head")
                 for relation in ("kind", "colour", "beside")]
                for part in about["weights"].values()]
        np.testing.assert_allclose(load_file(out / "fusion.safetensors")["weights"], said,
                                   atol=1e-3)
        valid = json.loads((out / "results" / "valid.json").read_text())
        sure = answer(capsys, "calibrate", out, "--split", "valid")
        for side in ("both", "tail", "head"):
            assert sure[side]["accuracy"] == pytest.approx(valid[side]["hits@1"])
    moved = tmp_path / "moved"
    here.rename(moved)  # the parts move with it
    out = moved / "fusion"
    again = answer(capsys, "evaluate", out)
    assert again["both"] == pytest.approx(tested["both"])
    found = answer(capsys, "predict", out, "--head", "thing apple", "--relation", "kind", "-k", 9,
                   "--explain")
    assert sum(entry["probability"] for entry in found["answers"]) == pytest.approx(1, abs=0.01)
    assert found["modality_weights"]["LBMKGC"].keys() == {"structure", "text"}
    assert sum(found["modality_weights"]["LBMKGC"].values()) == pytest.approx(1, abs=1e-5)
    assert list(found["contributions"][0]) == [
        "generator" if method == "ensemble" else "log p(name)", "DistMult", "LBMKGC"]
    for entry, shares in zip(found["answers"], found["contributions"], strict=True):
        if method == "fused":
            assert sum(shares.values()) == pytest.approx(entry["log_probability"], abs=1e-4)
        if method == "ensemble":
            assert sum(shares.values()) == pytest.approx(entry["probability"], abs=1e-5)
    assert main(["predict", str(out), "--tail", "thing red", "--relation", "colour",
                 "--explain"]) == 0
    assert "LBMKGC reads of thing red: structure 0." in capsys.readouterr().out
    answer(capsys, "report", out)
    assert "How did it learn?" not in (out / "report.html").read_text()
    if method == "fused":
        assert "is certified" not in refused(capsys, "evaluate", out, "--ranks", "sampled")
        within = answer(capsys, "evaluate", out, "--ranks", "certified", "--tolerance", "0.1")
        assert within["both"]["mrr"]["low"] <= tested["both"]["mrr"] <= (
            within["both"]["mrr"]["high"])
        parts = [moved / "generator", moved / "distmult", moved / "lbmkgc"]
        at_once = answer(capsys, "fuse", *parts, "--out", moved / "other", "--folds", "2",
                         "--ranks", "certified", "--budget", "1000")
        assert [at_once["protocol"][key] for key in ("ranks", "tolerance", "budget")] == [
            "certified", 0.002, 1000]
        assert "give --ranks certified" in refused(capsys, *command, "--budget", "5")
        assert "budget is 0" in refused(capsys, *command, "--ranks", "certified", "--budget", "0")
        assert at_once["both"]["mrr"]["low"] - 1e-6 <= tested["both"]["mrr"] <= (
            at_once["both"]["mrr"]["high"] + 1e-6)
    else:
        assert "has only exact ranks" in refused(capsys, *command, "--ranks", "certified")


def test_scorers_alone_are_fused_too(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = shutil.copytree(runs, tmp_path / "here")
    out = here / "fusion"
    command = ["fuse", here / "distmult", here / "lbmkgc", "--out", out, "--folds", "2", "--floor",
               "0.01"]
    tested = answer(capsys, *command)
    about = tested["protocol"]
    assert (about["system"], about["floor"]) == ("DistMult + LBMKGC", 0.01)
    assert [part["run"] for part in about["parts"]] == ["../distmult", "../lbmkgc"]
    assert list(about["weights"]) == ["DistMult", "LBMKGC"]
    here.rename(tmp_path / "moved")
    out = tmp_path / "moved" / "fusion"
    assert answer(capsys, "evaluate", out)["both"] == pytest.approx(tested["both"])
    found = answer(capsys, "predict", out, "--head", "thing apple", "--relation", "kind", "-k", 9,
                   "--explain")
    assert sum(entry["probability"] for entry in found["answers"]) == pytest.approx(1)
    assert list(found["contributions"][0]) == ["DistMult", "LBMKGC"]
    answer(capsys, "report", out)
    for words in (["evaluate", out, "--ranks", "certified"], ["calibrate", out]):
        assert "generator" in refused(capsys, *words)
    queries = tmp_path / "queries.jsonl"
    queries.write_text('{"head": {"name": "thing new"}, "relation": "kind"}\n')
    assert "fusion with one" in refused(capsys, "predict", out, "--queries", queries)


def test_a_killed_fusion_goes_on_and_a_finished_one_is_left_as_it_is(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = shutil.copytree(runs, tmp_path / "here")
    out, fitted = here / "fusion", list[int]()
    command = ["fuse", here / "generator", here / "distmult", "--folds", "2", "--out", out]
    tested = answer(capsys, *command[:-1], here / "whole")
    monkeypatch.setattr(ranking, "QUERIES_AT_ONCE", 1)

    def counted(*values: Any) -> Any:
        fitted.append(1)
        return gather(*values)

    kept = die_at({3, 12}, monkeypatch)  # in valid, after the fit, and in test
    monkeypatch.setattr("kgc_seq2seq.fuse.gather", counted)
    for _ in range(2):
        assert main([*map(str, command)]) == 130
    again = answer(capsys, *command)
    assert again["both"] == tested["both"]
    assert len(kept) == len(set(kept)) == 13
    assert len(fitted) == 1
    assert answer(capsys, *command) == again
    answer(capsys, *command, "--ranks", "certified")  # of the same fusion
    assert (out / "results" / "test.json").is_file()
    assert len(fitted) == 1
    # What was asked otherwise, or of other facts, is fitted anew.
    command = [*command[:3], "--shrinkage", "3", "--out", out]
    other = answer(capsys, *command)
    assert other["protocol"]["shrinkage"] == 3
    test = here / "data" / "test.tsv"
    test.write_text("head\trelation\ttail\ne2\tbeside\te5\ne1\tkind\te6\n")
    changed = answer(capsys, *command)
    assert changed["protocol"]["graph"] != other["protocol"]["graph"]
    assert len(fitted) == 3


@pytest.mark.parametrize(
    "options", [["--folds", "2"], ["--folds", "2", "--candidates", "2"], ["--method", "ensemble"]],
    ids=" ".join)
def test_a_fusion_killed_while_it_is_fitted_asks_the_generator_nothing_twice(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    options: list[str],
) -> None:
    here = shutil.copytree(runs, tmp_path / "here")
    out = here / "fusion"
    command = ["fuse", here / "generator", here / "distmult", *options, "--out"]
    for module in ("ensemble", "candidates"):
        monkeypatch.setattr(f"kgc_seq2seq.systems.{module}.QUERIES_AT_ONCE", 1)
    if "--candidates" in options:
        monkeypatch.setattr("kgc_seq2seq.fuse.AT_ONCE", 0)
    whole = answer(capsys, *command, here / "whole")
    kept = die_at({1, 3}, monkeypatch)
    assert main([*map(str, command), str(out)]) == 130
    assert "not fitted" in refused(capsys, "predict", out, "--head", "e0", "--relation", "kind")
    assert main([*map(str, command), str(out)]) == 130
    again = answer(capsys, *command, out)
    assert len(kept) == len(set(kept)) > 4
    assert again["protocol"]["weights"] == whole["protocol"]["weights"]
    assert again["both"] == whole["both"]
    assert not (out / "fit.parts").exists()


def test_the_weights_come_from_valid_alone(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = shutil.copytree(runs, tmp_path / "here")
    words = ["fuse", here / "generator", here / "distmult", "--folds", "2", "--out"]
    before = answer(capsys, *words, here / "one")["protocol"]
    test = here / "data" / "test.tsv"
    # Other answers to queries of valid: that they are right must not be known.
    test.write_text("head\trelation\ttail\ne2\tkind\te6\ne1\tcolour\te4\n")
    after = answer(capsys, *words, here / "other")["protocol"]
    for key in ("weights", "shrinkage", "shrinkage_chosen_by"):
        assert before[key] == after[key]
    assert before["graph"] != after["graph"]


def test_a_scorer_is_evaluated_and_asked_like_a_generator(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = shutil.copytree(runs, tmp_path / "here")
    run = here / "lbmkgc"
    before = json.loads((run / "results" / "test.json").read_text())
    assert answer(capsys, "evaluate", run)["both"] == before["both"]
    found = answer(capsys, "predict", run, "--head", "e0", "--relation", "kind", "-k", 20,
                   "--explain")
    assert len(found["answers"]) == 9
    assert sum(entry["probability"] for entry in found["answers"]) == pytest.approx(1)
    for entry, shares in zip(found["answers"], found["contributions"], strict=True):
        assert entry["probability"] == pytest.approx(np.exp(entry["log_probability"]))
        assert entry["probability_error"] == 0
        assert shares == pytest.approx({"LBMKGC": entry["log_probability"]}, abs=1e-5)
    answer(capsys, "report", run)
    assert "How did it learn?" in (run / "report.html").read_text()
    assert "ask for --ranks exact" in refused(capsys, "evaluate", run, "--ranks", "certified")


def test_what_cannot_be_fused_is_refused_in_one_sentence(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generator, scorer = runs / "generator", runs / "distmult"
    fine = ["--out", tmp_path / "out", "--floor", "0"]
    for words, why in ((["--method", "rerank", "--folds", "3"], "--folds is of --method fused"),
                       (["--method", "ensemble", "--depth", "3"], "--depth is of --method rerank"),
                       (["--depth", "3"], "--depth is of --method rerank"),
                       (["--folds", "3", "--shrinkage", "1"], "--folds is for choosing")):
        assert why in refused(capsys, "fuse", generator, scorer, *fine, *words)
    assert "the run of a generator, where that of a scorer is needed; give the generator's run " \
           "first" in refused(capsys, "fuse", scorer, generator, *fine)
    for words in (["--method", "rerank"], ["--ranks", "certified"]):
        assert "give a generator's run first" in refused(
            capsys, "fuse", scorer, runs / "lbmkgc", *fine, *words)
    assert "the run of a generator, where that of a scorer" in refused(
        capsys, "fuse", generator, generator, *fine)
    assert "none is not the folder of a run" in refused(
        capsys, "fuse", generator, tmp_path / "none", *fine)
    assert "holds something that is no fusion" in refused(
        capsys, "fuse", generator, scorer, "--out", scorer)
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refused(
        capsys, "fuse", generator, scorer, "--out", tmp_path / "file")
    assert "5 facts, too few for 6 folds" in refused(
        capsys, "fuse", generator, scorer, "--out", tmp_path / "out", "--folds", "6")
    for key, value in {"--shrinkage": "-1", "--folds": "1", "--candidates": "0", "--depth": "0",
                       "--floor": "1"}.items():
        assert f"{key} is " in refused(capsys, "fuse", generator, scorer, "--out",
                                       tmp_path / "out", key, value)
    assert not (tmp_path / "out").exists()
    answer(capsys, "fuse", generator, scorer, *fine)
    assert "is a fusion itself" in refused(
        capsys, "fuse", tmp_path / "out", scorer, "--out", tmp_path / "more")
    assert "give each once" in refused(capsys, "fuse", generator, scorer, scorer, *fine)


@pytest.mark.parametrize("name, old, new, sentence", [
    ("entities.tsv", "e8\tthing green", "e9\tthing green", "which is another graph"),
    ("train.tsv", "e0\tkind\te3", "e2\tkind\te3", "1 facts of valid or test"),
    ("train.tsv", "e0\tkind\te3", "e4\tbeside\te5", "1 facts of valid or test"),  # turned
    ("valid.tsv", "", "", "selected on 1 facts"),
])
def test_a_scorer_of_another_graph_is_refused(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, old: str,
    new: str, sentence: str
) -> None:
    other = shutil.copytree(runs / "data", tmp_path / "data")
    for path in other.glob("*.tsv"):
        text = path.read_text()
        if path.name == name:
            text = text.replace(old, new)
        if name == "entities.tsv":
            text = text.replace("\te8\n", "\te9\n").replace("\ne8\t", "\ne9\t")
        if name == "train.tsv" and path.name == "valid.tsv":
            text = "head\trelation\ttail\ne0\tkind\te3\n"
        if name == path.name == "valid.tsv":
            text = (runs / "data" / "test.tsv").read_text()
        path.write_text(text)
    assert train_scorer.main(["--dataset", str(other), *STEPS, "--scorer", "distmult", "--out",
                              str(tmp_path / "scorer"), "--model.dim", "4"]) == 0
    assert sentence in refused(capsys, "fuse", runs / "generator", tmp_path / "scorer", "--out",
                               tmp_path / "out", "--folds", "2")


def test_a_fusion_whose_parts_have_changed_is_refused(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture
) -> None:
    here = shutil.copytree(runs, tmp_path / "here")
    out = here / "fusion"
    answer(capsys, "fuse", here / "generator", here / "distmult", "--out", out, "--folds", "2")
    ask = ["predict", out, "--head", "e0", "--relation", "kind"]
    config = (out / "config.yaml").read_text()
    answer(capsys, "evaluate", out)
    assert not caplog.messages
    texts = re.search("texts: (.+)", config)
    assert texts is not None
    (out / "config.yaml").write_text(config.replace(texts[1], 64 * "0"))
    answer(capsys, "evaluate", out)
    assert [str(out) in message and "other captions" in message for message in caplog.messages] == [
        True]
    (out / "config.yaml").write_text(config.replace("fusion: fused", "fusion: guess"))
    assert "describes no fusion" in refused(capsys, *ask)
    (out / "config.yaml").write_text(config)
    weights = load_file(out / "fusion.safetensors")
    save_file(weights | {"weights": weights["weights"][1:] / weights["weights"][0]},
              out / "fusion.safetensors")
    assert "did not keep the generator's weights" in refused(capsys, *ask)
    shutil.rmtree(here / "distmult" / "model")
    assert "distmult has no model; put the run back" in refused(capsys, *ask)
    shutil.copytree(here / "lbmkgc" / "model", here / "distmult" / "model")
    assert "is not the one that" in refused(capsys, *ask)


@pytest.mark.parametrize("width", [3, 5])
def test_a_training_does_not_go_on_with_other_vectors(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    from kgc_seq2seq.scorers.features.choose import FeatureChoice, make_vectors

    here = shutil.copytree(runs, tmp_path / "here")
    table = here / "data" / "entities.tsv"
    first, second, *rest = table.read_text().splitlines()
    table.write_text("\n".join([f"{first}\tdescription", f"{second}\tgrows on trees",
                                *(f"{line}\t" for line in rest)]) + "\n")
    make_vectors(here / "data", FeatureChoice(dim=width), show_progress=False)
    words = ["--dataset", str(here / "data"), *STEPS, "--scorer", "lbmkgc", "--out",
             str(here / "lbmkgc"), "--model.dim", "4", "--model.modalities", '["text"]']
    assert train_scorer.main(words) == 2
    said = capsys.readouterr().err
    assert "(different: data.vectors)" in said and "--restart" in said
    assert len(said.strip().split("\n")) == 1


@pytest.mark.parametrize("kind", ["fusion", "scorers", "lbmkgc"])
def test_what_is_exported_answers_alone(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    here = shutil.copytree(runs, tmp_path / "here")
    run, exported = here / kind, tmp_path / "exported"
    if kind == "fusion":
        answer(capsys, "fuse", here / "generator", here / "distmult", here / "lbmkgc", "--out", run,
               "--folds", "2", "--ranks", "certified")
    if kind == "scorers":
        answer(capsys, "fuse", here / "lbmkgc", here / "distmult", "--out", run, "--folds", "2")
    words = ["--head", "thing apple", "--relation", "kind", "-k", "5", "--explain"]
    expected = answer(capsys, "predict", run, *words)
    assert main(["export", str(run), str(exported)]) == 0
    capsys.readouterr()
    shutil.rmtree(here)
    again = tmp_path / "again"
    assert main(["export", str(exported), str(again)]) == 0
    capsys.readouterr()
    shutil.rmtree(exported)
    found = answer(capsys, "predict", again, *words)
    assert [entry["id"] for entry in found["answers"]] == [
        entry["id"] for entry in expected["answers"]]
    for one, other in zip(found["contributions"], expected["contributions"], strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    result = next((again / "results").glob("test*.json"))
    measured = json.loads(result.read_text())["both"]
    ranks = "certified" if kind == "fusion" else "exact"
    assert answer(capsys, "evaluate", again, "--ranks", ranks)["both"] == measured
    if kind == "fusion":
        assert answer(capsys, "calibrate", again)["both"]["count"]
    assert not list(again.rglob("checkpoints"))
    card = ModelCard.load(again / "README.md")
    assert {entry.metric_type for entry in card.data.eval_results} >= {"mrr", "hits@10"}
    assert ("t5" in card.data.tags) == (kind == "fusion")
    if kind == "fusion":
        result = json.loads((again / "results" / "test-certified.json").read_text())
        given = {(entry.dataset_split, entry.metric_type): entry.metric_value
                 for entry in card.data.eval_results}
        for metric, end in (("mrr", "low"), ("mr", "high")):
            assert given["test", metric] == pytest.approx(result["both"][metric][end], abs=1e-4)
        assert "Ranks are certified among all" in card.text
        assert "The parts (generator, DistMult, LBMKGC) were trained apart" in card.text
        for about in (result["protocol"], json.loads((again / "training.json").read_text())):
            assert [part["run"] for part in about["parts"]] == [
                "parts/generator", "parts/scorer-1", "parts/scorer-2"]
        assert sorted(path.name for path in (again / "parts").iterdir()) == [
            "generator", "scorer-1", "scorer-2"]
    elif kind == "scorers":
        assert "Embedding scorers answer together" in card.text
        assert "`parts/scorer-1/dataset` holds its tables" in card.text
        assert (again / "parts" / "scorer-1" / "dataset" / "train.tsv").is_file()
    else:
        assert "It scores every entity at once." in card.text


def test_certified_results_stand_beside_exact_ones(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = shutil.copytree(runs, tmp_path / "here")
    run = here / "fusion"
    fuse = ["fuse", here / "generator", here / "distmult", "--out", run, "--folds", "2"]
    answer(capsys, *fuse, "--ranks", "certified")
    result = json.loads((run / "results" / "test-certified.json").read_text())
    assert not list((run / "results").glob("valid*"))
    found = answer(capsys, "compare", run, here / "distmult")
    assert found["runs"][0]["both"] == result["both"]
    assert found["runs"][1]["both"]["mrr"] == answer(
        capsys, "evaluate", here / "distmult")["both"]["mrr"]
    assert "test.json is missing" in refused(capsys, "compare", run, here / "distmult", "--ranks",
                                             "exact")
    # Brackets of so small a graph are nearly shut; open them.
    result["both"]["mrr"] = {"low": 0.4, "high": 0.6}
    (run / "results" / "test-certified.json").write_text(json.dumps(result))
    answer(capsys, "report", run, "--against", here / "distmult")
    page = (run / "report.html").read_text()
    assert "Ranks lie in certified brackets" in page
    assert "<b>0.400–0.600</b>" in page
    answer(capsys, *fuse)
    assert [entry["both"]["mrr"] for entry in answer(
        capsys, "compare", run, here / "distmult")["runs"]] == [
        answer(capsys, "evaluate", path)["both"]["mrr"] for path in (run, here / "distmult")]
