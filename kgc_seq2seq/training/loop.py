"""The training loop: raw Accelerate, readable top to bottom."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
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
from caption_cache.prefetch import prefetch
from kgc_seq2seq.arrays import Longs
from kgc_seq2seq.training.averages import WeightAverage
from kgc_seq2seq.training.batches import Batch, Batches, Examples
from kgc_seq2seq.training.checkpoints import Checkpoints, Progress, TrainingState
from kgc_seq2seq.training.logs import TrainingLog
from kgc_seq2seq.training.optimizer import OptimizerConfig, learning_rate, make_optimizer
from kgc_seq2seq.training.sharding import gather, is_sharding, shard, whole_tensor

MADE_AHEAD = 8
"""So many steps' batches wait for a model on an accelerator: it shall have some while the examples
of the next window are made."""
NOTHING_AHEAD_ON = ("cpu",)
"""There, model and thread would only wait for each other's turn at the interpreter."""


@dataclass(frozen=True)
class LoopConfig:
    """How long and in what steps a model is trained."""

    steps: int = 6000
    """Number of optimiser steps."""
    batch_size: int = 64
    """Examples in a step, all processes together."""
    validate_every: int = 1000
    """Steps between validations; the model of the best one is kept."""
    validate_facts: int | None = None
    """So many facts of valid, drawn by the seed, are ranked at each validation; None: all. Ranks
    among many thousand names take long, so that in the end only test is ranked as a whole;
    ``kgc evaluate RUN --split valid`` ranks valid."""
    log_every: int = 50
    """Steps between entries in the logs."""
    checkpoint_every: int = 1000
    """Steps between checkpoints."""
    keep_checkpoints: int = 2
    """So many checkpoints are kept, the last ones."""
    gradient_accumulation: int = 1
    """So many parts of a step's examples are computed one after another: less memory, the same
    step, since the loss is divided by what all parts and processes have in it. Only what compares
    the entities of a batch (LBMKGC's variant paper; MoCME's ce and nmi) sees its own part alone."""
    patience: int = 0
    """Training ends after so many validations without a better one; 0 never ends it early."""
    ema_decay: float = 0.0
    """Decay of a moving average of the weights, such as 0.999, which is then validated and kept
    instead of the weights; 0 keeps none."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """Precision of the forward pass."""
    compile: str = "no"
    """A backend of torch.compile, of which inductor is the usual one; no compiles nothing. What
    inductor adds up on several threads of a CPU differs in the last digits from run to run."""

    def __post_init__(self) -> None:
        for key in ("steps", "batch_size", "validate_every", "log_every", "checkpoint_every",
                    "keep_checkpoints", "gradient_accumulation"):
            if getattr(self, key) < 1:
                raise InputError(f"training.{key} is {getattr(self, key)}; give 1 or more.")
        if self.validate_facts is not None and self.validate_facts < 1:
            raise InputError(f"training.validate_facts is {self.validate_facts}; give 1 or more.")
        if self.patience < 0:
            raise InputError(f"training.patience is {self.patience}; give 0 or more.")
        if not 0 <= self.ema_decay < 1:
            raise InputError(f"training.ema_decay is {self.ema_decay}; give a number from 0 to "
                             "below 1.")


@dataclass(frozen=True)
class TrainingConfig(LoopConfig):
    """How long and in what steps the generator is trained."""

    batch_tokens: int | None = None
    """In place of ``batch_size``: at most so many tokens in a step, padding and targets included;
    all processes together."""
    ranks: Literal["exact", "certified"] = "exact"
    """How answers are ranked, at validations and at the end: exactly, or within brackets that hold
    every reciprocal rank to 0.002, which is many times cheaper among many thousand names. A state
    is then chosen by the middle of its MRR's bracket."""
    denoising: float = 0.0
    """Share of the examples of an epoch that teach the graph's text instead of an answer: spans of
    the input are left out and are the target, as T5 was pretrained."""
    label_smoothing: float = 0.0
    """Share of the target probability spread over the vocabulary."""
    gradient_checkpointing: bool = False
    """Whether the layers are computed again in the backward pass: less memory, slower steps."""
    force_fp16: bool = False
    """Whether mixed_precision: fp16 is allowed, in which T5 is known to break down."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_tokens is not None and self.batch_tokens < 1:
            raise InputError(f"training.batch_tokens is {self.batch_tokens}; give 1 or more.")
        for key in ("denoising", "label_smoothing"):
            if not 0 <= getattr(self, key) < 1:
                raise InputError(f"training.{key} is {getattr(self, key)}; give a number from 0 to "
                                 "below 1.")
        if self.mixed_precision == "fp16" and not self.force_fp16:
            raise InputError("training.mixed_precision is fp16, whose largest number, 65,504, the "
                             "activations of T5 exceed, so that the loss becomes nan; choose bf16, "
                             "or insist with training.force_fp16: true.")


class Task(Protocol):
    """What is trained, and on what."""

    @property
    def model(self) -> nn.Module:
        """Changed in place."""

    @property
    def count(self) -> int:
        """The number of examples in an epoch."""

    def read(self, examples: Longs, epoch: int) -> Examples:
        """Make examples (int64 [n], of `count`) as they are in an epoch (from 1).

        Whatever is drawn at random must follow from the seed, the example and the epoch, and in
        `Examples.batch` from those of the batch and the step.
        """

    @property
    def batch_tokens(self) -> int | None:
        """The sum of the lengths in a batch, padding included, instead of a number of examples."""

    @property
    def unit(self) -> str:
        """What the loss is a mean over and the speed counts, in the plural: ``tokens``."""

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
        How far it came; `has_ended` unless a signal stopped it.

    Raises:
        InputError: The newest checkpoint is of another configuration or damaged, a step has too
            few examples to be divided, or the launcher asked for what cannot be sharded.
        FloatingPointError: The loss or its gradient is no longer a finite number.
    """
    main, device = accelerator.is_main_process, accelerator.device
    rank, processes = accelerator.process_index, accelerator.num_processes
    parts = config.gradient_accumulation
    batches = Batches(task.read, task.count, config.batch_size, seed, task.batch_tokens,
                      least=parts * processes)
    if batches.smallest < parts * processes:
        raise InputError(f"A step has {batches.smallest} examples, too few for {processes} "
                         f"processes with training.gradient_accumulation {parts}; raise "
                         "training.batch_size or lower the other.")
    sharded = is_sharding(accelerator)
    if sharded:
        _refuse_unshardable(config, optimizer_config)
    model = shard(task.model, accelerator) if sharded else task.model
    optimizer = make_optimizer(
        [weight for weight in model.parameters() if weight.requires_grad], optimizer_config)
    average = WeightAverage(model, config.ema_decay) if config.ema_decay else None
    state = TrainingState(model, optimizer, average, accelerator.scaler)
    checkpoints = Checkpoints(run / "checkpoints", identity, config.keep_checkpoints)
    progress = checkpoints.restore(state)
    begun = time.perf_counter() - progress.seconds
    wrapped = model
    if not sharded:
        wrapped, optimizer = accelerator.prepare(model, optimizer)
    sum_over_processes = _summing(processes)
    window = _Window()

    def make(batch: Batch) -> tuple[Batch, list[Mapping[str, Tensor]]]:
        share = batch.rows[rank::processes]
        return batch, [batch.examples.batch(share[part::parts], batch.step)
                       for part in range(parts)]

    making = map(make, batches.after(progress.step, progress.window, progress.window_step))
    ready = making if device.type in NOTHING_AHEAD_ON else prefetch(
        lambda _: next(making), range(progress.step, config.steps), MADE_AHEAD, threads=1)

    def save(progress: Progress) -> Progress:
        progress = replace(progress, seconds=time.perf_counter() - begun)
        checkpoints.save(progress, state, write=main)
        return progress

    with ExitStack() as stack:
        caught = stack.enter_context(_caught_signals())
        log = stack.enter_context(
            TrainingLog(run, config.steps, progress.step, task.unit)) if main else None
        if progress.step and log:
            log.say(f"Going on after step {progress.step}.")

        def validated(progress: Progress) -> Progress:
            with _weights_in_place(task.model, state):
                # Where processes add up their shares, none may leave the others waiting.
                return _validated(task, progress, run, log, caught if processes == 1 else None)

        while not has_ended(progress, config):
            if progress.due:
                progress = save(validated(progress))
                if progress.due:
                    break
                continue
            step = progress.step
            chosen, made = next(ready)
            # Dropout of step n is a function of the seed and n, so there is no state to resume.
            torch.manual_seed(_random_seed(seed, step, rank))
            # One sum over the processes tells how many units share the loss, and who must stop.
            units, stop = sum_over_processes(
                [float(sum(map(task.units, made))), float(caught.signal)])
            wrapped.train()
            for part, batch in enumerate(made, start=1):
                batch = {name: value.to(device) for name, value in batch.items()}
                # Gradients of all parts but the last wait for it before processes share them.
                with nullcontext() if part == parts else accelerator.no_sync(wrapped):
                    total = task.loss(wrapped, batch)
                    # Gradients are averaged over processes, so the sum is scaled up.
                    accelerator.backward(total * (processes / units))
                window.add(total.detach() / units, task.size(batch))
            norm = accelerator.clip_grad_norm_(wrapped.parameters(),
                                               optimizer_config.max_grad_norm)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(optimizer_config, step, config.steps)
            optimizer.step()
            optimizer.zero_grad()
            if average:
                average.update(step)
            progress = replace(progress, step=step + 1, window=chosen.window,
                               window_step=chosen.window_step)
            window.steps += 1
            at_end = progress.step == config.steps
            to_log, to_validate, to_save = (
                progress.step % every == 0 for every in (
                    config.log_every, config.validate_every, config.checkpoint_every))
            # Weights once broken stay so: what is kept or shown needs this one look, not each step.
            if (to_log or to_validate or to_save or at_end or stop) and not accelerator.scaler:
                _refuse_divergence(float(whole_tensor(norm)), progress.step)
            if to_log or at_end:
                loss, speed = sum_over_processes(window.shares())
                _refuse_divergence(loss, progress.step)
                if log:
                    log.step(progress.step, loss, speed)
                    log.note(progress.step, loss=loss, epoch=chosen.epoch,
                             learning_rate=optimizer.param_groups[0]["lr"],
                             gradient_norm=float(whole_tensor(norm)),
                             **{f"{task.unit}_per_second": speed})
                window = _Window()
            if to_validate or at_end:
                progress = validated(progress)
                window = _Window()
            stop = stop or progress.due
            if to_save or stop or has_ended(progress, config):
                progress = save(progress)
            if stop:
                break
        if log and progress.step < config.steps and has_ended(progress, config):
            log.say(f"No better for {config.patience} validations: ended after step "
                    f"{progress.step}.")
    return progress


def has_ended(progress: Progress, config: LoopConfig) -> bool:
    """Whether a training is at its end: all steps are done, or patience is."""
    waited = progress.step - progress.best_step
    patient = not config.patience or waited < config.patience * config.validate_every
    return not progress.due and (progress.step >= config.steps or not patient)


def _validated(
    task: Task, progress: Progress, run: Path, log: TrainingLog | None, caught: _Caught | None
) -> Progress:
    """Score the model on valid, and keep it if it is the best so far; due if a signal comes."""
    start = time.perf_counter()
    task.model.eval()
    try:
        with caught.raising() if caught else nullcontext():
            score = task.validate()
    except _Interrupted:
        return replace(progress, due=True)
    better = score > progress.best_score
    progress = replace(progress, due=False)
    if better:
        progress = replace(progress, best_step=progress.step, best_score=score)
    if log:
        log.note(progress.step, valid_mrr=score, valid_seconds=time.perf_counter() - start)
        log.say(f"step {progress.step}: MRR on valid {score:.4f}" + " (best so far)" * better)
        if better:
            with replacing(run / "model") as aside:
                task.save(aside)
    return progress


@contextmanager
def _weights_in_place(whole: nn.Module, state: TrainingState) -> Iterator[None]:
    """Let the model that is validated and saved have the weights, or their average."""
    with state.average.applied() if state.average else nullcontext():
        if state.model is not whole:
            gather(state.model, whole)
        yield


class _Window:
    """What happened in the steps since the logs were last written."""

    def __init__(self) -> None:
        self.steps = 0
        self._loss: float | Tensor = 0.0
        self._units = 0
        self._start = time.perf_counter()

    def add(self, loss: Tensor, units: int) -> None:
        """Take in a part of a step; its loss stays where it is, so that nothing waits for it."""
        self._loss = self._loss + loss
        self._units += units

    def shares(self) -> list[float]:
        """This process's share of the mean loss of the steps, and of the units a second."""
        loss = float(self._loss) / self.steps
        return [loss, self._units / (time.perf_counter() - self._start)]


def _summing(processes: int) -> Callable[[Sequence[float]], list[float]]:
    """What adds up numbers over the processes, on their CPUs: no GPU is waited for."""
    if processes == 1:
        return list
    group = torch.distributed.new_group(backend="gloo")

    def add_up(numbers: Sequence[float]) -> list[float]:
        tensor = torch.tensor(numbers, dtype=torch.float64)
        torch.distributed.all_reduce(tensor, group=group)
        return tensor.tolist()

    return add_up


def _random_seed(*parts: int) -> int:
    """A seed of 64 bits; NumPy promises that it is the same on every platform and version."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0])


def _refuse_divergence(value: float, step: int) -> None:
    if not np.isfinite(value):
        raise FloatingPointError(
            f"The loss or its gradient is {value} at step {step}; lower optimizer.learning_rate, "
            "or train in float32 or bf16, not fp16.")


def _refuse_unshardable(config: LoopConfig, optimizer: OptimizerConfig) -> None:
    if optimizer.name == "adafactor":
        raise InputError("Adafactor keeps sums over whole rows of the weights, which FSDP divides; "
                         "choose optimizer.name: adamw, or launch without FSDP.")
    if config.mixed_precision == "fp16":
        raise InputError("FSDP is not offered in fp16; choose training.mixed_precision: bf16.")


class _Interrupted(Exception):
    """A signal came where nothing may go on."""


class _Caught:
    signal = False
    at_once = False

    def note(self, number: int, frame: FrameType | None) -> None:
        """A signal handler."""
        self.signal = True
        if self.at_once:
            raise _Interrupted

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Let a signal, also one from before, end what is done here: `_Interrupted` is raised."""
        self.at_once = True
        try:
            if self.signal:
                raise _Interrupted
            yield
        finally:
            self.at_once = False


@contextmanager
def _caught_signals() -> Iterator[_Caught]:
    """Note SIGTERM and Ctrl-C instead of dying of them."""
    caught = _Caught()
    before = {number: signal.signal(number, caught.note)
              for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
