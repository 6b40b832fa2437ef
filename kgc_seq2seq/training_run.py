"""What every training needs: processes, a run folder, a data set, and what it is selected by."""

from __future__ import annotations

import os
import shutil
from errno import EACCES
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from jsonargparse import ArgumentParser

from caption_cache.build import build
from caption_cache.captioners import load_captioner
from caption_cache.command_line import Answer
from caption_cache.disk import cannot_write
from caption_cache.errors import InputError
from kgc_seq2seq.arrays import Ints
from kgc_seq2seq.config import AnyRunConfig, read_yaml
from kgc_seq2seq.evaluation.ranking import CertifiedRanks
from kgc_seq2seq.evaluation.results import write_result
from kgc_seq2seq.graph.knowledge_graph import KnowledgeGraph
from kgc_seq2seq.graph.nations import write_nations
from kgc_seq2seq.training.logs import read_metrics
from kgc_seq2seq.training.loop import Task, has_ended, train
from kgc_seq2seq.training.model import count_parameters

NATIONS = "nations"


def add_training_options(parser: ArgumentParser) -> None:
    """Add ``--restart`` and ``--json``, which are no part of a run's configuration."""
    parser.add_argument("--restart", action="store_true",
                        help="forget what the run folder holds of an earlier training")
    parser.add_argument("--json", action="store_true",
                        help="print the result on test as one JSON document")


def begin(
    config: AnyRunConfig, *, restart: bool, captions: bool
) -> tuple[Accelerator, Path, Path]:
    """Open what every training needs.

    Args:
        config: Of the run.
        restart: Whether to forget an earlier training in the run folder.
        captions: Whether the nations graph, where that is meant, is to be captioned.

    Returns:
        What knows the processes, the run folder, and the data-set folder.

    Raises:
        InputError: The run folder cannot be written.
    """
    accelerator, run = make_accelerator(config), Path(config.out)
    if accelerator.is_main_process:
        make_run_folder(run, restart=restart)
    return accelerator, run, open_dataset(config.dataset, run, accelerator, captions=captions)


def make_accelerator(config: AnyRunConfig) -> Accelerator:
    """What knows processes, devices and precision.

    Raises:
        InputError: The device cannot compute in the precision, or the launcher asks for another.
    """
    # Said outright, or processes on CPUs would each wait for a GPU of their own.
    on_cpu = not torch.accelerator.is_available()
    precision = config.training.mixed_precision
    if on_cpu and precision == "fp16":
        raise InputError("training.mixed_precision: fp16 needs a GPU; choose bf16 or no.")
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if launched not in ("no", precision):
        raise InputError(f"The launcher asks for {launched}, and training.mixed_precision is "
                         f"{precision}; give --training.mixed_precision {launched}, or launch "
                         "with --mixed_precision no.")
    return Accelerator(cpu=on_cpu, mixed_precision=precision)


def make_run_folder(run: Path, *, restart: bool) -> None:
    """Make the run folder, or empty it of an earlier training.

    Raises:
        InputError: The folder cannot be written, is the one where one is (as the config.yaml of a
            run says of itself), or is to be emptied and is no run.
    """
    if run.resolve() == Path.cwd():
        raise InputError(f"--out is {run}, the folder you are in; name one in it (and --dataset, "
                         "where the configuration is that of a run).")
    try:
        run.mkdir(parents=True, exist_ok=True)
        if not os.access(run, os.W_OK | os.X_OK):
            raise PermissionError(EACCES, os.strerror(EACCES))
        if restart and any(run.iterdir()):
            if not (run / "config.yaml").is_file():
                raise InputError(f"{run} holds something that is no run; leave --restart out, or "
                                 "choose another --out.")
            for name in ("checkpoints", "model", "results", "tensorboard", "tokenizer"):
                shutil.rmtree(run / name, ignore_errors=True)
            for name in ("training.json", "metrics.jsonl", "report.html"):
                (run / name).unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(run, error) from None


def is_new(run: Path) -> bool:
    """Whether a run folder has still to be filled: training does not go on there.

    A training that was killed before its first checkpoint begins anew, with a model or without.

    Raises:
        InputError: It holds what has ended (a training, a fusion), or the model of a training that
            is unknown or came past its first checkpoint, but nothing to go on from.
    """
    ours = (run / "config.yaml").is_file()
    if ours and any((run / "checkpoints").glob("step-*")):
        return False  # the checkpoints know whether the configurations agree
    if (run / "training.json").is_file() or (
            (run / "model").is_dir() and (not ours or _has_come_far(run))):
        raise InputError(f"{run} holds a model or results but no checkpoints to go on from; choose "
                         "another --out, or --restart.")
    return True


def _has_come_far(run: Path) -> bool:
    """Whether a training came past its first checkpoint."""
    first = read_yaml(run / "config.yaml")["training"]["checkpoint_every"]
    return any(line["step"] > first for line in read_metrics(run))


def open_dataset(name: str, run: Path, accelerator: Accelerator, *, captions: bool) -> Path:
    """The folder of a data set; the nations graph is written first, and captioned on demand."""
    if name != NATIONS or Path(NATIONS).is_dir():
        return Path(name)
    dataset = run / "dataset"
    if accelerator.is_main_process:
        write_nations(dataset)
    accelerator.wait_for_everyone()
    if captions:
        build(dataset, load_captioner("palette"))
    return dataset


def validation_facts(graph: KnowledgeGraph, config: AnyRunConfig) -> Ints:
    """The facts of valid, int32 [n, 3], that a state is chosen by."""
    some = config.training.validate_facts
    if some is None:
        return graph.valid
    drawn: Ints = np.random.default_rng(config.seed).permutation(graph.valid)[:some]
    return drawn


def selection(count: int, of: int, ranker: CertifiedRanks | None = None) -> dict[str, str]:
    """What the best state was chosen by, where it was not all of valid, exactly."""
    if count == of and ranker is None:
        return {}
    how = "" if ranker is None else ", the middle of its certified bracket,"
    return {"selected_on": f"filtered MRR{how} on {count} facts of valid"}


def train_task(
    task: Task, accelerator: Accelerator, config: AnyRunConfig, identity: dict[str, Any],
    facts: dict[str, Any],
) -> Answer | None:
    """Train, or go on, and write ``training.json`` at the end.

    Args:
        task: What is trained.
        accelerator: From `make_accelerator`.
        config: Of the run.
        identity: The configuration as it is stored in the run folder, and a digest of the data,
            as JSON values.
        facts: What the protocol of the results shall say besides.

    Returns:
        None at the end of the training; when a signal stopped it, how to go on (code 3), which only
        the first process says.
    """
    run = Path(config.out)
    progress = train(task, accelerator, config.training, config.optimizer, run=run,
                     seed=config.seed, identity=identity)
    if not has_ended(progress, config.training):
        return Answer(None, "", code=3) if not accelerator.is_main_process else Answer(
            {"stopped_after_step": progress.step},
            f"Stopped after step {progress.step} of {config.training.steps}; the same command "
            "goes on from there.", code=3)
    # That of an earlier call says how it was trained.
    if accelerator.is_main_process and not (run / "training.json").is_file():
        write_result(run / "training.json", {
            "seed": config.seed, "selected_on": "filtered MRR on valid",
            "steps": progress.step, "best_step": progress.best_step,
            "parameters": count_parameters(task.model),
            "training_seconds": round(progress.seconds, 1),
            "processes": accelerator.num_processes, "device": str(accelerator.device),
            "mixed_precision": accelerator.mixed_precision, **facts,
        })
    accelerator.wait_for_everyone()
    return None
