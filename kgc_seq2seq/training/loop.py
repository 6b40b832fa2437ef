"""The training loop: raw Accelerate, readable top to bottom."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn import functional
from transformers import T5ForConditionalGeneration

from caption_cache.disk import replacing
from caption_cache.errors import InputError
from kgc_seq2seq.training.batches import Batches
from kgc_seq2seq.training.checkpoints import Checkpoints, Progress
from kgc_seq2seq.training.logs import TrainingLog
from kgc_seq2seq.training.model import save_model
from kgc_seq2seq.training.optimizer import OptimizerConfig, learning_rate, make_optimizer

IGNORED = -100
"""Label of positions that are not learnt (padding), as in transformers."""


@dataclass(frozen=True)
class TrainingConfig:
    """How long and in what steps the model is trained."""

    steps: int = 6000
    """Number of optimiser steps."""
    batch_size: int = 64
    """Queries in a step, all processes together."""
    label_smoothing: float = 0.0
    """Share of the target probability spread over the vocabulary."""
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
        if not 0 <= self.label_smoothing < 1:
            raise InputError(f"training.label_smoothing is {self.label_smoothing}; give a number "
                             "from 0 to below 1.")


def train(
    model: T5ForConditionalGeneration,
    lengths: npt.NDArray[np.int64],
    make_batch: Callable[[npt.NDArray[np.int64], int], Mapping[str, Tensor]],
    validate: Callable[[], float],
    accelerator: Accelerator,
    config: TrainingConfig,
    optimizer_config: OptimizerConfig,
    *,
    run: Path,
    seed: int,
    identity: dict[str, Any],
) -> Progress:
    """Train a sequence-to-sequence model, or go on with it where its run folder says.

    The best model by ``validate`` is kept in ``run/model``, checkpoints in ``run/checkpoints``,
    numbers in ``run/metrics.jsonl`` and ``run/tensorboard``. SIGTERM and Ctrl-C finish the step,
    write a checkpoint and return.

    Args:
        model: Changed in place.
        lengths: About how long each training example is, int64 [n].
        make_batch: Gives ``input_ids``, ``attention_mask`` and ``labels`` (`IGNORED` where
            nothing is learnt) of examples (int64 [b]) in an epoch (from 1).
        validate: Gives the score of the model on valid, more is better; all processes call it.
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
    checkpoints = Checkpoints(run / "checkpoints", identity, config.keep_checkpoints)
    optimizer = make_optimizer(model.parameters(), optimizer_config)
    progress = checkpoints.restore(model, optimizer)
    batches = Batches(lengths, config.batch_size, seed)
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    main, device = accelerator.is_main_process, accelerator.device
    rank, processes = accelerator.process_index, accelerator.num_processes
    window = _Window()
    with ExitStack() as stack:
        caught = stack.enter_context(_caught_signals())
        log = stack.enter_context(TrainingLog(run, config.steps, progress.step)) if main else None
        if progress.step and log:
            log.say(f"Going on after step {progress.step}.")
        while progress.step < config.steps:
            step = progress.step
            epoch, examples = batches[step]
            # Dropout of step n is a function of the seed and n, so there is no state to resume.
            torch.manual_seed(hash((seed, step, rank)) % 2**63)
            wrapped.train()
            batch = {name: value.to(device)
                     for name, value in make_batch(examples[rank::processes], epoch).items()}
            labels = batch["labels"]
            # One sum over the processes tells how many tokens share the loss, and who must stop.
            shared = torch.tensor([float((labels != IGNORED).sum()), float(caught.signal)],
                                  device=device)
            shared = accelerator.reduce(shared, "sum")
            tokens, stop = float(shared[0]), bool(shared[1])
            logits = wrapped(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"],
                             decoder_input_ids=model._shift_right(labels), use_cache=False).logits
            total = functional.cross_entropy(
                logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED,
                label_smoothing=config.label_smoothing, reduction="sum")
            # DistributedDataParallel averages gradients over processes, so the sum is scaled up.
            accelerator.backward(total * (processes / tokens))
            accelerator.clip_grad_norm_(wrapped.parameters(), optimizer_config.max_grad_norm)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(optimizer_config, step, config.steps)
            optimizer.step()
            optimizer.zero_grad()
            progress = replace(progress, step=step + 1)
            window.add(float(total.detach()) / tokens,
                       labels.numel() + batch["input_ids"].numel())
            if progress.step % config.log_every == 0:
                loss, speed = accelerator.reduce(
                    torch.tensor(window.close(), device=device), "sum").tolist()
                if not np.isfinite(loss):
                    raise FloatingPointError(
                        f"The loss is {loss} at step {progress.step}; lower "
                        "optimizer.learning_rate, or train in float32 or bf16, not fp16.")
                if log:
                    log.step(progress.step, loss, speed)
                    log.note(progress.step, loss=loss, tokens_per_second=speed, epoch=epoch,
                             learning_rate=optimizer.param_groups[0]["lr"])
            last = progress.step == config.steps
            if last or progress.step % config.validate_every == 0:
                progress = _validated(model, validate, progress, run, log)
                window = _Window()
            if main and (stop or last or progress.step % config.checkpoint_every == 0):
                checkpoints.save(progress, model, optimizer)
            if stop:
                break
    return progress


def _validated(
    model: T5ForConditionalGeneration, validate: Callable[[], float], progress: Progress,
    run: Path, log: TrainingLog | None,
) -> Progress:
    """Score the model on valid, and keep it if it is the best so far."""
    start = time.perf_counter()
    model.eval()
    score = validate()
    better = score > progress.best_score
    if better:
        progress = replace(progress, best_step=progress.step, best_score=score)
    if log:
        log.note(progress.step, valid_mrr=score, valid_seconds=time.perf_counter() - start)
        log.say(f"step {progress.step}: MRR on valid {score:.4f}" + " (best so far)" * better)
        if better:
            with replacing(run / "model") as aside:
                save_model(model, aside)
    return progress


class _Window:
    """What happened since the window was last closed."""

    def __init__(self) -> None:
        self._losses: list[float] = []
        self._tokens = 0
        self._start = time.perf_counter()

    def add(self, loss: float, tokens: int) -> None:
        self._losses.append(loss)
        self._tokens += tokens

    def close(self) -> tuple[float, float]:
        """This process's share of the mean loss of the steps, and of the tokens a second."""
        seconds = time.perf_counter() - self._start
        loss, speed = float(np.mean(self._losses)), self._tokens / seconds
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
