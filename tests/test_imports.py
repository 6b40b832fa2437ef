"""The house stands: imports run downwards only, and no two files import each other."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

from conftest import ROOT

FLOORS = [
    ["caption_cache", "kgc_seq2seq._version", "kgc_seq2seq.arrays"],
    ["kgc_seq2seq.decoding", "kgc_seq2seq.training"],
    ["kgc_seq2seq.graph"],
    ["kgc_seq2seq.text", "kgc_seq2seq.scorers"],
    ["kgc_seq2seq.config", "kgc_seq2seq.reading", "kgc_seq2seq.evaluation", "kgc_seq2seq.hub"],
    ["kgc_seq2seq.systems"],
    ["kgc_seq2seq.runs", "kgc_seq2seq.newcomers", "kgc_seq2seq.completer", "kgc_seq2seq.explain",
     "kgc_seq2seq.leave_one_out", "kgc_seq2seq.queries", "kgc_seq2seq.show_input",
     "kgc_seq2seq.training_run"],
    ["kgc_seq2seq.evaluate", "kgc_seq2seq.calibrate", "kgc_seq2seq.doctor", "kgc_seq2seq.explorer",
     "kgc_seq2seq.export", "kgc_seq2seq.model_card", "kgc_seq2seq.report", "kgc_seq2seq.train",
     "kgc_seq2seq.train_scorer"],
    ["kgc_seq2seq.fuse"],
    ["kgc_seq2seq.cli", "kgc_seq2seq.commands"],
]


def modules() -> dict[str, Path]:
    found = {}
    for package in ("caption_cache", "kgc_seq2seq"):
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, known: dict[str, Path]) -> set[str]:
    """Modules of ours that a file imports anywhere."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (inner & known.keys()) or {node.module}
    return found & known.keys()


def floor(module: str) -> int:
    floors = [number for number, names in enumerate(FLOORS) for name in names
              if module == name or module.startswith(name + ".")]
    assert len(floors) == 1, f"{module} has no floor of its own"
    return floors[0]


def test_imports_run_downwards() -> None:
    known = modules()
    for module, path in known.items():
        if module == "kgc_seq2seq":
            continue  # it holds the version alone; its name begins that of every module
        for other in imports(path, known) - {"kgc_seq2seq"}:
            assert floor(other) <= floor(module), f"{module} imports {other}, which stands above"


def test_nothing_imports_in_a_circle() -> None:
    known = modules()
    TopologicalSorter({module: imports(path, known) - {module}
                       for module, path in known.items()}).prepare()


def test_the_ground_floor_knows_nothing_of_the_other_package() -> None:
    known = modules()
    for module, path in known.items():
        if module.startswith("caption_cache"):
            assert not [other for other in imports(path, known) if other.startswith("kgc_seq2seq")]
