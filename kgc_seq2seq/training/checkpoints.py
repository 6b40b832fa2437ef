"""Checkpoints: everything a stopped run needs to go on as if it had never stopped."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from caption_cache.disk import replacing
from caption_cache.errors import InputError
from kgc_seq2seq.training.averages import WeightAverage
from kgc_seq2seq.training.sharding import divided_like, whole_tensor


@dataclass(frozen=True)
class Progress:
    """How far a run has come."""

    step: int
    """Steps done."""
    best_step: int
    """The step after which the best model was found; 0 before the first validation."""
    best_score: float
    """Its score on valid; -1 before the first validation."""
    window: int
    """The window of `batches.Batches` that the last step was in."""
    window_step: int
    """The first step of that."""
    seconds: float = 0.0
    """How long the training has taken until the checkpoint, all its sessions together."""
    due: bool = False
    """A signal kept a validation from its end; it is to be done before the next step."""


START = Progress(0, 0, -1.0, 0, 0)


@dataclass(frozen=True)
class TrainingState:
    """What changes while a model is trained."""

    model: nn.Module
    """Whole, or a `sharding.shard`."""
    optimizer: torch.optim.Optimizer
    """Of its trained weights."""
    average: WeightAverage | None
    """Of its weights, where one is kept."""
    scaler: torch.amp.GradScaler | None
    """Of the loss, in half precision."""

    def weights(self) -> dict[str, Tensor]:
        """What training changes: weights without the frozen ones, and buffers, each once."""
        found: dict[int, tuple[str, Tensor]] = {}
        for name, tensor in self.model.state_dict(keep_vars=True).items():
            if tensor.requires_grad or not isinstance(tensor, nn.Parameter):
                found.setdefault(id(tensor), (name, tensor))  # tied weights have several names
        return dict(found.values())

    @cached_property  # of what may be gigabytes and never changes
    def frozen(self) -> int:
        """A number that weights which training leaves alone would hardly share with others.

        Their bits are summed as integers, which gives the same on every machine.
        """
        return sum(int(weight.detach().view(torch.uint8).sum(dtype=torch.int64))
                   for weight in self.model.parameters() if not weight.requires_grad)


class Checkpoints:
    """The folder of checkpoints of one run."""

    def __init__(self, folder: Path, config: dict[str, Any], keep: int) -> None:
        """Look after ``folder``.

        Args:
            folder: Where the checkpoints are, one a sub-folder.
            config: The configuration of the run, as JSON values; only a run with an equal one may
                go on.
            keep: So many checkpoints are kept, the last ones.
        """
        self.folder = folder
        self.config = config
        self.keep = keep

    @property
    def steps(self) -> list[Path]:
        """The checkpoints, oldest first."""
        return sorted(self.folder.glob("step-*"))

    def save(self, progress: Progress, state: TrainingState, *, write: bool) -> None:
        """Write a checkpoint aside, rename it, and drop the oldest.

        Args:
            progress: How far the run has come.
            state: Of the run.
            write: Whether this process is the one that writes; where weights are divided among
                processes, all must call this.
        """
        folder = self.folder / f"step-{progress.step:08d}"
        tensors, scalars = _pack(state.optimizer.state_dict()["state"])
        files = {"model": _whole(state.weights()), "optimizer": _whole(tensors)}
        if state.average is not None:
            files["average"] = _whole(_numbered(state.average.tensors))
        if not write:
            return
        with replacing(folder) as aside:
            aside.mkdir()
            for name, content in files.items():
                save_file(content, aside / f"{name}.safetensors")
            (aside / "state.json").write_text(json.dumps({
                "progress": asdict(progress), "optimizer": scalars,
                "scaler": state.scaler.state_dict() if state.scaler else None,
                "frozen": state.frozen, "config": self.config,
            }, indent=1))
        for old in self.steps[: -self.keep]:
            shutil.rmtree(old)

    def restore(self, state: TrainingState) -> Progress:
        """Bring back the newest checkpoint, if there is one.

        Returns:
            How far the run had come; `START` without a checkpoint.

        Raises:
            InputError: The checkpoint belongs to another configuration, or cannot be read.
        """
        if not self.steps:
            return START
        folder = self.steps[-1]
        try:
            saved = json.loads((folder / "state.json").read_text())
            _refuse_other_config(folder, saved["config"], self.config)
            if saved["frozen"] != state.frozen:
                raise InputError(f"{folder} stands beside other frozen weights than are loaded; "
                                 "put back the model in model.pretrained, or --restart.")
            progress = Progress(**saved["progress"])
            _copy(load_file(folder / "model.safetensors"), state.weights())
            tensors = load_file(folder / "optimizer.safetensors")
            if state.average is not None:
                _copy(load_file(folder / "average.safetensors"), _numbered(state.average.tensors))
        except InputError:
            raise
        except Exception as error:  # safetensors, JSON and the disk each have their own
            raise InputError(f"{folder} cannot be read ({error}); delete it to go on from the "
                             "checkpoint before it.") from None
        weights = [weight for group in state.optimizer.param_groups for weight in group["params"]]
        packed = state.optimizer.state_dict()
        packed["state"] = _unpack(tensors, saved["optimizer"], weights)
        state.optimizer.load_state_dict(packed)
        if state.scaler:
            state.scaler.load_state_dict(saved["scaler"])
        return progress


def differing_keys(one: dict[str, Any], other: dict[str, Any], prefix: str = "") -> list[str]:
    """Dotted keys whose values differ between two nested configurations."""
    found = []
    for key in sorted(one.keys() | other.keys()):
        first, second = one.get(key), other.get(key)
        if isinstance(first, dict) and isinstance(second, dict):
            found += differing_keys(first, second, f"{prefix}{key}.")
        elif first != second:
            found.append(prefix + key)
    return found


def _refuse_other_config(folder: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    keys = differing_keys(old, new)
    if keys:
        raise InputError(f"{folder} was made with another configuration or other data (different: "
                         f"{', '.join(keys)}); put them back, use another --out, or --restart.")


def _pack(state: dict[int, dict[str, Any]]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Divide an optimiser's state into tensors and JSON values, both by ``parameter.name``."""
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, Any] = {}
    for parameter, values in state.items():
        for name, value in values.items():
            (tensors if isinstance(value, Tensor) else scalars)[f"{parameter}.{name}"] = value
    return tensors, scalars


def _unpack(
    tensors: dict[str, Tensor], scalars: dict[str, Any], weights: Sequence[Tensor]
) -> dict[int, dict[str, Any]]:
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**tensors, **scalars}.items():
        parameter, name = key.split(".", 1)
        if isinstance(value, Tensor):
            value = divided_like(value, weights[int(parameter)])
        state.setdefault(int(parameter), {})[name] = value
    return state


def _numbered(tensors: Sequence[Tensor]) -> dict[str, Tensor]:
    return {str(number): tensor for number, tensor in enumerate(tensors)}


def _whole(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # safetensors writes only tensors that own their memory in order.
    return {name: whole_tensor(tensor.detach()).contiguous().clone()
            for name, tensor in tensors.items()}


@torch.no_grad()
def _copy(tensors: Mapping[str, Tensor], into: Mapping[str, Tensor]) -> None:
    if tensors.keys() != into.keys():
        names = ", ".join(sorted(tensors.keys() ^ into.keys())[:3])
        raise ValueError(f"it holds other weights than the model has: {names}, …")
    for name, tensor in into.items():
        tensor.copy_(divided_like(tensors[name], tensor))
