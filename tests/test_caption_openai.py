"""Captioning through a server that misbehaves on purpose."""

from __future__ import annotations

import base64
import json
import math
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from test_caption_build import make_dataset

from caption_cache import cli
from caption_cache.build import Task, build
from caption_cache.captioners import Judge, Refusal, Request, YesNo
from caption_cache.captioners.openai_server import OpenAICaptioner, OpenAIOptions
from caption_cache.errors import InputError
from caption_cache.images import decode
from caption_cache.store import Store

KEY = "made-up-for-this-test"


class Server(ThreadingHTTPServer):
    """Answers with the red of the images, unless `plan` tells otherwise for that red."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.plan: dict[int | None, list[str]] = {}
        """By red (None: of all others), what happens at the first, second, … try; then all is
        well. A last ``…`` repeats what stands before it for ever."""
        self.tries: dict[int, int] = {}
        self.bodies: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.visits: list[str] = []
        self.busy = self.most_busy = 0
        self.lock = threading.Lock()
        self.closing = threading.Event()
        self.gate: threading.Barrier | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def next_act(self, red: int) -> str:
        with self.lock:
            done = self.tries[red] = self.tries.get(red, 0) + 1
        acts = self.plan.get(red, self.plan.get(None, []))
        if acts and acts[-1] == "…":
            return acts[min(done, len(acts) - 1) - 1]
        return acts[done - 1] if done <= len(acts) else "well"


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        parts = body["messages"][0]["content"]
        images = [decode(base64.b64decode(part["image_url"]["url"].partition(",")[2]))
                  for part in parts if part["type"] == "image_url"]
        reds = [round(image.getpixel((0, 0))[0]) for image in images]  # type: ignore[index]
        with server.lock:
            server.bodies.append({**body, "sizes": [image.size for image in images]})
            server.keys.add(self.headers.get("Authorization"))
            server.busy += 1
            server.most_busy = max(server.most_busy, server.busy)
        if server.gate is not None:
            server.gate.wait(timeout=30)
        self.close_connection = True
        with suppress(ConnectionError):  # the client has lost its patience
            getattr(self, f"act_{server.next_act(reds[0])}")(body, reds)

    def send(self, code: int, text: str, **headers: str) -> None:
        data = text.encode()
        self.send_response(code)
        for name, value in {"Content-Length": str(len(data)), "Connection": "close",
                            **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def act_well(self, body: dict[str, Any], reds: list[int]) -> None:
        with self.server.lock:  # no later: who is answered may ask the next at once
            self.server.busy -= 1
        choice: dict[str, Any] = {"message": {
            "role": "assistant", "content": " shows " + " ".join(map(str, reds)) + "\n"}}
        if body.get("logprobs"):
            choice["logprobs"] = {"content": [{"token": "Yes", "top_logprobs": [
                {"token": token, "logprob": math.log(chance)} for token, chance in
                ((" Yes", 0.3), ("yes", 0.1), ("▁No", 0.2), ("no", 0.05), ("Nope", 0.3))]}]}
        self.send(200, json.dumps({"choices": [choice]}))

    def act_thought(self, *_: Any) -> None:
        first = {"token": "<think>", "top_logprobs": [{"token": "<think>", "logprob": -0.1}]}
        self.send(200, json.dumps({"choices": [{"logprobs": {"content": [first]}}]}))

    def act_without_logprobs(self, body: dict[str, Any], reds: list[int]) -> None:
        self.act_well({**body, "logprobs": False}, reds)

    def act_429(self, *_: Any) -> None:
        self.send(429, '{"error": {"message": "slow down"}}', Retry_After="0")

    def act_429_dated(self, *_: Any) -> None:
        self.send(429, "", Retry_After="Wed, 21 Oct 2026 07:28:00 GMT")

    def act_500(self, *_: Any) -> None:
        self.send(500, "<html>oops</html>")

    def act_503(self, *_: Any) -> None:
        self.send(503, "")

    def act_400(self, *_: Any) -> None:
        self.send(400, '{"error": "image too odd"}')

    def act_401(self, *_: Any) -> None:
        self.send(401, json.dumps({"error": {"message": f"Incorrect API key: {KEY}"}}))

    def act_404(self, *_: Any) -> None:
        self.send(404, json.dumps({"message": f"no such model for {KEY} or sk-" + "x" * 9}))

    def act_elsewhere(self, *_: Any) -> None:
        self.send(302, "", Location=self.server.url + "/elsewhere")

    def do_GET(self) -> None:
        self.server.visits.append(self.path)
        self.send(200, "")

    def act_slow(self, *_: Any) -> None:
        self.server.closing.wait()

    def act_dribble(self, *_: Any) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000000")
        self.end_headers()
        while not self.server.closing.wait(0.02):
            self.wfile.write(b" ")

    def act_cut(self, *_: Any) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b'{"choices": [')

    def act_cut_chunk(self, *_: Any) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"ff\r\n{")

    def act_hang_up(self, *_: Any) -> None:
        self.connection.shutdown(socket.SHUT_RDWR)

    def act_no_json(self, *_: Any) -> None:
        self.send(200, "well, well")

    def act_no_choice(self, *_: Any) -> None:
        self.send(200, '{"choices": []}')

    def act_list(self, *_: Any) -> None:
        self.send(200, '[{"choices": 1}]')

    def act_numbers(self, *_: Any) -> None:
        self.send(200, '{"choices": [{"message": {"content": 7}}]}')

    def act_silence(self, *_: Any) -> None:
        self.send(200, '{"choices": [{"message": {"content": null}}]}')


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.closing.set()
    server.shutdown()
    thread.join()
    server.server_close()


def client(server: Server, **options: Any) -> OpenAICaptioner:
    return OpenAICaptioner(OpenAIOptions(**{
        "model": "m", "base_url": server.url, "image_format": "png", "first_pause": 0.001,
        "retries": 2, "timeout": 30.0, "concurrency": 4, **options}))


def requests(count: int) -> list[Request]:
    return [Request((Image.new("RGB", (8, 6), (red, 0, 0)),), "what?") for red in range(count)]


def test_texts_come_in_the_order_of_the_requests(server: Server) -> None:
    assert client(server).caption(requests(9)) == [f"shows {red}" for red in range(9)]
    assert server.keys == {f"Bearer {KEY}"}
    body = server.bodies[0]
    assert (body["model"], body["temperature"], body["max_tokens"], body["seed"]) == (
        "m", 0.0, 64, 0)
    assert body["messages"][0]["content"][-1] == {"type": "text", "text": "what?"}


def test_several_images_are_sent_in_order_and_large_ones_shrunk(server: Server) -> None:
    images = tuple(Image.new("RGB", (400, 100), (red,) * 3) for red in (9, 3))
    for kind in ("png", "jpeg"):
        [text] = client(server, max_side=200, image_format=kind).caption([Request(images, "?")])
        assert text == "shows 9 3"
        assert server.bodies[-1]["sizes"] == [(200, 50)] * 2


def test_without_a_key_none_is_sent(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    client(server).caption(requests(1))
    assert server.keys == {None}


@pytest.mark.parametrize("key", ["sk-abc…xyz", f"{KEY}\nsecond line"])
def test_a_key_that_is_none_is_refused(
    server: Server, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(InputError, match="OPENAI_API_KEY has a line break") as error:
        client(server)
    assert key not in str(error.value)


def test_the_line_break_of_a_key_read_from_a_file_is_not_sent(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\n")
    assert client(server, retries=0).caption(requests(1)) == ["shows 0"]
    assert server.keys == {f"Bearer {KEY}"}


def test_as_many_requests_as_allowed_are_under_way_and_no_more(server: Server) -> None:
    server.gate = threading.Barrier(3)  # nothing is answered before three are there
    client(server, concurrency=3).caption(requests(9))
    assert server.most_busy == 3


@pytest.mark.parametrize("act", ["429", "429_dated", "500", "503", "cut", "cut_chunk", "hang_up",
                                 "no_json", "no_choice", "list", "numbers"])
def test_errors_that_pass_are_tried_again(server: Server, act: str) -> None:
    server.plan = {1: [act, act]}
    assert client(server).caption(requests(3)) == ["shows 0", "shows 1", "shows 2"]
    assert server.tries == {0: 1, 1: 3, 2: 1}


@pytest.mark.parametrize(("act", "refusal", "tries"), [
    ("429", Refusal.SERVER, 3), ("500", Refusal.SERVER, 3), ("hang_up", Refusal.SERVER, 3),
    ("cut", Refusal.MALFORMED, 3), ("no_json", Refusal.MALFORMED, 3),
    ("400", Refusal.REFUSED, 1),
])
def test_errors_that_stay_cost_one_text_only(
    server: Server, act: str, refusal: Refusal, tries: int
) -> None:
    server.plan = {1: [act, "…"]}
    assert client(server).caption(requests(3)) == ["shows 0", refusal, "shows 2"]
    assert server.tries[1] == tries
    assert refusal.mend


@pytest.mark.parametrize("act", ["slow", "dribble"])
def test_answers_that_are_not_complete_in_time_are_given_up(server: Server, act: str) -> None:
    server.plan = {1: [act, "…"]}
    assert client(server, timeout=0.6, retries=1).caption(requests(2)) == [
        "shows 0", Refusal.SLOW]
    assert server.tries[1] == 2


def test_silence_is_an_empty_text(server: Server) -> None:
    server.plan = {0: ["silence"]}
    assert client(server).caption(requests(1)) == [""]


@pytest.mark.parametrize(("act", "message"), [
    ("401", r"refuses the key \(status 401\); put a valid one into the .* OPENAI_API_KEY"),
    ("404", r"has no model 'm', or no chat completions \(status 404: no such model for … or …\)"),
    ("elsewhere", r"leads elsewhere \(status 302\)"),
])
def test_errors_of_the_user_end_the_build_at_once_and_never_show_the_key(
    server: Server, act: str, message: str
) -> None:
    server.plan = {None: [act, "…"]}
    with pytest.raises(InputError, match=message) as error:
        client(server).caption(requests(40))
    assert KEY not in str(error.value)
    assert len(server.bodies) <= 4, "those under way; the others were not sent"
    assert server.visits == [], "nobody else got the key"


@pytest.mark.parametrize(("act", "said"), [("500", "oops"), ("400", "image too odd"),
                                           ("no_json", "its answer is malformed")])
def test_where_nothing_succeeds_any_more_the_build_ends(
    server: Server, act: str, said: str
) -> None:
    server.plan = {red: [act, "…"] for red in range(2, 100)}
    engine = client(server, retries=0)
    assert engine.caption(requests(9))[:2] == ["shows 0", "shows 1"]
    with pytest.raises(InputError, match=rf"no text for the last \d+ requests .*{said}"):
        engine.caption(requests(100)[2:])


def test_server_that_is_not_there_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    engine = OpenAICaptioner(OpenAIOptions("m", f"http://127.0.0.1:{port}/v1", retries=1,
                                           first_pause=0.001))
    with pytest.raises(InputError, match=rf"127.0.0.1:{port}/v1 cannot be reached .*refused"):
        engine.caption(requests(3))


def test_yes_and_no_are_summed_over_their_spellings(server: Server) -> None:
    engine = client(server)
    assert isinstance(engine, Judge)
    [answer] = engine.judge(requests(1))
    assert isinstance(answer, YesNo)
    assert answer == pytest.approx((0.4, 0.25))
    assert server.bodies[0]["max_tokens"] == 1
    server.plan = {1: ["thought", "…"]}
    assert engine.judge(requests(2))[1] is Refusal.MALFORMED
    server.plan = {None: ["without_logprobs", "…"]}
    with pytest.raises(InputError, match=r"no log-probabilities.*--keep-all"):
        engine.judge(requests(1))


def test_identity_knows_no_place_and_no_key(server: Server) -> None:
    identity = client(server).identity
    assert (identity.captioner, identity.model, identity.back_end) == ("openai", "m", "png-1024")
    for unimportant in ({"base_url": "http://other/v1"}, {"concurrency": 9}, {"timeout": 1.0}):
        assert client(server, **unimportant).identity == identity
    for important in ({"max_tokens": 9}, {"temperature": 1.0}, {"top_p": 0.5}, {"seed": 1},
                      {"model": "n"}, {"revision": "r"}, {"image_format": "jpeg"},
                      {"max_side": 512}):
        assert client(server, **important).identity != identity
    assert "127.0.0.1" not in repr(identity)


@pytest.mark.parametrize(("options", "message"), [
    ({"base_url": "localhost:8000"}, "is no address"),
    ({"base_url": "http://me:secret@host/v1"}, "--base-url holds a password"),
    ({"base_url": "http://host/v1?key=secret"}, "--base-url holds a password or a query"),
    ({"concurrency": 0}, "--concurrency is 0"), ({"timeout": 0.0}, "--timeout is 0"),
    ({"max_tokens": 0}, "--max-tokens is 0"), ({"retries": -1}, "--retries is -1"),
    ({"top_p": 2.0}, "--top-p is 2"), ({"max_side": 1}, "--max-side is 1"),
])
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        OpenAIOptions(**{"model": "m", **options})
    assert "secret" not in str(error.value)


# --- whole builds ----------------------------------------------------------------------------


def run_build(
    capsys: pytest.CaptureFixture[str], dataset: Path, server: Server, *more: object
) -> tuple[int, str, str]:
    code = cli.main([*map(str, (
        "build", dataset, "--captioner", "openai", "--model", "m", "--base-url", server.url,
        "--image-format", "png", "--first-pause", 0.001, "--retries", 1, "--concurrency", 3,
        "--json", *more))])
    return code, *capsys.readouterr()


def test_build_records_what_failed_and_retries_it_on_request(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = make_dataset(tmp_path / "data", 12)
    server.plan = {1: ["500", "429"], 4: ["400"], 7: ["cut"], 8: ["silence"]}
    code, out, _ = run_build(capsys, dataset, server)
    report = json.loads(out)
    assert (code, report["captioned"], report["rejected"]) == (1, 10, 1)
    assert [(failure["image"], failure["reason"]) for failure in report["failures"]] == [
        ("images/e1/a.png", "server-error"), ("images/e4/a.png", "refused-by-the-server")]
    code, out, _ = run_build(capsys, dataset, server, "--retry", "failed", "--retry", "rejected")
    report = json.loads(out)
    assert (code, report["captioned"], report["rejected"], report["failures"]) == (0, 3, 0, [])
    for path in dataset.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path


def test_build_that_loses_the_key_keeps_what_it_has(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = make_dataset(tmp_path / "data", 40)
    server.plan = {None: []}
    engine = client(server, concurrency=2)
    assert build(dataset, engine, limit=16, show_progress=False).captioned == 16
    server.plan = {None: ["401", "…"]}
    with pytest.raises(InputError, match="refuses the key") as error:
        build(dataset, engine, show_progress=False)
    assert KEY not in str(error.value)
    assert Store(dataset).read().num_rows == 16
    server.plan = {}
    done = build(dataset, engine, Task(), show_progress=False)
    assert (done.done_before, done.captioned) == (16, 24)
    code, _, err = run_build(capsys, dataset, server, "--top-p", 7)
    assert (code, "--top-p is 7.0" in err, err.count("\n")) == (2, True, 1)
