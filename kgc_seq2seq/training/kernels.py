"""The kernels that a CPU's matrix products are compiled to."""

from __future__ import annotations

import os

KEPT = 16384
"""So many are kept: one for each length of inputs, product of a layer and gradient."""


def keep_kernels() -> None:
    """Let oneDNN keep what it compiles; must come before the first matrix product of a process.

    It computes bfloat16, keeps 1,024 kernels by itself, and takes longer to compile one anew than
    to use it. What ``ONEDNN_PRIMITIVE_CACHE_CAPACITY`` says already is left as it is.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(KEPT))
