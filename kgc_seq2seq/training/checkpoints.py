"""Checkpoints: everything a stopped run needs to go on as if it had never stopped."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor, nn

from caption_cache.disk import replacing
from caption_cache.errors import InputError


@dataclass(frozen=True)
class Progress:
    """How far a run has come."""

    step: int
    """Steps done."""
    best_step: int
    """The step after which the best model was found; 0 before the first validation."""
    best_score: float
    """Its score on valid; -1 before the first validation."""


START = Progress(0, 0, -1.0)


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

    def save(
        self, progress: Progress, model: nn.Module, optimizer: torch.optim.Optimizer
    ) -> Path:
        """Write a checkpoint aside, rename it, and drop the oldest."""
        folder = self.folder / f"step-{progress.step:08d}"
        tensors, scalars = _pack(optimizer.state_dict()["state"])
        with replacing(folder) as aside:
            aside.mkdir()
            save_model(model, str(aside / "model.safetensors"))
            save_file(tensors, aside / "optimizer.safetensors")
            (aside / "state.json").write_text(json.dumps({
                "progress": asdict(progress), "optimizer": scalars, "config": self.config,
            }, indent=1))
        for old in self.steps[: -self.keep]:
            shutil.rmtree(old)
        return folder

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
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
            state = json.loads((folder / "state.json").read_text())
            _refuse_other_config(folder, state["config"], self.config)
            load_model(model, str(folder / "model.safetensors"))
            tensors = load_file(folder / "optimizer.safetensors")
        except InputError:
            raise
        except RuntimeError as error:  # sizes; its first line says only that there is an error
            why = " ".join(str(error).split("\n")[-1].split()).rstrip(".")
            raise InputError(f"{folder} does not fit the model ({why}); put back what the data set "
                             "held (vectors, names), or --restart.") from None
        except Exception as error:  # safetensors, JSON and the disk each have their own
            raise InputError(f"{folder} cannot be read ({error}); delete it to go on from the "
                             "checkpoint before it.") from None
        packed = optimizer.state_dict()
        packed["state"] = _unpack(tensors, state["optimizer"])
        optimizer.load_state_dict(packed)
        return Progress(**state["progress"])


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
        raise InputError(f"{folder} was made with another configuration (different: "
                         f"{', '.join(keys)}); use the old values, another --out, or --restart.")


def _pack(state: dict[int, dict[str, Any]]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Divide an optimiser's state into tensors and JSON values, both by ``parameter.name``."""
    tensors, scalars = {}, {}
    for parameter, values in state.items():
        for name, value in values.items():
            # safetensors writes only tensors that own their memory in order.
            if isinstance(value, Tensor):
                tensors[f"{parameter}.{name}"] = value.detach().contiguous().clone()
            else:
                scalars[f"{parameter}.{name}"] = value
    return tensors, scalars


def _unpack(tensors: dict[str, Tensor], scalars: dict[str, Any]) -> dict[int, dict[str, Any]]:
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**tensors, **scalars}.items():
        parameter, name = key.split(".", 1)
        state.setdefault(int(parameter), {})[name] = value
    return state
