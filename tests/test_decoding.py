"""The trie against a trie of dicts; exact scores against the model's own forward pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import T5Config, T5ForConditionalGeneration

from kgc_seq2seq.decoding import exact
from kgc_seq2seq.decoding.exact import ExactSearch
from kgc_seq2seq.decoding.tree_decoder import TreeDecoder
from kgc_seq2seq.decoding.trie import EntityTrie

EOS, VOCAB = 1, 12
Names = list[tuple[int, ...]]

names_strategy = st.lists(
    st.lists(st.integers(2, VOCAB - 1), max_size=5).map(lambda name: (*name, EOS)),
    min_size=1, max_size=25, unique=True)


def build(names: Names) -> EntityTrie:
    tokens = np.array([token for name in names for token in name], np.int32)
    offsets = np.cumsum([0, *map(len, names)]).astype(np.int64)
    return EntityTrie.build(tokens, offsets)


def small_t5(seed: int = 0, *, gated: bool = True, layers: int = 2) -> T5ForConditionalGeneration:
    torch.manual_seed(seed)
    return T5ForConditionalGeneration(T5Config(
        vocab_size=VOCAB, d_model=16, d_ff=24, d_kv=4, num_heads=3, num_layers=1,
        num_decoder_layers=layers, feed_forward_proj="gated-gelu" if gated else "relu",
        tie_word_embeddings=gated, decoder_start_token_id=0, pad_token_id=0, eos_token_id=EOS,
        relative_attention_num_buckets=8, relative_attention_max_distance=6)).eval()


def queries(seed: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, VOCAB, (count, 9), generator=generator)
    lengths = torch.randint(1, 10, (count,), generator=generator)
    mask = torch.arange(9) < lengths[:, None]
    return ids * mask, mask.long()


def by_forward_pass(model: T5ForConditionalGeneration, ids: torch.Tensor, mask: torch.Tensor,
                    names: Names) -> np.ndarray:
    """One forward pass a name: the scores by definition, [queries, names]."""
    scores = np.empty((len(ids), len(names)))
    for column, name in enumerate(names):
        labels = torch.tensor([name] * len(ids))
        with torch.inference_mode():
            logs = model(input_ids=ids, attention_mask=mask, labels=labels).logits.log_softmax(-1)
        scores[:, column] = logs.gather(2, labels[..., None]).sum((1, 2)).numpy()
    return scores


@given(names_strategy)
def test_trie_equals_a_trie_of_dicts(names: Names) -> None:
    trie = build(names)
    under: dict[tuple[int, ...], set[int]] = {}
    for entity, name in enumerate(names):
        for depth in range(len(name) + 1):
            under.setdefault(name[:depth], set()).add(entity)
    prefix: dict[int, tuple[int, ...]] = {0: ()}
    for node in range(1, trie.num_nodes):  # breadth first, so a parent comes first
        prefix[node] = (*prefix[int(trie.parents[node])], int(trie.tokens[node]))
    assert sorted(prefix.values()) == sorted(under)
    for node, path in prefix.items():
        span = trie.order[trie.first[node] : trie.last[node]]
        assert set(span.tolist()) == under[path]
        children = range(trie.children[node], trie.children[node + 1])
        assert {prefix[child] for child in children} == {
            other for other in under if len(other) == len(path) + 1 and other[:-1] == path}
        assert bool(trie.is_leaf[node]) == (path[-1:] == (EOS,))
        assert trie.levels[len(path)] <= node < trie.levels[len(path) + 1]


def test_trie_survives_the_disk(tmp_path: Path) -> None:
    trie = build([(3, 4, EOS), (3, EOS), (EOS,)])
    trie.save(tmp_path / "trie.safetensors")
    loaded = EntityTrie.load(tmp_path / "trie.safetensors")
    for name in EntityTrie.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(loaded, name), getattr(trie, name))


def test_trie_refuses_equal_and_empty_names() -> None:
    with pytest.raises(ValueError, match="same tokens"):
        build([(3, EOS), (4, EOS), (3, EOS)])
    with pytest.raises(ValueError, match="at least one"):
        build([])
    with pytest.raises(ValueError, match="at least one"):
        build([(3, EOS), ()])


@pytest.mark.parametrize("gated", [True, False], ids=["T5 1.1", "T5"])
def test_scores_equal_the_models_own(gated: bool) -> None:
    names = [(3, 4, 5, 6, EOS), (3, 4, EOS), (3, EOS), (7, 3, EOS), (7, 8, 9, 10, 11, 2, EOS),
             (EOS,)]
    model = small_t5(gated=gated)
    ids, mask = queries(0, 5)
    search = ExactSearch(TreeDecoder(model), build(names))
    encoded = search.decoder.encode(ids, mask)
    expected = by_forward_pass(model, ids, mask, names)
    np.testing.assert_allclose(search.all_scores(encoded), expected, rtol=1e-5, atol=1e-4)
    asked = torch.tensor([0, 0, 2, 2, 2, 4])
    gold = torch.tensor([4, 0, 5, 1, 2, 4])
    found = search.gold_scores(encoded, asked, gold)
    np.testing.assert_allclose(found, expected[asked, gold], rtol=1e-5, atol=1e-4)


@settings(deadline=None, max_examples=60)
@given(names_strategy, st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 7))
def test_sweep_finds_what_reaches_the_threshold_and_nothing_else(
    names: Names, seed: int, count: int, rows: int
) -> None:
    model = small_t5(seed, layers=1)
    search = ExactSearch(TreeDecoder(model), build(names))
    encoded = search.decoder.encode(*queries(seed, count))
    scores = search.all_scores(encoded)
    random = np.random.default_rng(seed)
    # Between two scores, so that rounding cannot decide.
    place = random.integers(0, len(names) + 1, count)
    ordered = np.sort(scores, axis=1)
    padded = np.pad(ordered, ((0, 0), (1, 1)), constant_values=((0, 0), (-1e9, 1e9)))
    low, high = padded[np.arange(count), place], padded[np.arange(count), place + 1]
    if (high - low < 1e-3).any():
        return
    threshold = ((low + high) / 2).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "ROWS_AT_ONCE", rows)
        found = search.sweep(encoded, torch.from_numpy(threshold))
    expected = {(q, e) for q, e in np.argwhere(scores >= threshold[:, None]).tolist()}
    pairs = list(zip(found.queries.tolist(), found.entities.tolist(), strict=True))
    assert len(pairs) == len(set(pairs))
    assert set(pairs) == expected
    np.testing.assert_allclose(found.scores, scores[found.queries, found.entities], atol=1e-4)


def test_a_threshold_saves_work() -> None:
    names = [(a, b, c, EOS) for a in range(2, 8) for b in range(2, 8) for c in range(2, 5)]
    search = ExactSearch(TreeDecoder(small_t5()), build(names))
    encoded = search.decoder.encode(*queries(1, 2))
    best = torch.from_numpy(search.all_scores(encoded).max(axis=1)) - 1e-4
    everything, search.positions = search.positions, 0
    search.sweep(encoded, best)
    assert search.positions < everything / 2
