"""What a run reads: captions, a tokenizer, and the verbalizer that puts them into words."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from caption_cache.captions import Captions, read_captions, read_link_captions, read_profiles
from kgc_seq2seq.config import RunConfig
from kgc_seq2seq.graph.knowledge_graph import KnowledgeGraph
from kgc_seq2seq.text.input_config import CaptionScope
from kgc_seq2seq.text.tokenizer import add_missing_letters, graph_texts, train_tokenizer
from kgc_seq2seq.text.verbalizer import Verbalizer
from kgc_seq2seq.training.model import load_tokenizer


@dataclass(frozen=True)
class RunCaptions:
    """The captions that a run reads, by scope; empty where it reads none."""

    entity: Mapping[str, str]
    """By entity id: of the scope entity or profile."""
    pair: Mapping[tuple[str, str], str]
    """By (entity id, neighbour id), in both orders: of the scope pair or summary."""
    relation: Mapping[tuple[str, str], str]
    """By (entity id, relation id)."""


def load_captions(dataset: Path, config: RunConfig) -> RunCaptions:
    """Read the captions that a run reads.

    Raises:
        InputError: It reads captions of a scope that has none.
    """
    def linked(scope: CaptionScope) -> dict[tuple[str, str], str]:
        return (read_link_captions(dataset, scope, config.caption_source).texts
                if config.input.reads(scope) else {})

    def alone(scope: CaptionScope, read: Callable[[Path, str | None], Captions]) -> dict[str, str]:
        return read(dataset, config.caption_source).texts if config.input.reads(scope) else {}

    return RunCaptions(alone("entity", read_captions) | alone("profile", read_profiles),
                       linked("pair") | linked("summary"), linked("relation"))


def texts_hash(graph: KnowledgeGraph, captions: RunCaptions, config: RunConfig) -> str:
    """SHA-256 over the captions and descriptions that a run reads, in hex."""
    read = [sorted(captions.entity.items()), sorted(captions.pair.items()),
            sorted(captions.relation.items()),
            graph.entity_descriptions if config.input.descriptions else []]
    return hashlib.sha256(json.dumps(read).encode()).hexdigest()


def make_tokenizer(
    graph: KnowledgeGraph, captions: RunCaptions, config: RunConfig
) -> PreTrainedTokenizerBase:
    """The tokenizer of a new run: trained on all that it will read, or that of its T5.

    The latter gets the letters of names that it lacks.

    Raises:
        InputError: There is no such T5, or the settings do not fit the texts.
    """
    if config.model.pretrained is not None:
        tokenizer = load_tokenizer(config.model.pretrained)
        add_missing_letters(tokenizer, graph.entity_names)
        return tokenizer
    texts = graph_texts(graph, captions.entity, [*captions.pair.values(),
                                                 *captions.relation.values()],
                        config.input.literals())
    return train_tokenizer(texts, config.tokenizer)


def make_verbalizer(
    graph: KnowledgeGraph, captions: RunCaptions, tokenizer: PreTrainedTokenizerBase,
    config: RunConfig,
) -> Verbalizer:
    """The verbalizer of a run.

    Raises:
        InputError: The tokenizer cannot tell the names apart.
    """
    return Verbalizer(graph, captions.entity, tokenizer, config.input, config.seed, captions.pair,
                      captions.relation)
