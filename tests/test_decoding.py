"""The trie against a trie of dicts; exact scores against the model's own forward pass."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LogitsProcessorList,
    T5Config,
    T5ForConditionalGeneration,
)

from caption_cache.errors import InputError
from kgc_seq2seq.decoding import best_first
from kgc_seq2seq.decoding.beam import beam_search
from kgc_seq2seq.decoding.best_first import bracket, top_k
from kgc_seq2seq.decoding.exact import ExactSearch
from kgc_seq2seq.decoding.logits_processor import TrieLogitsProcessor, generated_entities
from kgc_seq2seq.decoding.nodes import Allowed, Prior, Tempering, TrieNodes
from kgc_seq2seq.decoding.ragged import pairs
from kgc_seq2seq.decoding.tree_decoder import Encoded, TreeDecoder
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


def small_t5(
    seed: int = 0, *, gated: bool = True, untied: bool = False, layers: int = 2
) -> T5ForConditionalGeneration:
    torch.manual_seed(seed)
    model = T5ForConditionalGeneration(T5Config(
        vocab_size=VOCAB, d_model=16, d_ff=24, d_kv=4, num_heads=3, num_layers=1,
        num_decoder_layers=layers, feed_forward_proj="gated-gelu" if gated else "relu",
        tie_word_embeddings=not untied, decoder_start_token_id=0, pad_token_id=0, eos_token_id=EOS,
        relative_attention_num_buckets=8, relative_attention_max_distance=6))
    if untied:  # the configuration only leaves the output unscaled
        model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.shared.weight))
    return model.eval()


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


@given(names_strategy, st.integers(0, 10**6))
def test_an_extended_trie_is_that_of_all_names(names: Names, seed: int) -> None:
    cut = seed % len(names)
    if not cut:
        return
    more = names[cut:]
    tokens = np.array([token for name in more for token in name], np.int32)
    offsets = np.cumsum([0, *map(len, more)]).astype(np.int64)
    found, expected = build(names[:cut]).extended(tokens, offsets), build(names)
    for field in EntityTrie.__dataclass_fields__:
        one, other = getattr(found, field), getattr(expected, field)
        np.testing.assert_array_equal(one, other, err_msg=field)
        assert one.dtype == other.dtype, field
    twin = np.array(names[seed % cut], np.int32)
    with pytest.raises(ValueError, match=f"tokens of name {seed % cut}"):
        build(names[:cut]).extended(twin, np.array([0, len(twin)]))


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


@pytest.mark.parametrize("gated, untied", [(False, False), (True, True), (True, False)],
                         ids=["T5", "Flan-T5", "ours"])
def test_scores_equal_the_models_own(gated: bool, untied: bool) -> None:
    names = [(3, 4, 5, 6, EOS), (3, 4, EOS), (3, EOS), (7, 3, EOS), (7, 8, 9, 10, 11, 2, EOS),
             (EOS,)]
    model = small_t5(gated=gated, untied=untied)
    ids, mask = queries(0, 5)
    search = ExactSearch(TreeDecoder(model), build(names))
    encoded = search.decoder.encode(ids, mask)
    expected = by_forward_pass(model, ids, mask, names)
    np.testing.assert_allclose(search.all_scores(encoded), expected, rtol=1e-5, atol=1e-4)
    asked = torch.tensor([0, 0, 2, 2, 2, 4])
    gold = torch.tensor([4, 0, 5, 1, 2, 4])
    found = search.gold_scores(encoded, asked, gold)
    np.testing.assert_allclose(found, expected[asked, gold], rtol=1e-5, atol=1e-4)


@settings(max_examples=300)
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
        patch.setattr(search, "rows_at_once", rows)
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


def to_grid(scores: np.ndarray) -> np.ndarray:
    """What moves scores to the next half."""
    return np.round(2 * scores) / 2 - scores


@dataclass
class Case:
    """A random model, catalogue, restriction and prior, and the scores by brute force."""

    search: ExactSearch
    encoded: Encoded
    allowed: Allowed | None
    may: np.ndarray
    prior: Prior | None
    scores: np.ndarray


def case(names: Names, seed: int, count: int, restriction: str, weight: float | None, memory: int
         ) -> Case:
    """Weight of the prior; None: one that puts all scores on a grid, so that many tie."""
    random = np.random.default_rng(seed)
    search = ExactSearch(TreeDecoder(small_t5(seed, layers=1 + seed % 2)), build(names))
    search.memory = memory
    encoded = search.decoder.encode(*queries(seed, count))
    scores = search.all_scores(encoded)
    listed = random.random((count, len(names))) < 0.4
    query, entity = map(torch.from_numpy, np.nonzero(listed))
    allowed = {"all": None, "without": Allowed.without(search.nodes, query, entity),
               "only": Allowed.only(search.nodes, query, entity)}[restriction]
    may = {"all": np.ones_like(listed), "without": ~listed, "only": listed}[restriction]
    prior = None
    if weight != 0:
        values = torch.from_numpy(to_grid(scores) if weight is None else
                                  random.normal(size=scores.shape).astype(np.float32))
        if weight is not None:
            values = weight * values.log_softmax(-1)
        prior = Prior.of(search.nodes, values)
        scores = scores + values.numpy()
    return Case(search, encoded, allowed, may, prior, scores)


cases = st.builds(case, names_strategy, st.integers(0, 10**6), st.integers(1, 4),
                  st.sampled_from(["all", "without", "only"]),
                  st.sampled_from([0.0, 0.5, 3.0, None]), st.sampled_from([0, 10_000, 2**30]))


@settings(max_examples=300)
@given(cases, st.integers(1, 9), st.integers(1, 20), st.sampled_from([None, 0.2, 0.0]),
       st.sampled_from([None, 0.05, 0.5, 0.999, 1.0, 1.7]))
def test_top_k_is_that_of_brute_force(
    case: Case, k: int, rows: int, open_mass: float | None, power: float | None
) -> None:
    if case.may.sum(axis=1).min() < k:
        with pytest.raises(InputError, match=f"{k} answers are asked for where only"):
            top_k(case.search, case.encoded, k, allowed=case.allowed, prior=case.prior)
        return
    case.search.rows_at_once = rows
    count, tempering = len(case.scores), None
    powers = torch.full((count,), power or 1.0)
    if case.prior is None:
        powers[:] = 1
    elif power is not None:
        powers[: count // 2] = 0.3
        tempering = Tempering.of(case.search.nodes, case.prior, powers)
    found = top_k(case.search, case.encoded, k, allowed=case.allowed, prior=case.prior,
                  open_mass=open_mass, tempering=tempering)
    expected = np.where(case.may, case.scores, -np.inf)
    np.testing.assert_allclose(found.scores, -np.sort(-expected, axis=1)[:, :k], atol=1e-4)
    np.testing.assert_allclose(found.scores, np.take_along_axis(
        expected, found.entities.numpy(), axis=1), atol=1e-4)
    assert all(len(set(row)) == k for row in found.entities.tolist())
    masses = np.exp(powers.double().numpy()[:, None] * case.scores) * case.may
    mass = masses.sum(axis=1)
    np.testing.assert_allclose(found.masses, np.take_along_axis(
        masses, found.entities.numpy(), axis=1), rtol=1e-3)
    assert (found.found_mass.numpy() <= mass * (1 + 1e-4)).all()
    assert ((found.found_mass + found.open_mass).numpy() >= mass * (1 - 1e-4)).all()
    if open_mass is not None:
        assert (found.open_mass <= open_mass * (found.found_mass + found.open_mass)).all()


@settings(max_examples=300)
@given(cases, st.one_of(st.none(), st.integers(1, 12)), st.sampled_from([0.0, 0.1]))
def test_brackets_hold_the_true_rank_and_close(
    case: Case, budget: int | None, tolerance: float
) -> None:
    count, size = case.scores.shape
    random = np.random.default_rng(size)
    query = np.sort(random.integers(0, count, 5))
    gold = random.integers(0, size, 5)
    own = case.scores[query, gold]
    margin = np.full(5, 1e-4, np.float32)
    gap = np.where(case.may[query], case.scores[query], -np.inf) - own[:, None]
    gap[np.arange(5), gold] = -np.inf
    if (np.abs(np.abs(gap) - 1e-4) < 5e-5).any():
        return  # rounding would decide
    better, tied = (gap > 1e-4).sum(axis=1), (np.abs(gap) <= 1e-4).sum(axis=1)
    found = bracket(
        case.search, case.encoded, torch.from_numpy(query), torch.from_numpy(gold),
        torch.from_numpy(margin), gold_scores=torch.from_numpy(own), allowed=case.allowed,
        prior=case.prior, budget=budget, tolerance=tolerance)
    low, high = found.better.numpy(), (found.better + found.tied + found.open).numpy()
    assert (low <= better).all()
    assert (found.tied.numpy() <= tied).all()
    assert (high >= better + tied).all()
    if budget is None:
        certain = low + found.tied.numpy() / 2 + 1
        assert (1 / certain - 1 / (certain + found.open.numpy()) <= tolerance + 1e-9).all()
        if not tolerance:
            assert found.better.tolist() == better.tolist()
            assert found.tied.tolist() == tied.tolist()


def test_ties_are_found_where_nothing_else_lies_under_a_node() -> None:
    """The model is sure that a name ends, so the bound of an open node is its answer's score."""
    model = small_t5(gated=False, untied=True)
    with torch.no_grad():
        model.lm_head.weight = torch.nn.Parameter(0.05 * model.lm_head.weight)
        model.lm_head.weight[EOS, 0] = 4
        model.shared.weight[:, 0] = 100  # what every last hidden state is then made of
    search = ExactSearch(TreeDecoder(model), build([
        (a, b, EOS) for a in range(2, VOCAB) for b in range(2, VOCAB)]))
    encoded = search.decoder.encode(*queries(1, 2))
    plain = search.all_scores(encoded)
    scores, prior = plain + to_grid(plain), Prior.of(search.nodes, torch.from_numpy(to_grid(plain)))
    gold = np.argsort(scores, axis=1)[:, 50]
    own = np.take_along_axis(scores, gold[:, None], 1)
    found = bracket(search, encoded, torch.arange(2), torch.from_numpy(gold),
                    torch.full((2,), 1e-3), gold_scores=torch.from_numpy(own[:, 0]), prior=prior)
    assert found.tied.tolist() == ((np.abs(scores - own) <= 1e-3).sum(1) - 1).tolist()
    assert found.better.tolist() == (scores > own + 1e-3).sum(1).tolist()
    assert (found.tied > 0).all()


def test_the_best_answers_and_brackets_save_work() -> None:
    names = [(a, b, c, EOS) for a in range(2, 10) for b in range(2, 10) for c in range(2, 8)]
    model = small_t5()
    model.shared.weight.data *= 3  # as sure of its answers as a trained model
    search = ExactSearch(TreeDecoder(model), build(names))
    encoded = search.decoder.encode(*queries(1, 2))
    scores = search.all_scores(encoded)
    everything, search.positions = search.positions, 0
    top_k(search, encoded, 3)
    assert search.positions < everything / 3
    search.positions = 0
    both = torch.arange(2)
    gold = torch.from_numpy(scores.argmax(axis=1))
    own = torch.from_numpy(scores.max(axis=1))
    assert bracket(search, encoded, both, gold, torch.full((2,), 1e-5), gold_scores=own,
                   ).open.tolist() == [0, 0]
    assert search.positions < everything / 3


def test_memory_is_bounded_and_answers_stay_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [(*path, EOS) for path in product(range(2, 12), repeat=3)]
    search = ExactSearch(TreeDecoder(small_t5()), build(names))
    encoded = search.decoder.encode(*queries(1, 2))
    scores = search.all_scores(encoded)
    gold = torch.from_numpy(np.argsort(scores, axis=1)[:, 0])  # the last: all is searched
    own = torch.from_numpy(scores.min(axis=1))
    search.rows_at_once = 16
    held = []
    expand = best_first._Frontier.expand

    def watched(frontier: best_first._Frontier) -> tuple[torch.Tensor, ...]:
        held.append(frontier.num_bytes)
        return expand(frontier)

    monkeypatch.setattr(best_first._Frontier, "expand", watched)

    def most(memory: int) -> int:
        held.clear()
        search.memory = memory
        found = bracket(search, encoded, torch.arange(2), gold, torch.full((2,), 1e-6),
                        gold_scores=own)
        assert found.open.tolist() == [0, 0]
        assert found.better.tolist() == (scores > own.numpy()[:, None] + 1e-6).sum(1).tolist()
        return max(held)

    assert 4 * most(5_000) < most(2**30)


def test_golds_of_a_query_share_its_search() -> None:
    names = [(a, b, c, EOS) for a in range(2, 10) for b in range(2, 10) for c in range(2, 8)]
    search = ExactSearch(TreeDecoder(small_t5()), build(names))
    encoded = search.decoder.encode(*queries(1, 2))
    scores = search.all_scores(encoded)[1]
    order = np.argsort(scores)

    def positions(*ranks: int) -> int:
        golds = order[list(ranks)]
        search.positions = 0
        found = bracket(search, encoded, torch.ones(len(golds), dtype=torch.long),
                        torch.from_numpy(golds), torch.full((len(golds),), 1e-6),
                        gold_scores=torch.from_numpy(scores[golds]))
        assert found.better.tolist() == [(scores > scores[gold] + 1e-6).sum() for gold in golds]
        return search.positions

    assert positions(0, 10, 20, 30) < 1.1 * positions(0)


@given(st.lists(st.integers(0, 5), max_size=12), st.lists(st.integers(0, 5), max_size=12),
       st.integers(1, 9))
def test_each_element_meets_every_other_of_its_group(
    groups: list[int], others: list[int], at_once: int
) -> None:
    others.sort()
    blocks = [list(zip(*block, strict=True)) for block in pairs(
        torch.tensor(groups, dtype=torch.long), torch.tensor(others, dtype=torch.long), at_once)]
    assert [(int(one), int(other)) for block in blocks for one, other in block] == [
        (one, other) for one, group in enumerate(groups) for other in range(len(others))
        if others[other] == group]
    assert all(len(block) < at_once + len(others) for block in blocks)


def test_a_budget_ends_the_search_of_each_query() -> None:
    names = [(a, b, c, EOS) for a in range(2, 10) for b in range(2, 10) for c in range(2, 8)]
    search = ExactSearch(TreeDecoder(small_t5()), build(names))
    encoded = search.decoder.encode(*queries(1, 3))
    gold = torch.from_numpy(search.all_scores(encoded).argmin(axis=1))
    own = torch.from_numpy(search.all_scores(encoded).min(axis=1))
    search.positions = 0
    found = bracket(search, encoded, torch.arange(3), gold, torch.full((3,), 1e-6),
                    gold_scores=own, budget=20)
    assert 3 * 20 <= search.positions < 3 * 50
    assert (found.open > 0).all()


def test_bad_questions_are_refused() -> None:
    search = ExactSearch(TreeDecoder(small_t5()), build([(3, EOS), (4, EOS)]))
    encoded = search.decoder.encode(*queries(1, 2))
    with pytest.raises(InputError, match="tokens up to 99, the model only 12"):
        ExactSearch(search.decoder, build([(99, EOS)]))
    with pytest.raises(InputError, match="k is 0"):
        top_k(search, encoded, 0)
    with pytest.raises(InputError, match="only 2 entities may answer"):
        top_k(search, encoded, 3)
    one = torch.zeros(1, dtype=torch.long)
    with pytest.raises(InputError, match="budget is 0"):
        bracket(search, encoded, one, one, torch.zeros(1), gold_scores=torch.zeros(1), budget=0)
    with pytest.raises(ValueError, match="does not fit"):
        Prior.of(search.nodes, torch.zeros(2, 3))
    with pytest.raises(ValueError, match="NaN"):
        Prior.of(search.nodes, torch.full((2, 2), torch.nan))
    torch.nn.init.constant_(search.decoder.model.decoder.final_layer_norm.weight, torch.nan)
    with pytest.raises(FloatingPointError, match="gives NaN"):
        top_k(search, encoded, 1)


@settings(max_examples=100)
@given(cases, st.integers(1, 6))
def test_a_beam_as_wide_as_the_catalogue_is_exact_and_others_never_exceed(
    case: Case, width: int
) -> None:
    size = case.scores.shape[1]
    expected = -np.sort(-np.where(case.may, case.scores, -np.inf), axis=1)
    _, scores = beam_search(case.search, case.encoded, size, allowed=case.allowed,
                            prior=case.prior)
    np.testing.assert_allclose(scores, expected, atol=1e-4)
    entities, scores = beam_search(case.search, case.encoded, width, allowed=case.allowed,
                                   prior=case.prior)
    assert (scores.numpy()[:, :size] <= expected[:, :width] + 1e-4).all()
    real = entities.numpy() >= 0
    assert case.may[np.nonzero(real)[0], entities.numpy()[real]].all()
    assert np.isneginf(scores.numpy()[~real]).all()


def in_trie(row: list[int], names: Names, prompt: int) -> tuple[int, ...] | None:
    """The name a generated sequence spells, if it is one and only padding follows."""
    text = tuple(row[prompt:])
    if EOS not in text:
        return None
    end = text.index(EOS) + 1
    return text[:end] if text[:end] in names and not any(text[end:]) else None


@settings(max_examples=60)
@given(names_strategy, st.integers(0, 10**6), st.integers(1, 5), st.booleans())
def test_generate_writes_names_only_and_beams_find_what_ours_finds(
    names: Names, seed: int, width: int, in_place: bool
) -> None:
    search = ExactSearch(TreeDecoder(small_t5(seed, layers=1)), build(names))
    ids, mask = queries(seed, 2)
    depth = max(map(len, names))
    processor = TrieLogitsProcessor(search.nodes, pad=0, in_place=in_place)

    def generate(**how: object) -> object:
        with torch.inference_mode():
            return search.decoder.model.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=depth,
                logits_processor=LogitsProcessorList([processor]), return_dict_in_generate=True,
                output_scores=True, **how)

    torch.manual_seed(seed)
    for how in ({}, {"do_sample": True, "num_return_sequences": 3, "top_k": 0}):
        for row in generate(**how).sequences.tolist():
            assert in_trie(row, names, 1), row
    found = generate(num_beams=width, num_return_sequences=width, length_penalty=0.0)
    if width == 1:
        return
    query, entity, score = generated_entities(processor, found.sequences, found.sequences_scores,
                                              width)
    pairs = list(zip(query.tolist(), entity.tolist(), strict=True))
    assert len(pairs) == len(set(pairs))
    scores = search.all_scores(search.decoder.encode(ids, mask))
    np.testing.assert_allclose(score, scores[query, entity], atol=1e-4)
    if width >= len(names):
        assert len(pairs) == 2 * len(names)


@pytest.mark.parametrize(("tokens", "stopping"), [(6, False), (20, "never")])
def test_a_decoder_only_model_is_constrained_after_its_prompt(
    tokens: int, stopping: bool | str
) -> None:
    names = [(3, 4, 5, EOS), (3, 4, EOS), (7, EOS), (8, 9, 10, 11, EOS)]
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(
        vocab_size=VOCAB, n_embd=16, n_layer=1, n_head=2, n_positions=32, bos_token_id=0,
        eos_token_id=EOS, pad_token_id=0)).eval()
    nodes = TrieNodes(build(names), torch.device("cpu"))
    prompt = torch.tensor([[5, 6, 2], [2, 2, 9]])
    processor = TrieLogitsProcessor(nodes, pad=0, start=3)
    for _ in range(2):  # it can be used again
        found = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), num_beams=6, num_return_sequences=6,
            max_new_tokens=tokens, logits_processor=LogitsProcessorList([processor]),
            return_dict_in_generate=True, output_scores=True, early_stopping=stopping)
        query, entity, _ = generated_entities(processor, found.sequences, found.sequences_scores,
                                              6)
        assert sorted(zip(query.tolist(), entity.tolist(), strict=True)) == [
            (q, e) for q in range(2) for e in range(4)]
