"""``scripts/reproduce.py``: from public files to a document of results, by the real commands."""

from __future__ import annotations

import importlib.util
import json
import platform
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import ROOT

from kgc_seq2seq import cli

PLAN = """
entities: 30
seeds: 2
features: [--dim, "4"]
rows:
  DistMult:
    with: train_scorer
    config:
      scorer: distmult
      model: {dim: 4}
      training: {steps: 4, batch_size: 16, validate_every: 4, checkpoint_every: 2, log_every: 1}
  "ComplEx, wide":
    like: DistMult
    config: {scorer: complex, model: {dim: 8}}
"""


@pytest.fixture(scope="module")
def reproduce() -> ModuleType:
    path = ROOT / "scripts" / "reproduce.py"
    sys.path.insert(0, str(path.parent))
    try:
        spec = importlib.util.spec_from_file_location("reproduce", path)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules["reproduce"] = module
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A graph in the format of MKG-Y's public files."""
    folder = tmp_path / "source"
    folder.mkdir()
    random = np.random.default_rng(0)
    rows = np.unique(np.stack([random.integers(0, 40, 300), random.integers(0, 3, 300),
                               random.integers(0, 40, 300)], 1), axis=0)
    lines = [f"Thing_{h} relation{r} Thing_{t} ." for h, r, t in random.permutation(rows)]
    for name, part in (("test", lines[:30]), ("valid", lines[30:60]), ("train", lines[60:])):
        (folder / f"{name}.txt").write_text("\n".join(part) + "\n")
    (folder / "entity2id.txt").write_text("".join(f"Thing_{i} {i}\n" for i in range(40)))
    (folder / "relation2id.txt").write_text("".join(f"relation{i} {i}\n" for i in range(3)))
    return folder


def test_rows_are_made_once_and_averaged_over_seeds(
    reproduce: ModuleType, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "plan.yaml").write_text(PLAN)
    words = ["MKG-Y", "--source", str(source), "--plan", str(tmp_path / "plan.yaml"), "--scale",
             "tiny", "--out", str(tmp_path / "out"), "--results", str(tmp_path)]
    assert reproduce.main([*words, "--minutes", "0"]) == reproduce.STOPPED
    assert "the same command goes on" in capsys.readouterr().err
    assert reproduce.main([*words, "--rows", "DistMult"]) == 0
    runs = tmp_path / "out" / "MKG-Y" / "tiny" / "runs"
    tests = {seed: runs / "distmult" / f"seed-{seed}" / "results" / "test.json"
             for seed in (0, 1)}
    mrr = [json.loads(path.read_text())["both"]["mrr"] for path in tests.values()]
    file = tmp_path / "reproduce-MKG-Y-tiny.json"
    cost = runs / "distmult" / "seed-1.cost.json"
    cost.unlink()  # as if it had been killed before it wrote that
    assert reproduce.main([*words, "--rows", "DistMult", "--seeds", "1"]) == 0
    assert json.loads(file.read_text())["rows"]["DistMult"]["seeds"] == [0]
    assert reproduce.main([*words, "--rows", "DistMult"]) == 0
    assert json.loads(file.read_text())["rows"]["DistMult"]["seeds"] == [0, 1]
    assert cost.is_file()
    times = {seed: path.stat().st_mtime_ns for seed, path in tests.items()}

    vectors = tmp_path / "out" / "MKG-Y" / "tiny" / "MKG-Y" / "features" / "text.safetensors"
    vectors.unlink()  # as if that stage had been stopped
    assert reproduce.main([*words, "--seeds", "1"]) == 0
    assert vectors.is_file()
    assert {seed: path.stat().st_mtime_ns for seed, path in tests.items()} == times
    document = json.loads((tmp_path / "reproduce-MKG-Y-tiny.json").read_text())
    row = document["rows"]["DistMult"]
    assert row["both"]["mrr"]["mean"] == pytest.approx(np.mean(mrr), abs=1e-4)
    assert row["both"]["mrr"]["sd"] == pytest.approx(np.std(mrr, ddof=1), abs=1e-4)
    assert row["seeds"] == [0, 1]
    assert document["rows"]["ComplEx, wide"]["seeds"] == [0]
    assert row["seconds"]["mean"] > 0
    assert row["peak_memory_gib"]["mean"] > 0.1
    assert row["protocol"]["ties"] == "realistic"
    assert "30 entities" in document["dataset"]["subset"]
    config = yaml.safe_load((runs / "complex--wide" / "seed-0.yaml").read_text())
    assert config["model"] == {"dim": 8}
    assert "| DistMult |" in capsys.readouterr().out
    unlinked = row["slices"].pop("linked")["not linked"]["mrr"]
    assert document["rows"]["ComplEx, wide"]["slices"]["linked"]["linked in train"]["count"]
    document_of = sys.modules["reproduce_document"]
    assert document_of.row_figures(row)[-1] == "–"  # as of results of before this was one
    row["slices"]["linked"] = {"not linked": {"mrr": unlinked}}
    assert document_of.row_figures(row)[-1] == document_of.percent(unlinked)


def test_an_audit_that_was_stopped_is_made_again(
    reproduce: ModuleType, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "plan.yaml").write_text(PLAN)
    words = ["MKG-Y", "--source", str(source), "--plan", str(tmp_path / "plan.yaml"), "--scale",
             "tiny", "--out", str(tmp_path / "out"), "--results", str(tmp_path), "--rows",
             "DistMult", "--seeds", "1"]
    whole = reproduce.Runner.__call__

    def stopped(run: Any, name: str, *rest: str | Path) -> Any:
        spent = whole(run, name, *rest)
        if name == "audit":
            raise reproduce.Stopped(spent)
        return spent

    with monkeypatch.context() as patch:
        patch.setattr(reproduce.Runner, "__call__", stopped)
        assert reproduce.main(words) == reproduce.STOPPED
    for made in (1, 0):
        capsys.readouterr()
        assert reproduce.main(words) == 0
        assert capsys.readouterr().err.count("audit: ") == made


def test_two_that_share_a_folder_make_everything_once(
    reproduce: ModuleType, source: Path, tmp_path: Path
) -> None:
    (tmp_path / "plan.yaml").write_text(PLAN)
    command = [sys.executable, reproduce.__file__, "MKG-Y", "--source", str(source), "--plan",
               str(tmp_path / "plan.yaml"), "--out", str(tmp_path / "out"), "--rows", "DistMult",
               "--seeds", "1", "--results"]
    both = [subprocess.Popen([*command, str(tmp_path / name)], stderr=subprocess.PIPE, text=True,
                             stdout=subprocess.DEVNULL) for name in "ab"]
    said = "".join(one.communicate()[1] for one in both)
    assert [one.returncode for one in both] == [0, 0], said
    for name in ("import", "audit", "distmult-seed-0"):
        assert said.count(f"{name}: kgc_seq2seq.") == 1, name
    made = [(tmp_path / name / "reproduce-MKG-Y-cpu.json").read_bytes() for name in "ab"]
    assert made[0] == made[1]


def test_who_waits_for_another_says_so_and_can_be_stopped(
    reproduce: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "runs" / "seed-0.lock"
    over, endless = (reproduce.Runner(tmp_path, minutes) for minutes in (0, None))
    with ThreadPoolExecutor(1) as pool:
        lock = endless.alone(path)
        pool.submit(lock.__enter__).result()
        with pytest.raises(reproduce.Stopped), over.alone(path):
            pass
        pool.submit(lock.__exit__, None, None, None).result()
    assert "seed-0: another process makes it; waiting." in capsys.readouterr().err
    with over.alone(path):
        assert path.is_file()
    assert not capsys.readouterr().err


def test_what_a_stopped_run_has_cost_is_counted(
    reproduce: ModuleType, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plan.yaml").write_text(PLAN)
    words = ["MKG-Y", "--source", str(source), "--plan", str(tmp_path / "plan.yaml"), "--out",
             str(tmp_path), "--results", str(tmp_path), "--rows", "DistMult", "--seeds", "1"]
    start = subprocess.Popen

    def stopped(words: list[str], **named: Any) -> Any:
        if "kgc_seq2seq.train_scorer" in words:
            words = [sys.executable, "-c", f"raise SystemExit({reproduce.STOPPED})"]
        return start(words, **named)

    monkeypatch.setattr(reproduce.subprocess, "Popen", stopped)
    assert reproduce.main(words) == reproduce.STOPPED
    cost = tmp_path / "MKG-Y" / "cpu" / "runs" / "distmult" / "seed-0.cost.json"
    spent = json.loads(cost.read_text())
    assert spent["peak_bytes"] > 10**6
    monkeypatch.undo()
    assert reproduce.main(words) == 0
    assert json.loads(cost.read_text())["seconds"] > spent["seconds"]


def test_seeds_and_rows_that_were_made_elsewhere_stay_in_the_document(
    reproduce: ModuleType, source: Path, tmp_path: Path
) -> None:
    (tmp_path / "plan.yaml").write_text(PLAN)
    words = ["MKG-Y", "--source", str(source), "--plan", str(tmp_path / "plan.yaml"), "--scale",
             "tiny", "--rows", "DistMult"]
    file = tmp_path / "reproduce-MKG-Y-tiny.json"

    def document(out: str, *more: str) -> dict[str, Any]:
        assert reproduce.main([*words, "--out", str(tmp_path / out), "--results", str(tmp_path),
                               *more]) == 0
        found: dict[str, Any] = json.loads(file.read_text())
        return found

    first = document("one", "--seeds", "1")
    kept = first["rows"]["DistMult"]
    assert kept["made_on"][0]["python"] == platform.python_version()
    # Each seed says its own: a machine may lack the precision that another has.
    assert kept["made_on"][0]["mixed_precision"] == "no"
    assert "mixed_precision" not in kept["protocol"]
    kept["made_on"] = ["elsewhere"]
    first["rows"] |= {"ComplEx, wide": kept, "of another plan": kept}
    file.write_text(json.dumps(first))
    second = ["--seeds", "1", "--first-seed", "1"]
    both = document("other", *second, "--add")["rows"]
    made = document("other", *second)["rows"]
    assert list(made) == ["DistMult"]
    assert both["ComplEx, wide"] == both["of another plan"] == kept
    assert list(both) == ["DistMult", "ComplEx, wide", "of another plan"]
    row = both["DistMult"]
    assert row["seeds"] == [0, 1]
    assert row["made_on"] == ["elsewhere", *made["DistMult"]["made_on"]]
    for part in ("both", "head"):
        for metric, cell in row[part].items():
            values = [one[part][metric]["values"][0] for one in (kept, made["DistMult"])]
            assert cell["values"] == values
            assert cell["mean"] == pytest.approx(np.mean(values), abs=1e-4)
    assert row["slices"].keys() == kept["slices"].keys()

    assert row["protocol"]["steps"] == 4
    kept["protocol"].pop("steps")
    file.write_text(json.dumps(first))
    # What earlier results do not say is not said of them.
    assert "steps" not in document("other", *second, "--add")["rows"]["DistMult"]["protocol"]

    kept["protocol"]["graph"], graph = "another", kept["protocol"]["graph"]
    file.write_text(json.dumps(first))
    with pytest.raises(SystemExit, match=r"The row DistMult of .* is of other data than"):
        document("other", *second, "--add")
    kept["protocol"] |= {"graph": graph, "steps": 5}
    file.write_text(json.dumps(first))
    with pytest.raises(SystemExit, match="row DistMult of the document has steps 5, this one 4"):
        document("other", *second, "--add")

    # Nor are those of one folder averaged when the plan has changed between them.
    runs = tmp_path / "other" / "MKG-Y" / "tiny" / "runs" / "distmult"
    shutil.copytree(runs / "seed-1", runs / "seed-2")
    shutil.copy(runs / "seed-1.cost.json", runs / "seed-2.cost.json")
    result = runs / "seed-2" / "results" / "test.json"
    changed = json.loads(result.read_text())
    changed["protocol"]["steps"] = 3  # as training.patience ends it
    result.write_text(json.dumps(changed))
    assert document("other", *second)["rows"]["DistMult"]["protocol"]["steps"] == 4
    plan = runs / "seed-2" / "config.yaml"
    plan.write_text(plan.read_text().replace("steps: 4", "steps: 5"))
    with pytest.raises(SystemExit, match=r"The row DistMult has steps 4 in .*seed-1, and 5 in "):
        document("other", *second)


def test_certified_rows_stand_with_the_middle_of_their_bracket(
    reproduce: ModuleType, source: Path, tmp_path: Path
) -> None:
    plan = yaml.safe_load(PLAN)
    del plan["entities"]  # the whole graph
    plan["rows"] = {"generator": {"with": "train", "config": {
        "model": {"d_model": 16, "d_ff": 16, "num_heads": 2},
        "tokenizer": {"pieces": 60, "words": 20}, "input": {"captions": False},
        "training": {"steps": 2, "batch_size": 4, "validate_every": 2, "checkpoint_every": 2,
                     "ranks": "certified"}}}}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    words = ["MKG-Y", "--source", str(source), "--plan", str(tmp_path / "plan.yaml"), "--scale",
             "tiny", "--out", str(tmp_path / "out"), "--results", str(tmp_path), "--seeds", "1"]
    assert reproduce.main(words) == 0
    run = tmp_path / "out" / "MKG-Y" / "tiny" / "runs" / "generator" / "seed-0"
    path = run / "results" / "test-certified.json"
    result = json.loads(path.read_text())
    # The brackets of so small a graph are exact; open them.
    mrr = result["both"]["mrr"]
    mrr["high"] = mrr["low"] + 0.002
    path.write_text(json.dumps(result))
    before = path.stat().st_mtime_ns
    assert reproduce.main(words) == 0
    assert path.stat().st_mtime_ns == before
    document = json.loads((tmp_path / "reproduce-MKG-Y-tiny.json").read_text())
    assert document["dataset"]["name"] == "MKG-Y"
    # Another scale of the same graph may have vectors of another width.
    assert (tmp_path / "out" / "MKG-Y" / "tiny" / "MKG-Y" / "features").is_dir()
    assert not (tmp_path / "out" / "MKG-Y" / "imported" / "MKG-Y" / "features").exists()
    row = document["rows"]["generator"]
    assert row["both"]["mrr"]["mean"] == pytest.approx(mrr["low"] + 0.001, abs=1e-4)
    assert row["mrr_within"] == pytest.approx(0.001)

    # One that has exact ranks too does not stand apart from the others.
    second = run.with_name("seed-1")
    shutil.copytree(run, second)
    shutil.copy(run.with_suffix(".cost.json"), second.with_suffix(".cost.json"))
    assert cli.main(["evaluate", str(second), "--split", "test"]) == 0
    assert reproduce.main(words) == 0
    document = json.loads((tmp_path / "reproduce-MKG-Y-tiny.json").read_text())
    row = document["rows"]["generator"]
    assert row["seeds"] == [0, 1] and row["protocol"]["ranks"] == "certified"
    assert row["mrr_within"] == pytest.approx(0.001)


def test_a_run_that_fails_shows_the_end_of_its_log(
    reproduce: ModuleType, source: Path, tmp_path: Path
) -> None:
    (tmp_path / "plan.yaml").write_text(PLAN.replace("dim: 4}\n      tr", "dim: 0}\n      tr"))
    with pytest.raises(SystemExit, match=r"(?s)distmult-seed-0 failed.*model\.dim is 0"):
        reproduce.main(["MKG-Y", "--source", str(source), "--plan", str(tmp_path / "plan.yaml"),
                        "--out", str(tmp_path / "out"), "--results", str(tmp_path)])
    cost = tmp_path / "out" / "MKG-Y" / "cpu" / "runs" / "distmult" / "seed-0.cost.json"
    assert json.loads(cost.read_text())["seconds"] > 0


def test_a_signal_stops_what_runs(
    reproduce: ModuleType, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    start, started = subprocess.Popen, []

    def start_and_signal(*words: Any, **named: Any) -> Any:
        started.append(start(*words, **named))
        signal.raise_signal(signal.SIGINT)
        return started[-1]

    monkeypatch.setattr(reproduce.subprocess, "Popen", start_and_signal)
    before = signal.getsignal(signal.SIGINT)
    (tmp_path / "plan.yaml").write_text(PLAN)
    assert reproduce.main(["MKG-Y", "--source", str(source), "--plan", str(tmp_path / "plan.yaml"),
                           "--out", str(tmp_path), "--results", str(tmp_path)]) == reproduce.STOPPED
    assert "the same command goes on" in capsys.readouterr().err
    assert [child.returncode for child in started] == [-signal.SIGTERM]
    assert signal.getsignal(signal.SIGINT) == before


def test_every_plan_merges(reproduce: ModuleType) -> None:
    for path in (ROOT / "configs" / "reproduce").glob("*.yaml"):
        plan = reproduce.read_plan(path, "MKG-W")
        for row in plan["rows"].values():
            assert ("fuse" in row) != ("with" in row)
            assert set(row.get("fuse", [])) <= plan["rows"].keys()


def test_a_benchmark_may_have_its_own_budget(reproduce: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(PLAN + "    for: {DB15K: {training: {steps: 8}, model: {dim: 16}}}\n")
    (own, other), (wide, _) = (
        [reproduce.read_plan(path, name)["rows"][row]["config"] for name in ("DB15K", "MKG-Y")]
        for row in ("ComplEx, wide", "DistMult"))
    assert (own["training"]["steps"], own["model"]) == (8, {"dim": 16})
    assert own["training"]["batch_size"] == 16
    assert (other["training"]["steps"], other["model"]) == (4, {"dim": 8})
    assert wide["training"]["steps"] == 4
