"""Fusion weights: the maximum of the likelihood, shrunk where there is little to learn from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import random_graph
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from caption_cache.errors import InputError
from kgc_seq2seq.scorers.one_vs_all import DistMult, OneVsAllConfig
from kgc_seq2seq.scorers.prior import Candidates, Voice, choose_shrinkage, fit_weights, prior
from kgc_seq2seq.scorers.scorer import Vocabulary


def problem(seed: int, scorers: int = 1, queries: int = 300, relations: int = 3
            ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Names that know little, scorers that know more, and answers drawn from their fusion."""
    generator = torch.Generator().manual_seed(seed)
    names = torch.randn(queries, 12, generator=generator, dtype=torch.float64).log_softmax(1)
    scores = (2 * torch.randn(scorers, queries, 12, generator=generator, dtype=torch.float64)
              ).log_softmax(2)
    asked = torch.arange(queries) % relations
    fused = names + (0.4 + 0.2 * asked)[:, None] * scores.sum(0)
    return names, scores, torch.multinomial(fused.softmax(1), 1, generator=generator)[:, 0], asked


def all_of(names: Tensor, scores: Tensor, gold: Tensor, asked: Tensor) -> Candidates:
    none = names.isneginf()
    offsets = torch.zeros_like(names).masked_fill(none, -torch.inf)
    parts = torch.cat([names.masked_fill(none, 0)[None], scores]).permute(1, 2, 0)
    return Candidates(parts, offsets, gold, asked)


def likelihood(names: Tensor, scores: Tensor, gold: Tensor, asked: Tensor, weights: Tensor
               ) -> Tensor:
    fused = (weights.double()[:, asked, None] * torch.cat([names[None], scores])).sum(0)
    return fused.log_softmax(1)[torch.arange(len(gold)), gold].sum()


@given(st.integers(0, 99), st.integers(1, 2))
def test_no_other_weights_are_more_likely(seed: int, scorers: int) -> None:
    problem_ = problem(seed, scorers)
    found = fit_weights(all_of(*problem_), 3, shrinkage=0)
    best = likelihood(*problem_, found)
    generator = torch.Generator().manual_seed(seed)
    for size in (1e-2, 0.1, 1.0):
        other = found + size * torch.randn(1 + scorers, 3, generator=generator)
        other[0] = other[0].clamp(min=1e-3)
        assert likelihood(*problem_, other) < best + 1e-6


def test_a_candidate_may_stand_for_many() -> None:
    names, scores, gold, asked = problem(1)
    twice = torch.cat([torch.arange(12), torch.arange(6, 12)])
    gold = gold % 6
    one = all_of(names, scores, gold, asked)
    one.offsets[:, 6:] = np.log(2)
    other = all_of(names[:, twice], scores[..., twice], gold, asked)
    weights = torch.rand(1 + len(scores), 3, dtype=torch.float64)
    torch.testing.assert_close(one.log_likelihood(weights), other.log_likelihood(weights))


@given(st.integers(0, 99), st.sampled_from([0.0, 0.3]))
def test_slopes_are_those_of_the_log_likelihood(seed: int, floor: float) -> None:
    names, scores, gold, asked = problem(seed, queries=30)
    names[torch.arange(30), (gold + 1) % 12] = -torch.inf
    known = all_of(names, scores, gold, asked)
    known.offsets[torch.arange(30), (gold + 2) % 12] = np.log(5)
    weights = torch.rand(2, 3, dtype=torch.float64)

    def total(flat: Tensor) -> Tensor:
        return known.log_likelihood(flat.view(2, 3), floor).sum()

    rises, bends = known.slopes(weights, floor)
    at = weights.flatten().requires_grad_()
    [expected] = torch.autograd.grad(total(at), at)
    torch.testing.assert_close(rises.T.flatten(), expected)
    if not floor:
        hessian = -torch.autograd.functional.hessian(total, at).view(2, 3, 2, 3)
        torch.testing.assert_close(torch.diag_embed(bends.permute(1, 2, 0)),
                                   hessian.permute(0, 2, 1, 3))


TRUE = torch.tensor([[1, 1, 1], [0.4, 0.6, 0.8]])
"""The weights of `problem`."""


def test_the_weights_that_made_the_answers_are_found() -> None:
    found = fit_weights(all_of(*problem(0, queries=20_000)), 3)
    torch.testing.assert_close(found, TRUE, atol=0.05, rtol=0)


def test_a_generator_that_is_too_sure_is_trusted_less_where_it_is() -> None:
    names, scores, gold, asked = problem(0, queries=20_000)
    names[asked == 1] *= 5
    found = fit_weights(all_of(names, scores, gold, asked), 3)
    expected = TRUE.clone()
    expected[0, 1] = 0.2
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0)


def test_what_is_never_asked_gets_the_common_weights_and_shrinkage_draws_to_them() -> None:
    names, scores, gold, asked = problem(1)
    found = fit_weights(all_of(names, scores, gold, asked), 5)
    assert torch.equal(found[:, 3], found[:, 4])
    strong = fit_weights(all_of(names, scores, gold, asked), 5, shrinkage=1e6)
    assert float((strong.amax(1) - strong.amin(1)).max()) < 1e-3
    assert float((found.amax(1) - found.amin(1)).min()) > 0.05
    assert (found.amin(1) < strong.mean(1)).all()
    assert (strong.mean(1) < found.amax(1)).all()


def test_hopeless_answers_do_not_decide_where_there_is_a_floor() -> None:
    names, scores, gold, asked = problem(4, queries=4_000)
    known, weights = all_of(names, scores, gold, asked), torch.rand(2, 3, dtype=torch.float64)
    torch.testing.assert_close(known.log_likelihood(weights, 0.3),
                               (known.log_likelihood(weights).exp() + 0.3).log())
    # Of a tenth of the answers the scorer is sure that they are wrong, and names say nothing.
    lost = torch.arange(4_000) % 10 == 0
    names[lost], scores[0, lost] = torch.zeros(12).double().log_softmax(0), 0.0
    scores[0, lost, gold[lost]] = -10
    everything = all_of(names, scores, gold, asked)
    right, plain, bounded = (weight / own for own, weight in (
        fit_weights(everything[~lost], 3), fit_weights(everything, 3),
        fit_weights(everything, 3, floor=0.1)))
    assert (plain < 0.6 * right).all()
    torch.testing.assert_close(bounded, right, atol=0.05, rtol=0)
    folds = torch.arange(4_000) % 3
    assert choose_shrinkage(everything, 3, folds, [1.0], 0.01)[1.0] > choose_shrinkage(
        everything, 3, folds, [1.0])[1.0]


def test_answers_that_only_a_scorer_knows_leave_weights_finite() -> None:
    names, scores, gold, asked = problem(5)
    scores[0, torch.arange(len(gold)), gold] = 0
    names[torch.arange(len(gold)), gold] = -1_000
    found = fit_weights(all_of(names, scores, gold, asked), 3)
    assert torch.isfinite(found).all()
    assert (found[0] > 0).all()
    assert (found[1] / found[0] > 100).all()


def test_a_scorer_that_knows_nothing_gets_no_weight() -> None:
    names, scores, _, asked = problem(2, queries=20_000)
    gold = torch.multinomial(names.softmax(1), 1, generator=torch.Generator().manual_seed(0))[:, 0]
    found = fit_weights(all_of(names, scores, gold, asked), 3)
    assert float(found[1:].abs().max()) < 0.05


def test_known_answers_are_no_candidates() -> None:
    names, scores, gold, asked = problem(3)
    other = (gold + 1) % 12
    names[torch.arange(len(gold)), other] = -torch.inf
    found = fit_weights(all_of(names, scores, gold, asked), 3)
    assert torch.isfinite(found).all()
    with pytest.raises(InputError, match="An answer of valid has probability 0"):
        fit_weights(all_of(names, scores, other, asked), 3)
    with pytest.raises(InputError, match="The shrinkage is -1; give 0 or more"):
        fit_weights(all_of(names, scores, gold, asked), 3, shrinkage=-1)


def test_the_prior_is_the_weighted_sum_of_log_probabilities() -> None:
    graph = random_graph(0)
    torch.manual_seed(0)
    scorers = [DistMult(OneVsAllConfig(dim=3, init_sd=1), Vocabulary.of(graph), {}).eval()
               for _ in range(2)]
    weights, heads, relations = torch.rand(2, 6), torch.tensor([0, 7]), torch.tensor([5, 1])
    voices = [Voice("x", scorer, torch.arange(12)) for scorer in scorers]
    found = prior(voices, weights, heads, relations)
    for row in range(2):
        expected = sum(weight[relations[row]] * scorer.score(heads, relations)[row].log_softmax(0)
                       for scorer, weight in zip(scorers, weights, strict=True))
        torch.testing.assert_close(found[row], expected)


def test_cross_validation_shrinks_what_cannot_be_learnt_and_frees_what_can() -> None:
    grid = (0.01, 1.0, 1e4)

    def chosen(queries: int, relations: int) -> float:
        known = all_of(*problem(4, queries=queries, relations=relations))
        folds = torch.arange(queries) // relations % 3
        tried = choose_shrinkage(known, relations, folds, grid)
        assert list(tried) == list(grid)
        return max(tried, key=lambda value: tried[value])

    assert chosen(queries=60, relations=30) > grid[0]
    assert chosen(queries=6_000, relations=3) < grid[-1]
