"""Why an answer: what each part of a system has in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kgc_seq2seq.arrays import Ints
from kgc_seq2seq.completer import Completer, Prediction, Query
from kgc_seq2seq.scorers.prior import Voice
from kgc_seq2seq.systems.system import as_tensors


@dataclass(frozen=True)
class PartsExplanation:
    """What the parts of a system have in the answers to one query."""

    names: list[str]
    """Of the answers, best first."""
    contributions: list[dict[str, float]]
    """In the score of each answer, by part: log-probabilities (of a fusion by λ, their terms), or
    the probabilities that an ensemble adds up."""
    entity: str
    """The name of the given entity."""
    modalities: dict[str, dict[str, float]]
    """What structure, image and text weigh in the given entity, by scorer."""

    @property
    def data(self) -> dict[str, Any]:
        """For machines."""
        return {"contributions": self.contributions, "modality_weights": self.modalities}

    @property
    def text(self) -> str:
        """For people."""
        labels = list(self.contributions[0])
        width = max(map(len, self.names))
        rows = [f"{'':3}  {'':{width}}  " + "  ".join(labels)]
        rows += [f"{'':3}  {name:{width}}  " + "  ".join(
            f"{value:{len(label)}.4f}" for label, value in found.items())
            for name, found in zip(self.names, self.contributions, strict=True)]
        rows += [f"{label} reads of {self.entity}: " + ", ".join(
            f"{modality} {weight:.2f}" for modality, weight in weights.items()) + "."
            for label, weights in self.modalities.items()]
        return "\n".join(rows)


def explain_parts(
    completer: Completer, query: Query, answers: Sequence[Prediction]
) -> PartsExplanation:
    """Say what each part has in answers.

    Args:
        completer: Gave the answers.
        query: The query.
        answers: What `Completer.complete` gave for it.
    """
    asked = np.array([completer.resolve(query)], np.int32)
    entities = np.array([[completer.resolve_entity(answer.name) for answer in answers]], np.int64)
    parts = {label: values[0].tolist()
             for label, values in completer.system.contributions(asked, entities).items()}
    weights = {voice.label: _modalities(voice, asked) for voice in completer.system.voices}
    return PartsExplanation(
        [answer.name for answer in answers],
        [dict(zip(parts, values, strict=True)) for values in zip(*parts.values(), strict=True)],
        completer.graph.entity_names[asked[0, 0]],
        {label: found for label, found in weights.items() if found})


def _modalities(voice: Voice, query: Ints) -> dict[str, float]:
    found = voice.modality_weights(*as_tensors(query, voice.places.device)) or {}
    return {modality: float(weight[0]) for modality, weight in found.items()}
