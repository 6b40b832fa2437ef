"""Whose text names whom: the pairs of entities, and how much of a name stands there."""

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


@dataclass(frozen=True, eq=False)
class Mentions:
    """M pairs of N entities, one of which has a text that names the other."""

    text: Tensor
    """The entity whose text it is, int64 [M], ascending."""
    name: Tensor
    """The entity that is named, int64 [M]; nobody names itself."""
    share: Tensor
    """How much of its name stands there, float32 [M], above 0 and at most 1."""
    rarity: Tensor
    """How rare what stands there is, float32 [M], above 0: the sum of its words' weights, each of
    about 1 where a word stands nowhere else."""
    around: Tensor
    """The words before and after it, by number from 1, int32 [M, W]; 0: no more of them."""
    STORED: ClassVar = ("text", "name", "share", "rarity", "around")
    """The tensors that a saved scorer holds."""


def write_mentions(
    path: Path, entity_ids: Sequence[str], mentions: Mentions, about: dict[str, Any]
) -> None:
    """Write mentions with the ids of the entities.

    Args:
        path: The file.
        entity_ids: The N entities.
        mentions: Of these.
        about: What they were found in, as JSON values.
    """
    with replacing(path) as aside:
        save_file({**{key: getattr(mentions, key) for key in Mentions.STORED},
                   "ids": pack(entity_ids)}, aside, {"about": json.dumps(about)})


def read_mentions(path: Path, entity_ids: Sequence[str]) -> Mentions:
    """Read mentions as those of the entities of a graph.

    Args:
        path: A file of `write_mentions`.
        entity_ids: The entities of the graph, in its order; the file may have another.

    Raises:
        InputError: The file is missing or malformed, or names entities of another graph or one
            twice.
    """
    if not path.is_file():
        raise InputError(f"{path} is missing; run 'kgc features {path.parent.parent} --modality "
                         "mentions' first, with --captions where there are some.")
    try:
        with safe_open(path, "pt") as file:
            text, name, *how = (file.get_tensor(key) for key in Mentions.STORED)
            ids = unpack(file.get_tensor("ids"))
    except Exception as error:  # safetensors and the disk each have their own
        raise InputError(f"{path} holds no mentions ({error}); write it with 'kgc features "
                         "--modality mentions'.") from None
    rows = torch.from_numpy(places(str(path), "mentions", ids, entity_ids))
    text, order = rows[text].sort(stable=True)
    return Mentions(text, rows[name][order], *(value[order] for value in how))
