"""LBMKGC: equal to the specification's equations in float64, in every variant and ablation."""

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

from caption_cache.errors import InputError
from kgc_seq2seq.graph.knowledge_graph import KnowledgeGraph
from kgc_seq2seq.scorers.lbmkgc import Lbmkgc, LbmkgcConfig
from kgc_seq2seq.scorers.rotate import RotatE, RotationConfig
from kgc_seq2seq.scorers.scorer import EntityScorer, Vocabulary
from kgc_seq2seq.scorers.vectors import Vectors
from kgc_seq2seq.scorers.weighting import SamplingConfig

DIM, GAMMA = 3, 5.0
CONFIG = LbmkgcConfig(dim=DIM, gamma=GAMMA, regularization=0.01,
                      sampling=SamplingConfig(negatives=6, temperature=4.0))
ABLATIONS: dict[str, dict[str, Any]] = {
    "released": {}, "without structure": {"structure": False}, "image": {"modalities": ("image",)},
    "text": {"modalities": ("text",)}, "structure alone": {"modalities": ()},
    "unguided": {"guided": False}, "paper": {"variant": "paper"},
    "paper without alignment": {"variant": "paper", "alignment": 0.0},
    "without completion": {"completion": False},
    "relation weights": {"relation_weights": True},
    "paper with all": {"variant": "paper", "relation_weights": True},
    "unguided without structure": {"guided": False, "structure": False}}


def vectors(graph: KnowledgeGraph, *, everyone: bool) -> dict[str, Vectors]:
    generator = torch.Generator().manual_seed(1)
    found = {}
    for modality, width in (("image", 4), ("text", 5)):
        mask = torch.rand(graph.num_entities, generator=generator) < (2 if everyone else 0.6)
        values = torch.randn(graph.num_entities, width, generator=generator) * mask[:, None]
        found[modality] = Vectors(values, mask, mask & (torch.arange(len(mask)) % 3 == 0))
    return found


def make(graph: KnowledgeGraph, config: LbmkgcConfig, *, everyone: bool = True) -> Lbmkgc:
    torch.manual_seed(0)
    scorer = Lbmkgc(config, Vocabulary.of(graph), vectors(graph, everyone=everyone)).double()
    for weights in scorer.parameters():  # away from zeros and ties
        torch.nn.init.normal_(weights, std=0.5)
    return scorer


def joint(scorer: Lbmkgc, entity: int, relation: int) -> Tensor:
    """The specification's h_joint(e, r), one entity at a time."""
    config, weights = scorer.config, scorer.state_dict(keep_vars=True)
    there = {m: weights[f"projections.{m}.2.weight"] @ torch.relu(
        weights[f"projections.{m}.0.weight"] @ weights[f"{m}_values"][entity]
        + weights[f"projections.{m}.0.bias"]) + weights[f"projections.{m}.2.bias"]
        for m in config.modalities if weights[f"{m}_mask"][entity]}
    structure = weights["entities.weight"][entity] if config.structure else torch.zeros(
        2 * DIM, dtype=torch.float64)
    if not there:
        return structure
    attention = weights.get("attention.weight", torch.zeros(1, 2 * DIM, dtype=torch.float64))[0]
    exponent = {m: (attention @ e.tanh()).exp() for m, e in there.items()}
    multimodal = torch.zeros(2 * DIM, dtype=torch.float64)
    for place, modality in enumerate(config.modalities):
        if modality in there:
            omega = exponent[modality] / sum(exponent.values())
            if config.relation_weights:
                omega = omega * 2 * weights["preference.weight"][relation].softmax(0)[place]
            multimodal = multimodal + omega * there[modality]
    if not config.structure:
        return multimodal
    gate = (torch.sigmoid(weights["gate.weight"][relation, 0]) if config.guided
            else 1 / (1 + len(config.modalities)))
    return gate * structure + (1 - gate) * multimodal


def score(scorer: Lbmkgc, head: int, relation: int, tail: int) -> Tensor:
    """s = γ - Σ_i |h_i e^{jθ_i} - t_i| with θ = π r / ((γ + 2) / d)."""
    h, t = joint(scorer, head, relation), joint(scorer, tail, relation)
    theta = math.pi * scorer.relations.weight[relation] / ((GAMMA + 2) / DIM)
    h, t = torch.complex(h[:DIM], h[DIM:]), torch.complex(t[:DIM], t[DIM:])
    return GAMMA - (h * torch.exp(1j * theta) - t).abs().sum()


def loss(scorer: Lbmkgc, batch: dict[str, Tensor]) -> Tensor:
    """The specification's L, row by row of the expanded batch."""
    config = scorer.config
    positive, negative, rows = [], [], []
    for (h, r, t), wrong, tails in zip(*(batch[key].tolist() for key in (
            "triples", "negatives", "replaces_tail")), strict=True):
        positive.append(score(scorer, h, r, t))
        expanded = [(h, r, e) if tail else (e, r, t) for e, tail in zip(wrong, tails, strict=True)]
        negative.append(torch.stack([score(scorer, *triple) for triple in expanded]))
        rows += [(h, r, t), *expanded]
    s, n = torch.stack(positive), torch.stack(negative)
    weight = torch.softmax(config.sampling.temperature * n, 1).detach()
    total = -(functional.logsigmoid(s).mean()
              + (weight * functional.logsigmoid(-n)).sum(1).mean()) / 2
    heads, relations, tails = torch.tensor(rows).unbind(1)
    squares = [scorer.relations.weight[relations].square().mean()]
    if config.structure:
        squares += [scorer.entities.weight[ends].square().mean() for ends in (heads, tails)]
    total = total + config.regularization * sum(squares) / 3
    if config.variant == "paper":
        both = sorted(set(batch["triples"][:, [0, 2]].flatten().tolist()) & set(
            (scorer.image_mask & scorer.text_mask).nonzero()[:, 0].tolist()))
        v, t = (functional.normalize(scorer.project(m)[both], dim=1) for m in config.modalities)
        similarity = v @ t.T / scorer.log_temperature.exp()
        diagonal = torch.arange(len(both))
        total = total + config.alignment * (
            functional.cross_entropy(similarity, diagonal)
            + functional.cross_entropy(similarity.T, diagonal)) / 2
    return total


@pytest.mark.parametrize("everyone", [True, False], ids=["complete", "with gaps"])
@pytest.mark.parametrize("changes", ABLATIONS.values(), ids=ABLATIONS)
def test_scores_loss_and_gradients_are_those_of_the_specification(
    changes: dict[str, Any], everyone: bool
) -> None:
    graph = random_graph(3)
    scorer = make(graph, replace(CONFIG, **changes), everyone=everyone)
    batch = scorer.feed(graph, 0)(np.arange(5), 1) | {"done": torch.tensor(0.0)}
    ours, expected = scorer.loss(batch) / 5, loss(scorer, batch)
    torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)
    # A weight that gets no gradient would stop DistributedDataParallel.
    names, weights = zip(*scorer.named_parameters(), strict=True)
    found = torch.autograd.grad(ours, weights)
    theirs = torch.autograd.grad(expected, weights, allow_unused=True)
    for name, one, other in zip(names, found, theirs, strict=True):
        other = torch.zeros_like(one) if other is None else other
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10, msg=name)
    heads, relations = torch.tensor([0, 3, 7, 7]), torch.tensor([1, 4, 2, 5])
    scores = scorer.eval().score(heads, relations)
    for row, (head, relation) in enumerate(zip(heads.tolist(), relations.tolist(), strict=True)):
        for entity in range(graph.num_entities):
            triple = (head, relation, entity) if relation < 3 else (entity, relation - 3, head)
            torch.testing.assert_close(scores[row, entity], score(scorer, *triple).detach())


@pytest.mark.parametrize("changes", list(ABLATIONS.values())[1:], ids=list(ABLATIONS)[1:])
def test_every_switch_changes_what_is_learnt(changes: dict[str, Any]) -> None:
    graph = random_graph(3)
    found = []
    for config in (CONFIG, replace(CONFIG, **changes)):
        scorer = make(graph, config)
        draw_by_name(scorer, std=0.5)
        batch = scorer.feed(graph, 0)(np.arange(5), 1) | {"done": torch.tensor(0.0)}
        found.append(scorer.loss(batch))
    same = changes.get("alignment") == 0  # then the variants differ in nothing
    assert torch.isclose(*found) == same


def test_without_completion_what_was_generated_is_masked_out() -> None:
    graph = random_graph(3)
    config = replace(CONFIG, completion=False)
    without = make(graph, config)
    given = vectors(graph, everyone=True)
    masked = {modality: Vectors(found.values * ~found.generated[:, None],
                                found.mask & ~found.generated)
              for modality, found in given.items()}
    by_hand = Lbmkgc(CONFIG, Vocabulary.of(graph), masked).double()
    by_hand.load_state_dict(without.state_dict())
    for modality, found in masked.items():
        assert torch.equal(without.vectors(modality).mask, found.mask)
        assert torch.equal(without.vectors(modality).values.float(), found.values)
    query = torch.arange(12), torch.arange(12) % 6
    assert torch.equal(without.eval().score(*query), by_hand.eval().score(*query))
    weights = without.modality_weights(*query)
    assert weights is not None
    assert not weights["image"][::3].any()
    everything = {modality: replace(found, generated=found.mask)
                  for modality, found in given.items()}
    with pytest.raises(InputError, match=r"every vector of the modality image is generated; leav"):
        Lbmkgc(config, Vocabulary.of(graph), everything)


@pytest.mark.parametrize("everyone", [True, False], ids=["complete", "with gaps"])
@pytest.mark.parametrize("changes", ABLATIONS.values(), ids=ABLATIONS)
def test_an_entity_is_the_sum_of_its_weighted_modalities(
    changes: dict[str, Any], everyone: bool
) -> None:
    graph = random_graph(4)
    scorer = make(graph, replace(CONFIG, **changes), everyone=everyone)
    heads = torch.arange(12)
    relations = heads % (2 * graph.num_relations)
    weights = scorer.modality_weights(heads, relations)
    assert weights is not None
    parts = {modality: scorer.project(modality) for modality in scorer.config.modalities}
    if scorer.config.structure:
        parts["structure"] = scorer.entities.weight
    assert weights.keys() == parts.keys()
    total = sum(weights[modality][:, None] * part for modality, part in parts.items())
    for entity in range(12):
        if scorer.config.structure or any(
                scorer.vectors(modality).mask[entity] for modality in scorer.config.modalities):
            torch.testing.assert_close(total[entity], joint(
                scorer, entity, entity % graph.num_relations))


@pytest.mark.parametrize("variant", ["released", "paper"])
def test_only_the_entities_of_a_step_are_projected(variant: Any) -> None:
    graph = random_graph(1, entities=200)
    scorer = make(graph, replace(CONFIG, variant=variant), everyone=False)
    batch = scorer.feed(graph, 0)(np.arange(4), 1) | {"done": torch.tensor(0.0)}
    some = scorer._renumbered(batch)[1]
    assert some is not None
    assert len(some) <= 4 * 8
    torch.testing.assert_close(scorer.loss(batch) / 4, loss(scorer, batch))


def test_the_weights_start_as_released() -> None:
    graph = random_graph(0, entities=200)
    config = LbmkgcConfig(dim=10, gamma=16)
    scorer = Lbmkgc(config, Vocabulary.of(graph), vectors(graph, everyone=True))
    span = 18 / 20
    assert float(scorer.entities.weight.detach().abs().max()) == pytest.approx(span, rel=0.01)
    assert float(scorer.relations.weight.detach().abs().max()) <= 18 / 10
    assert float(scorer.gate.weight.detach().abs().max()) <= span
    assert config.sampling.temperature == 4.0
    assert config.sampling.negatives == 128
    assert config.sampling.bernoulli


def test_structure_alone_is_rotate() -> None:
    graph = random_graph(0)
    alone = make(graph, replace(CONFIG, modalities=()))
    plain = RotatE(RotationConfig(dim=DIM, gamma=GAMMA, sampling=CONFIG.sampling,
                                  regularization=CONFIG.regularization),
                   Vocabulary.of(graph), {}).double()
    plain.load_state_dict(alone.state_dict())
    batch = alone.feed(graph, 0)(np.arange(5), 1) | {"done": torch.tensor(0.0)}
    torch.testing.assert_close(alone.loss(batch), plain.loss(batch))


def test_scoring_forgets_its_tables_when_training_goes_on() -> None:
    graph = random_graph(0)
    scorer = make(graph, CONFIG).eval()
    query = torch.tensor([1]), torch.tensor([2])
    before = scorer.score(*query)
    scorer.train()
    torch.nn.init.normal_(scorer.projections["text"][0].weight)
    assert not torch.equal(scorer.eval().score(*query), before)


@given(st.integers(0, 50))
def test_it_survives_its_folder_without_the_data_set(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    graph = random_graph(seed)
    name = list(ABLATIONS)[seed % len(ABLATIONS)]
    scorer = make(graph, replace(CONFIG, **ABLATIONS[name]), everyone=False).float().eval()
    folder: Path = tmp_path_factory.mktemp("model")
    scorer.save_pretrained(folder)
    loaded = EntityScorer.from_pretrained(folder, graph)
    assert loaded.config == scorer.config
    query = torch.arange(12), torch.arange(12) % 6
    assert torch.equal(loaded.score(*query), scorer.score(*query))
