"""Decoding: the constraint of one step, whole beams, building the trie, and exact answers, each
beside what one would use otherwise, in one run.

Names are synthetic (Zipf-distributed words, 2 to 9 tokens with EOS). With --run, answers are also
measured on a trained run.
"""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_common import bench_parser, finish
from transformers import LogitsProcessorList, T5Config, T5ForConditionalGeneration
from transformers.generation.logits_process import PrefixConstrainedLogitsProcessor

from kgc_seq2seq.completer import Completer
from kgc_seq2seq.decoding.beam import beam_search, legal_children
from kgc_seq2seq.decoding.best_first import bracket, top_k
from kgc_seq2seq.decoding.exact import ExactSearch
from kgc_seq2seq.decoding.logits_processor import TrieLogitsProcessor
from kgc_seq2seq.decoding.nodes import TrieNodes
from kgc_seq2seq.decoding.ragged import best_of_each
from kgc_seq2seq.decoding.tree_decoder import Encoded, TreeDecoder
from kgc_seq2seq.decoding.trie import EntityTrie, Ints, Longs
from kgc_seq2seq.evaluation.ranking import TOLERANCE, encode_queries

VOCABULARY, EOS = 32_128, 1
BEAM = 10


def main() -> None:
    parser = bench_parser("decoding", __doc__)
    parser.add_argument("--run", type=Path, metavar="FOLDER", help="a trained run")
    options = parser.parse_args()
    repeats = 3 if options.quick else 9
    tokens, offsets = zipf_names(15_000, seed=0)
    trie = EntityTrie.build(tokens, offsets)
    result: dict[str, Any] = {"threads": torch.get_num_threads()}
    ratios: dict[str, float] = {}
    result["constraint_step"] = [step(trie, rows, repeats) for rows in (
        (160, 640) if options.quick else (160, 640, 2560))]
    for entry in result["constraint_step"]:
        rows = entry["rows"]
        ratios[f"callback to own beam's step, {rows} rows"] = (
            entry["callback_ms"] / entry["own_beam_ms"])
        ratios[f"callback to logits processor, {rows} rows"] = (
            entry["callback_ms"] / entry["logits_processor_ms"])
        ratios[f"logits processor to writing the mask, {rows} rows"] = (
            entry["logits_processor_ms"] / entry["write_mask_ms"])
    result["beam"] = whole_beam(trie, quick=options.quick)
    ratios["unconstrained beam of transformers to our constrained beam, T5-small"] = (
        result["beam"]["transformers_unconstrained_s"] / result["beam"]["ours_s"])
    result["build"] = [build(count) for count in (
        (200_000,) if options.quick else (1_000_000, 5_000_000))]
    for entry in result["build"]:
        ratios[f"building to lexsort alone, {entry['names']} names"] = (
            entry["build_s"] / entry["lexsort_s"])
    if options.run:
        result["answers"] = answers(options.run, quick=options.quick)
        everything = result["answers"]["brute_force"]
        for name in ("exact_rank", "certified_rank", "top_10"):
            ratios[f"positions, brute force to {name}"] = (
                everything["positions"] / result["answers"][name]["positions"])
            ratios[f"time, brute force to {name}"] = (
                everything["seconds"] / result["answers"][name]["seconds"])
    finish(result, ratios, ["transformers", "numpy"], options.out)


def zipf_names(count: int, seed: int) -> tuple[Ints, Longs]:
    """Distinct names of 1 to 8 tokens and EOS, each token drawn as words are."""
    random = np.random.default_rng(seed)
    rows = int(count * 1.6) + 100
    drawn = np.minimum(random.zipf(1.15, (rows, 8)) + 2, VOCABULARY - 1).astype(np.int32)
    lengths = random.integers(1, 9, rows)
    drawn[np.arange(8) >= lengths[:, None]] = 0
    # Distinct rows by one sort of their bytes.
    keys = np.ascontiguousarray(drawn).view(np.dtype((np.void, drawn.shape[1] * 4))).ravel()
    _, first = np.unique(keys, return_index=True)
    if len(first) < count:
        raise ValueError("Too few distinct names were drawn.")
    drawn = drawn[random.permutation(first)[:count]]
    matrix = np.concatenate([drawn, np.zeros((count, 1), np.int32)], axis=1)
    lengths = (drawn > 0).sum(axis=1)
    matrix[np.arange(count), lengths] = EOS
    offsets = np.concatenate([[0], np.cumsum(lengths + 1)]).astype(np.int64)
    return matrix[matrix > 0], offsets


def median_ms(act: Callable[[], object], repeats: int) -> float:
    act()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        act()
        times.append(time.perf_counter() - start)
    return round(statistics.median(times) * 1000, 4)


def nested_dict(trie: EntityTrie) -> dict[int, Any]:
    """The trie as everybody writes it."""
    tables: list[dict[int, Any]] = [{} for _ in range(trie.num_nodes)]
    for node in range(1, trie.num_nodes):
        tables[trie.parents[node]][int(trie.tokens[node])] = tables[node]
    return tables[0]


def step(trie: EntityTrie, rows: int, repeats: int) -> dict[str, Any]:
    """One constrained step at prefixes of two tokens, beams of ten."""
    random = np.random.default_rng(rows)
    nodes = TrieNodes(trie, torch.device("cpu"))
    inner = np.flatnonzero(~trie.is_leaf)
    second = inner[(inner >= trie.levels[2]) & (inner < trie.levels[3])]
    chosen = random.choice(second, rows)
    at = torch.from_numpy(chosen.astype(np.int64))
    above = trie.parents[chosen]
    ids = torch.from_numpy(np.stack([np.zeros(rows), trie.tokens[above], trie.tokens[chosen]],
                                    axis=1).astype(np.int64))
    logs = torch.randn(rows, VOCABULARY).log_softmax(-1)
    groups = torch.arange(rows) // BEAM
    table = nested_dict(trie)

    def allowed(_: int, prefix: torch.Tensor) -> list[int]:
        below = table
        for token in prefix.tolist()[1:]:
            below = below[token]
        return list(below)

    callback = PrefixConstrainedLogitsProcessor(allowed, num_beams=BEAM)
    ours = TrieLogitsProcessor(nodes, pad=0)

    def processor() -> torch.Tensor:
        # What the step before left: the rows' parents.
        ours._hashes, order = torch.sort(ours._hash(ids[:, 1:-1]))
        ours._at = torch.from_numpy(above.astype(np.int64))[order]
        return ours(ids, logs)

    def own() -> torch.Tensor:
        row, _, score = legal_children(nodes, at, logs)
        return best_of_each(groups[row], score, BEAM)

    assert torch.equal(processor().isinf(), callback(ids, logs).isinf())
    return {
        "rows": rows,
        "callback_ms": median_ms(lambda: callback(ids, logs), max(3, repeats // 3)),
        "logits_processor_ms": median_ms(processor, repeats),
        "own_beam_ms": median_ms(own, 10 * repeats),
        "write_mask_ms": median_ms(lambda: torch.full_like(logs, -torch.inf), repeats),
    }


def whole_beam(trie: EntityTrie, *, quick: bool) -> dict[str, Any]:
    """T5-small's size: our constrained beam, and the unconstrained one of transformers."""
    torch.manual_seed(0)
    model = T5ForConditionalGeneration(T5Config(
        vocab_size=VOCABULARY, pad_token_id=0, eos_token_id=EOS,
        decoder_start_token_id=0)).eval()  # type: ignore[call-arg]
    search = ExactSearch(TreeDecoder(model), trie)
    ids = torch.randint(3, VOCABULARY, (2 if quick else 8, 64))
    mask = torch.ones_like(ids)
    depth = len(trie.levels) - 2
    times: dict[str, list[float]] = {"ours_s": [], "transformers_unconstrained_s": [],
                                     "transformers_with_our_processor_s": []}
    for _ in range(1 if quick else 3):
        with torch.inference_mode():
            start = time.perf_counter()
            beam_search(search, search.decoder.encode(ids, mask), BEAM)
            times["ours_s"].append(time.perf_counter() - start)
            for name, processors in (
                ("transformers_unconstrained_s", []),
                ("transformers_with_our_processor_s",
                 [TrieLogitsProcessor(search.nodes, pad=0)]),
            ):
                start = time.perf_counter()
                model.generate(
                    input_ids=ids, attention_mask=mask, num_beams=BEAM, max_new_tokens=depth,
                    num_return_sequences=BEAM, length_penalty=0.0,
                    logits_processor=LogitsProcessorList(processors))
                times[name].append(time.perf_counter() - start)
    return {"queries": len(ids), "width": BEAM, "steps": depth,
            **{name: round(statistics.median(values), 3) for name, values in times.items()}}


def build(count: int) -> dict[str, Any]:
    """Time and memory of building, beside a lexsort of the same tokens."""
    tokens, offsets = zipf_names(count, seed=1)
    lengths = np.diff(offsets)
    depth = int(lengths.max())
    matrix = np.full((count, depth), -1, np.int32)
    matrix[np.arange(depth) < lengths[:, None]] = tokens
    start = time.perf_counter()
    np.lexsort(matrix.T[::-1])
    lexsort = time.perf_counter() - start
    del matrix
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    trie = EntityTrie.build(tokens, offsets)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    size = sum(getattr(trie, name).nbytes for name in EntityTrie.__dataclass_fields__)
    return {"names": count, "nodes": trie.num_nodes, "build_s": round(seconds, 2),
            "lexsort_s": round(lexsort, 2), "bytes_a_node": round(size / trie.num_nodes, 1),
            "peak_mb_before": before // 1024, "peak_mb": peak // 1024}


def answers(run: Path, *, quick: bool) -> dict[str, Any]:
    """Ranks and best answers of test queries of a trained run: positions and seconds."""
    completer = Completer.from_pretrained(run)
    search, graph = completer.generator.search, completer.graph
    questions = graph.queries(graph.test)
    if quick:
        questions = questions[:: len(questions) // 60]
    questions = questions[np.lexsort(questions.T[::-1])]
    parts = [questions[start : start + 64] for start in range(0, len(questions), 64)]
    inner = int((~search.trie.is_leaf).sum())
    rank_of: list[Any] = []
    spent: list[Any] = []

    def run_over(act: Callable[[Encoded, Ints], None]) -> dict[str, Any]:
        search.positions = 0
        start = time.perf_counter()
        for part in parts:
            act(encode_queries(search, completer.generator.verbalizer, part[:, :2]), part)
        return {"seconds": round(time.perf_counter() - start, 2), "positions": search.positions,
                "share_of_inner_nodes": round(
                    search.positions / (inner * len(questions)), 4)}

    def gold(encoded: Encoded, part: Ints) -> tuple[torch.Tensor, ...]:
        query = torch.arange(len(part))
        entity = torch.from_numpy(part[:, 2].astype(np.int64))
        own = search.gold_scores(encoded, query, entity)
        return query, entity, own, TOLERANCE * own.abs().clamp(min=1)

    def brute(encoded: Encoded, part: Ints) -> None:
        search.all_scores(encoded)

    def exact(encoded: Encoded, part: Ints) -> None:
        _, _, own, margin = gold(encoded, part)
        search.sweep(encoded, own - margin)

    def certified(encoded: Encoded, part: Ints) -> None:
        query, entity, own, margin = gold(encoded, part)
        bracket(search, encoded, query, entity, margin, gold_scores=own, tolerance=0.002)

    def best(encoded: Encoded, part: Ints) -> None:
        top_k(search, encoded, 10)

    def one_by_one(encoded: Encoded, part: Ints) -> None:
        everyone = torch.arange(graph.num_entities)
        for row in range(len(part)):
            search.gold_scores(encoded, torch.full_like(everyone, row), everyone)

    found = {"queries": len(questions), "inner_nodes": inner,
             "brute_force": run_over(brute), "exact_rank": run_over(exact),
             "certified_rank": run_over(certified), "top_10": run_over(best),
             "one_pass_per_candidate": run_over(one_by_one) if quick else None}
    # The curve: what an exact rank costs by the gold's rank.
    for part in parts:
        encoded = encode_queries(search, completer.generator.verbalizer, part[:, :2])
        query, _, own, margin = gold(encoded, part)
        scores = search.all_scores(encoded)
        rank_of.extend((scores > own.numpy()[:, None] + margin.numpy()[:, None]).sum(1) + 1)
        for row in query.tolist():
            one = encode_queries(search, completer.generator.verbalizer, part[row : row + 1, :2])
            search.positions = 0
            search.sweep(one, own[row : row + 1] - margin[row : row + 1])
            spent.append(search.positions / inner)
    ranks, shares = np.array(rank_of), np.array(spent)
    found["exact_rank_by_rank"] = {
        f"{low} to {high}": {"queries": int(chosen.sum()),
                             "median_share_of_inner_nodes": round(float(np.median(
                                 shares[chosen])), 4)}
        for low, high in ((1, 1), (2, 10), (11, 100), (101, graph.num_entities))
        if (chosen := (ranks >= low) & (ranks <= high)).any()}
    return found


if __name__ == "__main__":
    main()
