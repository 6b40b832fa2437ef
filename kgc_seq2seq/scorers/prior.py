"""What scorers add to the log-probability of a name: a weight for each relation, fitted on valid.

``fused(e) = log p(name of e) + Σ_s λ_sr · log softmax(scorer_s)(e)`` is, times a weight of its own
for the generator, a log-linear model of the answer (a product of experts).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from caption_cache.errors import InputError
from caption_cache.progress import tracked
from kgc_seq2seq.arrays import Floats
from kgc_seq2seq.graph.knowledge_graph import KnowledgeGraph
from kgc_seq2seq.scorers.scorer import EntityScorer, as_long


@dataclass(frozen=True, eq=False)
class Voice:
    """A scorer's log-probabilities of all entities of a graph, also of those it has never seen.

    An entity that is not in its vocabulary gets the mean of the others' scores; asked about such
    an entity, the scorer says nothing: all answers are equally probable. One without a train triple
    is in the vocabulary: negatives have taught the scorer of it, and its image and text speak.
    """

    label: str
    """What explanations and results call it."""
    scorer: EntityScorer
    """The scorer."""
    places: Tensor
    """The scorer's row of each entity of the graph, int64 [N]; -1: it has never seen it."""

    @classmethod
    def of(cls, label: str, scorer: EntityScorer, graph: KnowledgeGraph) -> Voice:
        """Let a scorer speak of the entities of ``graph``, of which it may know only some.

        Args:
            label: As above.
            scorer: The scorer.
            graph: The graph.
        """
        rows = {key: row for row, key in enumerate(scorer.vocabulary.entity_ids)}
        places = np.array([rows.get(key, -1) for key in graph.entity_ids], np.int64)
        return cls(label, scorer, as_long(places))

    def and_unseen(self, count: int) -> Voice:
        """The same for a graph with ``count`` more entities, which the scorer has never seen."""
        return replace(self, places=torch.cat([self.places, self.places.new_full((count,), -1)]))

    def log_softmax(self, heads: Tensor, relations: Tensor) -> Tensor:
        """Log-probabilities of all entities.

        Args:
            heads: int64 [Q], entities of the graph.
            relations: int64 [Q] in ``0 … 2R - 1``.

        Returns:
            float32 [Q, N].

        Raises:
            InputError: The scorer gives NaN or infinity.
        """
        places = self.places.to(heads.device)
        asked = places[heads]
        with torch.inference_mode():
            scores = self.scorer.score(asked.clamp(min=0), relations).float()
            if not torch.isfinite(scores).all():
                raise InputError(f"The scorer {self.label} gives NaN or infinity; its weights are "
                                 "broken, train it again.")
            scores = scores[:, places.clamp(min=0)]
            seen = places >= 0
            scores[:, ~seen] = scores[:, seen].mean(1, keepdim=True)
            scores[asked < 0] = 0
            return scores.log_softmax(1)

    def modality_weights(self, heads: Tensor, relations: Tensor) -> dict[str, Tensor] | None:
        """As `EntityScorer.modality_weights`, for entities of the graph that it has seen."""
        asked = self.places.to(heads.device)[heads]
        if (asked < 0).any():
            return None
        with torch.inference_mode():
            return self.scorer.modality_weights(asked, relations)


def prior(voices: Sequence[Voice], weights: Tensor, heads: Tensor, relations: Tensor) -> Tensor:
    """``Σ_s λ_sr · log softmax(scorer_s)`` of all entities.

    Args:
        voices: S scorers.
        weights: λ, [S, 2R].
        heads: int64 [Q].
        relations: int64 [Q] in ``0 … 2R - 1``.

    Returns:
        float32 [Q, N].
    """
    parts = [weight[relations, None] * voice.log_softmax(heads, relations)
             for voice, weight in zip(voices, weights, strict=True)]
    return torch.stack(parts).sum(0)


def terms(
    voices: Sequence[Voice], weights: Tensor, heads: Tensor, relations: Tensor, entities: Tensor
) -> dict[str, Floats]:
    """The summands of `prior` for some entities, int64 [Q, k]: for each scorer's label [Q, k]."""
    return {voice.label: prior([voice], weight[None], heads, relations).gather(1, entities)
            .double().cpu().numpy() for voice, weight in zip(voices, weights, strict=True)}


_RIDGE = 0.01
_NEWTON_STEPS = 100
_CLOSE = 1e-6  # nats, summed over all questions
_JITTER = 1e-9  # a relation that nobody asks for, without shrinkage, would leave a row of zeros


@dataclass(frozen=True, eq=False)
class Candidates:
    """Q questions with their answers, and what every part says of their candidates."""

    parts: Tensor
    """Log-probabilities by the generator and S scorers, float64 [Q, C, 1 + S], finite."""
    offsets: Tensor
    """The logarithm of how many entities each candidate stands for, float64 [Q, C]: 0, or more
    where it was drawn from many; -inf for what is no candidate, such as known answers other than
    the gold."""
    gold: Tensor
    """The place of each answer among its candidates, int64 [Q]."""
    relations: Tensor
    """int64 [Q] in ``0 … 2R - 1``."""

    def __getitem__(self, chosen: Tensor) -> Candidates:
        return Candidates(self.parts[chosen], self.offsets[chosen], self.gold[chosen],
                          self.relations[chosen])

    def log_likelihood(self, weights: Tensor, floor: float = 0.0) -> Tensor:
        """``log(p + floor)`` of each answer, float64 [Q].

        Args:
            weights: What each part counts, [1 + S, 2R], the generator first.
            floor: 0 or more.
        """
        found = self._log_softmax(weights).gather(1, self.gold[:, None])[:, 0]
        return torch.logaddexp(found, found.new_tensor(floor).log()) if floor else found

    def slopes(self, weights: Tensor, floor: float = 0.0) -> tuple[Tensor, Tensor]:
        """How the log-likelihood of each relation's answers rises and bends with its weights.

        Args:
            weights: As above.
            floor: As above.

        Returns:
            The gradient, float64 [2R, 1 + S], and less the Hessian, [2R, 1 + S, 1 + S]; with a
            floor, of the latter only the part that is positive semi-definite.
        """
        log_p = self._log_softmax(weights)
        found = log_p.gather(1, self.gold[:, None])[:, 0]
        counts = (found - found.new_tensor(floor).log()).sigmoid()  # p / (p + floor)
        weighted = self.parts * log_p.exp()[..., None]
        mean = weighted.sum(1)
        spread = weighted.mT @ self.parts - mean[:, :, None] * mean[:, None]
        rows = torch.arange(len(self.gold), device=self.gold.device)
        rises = self.parts[rows, self.gold] - mean
        gradient = mean.new_zeros(weights.T.shape)
        bends = mean.new_zeros(*weights.T.shape, len(weights))
        return (gradient.index_add_(0, self.relations, counts[:, None] * rises),
                bends.index_add_(0, self.relations, counts[:, None, None] * spread))

    def _log_softmax(self, weights: Tensor) -> Tensor:
        """Log-probabilities of the candidates, each with all that it stands for, [Q, C]."""
        asked = weights.double().T[self.relations]
        return ((self.parts @ asked[..., None])[..., 0] + self.offsets).log_softmax(1)


def fit_weights(
    known: Candidates, count: int, shrinkage: float = 1.0, floor: float = 0.0
) -> Tensor:
    """The weights under which the answers of valid are most likely, by Newton's method.

    Maximises ``Σ_q log softmax(w_0r · log p + Σ_s w_sr · log softmax(scorer_s))(gold_q)`` over
    ``w_sr = w_s + v_sr``, and over ``log w_0r`` alike, less ``shrinkage · Σ v²``: relations with
    few queries stay near what holds for all. The generator has weights because it is often surer
    than it is right, and good at some relations, poor at others; ``λ_sr = w_sr / w_0r`` gives the
    same order.

    Args:
        known: Questions with their answers.
        count: 2R.
        shrinkage: How strongly a relation's weights are drawn to those of all.
        floor: ε, where ``log(p + ε)`` stands for the logarithm of an answer's probability:
            answers that no weights make probable do not count then.

    Returns:
        w, float32 [1 + S, count]; the generator's, which come first, are positive.

    Raises:
        InputError: ``shrinkage`` is negative, or an answer is no candidate.
    """
    if shrinkage < 0:
        raise InputError(f"The shrinkage is {shrinkage}; give 0 or more.")
    if not torch.isfinite(known.offsets.gather(1, known.gold[:, None])).all():
        raise InputError("An answer of valid has probability 0 under the generator; fusion cannot "
                         "weigh against that.")
    parts = known.parts.shape[2]
    # Common to all relations, and each one's own; of the generator, logarithms.
    place = known.parts.new_zeros(1 + count, parts)
    # What few questions leave open is settled: the generator's is drawn to 1, the others' to 0.
    drawn = torch.full_like(place, shrinkage)
    drawn[0] = _RIDGE
    drawn[0, 0] = 1

    def weights(place: Tensor) -> Tensor:
        generator, scorers = (place[0] + place[1:]).T.tensor_split([1])
        return torch.cat([generator.exp(), scorers])

    def value(place: Tensor, bound: float) -> float:
        likely = known.log_likelihood(weights(place), bound).sum()
        return float(likely - (drawn * place.square()).sum())

    # Under a floor most answers hardly count at first: the most likely weights are a start.
    for bound in [0.0, floor] if floor else [0.0]:
        reached = value(place, bound)
        for _ in range(_NEWTON_STEPS):
            step, gain = _newton(known, weights(place), place, drawn, bound)
            while gain > _CLOSE:
                ahead = value(place + step, bound)
                if ahead >= reached + gain / 10:  # too far off it may be NaN
                    break
                step, gain = step / 2, gain / 2
            else:
                break
            place, reached = place + step, ahead
    return weights(place).float()


def _newton(
    known: Candidates, weights: Tensor, place: Tensor, drawn: Tensor, floor: float
) -> tuple[Tensor, float]:
    """A step from ``place``, [1 + 2R, 1 + S], and what it would gain at the rate it begins with.

    The Hessian has the shape of an arrow: relations meet only in what is common to them.
    """
    rises, bends = known.slopes(weights, floor)
    chain = torch.ones_like(rises)  # of the generator's logarithm
    chain[:, 0] = weights[0]
    rises, bends = rises * chain, bends * chain[:, :, None] * chain[:, None]
    rises = torch.cat([rises.sum(0, keepdim=True), rises]) - 2 * drawn * place
    own = bends + torch.diag_embed(2 * drawn[1:] + _JITTER)
    solved = torch.linalg.solve(own, torch.cat([bends, rises[1:, :, None]], 2))
    both = bends @ solved
    middle = bends.sum(0) + torch.diag(2 * drawn[0]) - both[:, :, :-1].sum(0)
    common = torch.linalg.solve(middle, rises[0] - both[:, :, -1].sum(0))
    step = torch.cat([common[None], solved[:, :, -1] - solved[:, :, :-1] @ common])
    return step, float((rises * step).sum())


def choose_shrinkage(
    known: Candidates, count: int, folds: Tensor, grid: Sequence[float], floor: float = 0.0
) -> dict[float, float]:
    """Cross-validate shrinkages.

    Args:
        known: Questions with their answers.
        count: 2R.
        folds: The fold of each question, int64 [Q]; it is answered with weights that were fitted
            to the others.
        grid: The shrinkages to try.
        floor: As in `fit_weights`.

    Returns:
        The mean log-likelihood of the held-out answers under each; the largest is the best.
    """
    found = {}
    for shrinkage in tracked(grid, "cross-validation"):
        held_out = []
        for fold in folds.unique():
            fitted = fit_weights(known[folds != fold], count, shrinkage, floor)
            held_out.append(known[folds == fold].log_likelihood(fitted, floor))
        found[shrinkage] = float(torch.cat(held_out).mean())
    return found
