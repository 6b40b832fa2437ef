"""The command line ``kgc``: answers for people and for machines, and refusals in one sentence."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from conftest import ROOT

from kgc_seq2seq.cli import main
from kgc_seq2seq.completer import Completer, Query


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
    assert [row.split()[1] for row in rows if row.endswith("known")] == ["Europe"]


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
    file.write_text('{"head": "France", "relation": "currency"}\n'
                    '{"tail": "euro", "relation": "currency"}\n')
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
    ["kgc_seq2seq.cli"], ["kgc_seq2seq.cli", "predict"], ["kgc_seq2seq.train"]])
def test_help_is_there(command: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", *command, "--help"], capture_output=True,
                          text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0
    assert done.stdout.startswith("usage: ")
    if command == ["kgc_seq2seq.train"]:
        assert "default: 0.003" in done.stdout
        assert "whole" not in done.stderr
