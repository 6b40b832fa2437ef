"""MoCME (our reconstruction): equal to its specification in float64, in every switch."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import draw_by_name, random_graph
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from kgc_seq2seq.graph.knowledge_graph import KnowledgeGraph
from kgc_seq2seq.scorers.complementarity import complementarity
from kgc_seq2seq.scorers.mocme import Mocme, MocmeConfig
from kgc_seq2seq.scorers.modal import masked_softmax
from kgc_seq2seq.scorers.scorer import EntityScorer, Vocabulary
from kgc_seq2seq.scorers.vectors import Vectors
from kgc_seq2seq.scorers.weighting import SamplingConfig

CONFIG = MocmeConfig(dim=3, gamma=5.0, prototypes=4, intra_temperature=0.5, inter_temperature=0.7,
                     sampling=SamplingConfig(negatives=6, entropy="added"))
SWITCHES: dict[str, dict[str, Any]] = {
    "default": {}, "no experts": {"experts": 1}, "six experts": {"experts": 6},
    "no intra": {"intra": "none"}, "no inter": {"inter": "none"}, "no guard": {"guard": False},
    "entropy": {"intra": "ce", "inter": "ce"}, "information": {"intra": "nmi", "inter": "nmi"},
    "no structure": {"structure": False}, "image": {"modalities": ("image",)},
    "structure alone": {"modalities": ()}, "image alone": {"modalities": ("image",),
                                                           "structure": False},
    "no completion": {"completion": False},
    "no EGNS": {"sampling": SamplingConfig(negatives=6)},
    "two stages": {"sampling": SamplingConfig(negatives=3, candidates=3)}}


def make(graph: KnowledgeGraph, config: MocmeConfig) -> Mocme:
    generator = torch.Generator().manual_seed(1)
    vectors = {}
    for modality, width in (("image", 4), ("text", 5)):
        mask = torch.rand(graph.num_entities, generator=generator) < 0.7
        vectors[modality] = Vectors(
            torch.randn(graph.num_entities, width, generator=generator) * mask[:, None], mask,
            mask & (torch.arange(graph.num_entities) % 3 == 0))
    torch.manual_seed(0)
    scorer = Mocme(config, Vocabulary.of(graph), vectors).double()
    for weights in scorer.parameters():
        torch.nn.init.normal_(weights, std=0.7)
    return scorer


def cosine(one: Tensor, other: Tensor) -> Tensor:
    return one @ other / (one.norm() * other.norm())


def by_counts(measure: str, views: list[list[Tensor | None]], codes: Tensor) -> list[float]:
    """Of views [K][N], None where an entity has none, one pair of views and codes at a time."""
    soft = [[None if z is None else (codes @ z / z.norm() * len(codes) ** 0.5).softmax(0)
             for z in view] for view in views]

    def entropy(p: Tensor) -> float:
        return float(-(p * p.log()).sum())

    found = []
    for k, first in enumerate(soft):
        values = []
        for j, second in enumerate(soft):
            if j != k:
                both = [(p, q) for p, q in zip(first, second, strict=True)
                        if p is not None and q is not None]
                joint = sum(torch.outer(p, q) for p, q in both) / len(both)
                own, other = entropy(joint.sum(1)), entropy(joint.sum(0))
                values.append((entropy(joint) - other) / math.log(len(codes)) if measure == "ce"
                              else 1 - (own + other - entropy(joint)) / math.sqrt(own * other))
        found.append(sum(values) / len(values))
    return found


def measured(measure: str, views: list[list[Tensor | None]], codes: Tensor) -> list[list[Tensor]]:
    """c of each view of each entity."""
    zero = torch.tensor(0.0, dtype=torch.float64)
    count = len(views[0])
    if measure == "none" or len(views) == 1:
        return [[zero] * count for _ in views]
    if measure != "cos":
        with torch.no_grad():
            return [[torch.tensor(c, dtype=torch.float64)] * count
                    for c in by_counts(measure, views, codes)]
    found = []
    for k, view in enumerate(views):
        row = []
        for entity, own in enumerate(view):
            others = [other[entity] for j, other in enumerate(views)
                      if j != k and other[entity] is not None]
            row.append(zero if own is None or not others else torch.stack(
                [(1 - cosine(own, other)) / 2 for other in others]).mean())
        found.append(row)
    return found


def fused(scorer: Mocme) -> Tensor:
    """The specification's h(e), one entity at a time."""
    config, weights = scorer.config, scorer.state_dict(keep_vars=True)
    codes = weights["codes"]
    together: list[list[Tensor | None]] = []
    for name in (["structure"] if config.structure else []) + list(config.modalities):
        views: list[list[Tensor | None]] = []
        values = weights["entities.weight" if name == "structure" else f"{name}_values"]
        mask = torch.ones(len(values)) if name == "structure" else weights[f"{name}_mask"]
        for k in range(config.experts):
            key = f"experts.{name}.{k}"
            views.append([functional.layer_norm(
                weights[f"{key}.0.weight"] @ x + weights[f"{key}.0.bias"], (6,),
                weights[f"{key}.1.weight"], weights[f"{key}.1.bias"]) if there else None
                for x, there in zip(values, mask.tolist(), strict=True)])
        c = measured(config.intra, views, codes)
        together.append([None if views[0][e] is None else sum(
            share * view[e] for share, view in zip(torch.stack(
                [row[e] for row in c]).div(config.intra_temperature).softmax(0), views,
                strict=True)) for e in range(len(values))])
    c = measured(config.inter, together, codes)
    result = []
    for e in range(len(together[0])):
        there = [m for m in range(len(together)) if together[m][e] is not None]
        if not there:
            result.append(torch.zeros(6, dtype=torch.float64))
            continue
        logits = torch.stack([c[m][e] for m in there])
        if config.guard and len(together) > 1:
            logits = logits + torch.stack([torch.sigmoid(
                weights["relevance.weight"][0] @ together[m][e].tanh()).log() for m in there])
        beta = (logits / config.inter_temperature).softmax(0)
        result.append(sum(share * together[m][e] for share, m in zip(beta, there, strict=True)))
    return torch.stack(result)


@pytest.mark.parametrize("changes", SWITCHES.values(), ids=SWITCHES)
def test_entities_are_fused_by_the_specification(changes: dict[str, Any]) -> None:
    graph = random_graph(2)
    scorer = make(graph, replace(CONFIG, **changes))
    ours, expected = scorer.tables()[0], fused(scorer)
    torch.testing.assert_close(ours, expected)
    direction = torch.randn(ours.shape, generator=torch.Generator().manual_seed(2),
                            dtype=torch.float64)
    named = [(name, weights) for name, weights in scorer.named_parameters()
             if not name.startswith("relations")]
    one = torch.autograd.grad((ours * direction).sum(), [weights for _, weights in named])
    other = torch.autograd.grad((expected * direction).sum(), [weights for _, weights in named])
    for (name, _), first, second in zip(named, one, other, strict=True):
        torch.testing.assert_close(first, second, msg=name)


@pytest.mark.parametrize("changes", list(SWITCHES.values())[1:], ids=list(SWITCHES)[1:])
def test_every_switch_changes_what_is_learnt(changes: dict[str, Any]) -> None:
    graph = random_graph(2)
    found = []
    for config in (CONFIG, replace(CONFIG, **changes)):
        scorer = make(graph, config)
        draw_by_name(scorer, std=0.7)
        batch = scorer.feed(graph, 0)(np.arange(6), 1) | {"done": torch.tensor(0.5)}
        found.append(scorer.loss(batch))
    assert not torch.isclose(*found)


@pytest.mark.parametrize("changes", SWITCHES.values(), ids=SWITCHES)
def test_an_entity_is_the_sum_of_its_weighted_modalities(changes: dict[str, Any]) -> None:
    graph = random_graph(2)
    scorer = make(graph, replace(CONFIG, **changes)).eval()
    heads, relations = torch.arange(12), torch.arange(12) % 6
    weights = scorer.modality_weights(heads, relations)
    assert weights is not None
    assert list(weights) == list(scorer.experts)
    total = sum(weight[:, None] * scorer._fuse_views(name, *scorer._modality(name, heads))
                for name, weight in weights.items())
    if scorer.config.intra in ("cos", "none"):  # the others count over all that is looked at
        torch.testing.assert_close(total, scorer.tables()[0])
    for modality in scorer.config.modalities:
        assert (weights[modality][~scorer.vectors(modality).mask] == 0).all()
    some = torch.stack(list(weights.values())).sum(0)
    torch.testing.assert_close(some, (some > 0).double())


@pytest.mark.parametrize("changes", SWITCHES.values(), ids=SWITCHES)
def test_the_loss_reaches_every_weight(changes: dict[str, Any]) -> None:
    """One without a gradient would stop DistributedDataParallel."""
    graph = random_graph(2)
    scorer = make(graph, replace(CONFIG, **changes))
    batch = scorer.feed(graph, 0)(np.arange(6), 1) | {"done": torch.tensor(0.5)}
    loss = scorer.loss(batch)
    gradients = torch.autograd.grad(loss, list(scorer.parameters()))
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


@given(st.integers(0, 99), st.sampled_from(["cos", "ce", "nmi", "none"]))
def test_complementarity_lies_between_0_and_1(seed: int, measure: Any) -> None:
    generator = torch.Generator().manual_seed(seed)
    views = torch.randn(3, 20, 6, generator=generator, dtype=torch.float64)
    present = torch.rand(3, 20, generator=generator) < 0.7
    codes = functional.normalize(torch.randn(5, 6, generator=generator, dtype=torch.float64), dim=1)
    found = complementarity(measure, views, present, codes)
    assert found.shape == (3, 20)
    assert (found >= -1e-9).all()
    assert (found <= 1 + 1e-9).all()


def test_views_that_repeat_each_other_add_least() -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = torch.randn(2, 500, 6, generator=generator)
    views, codes = torch.stack([one, one, other]), torch.eye(6)
    everyone = torch.ones(3, 500, dtype=torch.bool)
    for measure in ("cos", "ce", "nmi"):
        found = complementarity(measure, views, everyone, codes).mean(1)
        assert found[2] > found[0]
        torch.testing.assert_close(found[0], found[1])


def test_weights_are_shared_among_what_is_there() -> None:
    present = torch.tensor([[True, True, False], [True, False, False]])
    found = masked_softmax(torch.zeros(2, 3, requires_grad=True), present)
    assert found.tolist() == [[0.5, 1, 0], [0.5, 0, 0]]


def test_it_survives_its_folder(tmp_path: Path) -> None:
    graph = random_graph(0)
    scorer = make(graph, CONFIG).float().eval()
    scorer.save_pretrained(tmp_path)
    loaded = EntityScorer.from_pretrained(tmp_path, graph)
    query = torch.arange(12), torch.arange(12) % 6
    assert torch.equal(loaded.score(*query), scorer.score(*query))
    assert loaded.title == "MoCME (our reconstruction)"


def test_tables_kept_for_scoring_are_those_of_the_weights() -> None:
    vocabulary = Vocabulary.of(random_graph(0))
    one, other = (Mocme(MocmeConfig(dim=3, modalities=(), prototypes=2), vocabulary, {}).eval()
                  for _ in range(2))
    asked = torch.tensor([0]), torch.tensor([0])
    assert not torch.allclose(one.score(*asked), other.score(*asked))
    one.load_state_dict(other.state_dict())
    assert torch.allclose(one.score(*asked), other.score(*asked))
    assert torch.allclose(one.double().score(*asked).float(), other.score(*asked))
