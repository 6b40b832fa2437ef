"""The tokenizer: SentencePiece trained on the graph's own text, with its frequent words whole."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import sentencepiece
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase, T5Tokenizer

from caption_cache.errors import InputError
from kgc_seq2seq.graph.knowledge_graph import KnowledgeGraph

NUM_SENTINELS = 100
"""T5's ``<extra_id_…>`` tokens: marks in the verbalized input, and gaps for span denoising."""
_MOST_REPEATS = 50


@dataclass(frozen=True)
class TokenizerConfig:
    """How a tokenizer is trained; only with model.init: scratch."""

    pieces: int = 800
    """SentencePiece (unigram) pieces, at most; what unknown words are spelt with."""
    words: int = 2000
    """So many of the most frequent words are one token each, never split. Short names make
    short inputs and shallow tries."""

    def __post_init__(self) -> None:
        if self.pieces < 1:
            raise InputError(f"tokenizer.pieces is {self.pieces}; give 1 or more.")
        if self.words < 0:
            raise InputError(f"tokenizer.words is {self.words}; give 0 or more.")


def graph_texts(
    graph: KnowledgeGraph, captions: Mapping[str, str], link_captions: Iterable[str] = (),
    literals: Iterable[str] = (),
) -> Counter[str]:
    """Every text of a graph with a count that says how often a model will read or write it.

    Args:
        graph: The graph.
        captions: Of entities, by their id.
        link_captions: Of pairs and of relations.
        literals: What stands in every input.
    """
    texts: Counter[str] = Counter()
    for name, degree in zip(graph.entity_names, graph.train_degree.tolist(), strict=True):
        texts[name] += 1 + degree
    facts = np.bincount(graph.train[:, 1], minlength=graph.num_relations).tolist()
    for name, count in zip(graph.relation_names, facts * 2, strict=True):
        texts[name] += 1 + count
    texts.update(filter(None, graph.entity_descriptions))
    texts.update(filter(None, captions.values()))
    texts.update(link_captions)
    texts.update(dict.fromkeys(literals, 2 * len(graph.train)))
    return texts


def train_tokenizer(texts: Mapping[str, int], config: TokenizerConfig) -> T5Tokenizer:
    """Train a tokenizer and give it T5's special tokens and sentinels.

    Args:
        texts: Everything the model will read or write, each with a count.
        config: Sizes.

    Raises:
        InputError: ``config.pieces`` is too small to cover the characters of the texts.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_repeated(texts), model_writer=model, model_type="unigram",
            vocab_size=config.pieces, hard_vocab_limit=False, character_coverage=1.0,
            # A catalogue of names must stay one-to-one, so no character is folded into another.
            normalization_rule_name="identity",
            pad_id=0, eos_id=1, unk_id=2, bos_id=-1, num_threads=1, minloglevel=2,
        )
    except RuntimeError as error:
        raise InputError(f"No tokenizer can be trained with tokenizer.pieces {config.pieces} "
                         f"({error}); choose a larger number.") from None
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    pieces = {processor.id_to_piece(i): processor.get_score(i) for i in range(len(processor))}
    # A score of 0 is a probability of 1: no way to split such a word is likelier.
    pieces |= dict.fromkeys(_frequent_words(texts, config.words), 0.0)
    sentinels = {f"<extra_id_{i}>": 0.0 for i in range(NUM_SENTINELS - 1, -1, -1)}
    # T5Tokenizer(vocab_file=…) would leave the vocabulary empty without a word: it takes pieces.
    return T5Tokenizer(vocab=[*pieces.items(), *sentinels.items()], extra_ids=NUM_SENTINELS)


def add_relation_marks(tokenizer: PreTrainedTokenizerBase, count: int) -> list[str]:
    """Give each of ``count`` relations a token of its own, if it has none yet.

    A query says its relation by this mark as well as by name: the name alone stands in many of
    the facts around the query too, and a small model takes long to tell them apart.

    Returns:
        The mark of each relation; it is one token.
    """
    marks = [f"<relation_{relation}>" for relation in range(count)]
    tokenizer.add_tokens(marks, special_tokens=True)
    return marks


def add_missing_letters(tokenizer: PreTrainedTokenizerBase, names: Sequence[str]) -> None:
    """Give each letter of the names that a pretrained vocabulary lacks a token of its own.

    T5's has no bytes to fall back on: many a letter with a mark, and every script that it was not
    trained on, would be the one unknown token, and names that differ in it the same.
    """
    letters = sorted(set().union(*names))
    # Within a word, as most stand; what begins a word may be a piece of its own.
    spelt = tokenizer([f"a{letter}" for letter in letters], add_special_tokens=False).input_ids
    tokenizer.add_tokens([
        AddedToken(letter, normalized=False) for letter, tokens in zip(letters, spelt, strict=True)
        if tokenizer.unk_token_id in tokens])


def _repeated(texts: Mapping[str, int]) -> Iterator[str]:
    for text, count in texts.items():
        for _ in range(min(count, _MOST_REPEATS)):
            yield text


def _frequent_words(texts: Mapping[str, int], limit: int) -> Iterable[str]:
    counts: Counter[str] = Counter()
    for text, count in texts.items():
        for word in text.split():
            counts["▁" + word.rstrip(",.;:")] += count
    del counts["▁"]
    return sorted(counts, key=lambda word: (-counts[word], word))[:limit]
