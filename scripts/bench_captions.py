"""Measures what a build costs beside its captioner.

Busy: with a captioner of fixed cost per batch, the share of the time it works. Resume: how long a
build of very many finished items takes until it captions the first new one, and how many
images it reads for that. Two processes against one: captioning with a captioner that computes.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow.parquet as pq
from bench_common import bench_parser, finish
from PIL import Image

from caption_cache.build import build
from caption_cache.build.scopes import Asker, Gallery, plan_entities
from caption_cache.captioners import Identity, Request
from caption_cache.fingerprints import Fingerprint, remember
from caption_cache.images import find_images, read_bytes, read_entities
from caption_cache.source import Source
from caption_cache.store import SCHEMA, Store

LONG_AGO = 1e9
ROOT = Path(__file__).resolve().parent.parent


class FixedCost:
    """Works for a fixed time, without the processor, as one that waits for an accelerator."""

    identity = Identity("fixed-cost", revision="1")
    prompted = False

    def __init__(self, batch_size: int, seconds: float) -> None:
        self.batch_size = batch_size
        self._seconds = seconds
        self.began: list[float] = []
        self.ended: list[float] = []

    def caption(self, requests: Sequence[Request]) -> list[str]:
        self.began.append(time.perf_counter())
        time.sleep(self._seconds)
        self.ended.append(time.perf_counter())
        return [f"text {request.images[0].size}" for request in requests]


def make_photos(folder: Path, count: int) -> None:
    """Photographs of 640 × 480 pixels, as far as a decoder can tell; 60 kB each."""
    folder.mkdir()
    (folder / "entities.tsv").write_text(
        "id\tname\n" + "".join(f"e{i}\tEntity {i}\n" for i in range(count)))
    lots = np.random.default_rng(0)
    for i in range(count):
        small = Image.fromarray(lots.integers(0, 256, (48, 64, 3), np.uint8))
        path = folder / f"images/e{i}/a.jpg"
        path.parent.mkdir(parents=True)
        small.resize((640, 480), Image.Resampling.BICUBIC).save(path, quality=90)
        os.utime(path, (LONG_AGO, LONG_AGO))


def measure_busy(top: Path, count: int, batch_size: int, seconds: float) -> dict[str, Any]:
    """The share of the time between the first and the last batch that the captioner works."""
    dataset = top / f"busy-{batch_size}-{seconds}"
    make_photos(dataset, count)
    captioner = FixedCost(batch_size, seconds)
    start = time.perf_counter()
    report = build(dataset, captioner, show_progress=False)
    whole = time.perf_counter() - start
    worked = sum(np.subtract(captioner.ended, captioner.began).tolist())
    gaps = np.subtract(captioner.began[1:], captioner.ended[:-1])
    return {"images": report.captioned, "batch": batch_size, "seconds_a_batch": seconds,
            "busy": worked / (captioner.ended[-1] - captioner.began[0]),
            "busy_of_the_whole_build": worked / whole,
            "median_gap_ms": 1000 * statistics.median(gaps.tolist()),
            "longest_gap_ms": 1000 * max(gaps.tolist())}


def make_finished(top: Path, items: int, images_each: int) -> Path:
    """A data set whose images are all captioned but those of the last entity.

    The finished images are empty files: were one of them read, it would be seen as changed.
    """
    dataset = top / "finished"
    dataset.mkdir()
    entities = items // images_each
    (dataset / "entities.tsv").write_text(
        "id\tname\n" + "".join(f"e{i}\tEntity {i}\n" for i in range(entities + 1)))
    for i in range(entities):
        folder = f"{dataset}/images/e{i}"
        os.makedirs(folder)  # noqa: PTH103  (a million times; pathlib takes three times as long)
        for k in range(images_each):
            with open(f"{folder}/{k}.jpg", "wb"):  # noqa: PTH123
                pass
            os.utime(f"{folder}/{k}.jpg", (LONG_AGO, LONG_AGO))
    table = read_entities(dataset)
    images = find_images(dataset, table)
    known = {image.path: Fingerprint(0, int(LONG_AGO) * 10**9, f"{place:064x}")
             for place, image in enumerate(images)}
    names = dict(zip(table.texts("id"), table.texts("name"), strict=True))
    source = Source.of(FixedCost.identity, None)
    planned = list(plan_entities(Asker(Gallery(images, known, names), source, None)))
    store = Store(dataset)
    store.folder.mkdir()
    columns = {"scope": "entity", "neighbour": None, "relation": None, "prompt": None,
               **source.columns, "status": "ok", "reason": None, "seconds": 0.1,
               "schema_version": 1}
    for start in range(0, len(planned), 100_000):
        rows = planned[start : start + 100_000]
        pq.write_table(SCHEMA.empty_table().from_pydict({
            **{name: [value] * len(rows) for name, value in columns.items()},
            "key": [item.key for item in rows], "entity": [item.entity for item in rows],
            "images": [list(item.images) for item in rows],
            "image_hashes": [list(item.image_hashes) for item in rows],
            "text": [f"a text about the image {item.images[0]} of one sentence or so"
                     for item in rows],
        }, schema=SCHEMA), store.folder / f"part-{start:020d}-00000000.parquet",
            write_page_checksum=True)
    remember(store.index, known)
    for k in range(64):
        path = dataset / f"images/e{entities}/{k}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (k, 0, 0)).save(path)
    return dataset


def measure_resume(top: Path, items: int) -> dict[str, Any]:
    """The seconds from the start of a build to its first batch, nearly all being done."""
    dataset = make_finished(top, items, 10)
    read: list[str] = []

    def counted(root: Path, path: str) -> bytes:
        read.append(path)
        return read_bytes(root, path)

    captioner = FixedCost(16, 0.01)
    start, computed = time.perf_counter(), time.process_time()
    with mock.patch("caption_cache.fingerprints.read_bytes", counted):
        report = build(dataset, captioner, show_progress=False)
    whole = time.perf_counter() - start
    return {"finished_items": report.done_before, "new_items": report.captioned,
            "seconds_to_the_first_batch": captioner.began[0] - start,
            "seconds_of_the_whole_build": whole,
            "processor_seconds_of_the_whole_build": time.process_time() - computed,
            "images_read": len(read)}


def measure_processes(top: Path, count: int) -> dict[str, Any]:
    """The seconds of captioning with the palette, in one process and in two."""
    seconds: dict[str, float] = {}
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    two = [*command, "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
           "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    for name, words in (("one", [sys.executable]), ("two", two)):
        dataset = top / f"processes-{name}"
        make_photos(dataset, count)
        done = subprocess.run([*words, "-m", "caption_cache.build", dataset, "--json"], cwd=ROOT,
                              env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True,
                              capture_output=True, text=True)
        report = json.loads(done.stdout)
        assert report["captioned"] == count
        seconds[name] = report["seconds"]
    return {"images": count, "seconds_of_one_process": seconds["one"],
            "seconds_of_two_processes": seconds["two"]}


def main() -> None:
    parser = bench_parser("captions", __doc__)
    parser.add_argument("--resume-in", type=Path, metavar="FOLDER", help=(
        "where to put the very many files, such as a file system in memory"))
    options = parser.parse_args()
    quick = options.quick
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        busy = [measure_busy(top, 96 if quick else 800, *how)
                for how in ((16, 0.4), (16, 0.8), (64, 1.0))[: 1 if quick else 3]]
        with tempfile.TemporaryDirectory(dir=options.resume_in) as many:
            resume = measure_resume(Path(many), 20_000 if quick else 1_000_000)
        processes = measure_processes(top, 64 if quick else 2000)
    finish(
        {"busy": busy, "resume": resume, "processes": processes},
        {"busy": min(case["busy"] for case in busy),
         "two_processes_over_one": processes["seconds_of_one_process"]
         / processes["seconds_of_two_processes"]},
        ["pyarrow", "pillow"], options.out)


if __name__ == "__main__":
    main()
