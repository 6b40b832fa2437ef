"""T5's decoder over the nodes of a trie: the nodes of a query share its encoding."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import T5ForConditionalGeneration

_LOGITS_ON_CPU, _LOGITS_ELSEWHERE = 2**20, 2**26
"""So many logits are in memory at once: on a CPU as many as stay in its cache, which halves the
time of the projection."""


@dataclass(frozen=True)
class Encoded:
    """Queries after the encoder, ready for cross-attention in every decoder layer."""

    keys: list[Tensor]
    """For each layer, float [Q, heads, S, d_kv]."""
    values: list[Tensor]
    """For each layer, float [Q, heads, S, d_kv]."""
    mask: Tensor
    """Added to the attention scores: 0 at tokens, -inf at padding, float [Q, 1, 1, S]."""

    def __len__(self) -> int:
        return len(self.mask)


@dataclass(frozen=True)
class Past:
    """Self-attention keys and values of some nodes and their ancestors, all at one depth."""

    keys: list[Tensor]
    """For each layer, float [rows, heads, depth, d_kv]."""
    values: list[Tensor]
    """For each layer, float [rows, heads, depth, d_kv]."""

    def __getitem__(self, rows: Tensor) -> Past:
        return Past([keys[rows] for keys in self.keys], [values[rows] for values in self.values])


class TreeDecoder:
    """Steps a T5 decoder by one token for many nodes of many queries at once.

    Rows of one query attend to its encoding together, as one sequence of decoder positions, so
    the encoding is never copied for a row. Equal to the model's own forward pass within float
    rounding.
    """

    def __init__(self, model: T5ForConditionalGeneration) -> None:
        self.model = model
        self.blocks: list[Any] = list(model.decoder.block)
        self.heads = model.config.num_heads
        self.scale = model.config.d_model**-0.5 if model.config.scale_decoder_outputs else 1.0

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    @property
    def position_bytes(self) -> int:
        """Size of the self-attention keys and values of one position."""
        weight = self.blocks[0].layer[0].SelfAttention.k.weight
        return int(2 * len(self.blocks) * weight.shape[0] * weight.element_size())

    def encode(self, input_ids: Tensor, attention_mask: Tensor) -> Encoded:
        """Run the encoder once and project its output for every decoder layer.

        Args:
            input_ids: int64 [Q, S].
            attention_mask: int64 or bool [Q, S], 0 at padding.
        """
        states = self.model.encoder(
            input_ids=input_ids, attention_mask=attention_mask
        ).last_hidden_state
        attentions = [block.layer[1].EncDecAttention for block in self.blocks]
        mask = torch.zeros(attention_mask.shape, dtype=states.dtype, device=states.device)
        mask.masked_fill_(attention_mask == 0, -torch.inf)
        return Encoded([self._split(a.k(states)) for a in attentions],
                       [self._split(a.v(states)) for a in attentions], mask[:, None, None])

    def start(self, rows: int) -> Past:
        """The past of ``rows`` nodes that have no ancestors: the roots."""
        weight = self.blocks[0].layer[0].SelfAttention.k.weight
        empty = weight.new_zeros(rows, self.heads, 0, self.model.config.d_kv)
        return Past([empty] * len(self.blocks), [empty] * len(self.blocks))

    def step(
        self, encoded: Encoded, queries: Tensor, tokens: Tensor, past: Past,
        depths: Tensor | None = None,
    ) -> tuple[Tensor, Past]:
        """Read one token for each row.

        Args:
            encoded: The encoded queries.
            queries: The query of each row, int64 [rows], ascending.
            tokens: The token on the edge into each node, int64 [rows]; the decoder's start token
                at the root.
            past: Of the nodes' parents, [rows].
            depths: How many of the last positions of ``past`` belong to each row, int64 [rows];
                None: all of them. Rows of different depth share a batch because T5 only knows
                distances, and those count from the right.

        Returns:
            The decoder's last states, float [rows, d_model], for `log_probs`, and the past that
            includes these nodes.
        """
        # Rows of a query side by side in a padded table, in several lines where they are many: one
        # query may have all the rows, and another none.
        counts = torch.bincount(queries, minlength=len(encoded))
        width = -(-len(queries) // int((counts > 0).sum()))
        lines = -(-counts // width)
        place = torch.arange(len(queries), device=self.device)
        place = place - (counts.cumsum(0) - counts)[queries]
        line = (lines.cumsum(0) - lines)[queries] + place // width
        cell = line * width + place % width
        asked = torch.repeat_interleave(torch.arange(len(encoded), device=self.device), lines)
        mask = encoded.mask[asked]
        hidden = self.model.decoder.embed_tokens(tokens)
        length = past.keys[0].shape[2] + 1
        bias = self._position_bias(length)
        if depths is not None:
            foreign = torch.arange(length - 1, -1, -1, device=self.device) > depths[:, None]
            bias = torch.where(foreign[:, None, None], -torch.inf, bias)
        keys, values = [], []
        for layer, block in enumerate(self.blocks):
            attention, norm = block.layer[0].SelfAttention, block.layer[0].layer_norm
            normed = norm(hidden)
            query, key, value = (project(normed).view(len(tokens), self.heads, 1, -1)
                                 for project in (attention.q, attention.k, attention.v))
            keys.append(torch.cat([past.keys[layer], key], dim=2))
            values.append(torch.cat([past.values[layer], value], dim=2))
            mixed = functional.scaled_dot_product_attention(
                query, keys[-1], values[-1], attn_mask=bias, scale=1.0)
            hidden = hidden + attention.o(mixed.reshape(len(tokens), -1))

            attention, norm = block.layer[1].EncDecAttention, block.layer[1].layer_norm
            query = attention.q(norm(hidden))
            table = query.new_zeros(len(asked) * width, query.shape[-1])
            table[cell] = query
            mixed = functional.scaled_dot_product_attention(
                self._split(table.view(len(asked), width, -1)), encoded.keys[layer][asked],
                encoded.values[layer][asked], attn_mask=mask, scale=1.0)
            hidden = hidden + attention.o(mixed.transpose(1, 2).flatten(0, 1)[cell].flatten(1))

            hidden = block.layer[2](hidden)
        hidden = self.model.decoder.final_layer_norm(hidden) * self.scale
        return hidden, Past(keys, values)

    def log_probs(self, hidden: Tensor, rows: Tensor, tokens: Tensor) -> Tensor:
        """Log-probabilities of some next tokens, under the full vocabulary.

        The vocabulary is projected for a block of rows at a time, and of each block only what is
        asked for is kept: a table of rows by vocabulary is never written.

        Args:
            hidden: From `step`, float [R, d_model].
            rows: Which of them each token would follow, int64 [n], ascending.
            tokens: int64 [n].

        Returns:
            float32 [n].
        """
        at_once = _LOGITS_ON_CPU if self.device.type == "cpu" else _LOGITS_ELSEWHERE
        size = max(1, at_once // self.model.config.vocab_size)
        starts = torch.arange(0, len(hidden) + size, size, device=rows.device)
        bounds = torch.searchsorted(rows, starts).tolist()
        found = torch.empty(len(rows), device=rows.device)
        for block, (low, high) in enumerate(pairwise(bounds)):
            start = block * size
            logs = self.model.lm_head(hidden[start : start + size]).float().log_softmax(-1)
            found[low:high] = logs[rows[low:high] - start, tokens[low:high]]
        return found

    def _split(self, states: Tensor) -> Tensor:
        """[Q, S, heads * d_kv] -> [Q, heads, S, d_kv]."""
        return states.view(*states.shape[:2], self.heads, -1).transpose(1, 2)

    def _position_bias(self, length: int) -> Tensor:
        """T5's bias of the newest position over all positions up to it, [1, heads, 1, length]."""
        attention = self.blocks[0].layer[0].SelfAttention
        bias: Tensor = attention.compute_bias(1, length, past_seen_tokens=length - 1)
        return bias
