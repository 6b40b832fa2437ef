"""What a run folder promises: nothing of an earlier start passes for a later one, and no result
is written that was not measured."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, random_graph, stop_at, write_tiny
from safetensors.torch import load_file, save_file

from caption_cache.errors import InputError
from kgc_seq2seq import train, train_scorer
from kgc_seq2seq.cli import main
from kgc_seq2seq.completer import Completer, Query
from kgc_seq2seq.evaluation.dense import rank_by_scores
from kgc_seq2seq.queries import parse_queries
from kgc_seq2seq.report import Gallery
from kgc_seq2seq.training.model import load_tokenizer

STEPS = ["--training.steps", "12", "--training.batch_size", "4", "--training.validate_every", "6",
         "--training.checkpoint_every", "4", "--training.log_every", "4"]


def generator(dataset: Path, out: Path, *more: str) -> list[str]:
    return ["--dataset", str(dataset), "--out", str(out), "--input.captions", "false",
            "--model.d_model", "16", "--model.d_ff", "16", "--model.num_heads", "2",
            "--tokenizer.pieces", "60", "--tokenizer.words", "20", *STEPS, *more]


def scorer(dataset: Path, out: Path, *more: str) -> list[str]:
    return ["--dataset", str(dataset), "--out", str(out), "--scorer", "distmult", "--model.dim",
            "4", *STEPS, *more]


KINDS: dict[str, tuple[Callable[..., int], Callable[..., list[str]]]] = {
    "generator": (train.main, generator), "scorer": (train_scorer.main, scorer)}
both_kinds = pytest.mark.parametrize("kind", KINDS)


def stop_training(
    begin: Callable[..., int], words: list[str], step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Begin a training, and end it by a signal at a step."""
    with monkeypatch.context() as patched:
        stop_at(step, patched)
        assert begin(words) == 3


def error(capsys: pytest.CaptureFixture[str]) -> str:
    """What a command said, in one sentence."""
    printed = capsys.readouterr().err.strip().split("\n")[-1]
    assert "Traceback" not in printed
    return printed


@both_kinds
def test_a_training_begun_again_has_not_ended(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    begin, words = KINDS[kind]
    run = tmp_path / "run"
    assert begin(words(tiny, run)) == 0
    assert main(["report", str(run)]) == 0
    again = [*words(tiny, run), "--seed", "5", "--training.steps", "24"]
    stop_training(begin, [*again, "--restart"], 8, monkeypatch)
    assert not (run / "report.html").exists()
    assert main(["evaluate", str(run)]) == 2
    assert "has not ended" in error(capsys)
    assert begin([*again, "--json"]) == 0
    ended = json.loads(capsys.readouterr().out)
    assert (ended["protocol"]["seed"], ended["protocol"]["steps"]) == (5, 24)
    assert ended["protocol"]["mixed_precision"] == "no"
    assert main(["evaluate", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["both"] == ended["both"]


@both_kinds
def test_a_training_killed_between_its_first_model_and_checkpoint_begins_anew(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    begin, words = KINDS[kind]
    run = tmp_path / "run"
    assert begin([*words(tiny, run), "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    shutil.rmtree(run / "checkpoints")
    assert begin(words(tiny, run)) == 2  # what has been finished is not overwritten
    assert "a model or results but no checkpoints" in error(capsys)
    (run / "model").rename(tmp_path / "model")
    assert begin([*words(tiny, run), "--seed", "7"]) == 2  # nor passes for a later one's
    assert "a model or results but no checkpoints" in error(capsys)
    (tmp_path / "model").rename(run / "model")
    shutil.rmtree(run / "results")
    (run / "training.json").unlink()
    assert begin(words(tiny, run)) == 2  # nor the best model of one that lost its checkpoints
    assert "a model or results but no checkpoints" in error(capsys)
    metrics = run / "metrics.jsonl"
    metrics.write_text("".join(line for line in metrics.read_text().splitlines(keepends=True)
                               if json.loads(line)["step"] <= 4))
    assert begin([*words(tiny, run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["both"] == first["both"]


@both_kinds
def test_what_has_been_learnt_is_not_asked(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    begin, words = KINDS[kind]
    run = tmp_path / "run"
    assert begin(words(tiny, run)) == 0
    train = (tiny / "train.tsv").read_text()
    header, *facts = train.splitlines(keepends=True)
    (tiny / "train.tsv").write_text(header + "".join(facts[::-1]))  # the same facts
    assert main(["evaluate", str(run)]) == 0
    (tiny / "train.tsv").write_text((tiny / "test.tsv").read_text())
    (tiny / "test.tsv").write_text(train)
    commands = [["evaluate"], ["calibrate"]] if kind == "generator" else [["evaluate"]]
    for command in commands:
        assert main([*command, str(run)]) == 2
        assert "may hold what it has learnt" in error(capsys)


@pytest.mark.parametrize("command", ["evaluate", "calibrate"])
def test_results_that_cannot_be_written_are_one_sentence(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    begin, words = KINDS["generator"]
    run = tmp_path / "run"
    assert begin(words(tiny, run)) == 0
    shutil.rmtree(run / "results")
    (run / "results").write_text("")
    assert main([command, str(run)]) == 2
    assert "cannot be written" in error(capsys)


@both_kinds
@pytest.mark.parametrize("patch, why", [
    (lambda at: at.setattr("kgc_seq2seq.training_run.os.access", lambda *_: False),
     "run cannot be written (Permission denied)"),
    (lambda at: at.setenv("ACCELERATE_MIXED_PRECISION", "bf16"),
     "give --training.mixed_precision bf16"),
], ids=["read-only folder", "launcher of another precision"])
def test_a_training_that_cannot_begin_says_why(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], kind: str,
    patch: Callable[[pytest.MonkeyPatch], None], why: str
) -> None:
    begin, words = KINDS[kind]
    patch(monkeypatch)
    assert begin(words(tiny, tmp_path / "run")) == 2
    assert why in error(capsys)


def test_a_report_shows_no_calibration_of_other_data(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begin, words = KINDS["generator"]
    run = tmp_path / "run"
    assert begin(words(tiny, run)) == 0
    assert main(["calibrate", str(run)]) == 0
    for fact, shown in (("", True), ("e0\tcolour\te8\n", False)):
        with (tiny / "test.tsv").open("a") as file:
            file.write(fact)
        assert main(["evaluate", str(run)]) == 0
        assert main(["report", str(run)]) == 0
        assert ("That was not measured" not in (run / "report.html").read_text()) == shown


@both_kinds
def test_the_time_of_a_training_is_that_of_all_its_sessions(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    begin, words = KINDS[kind]
    stop_training(begin, words(tiny, tmp_path / "run"), 5, monkeypatch)
    [state] = (tmp_path / "run" / "checkpoints").glob("*6/state.json")
    saved = json.loads(state.read_text())
    assert 0 < saved["progress"]["seconds"] < 1000
    saved["progress"]["seconds"] = 1000.0
    state.write_text(json.dumps(saved))
    assert begin(words(tiny, tmp_path / "run")) == 0
    about = json.loads((tmp_path / "run" / "training.json").read_text())
    assert about["training_seconds"] >= 1000  # a tenth of a second is its unit
    about["processes"] = 4  # as if it had been trained elsewhere
    (tmp_path / "run" / "training.json").write_text(json.dumps(about))
    assert begin(words(tiny, tmp_path / "run")) == 0  # nothing is left to do
    assert json.loads((tmp_path / "run" / "training.json").read_text()) == about


@both_kinds
def test_a_training_does_not_go_on_with_other_data(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    begin, words = KINDS[kind]
    stop_training(begin, words(tiny, tmp_path / "run"), 5, monkeypatch)
    with (tiny / "train.tsv").open("a") as file:
        file.write("e2\tcolour\te8\n")
    assert begin(words(tiny, tmp_path / "run")) == 2
    assert "(different: data.graph)" in error(capsys)


def test_a_training_does_not_go_on_with_other_texts(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tiny / "entities.tsv"
    first, *rest = table.read_text().splitlines()
    words = generator(tiny, tmp_path / "run", "--input.descriptions", "true")
    for said, code in (("grows", 3), ("falls", 2)):
        table.write_text("\n".join([f"{first}\tdescription",
                                    *(f"{line}\tit {said}" for line in rest)]) + "\n")
        with monkeypatch.context() as patched:
            stop_at(5, patched)
            assert train.main(words) == code
    assert "(different: data.texts)" in error(capsys)


def test_queries_that_are_equal_are_scored_once() -> None:
    graph = random_graph(3)
    rows = np.array([(0, 1, tail) for tail in range(graph.num_entities)], np.int32)
    scored: list[int] = []

    def score(queries: np.ndarray) -> np.ndarray:
        scored.append(len(queries))
        head, relation = queries.astype(np.float32).T
        return np.sin(head[:, None] + 3 * relation[:, None] + 7 * np.arange(graph.num_entities),
                      dtype=np.float32)

    ranks = rank_by_scores(graph, rows, score)
    assert scored == [1 + graph.num_entities]
    for place, row in enumerate(rows):
        alone = rank_by_scores(graph, row[None], score)
        for found, one in ((ranks.better, alone.better), (ranks.tied, alone.tied)):
            assert found[[place, place + len(rows)]].tolist() == one.tolist()


@both_kinds
def test_others_may_read_a_run_as_they_may_read_any_new_file(
    kind: str, tiny: Path, tmp_path: Path
) -> None:
    (tmp_path / "any").touch()
    begin, words = KINDS[kind]
    assert begin(words(tiny, tmp_path / "run")) == 0
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"model.safetensors", "config.yaml", "test.json"}
    usual = (tmp_path / "any").stat().st_mode
    assert {path: path.stat().st_mode for path in files} == dict.fromkeys(files, usual)


def test_what_a_start_left_that_came_to_nothing_is_not_used(tiny: Path, tmp_path: Path) -> None:
    run, fresh = tmp_path / "run", tmp_path / "fresh"
    assert train.main(generator(tiny, run, "--training.compile", "inductr")) == 2
    assert (run / "tokenizer").is_dir()
    other = ["--tokenizer.pieces", "45", "--tokenizer.words", "0"]
    for folder in (run, fresh):
        assert train.main(generator(tiny, folder, *other)) == 0
    one, two = (load_tokenizer(folder / "tokenizer").get_vocab() for folder in (run, fresh))
    assert one == two
    assert (run / "trie.safetensors").read_bytes() == (fresh / "trie.safetensors").read_bytes()


def test_a_folder_called_nations_keeps_its_vectors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["nations", "nations"]) == 0
    assert main(["features", "nations", "--modality", "text", "--dim", "8"]) == 0
    files = {path: path.read_bytes() for path in Path("nations/features").iterdir()
             if path.is_file()}
    assert train_scorer.main([
        "--dataset", "nations", "--out", "run", "--scorer", "lbmkgc", "--model.dim", "4",
        "--model.modalities", '["text"]', "--training.steps", "1"]) == 0
    assert {path: path.read_bytes() for path in Path("nations/features").iterdir()
            if path.is_file()} == files


@pytest.fixture(scope="module")
def trained_tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a generator on the tiny data set, beside it; tests must not change it."""
    folder = tmp_path_factory.mktemp("tiny")
    write_tiny(folder / "data")
    assert train.main(generator(folder / "data", folder / "run")) == 0
    return folder / "run"


@pytest.fixture
def run(trained_tiny: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    shutil.copytree(trained_tiny.parent, tmp_path / "copy")
    return tmp_path / "copy" / "run"


def test_runs_behind_a_link_are_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_tiny(tmp_path / "project" / "data")
    (tmp_path / "scratch" / "deep" / "runs").mkdir(parents=True)
    runs = tmp_path / "project" / "runs"
    runs.symlink_to("../scratch/deep/runs")
    assert train.main(generator(data, runs / "generator")) == 0
    assert train_scorer.main(scorer(data, runs / "scorer")) == 0
    assert main(["fuse", str(runs / "generator"), str(runs / "scorer"), "--shrinkage", "1",
                 "--out", str(tmp_path / "project" / "fusion")]) == 0
    for asked in (runs / "generator", runs / "scorer", tmp_path / "project" / "fusion"):
        assert main(["predict", str(asked), "--head", "thing apple", "--relation", "kind"]) == 0


def test_sampled_ranks_are_written_with_both_seeds(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", str(run), "--ranks", "sampled", "--samples", "3", "--seed", "7", "--json"]
    assert main(words) == 0
    protocol = json.loads(capsys.readouterr().out)["protocol"]
    assert (protocol["ranks"], protocol["samples"]) == ("sampled", 3)
    assert (protocol["seed"], protocol["draws_seed"]) == (0, 7)
    assert (run / "results" / "test-sampled.json").is_file()


@pytest.mark.parametrize(("words", "why"), [
    (["--budget", "1"], "--budget: only of --ranks certified"),
    (["--ranks", "sampled", "--tolerance", "0.1"], "--tolerance: only of --ranks certified"),
    (["--ranks", "certified", "--samples", "3", "--seed", "0"],
     "--samples, --seed: only of --ranks sampled")])
def test_options_of_other_ranks_are_refused(
    trained_tiny: Path, capsys: pytest.CaptureFixture[str], words: list[str], why: str
) -> None:
    assert main(["evaluate", str(trained_tiny), *words]) == 2
    assert why in error(capsys)


def test_answers_about_new_entities_are_explained(
    trained_tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "queries.jsonl"
    file.write_text("\n".join(map(json.dumps, [
        {"head": {"name": "thing leek pear", "facts": [["kind", "thing fruit"]]},
         "relation": "colour"},
        {"head": "thing plum", "relation": "colour", "candidates": ["thing red green"]},
        {"head": "thing plum", "relation": "colour"}])))
    words = ["predict", str(trained_tiny), "--queries", str(file), "-k", "20", "--json"]
    assert main(words) == 0
    plain = json.loads(capsys.readouterr().out)
    assert main([*words, "--explain"]) == 0
    explained = json.loads(capsys.readouterr().out)
    assert [len(found["answers"]) for found in explained] == [10, 10, 9]
    for one, two in zip(plain, explained, strict=True):
        assert [answer["name"] for answer in one["answers"]] == [
            answer["name"] for answer in two["answers"]]
        assert [answer["log_probability"] for answer in one["answers"]] == pytest.approx(
            [answer["log_probability"] for answer in two["answers"]], abs=1e-5)
        assert len(two["contributions"]) == len(two["answers"])
    assert any("fruit" in effect["text"] for effect in explained[0]["context"])


def test_a_name_that_is_the_id_of_another_is_not_mixed_up(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for name, text in TINY.items():
        text = text.replace("e2\tthing plum", "e2\te4")  # called like the id of the carrot
        (data / name).write_text(text)
    assert train.main(generator(data, tmp_path / "run")) == 0
    completer = Completer.from_pretrained(tmp_path / "run")
    graph = completer.graph
    [example] = Gallery(completer, np.ones(2), data, {}, {}).examples(np.array([0]))
    assert example.question == ("thing carrot", "colour", "?")
    best = completer.system.best(np.array([[4, 1]], np.int32), 9)
    expected = {graph.entity_names[entity]: value for entity, value in zip(
        best.entities[0].tolist(), best.probabilities[0].tolist(), strict=True)}
    assert dict(example.answers) == pytest.approx(
        {name: expected[name] for name, _ in example.answers}, abs=1e-6)


def test_a_diverging_training_ends_in_a_sentence(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wild = ["--optimizer.name", "adamw", "--optimizer.learning_rate", "1e30",
            "--optimizer.warmup_steps", "0"]
    assert train.main(generator(tiny, tmp_path / "run", *wild)) == 2
    assert "lower optimizer.learning_rate" in error(capsys)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_without_bounds_rank_nothing(bad: float) -> None:
    graph = random_graph(0)
    scores = np.zeros((2 * len(graph.test), graph.num_entities), np.float32)
    scores[0, -1] = bad  # equal queries are scored once
    with pytest.raises(FloatingPointError, match="not finite"):
        rank_by_scores(graph, graph.test, lambda queries: scores[: len(queries)])


def test_a_scorer_that_has_broken_is_not_evaluated(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert train_scorer.main(scorer(tiny, run)) == 0
    path = run / "model" / "model.safetensors"
    tensors = load_file(path)
    save_file({name: torch.full_like(value, torch.nan) if value.is_floating_point() else value
               for name, value in tensors.items()}, path)
    assert main(["evaluate", str(run)]) == 2
    assert "not finite" in error(capsys)


@pytest.mark.parametrize("change", [
    lambda rows: [rows[0], rows[2], rows[1], *rows[3:]],
    lambda rows: [*rows, "knows\tknows\tknown by"],
    lambda rows: [rows[0], rows[1].replace("kind of", "sort of"), *rows[2:]]],
    ids=["in another order", "one more", "renamed"])
def test_a_run_is_not_asked_about_other_relations(
    run: Path, capsys: pytest.CaptureFixture[str], change: Callable[[list[str]], list[str]]
) -> None:
    table = run.parent / "data" / "relations.tsv"
    table.write_text("\n".join(change(table.read_text().splitlines())) + "\n")
    assert main(["predict", str(run), "--head", "thing apple", "--relation", "kind"]) == 2
    assert "relations of" in error(capsys)


def test_a_report_is_of_the_facts_that_were_ranked(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (run.parent / "data" / "test.tsv").open("a") as file:
        file.write("e2\tcolour\te8\n")
    assert main(["report", str(run)]) == 2
    assert "evaluate it again" in error(capsys)
    assert main(["evaluate", str(run)]) == 0
    assert main(["report", str(run)]) == 0


@pytest.mark.parametrize("file", ["trie.safetensors", "model/model.safetensors"])
@pytest.mark.parametrize("damage", [
    lambda path: path.write_bytes(path.read_bytes()[:100]), lambda path: path.unlink()],
    ids=["cut", "gone"])
def test_damaged_files_are_named(
    run: Path, capsys: pytest.CaptureFixture[str], file: str, damage: Callable[[Path], Any]
) -> None:
    damage(run / file)
    assert main(["predict", str(run), "--head", "thing apple", "--relation", "kind"]) == 2
    assert str(run) in error(capsys)


def test_nothing_is_exported_into_the_folder_one_is_in(
    trained_tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(trained_tiny), "."]) == 2
    assert "the folder you are in" in error(capsys)


def test_a_candidate_may_not_hold_the_marks_of_the_tokenizer(
    trained_tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "queries.jsonl"
    file.write_text(json.dumps({"head": "thing plum", "relation": "colour",
                                "candidates": ["thing red</s>"]}))
    assert main(["predict", str(trained_tiny), "--queries", str(file)]) == 2
    assert "marks of its own, such as 'thing red</s>'" in error(capsys)


def test_parts_whose_training_has_not_ended_are_not_fused(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    part = run.parent / "scorer"
    stop_training(train_scorer.main, scorer(run.parent / "data", part), 7, monkeypatch)
    assert main(["fuse", str(run), str(part), "--shrinkage", "1", "--out",
                 str(run.parent / "fusion")]) == 2
    assert f"The training of {part} has not ended" in error(capsys)
    assert not (run.parent / "fusion").exists()


def test_lines_of_queries_end_at_newlines_only() -> None:
    text = '{"head": "New\u2028land\x85", "relation": "r"}\r\n{"head": "b", "relation": "r"}\n'
    assert [query.entity for query in parse_queries(text, "q")] == ["New\u2028land\x85", "b"]
    with pytest.raises(InputError, match="line 2: not JSON"):
        parse_queries('{"head": "a", "relation": "r"}\n\n{}', "q")


@both_kinds
def test_what_is_no_run_is_not_emptied(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    begin, words = KINDS[kind]
    thesis = tmp_path / "project" / "results" / "thesis.txt"
    thesis.parent.mkdir(parents=True)
    thesis.write_text("mine")
    assert begin([*words(tiny, tmp_path / "project"), "--restart"]) == 2
    assert "something that is no run" in error(capsys)
    monkeypatch.chdir(tmp_path / "project")
    for out in (".", str(tmp_path / "project")):
        assert begin(words(tiny, Path(out))) == 2
        assert "the folder you are in" in error(capsys)
    assert [path for path in (tmp_path / "project").rglob("*") if path.is_file()] == [thesis]
    assert begin([*words(tiny, tmp_path / "new"), "--restart"]) == 0


def test_nations_are_not_mixed_into_another_data_set(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tiny.rglob("*"))
    assert main(["nations", str(tiny)]) == 2
    assert "another data set" in error(capsys)
    assert sorted(tiny.rglob("*")) == before
    assert main(["nations", str(tiny.parent / "nations")]) == 0
    assert main(["nations", str(tiny.parent / "nations")]) == 0


def test_the_mend_for_a_missing_result_brings_it(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compare", str(run), str(run), "--ranks", "certified", "--split", "valid", "--anyway"]
    assert main(words) == 2
    command = error(capsys).split("run '")[1].split("'")[0].split()
    assert command == ["kgc", "evaluate", str(run), "--split", "valid", "--ranks", "certified"]
    assert main(command[1:]) == 0


def test_an_unknown_name_in_a_file_is_found_by_its_line(
    trained_tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "queries.jsonl"
    file.write_text('{"head": "thing plum", "relation": "colour"}\n'
                    '{"head": "thing plom", "relation": "colour"}\n')
    assert main(["predict", str(trained_tiny), "--queries", str(file)]) == 2
    assert f"{file}, line 2: No entity is called 'thing plom'" in error(capsys)


def test_a_direction_is_tail_or_head(trained_tiny: Path) -> None:
    with pytest.raises(InputError, match="direction is 'Head'"):
        Completer.from_pretrained(trained_tiny).complete(
            Query("thing plum", "colour", "Head"))  # type: ignore[arg-type]


def test_a_missing_file_is_not_exported(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "relations.json").unlink()
    assert main(["export", str(run), str(tmp_path / "out")]) == 2
    assert f"{run / 'relations.json'} is missing" in error(capsys)
