"""What real disks, folders and downloads do to a build, through the real command line."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from PIL import Image
from test_caption_build import make_dataset
from test_caption_images import (
    BLUE,
    SVG,
    animated,
    encoded,
    half_transparent,
    red_left_blue_right,
    rotated,
    sixteen_bits,
    transparent_palette,
)

from caption_cache import cli
from caption_cache.store import Store
from caption_cache.verify import verify


def python(*words: object, **how: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, words)], capture_output=True, text=True, check=False, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, **how)


def test_fifty_kills_of_two_processes_cost_a_batch_each_and_no_row() -> None:
    done = python("scripts/kill_builds.py", "--rounds", 50)
    result = json.loads(done.stdout)
    assert (done.returncode, result["ok"]) == (0, True), (result, done.stderr)
    assert result["kills"] >= 50
    assert result["asked_by_the_last_build"] > 0


def test_two_processes_end_with_a_sentence_when_one_has_failed(tmp_path: Path) -> None:
    """The first runs out of room; the other must neither wait for it nor show a traceback."""
    dataset = make_dataset(tmp_path / "data", 40)
    done = python("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", 2,
                  "--num_machines", 1, "--mixed_precision", "no", "--dynamo_backend", "no",
                  "--main_process_port", 0, "-m", "caption_cache.build", dataset,
                  preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000)))
    assert done.returncode != 0
    assert "cannot be written (" in done.stderr
    assert 'caption_cache/build/' not in done.stderr, done.stderr
    last = python("-m", "caption_cache.build", dataset, "--json")
    report = json.loads(last.stdout)
    assert report["done_before"] + report["captioned"] == 40
    assert verify(dataset) == (40, [])


def test_no_room_ends_in_a_sentence_with_the_store_intact(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "data", 200)
    build = ("-m", "caption_cache.build", dataset, "--json")
    assert python(*build, "--limit", 64).returncode == 0
    before = Store(dataset).read()
    size = Store(dataset).parts[0].stat().st_size

    def little_room() -> None:  # files cannot grow past it, as on a disk that is full
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    done = python(*build, preexec_fn=little_room)
    assert (done.returncode, done.stdout) == (2, "")
    said = done.stderr.splitlines()[-1]
    assert said.startswith("caption-cache: ")
    assert "cannot be written (" in said
    assert "make room or check the permissions" in said
    assert "Traceback" not in done.stderr
    after = Store(dataset).read()
    assert after.slice(0, 64).equals(before)
    assert [path.name for path in (dataset / "captions").glob("*.aside")] == []
    done = python(*build)
    report = json.loads(done.stdout)
    assert (report["done_before"], report["captioned"]) == (after.num_rows, 200 - after.num_rows)
    assert verify(dataset) == (200, [])


def bound_by_permissions() -> None:
    """Take from root the right to write wherever it likes (Linux capability DAC_OVERRIDE)."""
    drop_from_bounding_set, dac_override = 24, 1
    if os.geteuid() == 0:
        assert ctypes.CDLL(None).prctl(drop_from_bounding_set, dac_override, 0, 0, 0) == 0


@pytest.mark.parametrize("cached", [False, True])
def test_read_only_folder_ends_in_a_sentence_before_any_work(tmp_path: Path, cached: bool) -> None:
    dataset = make_dataset(tmp_path / "data", 4)
    if cached:
        assert python("-m", "caption_cache.build", dataset, "--limit", 1).returncode == 0
        (dataset / "captions").chmod(0o555)
    dataset.chmod(0o555)
    before = {path: path.stat().st_mtime_ns for path in dataset.rglob("*")}
    done = python("-m", "caption_cache.build", dataset, preexec_fn=bound_by_permissions)
    for folder in (dataset, dataset / "captions"):
        if folder.exists():
            folder.chmod(0o755)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    said = done.stderr.splitlines()[-1]
    assert "captions" in said
    assert "cannot be written" in said
    assert "Traceback" not in done.stderr
    assert {path: path.stat().st_mtime_ns for path in dataset.rglob("*")} == before


def bomb() -> bytes:
    """A whole PNG of 20,000 × 20,000 pixels in less than a hundred kilobytes."""
    def chunk(name: bytes, data: bytes) -> bytes:
        return (struct.pack(">I", len(data)) + name + data
                + struct.pack(">I", zlib.crc32(name + data)))
    side = 20_000
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((side // 8 + 1) * side))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows)
            + chunk(b"IEND", b""))


WHOLE = "colours red, blue. layout vertical bicolour: red, blue."
HOSTILE: dict[str, tuple[str, Callable[[], bytes], str]] = {
    # name of the file, its content, and the text or the reason
    "truncated": ("a.png", lambda: encoded(red_left_blue_right(), "PNG")[:-40], "damaged"),
    "zero-bytes": ("a.jpg", lambda: b"", "empty-file"),
    "wrong-extension": ("a.png", lambda: encoded(red_left_blue_right(), "JPEG", quality=95), WHOLE),
    "no-extension": ("a", lambda: encoded(red_left_blue_right(), "WEBP", lossless=True), WHOLE),
    "cmyk": ("a.jpg", lambda: encoded(red_left_blue_right("CMYK"), "JPEG", quality=95), WHOLE),
    "16-bit": ("a.png", sixteen_bits,
               "colours black, grey. layout vertical bicolour: black, grey."),
    "transparent-palette": ("a.png", transparent_palette,
                            "colours white, blue. layout vertical bicolour: white, blue."),
    "transparent": ("a.webp", half_transparent,
                    "colours white, blue. layout vertical bicolour: white, blue."),
    "animated": ("a.gif", lambda: animated("GIF"), WHOLE),
    "exif-rotated": ("a.jpg", rotated, WHOLE),
    "one-pixel": ("a.png", lambda: encoded(Image.new("RGB", (1, 1), BLUE), "PNG"),
                  "colours blue. layout plain field: blue."),
    "bomb": ("a.png", bomb, "too-large"),
    "svg": ("a.svg", lambda: SVG, "vector-drawing"),
    "svg-as-png": ("a.png", lambda: SVG, "vector-drawing"),
    "text": ("a.png", lambda: b"<html>404</html>", "not-an-image"),
    "link-out": ("a.png", lambda: b"", "link-out-of-the-folder"),
    "fine": ("a.png", lambda: encoded(red_left_blue_right(), "PNG"), WHOLE),
}


def test_hostile_images_are_captioned_rightly_or_recorded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = make_dataset(tmp_path / "data", 0)
    (dataset / "entities.tsv").write_text(
        "id\tname\n" + "".join(f"{name}\t{name}\n" for name in HOSTILE))
    secret = tmp_path / "secret.png"
    secret.write_bytes(encoded(Image.new("RGB", (40, 20), "yellow"), "PNG"))
    for name, (file, make, _) in HOSTILE.items():
        folder = dataset / "images" / name
        folder.mkdir(parents=True)
        if name == "link-out":
            (folder / file).symlink_to(secret)
        else:
            (folder / file).write_bytes(make())
    for captioned in (sum(expected.startswith("colours") for _, _, expected in HOSTILE.values()),
                      0):
        assert cli.main(["build", str(dataset), "--json"]) == 1
        report = json.loads(capsys.readouterr().out)
        assert report["captioned"] + report["reused"] == captioned
        assert report["left"] == 0
    found = {row["entity"]: row["text"] or row["reason"]
             for row in Store(dataset).read().to_pylist()}
    assert found == {name: expected for name, (_, _, expected) in HOSTILE.items()}
    assert verify(dataset) == (len(HOSTILE), [])
    shown = [failure["mend"] for failure in report["failures"]]
    assert all(shown)
