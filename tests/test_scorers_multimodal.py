"""What holds of every scorer that fuses modalities."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import test_scorers_lbmkgc
import test_scorers_mocme
import torch
from conftest import random_graph

from caption_cache.errors import InputError


@pytest.mark.parametrize("kind", [test_scorers_lbmkgc, test_scorers_mocme])
def test_half_precision_trains(kind: ModuleType) -> None:
    graph = random_graph(2)
    scorer = kind.make(graph, kind.CONFIG).float()
    batch = scorer.feed(graph, 0)(np.arange(6), 1) | {"done": torch.tensor(0.5)}
    with torch.autocast("cpu", torch.bfloat16):
        half = scorer.loss(batch)
    gradients = torch.autograd.grad(half, list(scorer.parameters()))
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    torch.testing.assert_close(half, scorer.loss(batch), rtol=0.05, atol=0)


@pytest.mark.parametrize("kind, changes", [
    *((kind, changes) for kind in (test_scorers_lbmkgc, test_scorers_mocme) for changes in (
        {"structure": False, "modalities": ()}, {"modalities": ("text", "text")})),
    *((test_scorers_lbmkgc, changes) for changes in (
        {"variant": "paper", "modalities": ("text",)},
        {"relation_weights": True, "guided": False}, {"alignment": -1})),
    *((test_scorers_mocme, changes) for changes in (
        {"experts": 0}, {"prototypes": 0}, {"intra_temperature": 0}))])
def test_impossible_settings_are_refused_by_their_key(
    kind: ModuleType, changes: dict[str, Any]
) -> None:
    with pytest.raises(InputError, match=r"^model\.[a-z_]+ "):
        replace(kind.CONFIG, **changes)
