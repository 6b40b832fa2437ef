"""Span corruption: what is lost stands in the target, and the rest stays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import random_graph, stop_at
from hypothesis import given
from hypothesis import strategies as st
from test_training_options import checkpoint, config

from caption_cache.errors import InputError
from kgc_seq2seq.text.denoising import corrupt
from kgc_seq2seq.text.input_config import InputConfig
from kgc_seq2seq.text.token_table import TokenTable
from kgc_seq2seq.text.tokenizer import TokenizerConfig, graph_texts, train_tokenizer
from kgc_seq2seq.text.verbalizer import Verbalizer
from kgc_seq2seq.train import run_training
from kgc_seq2seq.training.loop import TrainingConfig

SENTINELS = np.arange(900, 950, dtype=np.int32)


def restored(text: list[int], spans: list[int]) -> list[int]:
    """The text with each span in the place of its sentinel."""
    found: dict[int, list[int]] = {}
    for token in spans:
        if token in SENTINELS:
            found[token] = last = []
        else:
            last.append(token)
    return [one for token in text for one in found.get(token, [token])]


@given(st.lists(st.tuples(st.integers(1, 700), st.booleans()), min_size=1, max_size=12),
       st.integers(0, 99))
def test_spans_and_what_is_left_make_up_the_text(
    texts: list[tuple[int, bool]], seed: int
) -> None:
    lengths, chosen = map(np.array, zip(*texts, strict=True))
    random = np.random.default_rng(seed)
    table = TokenTable(random.integers(0, 800, lengths.sum(), np.int32),
                       np.append(0, np.cumsum(lengths)))
    lots = random.integers(0, 2**63, len(lengths)).astype(np.uint64)
    left, spans = corrupt(table, chosen, lots, SENTINELS)
    for row, (length, was_chosen) in enumerate(texts):
        whole, text, taken = (
            one.tokens[one.offsets[row] : one.offsets[row + 1]].tolist()
            for one in (table, left, spans))
        assert restored(text, taken) == whole
        marks = [token for token in text if token in SENTINELS]
        assert marks == [token for token in taken if token in SENTINELS]
        assert marks == SENTINELS[: len(marks)].tolist()
        wanted = min(50, max(1, round(length * 0.05))) if was_chosen else 0
        assert len(marks) == wanted
        assert wanted <= len(taken) - len(marks) <= 5 * wanted


def test_a_share_of_the_examples_is_corrupted_whatever_stands_beside_them() -> None:
    graph = random_graph(0, facts=400)
    tokenizer = train_tokenizer(graph_texts(graph, {}), TokenizerConfig(pieces=60, words=20))
    verbalizer = Verbalizer(graph, {}, tokenizer, InputConfig(captions=False), seed=0)
    queries = graph.training_queries
    rows = np.arange(len(queries))

    def lines(rows: np.ndarray, epoch: int, share: float) -> list[tuple[str, str]]:
        batch = verbalizer.examples(queries[rows], epoch, share).batch(np.arange(len(rows)), 0)
        labels = np.where(batch["labels"] < 0, verbalizer.pad, batch["labels"])
        return list(zip(tokenizer.batch_decode(batch["input_ids"]),
                        tokenizer.batch_decode(labels), strict=True))

    def kept(texts: list[tuple[str, str]]) -> list[tuple[str, ...]]:
        return [tuple(one.replace("<pad>", "") for one in line) for line in texts]

    plain, some = kept(lines(rows, 1, 0)), kept(lines(rows, 1, 0.3))
    changed = np.array([one != other for one, other in zip(plain, some, strict=True)])
    assert changed.mean() == pytest.approx(0.3, abs=0.08)
    assert all(("<extra_id_0>" in text and target.startswith("<extra_id_0>")) == differs
               for (text, target), differs in zip(some, changed, strict=True))
    part = rows[5:50][::-1]
    assert kept(lines(part, 1, 0.3)) == [some[row] for row in part]
    again = kept(lines(rows, 2, 0.3))
    assert [("<extra_id_0>" in text) for text, _ in again] != changed.tolist()


def test_a_training_with_denoising_resumes_to_the_bit(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = config(tiny, tmp_path / "whole", dropout=0.1, denoising=0.5, batch_tokens=60)
    run_training(whole)
    with monkeypatch.context() as patch:
        stop_at(6, patch)
        stopped = run_training(replace(whole, out=str(tmp_path / "parts")))
    assert stopped is not None
    assert stopped.data == {"stopped_after_step": 7}
    run_training(replace(whole, out=str(tmp_path / "parts")))
    one, other = checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "parts")
    assert all((one[name] == other[name]).all() for name in one)


def test_a_share_of_one_would_teach_no_answer() -> None:
    with pytest.raises(InputError, match=r"training\.denoising is 1\.0; give .* below 1"):
        TrainingConfig(denoising=1.0)
