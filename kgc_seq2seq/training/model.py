"""Where the weights come from: made from scratch, or loaded from a folder or a hub."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.utils import logging

from caption_cache.errors import InputError, first_line
from caption_cache.weights import refuse_incomplete
from kgc_seq2seq.training.lora import LoraConfig, add_lora, is_adapter, merged


@dataclass(frozen=True)
class ModelConfig:
    """The T5 that is trained."""

    init: Literal["scratch", "pretrained"] = "scratch"
    """Whether weights and tokenizer are made for this graph, or come from ``pretrained``."""
    pretrained: str | None = None
    """A folder or a hub name, such as ``google/flan-t5-base``; only with init: pretrained."""
    d_model: int = 96
    """Width; this and what follows only with init: scratch."""
    d_ff: int = 192
    """Width inside the feed-forward layers (gated GELU)."""
    num_heads: int = 4
    """Attention heads; d_model must be a multiple."""
    num_layers: int = 1
    """Layers of the encoder."""
    num_decoder_layers: int = 1
    """Layers of the decoder."""
    dropout: float = 0.0
    """Dropout rate."""
    initializer_factor: float = 0.3
    """Scale of the random weights; T5's own 1.0 learns small graphs by heart before it learns
    what they have in common."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """Adapters that are trained instead of all weights; only with init: pretrained."""

    def __post_init__(self) -> None:
        if (self.init == "pretrained") != (self.pretrained is not None):
            raise InputError("model.pretrained names a folder or a hub model exactly when "
                             "model.init is 'pretrained'; give both or neither.")
        for key in ("d_model", "d_ff", "num_heads", "num_layers", "num_decoder_layers"):
            if getattr(self, key) < 1:
                raise InputError(f"model.{key} is {getattr(self, key)}; give 1 or more.")
        if self.d_model % self.num_heads:
            raise InputError(f"model.d_model ({self.d_model}) is no multiple of model.num_heads "
                             f"({self.num_heads}); change one of them.")
        if not 0 <= self.dropout < 1:
            raise InputError(f"model.dropout is {self.dropout}; give a number from 0 to below 1.")
        if self.lora.rank and self.init == "scratch":
            raise InputError("model.lora.rank asks for adapters beside random weights, which would "
                             "never be trained; give model.init: pretrained, or rank 0.")


def make_model(
    config: ModelConfig, tokenizer: PreTrainedTokenizerBase, seed: int
) -> T5ForConditionalGeneration:
    """A model whose vocabulary is that of ``tokenizer``.

    Args:
        config: What to make or load.
        tokenizer: From the same source; tokens added to it get new rows in the embedding.
        seed: Of all random weights.

    Raises:
        InputError: The pretrained model cannot be loaded, is no T5, or lacks the layers that
            ``config.lora`` names.
    """
    torch.manual_seed(seed)
    if config.init == "scratch":
        return T5ForConditionalGeneration(T5Config(
            vocab_size=len(tokenizer), d_model=config.d_model, d_ff=config.d_ff,
            d_kv=config.d_model // config.num_heads, num_heads=config.num_heads,
            num_layers=config.num_layers, num_decoder_layers=config.num_decoder_layers,
            dropout_rate=config.dropout, initializer_factor=config.initializer_factor,
            feed_forward_proj="gated-gelu",  # T5 starts decoding with the padding token
            decoder_start_token_id=tokenizer.pad_token_id,  # type: ignore[call-arg]
            pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
        ))
    assert config.pretrained is not None  # ModelConfig has seen to it
    model = load_model(config.pretrained)
    if len(tokenizer) > model.config.vocab_size:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    if config.lora.rank:
        pretrained = len(load_tokenizer(config.pretrained))
        add_lora(model, config.lora, range(pretrained, len(tokenizer)))
    return model


def recompute_layers(model: T5ForConditionalGeneration) -> None:
    """Let the layers of a model be computed again in the backward pass, which saves memory.

    Args:
        model: Changed in place.
    """
    with warnings.catch_warnings():  # 5.23 has a new name, which 5.17 does not know
        warnings.simplefilter("ignore", FutureWarning)
        model.gradient_checkpointing_enable({"use_reentrant": False})


def load_model(source: str | Path) -> T5ForConditionalGeneration:
    """Load a T5 in float32 from a folder or a hub.

    Raises:
        InputError: It cannot be loaded, is no T5, lacks weights (of an encoder alone: the decoder),
            or its embeddings have come apart.
    """
    try:
        with _quiet():
            both: Any = AutoModelForSeq2SeqLM.from_pretrained(
                source, dtype=torch.float32, output_loading_info=True)
    except (OSError, ValueError, SafetensorError, UnpicklingError) as error:
        raise InputError(f"No model can be loaded from {source} ({first_line(error)}); give the "
                         "folder or the hub name of a T5.") from None
    model, about = both
    if not isinstance(model, T5ForConditionalGeneration):
        raise InputError(f"{source} is a {type(model).__name__}; a T5 is needed.")
    refuse_incomplete(str(source), about)
    # Some versions of transformers took the encoder's embedding from lm_head, and wrote garbage.
    if not (model.encoder.embed_tokens.weight is model.decoder.embed_tokens.weight
            is model.shared.weight):
        raise InputError(f"After loading {source}, encoder and decoder do not share their "
                         "embedding; update transformers.")
    # T5Config forces this to True. Weights that come apart (Flan-T5, T5 1.1) stay apart when they
    # are loaded, but to make room for more tokens would tie them.
    model.config.tie_word_embeddings = model.lm_head.weight is model.shared.weight
    return model


def load_tokenizer(source: str | Path) -> PreTrainedTokenizerBase:
    """Load a tokenizer from a folder or a hub.

    Raises:
        InputError: It cannot be loaded.
    """
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise InputError(f"No tokenizer can be loaded from {source} ({first_line(error)}); give "
                         "the folder or the hub name of a T5.") from None
    return tokenizer


def save_model(model: T5ForConditionalGeneration, folder: Path) -> None:
    """Save in Hugging Face format, with adapters merged."""
    with _quiet():
        merged(model).save_pretrained(folder)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from drawing a bar for every load and save."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def count_parameters(model: torch.nn.Module) -> int:
    """Number of weights, tied ones counted once, and adapters, which are merged when saved, not."""
    return sum(math.prod(parameter.shape) for name, parameter in model.named_parameters()
               if not is_adapter(name))
