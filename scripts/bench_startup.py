"""How long commands take from nothing to their end, and how much of it is importing libraries.

    python scripts/bench_startup.py --run runs/nations --out scripts/results/startup.json
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench_common import bench_parser, finish

GOALS = {"help": 0.3, "predict": 5.0}
"""Seconds that a person may have to wait on two cores."""
SHOWN = 8
"""So many of the slowest imports are listed."""


def main() -> None:
    """Measure, and print one JSON document."""
    parser = bench_parser("startup", __doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/nations"),
                        help="a run on the nations graph")
    options = parser.parse_args()
    repeats = 2 if options.quick else 9
    kgc = [sys.executable, "-m", "kgc_seq2seq.cli"]
    commands = {
        "nothing": [sys.executable, "-c", ""],
        "help": [*kgc, "--help"],
        "libraries": [sys.executable, "-c", "from transformers import T5ForConditionalGeneration"],
        "predict": [*kgc, "predict", str(options.run), "--head", "France", "--relation",
                    "currency"],
    }
    measured = {name: measure(words, repeats) for name, words in commands.items()}
    seconds = {name: part["seconds"] for name, part in measured.items()}
    finish({"commands": measured, "goals": GOALS, "repeats": repeats, "slowest_imports": {
        name: slowest_imports(commands[name]) for name in ("help", "predict")}},
        {"help_of_its_goal": seconds["help"] / GOALS["help"],
         "predict_of_its_goal": seconds["predict"] / GOALS["predict"],
         "predict_of_importing_torch_and_transformers":
             seconds["predict"] / seconds["libraries"]},
        ["transformers"], options.out)


def measure(words: Sequence[str], repeats: int) -> dict[str, Any]:
    """Median seconds by the clock and of processor time; one run before fills the caches."""
    clock, processor = [], []
    for _ in range(repeats + 1):
        before, start = _children(), time.perf_counter()
        subprocess.run(words, check=True, capture_output=True)
        clock.append(time.perf_counter() - start)
        processor.append(_children() - before)
    return {"seconds": round(statistics.median(clock[1:]), 3),
            "cpu_seconds": round(statistics.median(processor[1:]), 3)}


def slowest_imports(words: Sequence[str]) -> list[dict[str, Any]]:
    """The modules whose import takes longest, with all that they import."""
    done = subprocess.run(words, check=True, capture_output=True, text=True,
                          env=os.environ | {"PYTHONPROFILEIMPORTTIME": "1"})
    rows = [line.removeprefix("import time:").split("|") for line in done.stderr.splitlines()
            if line.startswith("import time:") and "cumulative" not in line]
    found = sorted(((int(total), name.strip()) for _, total, name in rows), reverse=True)
    return [{"module": name, "seconds": round(total / 1e6, 3)} for total, name in found[:SHOWN]]


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
