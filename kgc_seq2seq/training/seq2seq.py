"""What the loop needs to know to train a sequence-to-sequence model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional
from transformers import T5ForConditionalGeneration

from kgc_seq2seq.arrays import Longs
from kgc_seq2seq.training.batches import Examples
from kgc_seq2seq.training.lora import adapters_merged
from kgc_seq2seq.training.model import save_model

IGNORED = -100
"""Label of positions that are not learnt (padding), as in transformers."""


@dataclass(frozen=True)
class Seq2Seq:
    """A `loop.Task`: cross-entropy over the target tokens."""

    model: T5ForConditionalGeneration
    """Changed in place."""
    count: int
    """The number of examples in an epoch."""
    make: Callable[[Longs, int], Examples]
    """Makes examples as `loop.Task.read` does, their tensors ``input_ids``, ``attention_mask`` and
    ``labels`` (`IGNORED` where nothing is learnt)."""
    score: Callable[[], float]
    """Gives the score of the model on valid."""
    label_smoothing: float
    """Share of the target probability spread over the vocabulary."""
    batch_tokens: int | None = None
    """As in `loop.Task`."""
    unit: str = "tokens"
    """The loss is a mean over target tokens; the speed counts input tokens too."""

    def read(self, examples: Longs, epoch: int) -> Examples:
        """As in `loop.Task`."""
        return self.make(examples, epoch)

    def units(self, batch: Mapping[str, Tensor]) -> int:
        """As in `loop.Task`."""
        return int((batch["labels"] != IGNORED).sum())

    def size(self, batch: Mapping[str, Tensor]) -> int:
        """As in `loop.Task`."""
        return batch["labels"].numel() + batch["input_ids"].numel()

    def loss(self, wrapped: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """As in `loop.Task`."""
        labels = batch["labels"]
        logits = wrapped(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"],
                         decoder_input_ids=self.model._shift_right(labels), use_cache=False).logits
        return functional.cross_entropy(
            logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED,
            label_smoothing=self.label_smoothing, reduction="sum")

    def validate(self) -> float:
        """As in `loop.Task`."""
        with adapters_merged(self.model):
            return self.score()

    def save(self, folder: Path) -> None:
        """As in `loop.Task`."""
        save_model(self.model, folder)
