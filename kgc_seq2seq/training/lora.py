"""LoRA (Hu et al. 2021): small matrices beside frozen ones are trained, and merged when saved."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from transformers import T5ForConditionalGeneration

from caption_cache.errors import InputError, first_line

_EMBEDDINGS = ("shared", "embed_tokens", "lm_head")


@dataclass(frozen=True)
class LoraConfig:
    """Which adapters a pretrained model gets."""

    rank: int = 0
    """Rank of the adapters; 0 trains all weights instead."""
    alpha: float = 32.0
    """The adapters' output is scaled by alpha / rank."""
    dropout: float = 0.0
    """Dropout rate before the adapters."""
    targets: tuple[str, ...] = ("q", "v")
    """Names of the linear layers that get one: q, k, v, o, wi, wi_0, wi_1, wo."""

    def __post_init__(self) -> None:
        if self.rank < 0:
            raise InputError(f"model.lora.rank is {self.rank}; give 0 or more.")
        if self.alpha <= 0:
            raise InputError(f"model.lora.alpha is {self.alpha}; it must be positive.")
        if not 0 <= self.dropout < 1:
            raise InputError(f"model.lora.dropout is {self.dropout}; give a number from 0 to "
                             "below 1.")


def add_lora(
    model: T5ForConditionalGeneration, config: LoraConfig, new_tokens: range
) -> None:
    """Freeze a model, and put adapters into it and rows of their own beside its embedding.

    Args:
        model: Changed in place; only adapters and rows require gradients afterwards.
        config: Which adapters.
        new_tokens: Tokens the model was not pretrained with; their rows are trained.

    Raises:
        InputError: The model has no layer of a name in ``config.targets``, or it is an embedding.
    """
    if any(name.rpartition(".")[2] in _EMBEDDINGS for name in config.targets):
        raise InputError("model.lora.targets names an embedding, which other places share, so that "
                         "merging would change these too; give q, k, v, o, wi, wi_0, wi_1 or wo.")
    import peft  # here, since predictions do without it

    tied = model.lm_head.weight is model.shared.weight
    rows = {"shared": list(new_tokens)} | ({} if tied else {"lm_head": list(new_tokens)})
    try:
        with warnings.catch_warnings():  # peft asks transformers by a name that it deprecates
            warnings.simplefilter("ignore", FutureWarning)
            peft.get_peft_model(model, peft.LoraConfig(
                r=config.rank, lora_alpha=config.alpha,  # type: ignore[arg-type]
                lora_dropout=config.dropout, target_modules=list(config.targets),
                trainable_token_indices=rows if new_tokens else None))
    except ValueError as error:
        raise InputError(f"model.lora.targets does not fit the model "
                         f"({first_line(error)}); give names of its linear layers, such as q and "
                         "v.") from None
    if not tied:
        # peft finds the embedding's other places only where the output is one of them.
        model.set_input_embeddings(model.shared)


def is_adapter(name: str) -> bool:
    """Whether a parameter of this name is an adapter's, or a row beside an embedding."""
    return ".lora_" in name or ".trainable_tokens_" in name


@contextmanager
def adapters_merged(model: T5ForConditionalGeneration) -> Iterator[None]:
    """Add adapters and rows to the weights they stand beside, and take them out again, bit for bit.

    A model without any is left as it is.
    """
    layers = {id(layer): layer for _, layer in _adapted(model)}.values()
    # Tied weights would be met again, already merged.
    weights = {id(weight): weight for weight in (
        layer.get_base_layer().weight for layer in layers)}.values()
    kept = [(weight, weight.data) for weight in weights]
    for layer in layers:
        layer.merge(safe_merge=True)  # makes new tensors and leaves the old ones alone
    try:
        yield
    finally:
        for weight, data in kept:
            weight.data = data
        for layer in layers:
            layer.merged_adapters.clear()


def merged(model: T5ForConditionalGeneration) -> T5ForConditionalGeneration:
    """A copy without adapters, which have been added to the weights; without any, the model."""
    if not _adapted(model):
        return model
    with adapters_merged(model):
        plain = copy.deepcopy(model)
    for name, layer in _adapted(plain):
        parent, _, child = name.rpartition(".")
        setattr(plain.get_submodule(parent), child, layer.get_base_layer())
    return plain


def _adapted(model: T5ForConditionalGeneration) -> list[tuple[str, Any]]:
    """Every place where a layer with an adapter stands, and that layer."""
    from peft.tuners.lora import LoraLayer
    from peft.utils import TrainableTokensWrapper

    found: list[tuple[str, Any]] = []
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, TrainableTokensWrapper):
            found.append((name, module.token_adapter))
        elif isinstance(module, LoraLayer):
            found.append((name, module))
    return found
