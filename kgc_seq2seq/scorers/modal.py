"""What scorers that read the vectors of images and texts share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from caption_cache.errors import InputError
from kgc_seq2seq.scorers.rotate import EPSILON, RotationConfig, RotationScorer
from kgc_seq2seq.scorers.scorer import Vocabulary
from kgc_seq2seq.scorers.vectors import Vectors, refuse_repeated


@dataclass(frozen=True)
class ModalConfig(RotationConfig):
    """A scorer that rotates mixtures of structure, images and texts."""

    structure: bool = True
    """Learn an embedding of each entity."""
    modalities: tuple[Literal["image", "text"], ...] = ("image", "text")
    """What is read of each entity."""
    completion: bool = True
    """Read also the vectors of what ``kgc complete-modalities`` generated; otherwise such an
    entity counts as having none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.structure and not self.modalities:
            raise InputError("model.modalities is empty and model.structure false; nothing is left "
                             "to tell entities apart, give one of them.")
        refuse_repeated(self.modalities)


class ModalScorer(RotationScorer):
    """A `RotationScorer` with frozen vectors and, by its configuration, learnt embeddings."""

    config: ModalConfig

    def __init__(self, config: ModalConfig, vocabulary: Vocabulary,
                 vectors: Mapping[str, Vectors]) -> None:
        if not config.completion:
            vectors = {modality: vectors[modality].without_generated()
                       for modality in config.modalities}
            for modality, found in vectors.items():
                if not found.mask.any():
                    raise InputError(f"model.completion is false, and every vector of the modality "
                                     f"{modality} is generated; leave {modality} out of "
                                     "model.modalities.")
        super().__init__(config, vocabulary, vectors)
        if config.structure:
            self.entities = nn.Embedding(len(vocabulary.entity_ids), self.size)
            nn.init.uniform_(self.entities.weight, -self.span, self.span)

    @property
    def size(self) -> int:
        """Real numbers to an entity, 2d."""
        return 2 * self.config.dim

    @property
    def span(self) -> float:
        """Random weights lie within ± (γ + ε) / 2d, as in LBMKGC's code."""
        return (self.config.gamma + EPSILON) / self.size

    @classmethod
    def reads(cls, config: ModalConfig) -> tuple[str, ...]:
        """Its modalities."""
        return config.modalities

    def structure(self) -> Tensor | None:
        """The learnt embeddings, if there are any."""
        return self.entities.weight if self.config.structure else None


def masked_softmax(logits: Tensor, present: Tensor) -> Tensor:
    """Softmax along the first dimension over what is present; zeros where nothing is.

    Args:
        logits: [M, …].
        present: bool, of the same shape.
    """
    # The finite stand-in keeps gradients finite where nothing is present.
    masked = logits.masked_fill(~present, torch.finfo(logits.dtype).min)
    return masked.softmax(0) * present
