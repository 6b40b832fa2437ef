"""How much each of several views of the same entities adds to the others (our reconstruction).

Complementarity is named but not defined in the paper of MoCME; conditional entropy and
normalised mutual information are what its author measured views with before (arXiv 2412.17647).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Measure = Literal["cos", "ce", "nmi", "none"]


def complementarity(measure: Measure, views: Tensor, present: Tensor, codes: Tensor) -> Tensor:
    """The complementarity ``c_k`` of each view, against the other views that an entity has.

    ``cos``, for each entity: ``mean_{l≠k} (1 - cos(z_k, z_l)) / 2``. The others for all entities
    at once, without gradient, on the joint distribution P of two views' soft codes ``p = softmax
    (cos(z, code) √C)``, over the entities that have both: ``ce`` is ``mean_{l≠k} H(Z_k | Z_l) /
    log C`` and ``nmi`` is ``1 - mean_{l≠k} I(Z_k; Z_l) / √(H(Z_k) H(Z_l))``. All lie in 0 … 1.

    Args:
        measure: Which; ``none`` gives zeros.
        views: [K, N, D].
        present: Which entities have which view, bool [K, N].
        codes: [C, D], of length 1.

    Returns:
        [K, N]; 0 where there is no other view.
    """
    if measure == "none" or len(views) == 1:
        return torch.zeros_like(views[..., 0])
    if measure == "cos":
        # u_k · Σ_l u_l, less u_k · u_k: no unit vectors are made, which would be most of a step.
        square = (views * views).sum(2)
        scale = square.clamp(min=torch.finfo(square.dtype).tiny).rsqrt()
        total = ((scale * present)[..., None] * views).sum(0)
        others = present.sum(0) - present.int()
        mean = ((views * total).sum(2) * scale - present * square * scale**2) / others.clamp(min=1)
        return (1 - mean) / 2 * (others > 0)
    with torch.no_grad():
        return _by_counts(measure, views, present, codes)[:, None].expand(-1, views.shape[1])


def _by_counts(measure: Measure, views: Tensor, present: Tensor, codes: Tensor) -> Tensor:
    unit = functional.normalize(views, dim=2)
    soft = (unit @ codes.T * len(codes) ** 0.5).softmax(2) * present[..., None]  # [K, N, C]
    total = (present.to(soft.dtype) @ present.to(soft.dtype).T).clamp(min=1)  # [K, K]
    joint = torch.einsum("knc,lnd->klcd", soft, soft) / total[..., None, None]
    own, other = joint.sum(3), joint.sum(2)  # of k and of l over the entities that have both
    h_own, h_other, h_joint = _entropy(own), _entropy(other), _entropy(joint.flatten(2))
    if measure == "ce":
        value = (h_joint - h_other) / max(1.0, float(torch.tensor(float(len(codes))).log()))
    else:
        tiny = torch.finfo(views.dtype).tiny
        value = 1 - (h_own + h_other - h_joint) / (h_own * h_other).sqrt().clamp(min=tiny)
    apart = ~torch.eye(len(views), dtype=torch.bool, device=views.device)
    return (value * apart).sum(1) / (len(views) - 1)


def _entropy(distribution: Tensor) -> Tensor:
    return -torch.xlogy(distribution, distribution).sum(-1)
