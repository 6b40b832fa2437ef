"""Compiling what is trained: fewer passes through memory, for a minute at the start."""

from __future__ import annotations

import os
import shutil

import torch
from torch import nn

from caption_cache.errors import InputError


def compile_model(model: nn.Module, backend: str) -> None:
    """Compile the forward pass of a model, and with it its gradient.

    Args:
        model: Changed in place.
        backend: Of torch.compile; "no" compiles nothing.

    Raises:
        InputError: There is no such backend, or it needs a C++ compiler and finds none.
    """
    if backend == "no":
        return
    known = torch.compiler.list_backends(exclude_tags=())
    if backend not in known:
        raise InputError(f"training.compile is {backend!r}; give no, or one of "
                         f"{', '.join(known)}.")
    compiler = os.environ.get("CXX", "g++")
    if backend == "inductor" and not shutil.which(compiler):
        raise InputError("training.compile is 'inductor', which needs a C++ compiler, but there is "
                         f"no {compiler}; install it, name another in CXX, or give no.")
    model.compile(backend=backend, dynamic=True)
