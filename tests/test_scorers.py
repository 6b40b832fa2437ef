"""Scorers: equal to their equations, exact in their samples, faithful on disk."""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from conftest import random_graph
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from caption_cache.errors import InputError
from kgc_seq2seq.evaluation.dense import rank_with_scorer
from kgc_seq2seq.evaluation.ranks import metrics
from kgc_seq2seq.graph.knowledge_graph import KnowledgeGraph
from kgc_seq2seq.scorers.corruption import Corruptions
from kgc_seq2seq.scorers.one_vs_all import ComplEx, DistMult, OneVsAll, OneVsAllConfig
from kgc_seq2seq.scorers.rotate import RotatE, RotationConfig
from kgc_seq2seq.scorers.rotation import (
    blended_distances,
    cross_distances,
    distance,
    rotate,
)
from kgc_seq2seq.scorers.scorer import EntityScorer, Vocabulary, scorer_class
from kgc_seq2seq.scorers.vectors import Vectors
from kgc_seq2seq.scorers.weighting import (
    SamplingConfig,
    WeightingConfig,
    sampling_loss,
    softmax_loss,
    uncertainty,
    weights,
)

SAMPLING = SamplingConfig(negatives=7)


def complex_points(points: Tensor) -> Tensor:
    return torch.complex(*points.chunk(2, -1))


def make(kind: type[EntityScorer], config: object, graph: KnowledgeGraph) -> EntityScorer:
    torch.manual_seed(3)
    return kind(config, Vocabulary.of(graph), {}).double()


def all_scores(scorer: EntityScorer, graph: KnowledgeGraph) -> Tensor:
    """Of every query: [N, 2R, N]."""
    n, r = graph.num_entities, 2 * graph.num_relations
    heads, relations = torch.arange(n).repeat_interleave(r), torch.arange(r).repeat(n)
    return scorer.eval().score(heads, relations).detach().reshape(n, r, n)


SMALL = [(DistMult, OneVsAllConfig(dim=5, init_sd=0.5, n3=0.1)),
         (ComplEx, OneVsAllConfig(dim=5, init_sd=0.5, n3=0.1)),
         (RotatE, RotationConfig(dim=5, gamma=4, sampling=SAMPLING))]


def test_distmult_and_complex_score_by_their_equations() -> None:
    graph = random_graph(0)
    for kind, config in SMALL[:2]:
        scorer = make(kind, config, graph)
        entities, relations = scorer.entities.weight, scorer.relations.weight
        if kind is ComplEx:
            entities, relations = complex_points(entities), complex_points(relations)
        expected = torch.einsum("hd,rd,td->hrt", entities, relations, entities.conj()).real
        torch.testing.assert_close(all_scores(scorer, graph), expected.detach())


def test_rotate_scores_by_its_equation_and_inverses_turn_back() -> None:
    graph = random_graph(1)
    scorer = make(RotatE, SMALL[2][1], graph)
    entities = complex_points(scorer.entities.weight.detach())
    angle = scorer.relations.weight.detach() * math.pi / ((4 + 2) / 5)
    turned = entities[:, None] * torch.polar(torch.ones_like(angle), angle)  # [N, R, d]
    expected = 4 - (turned[:, :, None] - entities).abs().sum(-1)
    scores = all_scores(scorer, graph)
    torch.testing.assert_close(scores[:, : graph.num_relations], expected)
    torch.testing.assert_close(scores[:, graph.num_relations:], expected.permute(2, 1, 0))


def test_one_vs_all_loss_is_cross_entropy_and_n3() -> None:
    graph = random_graph(2)
    for kind, config in SMALL[:2]:
        scorer = make(kind, config, graph)
        batch = scorer.feed(graph, 0)(np.arange(9), 1) | {"done": torch.tensor(0.0)}
        head, relation, tail = batch["queries"].unbind(1)
        factors = [scorer.entities(head), scorer.relations(relation), scorer.entities(tail)]
        if kind is ComplEx:
            factors = [complex_points(factor) for factor in factors]
        expected = functional.cross_entropy(
            all_scores(scorer, graph)[head, relation], tail, reduction="sum")
        expected = expected + 0.1 / 3 * sum(factor.abs().pow(3).sum() for factor in factors)
        torch.testing.assert_close(scorer.loss(batch), expected)


@pytest.mark.parametrize("kind", [DistMult, ComplEx])
def test_a_factorisation_adds_what_images_and_texts_say(
    tmp_path: Path, kind: type[OneVsAll]
) -> None:
    graph = random_graph(2)
    count = graph.num_entities
    vectors = {modality: Vectors(torch.randn(count, width), torch.ones(count, dtype=torch.bool))
               for modality, width in (("image", 3), ("text", 4))}
    vectors["text"].values[0] = 0  # as of an entity that has none
    config = OneVsAllConfig(dim=5, init_sd=0.5, n3=0.1, modalities=("image", "text"))
    scorer = kind(config, Vocabulary.of(graph), vectors)
    # One that reads nothing, and has learnt the sums as they are, says the same.
    plain = kind(replace(config, modalities=()), Vocabulary.of(graph), {})
    plain.load_state_dict({
        "relations.weight": scorer.relations.weight,
        "entities.weight": scorer.entities.weight + sum(
            vectors[modality].values @ scorer.projections[modality].weight.T
            for modality in vectors)})
    torch.testing.assert_close(all_scores(scorer, graph), all_scores(plain, graph))
    batch = scorer.feed(graph, 0)(np.arange(9), 1) | {"done": torch.tensor(0.0)}
    loss = scorer.loss(batch)
    torch.testing.assert_close(loss, plain.loss(batch))
    loss.backward()
    assert all(float(part.grad.abs().sum()) > 0 for part in scorer.parameters())
    scorer.save_pretrained(tmp_path)
    loaded = EntityScorer.from_pretrained(tmp_path, graph)
    assert torch.equal(all_scores(loaded, graph), all_scores(scorer, graph))


def test_entities_without_their_own_embedding_are_what_their_texts_say(tmp_path: Path) -> None:
    graph = random_graph(2)
    graph = replace(graph, train=graph.train[(graph.train[:, [0, 2]] > 1).all(1)])
    count = graph.num_entities
    vectors = {"text": Vectors(torch.randn(count, 4), torch.ones(count, dtype=torch.bool))}
    config = OneVsAllConfig(dim=5, modalities=("text",), entity_dropout=0.3)
    scorer = DistMult(config, Vocabulary.of(graph), vectors)
    batch = scorer.feed(graph, 0)(np.arange(9), 1) | {"done": torch.tensor(0.0)}
    nn.init.normal_(scorer.common)
    said = scorer.projections["text"](vectors["text"].values)
    named = torch.isin(torch.arange(count), torch.from_numpy(graph.train[:, [0, 2]].copy()))
    assert not named[:2].any()
    with torch.no_grad():
        lost, dropped = scorer.common.expand(count, -1), torch.zeros(count)
        for _ in range(2_000):
            own = scorer.table() - said
            is_common = own.isclose(lost).all(1)
            torch.testing.assert_close(own[~is_common], scorer.entities.weight[~is_common])
            dropped += is_common
        torch.testing.assert_close(dropped / 2_000, torch.where(named, 0.3, 1.0), atol=0.05, rtol=0)
        torch.testing.assert_close(scorer.eval().table() - said, torch.where(
            named[:, None], scorer.entities.weight, lost))
    scorer.train().loss(batch).backward()
    assert all(float(part.grad.abs().sum()) > 0 for part in scorer.parameters())
    assert not scorer.entities.weight.grad[~named].any()
    scorer.save_pretrained(tmp_path)
    loaded = EntityScorer.from_pretrained(tmp_path, graph)
    assert torch.equal(all_scores(loaded, graph), all_scores(scorer.eval(), graph))


@given(st.integers(0, 99))
def test_negatives_are_no_train_facts_and_stateless(seed: int) -> None:
    graph = random_graph(seed, entities=6, relations=2, facts=30)
    feed = Corruptions(graph, 40, seed, bernoulli=bool(seed % 2))
    batch = feed(np.arange(len(feed)), 1)
    facts = {tuple(row) for row in graph.train.tolist()}
    tails: dict[tuple[int, int], set[int]] = {}
    heads: dict[tuple[int, int], set[int]] = {}
    for h, r, t in facts:
        tails.setdefault((h, r), set()).add(t)
        heads.setdefault((r, t), set()).add(h)
    for (h, r, t), wrong, tail in zip(*(batch[key].tolist() for key in (
            "triples", "negatives", "replaces_tail")), strict=True):
        for entity, replaces in zip(wrong, tail, strict=True):
            assert 0 <= entity < 6
            known = tails[h, r] if replaces else heads[r, t]
            assert entity not in known or len(known) == 6
    again = feed(np.array([len(feed) - 1, 0]), 1)
    for key, value in again.items():
        assert torch.equal(value, batch[key][[-1, 0]])
    other = feed(np.arange(len(feed)), 2)
    assert not torch.equal(other["negatives"], batch["negatives"])


def test_negatives_are_uniform_and_the_coin_is_fair_or_bernoulli() -> None:
    graph = random_graph(5, entities=8, relations=4)
    first, more = ([0, 0, 1], [0, 0, 2], [0, 0, 3]), ([4, 1, 3], [5, 1, 3], [6, 1, 3], [7, 1, 3])
    graph = replace(graph, train=np.array([*first, *more, [0, 2, 1], [2, 2, 3]], np.int32))
    shares = [1 / 4, 4 / 5, 1 / 2]  # of 1 head with 3 tails, 4 with 1, 2 with 2
    for bernoulli in (False, True):
        feed = Corruptions(graph, 40_000, 1, bernoulli=bernoulli)
        chosen = np.array([0, 3, 7])
        batch = feed(chosen, 1)
        for row, (head, relation, tail) in enumerate(graph.train[chosen].tolist()):
            same = graph.train[graph.train[:, 1] == relation]
            replaced = batch["replaces_tail"][row]
            share = shares[relation] if bernoulli else 0.5
            assert float(replaced.float().mean()) == pytest.approx(share, abs=0.015)
            for side, known in ((replaced, same[same[:, 0] == head, 2]),
                                (~replaced, same[same[:, 2] == tail, 0])):
                counts = np.bincount(batch["negatives"][row][side].numpy(), minlength=8)
                assert (counts[known] == 0).all()
                free = np.delete(counts, known)
                assert free.min() > 0.9 * free.mean()


def brute_loss(scorer: RotatE, batch: dict[str, Tensor]) -> Tensor:
    """The published formulation: expand every negative into a triple, then score each."""
    config, sampling = scorer.config, scorer.config.sampling
    head, relation, tail = (column[:, None] for column in batch["triples"].unbind(1))
    wrong, replaced = batch["negatives"], batch["replaces_tail"]
    heads = torch.cat([head, torch.where(replaced, head, wrong)], 1)
    tails = torch.cat([tail, torch.where(replaced, wrong, tail)], 1)
    entities, relations = scorer.entities.weight, scorer.relations.weight
    angle = relations[relation] * math.pi / ((config.gamma + 2) / config.dim)
    turned = complex_points(entities[heads]) * torch.polar(torch.ones_like(angle), angle)
    scores = config.gamma - (turned - complex_points(entities[tails])).abs().sum(-1)
    positive, negative = scores[:, 0], scores[:, 1:]
    weight = (sampling.temperature * negative).softmax(1).detach()
    loss = -(functional.logsigmoid(positive).mean()
             + (weight * functional.logsigmoid(-negative)).sum(1).mean()) / 2
    squares = (entities[heads].square().mean() + entities[tails].square().mean()
               + relations[relation].square().mean()) / 3
    return loss + config.regularization * squares


@settings(max_examples=40)
@given(st.integers(0, 30))
def test_the_loss_and_its_gradient_are_those_of_the_expanded_batch(seed: int) -> None:
    graph = random_graph(seed, entities=200 if seed % 2 else 12)  # some rows of the table, or all
    scorer = make(RotatE, RotationConfig(dim=3, gamma=2, regularization=0.1, sampling=SAMPLING),
                  graph)
    batch = scorer.feed(graph, seed)(np.arange(6), 1) | {"done": torch.tensor(0.5)}
    loss = scorer.loss(batch) / 6
    gradients = torch.autograd.grad(loss, list(scorer.parameters()))
    expected = brute_loss(scorer, batch)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradients,
                               torch.autograd.grad(expected, list(scorer.parameters())))


def test_blended_distances_have_the_gradients_of_their_values() -> None:
    generator = torch.Generator().manual_seed(0)
    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)
    anchors, shares, tables = normal(4, 6), normal(3, 2), (normal(5, 6), normal(5, 6))
    owners = torch.tensor([[0, 1, 1], [2, 3, 0], [1, 1, 2]])
    rows = torch.tensor([[0, 4, 4], [2, 1, 0], [3, 3, 3]])

    def plain(anchors: Tensor, shares: Tensor, *tables: Tensor) -> Tensor:
        mixed = sum(shares[:, p, None, None] * table[rows] for p, table in enumerate(tables))
        return distance(anchors[owners], mixed)

    def ours(anchors: Tensor, shares: Tensor, *tables: Tensor) -> Tensor:
        return blended_distances(anchors, owners, tables, shares, rows)

    torch.testing.assert_close(ours(anchors, shares, *tables), plain(anchors, shares, *tables))
    assert torch.autograd.gradcheck(ours, (anchors, shares, *tables))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates what it calls itself
        compiled = torch.compile(ours, backend="eager")
        assert torch.autograd.gradcheck(compiled, (anchors, shares, *tables))
    same = anchors.detach()[owners[:, :1].flatten()]
    at_zero = blended_distances(same.requires_grad_(), torch.arange(3)[:, None], (same.detach(),),
                                torch.ones(3, 1, dtype=torch.float64), torch.arange(3)[:, None])
    assert torch.equal(torch.autograd.grad(at_zero.sum(), same)[0], torch.zeros_like(same))


def test_cross_distances_are_distances_whatever_the_blocks() -> None:
    points, table = torch.randn(21, 2000), torch.randn(150, 2000)
    other, shares = torch.randn(150, 2000), torch.tensor([[0.3, 0.9]])
    torch.testing.assert_close(cross_distances(points, (table, other), shares),
                               distance(points[:, None], 0.3 * table + 0.9 * other))
    torch.testing.assert_close(rotate(rotate(points, points[:, :1000]), -points[:, :1000]), points)


def test_uncertainty_is_the_entropy_of_the_probability() -> None:
    scores = torch.linspace(-20, 20, 101, dtype=torch.float64)
    p = scores.sigmoid()
    torch.testing.assert_close(uncertainty(scores), -p * p.log() - (1 - p) * (1 - p).log())
    # As far from 0 as scores get, where float32 has no 1 - p, either side is as certain.
    far = torch.linspace(10, 80, 71)
    torch.testing.assert_close(uncertainty(far), uncertainty(-far))
    assert (uncertainty(far).diff() < 0).all()


def test_weights_follow_their_equations() -> None:
    scores = torch.randn(4, 200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u = uncertainty(scores)
    def of(done: float = 1.0, **settings: object) -> Tensor:
        return weights(scores, SamplingConfig(temperature=2.0, **settings), done)
    torch.testing.assert_close(of(), (2 * scores).softmax(1))
    torch.testing.assert_close(of(entropy="added", entropy_weight=3.0),
                               (2 * scores + 3 * u).softmax(1))
    torch.testing.assert_close(of(0.05, entropy="added", entropy_weight=3.0),
                               (2 * scores + 1.5 * u).softmax(1))
    torch.testing.assert_close(of(entropy="proportional"), u / u.sum(1, keepdim=True))
    q = (2 * scores).softmax(1)
    listed = -q * q.log()
    torch.testing.assert_close(of(entropy="list"), listed / listed.sum(1, keepdim=True))
    spared = of(spared=0.01)
    assert ((spared == 0) == (u >= u.topk(2, 1).values[:, 1:])).all()
    torch.testing.assert_close(spared.sum(1), torch.ones(4, dtype=torch.float64))


@given(st.floats(-1e4, 1e4, width=32), st.sampled_from(["none", "added", "proportional", "list"]),
       st.integers(1, 5))
def test_weights_are_finite_at_any_score(score: float, entropy: str, count: int) -> None:
    scores = torch.full((2, count), score)
    scores[0, 0] = 1.0
    found = weights(scores, SamplingConfig(entropy=entropy), 1.0)
    torch.testing.assert_close(found.sum(1), torch.ones(2))
    assert torch.isfinite(sampling_loss(scores[:, 0], scores, SamplingConfig(entropy=entropy), 0.0))


WEIGHTINGS = [
    WeightingConfig(temperature=0.0), WeightingConfig(temperature=0.5, spared=0.3),
    WeightingConfig(temperature=0.0, entropy="added", entropy_weight=2.0),
    WeightingConfig(entropy="proportional"), WeightingConfig(entropy="list")]


@pytest.mark.parametrize("config", WEIGHTINGS)
@settings(max_examples=20)
@given(st.integers(0, 99), st.floats(0.1, 3))
def test_weighted_softmax_follows_its_equation(
    config: WeightingConfig, seed: int, spread: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = (spread * torch.randn(3, 9, generator=generator, dtype=torch.float64)
              ).requires_grad_()
    answers = torch.randint(9, (3,), generator=generator)
    expected = torch.zeros(())
    for row, answer in zip(scores, answers.tolist(), strict=True):
        wrong = [e for e in range(9) if e != answer]
        odds = torch.stack([row[e] - torch.cat([row[:e], row[e + 1:]]).logsumexp(0)
                            for e in wrong])
        share = weights(odds[None], config, 0.05)[0]
        expected = expected + (row[answer].exp() + 8 * (share * row[wrong].exp()).sum()
                               ).log() - row[answer]
    ours = softmax_loss(scores, answers, config, 0.05)
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(torch.autograd.grad(ours, scores),
                               torch.autograd.grad(expected, scores))
    moved = softmax_loss(scores + 7, answers, config, 0.05)
    torch.testing.assert_close(moved, ours)  # a softmax knows no absolute scores


@pytest.mark.parametrize("config", WEIGHTINGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weighted_softmax_is_finite_at_any_score(
    config: WeightingConfig, dtype: torch.dtype
) -> None:
    scores = torch.tensor([[3e4, -3e4, 0, 0], [0, 0, 0, 0], [0, 3e4, 0, 0]], dtype=dtype)
    answers = torch.tensor([0, 1, 2])
    loss = softmax_loss(scores.requires_grad_(), answers, config, 1.0)
    assert torch.isfinite(loss)
    assert torch.isfinite(torch.autograd.grad(loss, scores)[0]).all()


def test_one_vs_all_scorers_learn_with_egns() -> None:
    graph = random_graph(2)
    losses = {}
    for entropy in ("none", "added"):
        scorer = make(DistMult, OneVsAllConfig(dim=5, init_sd=0.5, weighting=WeightingConfig(
            temperature=0.0, entropy=entropy, entropy_warmup=0.0)), graph)
        batch = scorer.feed(graph, 0)(np.arange(9), 1) | {"done": torch.tensor(0.5)}
        losses[entropy] = scorer.loss(batch)
        assert all(torch.isfinite(gradient).all() for gradient in torch.autograd.grad(
            losses[entropy], list(scorer.parameters())))
    assert losses["added"] > losses["none"]  # what is uncertain is what is likely


def test_two_stage_sampling_keeps_the_most_uncertain() -> None:
    graph = random_graph(4)
    sampling = SamplingConfig(negatives=3, candidates=4)
    scorer = make(RotatE, RotationConfig(dim=3, gamma=2, sampling=sampling), graph)
    batch = scorer.feed(graph, 0)(np.arange(5), 1) | {"done": torch.tensor(0.0)}
    assert batch["negatives"].shape == (5, 12)
    head, relation, tail = batch["triples"].unbind(1)
    forth = all_scores(scorer, graph)
    chosen = torch.where(
        batch["replaces_tail"], forth[head[:, None], relation[:, None], batch["negatives"]],
        forth[batch["negatives"], relation[:, None], tail[:, None]])
    kept = torch.stack([row[uncertainty(row).topk(3).indices] for row in chosen])
    expected = sampling_loss(forth[head, relation, tail], kept, sampling, 0.0)
    torch.testing.assert_close(scorer.loss(batch), expected)


@given(st.integers(0, 20))
def test_ranks_are_those_of_a_brute_force_count(seed: int) -> None:
    graph = random_graph(seed)
    scorer = make(ComplEx, SMALL[1][1], graph)
    scores = all_scores(scorer, graph).float()
    known = {(h, r): set() for h in range(12) for r in range(6)}
    for h, r, t in graph.queries(np.concatenate([graph.train, graph.valid, graph.test])).tolist():
        known[h, r].add(t)
        if graph.symmetric[r % 3]:
            known[h, (r + 3) % 6].add(t)
    expected = []
    for h, r, t in graph.queries(graph.valid).tolist():
        others = [e for e in range(12) if e not in known[h, r]]
        expected.append(1 + sum(bool(scores[h, r, e] > scores[h, r, t]) for e in others))
    ranks = rank_with_scorer(scorer, graph, graph.valid, Accelerator(cpu=True))
    assert ranks.realistic.tolist() == expected
    assert metrics(ranks)["count"] == 2 * len(graph.valid)


@pytest.mark.parametrize("kind, config", SMALL)
def test_a_scorer_survives_its_folder(
    tmp_path: Path, kind: type[EntityScorer], config: object
) -> None:
    graph = random_graph(0)
    scorer = make(kind, config, graph).float()
    scorer.save_pretrained(tmp_path / "model")
    loaded = EntityScorer.from_pretrained(tmp_path / "model", graph)
    assert type(loaded) is kind
    assert loaded.config == config
    assert loaded.vocabulary == scorer.vocabulary
    assert torch.equal(all_scores(loaded, graph), all_scores(scorer, graph))
    assert scorer_class(json.loads((tmp_path / "model" / "config.json").read_text())["scorer"]
                        ) is kind


def test_a_scorer_of_an_older_version_has_the_defaults(tmp_path: Path) -> None:
    graph = random_graph(0)
    scorer = make(DistMult, OneVsAllConfig(dim=2), graph).float()
    scorer.save_pretrained(tmp_path)
    about = json.loads((tmp_path / "config.json").read_text())
    del about["config"]["weighting"]
    (tmp_path / "config.json").write_text(json.dumps(about))
    loaded = EntityScorer.from_pretrained(tmp_path, graph)
    assert loaded.config == scorer.config
    assert torch.equal(all_scores(loaded, graph), all_scores(scorer, graph))


def test_a_scorer_of_another_graph_is_refused(tmp_path: Path) -> None:
    scorer = make(DistMult, OneVsAllConfig(dim=2), random_graph(0))
    scorer.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"trained on other entities than those of random .*'e11'"):
        EntityScorer.from_pretrained(tmp_path, random_graph(0, entities=11))
    with pytest.raises(InputError, match=r"other relations .*knows 3 of 4.*train it on this"):
        EntityScorer.from_pretrained(tmp_path, random_graph(0, relations=4))


@pytest.mark.parametrize("name, content", [
    ("config.json", "{"), ("config.json", '{"scorer": 3}'), ("model.safetensors", "x")])
def test_a_folder_without_a_scorer_is_refused(tmp_path: Path, name: str, content: str) -> None:
    make(DistMult, OneVsAllConfig(dim=2), random_graph(0)).save_pretrained(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match="holds no scorer"):
        EntityScorer.from_pretrained(tmp_path)


def test_an_unknown_scorer_is_refused_with_those_there_are() -> None:
    with pytest.raises(InputError, match=r"No scorer is called 'x'; .*complex, distmult"):
        scorer_class("x")


@pytest.mark.parametrize("make_config", [
    lambda: OneVsAllConfig(dim=0), lambda: OneVsAllConfig(init_sd=0), lambda: OneVsAllConfig(n3=-1),
    lambda: OneVsAllConfig(modalities=("text", "text")),
    lambda: OneVsAllConfig(entity_dropout=0.1),
    lambda: OneVsAllConfig(modalities=("text",), entity_dropout=1),
    lambda: OneVsAllConfig(dropout=1), lambda: RotationConfig(dim=0),
    lambda: RotationConfig(gamma=0), lambda: RotationConfig(regularization=-1),
    lambda: SamplingConfig(negatives=0), lambda: SamplingConfig(temperature=-1),
    lambda: WeightingConfig(temperature=-1), lambda: SamplingConfig(spared=1),
    lambda: SamplingConfig(negatives=64, spared=0.01),
    lambda: SamplingConfig(entropy="list", temperature=0)])
def test_impossible_settings_are_refused_by_their_key(make_config: object) -> None:
    with pytest.raises(InputError, match=r"model\.(sampling\.|weighting\.)?[a-z0-9_]+ "):
        make_config()
