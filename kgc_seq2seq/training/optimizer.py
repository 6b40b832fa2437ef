"""The optimiser and its learning rate."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch

from caption_cache.errors import InputError


@dataclass(frozen=True)
class OptimizerConfig:
    """How weights are changed."""

    name: Literal["adafactor", "adamw"] = "adafactor"
    """Adafactor (Shazeer and Stern 2018, what T5 was trained with) or AdamW."""
    learning_rate: float = 3e-3
    """Peak learning rate."""
    warmup_steps: int = 200
    """Steps over which the learning rate rises from 0."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate goes on from its peak: down to 0 at the last step, or level."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""

    def __post_init__(self) -> None:
        for key in ("learning_rate", "max_grad_norm"):
            if getattr(self, key) <= 0:
                raise InputError(f"optimizer.{key} is {getattr(self, key)}; it must be positive.")
        for key in ("warmup_steps", "weight_decay"):
            if getattr(self, key) < 0:
                raise InputError(f"optimizer.{key} is {getattr(self, key)}; give 0 or more.")


def make_optimizer(
    parameters: Iterable[torch.nn.Parameter], config: OptimizerConfig
) -> torch.optim.Optimizer:
    """The optimiser; its learning rate is set before each step by `learning_rate`."""
    if config.name == "adafactor":
        # Here, because it brings peft and more along, which a prediction need not wait for.
        from transformers.optimization import Adafactor

        return Adafactor(parameters, lr=config.learning_rate, weight_decay=config.weight_decay,
                         scale_parameter=False, relative_step=False)
    return torch.optim.AdamW(parameters, lr=config.learning_rate,
                             weight_decay=config.weight_decay)


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """The learning rate of step ``step`` (from 0) of ``steps``; nothing to save and resume."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    factor = {"constant": 1.0, "linear": 1 - done,
              "cosine": (1 + math.cos(math.pi * done)) / 2}[config.schedule]
    return config.learning_rate * factor
