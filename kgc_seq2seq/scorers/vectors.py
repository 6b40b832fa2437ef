"""What is known of the entities in one modality: a vector for each, and who has none."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from caption_cache.disk import replacing
from caption_cache.errors import InputError
from kgc_seq2seq.scorers.ids import pack, places, unpack

MODALITIES = ("image", "text")


@dataclass(frozen=True, eq=False)
class Vectors:
    """One modality of N entities."""

    values: Tensor
    """float32 [N, d]; zero where there is none."""
    mask: Tensor
    """Who has a vector, bool [N]."""
    generated: Tensor | None = None
    """Whose vector is made of what ``kgc complete-modalities`` generated, bool [N]; None: of
    nobody."""
    STORED: ClassVar = ("values", "mask")
    """The tensors that a saved scorer holds."""

    def without_generated(self) -> Vectors:
        """These, with nothing for entities whose vector is made of what was generated."""
        if self.generated is None:
            return self
        mask = self.mask & ~self.generated
        return Vectors(torch.where(mask[:, None], self.values, 0), mask)


def refuse_repeated(modalities: Sequence[str]) -> None:
    """Check a scorer's ``model.modalities``.

    Raises:
        InputError: One is named twice.
    """
    if len(set(modalities)) < len(modalities):
        raise InputError("model.modalities names one twice; give each once.")


def vectors_path(dataset: Path, modality: str) -> Path:
    """Where a data set keeps the vectors of ``"image"`` or ``"text"``."""
    return dataset / "features" / f"{modality}.safetensors"


def write_vectors(
    path: Path, entity_ids: Sequence[str], vectors: Vectors, about: dict[str, Any]
) -> None:
    """Write vectors with the ids of their rows.

    Args:
        path: The file.
        entity_ids: The entity of each row.
        vectors: The rows.
        about: What made them, as JSON values.
    """
    generated = (torch.zeros_like(vectors.mask) if vectors.generated is None
                 else vectors.generated)
    with replacing(path) as aside:
        save_file({"values": vectors.values.contiguous(), "mask": vectors.mask,
                   "generated": generated, "ids": pack(entity_ids)}, aside,
                  {"about": json.dumps(about)})


def read_vectors(path: Path, entity_ids: Sequence[str]) -> Vectors:
    """Read vectors, and bring their rows into the order of a graph.

    An entity that the file does not name has no vector.

    Args:
        path: A file of `write_vectors`: ``values`` float32 [M, d], ``mask`` bool [M], ``ids``;
            perhaps ``generated`` bool [M].
        entity_ids: The entities of the graph.

    Raises:
        InputError: The file is missing or malformed, names entities of another graph, holds
            values that are not finite, or gives no entity a vector.
    """
    if not path.is_file():
        raise InputError(f"{path} is missing; run 'kgc features {path.parent.parent}' first, or "
                         f"leave {path.stem} out of model.modalities.")
    try:
        with safe_open(path, "pt") as file:
            values, mask = file.get_tensor("values"), file.get_tensor("mask")
            ids = unpack(file.get_tensor("ids"))
            names = file.keys()  # files of older versions lack some
            generated = file.get_tensor("generated") if "generated" in names else None
    except Exception as error:  # safetensors and the disk each have their own
        raise InputError(f"{path} holds no vectors ({error}); write it with "
                         "'kgc features'.") from None
    return align(str(path), values, mask, ids, entity_ids, generated)


def align(
    source: str, values: Tensor, mask: Tensor, ids: Sequence[str], entity_ids: Sequence[str],
    generated: Tensor | None = None,
) -> Vectors:
    """Check vectors, and bring their rows into the order of a graph.

    Args:
        source: Where they come from, for messages.
        values: Any floating-point type, [M, d].
        mask: bool [M].
        ids: The entity of each of the M rows.
        entity_ids: The N entities of the graph.
        generated: As in `Vectors`, of the M rows.

    Raises:
        InputError: As in `read_vectors`.
    """
    if values.ndim != 2 or not values.is_floating_point() or not values.shape[1]:
        raise InputError(f"{source}: the vectors have the shape {tuple(values.shape)} and the type "
                         f"{values.dtype}; give floating-point numbers, one row an entity.")
    marks = mask if generated is None else generated
    if (not len(values) == len(ids) == len(mask) == len(marks)
            or not mask.dtype == marks.dtype == torch.bool):
        raise InputError(f"{source}: {len(values)} rows, {len(mask)} marks in the mask and "
                         f"{len(ids)} ids do not fit together; make the file again.")
    rows = torch.from_numpy(places(source, "vectors", ids, entity_ids))
    missing = ~torch.isfinite(values).all(dim=1) & mask
    if missing.any():
        raise InputError(f"{source}: the vector of {ids[int(missing.int().argmax())]!r} holds NaN "
                         "or infinity; make it again, or mask the entity out.")
    if not mask.any():
        raise InputError(f"{source}: no entity has a vector; make the file again, or leave the "
                         "modality out.")

    def placed(part: Tensor) -> Tensor:
        full = part.new_zeros(len(entity_ids), *part.shape[1:])
        full[rows] = part
        return full

    return Vectors(placed(torch.where(mask[:, None], values, 0).float()), placed(mask),
                   None if generated is None else placed(generated & mask))
