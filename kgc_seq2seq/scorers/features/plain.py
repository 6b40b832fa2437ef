"""Vectors of texts and images without any trained weights, so that everything runs offline."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from caption_cache.errors import InputError
from kgc_seq2seq.arrays import Longs, Singles

_SIDE = 96
"""Images are shrunk to so many pixels a side."""
_CELLS = 3
"""They are divided into so many rows and columns of cells."""
_COLOURS = 4
"""Steps of each channel in the colour histogram."""
_DIRECTIONS = 8
"""Steps of the angle in the edge histograms."""


class TermWeights:
    """TF-IDF of words and pairs of words, reduced by a truncated singular value decomposition."""

    def __init__(self, dim: int = 256) -> None:
        """Choose the width; fewer are given where the texts do not have so many dimensions."""
        if dim < 1:
            raise InputError(f"--dim is {dim}; give 1 or more.")
        self.identity: dict[str, Any] = {"encoder": "tf-idf", "dim": dim}
        self.dim = dim
        self.batch_size = sys.maxsize  # how rare a word is follows from all texts

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Vectors of length 1 (or 0), float32 [n, d]; each depends on all texts.

        Raises:
            InputError: scikit-learn is not installed, or there is not one word.
        """
        try:
            from sklearn.feature_extraction.text import TfidfVectorizer
            from sklearn.utils.extmath import randomized_svd
        except ImportError:
            raise InputError("The vectors of texts need scikit-learn; install it with "
                             "pip install 'kgc-seq2seq[vectors]'.") from None
        vectorizer = TfidfVectorizer(token_pattern=r"(?u)\w+", ngram_range=(1, 2),
                                     sublinear_tf=True, dtype=np.float32)
        try:
            weights = vectorizer.fit_transform(texts)
        except ValueError:  # an empty vocabulary
            raise InputError("The names and descriptions of the entities hold no word; fill in "
                             "entities.tsv.") from None
        left, singular, _ = randomized_svd(weights, min(self.dim, *weights.shape), random_state=0)
        reduced = (left * singular).astype(np.float32)
        length = np.linalg.norm(reduced, axis=1, keepdims=True)
        return torch.from_numpy(reduced / np.maximum(length, np.finfo(np.float32).tiny))


class ImageStatistics:
    """Which colours an image has, which colour each part has, and how edges run in each part."""

    batch_size = 64

    @property
    def identity(self) -> dict[str, Any]:
        """What the statistics depend on."""
        return {"encoder": "colours and edges", "side": _SIDE, "cells": _CELLS,
                "colours": _COLOURS, "directions": _DIRECTIONS}

    def encode(self, images: Sequence[Image.Image]) -> Tensor:
        """Statistics of each image (mode RGB), float32 [n, 163]."""
        shrunk = [np.asarray(image.resize((_SIDE, _SIDE), Image.Resampling.BOX), np.float32)
                  for image in images]
        pixels: Singles = np.stack(shrunk) / np.float32(255)
        return torch.from_numpy(np.hstack([_colours(pixels), _layout(pixels), _edges(pixels)]))


def _colours(pixels: Singles) -> Singles:
    """Square roots of the shares of each colour, over the whole image: [n, colours³]."""
    step = np.minimum((pixels * _COLOURS).astype(np.int64), _COLOURS - 1)
    bins = step @ np.array([_COLOURS**2, _COLOURS, 1])
    return _histogram(bins.reshape(len(pixels), -1), np.ones_like(pixels[..., 0]).reshape(
        len(pixels), -1), _COLOURS**3)


def _layout(pixels: Singles) -> Singles:
    """The mean colour of each cell: [n, cells² · 3]."""
    size = _SIDE // _CELLS
    cells: Singles = pixels.reshape(len(pixels), _CELLS, size, _CELLS, size, 3).mean((2, 4))
    return cells.reshape(len(pixels), -1)


def _edges(pixels: Singles) -> Singles:
    """Square roots of the shares of each direction in each cell's edges: [n, cells² · directions].

    Directions have no sign; an edge counts by its contrast. A cell without edges has zeros.
    """
    down, across = np.gradient(pixels.mean(-1), axis=(1, 2))
    strength = np.hypot(down, across)
    angle = np.arctan2(down, across) % np.pi / np.pi
    step = np.minimum((angle * _DIRECTIONS).astype(np.int64), _DIRECTIONS - 1)
    size, n = _SIDE // _CELLS, len(pixels)

    def by_cell(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return values.reshape(n, _CELLS, size, _CELLS, size).swapaxes(2, 3).reshape(
            n * _CELLS**2, size * size)

    return _histogram(by_cell(step), by_cell(strength), _DIRECTIONS).reshape(n, -1)


def _histogram(bins: Longs, weight: Singles, count: int) -> Singles:
    """Square roots of the shares of each bin, row by row: two [n, m] give [n, count]."""
    rows = np.arange(len(bins))[:, None] * count
    sums = np.bincount((bins + rows).ravel(), weight.ravel(), len(bins) * count)
    sums = sums.reshape(len(bins), count)
    total = np.maximum(sums.sum(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    shares: Singles = np.sqrt(sums / total).astype(np.float32)
    return shares
