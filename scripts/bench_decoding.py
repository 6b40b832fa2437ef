"""Decoding: the constraint of one step, whole beams, building the trie, and exact answers, each
beside what one would use otherwise, in one run.

Names are synthetic (Zipf-distributed words, 2 to 9 tokens with EOS) unless --dataset gives real
ones. With --run, answers are measured on a trained run, among the names of its data set; of a
large one --queries takes a share.
"""

from __future__ import annotations

import gc
import multiprocessing
import statistics
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from bench_common import bench_parser, finish, peak_bytes
from transformers import LogitsProcessorList, T5Config, T5ForConditionalGeneration
from transformers.generation.logits_process import PrefixConstrainedLogitsProcessor

from kgc_seq2seq.arrays import Ints, Longs
from kgc_seq2seq.completer import Completer
from kgc_seq2seq.decoding.beam import beam_search
from kgc_seq2seq.decoding.best_first import Bracket, bracket, top_k
from kgc_seq2seq.decoding.exact import MEMORY, ExactSearch
from kgc_seq2seq.decoding.logits_processor import TrieLogitsProcessor
from kgc_seq2seq.decoding.nodes import TrieNodes
from kgc_seq2seq.decoding.ragged import best_of_each
from kgc_seq2seq.decoding.tree_decoder import Encoded, TreeDecoder
from kgc_seq2seq.decoding.trie import EntityTrie
from kgc_seq2seq.evaluation.ranking import TOLERANCE, encode_queries
from kgc_seq2seq.graph.folder import read_graph
from kgc_seq2seq.text.input_config import InputConfig
from kgc_seq2seq.text.tokenizer import TokenizerConfig, graph_texts, train_tokenizer
from kgc_seq2seq.text.verbalizer import Verbalizer

VOCABULARY, EOS = 32_128, 1
BEAM = 10
PARTS = ("step", "beam", "build", "answers")


def main() -> None:
    parser = bench_parser("decoding", __doc__)
    parser.add_argument("--run", type=Path, metavar="FOLDER", help="a trained run")
    parser.add_argument("--dataset", type=Path, metavar="FOLDER",
                        help="constrain to the names of this data set")
    parser.add_argument("--parts", default=",".join(PARTS), help="what to measure")
    parser.add_argument("--queries", type=int, default=1000, metavar="N",
                        help="test queries of the run to answer, at most")
    parser.add_argument("--names", type=int, nargs="*", metavar="N",
                        help="sizes of catalogues to build; by default 1 and 5 million")
    options = parser.parse_args()
    quick, parts = options.quick, options.parts.split(",")
    if set(parts) - set(PARTS):
        parser.error(f"--parts takes some of {', '.join(PARTS)}, with commas between")
    repeats = 3 if quick else 9
    names = real_names(options.dataset) if options.dataset else zipf_names(15_000, seed=0)
    trie = EntityTrie.build(*names)
    result: dict[str, Any] = {"threads": torch.get_num_threads(), "names": len(trie.order),
                              "dataset": options.dataset and options.dataset.name}
    ratios: dict[str, float] = {}
    result["constraint_step"] = [step(names, trie, rows, repeats) for rows in (
        (160, 640) if quick else (160, 640, 2560))] if "step" in parts else []
    for entry in result["constraint_step"]:
        rows = entry["rows"]
        for name in ("own_beam", "logits_processor", "logits_processor_in_place"):
            ratios[f"callback to {name}, {rows} rows"] = (
                entry["callback_ms"] / entry[f"{name}_ms"])
        ratios[f"logits processor to writing the mask, {rows} rows"] = (
            entry["logits_processor_ms"] / entry["write_mask_ms"])
    if "beam" in parts:
        result["beam"] = whole_beam(trie, quick=quick)
        ratios["unconstrained beam of transformers to our constrained beam, T5-small"] = (
            result["beam"]["transformers_unconstrained_s"] / result["beam"]["ours_s"])
    if "build" in parts:
        sizes = options.names or ([200_000] if quick else [1_000_000, 5_000_000])
        result["nested_dict"] = alone(build_both, 50_000 if quick else 500_000)
        for name in ("seconds", "mb"):
            ratios[f"nested dict to trie, {name}"] = (
                result["nested_dict"]["dict"][name] / result["nested_dict"]["trie"][name])
        with TemporaryDirectory() as folder:
            result["build"] = [alone(build, drawn(Path(folder), count)) for count in sizes]
            result["large"] = alone(large, drawn(Path(folder), sizes[-1]), quick)
        for entry in result["build"]:
            ratios[f"building to lexsort alone, {entry['names']} names"] = (
                entry["build_s"] / entry["lexsort_s"])
    if options.run and "answers" in parts:
        result["answers"] = answers(options.run, min(options.queries, 40) if quick
                                    else options.queries)
        everything = result["answers"]["brute_force"]
        for name in ("one_pass_per_candidate", "exact_rank", "certified_rank", "top_10"):
            for what in ("positions", "seconds"):
                ratios[f"{what} a query, brute force to {name}"] = (
                    everything[f"{what}_a_query"]
                    / result["answers"][name][f"{what}_a_query"])
    finish(result, ratios, ["transformers", "numpy"], options.out)


def alone(act: Callable[..., dict[str, Any]], *values: object) -> dict[str, Any]:
    """Run in a process of its own, so that its peak of memory is its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(act, *values).result()


def drawn(folder: Path, count: int) -> Path:
    """A file with so many synthetic names: to draw them takes more memory than to use them."""
    path = folder / f"{count}.npz"
    if not path.exists():
        tokens, offsets = alone(draw, count)["names"]
        np.savez(path, tokens=tokens, offsets=offsets)
    return path


def draw(count: int) -> dict[str, Any]:
    return {"names": zipf_names(count, seed=1)}


def read(names: Path) -> tuple[Ints, Longs]:
    with np.load(names) as found:
        return found["tokens"], found["offsets"]


def peak_mb() -> int:
    """The most memory this process ever held."""
    return peak_bytes() // 2**20


def real_names(dataset: Path) -> tuple[Ints, Longs]:
    """The names of a data set, as tokens of a tokenizer trained on its texts."""
    graph = read_graph(dataset)
    tokenizer = train_tokenizer(graph_texts(graph, {}), TokenizerConfig())
    return Verbalizer(graph, {}, tokenizer, InputConfig(captions=False), seed=0).names()


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


def timed(act: Callable[[], object]) -> float:
    """Seconds."""
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def median_ms(measure: Callable[[], float], repeats: int) -> float:
    measure()
    return round(statistics.median(measure() for _ in range(repeats)) * 1000, 4)


def nested_dict(tokens: Ints, offsets: Longs) -> dict[int, Any]:
    """The trie as everybody writes it."""
    root: dict[int, Any] = {}
    flat, bounds = tokens.tolist(), offsets.tolist()
    for start, end in pairwise(bounds):
        below = root
        for token in flat[start:end]:
            below = below.setdefault(token, {})
    return root


def step(names: tuple[Ints, Longs], trie: EntityTrie, rows: int, repeats: int
         ) -> dict[str, Any]:
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
    little = torch.zeros(rows, int(trie.tokens.max()) + 1)  # a vocabulary that will do
    groups = torch.arange(rows) // BEAM
    table = nested_dict(*names)

    def allowed(_: int, prefix: torch.Tensor) -> list[int]:
        below = table
        for token in prefix.tolist()[1:]:
            below = below[token]
        return list(below)

    callback = PrefixConstrainedLogitsProcessor(allowed, num_beams=BEAM)
    copying = TrieLogitsProcessor(nodes, pad=0)
    writing = TrieLogitsProcessor(nodes, pad=0, in_place=True)

    def after_two_steps(processor: TrieLogitsProcessor) -> float:
        for length in (1, 2):
            processor(ids[:, :length], little.clone())
        return timed(lambda: processor(ids, logs))

    def own() -> torch.Tensor:
        row, child = nodes.edges(at)
        return best_of_each(groups[row], logs[row, nodes.token(child)], BEAM)

    for length in (1, 2):
        copying(ids[:, :length], little)
    assert torch.equal(copying(ids, logs).isinf(), callback(ids, logs).isinf())
    return {
        "rows": rows,
        "callback_ms": median_ms(lambda: timed(lambda: callback(ids, logs)),
                                 max(3, repeats // 3)),
        "logits_processor_ms": median_ms(lambda: after_two_steps(copying), repeats),
        "own_beam_ms": median_ms(lambda: timed(own), 10 * repeats),
        "write_mask_ms": median_ms(
            lambda: timed(lambda: torch.full_like(logs, -torch.inf)), repeats),
        # Last, because it leaves only legal scores behind: writing them again is as much work.
        "logits_processor_in_place_ms": median_ms(lambda: after_two_steps(writing), repeats),
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


def build(names: Path) -> dict[str, Any]:
    """Time and memory of building, beside a lexsort of the same tokens."""
    tokens, offsets = read(names)
    count = len(offsets) - 1
    before = peak_mb()
    start = time.perf_counter()
    trie = EntityTrie.build(tokens, offsets)
    seconds = time.perf_counter() - start
    peak = peak_mb()
    lengths = np.diff(offsets)
    depth = int(lengths.max())
    matrix = np.full((count, depth), -1, np.int32)
    matrix[np.arange(depth) < lengths[:, None]] = tokens
    start = time.perf_counter()
    np.lexsort(matrix.T[::-1])
    lexsort = time.perf_counter() - start
    size = sum(getattr(trie, name).nbytes for name in EntityTrie.__dataclass_fields__)
    return {"names": count, "nodes": trie.num_nodes, "build_s": round(seconds, 2),
            "lexsort_s": round(lexsort, 2), "bytes_a_node": round(size / trie.num_nodes, 1),
            "peak_mb": peak, "peak_mb_before": before}


def build_both(count: int) -> dict[str, Any]:
    """The trie and nested dicts of the same names: seconds, and memory that stays."""
    tokens, offsets = zipf_names(count, seed=2)

    def measured(make: Callable[[], object]) -> dict[str, float]:
        gc.collect()
        tracemalloc.start()
        start = time.perf_counter()
        kept = make()
        tracked = time.perf_counter() - start
        now, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        del kept
        # Tracing slows Python's own objects down most, so time again without.
        seconds = min(timed(make), tracked)
        return {"seconds": round(seconds, 2), "mb": round(now / 2**20, 1),
                "peak_mb": round(peak / 2**20, 1)}

    return {"names": count, "trie": measured(lambda: EntityTrie.build(tokens, offsets)),
            "dict": measured(lambda: nested_dict(tokens, offsets))}


def learn_by_heart(
    model: T5ForConditionalGeneration, ids: torch.Tensor, trie: EntityTrie,
    answers: torch.Tensor,
) -> None:
    """Make a model as sure of its answers, [queries, n], as a trained one."""
    search = ExactSearch(TreeDecoder(model), trie)
    paths = search.paths(answers.flatten())
    labels = torch.where(paths < 0, -100, search.nodes.token(paths.clamp(min=0)))
    inputs = ids.repeat_interleave(answers.shape[1], dim=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    model.train()
    for _ in range(100):
        optimizer.zero_grad()
        loss = model(input_ids=inputs, labels=labels).loss
        loss.backward()
        optimizer.step()
    model.eval()


def large(names: Path, quick: bool) -> dict[str, Any]:
    """Ranks and best answers among many names: time, and that memory stays bounded."""
    trie = EntityTrie.build(*read(names))
    count = len(trie.order)
    torch.manual_seed(0)
    model = T5ForConditionalGeneration(T5Config(
        vocab_size=VOCABULARY, d_model=32, d_kv=8, d_ff=64, num_heads=4, num_layers=1,
        pad_token_id=0, eos_token_id=EOS, decoder_start_token_id=0)).eval()  # type: ignore[call-arg]
    ids = torch.randint(3, VOCABULARY, (8, 32))
    learn_by_heart(model, ids, trie, torch.randint(0, count, (len(ids), 10)))
    search = ExactSearch(TreeDecoder(model), trie)
    encoded = search.decoder.encode(ids, torch.ones_like(ids))
    inner = int((~trie.is_leaf).sum())
    result: dict[str, Any] = {"names": count, "queries": len(ids), "inner_nodes": inner,
                              "peak_mb_before": peak_mb()}
    # The gold at rank 10, and a random one.
    golds = {"rank_10": torch.empty(0), "random": torch.from_numpy(
        np.random.default_rng(0).integers(0, count, len(ids)))}
    query = torch.arange(len(ids))
    for memory in (MEMORY, MEMORY // 64):
        search.memory = memory
        rows: dict[str, Any] = {}

        def measured(name: str, act: Callable[..., Any], *values: Any, **settings: Any) -> Any:
            search.positions = 0
            start = time.perf_counter()
            found = act(search, encoded, *values, **settings)
            rows[name] = {  # noqa: B023  (called at once)
                "seconds": round(time.perf_counter() - start, 2), "positions": search.positions,
                "peak_mb": peak_mb()}
            return found

        golds["rank_10"] = measured("top_10", top_k, 10).entities[:, -1]
        for name, gold in golds.items():
            own = search.gold_scores(encoded, query, gold)
            found = measured(name, bracket, query, gold, TOLERANCE * own.abs().clamp(min=1),
                             gold_scores=own, budget=1000 if quick else 20_000)
            rows[name]["exact"] = int((found.open == 0).sum())
            rows[name]["ranks"] = (found.better + 1).tolist()
        result[f"memory_{memory // 2**20}_mb"] = rows
    return result


def answers(run: Path, limit: int) -> dict[str, Any]:
    """Ranks and best answers of test queries of a trained run: positions and seconds."""
    completer = Completer.from_pretrained(run)
    search, graph = completer.generator.search, completer.graph
    questions = graph.queries(graph.test)
    random = np.random.default_rng(0)
    questions = questions[random.permutation(len(questions))[:limit]]
    inner = int((~search.trie.is_leaf).sum())
    Part = tuple[Encoded, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]

    def run_over(act: Callable[[Part], object], count: int, at_once: int = 64) -> dict[str, Any]:
        """Do it for the first ``count`` questions, sorted as an evaluation sorts them."""
        chosen = questions[:count]
        chosen = chosen[np.lexsort(chosen.T[::-1])]
        search.positions, start = 0, time.perf_counter()
        for first in range(0, len(chosen), at_once):
            part = chosen[first : first + at_once]
            encoded = encode_queries(search, completer.generator.verbalizer, part[:, :2])
            query, gold = torch.arange(len(part)), torch.from_numpy(part[:, 2].astype(np.int64))
            own = search.gold_scores(encoded, query, gold)
            act((encoded, query, gold, own, TOLERANCE * own.abs().clamp(min=1)))
        seconds = time.perf_counter() - start
        return {"queries": len(chosen), "seconds": round(seconds, 2),
                "seconds_a_query": round(seconds / len(chosen), 5),
                "positions_a_query": round(search.positions / len(chosen), 1),
                "share_of_inner_nodes": round(search.positions / len(chosen) / inner, 5)}

    def exact(part: Part) -> object:
        encoded, _, _, own, margin = part
        return search.sweep(encoded, own - margin)

    def certified(part: Part, tolerance: float = 0.002) -> Bracket:
        encoded, query, gold, own, margin = part
        return bracket(search, encoded, query, gold, margin, gold_scores=own,
                       tolerance=tolerance)

    def one_by_one(part: Part) -> None:
        everyone = torch.arange(graph.num_entities)
        for chunk in everyone.split(search.rows_at_once):
            search.gold_scores(part[0], torch.zeros_like(chunk), chunk)

    # The two that cost most are measured on fewer queries, all alike.
    few = max(1, min(limit, 2_000_000 // inner))
    found: dict[str, Any] = {
        "queries": len(questions), "entities": graph.num_entities, "inner_nodes": inner,
        "brute_force": run_over(lambda part: search.all_scores(part[0]), few),
        "one_pass_per_candidate": run_over(one_by_one, max(1, few // 8), at_once=1),
        "exact_rank": run_over(exact, limit), "certified_rank": run_over(certified, limit),
        "top_10": run_over(lambda part: top_k(search, part[0], 10), limit)}

    # The curve: what a rank costs alone, by what it is.
    ranks: list[int] = []
    costs: dict[str, list[float]] = {"exact": [], "certified": []}

    def costed(part: Part) -> None:
        path = int((search.paths(part[2]) >= 0).sum())  # what the gold's own score has cost
        for name, tolerance in (("exact", 0.0), ("certified", 0.002)):
            search.positions = path
            rank = certified(part, tolerance)
            costs[name].append(search.positions / inner)
            if not tolerance:
                ranks.append(int(rank.better) + 1)

    run_over(costed, min(limit, 200), at_once=1)
    rank = np.array(ranks)
    found["by_rank"] = {
        f"{low} to {high}": {
            "queries": int(chosen.sum()),
            **{f"median_share_of_inner_nodes_{name}": round(float(np.median(
                np.array(shares)[chosen])), 5) for name, shares in costs.items()}}
        for low, high in ((1, 1), (2, 10), (11, 100), (101, 1000), (1001, graph.num_entities))
        if (chosen := (rank >= low) & (rank <= high)).any()}
    return found


if __name__ == "__main__":
    main()
