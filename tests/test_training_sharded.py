"""FSDP2 through accelerate launch: two processes learn what one learns, and resume to the bit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from conftest import ENVIRONMENT, ROOT, noted
from safetensors.torch import load_file

from caption_cache.errors import InputError
from kgc_seq2seq.train import main
from kgc_seq2seq.training.compiling import compile_model
from kgc_seq2seq.training.loop import LoopConfig, _refuse_unshardable
from kgc_seq2seq.training.lora import LoraConfig, add_lora
from kgc_seq2seq.training.model import load_model
from kgc_seq2seq.training.optimizer import OptimizerConfig
from kgc_seq2seq.training.sharding import is_sharding, shard


def arguments(tiny: Path, out: Path, *more: str) -> list[str]:
    return ["--dataset", str(tiny), "--out", str(out), "--input.captions", "false",
            "--model.d_model", "16", "--model.d_ff", "16", "--model.num_heads", "2",
            "--tokenizer.pieces", "60", "--tokenizer.words", "0", "--optimizer.name", "adamw",
            "--training.steps", "6", "--training.batch_size", "4", "--training.log_every", "1",
            "--training.validate_every", "3", "--training.checkpoint_every", "2",
            "--training.keep_checkpoints", "9", "--training.ema_decay", "0.5",
            "--training.gradient_accumulation", "2", *more]


def launch_two(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", "--config_file",
         "configs/accelerate/fsdp2.yaml", "-m", "kgc_seq2seq.train", *arguments],
        capture_output=True, text=True, cwd=ROOT, timeout=300,
        env=ENVIRONMENT)


def test_divided_weights_learn_what_whole_ones_learn(tiny: Path, tmp_path: Path) -> None:
    """The divided one also computes its layers again in the backward pass."""
    assert main(arguments(tiny, tmp_path / "by1")) == 0
    divided = arguments(tiny, tmp_path / "by2", "--training.gradient_checkpointing", "true")
    done = launch_two(*divided, "--json")
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout)["protocol"]["processes"] == 2
    for key in ("loss", "gradient_norm", "valid_mrr"):
        one, two = (noted(tmp_path / run, key) for run in ("by1", "by2"))
        np.testing.assert_allclose(one, two, rtol=1e-3)
    # A checkpoint is whole, however it was made: its weights and the optimiser's state agree.
    for name in ("model", "optimizer", "average"):
        one, two = (load_file(tmp_path / run / "checkpoints" / "step-00000006" /
                                    f"{name}.safetensors") for run in ("by1", "by2"))
        assert one.keys() == two.keys()
        for key, tensor in one.items():
            torch.testing.assert_close(two[key], tensor, rtol=1e-2, atol=1e-4)
    kept = load_model(tmp_path / "by2" / "model")
    assert kept.lm_head.weight is kept.encoder.embed_tokens.weight is kept.shared.weight

    # The checkpoints of the last steps are taken away, and made again.
    folder = tmp_path / "by2" / "checkpoints"
    before = {path.name: load_file(path) for path in (folder / "step-00000006").glob("*.safet*")}
    for step in ("step-00000004", "step-00000006"):
        (folder / step).rename(tmp_path / step)
    again = launch_two(*divided)
    assert again.returncode == 0, again.stderr[-3000:]
    assert "Going on after step 2." in again.stderr
    for name, tensors in before.items():
        other = load_file(folder / "step-00000006" / name)
        assert all(torch.equal(tensors[key], other[key]) for key in tensors)


def test_what_cannot_be_divided_is_refused(
    monkeypatch: pytest.MonkeyPatch, pretrained: Path
) -> None:
    accelerator = Accelerator(cpu=True)
    with pytest.raises(InputError, match="A Linear cannot be divided among processes"):
        shard(torch.nn.Linear(2, 2), accelerator)
    adapted = load_model(pretrained)
    add_lora(adapted, LoraConfig(rank=2), range(0))
    with pytest.raises(InputError, match=r"adapters \(model\.lora\)"):
        shard(adapted, accelerator)
    compiled = load_model(pretrained)
    compile_model(compiled, "eager")
    with pytest.raises(InputError, match=r"not offered with training\.compile"):
        shard(compiled, accelerator)
    for config, optimizer, why in (
        (LoopConfig(), OptimizerConfig(), "Adafactor keeps sums over whole rows"),
        (LoopConfig(mixed_precision="fp16"), OptimizerConfig(name="adamw"), "not offered in fp16"),
    ):
        with pytest.raises(InputError, match=why):
            _refuse_unshardable(config, optimizer)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "1")
    with pytest.raises(InputError, match="FSDP 1 cannot share T5's tied embeddings"):
        is_sharding(accelerator)
