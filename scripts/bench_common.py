"""What every benchmark reports beside its figures."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any


def bench_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """A parser with ``--quick`` and ``--out``."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--quick", action="store_true",
                        help="a run within a minute, to see that it works; its figures say little")
    parser.add_argument("--out", type=Path, metavar="FILE",
                        help=f"write the JSON document there too, such as "
                             f"scripts/results/{name}.json")
    return parser


def spread(values: Iterable[float]) -> dict[str, Any]:
    """Mean, sample standard deviation and the values, rounded."""
    found = [round(value, 4) for value in values]
    deviation = statistics.stdev(found) if len(found) > 1 else 0.0
    return {"mean": round(statistics.mean(found), 4), "sd": round(deviation, 4), "values": found}


def peak_bytes() -> int:
    """The most memory this process ever held.

    `getrusage` would not do: what it counts, a child has from the process that started it.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def finish(
    result: dict[str, Any], ratios: dict[str, float], packages: Sequence[str], out: Path | None
) -> None:
    """Print the document, and write it to ``out``."""
    document = {
        "ratios": {name: round(value, 4) for name, value in ratios.items()},
        **result,
        "machine": machine(),
        "versions": {"python": platform.python_version(),
                     **{name: version(name) for name in ("kgc-seq2seq", "torch", *packages)}},
    }
    text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    sys.stdout.write(text)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, "utf-8")


def machine() -> dict[str, Any]:
    """What it ran on."""
    import torch  # not above: it would count in the peak of every process

    return {"cpu": _cpu(), "cores": os.cpu_count(), "system": platform.system(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None}


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()
