"""The explorer: what may be asked, the API as programs see it, and the page in a real browser."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import BROWSER, Chromium, chromium
from conftest import ROOT, answer, random_graph
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from caption_cache.errors import InputError
from kgc_seq2seq import train, train_scorer
from kgc_seq2seq.cli import main
from kgc_seq2seq.completer import Query
from kgc_seq2seq.explorer.explorer import MAX_ANSWERS, MAX_QUERIES, MAX_TEXT, Explorer
from kgc_seq2seq.explorer.name_search import NameSearch
from kgc_seq2seq.explorer.pictures import Pictures
from kgc_seq2seq.newcomers import Newcomer

ODD = "<b onclick=alert(1)>${7*7}</b> {{7}} `x`"
"""A name that a page must show as it is."""
NAMES = ["France", "Japan", "Germany", "Euro", "yen", "Europe", "Asia", ODD]
DATA = {
    "entities.tsv": "id\tname\n" + "".join(f"e{i}\t{name}\n" for i, name in enumerate(NAMES)),
    "relations.tsv": "id\tname\tinverse_name\ncurrency\tcurrency\tcurrency of\n"
                     "continent\tcontinent\tcontinent of\n",
    **{f"{split}.tsv": "head\trelation\ttail\n" + "".join(f"{fact}\n" for fact in facts)
       for split, facts in {
           "train": ["e0\tcurrency\te3", "e1\tcurrency\te4", "e2\tcontinent\te5",
                     "e1\tcontinent\te6", "e7\tcontinent\te6"],
           "valid": ["e0\tcontinent\te5", "e7\tcurrency\te4"],
           "test": ["e2\tcurrency\te3"]}.items()}}
STEPS = ["--training.steps", "20", "--training.batch_size", "8", "--training.validate_every", "20"]


@pytest.fixture(scope="module")
def fusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fusion over a graph of eight entities, two with images; tests must not change it."""
    from caption_cache.build import build
    from caption_cache.captioners import load_captioner
    from kgc_seq2seq.scorers.features.choose import FeatureChoice, make_vectors

    folder = tmp_path_factory.mktemp("explorer")
    data = folder / "data"
    data.mkdir()
    for name, text in DATA.items():
        (data / name).write_text(text)
    for entity, colour in {"e2": "gold", "e3": "blue"}.items():
        (data / "images" / entity).mkdir(parents=True)
        Image.new("RGB", (300, 200), colour).save(data / "images" / entity / "flag.png")
    build(data, load_captioner("palette"), show_progress=False)
    make_vectors(data, FeatureChoice(dim=5), show_progress=False)
    words = ["--dataset", str(data), *STEPS]
    assert train.main([*words, "--out", str(folder / "generator"), "--model.d_model", "16",
                       "--model.d_ff", "16", "--model.num_heads", "2", "--tokenizer.pieces", "80",
                       "--tokenizer.words", "0"]) == 0
    assert train_scorer.main([*words, "--scorer", "lbmkgc", "--out", str(folder / "lbmkgc"),
                              "--model.dim", "4"]) == 0
    assert main(["fuse", *(str(folder / part) for part in ("generator", "lbmkgc")), "--folds", "2",
                 "--out", str(folder / "fusion")]) == 0
    return folder / "fusion"


@dataclass(frozen=True)
class Served:
    """An explorer that runs."""

    run: Path
    url: str

    def get(self, path: str, body: bytes | None = None, **headers: str) -> bytes:
        request = urllib.request.Request(self.url + path, body, headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            data: bytes = answer.read()
        return data

    def status(self, path: str, body: bytes | None = None, **headers: str) -> int:
        """The code of an answer that must be a refusal."""
        with pytest.raises(urllib.error.HTTPError) as refusal:
            self.get(path, body, **headers)
        refusal.value.close()
        return refusal.value.code

    def call(self, name: str, *values: Any) -> tuple[str, Any]:
        """Call a function of the API; gives ``complete`` or ``error``, and what came."""
        began = json.loads(self.get(f"gradio_api/call/{name}", json.dumps(
            {"data": values}).encode(), **{"Content-Type": "application/json"}))
        text = self.get(f"gradio_api/call/{name}/{began['event_id']}").decode()
        event, data = re.findall(r"event: (complete|error)\ndata: (.*)", text)[-1]
        return event, json.loads(data)

    def refused(self, name: str, *values: Any) -> str:
        """Call what must be refused; gives the sentence."""
        event, data = self.call(name, *values)
        assert event == "error"
        return str(data["error"] if isinstance(data, dict) else data)


A_DEAD_END = {"HTTP_PROXY": "http://127.0.0.1:9"}


@pytest.fixture(scope="module")
def served(fusion: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    pytest.importorskip("gradio", reason="the extra ui is not installed")
    temporary = tmp_path_factory.mktemp("temporary")
    with subprocess.Popen(
            [sys.executable, "-m", "kgc_seq2seq.cli", "explore", str(fusion), "--no-browser",
             "--json"], stdout=subprocess.PIPE, cwd=ROOT,
            env={**os.environ, **A_DEAD_END, "TMPDIR": str(temporary)}) as process:
        assert process.stdout is not None
        yield Served(fusion, json.loads(process.stdout.readline())["url"])
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == b""
        assert process.wait(30) == 0
    assert not list(temporary.glob("kgc-explore-*"))  # uploads are gone


# Names while they are typed.


@settings(max_examples=50)
@given(seed=st.integers(0, 3), text=st.text("name 01a", max_size=4), limit=st.integers(1, 14))
def test_names_are_found_as_brute_force_finds_them(seed: int, text: str, limit: int) -> None:
    graph = random_graph(seed)
    wanted = text.strip()
    hits = [(name != wanted, not name.startswith(wanted), f" {wanted}" not in name,
             -graph.train_degree[place], place)
            for place, name in enumerate(graph.entity_names) if wanted in name]
    assert NameSearch(graph).find(text, limit) == [
        graph.entity_names[hit[-1]] for hit in sorted(hits)[:limit]]


def test_names_are_found_whatever_their_case_and_accents() -> None:
    from dataclasses import replace

    graph = replace(random_graph(0, entities=3), entity_names=("Côte d'Ivoire", "ICOTE", "Österås"))
    assert NameSearch(graph).find("cote", 5) == ["Côte d'Ivoire", "ICOTE"]
    assert NameSearch(graph).find("OSTERÅ", 5) == ["Österås"]


# Bounds.


def test_what_asks_too_much_is_refused(fusion: Path) -> None:
    explorer = Explorer(fusion)
    long = "x" * (MAX_TEXT + 1)
    for query in (Query(long, "currency"), Query("France", long)):
        with pytest.raises(InputError, match="201 characters is too long"):
            explorer.ask(query, 1)
    with pytest.raises(InputError, match="too long"):
        explorer.entities(long)
    with pytest.raises(InputError, match="too long"):
        explorer.reasons(Query("France", "currency"), long)
    for k in (0, MAX_ANSWERS + 1):
        with pytest.raises(InputError, match="ask for 1 to 100 answers"):
            explorer.ask(Query("France", "currency"), k)
        with pytest.raises(InputError, match="ask for 1 to 100 answers"):
            explorer.ask_lines('{"head": "France", "relation": "currency"}', k)
    with pytest.raises(InputError, match="must be 'tail' or 'head'"):
        explorer.ask(Query("France", "currency", "up"), 1)  # type: ignore[arg-type]
    line = '{"head": "France", "relation": "currency"}\n'
    assert len(explorer.ask_lines(line * 3, 1)) == 3
    with pytest.raises(InputError, match="1,001 queries; ask 1,000"):
        explorer.ask_lines(line * (MAX_QUERIES + 1), 1)
    with pytest.raises(InputError, match="The file, line 2: not JSON"):
        explorer.ask_lines(line + "[" * 100_000, 1)


@pytest.mark.parametrize(("told", "words"), [
    ({"image": "/etc/passwd"}, "names a file of this machine"),
    ({"facts": [["continent", "Europe"]] * 101}, "more than 100"),
    ({"caption": "x" * 2001}, "longer than 2,000"),
    ({"facts": [["continent", "E" * 201]]}, "too long"),
])
def test_new_entities_are_bounded(fusion: Path, told: dict[str, Any], words: str) -> None:
    explorer = Explorer(fusion)
    line = json.dumps({"head": {"name": "Eurasia", **told}, "relation": "currency"})
    with pytest.raises(InputError, match=words):
        explorer.ask_lines(line, 1)


def test_a_new_entity_with_an_image_is_answered_and_explained(fusion: Path) -> None:
    explorer = Explorer(fusion)
    flag = io.BytesIO()
    Image.new("RGB", (30, 20), "blue").save(flag, "PNG")
    told = Newcomer("Eurasia", (("continent", "Europe"),))
    asked, reasons = explorer.tell(told, flag.getvalue(), "currency", "tail", 3)
    assert len(asked.answers) == 3
    assert {effect.source for effect in reasons.effects} == {"caption", "fact"}
    assert any("blue" in part.text for part in reasons.read if part.source == "caption")
    with pytest.raises(InputError, match="cannot be shown to a captioner"):
        explorer.tell(told, b"no image", "currency", "tail", 3)
    with pytest.raises(InputError, match="called as one that is there"):
        explorer.tell(Newcomer("France"), None, "currency", "tail", 3)


def test_a_file_may_tell_of_new_entities(fusion: Path) -> None:
    line = json.dumps({"head": {"name": "Eurasia", "facts": [["continent", "Europe"]]},
                       "relation": "currency", "candidates": ["Euro yen"]})
    [found] = Explorer(fusion).ask_lines(line, 10)
    assert {"Eurasia", "Euro yen"} < {answer["name"] for answer in found["answers"]}


def test_examples_are_test_facts_of_heads_with_images(fusion: Path) -> None:
    assert Explorer(fusion).example(0) == Query("Germany", "currency")


def test_pictures_are_small_and_damaged_ones_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "entities.tsv").write_text("id\tname\na\tA\nb\tB\n")
    (tmp_path / "images" / "a").mkdir(parents=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (900, 1200, 3), np.uint8)).save(
        tmp_path / "images" / "a" / "1.png")
    (tmp_path / "images" / "a" / "2.png").write_bytes(b"no image")
    (tmp_path / "images" / "a" / "3.png").symlink_to("/etc/hostname")
    pictures = Pictures(tmp_path, {})
    assert "a" in pictures
    assert "b" not in pictures
    (url,) = pictures.of("a", 3)
    assert url.startswith("data:image/jpeg;base64,")
    assert len(url) < 60_000
    assert pictures.of("b", 3) == []


def test_what_is_missing_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["explore", str(tmp_path)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "pip install 'kgc-seq2seq[ui]'" in printed.err


def test_a_port_that_is_none_is_refused(
    fusion: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("gradio", reason="the extra ui is not installed")
    assert main(["explore", str(fusion), "--port", "99999", "--no-browser"]) == 2
    assert "choose one from 1 to 65535" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["no_proxy", "NO_PROXY"])
def test_this_machine_is_asked_past_a_proxy(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    pytest.importorskip("gradio", reason="the extra ui is not installed")
    from kgc_seq2seq.explorer.serve import unproxied

    for other in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, "intra.example")
    for key, value in unproxied().items():
        monkeypatch.setenv(key, value)
    for host in ("127.0.0.1", "localhost", "intra.example"):
        assert urllib.request.proxy_bypass(host)
    assert not urllib.request.proxy_bypass("kgc.example")


# Programs.


def test_the_api_gives_what_the_command_prints(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    assert served.call("relations") == ("complete", [["currency", "continent"]])
    assert served.call("entities", "eur") == ("complete", [["Euro", "Europe"]])
    words = ["predict", served.run, "--head", "France", "--relation", "currency", "-k", 3]
    expected = answer(capsys, *words)
    event, (data,) = served.call("predict", "France", "currency", "tail", 3, False)
    assert event == "complete"
    assert data.keys() == expected.keys()
    assert data["query"] == expected["query"]
    # Another process may add floats up in another order.
    assert data["answers"] == [pytest.approx(each) for each in expected["answers"]]
    expected = answer(capsys, *words, "--explain")
    assert expected["context"]
    _, (data,) = served.call("predict", "France", "currency", "tail", 3, True)
    assert data.keys() == expected.keys()
    assert data["context"] == [pytest.approx(effect) for effect in expected["context"]]
    assert data["modality_weights"].keys() == {"LBMKGC"}


def test_errors_are_sentences(served: Served) -> None:
    assert served.refused("predict", "Frence", "currency", "tail", 3, False).startswith(
        "No entity is called 'Frence'; the nearest names are France")
    assert "ask for 1 to 100" in served.refused("predict", "France", "currency", "tail", 101, False)
    assert "too long" in served.refused("entities", "x" * 201)
    assert "There is no file yet" in served.refused("queries", None, 3)


@pytest.mark.parametrize("values", [
    ("France", "currency", "tail", "x", True), (None, None, "tail", 2, True)])
def test_values_of_other_kinds_are_refused(served: Served, values: tuple[Any, ...]) -> None:
    assert "must be texts" in served.refused("predict", *values)


def test_an_upload_is_never_a_path(served: Served) -> None:
    def file(path: object) -> dict[str, object]:
        return {"path": str(path), "meta": {"_type": "gradio.FileData"}}

    secret = (served.run / "config.yaml").read_text()
    for path in ("/etc/passwd", served.run / "config.yaml", "../../etc/passwd"):
        event, data = served.call("queries", file(path), 3)
        assert event == "error"
        assert "root:" not in str(data)
        assert secret not in str(data)
    assert "A link is not fetched" in served.refused(
        "queries", file("http://127.0.0.1:9/queries.jsonl"), 3)
    for path in (f"file={served.run / 'config.yaml'}", "file=/etc/passwd"):
        assert served.status(f"gradio_api/{path}") in (403, 404)


@pytest.mark.parametrize("path", [
    "file=http://127.0.0.1:9/x", "file/http://127.0.0.1:9/x", "file/https://127.0.0.1:9/x",
    "file/%68ttp%3A%2F%2F127.0.0.1:9/x", "file%2Fhttp:%2f/127.0.0.1:9/x",
    "proxy=http://127.0.0.1:9/x"])
def test_what_a_path_names_is_never_fetched(served: Served, path: str) -> None:
    # Gradio itself would look the host up and say 403, here only because it is no public one.
    assert served.status(f"gradio_api/{path}") == 404


def test_a_large_upload_and_a_foreign_name_of_the_host_are_refused(served: Served) -> None:
    def body(size: int) -> bytes:
        return (b'--x\r\nContent-Disposition: form-data; name="files"; filename="q.jsonl"\r\n\r\n'
                + b"y" * size + b"\r\n--x--\r\n")

    form = {"Content-Type": "multipart/form-data; boundary=x"}
    (path,) = json.loads(served.get("gradio_api/upload", body(1000), **form))
    assert Path(path).name == "q.jsonl"
    assert served.status("gradio_api/upload", body(11_000_000), **form) == 413
    assert served.status("", Host="kgc.example") == 400
    for origin in ("http://evil.example", "null", "http://localhost.evil.example"):
        assert served.status("gradio_api/upload", body(9), Origin=origin, **form) == 403
    assert served.get("", Origin=served.url.rstrip("/"))


def test_an_upload_may_be_as_windows_writes_it(served: Served) -> None:
    query = '{"head": "France", "relation": "currency"}'
    (path,) = json.loads(served.get("gradio_api/upload", (
        '--x\r\nContent-Disposition: form-data; name="files"; filename="q.jsonl"\r\n\r\n'
        f"\ufeff{query}\r\n\r\n\r\n--x--\r\n").encode(), **{
            "Content-Type": "multipart/form-data; boundary=x"}))
    event, data = served.call("queries", {"path": path, "meta": {"_type": "gradio.FileData"}}, 3)
    assert event == "complete", data


def test_it_listens_on_loopback_only(served: Served) -> None:
    table = Path("/proc/net/tcp")
    if not table.exists():
        pytest.skip("only Linux tells who listens")
    port = f":{int(served.url.rstrip('/').rsplit(':', 1)[1]):04X}"
    found = [line.split() for line in table.read_text().splitlines()[1:]]
    assert {row[1] for row in found if row[1].endswith(port) and row[3] == "0A"} == {
        f"0100007F{port}"}
    tcp6 = Path("/proc/net/tcp6")
    assert not tcp6.exists() or not [
        line for line in tcp6.read_text().splitlines()[1:]
        if line.split()[1].endswith(port) and line.split()[3] == "0A"]


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_the_documented_calls_work(served: Served, tmp_path: Path) -> None:
    text = (ROOT / "docs" / "explorer.md").read_text("utf-8")
    python, = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    _, curl = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    for words in (["bash", "-ec", curl], [sys.executable, "-c", python]):
        words[-1] = words[-1].replace("http://127.0.0.1:7860", served.url.rstrip("/"))
        ran = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert ran.returncode == 0, ran.stderr
        assert '"probability"' in ran.stdout


# People.


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    if BROWSER is None:
        pytest.skip("there is no Chromium")
    with chromium(tmp_path_factory.mktemp("profile")) as page:
        yield page


ENTITY = "document.querySelector('#entity input')"
QUESTION = "document.querySelector('.kgc h2')?.innerText"
WHY = "document.querySelector('#reasons h2')?.innerText"


def ask(page: Chromium, name: str) -> None:
    """Type a name over what stands there, and press Enter."""
    page.evaluate(f"{ENTITY}.focus(), {ENTITY}.select()")
    page.write(name)
    page.press("Enter")


def test_a_person_asks_with_the_keyboard(served: Served, browser: Chromium) -> None:
    browser.open(served.url, 1200, 900)
    browser.wait_for(f"{WHY} && document.querySelectorAll('.answers li').length == 8")
    assert browser.evaluate(QUESTION) == "Germany — currency → ?"
    assert browser.evaluate("document.querySelector('.about img').naturalWidth") == 240
    assert "colours yellow" in browser.evaluate("document.querySelector('.about').innerText")
    # Names are shown as they are, whatever they look like.
    names = browser.evaluate("[...document.querySelectorAll('.answers .name')].map("
                             "name => name.textContent)")
    assert sorted(names) == sorted(NAMES)
    shares = [float(text.split("%")[0].lstrip("< ")) for text in browser.evaluate(
        "[...document.querySelectorAll('.answers .share')].map(share => share.innerText)")]
    assert sum(shares) == pytest.approx(100, abs=1)
    known = browser.evaluate("[...document.querySelectorAll('.answers li')].filter(row => "
                             "row.querySelector('.known')).map(row => "
                             "row.querySelector('.name').textContent)")
    assert known == ["Euro"]
    assert browser.evaluate("document.querySelectorAll('table tr').length") == 9  # of the parts
    assert "structure" in browser.evaluate("document.querySelector('.legend').innerText")

    browser.evaluate(f"{ENTITY}.focus(), {ENTITY}.select()")
    browser.write("jap")
    browser.wait_for("document.querySelector('#entity-names').options.length == 1")
    assert browser.evaluate(f"{ENTITY}.list.options[0].value") == "Japan"
    ask(browser, "japan")
    browser.wait_for(f"{QUESTION} == 'Japan — currency → ?' && {WHY}")
    first = browser.evaluate(WHY).removeprefix("Why ").removesuffix("?")
    second = browser.evaluate("document.querySelectorAll('.answers .name')[1].textContent")
    browser.evaluate("document.querySelectorAll('button[data-answer]')[1].focus()")
    browser.press("Enter")
    browser.wait_for(f"{WHY} == {json.dumps(f'Why {second}?')}")
    assert second != first
    read = browser.evaluate("document.querySelector('#reasons .input').innerText")
    assert "continent Asia" in read
    assert read.startswith("Japan")
    assert browser.evaluate("document.querySelectorAll('#reasons .effects li').length") == 2

    ask(browser, "Jupan")
    browser.wait_for("document.querySelector('[data-testid=toast-text]')")
    assert "nearest names are Japan" in browser.evaluate(
        "document.querySelector('[data-testid=toast-text]').innerText")
    browser.wait_for(f"!{QUESTION} && !{WHY}")


def test_every_control_is_reached_by_tab(served: Served, browser: Chromium) -> None:
    browser.open(served.url, 1200, 900)
    browser.wait_for(WHY)
    browser.evaluate(f"{ENTITY}.focus()")
    reached = []
    for _ in range(16):
        browser.press("Tab")
        reached.append(browser.evaluate(
            "document.activeElement.getAttribute('aria-label') || document.activeElement.innerText "
            "|| document.activeElement.type"))
    for control in ("Relation", "radio", "Ask", "Try a test question"):
        assert control in reached
    assert sum(label.startswith("Why ") for label in reached) >= 5


def test_a_file_of_queries_is_answered(
    served: Served, browser: Chromium, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    queries = tmp_path / "queries.jsonl"
    queries.write_text('{"head": "France", "relation": "currency"}\n'
                       '{"tail": "Asia", "relation": "continent"}\n')
    browser.open(served.url, 1200, 900)
    browser.wait_for(WHY)
    browser.evaluate("[...document.querySelectorAll('[role=tab]')].find(tab => "
                     "tab.innerText == 'Many').click()")
    browser.wait_for("document.querySelector('input[type=file]')")
    browser.choose_file("input[type=file]", queries)
    browser.wait_for("document.body.innerText.includes('queries.jsonl')")
    browser.evaluate("[...document.querySelectorAll('button')].find(button => "
                     "button.innerText == 'Answer the file').click()")
    browser.wait_for("document.querySelector('a[download=\"answers.json\"]')")
    address = browser.evaluate("document.querySelector('a[download=\"answers.json\"]').href")
    assert json.loads(served.get(address.removeprefix(served.url))) == answer(
        capsys, "predict", served.run, "--queries", queries)


def test_a_person_asks_about_something_new(
    served: Served, browser: Chromium, tmp_path: Path
) -> None:
    answered = "document.querySelector('#new-answers h2')?.innerText"
    error = "document.querySelector('[data-testid=toast-text]')?.innerText"

    def write(field: str, text: str) -> None:
        browser.evaluate(f"document.querySelector('#new-{field} :is(input, textarea)').select()")
        browser.write(text)

    flag = tmp_path / "flag.png"
    Image.new("RGB", (30, 20), "blue").save(flag)
    browser.open(served.url, 390, 844)  # also on a phone every tab is in sight
    browser.wait_for(WHY)
    browser.evaluate("[...document.querySelectorAll('[role=tab]')].find(tab => "
                     "tab.innerText == 'Something new').click()")
    browser.wait_for("document.querySelector('#new-name')?.offsetParent")
    assert browser.evaluate("document.querySelector('#new-facts textarea').placeholder"
                            ) == "currency | Euro"
    write("facts", "continent | Europe")
    browser.choose_file("#new-image input[type=file]", flag)
    browser.wait_for("document.querySelector('#new-image').innerText.includes('flag')")
    write("name", "Eurasia")
    browser.press("Enter")
    browser.wait_for(f"{answered} && document.querySelector('#new-reasons h2')")
    assert browser.evaluate(answered) == "Eurasia — currency → ?"
    assert browser.evaluate("document.querySelectorAll('#new-answers .answers li').length") == 9
    read = browser.evaluate("document.querySelector('#new-reasons .input').innerText")
    assert read.startswith("Eurasia")
    assert "colours blue" in read
    assert "continent Europe" in read
    assert browser.evaluate(
        "[...document.querySelectorAll('#new-reasons .effects [class^=src-]')]"
        ".map(source => source.innerText).sort()") == ["caption", "fact"]
    assert browser.evaluate("document.documentElement.scrollWidth") <= 390

    write("facts", "continent Europe")
    browser.evaluate("document.querySelector('#new-ask').click()")
    browser.wait_for(error)
    assert browser.evaluate(error) == (
        "The fact 'continent Europe' is not 'relation | other end'; mend it.")
    browser.wait_for(f"!{answered}")  # an answer to another question would mislead


def test_it_fits_a_phone_and_a_dark_room(served: Served, browser: Chromium) -> None:
    def background() -> Any:
        return browser.evaluate("getComputedStyle(document.body).backgroundColor")

    browser.open(served.url, 390, 844)
    browser.wait_for(WHY)
    assert browser.evaluate("document.documentElement.scrollWidth") <= 390
    light = background()
    browser.open(served.url, 390, 844, dark=True)
    browser.wait_for(f"{WHY} && document.querySelector('.dark')")
    assert background() != light
    # The text of the answers stands out from what is behind it: WCAG's 4.5 : 1.
    contrast = browser.evaluate("""(() => {
        const light = colour => {
            const parts = colour.match(/[0-9.]+/g).slice(0, 3).map(part => part / 255).map(
                part => part <= .03928 ? part / 12.92 : ((part + .055) / 1.055) ** 2.4);
            return .2126 * parts[0] + .7152 * parts[1] + .0722 * parts[2];
        };
        const behind = light(getComputedStyle(document.body).backgroundColor);
        return [".name", ".known", ".share", ".note"].map(selector => {
            const ink = light(getComputedStyle(document.querySelector(".kgc " + selector)).color);
            return (Math.max(ink, behind) + .05) / (Math.min(ink, behind) + .05);
        });
    })()""")
    assert min(contrast) >= 4.5


def test_nothing_is_asked_of_another_host(served: Served, browser: Chromium) -> None:
    browser.open(served.url, 1200, 900)
    browser.wait_for(WHY)
    asked = browser.requests()
    assert len(asked) > 10
    assert [url for url in asked if not url.startswith((served.url, "data:", "blob:"))] == []
    with urllib.request.urlopen(served.url, timeout=60) as answer:
        assert "default-src 'self'" in answer.headers["content-security-policy"]
    # And a page that tried would be stopped.
    assert browser.evaluate("fetch('http://127.0.0.1:9/').then(() => 'asked', () => 'stopped')"
                            ) == "stopped"
    assert any("Content Security Policy" in str(event) for event in browser.events)
