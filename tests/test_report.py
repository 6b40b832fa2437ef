"""The report: what stands in it, what it needs, and the baseline that it is compared with."""

from __future__ import annotations

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from chromium import BROWSER, chromium
from conftest import random_graph
from hypothesis import given, settings
from hypothesis import strategies as st

from kgc_seq2seq import cli
from kgc_seq2seq.arrays import Ints
from kgc_seq2seq.evaluation.dense import rank_by_scores
from kgc_seq2seq.evaluation.frequency import frequency_ranks
from kgc_seq2seq.evaluation.plots import relation_bars, reliability_diagram, weight_bars
from kgc_seq2seq.evaluation.ranks import metrics
from kgc_seq2seq.evaluation.report_page import Example, Report, write_report
from kgc_seq2seq.evaluation.results import read_result
from kgc_seq2seq.report import Gallery


class Page(HTMLParser):
    """The text of a page by section, its tags, and what it would fetch."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.sections: dict[str, str] = {}
        self.fetched: list[str] = []
        self.tags: list[str] = []
        self._heading = False
        self._now = ""
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [value or "" for key, value in attrs
                         if key in ("src", "href", "xlink:href")]
        self._heading = tag == "h2"

    def handle_data(self, data: str) -> None:
        if self._heading:
            self._now, self._heading = data, False
            self.sections[data] = ""
        elif self._now:
            self.sections[self._now] += data


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6))
def test_the_baseline_is_that_of_a_table_of_frequencies(seed: int) -> None:
    graph = random_graph(seed, facts=50)
    table = np.zeros((2 * graph.num_relations, graph.num_entities), np.float32)
    seen = graph.queries(graph.train)
    np.add.at(table, (seen[:, 1], seen[:, 2]), 1)

    def score(queries: Ints) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        return table[queries[:, 1]]

    plain = rank_by_scores(graph, graph.test, score)
    found = frequency_ranks(graph, graph.test)
    assert found.better.tolist() == plain.better.tolist()
    assert found.tied.tolist() == plain.tied.tolist()


@pytest.fixture(scope="module")
def reported(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the trained run, calibrated in name and reported against the original."""
    run = tmp_path_factory.mktemp("reported") / "run"
    shutil.copytree(trained, run)
    lines = (run / "config.yaml").read_text().splitlines()
    lines = [f"dataset: {(trained / line.removeprefix('dataset: ')).resolve()}"
             if line.startswith("dataset: ") else line for line in lines]
    (run / "config.yaml").write_text("\n".join(lines))
    side = {"ece": 0.123, "confidence": 0.5, "accuracy": 0.4, "count": 808, "bins": [
        {"low": 0.4, "high": 0.5, "confidence": 0.45, "accuracy": 0.3, "count": 800},
        {"low": 0.9, "high": 1.0, "confidence": 0.95, "accuracy": 0.9, "count": 8}]}
    (run / "results" / "test-calibration.json").write_text(json.dumps(
        {"both": side, "tail": side, "head": side, "protocol": {
            "graph": read_result(run / "results" / "test.json")["protocol"]["graph"]}}))
    assert cli.main(["report", str(run), "--against", str(trained)]) == 0
    return run


def test_a_report_answers_its_questions_from_the_results(reported: Path, trained: Path) -> None:
    page = Page(reported / "report.html")
    result = read_result(reported / "results" / "test.json")
    assert list(page.sections)[:3] == ["How good is it?", "On what?", "Compared with what?"]
    assert f"{result['both']['mrr']:.3f}" in page.sections["How good is it?"]
    assert "881 entities" in page.sections["On what?"]
    compared = page.sections["Compared with what?"]
    assert str(trained) in compared
    assert "+0.000" in compared  # to itself
    assert "frequency of the answer" in compared
    hard = page.sections["Which queries are hard?"]
    for part in result["slices"]["given_image"].values():
        assert f"{part['both']['count']:,}{' '}{part['both']['mrr']:.3f}" in hard
    assert "12.3%" in page.sections["Can its probabilities be trusted?"]
    assert "stands at rank" in page.sections["Where is it worst?"]
    assert result["protocol"]["candidate_set"] in page.sections["Protocol"]


def test_a_report_fetches_nothing_and_takes_the_colours_of_its_page(reported: Path) -> None:
    page = Page(reported / "report.html")
    assert page.tags.count("svg") == 3
    assert "img" in page.tags
    assert all(link.startswith(("data:", "#")) for link in page.fetched)
    assert "script" not in page.tags
    source = (reported / "report.html").read_text("utf-8")
    assert "prefers-color-scheme: dark" in source
    assert "@media print" in source
    assert "currentColor" in source
    svg = source[source.index("<svg"):source.rindex("</svg>")]
    assert "#000000" not in svg


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium")
def test_a_report_fits_a_phone_and_paper(reported: Path, tmp_path: Path) -> None:
    with chromium(tmp_path) as browser:
        browser.open((reported / "report.html").as_uri(), 390, 844, dark=True)
        browser.wait_for("document.readyState == 'complete'")
        assert browser.evaluate("document.documentElement.scrollWidth") <= 390
        # A4 between its margins, by somebody whose screen is dark.
        browser.open((reported / "report.html").as_uri(), 718, 1000, dark=True)
        browser.wait_for("document.readyState == 'complete'")
        behind = "getComputedStyle(document.body).backgroundColor"
        assert browser.evaluate(behind) != "rgb(255, 255, 255)"
        browser.call("Emulation.setEmulatedMedia", media="print", features=[
            {"name": "prefers-color-scheme", "value": "dark"}])
        assert browser.evaluate(behind) == "rgb(255, 255, 255)"
        assert browser.evaluate(
            "[...document.querySelectorAll('.wide, .card')].filter(part => "
            "part.scrollWidth > part.clientWidth).map(part => part.innerText)") == []


def test_the_worst_queries_are_those_of_the_highest_ranks(trained: Path) -> None:
    from kgc_seq2seq.completer import Completer

    completer = Completer.from_pretrained(trained)
    count = 2 * len(completer.graph.test)
    ranks = np.ones(count)
    ranks[[5, 700, 30]] = [90, 80, 70]
    gallery = Gallery(completer, ranks, trained, {}, {})
    assert gallery.worst().tolist() == [5, 700, 30]
    with patch("kgc_seq2seq.report.MOST_KNOWN", 0):  # each knows one at least
        assert gallery.worst().tolist() == []
    assert gallery.first().tolist() == []
    shown = list(gallery.examples(gallery.worst()[:2]))
    head, relation, tail = completer.graph.test[5].tolist()
    names = completer.graph.entity_names
    assert shown[0].question == (names[head], completer.graph.relation_names[relation], "?")
    assert (shown[0].gold, shown[0].rank, shown[0].image) == (names[tail], 90, None)
    assert len(shown[0].answers) == 5
    assert shown[1].question[0] == "?"


def test_names_are_text_and_never_markup(tmp_path: Path) -> None:
    evil = '<script>alert("x")</script>'
    side = metrics(frequency_ranks(random_graph(0), random_graph(0).test))
    sides = {"both": side, "tail": side, "head": side}
    run = {"run": evil, "system": evil, **sides}
    gap = {"both": {name: {"difference": 0.1, "low": 0.0, "high": 0.2} for name in (
        "mrr", "hits@10")}}
    example = Example((evil, evil, "?"), None, evil, evil, [(evil, 0.5)], evil, 3.0)
    write_report(tmp_path / "report.html", Report(
        run=evil, result={
            **sides, "by_relation": {"r": sides}, "slices": {"given_text": {evil: sides}},
            "protocol": {"dataset": evil, "split": "test", "candidates": 12, "ranks": "exact",
                         "system": evil,
                         "weights": {evil: 0.4, "LBMKGC": {"r": {"tail": 0.2, "head": 0.5}}}}},
        sizes={evil: 3}, comparison={
            "runs": [run, {**run, "run": "b"}], "differences": {"b": gap},
            "unlike": {"b": [evil]}, "bootstrap": {"coverage": 0.95}},
        history=[], calibration=None, relation_names={"r": evil}, worst=[example],
        examples=[example]))
    page = Page(tmp_path / "report.html")
    assert "script" not in page.tags
    assert "LBMKGC" in page.sections["What do its parts weigh?"]
    assert "kgc calibrate" in page.sections["Can its probabilities be trusted?"]
    assert "How did it learn?" not in page.sections


def test_equal_figures_give_equal_plots() -> None:
    bars = {"r": {side: {"mrr": 0.3, "count": 2} for side in ("both", "tail", "head")}}
    assert relation_bars(bars, {"r": "北京 $x^2"}) == relation_bars(bars, {"r": "北京 $x^2"})
    assert "北京 $x^2 (2)" in relation_bars(bars, {"r": "北京 $x^2"})
    assert "0.25" in weight_bars({"r": {"tail": 0.25, "head": 0.1}}, {})
    bins = [{"low": 0.0, "high": 0.1, "confidence": 0.05, "accuracy": 0.0, "count": 4}]
    assert reliability_diagram(bins).startswith("<svg")
