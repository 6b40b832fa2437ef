"""A graph of Wikidata5M's size, generated: import, prepare, open, neighbours, known answers; beside
a twin of dicts and sets at a size that still fits; and the audit of a million triples.

Every stage runs in a process of its own on one core, so that its peak memory is its own. On a
machine with other work, its CPU seconds say more than its seconds.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from bench_common import bench_parser, finish, peak_bytes

from kgc_seq2seq.arrays import Ints

RELATIONS = 822
FULL = (5_000_000, 21_000_000)
QUICK = (100_000, 420_000)
TWIN = (500_000, 2_100_000)
QUICK_TWIN = (20_000, 84_000)
AUDITED = (200_000, 1_000_000)
ASKED = 100_000


def generate(folder: Path, entities: int, triples: int) -> dict[str, Any]:
    """Write three-column files of triples with Wikidata's kind of ids, and a table of names."""
    from kgc_seq2seq.graph.folder import write_table

    random = np.random.default_rng(0)
    folder.mkdir(parents=True)
    ids = pa.array(np.char.add("Q", np.arange(entities).astype(str)))
    names = pa.array(np.char.add("name of entity ", np.arange(entities).astype(str)))
    relation_ids = pa.array([f"P{r}" for r in range(RELATIONS)])
    write_table(folder / "names.tsv", {"id": ids, "name": names})
    rows: Ints = np.empty((triples, 3), np.int32)
    # Every entity is the head of some triples; tails and relations are skewed, as in Wikidata.
    rows[:, 0] = random.permutation(np.arange(triples) % entities)
    rows[:, 1] = RELATIONS * random.random(triples) ** 3
    rows[:, 2] = entities * random.random(triples) ** 4
    held = triples // 200
    for split, part in (("valid", rows[:held]), ("test", rows[held : 2 * held]),
                        ("train", rows[2 * held :])):
        columns = [ids.take(pa.array(part[:, 0])), relation_ids.take(pa.array(part[:, 1])),
                   ids.take(pa.array(part[:, 2]))]
        write_table(folder / f"{split}.tsv", dict(zip(("head", "relation", "tail"), columns,
                                                      strict=True)))
    return {"bytes": sum(path.stat().st_size for path in folder.iterdir())}


def run_import(source: Path, out: Path) -> dict[str, Any]:
    from kgc_seq2seq.graph.importers import ImportConfig, import_dataset

    report = import_dataset(ImportConfig("tsv", source, out, names=source / "names.tsv"))
    return {"entities": report.entities, "triples": sum(report.triples.values())}


def run_prepare(dataset: Path) -> dict[str, Any]:
    from kgc_seq2seq.graph.folder import prepare_graph

    prepare_graph(dataset)
    return {"bytes": sum(path.stat().st_size for path in (dataset / ".prepared").iterdir())}


def run_read(dataset: Path) -> dict[str, Any]:
    from kgc_seq2seq.graph.folder import read_graph

    return {"entities": read_graph(dataset).num_entities}


def run_open(dataset: Path) -> dict[str, Any]:
    """Open, then ask for neighbours and known answers in one call, and one by one."""
    from kgc_seq2seq.graph.folder import read_graph

    start = time.perf_counter()
    graph = read_graph(dataset)
    assert isinstance(graph.train, np.memmap)
    opened = time.perf_counter() - start
    entities, keys = _questions(graph.train, graph.num_relations)
    figures = {"open_seconds": opened}
    for name, group, asked in (("neighbours", graph.neighbours, entities),
                               ("known_answers", graph.known_answers, keys)):
        start = time.perf_counter()
        owner, _ = group.rows(asked)
        figures[f"{name}_microseconds"] = (time.perf_counter() - start) / len(asked) * 1e6
        figures[f"{name}_rows"] = len(owner)
        start = time.perf_counter()
        for key in asked[:10_000].tolist():
            group[key]
        figures[f"{name}_one_by_one_microseconds"] = (time.perf_counter() - start) / 10_000 * 1e6
    return figures


def run_twin(dataset: Path) -> dict[str, Any]:
    """What is asked of the graph, asked of dicts of sets."""
    start = time.perf_counter()
    entities: dict[str, int] = {}
    relations: dict[str, int] = {}
    neighbours: dict[int, set[tuple[int, int]]] = {}
    known: dict[tuple[int, int], set[int]] = {}
    for table, index in (("entities", entities), ("relations", relations)):
        with (dataset / f"{table}.tsv").open(encoding="utf-8") as file:
            next(file)
            for line in file:
                index[line.split("\t", 1)[0]] = len(index)
    count = len(relations)
    train = []
    for split in ("train", "valid", "test"):
        with (dataset / f"{split}.tsv").open(encoding="utf-8") as file:
            next(file)
            for line in file:
                head, relation, tail = line.rstrip("\n").split("\t")
                h, r, t = entities[head], relations[relation], entities[tail]
                known.setdefault((h, r), set()).add(t)
                known.setdefault((t, r + count), set()).add(h)
                if split == "train":
                    train.append((h, r, t))
                    neighbours.setdefault(h, set()).add((r, t))
                    neighbours.setdefault(t, set()).add((r + count, h))
    opened = time.perf_counter() - start
    asked, keys = _questions(np.array(train, np.int32), count)
    figures = {"open_seconds": opened}
    start = time.perf_counter()
    rows = sum(len([*neighbours.get(entity, ())]) for entity in asked.tolist())
    figures["neighbours_microseconds"] = (time.perf_counter() - start) / len(asked) * 1e6
    figures["neighbours_rows"] = rows
    start = time.perf_counter()
    rows = sum(len([*known.get(divmod(key, 2 * count), ())]) for key in keys.tolist())
    figures["known_answers_microseconds"] = (time.perf_counter() - start) / len(keys) * 1e6
    figures["known_answers_rows"] = rows
    return figures


def run_audit(dataset: Path) -> dict[str, Any]:
    from kgc_seq2seq.graph.audit import audit_dataset

    return {"findings": len(audit_dataset(dataset))}


def _questions(train: Ints, relations: int) -> tuple[Any, Any]:
    """The heads of some train triples, and the keys of their tail queries."""
    rows = np.asarray(train[np.random.default_rng(1).integers(0, len(train), ASKED)], np.int64)
    return rows[:, 0], rows[:, 0] * 2 * relations + rows[:, 1]


STAGES: dict[str, Callable[..., dict[str, Any]]] = {
    "generate": generate, "import": run_import, "prepare": run_prepare, "read": run_read,
    "open": run_open, "twin": run_twin, "audit": run_audit,
}


def stage(name: str, *arguments: Path | int) -> dict[str, Any]:
    """Run a stage in a process of its own: its figures, seconds and peak memory."""
    words = [sys.executable, __file__, "--stage", name, *map(str, arguments)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name} failed: {done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout)
    sys.stderr.write(f"{name}: {json.dumps(result)}\n")
    return result


def run_stage(name: str, arguments: list[str]) -> None:
    """What the process of a stage does."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    pa.set_cpu_count(1)
    start, cpu_start = time.perf_counter(), time.process_time()
    figures = STAGES[name](*(int(word) if word.isdecimal() else Path(word) for word in arguments))
    peak = peak_bytes()
    sys.stdout.write(json.dumps({"seconds": round(time.perf_counter() - start, 3),
                                 "cpu_seconds": round(time.process_time() - cpu_start, 3),
                                 "peak_gb": round(peak / 1e9, 3),
                                 **{key: round(value, 4) if isinstance(value, float) else value
                                    for key, value in figures.items()}}))


def main() -> None:
    parser = bench_parser("graph", __doc__)
    parser.add_argument("--folder", type=Path, help="where to work; by default a temporary folder")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        result: dict[str, Any] = {}
        for name, size in (("full", QUICK if options.quick else FULL),
                           ("twin_size", QUICK_TWIN if options.quick else TWIN),
                           ("audit", AUDITED)):
            source, dataset = folder / name, folder / f"{name}-dataset"
            part = {"entities": size[0], "triples": size[1],
                    "generate": stage("generate", source, *size)}
            part["import"] = stage("import", source, dataset)
            shutil.rmtree(source)
            if name == "audit":
                part["audit"] = stage("audit", dataset)
            else:
                part["read"] = stage("read", dataset)
                part["prepare"] = stage("prepare", dataset)
                part["open"] = stage("open", dataset)
                if name == "twin_size":
                    part["twin"] = stage("twin", dataset)
            shutil.rmtree(dataset)
            result[name] = part
        ours, twin = result["twin_size"]["open"], result["twin_size"]["twin"]
        prepared = result["twin_size"]["prepare"]["seconds"]
        for kind in ("neighbours", "known_answers"):
            assert ours[f"{kind}_rows"] == twin[f"{kind}_rows"], "the twin answers otherwise"
        finish(result, {
            "time_from_tables_twin_over_ours": twin["open_seconds"] / prepared,
            "open_time_twin_over_ours": twin["open_seconds"] / ours["open_seconds"],
            "memory_twin_over_ours": twin["peak_gb"] / ours["peak_gb"],
            "neighbours_time_twin_over_ours":
                twin["neighbours_microseconds"] / ours["neighbours_microseconds"],
            "known_answers_time_twin_over_ours":
                twin["known_answers_microseconds"] / ours["known_answers_microseconds"],
        }, ["numpy", "pyarrow"], options.out)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--stage"]:
        run_stage(sys.argv[2], sys.argv[3:])
    else:
        main()
