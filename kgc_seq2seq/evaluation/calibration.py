"""Whether probabilities mean what they say: of answers given 70 %, are 70 % right?"""

from __future__ import annotations

from typing import Any

import numpy as np

from kgc_seq2seq.arrays import Bools, Floats

BINS = 10
"""Of equal width, 0 … 1; a bin holds its upper end."""


def reliability(confidence: Floats, right: Bools) -> dict[str, Any]:
    """A reliability diagram and the expected calibration error (Guo et al. 2017, eq. 3).

    Args:
        confidence: Probabilities of answers, 0 … 1, float64 [G], G > 0.
        right: Whether each is right, bool [G].

    Returns:
        JSON values: ``ece``, the mean of |accuracy - confidence| of the bins weighted by their
        counts; ``confidence`` and ``accuracy``, the means over all; ``count``; and ``bins`` that
        are not empty, from low to high, with ``low``, ``high``, ``confidence``, ``accuracy`` and
        ``count``.
    """
    place = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    count = np.bincount(place, minlength=BINS)
    sure = np.bincount(place, confidence, BINS) / np.maximum(count, 1)
    accuracy = np.bincount(place, right, BINS) / np.maximum(count, 1)
    return {
        "ece": float((count * np.abs(accuracy - sure)).sum() / len(confidence)),
        "confidence": float(confidence.mean()),
        "accuracy": float(right.mean()),
        "count": len(confidence),
        "bins": [{"low": b / BINS, "high": (b + 1) / BINS, "confidence": float(sure[b]),
                  "accuracy": float(accuracy[b]), "count": int(count[b])}
                 for b in np.flatnonzero(count).tolist()],
    }
