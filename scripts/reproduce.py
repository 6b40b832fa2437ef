"""From the public files of a benchmark to its rows of results: ``reproduce.py NAME --source DIR``.

Imports (and repairs), audits, makes vectors, trains every row and seed, fuses, evaluates each once
on test, and writes ``scripts/results/reproduce-NAME-SCALE.json`` after every run. Whatever is there
already is not made again, so a stopped run goes on with the same command; two that share a folder
wait for what the other is making. With ``--add`` rows and seeds that were made elsewhere stay in
the document. What a scale trains, and for how long, stands in ``configs/reproduce/SCALE.yaml``.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from bench_common import machine
from filelock import FileLock, Timeout
from reproduce_document import collect, is_made, run_folder, table

from caption_cache.disk import replacing
from kgc_seq2seq.doctor import MALLOC

ROOT = Path(__file__).resolve().parent.parent
STOPPED = 3


@dataclass(frozen=True)
class Source:
    """How the public files of a benchmark are read."""

    format: str
    """As ``kgc import`` calls it."""
    options: tuple[str, ...] = ()
    """More words for ``kgc import``; ``{source}`` is the folder of the public files."""
    redraw_valid: bool = False
    """Whether valid is drawn anew from the facts that are not in test."""


SOURCES = {
    "MKG-W": Source("momok", ("--names", "{source}/entity_links.txt",
                              "--relation-names", "{source}/relation_links.txt")),
    "MKG-Y": Source("momok"),
    # Its published valid repeats train and test.
    "DB15K": Source("openke", redraw_valid=True),
    "WN18RR": Source("kgbert", ("--on-collision", "description")),
}


@dataclass(frozen=True)
class Spent:
    """What a command cost."""

    seconds: float = 0.0
    """Its time on the clock."""
    peak_bytes: float = 0.0
    """The most memory it held."""


class Stopped(Exception):
    """The time is over; what has been done is kept."""

    def __init__(self, spent: Spent = Spent()) -> None:
        """Say what the command that was stopped has cost."""
        super().__init__()
        self.spent = spent


class Failed(SystemExit):
    """A command failed."""

    def __init__(self, message: str, spent: Spent) -> None:
        """Say how, and what it has cost."""
        super().__init__(message)
        self.spent = spent


class Runner:
    """Runs our command lines, logs them, and keeps to the time."""

    def __init__(self, logs: Path, minutes: float | None) -> None:
        self.logs = logs
        self.deadline = None if minutes is None else time.monotonic() + 60 * minutes
        self._child: subprocess.Popen[bytes] | None = None

    def stop(self, *_: object) -> None:
        """A signal handler: the time is over now."""
        self.deadline = time.monotonic()
        if self._child:
            self._child.terminate()

    @contextmanager
    def alone(self, path: Path) -> Iterator[None]:
        """Hold a lock file, as soon as no other process does.

        Raises:
            Stopped: The time is over.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            print(f"{path.with_suffix('')}: another process makes it; waiting.", file=sys.stderr,
                  flush=True)
            try:
                lock.acquire(cancel_check=lambda: self._left() <= 0)
            except Timeout:
                raise Stopped from None
        try:
            yield
        finally:
            lock.release()

    def __call__(self, name: str, *words: str | Path) -> Spent:
        """Run ``python -m WORDS``.

        Raises:
            Stopped: The time is over; the command was told to stop and keep what it has.
            Failed: It failed.
        """
        if self._left() <= 0:
            raise Stopped
        print(f"{name}: {' '.join(map(str, words))}", file=sys.stderr, flush=True)
        log = self.logs / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        start = time.monotonic()
        # As `kgc doctor` advises; what the user has set counts.
        environment = {**MALLOC, **os.environ}
        with log.open("ab") as file:
            self._child = child = subprocess.Popen(
                [sys.executable, "-m", *map(str, words)], stdout=file, stderr=file, cwd=ROOT,
                env=environment)
            # A training that is told to stop writes a checkpoint first.
            timer = threading.Timer(min(self._left(), threading.TIMEOUT_MAX), child.terminate)
            timer.start()
            _, status, usage = os.wait4(child.pid, 0)
            timer.cancel()
        child.returncode = code = os.waitstatus_to_exitcode(status)
        spent = Spent(round(time.monotonic() - start, 1), usage.ru_maxrss * 1024.0)
        if code in (STOPPED, -signal.SIGTERM) or (code and self._left() <= 0):
            raise Stopped(spent)
        if code:
            end = log.read_text("utf-8", "replace").splitlines()[-15:]
            raise Failed("\n".join([f"{name} failed; the end of {log}:", *end]), spent)
        return spent

    def _left(self) -> float:
        return float("inf") if self.deadline is None else self.deadline - time.monotonic()


def main(arguments: Sequence[str] | None = None) -> int:
    """Make what is missing; gives the exit code: 0 done, 3 stopped by the time."""
    options = _options(arguments)
    plan = read_plan(options.plan or ROOT / "configs" / "reproduce" / f"{options.scale}.yaml",
                     options.name)
    wanted = options.rows.split(";") if options.rows else list(plan["rows"])
    if unknown := [row for row in wanted if row not in plan["rows"]]:
        raise SystemExit(f"There is no row {unknown[0]!r}; there are: {', '.join(plan['rows'])}.")
    work = options.out.resolve() / options.name / options.scale
    run = Runner(work / "logs", options.minutes)
    results = options.results / f"reproduce-{options.name}-{options.scale}.json"
    seeds = [options.first_seed + place for place in range(options.seeds or plan["seeds"])]
    before = {number: signal.signal(number, run.stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with run.alone(work.parent / "prepare.lock"):
            dataset = prepare(options, plan, work, run)
        for seed in seeds:  # every row once, before any row a second time
            for row in wanted:
                make_row(work, plan["rows"], row, seed, dataset, run)
                collect(work, plan["rows"], dataset, results, add=options.add)
    except Stopped:
        print(f"Stopped; the same command goes on. So far: {results}", file=sys.stderr)
        return STOPPED
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    print(table(collect(work, plan["rows"], dataset, results, add=options.add)))
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("name", choices=SOURCES, help="the benchmark")
    parser.add_argument("--source", type=Path, required=True, metavar="FOLDER",
                        help="its public files")
    parser.add_argument("--texts", type=Path, metavar="TABLE",
                        help="captions and descriptions of the entities: id, description, caption")
    parser.add_argument("--scale", choices=["tiny", "subset", "cpu", "gpu"], default="cpu",
                        help="how large the models, how long the training")
    parser.add_argument("--plan", type=Path, metavar="FILE",
                        help="a plan of your own instead of configs/reproduce/SCALE.yaml")
    parser.add_argument("--rows", metavar="ROW;ROW", help="only these rows of the plan")
    parser.add_argument("--seeds", type=int, metavar="N",
                        help="so many seeds instead of as many as the plan says")
    parser.add_argument("--first-seed", type=int, default=0, metavar="K",
                        help="the first of them; the others follow")
    parser.add_argument("--add", action="store_true",
                        help="keep rows and seeds of the document that are not made here")
    parser.add_argument("--minutes", type=float, metavar="M",
                        help="stop after so long, ready to go on")
    parser.add_argument("--out", type=Path, default=Path("runs/reproduce"), metavar="FOLDER",
                        help="data sets, runs and logs")
    parser.add_argument("--results", type=Path, default=ROOT / "scripts" / "results",
                        metavar="FOLDER", help="the document of results")
    return parser.parse_args(arguments)


def read_plan(path: Path, benchmark: str) -> dict[str, Any]:
    """A plan of a benchmark.

    Every row's configuration is merged into that of the row it is ``like``, and what a row has
    ``for`` the benchmark into both.
    """
    plan: dict[str, Any] = yaml.safe_load(path.read_text("utf-8"))
    rows: dict[str, Any] = {}
    for name, row in plan["rows"].items():
        model = rows[row["like"]] if "like" in row else {}
        rows[name] = _merged(model, {key: value for key, value in row.items() if key != "like"})
    for row in rows.values():
        if own := row.pop("for", {}).get(benchmark):
            row["config"] = _merged(row["config"], own)
    return {**plan, "rows": rows}


def _merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    return {**first, **{
        key: _merged(first[key], value)
        if isinstance(value, Mapping) and isinstance(first.get(key), Mapping) else value
        for key, value in second.items()}}


def prepare(
    options: argparse.Namespace, plan: Mapping[str, Any], work: Path, run: Runner
) -> Path:
    """The data set of a scale: imported, repaired, cut to size, audited, with vectors."""
    source, whole = SOURCES[options.name], work.parent / "imported" / options.name
    if not whole.is_dir():
        texts = ["--texts", options.texts.resolve()] if options.texts else []
        words = [word.format(source=options.source.resolve()) for word in source.options]
        run("import", "kgc_seq2seq.cli", "import", source.format, options.source.resolve(), whole,
            *words, *texts)
    if source.redraw_valid:
        redrawn = work.parent / "redrawn" / options.name
        if not redrawn.is_dir():
            run("split", "kgc_seq2seq.cli", "split", whole, redrawn, "--keep-test")
        whole = redrawn
    dataset: Path = work / options.name
    if not dataset.is_dir():
        count = plan.get("entities")
        if count:
            run("subset", "kgc_seq2seq.cli", "subset", whole, dataset, "--entities", str(count))
        else:
            with replacing(dataset) as aside:
                aside.mkdir()
                for item in whole.iterdir():  # but features, of which each scale has its own
                    if item.name != "features":
                        (aside / item.name).symlink_to(os.path.relpath(item, dataset))
    audited = work / "logs" / "audited"
    if not audited.exists():
        run("audit", "kgc_seq2seq.cli", "audit", dataset, "--json")
        audited.touch()
    # Vectors that are there already are left as they are.
    captions = ["--captions"] if options.texts else []
    run("features", "kgc_seq2seq.cli", "features", dataset, *plan["features"], *captions)
    return dataset


def make_row(
    work: Path, rows: Mapping[str, Any], name: str, seed: int, dataset: Path, run: Runner
) -> Path:
    """The run of a row and a seed, made where it is missing, with what it is fused of."""
    out = run_folder(work, name, seed)
    with run.alone(out.with_suffix(".lock")):
        if not is_made(out):
            _make(work, rows, name, seed, dataset, run)
    return out


def _make(
    work: Path, rows: Mapping[str, Any], name: str, seed: int, dataset: Path, run: Runner
) -> None:
    out, row = run_folder(work, name, seed), rows[name]
    cost = out.with_suffix(".cost.json")
    if "fuse" in row:
        parts = [make_row(work, rows, part, seed, dataset, run) for part in row["fuse"]]
        words: list[str | Path] = ["kgc_seq2seq.cli", "fuse", *parts, "--out", out,
                                   *row.get("options", [])]
    else:
        config = {**row["config"], "dataset": str(dataset), "out": str(out), "seed": seed}
        path = out.with_suffix(".yaml")
        path.write_text(yaml.safe_dump(config, sort_keys=False), "utf-8")
        words = [f"kgc_seq2seq.{row['with']}", "--config", path]
    before = json.loads(cost.read_text()) if cost.is_file() else asdict(Spent())

    def note(spent: Spent) -> None:
        with replacing(cost) as aside:
            aside.write_text(json.dumps({
                "seconds": round(before["seconds"] + spent.seconds, 1),
                "peak_bytes": max(before["peak_bytes"], spent.peak_bytes), "machine": machine()}))

    try:
        note(run(f"{out.parent.name}-{out.name}", *words))
    except (Stopped, Failed) as ended:
        note(ended.spent)
        raise


if __name__ == "__main__":
    sys.exit(main())
