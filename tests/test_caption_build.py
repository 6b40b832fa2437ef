"""Building: once, all, resumed, divided, killed."""

from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from threading import Event, Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from test_caption_images import png_of_size

import caption_cache.build as building
from caption_cache import fingerprints, images
from caption_cache.build import Report, Task, build, preview
from caption_cache.build.processes import Processes
from caption_cache.captioners import Identity, InVain, Refusal, Request
from caption_cache.captions import current_rows, read_captions
from caption_cache.errors import InputError
from caption_cache.images import Flaw
from caption_cache.store import Row, Store
from caption_cache.verify import verify


class Shades:
    """Says the colour of the first pixel, and remembers what it was asked."""

    identity = Identity("shades", revision="1")
    prompted = False
    batch_size = 4

    def __init__(self) -> None:
        self.asked: list[Request] = []

    def caption(self, requests: Sequence[Request]) -> list[str]:
        self.asked += requests
        return ["-".join(map(str, shown(request))) for request in requests]


class Talkative(Shades):
    """Repeats the third word of the question, the colour and the number of images."""

    identity = Identity("talkative", model="m", settings={"beams": 1})
    prompted = True

    def caption(self, requests: Sequence[Request]) -> list[str]:
        return [f"{(request.prompt or '').split()[2]} {text}"
                for request, text in zip(requests, super().caption(requests), strict=True)]


def shown(request: Request) -> tuple[int, ...]:
    colour = request.images[0].getpixel((0, 0))
    assert isinstance(colour, tuple)
    return tuple(map(int, colour))


def paint(path: Path, red: int, green: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), (red, green, 0)).save(path, "PNG")


def make_dataset(folder: Path, entities: int) -> Path:
    """Entity ``e<i>`` has one image; its text is ``<i>-0-0``."""
    folder.mkdir(exist_ok=True)
    (folder / "entities.tsv").write_text(
        "id\tname\n" + "".join(f"e{i}\tEntity {i}\n" for i in range(entities)))
    for i in range(entities):
        paint(folder / f"images/e{i}/a.png", i)
    return folder


def run(dataset: Path, captioner: Shades | None = None, limit: int | None = None) -> Report:
    return build(dataset, captioner or Shades(), limit=limit, show_progress=False)


def texts(dataset: Path) -> dict[str, str]:
    return read_captions(dataset).texts


def expected(entities: int) -> dict[str, str]:
    return {f"e{i}": f"{i}-0-0" for i in range(entities)}


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return make_dataset(tmp_path / "data", 10)


def test_every_image_is_captioned_once(dataset: Path) -> None:
    captioner = Shades()
    first = run(dataset, captioner)
    assert (first.items, first.captioned, first.done_before, first.left) == (10, 10, 0, 0)
    assert sorted(map(shown, captioner.asked)) == [(i, 0, 0) for i in range(10)]
    assert texts(dataset) == expected(10)

    again = run(dataset, captioner)
    assert (again.captioned, again.done_before) == (0, 10)
    assert len(captioner.asked) == 10
    assert verify(dataset) == (10, [])


def test_preview_counts_and_writes_nothing(dataset: Path) -> None:
    paint(dataset / "images/e1/same-as-e0.png", 0)
    before = preview(dataset, Shades())
    assert (before.items, before.done, before.at_once, before.to_caption) == (11, 0, 0, 10)
    assert not (dataset / "captions").exists()
    run(dataset, limit=1)
    paint(dataset / "images/e2/same-as-e0.png", 0)
    after = preview(dataset, Shades())
    assert (after.items, after.done, after.at_once, after.to_caption) == (12, 2, 1, 9)


def test_limit_is_kept_and_the_next_start_goes_on(dataset: Path) -> None:
    captioner = Shades()
    assert (run(dataset, captioner, limit=6).captioned, len(captioner.asked)) == (6, 6)
    assert run(dataset, captioner, limit=3).left == 1
    last = run(dataset, captioner)
    assert (last.captioned, last.done_before, last.left) == (1, 9, 0)
    assert len(captioner.asked) == 10
    assert texts(dataset) == expected(10)


def test_same_image_of_several_entities_is_captioned_once(dataset: Path) -> None:
    for path in ("e1/same.png", "e2/same.png", "e2/twice.png"):
        paint(dataset / "images" / path, 0)
    captioner = Shades()
    report = run(dataset, captioner)
    assert (report.items, report.captioned, report.reused) == (12, 10, 2)
    assert len(captioner.asked) == 10
    paint(dataset / "images/e3/same.png", 0)
    report = run(dataset, captioner)
    assert (report.captioned, report.reused, len(captioner.asked)) == (0, 1, 10)
    assert texts(dataset)["e2"] == "2-0-0 0-0-0"
    assert texts(dataset)["e3"] == "3-0-0 0-0-0"


def test_prompt_is_asked_and_part_of_the_key(dataset: Path, tmp_path: Path) -> None:
    paint(dataset / "images/e1/a.png", 0)
    captioner = Talkative()
    assert run(dataset, captioner).captioned == 10  # the equal images are asked about by name
    prompt = captioner.asked[1].prompt
    assert prompt is not None
    assert "Entity 1" in prompt
    assert texts(dataset)["e1"] == "belongs 0-0-0"
    file = tmp_path / "own.toml"
    file.write_text('[entity]\nversion = 2\nnamed = "What is {name}?"\nhidden = "What?"\n')
    report = build(dataset, captioner, Task(prompts=file), show_progress=False)
    assert report.captioned == 10
    assert "What is Entity 9?" in [request.prompt for request in captioner.asked]
    assert {row["prompt_id"] for row in Store(dataset).read().to_pylist()} == {
        "entity-1", "entity-2"}


def test_changed_image_is_captioned_anew_and_the_old_text_not_read(dataset: Path) -> None:
    run(dataset)
    paint(dataset / "images/e3/a.png", 30)
    assert texts(dataset) == {k: v for k, v in expected(10).items() if k != "e3"}
    [finding] = verify(dataset)[1]
    assert finding.where == "images/e3/a.png"
    assert run(dataset).captioned == 1
    assert texts(dataset) == {**expected(10), "e3": "30-0-0"}
    paint(dataset / "images/e3/a.png", 3)
    assert run(dataset).captioned == 0
    assert texts(dataset) == expected(10)


def test_verify_names_the_image_that_went_and_not_those_shown_with_it(dataset: Path) -> None:
    paint(dataset / "images/e0/b.png", 50)
    build(dataset, Talkative(), Task(scope="visual"), show_progress=False)
    (dataset / "images/e0/b.png").unlink()
    assert [finding.where for finding in verify(dataset)[1]] == ["images/e0/b.png"]


def test_renamed_and_removed_images(dataset: Path) -> None:
    run(dataset)
    (dataset / "images/e3/a.png").rename(dataset / "images/e3/b.png")
    (dataset / "images/e4/a.png").unlink()
    assert run(dataset).captioned == 0
    assert texts(dataset) == {k: v for k, v in expected(10).items() if k != "e4"}


def test_captions_can_travel_without_images(dataset: Path) -> None:
    run(dataset)
    (dataset / "images").rename(dataset / "away")
    assert texts(dataset) == expected(10)


def test_texts_of_an_entity_are_joined_in_the_order_of_its_images(dataset: Path) -> None:
    for name, red in [("c", 70), ("b", 80), ("d", 70)]:
        paint(dataset / f"images/e0/{name}.png", red, green=ord(name) // 200)
    run(dataset)
    assert read_captions(dataset).texts["e0"] == "0-0-0 80-0-0 70-0-0"


def test_text_about_several_images_is_current_while_all_are_there(dataset: Path) -> None:
    run(dataset)
    paint(dataset / "images/e0/b.png", 50)
    run(dataset)
    rows = Store(dataset).read().to_pylist()
    both = {**rows[0], "key": "both", **{name: [rows[-1][name][0], rows[0][name][0]]
                                         for name in ("images", "image_hashes")}}
    with Store(dataset).writing() as writer:
        writer.add([Row(**both)])
    assert current_rows(dataset)["key"].to_pylist()[:3] == [
        rows[0]["key"], "both", rows[-1]["key"]]
    (dataset / "images/e0/b.png").unlink()
    assert "both" not in current_rows(dataset)["key"].to_pylist()


def test_several_sources_must_be_told_apart(dataset: Path) -> None:
    with pytest.raises(InputError, match="has no captions"):
        read_captions(dataset)
    run(dataset)
    run(dataset, Talkative())
    with pytest.raises(InputError, match=r"by several sources.*shades 1 \[\w{8}\]; talkative m"):
        read_captions(dataset)
    shades = read_captions(dataset, "shades")
    assert shades.texts == expected(10)
    assert shades.sources[0].identity == Shades.identity
    assert read_captions(dataset, shades.sources[0].id[:8]) == shades
    assert read_captions(dataset, "m").sources[0].prompt_id == "entity-1"
    with pytest.raises(InputError, match=r"no captions by 'x'; there are: shades 1"):
        read_captions(dataset, "x")


# --- images that cannot be used --------------------------------------------------------------


def test_failed_images_are_recorded_and_the_build_goes_on(dataset: Path, tmp_path: Path) -> None:
    paint(tmp_path / "secret.png", 200)
    (dataset / "images/e1/a.png").write_bytes(b"")
    (dataset / "images/e2/a.png").write_bytes((dataset / "images/e3/a.png").read_bytes()[:-30])
    (dataset / "images/e4/link.png").symlink_to(tmp_path / "secret.png")
    (dataset / "images/e5/folder.png").mkdir()
    (dataset / "images/e6/bomb.png").write_bytes(png_of_size(12_000, 12_000))
    report = run(dataset)
    failed = [(failure.image, failure.reason) for failure in report.failures]
    assert failed == [
        ("images/e1/a.png", Flaw.EMPTY), ("images/e2/a.png", Flaw.DAMAGED),
        ("images/e4/link.png", Flaw.OUTSIDE), ("images/e5/folder.png", Flaw.NOT_A_FILE),
        ("images/e6/bomb.png", Flaw.TOO_LARGE)]
    assert (report.items, report.captioned) == (13, 8)
    assert texts(dataset) == {k: v for k, v in expected(10).items() if k not in ("e1", "e2")}

    rows = Store(dataset).read()
    assert rows["status"].to_pylist().count("failed") == 5
    again = run(dataset)
    assert (again.captioned, again.done_before, again.failures) == (0, 13, report.failures)
    assert Store(dataset).read().num_rows == 13

    paint(dataset / "images/e1/a.png", 1)
    mended = run(dataset)
    assert (mended.captioned, len(mended.failures)) == (1, 4)
    assert verify(dataset)[1] == []


def test_data_set_without_a_usable_image_is_refused(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "data", 2)
    for i in range(2):
        (dataset / f"images/e{i}/a.png").write_bytes(b"x")
    for _ in range(2):
        with pytest.raises(InputError, match=r"None of the 2 images .* images/e0/a.png"):
            run(dataset)


def test_image_that_changes_while_the_build_runs_is_left_for_the_next(dataset: Path) -> None:
    class Meddler(Shades):
        batch_size = 1

        def caption(self, requests: Sequence[Request]) -> list[str]:
            paint(dataset / "images/e9/a.png", 90)
            return super().caption(requests)

    captioner = Meddler()
    assert run(dataset, captioner).left == 1
    last = run(dataset, captioner)
    assert (last.captioned, last.left) == (1, 0)
    assert texts(dataset) == {**expected(10), "e9": "90-0-0"}


def test_refused_build_writes_nothing(dataset: Path) -> None:
    paint(dataset / "images/nobody/a.png", 1)
    with pytest.raises(InputError, match="'nobody' is no id"):
        run(dataset)
    assert not (dataset / "captions").exists()


def test_second_build_waits_for_the_first(dataset: Path) -> None:
    late = Shades()
    second = Thread(target=run, args=(dataset, late))
    waiting = Event()

    class Notice(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            waiting.set()

    class First(Shades):
        def caption(self, requests: Sequence[Request]) -> list[str]:
            if not self.asked:
                second.start()
                assert waiting.wait(timeout=60)
            return super().caption(requests)

    log = logging.getLogger("caption_cache")
    notice = Notice()
    log.addHandler(notice)
    try:
        run(dataset, First())
        second.join()
    finally:
        log.removeHandler(notice)
    assert late.asked == []
    assert verify(dataset) == (10, [])


def test_captioner_that_stops_keeps_what_was_written(dataset: Path) -> None:
    class Stopper(Shades):
        def caption(self, requests: Sequence[Request]) -> list[str]:
            if len(self.asked) >= 8:
                raise InputError("The key is refused.")
            return super().caption(requests)

    with pytest.raises(InputError, match="The key is refused"):
        run(dataset, Stopper())
    last = run(dataset)
    assert (last.done_before, last.captioned) == (8, 2)


# --- the remembered hashes -------------------------------------------------------------------


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    read: list[str] = []
    original = images.read_bytes

    def counted(root: Path, path: str) -> bytes:
        read.append(path)
        return original(root, path)

    monkeypatch.setattr(fingerprints, "read_bytes", counted)
    return read


class Cramped(Shades):
    """Sees small images only, and says after three others in a row that it is in vain."""

    batch_size = 4

    def __init__(self, largest: int) -> None:
        super().__init__()
        self.largest, self.failed = largest, 0

    def caption(self, requests: Sequence[Request]) -> list[str | Refusal]:
        answers: list[str | Refusal] = []
        for request, text in zip(requests, super().caption(requests), strict=True):
            fits = request.images[0].width <= self.largest
            self.failed = 0 if fits else self.failed + 1
            if self.failed >= 3:
                raise InVain("All in vain; take another.", Refusal.MEMORY)
            answers.append(text if fits else Refusal.MEMORY)
        return answers


def test_large_images_that_are_in_vain_fail_alone(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "data", 12)
    for i in range(7):
        Image.new("RGB", (300 + i, 300), (i, 9, 9)).save(dataset / f"images/e{i}/a.png")
    with pytest.raises(InputError, match="All in vain"):
        run(dataset, Cramped(0))
    assert Store(dataset).read().num_rows == 0
    report = run(dataset, Cramped(50))
    assert (report.captioned, len(report.failures)) == (5, 7)
    assert {failure.reason for failure in report.failures} == {"out-of-memory"}
    assert set(texts(dataset)) == {f"e{i}" for i in range(7, 12)}
    again = run(dataset, Cramped(50))
    assert (again.captioned, again.done_before) == (0, 12)


def age(dataset: Path) -> None:
    for path in dataset.glob("images/*/*"):
        os.utime(path, (1e9, 1e9))


def test_unchanged_images_are_not_read_again(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    age(dataset)
    run(dataset)
    read = count_reads(monkeypatch)
    run(dataset)
    assert read == []
    paint(dataset / "images/e3/a.png", 30)
    assert run(dataset).captioned == 1
    assert read == ["images/e3/a.png"]
    age(dataset)
    run(dataset)
    read.clear()
    Image.new("RGB", (99, 99), (40, 9, 9)).save(dataset / "images/e3/a.png")
    age(dataset)  # as an archive that keeps times unpacks another file
    assert run(dataset).captioned == 1
    assert read == ["images/e3/a.png"]


def test_just_changed_images_are_read_again(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second change within one tick of the file system's clock must not be overlooked."""
    run(dataset)
    read = count_reads(monkeypatch)
    run(dataset)
    assert len(read) == 10


@pytest.mark.parametrize("damage", [
    Path.unlink, lambda index: index.write_bytes(b"x"), lambda index: index.write_bytes(b"")])
def test_remembered_hashes_can_be_deleted(dataset: Path, damage: object) -> None:
    age(dataset)
    run(dataset)
    assert callable(damage)
    damage(Store(dataset).index)
    assert run(dataset).done_before == 10
    assert texts(dataset) == expected(10)


def test_verify_reads_images_whose_time_lies(dataset: Path) -> None:
    age(dataset)
    run(dataset)
    path = dataset / "images/e3/a.png"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    age(dataset)
    assert [finding.where for finding in verify(dataset)[1]] == ["images/e3/a.png"]


# --- several processes -----------------------------------------------------------------------


@given(key=st.text("0123456789abcdef", min_size=64, max_size=64), count=st.integers(1, 64))
def test_every_key_is_owned_by_exactly_one_process(key: str, count: int) -> None:
    assert sum(Processes(rank, count).owns(key) for rank in range(count)) == 1


class Alone(Processes):
    """One of several processes that run one after the other."""

    def wait(self) -> None:
        pass


def test_processes_divide_the_work_and_another_number_goes_on(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captioner = Shades()
    for rank, count in [(0, 3), (2, 3), (1, 2), (0, 2)]:
        monkeypatch.setattr(building, "joined", partial(nullcontext, Alone(rank, count)))
        run(dataset, captioner)
    assert sorted(map(shown, captioner.asked)) == [(i, 0, 0) for i in range(10)]
    assert texts(dataset) == expected(10)


# --- killed ----------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from pathlib import Path
from threading import Event, Thread
from test_caption_build import Shades
from caption_cache.build import build

dataset, log, left = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])

class Logged(Shades):
    def caption(self, requests):
        with log.open("a") as file:
            file.write("asked\\n" * len(requests))
        return super().caption(requests)

def step(event, arguments):
    global left
    if event in ("open", "os.rename"):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(step)
build(dataset, Logged(), show_progress=False)
print(left)
"""


def test_killed_build_loses_at_most_a_batch(tmp_path: Path) -> None:
    """Killed at random calls of the operating system, the build ends with every item once."""
    items = 60
    log = tmp_path / "asked"

    def start(dataset: Path, left: int) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        return subprocess.run([sys.executable, "-c", KILLED, dataset, log, str(left)],
                              env=environment, capture_output=True, text=True, check=False)

    whole = start(make_dataset(tmp_path / "whole", items), 10**9)
    steps = 10**9 - int(whole.stdout)
    log.unlink()

    dataset = make_dataset(tmp_path / "data", items)
    chance = random.Random(0)
    kills = 0
    for _ in range(6):
        done = start(dataset, chance.randrange(1, steps))
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        kills += done.returncode != 0
        rows = Store(dataset).read()
        assert set(zip(rows["entity"].to_pylist(), rows["text"].to_pylist(), strict=True)) <= set(
            expected(items).items())
    run(dataset)
    assert kills >= 3
    assert texts(dataset) == expected(items)
    asked = len(log.read_text().splitlines())
    assert asked <= items + kills * Shades.batch_size
    assert verify(dataset) == (items, [])
