"""FSDP2: every process holds a share of weights, gradients and the optimiser's state."""

from __future__ import annotations

import copy
import os
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from caption_cache.errors import InputError


def is_sharding(accelerator: Accelerator) -> bool:
    """Whether the launcher asked for FSDP, as ``configs/accelerate/fsdp2.yaml`` does.

    Raises:
        InputError: It asked for version 1.
    """
    # On CPUs, accelerate itself quietly takes DistributedDataParallel instead.
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() != "true":
        return False
    if os.environ.get("FSDP_VERSION") != "2":
        raise InputError("FSDP 1 cannot share T5's tied embeddings; set 'fsdp_version: 2' under "
                         "fsdp_config, as in configs/accelerate/fsdp2.yaml.")
    return bool(accelerator.num_processes > 1)


def shard(model: nn.Module, accelerator: Accelerator) -> nn.Module:
    """A copy of a model whose weights are divided among the processes.

    Every block is a group of its own. Everything else makes up the root's group: T5 has four
    embeddings that are one tensor, which no two groups may hold. (Accelerate's own preparation
    puts two of the four into a group, which torch refuses.)

    Args:
        model: Whole, the same in all processes. It is left as it is, for validation.
        accelerator: Knows processes, devices and precision.

    Raises:
        InputError: The model does not say what its blocks are, has frozen weights, or is compiled.
    """
    blocks = set(getattr(model, "_no_split_modules", None) or ())
    if not blocks:
        raise InputError(f"A {type(model).__name__} cannot be divided among processes; launch it "
                         "without FSDP: it fits on one device.")
    if not all(weight.requires_grad for weight in model.parameters()):
        raise InputError("FSDP divides what is trained, and beside adapters (model.lora) that is "
                         "little; launch it without FSDP.")
    if model._compiled_call_impl is not None:
        raise InputError("FSDP is not offered with training.compile; choose one of the two.")
    device = accelerator.device.type
    options: dict[str, Any] = {"mesh": init_device_mesh(device, (accelerator.num_processes,))}
    if accelerator.mixed_precision == "bf16":
        options["mp_policy"] = MixedPrecisionPolicy(param_dtype=torch.bfloat16,
                                                    reduce_dtype=torch.float32)
    sharded = copy.deepcopy(model)
    for module in sharded.modules():
        if type(module).__name__ in blocks:
            fully_shard(module, **options)
    fully_shard(sharded, **options)
    return sharded


@torch.no_grad()
def gather(sharded: nn.Module, whole: nn.Module) -> None:
    """Copy the weights of a `shard` into the model it was made from; all processes call it."""
    for share, weight in zip(sharded.parameters(), whole.parameters(), strict=True):
        weight.copy_(whole_tensor(share))


def whole_tensor(tensor: Tensor) -> Tensor:
    """A tensor, put together if it is divided; then all processes must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def divided_like(tensor: Tensor, pattern: Tensor) -> Tensor:
    """A whole tensor, divided if ``pattern`` is and has its shape; the other way round."""
    if isinstance(pattern, DTensor) and tensor.shape == pattern.shape:
        return distribute_tensor(tensor.to(pattern.device), pattern.device_mesh,
                                 pattern.placements)
    return tensor
