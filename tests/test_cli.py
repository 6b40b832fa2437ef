"""The command line ``kgc``: answers for people and for machines, and refusals in one sentence."""

from __future__ import annotations

import errno
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import torch
from conftest import ROOT

from caption_cache.command_line import answering
from caption_cache.store import Store
from kgc_seq2seq.cli import main
from kgc_seq2seq.completer import Completer, Query
from kgc_seq2seq.config import RunConfig
from kgc_seq2seq.show_input import show_input
from kgc_seq2seq.text.input_config import InputConfig


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that must be refused; gives the sentence."""
    assert main([str(argument) for argument in arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    sentence = printed.err.strip().split("\n")[-1]
    assert sentence.startswith("kgc")
    assert "Traceback" not in printed.err
    return sentence


def answered(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


def test_predict_prints_ranked_names_and_marks_known_facts(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = answered(capsys, "predict", trained, "--head", "France", "--relation", "continent",
                    "-k", "5")
    first, *rows = text.rstrip("\n").split("\n")
    assert first == "(France, continent, ?)"
    assert [row.split()[0] for row in rows] == ["1", "2", "3", "4", "5"]
    shares = [float(row.split("%")[0].split()[-1]) for row in rows]
    assert shares == sorted(shares, reverse=True)
    everything = answered(capsys, "predict", trained, "--head", "France", "--relation",
                          "continent", "-k", "881").rstrip("\n").split("\n")[1:]
    assert [row.split()[1] for row in everything if row.endswith("known")] == ["Europe"]


def test_predict_explains_by_leaving_parts_out(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--head", "France", "--relation", "continent", "-k", "1", "--explain"]
    answer = json.loads(answered(capsys, "predict", trained, *asked, "--json"))
    shown = json.loads(answered(capsys, "show-input", trained, *asked[:4], "--json"))
    assert [effect["text"] for effect in answer["context"]] == [
        part["text"] for part in shown["parts"] if part["source"] != "query"]
    completer = Completer.from_pretrained(trained)
    # Score the input without its first part by hand: brute force over the catalogue.
    tokens = [token for place, part in enumerate(shown["parts"]) if place != 1
              for token in part["tokens"]]
    ids = torch.tensor([[*tokens, completer.generator.verbalizer.eos]])
    encoded = completer.generator.search.decoder.encode(ids, torch.ones_like(ids))
    first = answer["answers"][0]
    score = completer.generator.search.all_scores(encoded)[0, completer.resolve_entity(first["id"])]
    assert answer["context"][0]["change"] == pytest.approx(
        score - first["log_probability"], abs=1e-3)
    lines = answered(capsys, "predict", trained, *asked).split("\n")
    start = next(place for place, line in enumerate(lines) if line.startswith("log p("))
    changes = [abs(float(line.split()[0])) for line in lines[start + 1 :] if line]
    assert changes == sorted(changes, reverse=True)
    assert len(changes) == len(answer["context"])


def test_show_input_prints_what_is_read_and_what_it_costs(
    nations: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--head", "France", "--relation", "currency"]
    shown = json.loads(answered(capsys, "show-input", trained, *asked, "--json"))
    completer = Completer.from_pretrained(trained)
    entity, relation = completer.resolve(Query("France", "currency"))
    row = completer.generator.verbalizer.inputs(np.array([[entity, relation, -1]], np.int32), 0)[0]
    assert [token for part in shown["parts"] for token in part["tokens"]] == row[:-1].tolist()
    assert shown["total"] == len(row) == 1 + sum(
        counts["read"] for counts in shown["tokens"].values())
    text = answered(capsys, "show-input", nations, *asked, "--setting", "mmkg-t5")
    assert "\x1b" not in text
    assert "query        query: France | currency\n" in text
    assert "instruction  Write the name of" in text
    config = ROOT / "configs" / "nations-mmkg-t5.yaml"
    text = answered(capsys, "show-input", nations, *asked, "--config", config, "--no-captions")
    assert "entity context:" in text
    assert "caption" not in text
    sentence = refused(capsys, "show-input", nations, "--head", "Frence", "--relation", "currency")
    assert "France" in sentence


def test_show_input_says_what_the_budget_leaves_out(nations: Path, tmp_path: Path) -> None:
    config = RunConfig(str(nations), "", input=InputConfig(neighbours=40, max_tokens=32))
    config.save(tmp_path / "c.yaml")
    shown = show_input(nations, Query("France", "currency"), config=tmp_path / "c.yaml")
    assert shown.as_dict()["total"] <= 32
    assert shown.tokens()["fact"]["left_out"] > 0
    assert "(left out)" in shown.as_text(colours=False)
    assert "\x1b[" in shown.as_text(colours=True)


def test_predict_answers_head_queries(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    by_tail = answered(capsys, "predict", trained, "--tail", "Europe", "--relation", "continent",
                       "-k", "300", "--json")
    by_direction = answered(capsys, "predict", trained, "--head", "Europe", "--relation",
                            "continent", "--direction", "head", "-k", "300", "--json")
    assert by_tail == by_direction
    answers = json.loads(by_tail)["answers"]
    assert len(answers) == 300
    known = {answer["name"] for answer in answers if answer["known"]}
    assert "France" in known
    assert "Japan" not in known


def test_probabilities_of_all_entities_sum_to_one(trained: Path) -> None:
    completer = Completer.from_pretrained(trained)
    found = completer.complete(Query("France", "currency"), k=10**6)
    assert len(found) == completer.graph.num_entities == len({answer.id for answer in found})
    assert sum(answer.probability for answer in found) == pytest.approx(1)
    few = completer.complete(Query("France", "currency"), k=5)
    for one, other in zip(few, found, strict=False):
        assert one.id == other.id
        assert abs(one.probability - other.probability) <= one.probability_error + 1e-6
        assert one.probability_error <= 0.01 * one.probability + 1e-6
    assert found == sorted(found, key=lambda answer: -answer.log_probability)


def test_a_file_of_queries_gives_the_answers_of_each(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "queries.jsonl"
    file.write_text('\ufeff{"head": "France", "relation": "currency"}\r\n'  # as Windows writes it
                    '{"tail": "euro", "relation": "currency"}\r\n\r\n')
    both = json.loads(answered(capsys, "predict", trained, "--queries", file, "--json", "-k", "3"))
    one = json.loads(answered(capsys, "predict", trained, "--head", "france", "--relation",
                              "currency", "--json", "-k", "3"))
    assert [entry["query"]["direction"] for entry in both] == ["tail", "head"]
    assert [answer["id"] for answer in both[0]["answers"]] == [
        answer["id"] for answer in one["answers"]]
    assert both[0]["answers"][0]["log_probability"] == pytest.approx(
        one["answers"][0]["log_probability"], abs=1e-4)


def test_a_misspelt_name_is_refused_with_the_nearest(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "No entity is called 'Frans'; the nearest names are France, " in refused(
        capsys, "predict", trained, "--head", "Frans", "--relation", "currency")
    assert "No relation is called 'curency'; the nearest names are currency" in refused(
        capsys, "predict", trained, "--head", "France", "--relation", "curency")


@pytest.mark.parametrize("change", [
    lambda rows: [rows[0], rows[1].replace("\t", "\tnew ", 1), *rows[2:]],
    lambda rows: [rows[0], rows[2], rows[1], *rows[3:]],
], ids=["renamed", "in another order"])
def test_a_data_set_that_changed_after_training_is_refused(
    trained: Path, nations: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    change: Callable[[list[str]], list[str]]
) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(nations, data)
    shutil.copytree(trained, run)
    table = data / "entities.tsv"
    table.write_text("\n".join(change(table.read_text().split("\n"))))
    config = run / "config.yaml"
    config.write_text(re.sub("(?m)^dataset: .*$", "dataset: ../data", config.read_text()))
    assert "are not those that" in refused(capsys, "predict", run, "--head", "France",
                                           "--relation", "currency")


@pytest.mark.parametrize("line, why", [
    ("{", "line 1: not JSON"),
    ("[]", "line 1: a query is an object"),
    ('{"head": 3, "relation": "currency"}', "line 1: a query is an object"),
    ('{"heat": "France", "relation": "currency"}', "line 1: a query is an object"),
    ('{"head": "France"}', "line 1: a query needs relation"),
    ('{"head": "France", "tail": "euro", "relation": "currency"}', "either head or tail"),
    ('{"head": "France", "relation": "currency", "direction": "up"}', "direction is 'up'"),
    ("", "holds no query"),
])
def test_a_bad_line_of_queries_is_refused(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, why: str
) -> None:
    file = tmp_path / "queries.jsonl"
    file.write_text(line)
    sentence = refused(capsys, "predict", trained, "--queries", file)
    assert why in sentence
    assert str(file) in sentence


def test_arguments_that_do_not_fit_are_refused(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "a query needs --relation" in refused(capsys, "predict", trained, "--head", "France")
    assert "'0' is not a whole number" in refused(
        capsys, "predict", trained, "--head", "France", "--relation", "currency", "-k", "0")
    assert "takes the place of" in refused(
        capsys, "predict", trained, "--queries", tmp_path / "q", "--head", "France")
    assert "cannot be read" in refused(capsys, "predict", trained, "--queries", tmp_path / "none")
    assert "is not the folder of a run" in refused(
        capsys, "predict", tmp_path, "--head", "France", "--relation", "currency")
    for command in ("evaluate", "report"):
        assert "is not the folder of a run" in refused(capsys, command, tmp_path)


def test_evaluate_repeats_what_training_measured(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = json.loads((trained / "results" / "valid.json").read_text())
    again = json.loads(answered(capsys, "evaluate", trained, "--split", "valid", "--json"))
    for side in ("both", "tail", "head"):
        assert again[side] == pytest.approx(before[side])
    table = answered(capsys, "evaluate", trained, "--split", "valid")
    assert f"{before['both']['mrr']:.4f}" in table.split("\n")[3]
    within = json.loads(answered(capsys, "evaluate", trained, "--split", "valid", "--json",
                                 "--ranks", "certified", "--tolerance", "0.01"))
    assert within["both"]["mrr"]["low"] <= before["both"]["mrr"] <= within["both"]["mrr"]["high"]
    assert within["both"]["mrr"]["high"] - within["both"]["mrr"]["low"] <= 0.01
    assert within["protocol"]["ranks"] == "certified"
    assert json.loads((trained / "results" / "valid.json").read_text()) == again


def test_other_captions_than_a_run_has_learnt_from_are_told_of(
    trained: Path, nations: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture
) -> None:
    data, run = shutil.copytree(nations, tmp_path / "data"), shutil.copytree(
        trained, tmp_path / "run")
    config = run / "config.yaml"
    config.write_text(re.sub("(?m)^dataset: .*$", "dataset: ../data", config.read_text()))
    words = ["evaluate", run, "--split", "valid", "--json", "--ranks", "certified",
             "--tolerance", "0.9"]
    learnt = json.loads((run / "training.json").read_text())["texts"]
    assert json.loads(answered(capsys, *words))["protocol"]["texts"] == learnt
    assert not caplog.messages
    rows = Store(data).read()
    for part in (data / "captions").glob("part-*.parquet"):
        part.unlink()
    Store(data).add_table(rows.slice(1))
    read = json.loads(answered(capsys, *words))["protocol"]["texts"]
    assert read != learnt
    assert [str(run) in message and "other captions" in message for message in caplog.messages] == [
        True]


@pytest.mark.parametrize("error, words", [
    (OSError(errno.ENOSPC, "", "here/model"), "here/model cannot be written (No space left"),
    (RuntimeError("Error while serializing: I/O error: Full (os error 27)"),
     "a file cannot be written (File too large"),
    (torch.OutOfMemoryError("CUDA out of memory"), "out of memory; lower training.batch_size"),
])
def test_what_runs_out_of_room_says_so_in_a_sentence(
    capsys: pytest.CaptureFixture[str], error: Exception, words: str
) -> None:
    def act() -> NoReturn:
        raise error

    assert answering("kgc", act) == 2
    assert words in capsys.readouterr().err


def test_what_nobody_can_mend_is_not_hidden() -> None:
    def act() -> NoReturn:
        raise OSError(errno.EIO, "odd")

    with pytest.raises(OSError, match="odd"):
        answering("kgc", act)


class Page(HTMLParser):
    """Collects what a page would fetch, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [value or "" for key, value in attrs if key in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_report_is_one_file_with_numbers_plots_and_flags(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answered(capsys, "report", trained)
    source = (trained / "report.html").read_text("utf-8")
    page = Page()
    page.feed(source)
    result = json.loads((trained / "results" / "test.json").read_text())
    graph = Completer.from_pretrained(trained).graph
    assert f"{result['both']['mrr']:.3f}" in page.text
    assert all(link.startswith("data:") for link in page.fetched)
    assert sum(link.startswith("data:image/png") for link in page.fetched) > 10
    assert source.count("<svg") >= 2
    names = dict(zip(graph.relation_ids, graph.relation_names, strict=False))
    assert all(names[relation] in page.text for relation in result["by_relation"])


def test_a_short_demo_ends_with_a_report_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "kgc_seq2seq.cli", "demo", "--steps", "30", "--json",
               "--out", str(tmp_path / "demo")]
    first = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert first.returncode == 0, first.stderr
    answer = json.loads(first.stdout)
    assert answer["result"]["both"]["count"] == 2 * 404
    assert Path(answer["report"]).is_file()
    again = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert again.stdout == first.stdout


def test_the_nations_graph_can_be_written_and_captioned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = answered(capsys, "nations", tmp_path / "data")
    assert f"caption-cache build {tmp_path / 'data'}" in text
    assert (tmp_path / "data" / "train.tsv").is_file()


@pytest.mark.parametrize("command", [
    ["split", "a", "b"], ["subset", "a", "b"], ["import", "tsv", "a", "b"], ["demo"],
    ["compare", "a", "b"], ["evaluate", "a"], ["complete-modalities", "a"]])
def test_a_seed_below_0_is_refused(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--seed", "-1"]) == 2
    error = capsys.readouterr().err
    assert "--seed: '-1' is not a whole number from 0 on" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("command", [
    ["kgc_seq2seq.cli"], ["kgc_seq2seq.cli", "predict"], ["kgc_seq2seq.train"]])
def test_help_is_there(command: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", *command, "--help"], capture_output=True,
                          text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0
    assert done.stdout.startswith("usage: ")
    if command == ["kgc_seq2seq.train"]:
        assert "default: 0.003" in done.stdout
        assert "whole" not in done.stderr
