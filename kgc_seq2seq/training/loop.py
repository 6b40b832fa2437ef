"""The training loop: raw Accelerate, readable top to bottom."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, Literal, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from caption_cache.disk import replacing
from caption_cache.errors import InputError
from kgc_seq2seq.training.ahead import ahead
from kgc_seq2seq.training.batches import Batches, Longs
from kgc_seq2seq.training.checkpoints import Checkpoints, Progress
from kgc_seq2seq.training.logs import TrainingLog
from kgc_seq2seq.training.optimizer import OptimizerConfig, learning_rate, make_optimizer


@dataclass(frozen=True)
class LoopConfig:
    """How long and in what steps a model is trained."""

    steps: int = 6000
    """Number of optimiser steps."""
    batch_size: int = 64
    """Examples in a step, all processes together."""
    validate_every: int = 1000
    """Steps between validations; the model of the best one is kept."""
    log_every: int = 50
    """Steps between entries in the logs."""
    checkpoint_every: int = 1000
    """Steps between checkpoints."""
    keep_checkpoints: int = 2
    """So many checkpoints are kept, the last ones."""
    mixed_precision: Literal["no", "bf16"] = "no"
    """Precision of the forward pass; float16 overflows in T5 and is not offered."""

    def __post_init__(self) -> None:
        for key in ("steps", "batch_size", "validate_every", "log_every", "checkpoint_every",
                    "keep_checkpoints"):
            if getattr(self, key) < 1:
                raise InputError(f"training.{key} is {getattr(self, key)}; give 1 or more.")


@dataclass(frozen=True)
class TrainingConfig(LoopConfig):
    """How long and in what steps the generator is trained."""

    batch_tokens: int | None = None
    """In place of ``batch_size``: at most so many tokens in a step, padding and targets included;
    all processes together."""
    label_smoothing: float = 0.0
    """Share of the target probability spread over the vocabulary."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_tokens is not None and self.batch_tokens < 1:
            raise InputError(f"training.batch_tokens is {self.batch_tokens}; give 1 or more.")
        if not 0 <= self.label_smoothing < 1:
            raise InputError(f"training.label_smoothing is {self.label_smoothing}; give a number "
                             "from 0 to below 1.")


class Task(Protocol):
    """What is trained, and on what."""

    @property
    def model(self) -> nn.Module:
        """Changed in place."""

    def lengths(self, epoch: int) -> Longs:
        """How long each example's input and target are in an epoch (from 1), int64 [n, 2]."""

    @property
    def batch_tokens(self) -> int | None:
        """The sum of the lengths in a batch, padding included, instead of a number of examples."""

    @property
    def unit(self) -> str:
        """What the loss is a mean over and the speed counts, in the plural: ``tokens``."""

    def make_batch(self, examples: Longs, step: int, epoch: int) -> Mapping[str, Tensor]:
        """The tensors of examples (int64 [b]) in a step (from 0) of an epoch (from 1).

        Whatever is drawn at random must follow from the seed and the arguments.
        """

    def units(self, batch: Mapping[str, Tensor]) -> int:
        """How many units share the loss of a batch."""

    def size(self, batch: Mapping[str, Tensor]) -> int:
        """How many units the speed counts in a batch."""

    def loss(self, wrapped: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """The sum of the losses of a batch's units.

        Args:
            wrapped: The model as accelerate has prepared it; its own forward must be called.
            batch: On the model's device.
        """

    def validate(self) -> float:
        """The score of the model on valid, more is better; all processes call it."""

    def save(self, folder: Path) -> None:
        """Write the model into a folder that is not there yet."""


def train(
    task: Task,
    accelerator: Accelerator,
    config: LoopConfig,
    optimizer_config: OptimizerConfig,
    *,
    run: Path,
    seed: int,
    identity: dict[str, Any],
) -> Progress:
    """Train a model, or go on with it where its run folder says.

    The best model by `Task.validate` is kept in ``run/model``, checkpoints in
    ``run/checkpoints``, numbers in ``run/metrics.jsonl`` and ``run/tensorboard``. SIGTERM and
    Ctrl-C finish the step, write a checkpoint and return.

    Args:
        task: What is trained, and on what.
        accelerator: Knows the processes, devices and precision.
        config: Steps and intervals.
        optimizer_config: The optimiser.
        run: The run folder.
        seed: Of batches and dropout; with equal seeds, a stopped run ends like one that was not.
        identity: The whole configuration as JSON values; a checkpoint of another is refused.

    Returns:
        How far it came: fewer than ``config.steps`` steps when a signal stopped it.

    Raises:
        InputError: The newest checkpoint is of another configuration or damaged.
        FloatingPointError: The loss is no longer a finite number.
    """
    model = task.model
    checkpoints = Checkpoints(run / "checkpoints", identity, config.keep_checkpoints)
    optimizer = make_optimizer(model.parameters(), optimizer_config)
    progress = checkpoints.restore(model, optimizer)
    batches = Batches(task.lengths, config.batch_size, seed, task.batch_tokens,
                      least=accelerator.num_processes)
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    main, device = accelerator.is_main_process, accelerator.device
    rank, processes = accelerator.process_index, accelerator.num_processes
    window = _Window()

    def make(step: int) -> tuple[int, Mapping[str, Tensor]]:
        epoch, examples = batches[step]
        return epoch, task.make_batch(examples[rank::processes], step, epoch)

    steps = range(progress.step, config.steps)
    # On a CPU, model and thread would only wait for each other's turn at the interpreter.
    made = map(make, steps) if device.type == "cpu" else ahead(make, steps)
    with ExitStack() as stack:
        caught = stack.enter_context(_caught_signals())
        log = stack.enter_context(
            TrainingLog(run, config.steps, progress.step, task.unit)) if main else None
        if progress.step and log:
            log.say(f"Going on after step {progress.step}.")
        while progress.step < config.steps:
            step = progress.step
            epoch, tensors = next(made)
            # Dropout of step n is a function of the seed and n, so there is no state to resume.
            torch.manual_seed(hash((seed, step, rank)) % 2**63)
            wrapped.train()
            batch = {name: value.to(device) for name, value in tensors.items()}
            # One sum over the processes tells how many units share the loss, and who must stop.
            shared = torch.tensor([float(task.units(batch)), float(caught.signal)], device=device)
            shared = accelerator.reduce(shared, "sum")
            units, stop = float(shared[0]), bool(shared[1])
            total = task.loss(wrapped, batch)
            # DistributedDataParallel averages gradients over processes, so the sum is scaled up.
            accelerator.backward(total * (processes / units))
            accelerator.clip_grad_norm_(wrapped.parameters(), optimizer_config.max_grad_norm)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(optimizer_config, step, config.steps)
            optimizer.step()
            optimizer.zero_grad()
            progress = replace(progress, step=step + 1)
            window.add(float(total.detach()) / units, task.size(batch))
            if progress.step % config.log_every == 0:
                loss, speed = accelerator.reduce(
                    torch.tensor(window.close(), device=device), "sum").tolist()
                if not np.isfinite(loss):
                    raise FloatingPointError(
                        f"The loss is {loss} at step {progress.step}; lower "
                        "optimizer.learning_rate, or train in float32 or bf16, not fp16.")
                if log:
                    log.step(progress.step, loss, speed)
                    log.note(progress.step, loss=loss, epoch=epoch,
                             learning_rate=optimizer.param_groups[0]["lr"],
                             **{f"{task.unit}_per_second": speed})
            last = progress.step == config.steps
            if last or progress.step % config.validate_every == 0:
                progress = _validated(task, progress, run, log)
                window = _Window()
            if main and (stop or last or progress.step % config.checkpoint_every == 0):
                checkpoints.save(progress, model, optimizer)
            if stop:
                break
    return progress


def _validated(task: Task, progress: Progress, run: Path, log: TrainingLog | None) -> Progress:
    """Score the model on valid, and keep it if it is the best so far."""
    start = time.perf_counter()
    task.model.eval()
    score = task.validate()
    better = score > progress.best_score
    if better:
        progress = replace(progress, best_step=progress.step, best_score=score)
    if log:
        log.note(progress.step, valid_mrr=score, valid_seconds=time.perf_counter() - start)
        log.say(f"step {progress.step}: MRR on valid {score:.4f}" + " (best so far)" * better)
        if better:
            with replacing(run / "model") as aside:
                task.save(aside)
    return progress


class _Window:
    """What happened since the window was last closed."""

    def __init__(self) -> None:
        self._losses: list[float] = []
        self._units = 0
        self._start = time.perf_counter()

    def add(self, loss: float, units: int) -> None:
        self._losses.append(loss)
        self._units += units

    def close(self) -> tuple[float, float]:
        """This process's share of the mean loss of the steps, and of the units a second."""
        seconds = time.perf_counter() - self._start
        loss, speed = float(np.mean(self._losses)), self._units / seconds
        self.__init__()  # type: ignore[misc]
        return loss, speed


class _Caught:
    signal = False


@contextmanager
def _caught_signals() -> Iterator[_Caught]:
    """Note SIGTERM and Ctrl-C instead of dying of them."""
    caught = _Caught()

    def note(number: int, frame: FrameType | None) -> None:
        caught.signal = True

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
