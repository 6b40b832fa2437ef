"""The command line ``caption-cache``, as a user meets it."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_caption_build import make_dataset, paint

from caption_cache import cli
from caption_cache.captioners import load_captioner
from caption_cache.command_line import Answer, Parser, run
from caption_cache.errors import InputError

PLUGIN = """
from test_caption_build import Shades, Talkative
"""
ENTRY_POINTS = """
[caption_cache.captioners]
shades = shades_plugin:Shades
talkative = shades_plugin:Talkative
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another package that brings two captioners, as pip would install it."""
    site = tmp_path / "site"
    about = site / "shades-1.dist-info"
    about.mkdir(parents=True)
    (site / "shades_plugin.py").write_text(PLUGIN)
    (about / "entry_points.txt").write_text(ENTRY_POINTS)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: shades\nVersion: 1\n")
    monkeypatch.syspath_prepend(site)
    return site


@pytest.fixture
def dataset(tmp_path: Path, plugin: Path) -> Path:
    return make_dataset(tmp_path / "data", 6)


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*words: object) -> tuple[int, str, str]:
        code = cli.main([str(word) for word in words])
        out, err = capsys.readouterr()
        return code, out, err
    return call


def data(answer: tuple[int, str, str]) -> Any:
    """What ``--json`` printed: one document and nothing else."""
    return json.loads(answer[1])


def test_build_says_what_it_did_and_again_nothing(call: Any, dataset: Path) -> None:
    code, out, err = call("build", dataset, "--captioner", "shades")
    assert (code, "6 items: 6 captioned now" in out, "captioning" in err) == (0, True, True)
    code, out, _ = call("build", dataset, "--captioner", "shades")
    assert (code, out) == (0, "6 items: nothing to caption, 6 done before.\n")


def test_build_answers_machines(call: Any, dataset: Path) -> None:
    answer = call("build", dataset, "--captioner", "shades", "--dry-run", "--json",
                  "--sample", 0)
    assert data(answer) == {"items": 6, "done": 0, "at_once": 0, "to_caption": 6, "to_judge": 0,
                            "seconds_per_text": None, "estimated_seconds": None}
    answer = call("build", dataset, "--captioner", "shades", "--limit", 4, "--json")
    assert {**data(answer), "seconds": 0} == {
        "items": 6, "done_before": 0, "judged": 0, "captioned": 4, "reused": 0, "rejected": 0,
        "left": 2, "failures": [], "seconds": 0}


def test_failed_images_are_named_and_the_exit_code_is_1(call: Any, dataset: Path) -> None:
    for i in range(1, 6):
        (dataset / f"images/e{i}/b.svg").write_text("<svg/>")
    (dataset / "images/e0/b.png").touch()
    for _ in range(2):
        code, out, _ = call("build", dataset, "--captioner", "shades")
        assert code == 1
        assert "6 failed" in out
        assert "images/e0/b.png: empty-file: the file has no content; fetch it again" in out
        assert "… and 1 more" in out
    code, out, _ = call("build", dataset, "--captioner", "shades", "--json")
    assert (code, len(json.loads(out)["failures"])) == (1, 6)
    assert call("verify", dataset)[0] == 0


@pytest.mark.parametrize(("words", "message"), [
    (["build", "nowhere"], "nowhere is not a folder"),
    (["build", "data", "--captioner", "x"],
     "No captioner is called 'x'; the installed ones are openai, palette, shades, talkative, "
     "transformers."),
    (["build", "data", "--limit", "0"], "'0' is not a whole number from 1 on"),
    (["build", "data", "--lim", "1"], "unrecognized arguments: --lim 1"),
    (["build", "data", "--scope", "moon"], "invalid choice: 'moon'"),
    (["build"], "the following arguments are required: dataset"),
    (["bild"], "invalid choice: 'bild'"),
    ([], "the following arguments are required: COMMAND"),
    (["show", "data", "ee1"], "'ee1' is no id of data/entities.tsv; did you mean e1?"),
    (["show", "data", "???"], "'???' is no id of data/entities.tsv; give one that is."),
    (["verify", "data"], "holds no captions; run 'caption-cache build data' first"),
    (["compact", "data"], "holds no captions; run 'caption-cache build data' first"),
    (["export", "data"], "has no captions of its images; run 'caption-cache build data' first"),
    (["stats", "nowhere"], "nowhere is not a folder"),
])
def test_bad_input_is_one_sentence_and_exit_code_2(
    call: Any, dataset: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(dataset.parent)
    code, out, err = call(*words)
    assert (code, out) == (2, "")
    assert err.startswith("caption-cache: ")
    assert message in err
    assert err.count("\n") == 1
    assert not (dataset / "captions").exists()


def test_table_naming_a_missing_image_is_refused(call: Any, dataset: Path) -> None:
    (dataset / "images.tsv").write_text("entity\tpath\ne1\tx.png\n")
    code, _, err = call("build", dataset, "--captioner", "shades")
    assert (code, "images.tsv, line 2: " in err) == (2, True)


def test_show_prints_every_text_of_an_entity(call: Any, dataset: Path) -> None:
    (dataset / "images/e1/b.png").touch()
    call("build", dataset, "--captioner", "shades")
    code, out, _ = call("show", dataset, "e1")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].startswith("images/e1/a.png, shades 1 [")
    assert lines[0].endswith("]: 1-0-0")
    assert lines[1].endswith("]: failed, empty-file")
    [first, second] = data(call("show", dataset, "e1", "--json"))
    assert (first["text"], second["text"], second["status"]) == ("1-0-0", None, "failed")


def test_show_says_when_there_is_nothing(call: Any, dataset: Path) -> None:
    assert call("show", dataset, "e1") == (0, "Nothing is said of e1.\n", "")


def test_stats_counts(call: Any, dataset: Path) -> None:
    paint(dataset / "images/e1/same.png", 0)
    (dataset / "images/e2/b.svg").write_text("<svg/>")
    call("build", dataset, "--captioner", "shades")
    call("build", dataset, "--captioner", "talkative", "--limit", 1)
    paint(dataset / "images/e5/a.png", 50)
    stats = data(call("stats", dataset, "--json"))
    assert [stats[name] for name in ("entities", "entities_with_images", "images")] == [6, 6, 8]
    assert stats["outdated"] == 1
    shades, talkative = stats["sources"]
    assert shades["label"].startswith("shades 1 [")
    assert {**shades, "label": "", "seconds": 0} == {
        "label": "", "entities": 5, "ok": 6, "rejected": 0, "failed": 1,
        "reasons": {"vector-drawing": 1}, "distinct_texts": 5, "characters": [5, 5, 5],
        "seconds": 0}
    assert talkative["ok"] == 1
    code, out, _ = call("stats", dataset)
    assert code == 0
    assert "5 entities captioned; 6 ok, 0 rejected, 1 failed" in out
    assert "6 entities, 6 with images; 8 images; 1 outdated captions" in out


def test_stats_of_an_untouched_data_set(call: Any, dataset: Path) -> None:
    assert data(call("stats", dataset, "--json"))["sources"] == []


def test_verify_finds_what_is_wrong(call: Any, dataset: Path) -> None:
    call("build", dataset, "--captioner", "shades")
    call("build", dataset, "--captioner", "talkative")
    code, out, _ = call("verify", dataset)
    assert (code, out) == (0, "12 captions checked, 0 problems found.\n")
    parts = sorted((dataset / "captions").glob("part-*"))
    parts[0].write_bytes(b"x")
    paint(dataset / "images/e2/a.png", 20)
    code, out, _ = call("verify", dataset, "--json")
    assert code == 1
    assert json.loads(out)["rows"] == 6
    assert [finding["where"] for finding in json.loads(out)["findings"]] == [
        f"captions/{parts[0].name}", "images/e2/a.png"]


def test_verify_recomputes_keys(call: Any, dataset: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    call("build", dataset, "--captioner", "shades")
    [part] = (dataset / "captions").glob("part-*")
    table = pq.read_table(part)
    keys = ["0" * 64, *table["key"].to_pylist()[1:]]
    pq.write_table(table.set_column(0, "key", pa.array(keys)), part)
    code, out, _ = call("verify", dataset)
    assert (code, "1 of its rows were changed after" in out) == (1, True)


def test_compact_keeps_all_and_prunes_on_request(call: Any, dataset: Path) -> None:
    for _ in range(3):
        call("build", dataset, "--captioner", "shades", "--limit", 2)
    paint(dataset / "images/e2/a.png", 20)
    call("build", dataset, "--captioner", "shades")
    assert data(call("compact", dataset, "--json")) == {"rows_before": 7, "rows": 7}
    assert len(list((dataset / "captions").glob("part-*"))) == 1
    assert call("verify", dataset)[0] == 1
    code, out, _ = call("compact", dataset, "--prune")
    assert (code, out) == (0, "6 captions kept, 1 dropped.\n")
    assert call("verify", dataset)[0] == 0


def test_gc_drops_what_is_named_or_all_but_that(call: Any, dataset: Path) -> None:
    call("build", dataset, "--captioner", "shades")
    call("build", dataset, "--captioner", "talkative")
    call("build", dataset, "--captioner", "talkative", "--names-hidden")
    before = sorted(part.name for part in (dataset / "captions").iterdir())
    found = data(call("gc", dataset, "--drop", "talkative", "--dry-run", "--json"))
    assert [(source["rows"], source["dropped"]) for source in found] == [
        (6, False), (6, True), (6, True)]
    assert sorted(part.name for part in (dataset / "captions").iterdir()) == before
    code, out, _ = call("gc", dataset, "--drop", "entity-1")
    assert code == 0
    assert [line.split("]: ")[1] for line in out.splitlines()] == [
        "kept, 6 texts", "dropped, 6 texts", "kept, 6 texts"]
    assert call("verify", dataset)[1] == "12 captions checked, 0 problems found.\n"
    call("gc", dataset, "--keep", "shades")
    assert [source["label"][:8] for source in data(call("stats", dataset, "--json"))["sources"]
            ] == ["shades 1"]
    assert data(call("build", dataset, "--captioner", "shades", "--json"))["captioned"] == 0


@pytest.mark.parametrize(("words", "message"), [
    ([], "with --drop, or those to keep with --keep"),
    (["--drop", "shades", "--keep", "shades"], "with --drop, or those to keep with --keep"),
    (["--drop", "x"], "has no captions by 'x'; there are: shades 1 ["),
])
def test_gc_refuses_what_it_cannot_do(
    call: Any, dataset: Path, words: list[str], message: str
) -> None:
    call("build", dataset, "--captioner", "shades")
    code, _, err = call("gc", dataset, *words)
    assert (code, message in err, err.count("\n")) == (2, True, 1), err
    assert call("verify", dataset)[1] == "6 captions checked, 0 problems found.\n"


def test_dry_run_estimates_from_a_sample_and_writes_nothing(call: Any, dataset: Path) -> None:
    plan = data(call("build", dataset, "--captioner", "shades", "--dry-run", "--json"))
    assert plan["estimated_seconds"] == pytest.approx(6 * plan["seconds_per_text"], abs=0.1)
    code, out, _ = call("build", dataset, "--captioner", "shades", "--dry-run")
    assert (code, "s a text, 0:00:0" in out) == (0, True)
    assert not (dataset / "captions").exists()


def test_options_of_a_captioner_are_part_of_the_command_line(
    call: Any, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli.main(["build", "--captioner", "transformers", "--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert "options of the captioner transformers" in out
    assert "--dtype {auto,bfloat16,float16,float32}" in out
    assert "The longest caption, in tokens. (default: 64)" in out
    for words, message in ((["--captioner", "transformers"], "required: --model"),
                           (["--captioner=transformers"], "required: --model"),
                           (["--captioner"], "expected one argument"),
                           (["--captioner", "shades", "--model", "x"], "unrecognized arguments"),
                           (["--captioner", "transformers", "--model", "x", "--num-beams", "0"],
                            "--num-beams is 0; give 1 or more"),
                           (["--captioner", "transformers", "--model", "x", "--dtype", "int8"],
                            "invalid choice: 'int8'")):
        code, _, err = call("build", dataset, *words)
        assert (code, message in err, err.count("\n")) == (2, True, 1), err


def test_export_writes_a_table(call: Any, dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep/captions.tsv"
    call("build", dataset, "--captioner", "shades")
    call("build", dataset, "--captioner", "talkative")
    code, _, err = call("export", dataset, "--out", out)
    assert (code, "by several sources" in err) == (2, True)
    answer = call("export", dataset, "--out", out, "--source", "shades", "--json")
    assert data(answer) == {"out": str(out), "subjects": 6}
    assert out.read_text().splitlines()[:3] == ["entity\ttext", "e0\t0-0-0", "e1\t1-0-0"]


def test_export_writes_a_folder_for_datasets(call: Any, dataset: Path, tmp_path: Path) -> None:
    import datasets

    out = tmp_path / "deep/dataset"
    call("build", dataset, "--captioner", "shades")
    for _ in range(2):  # an earlier one is replaced
        code, text, err = call("export", dataset, "--format", "datasets", "--out", out)
        assert (code, text) == (0, f"The texts of 6 entities written to {out}.\n"), err
    loaded = datasets.load_from_disk(str(out))
    assert loaded["entity"][:] == [f"e{i}" for i in range(6)]
    assert loaded["text"][:3] == ["0-0-0", "1-0-0", "2-0-0"]
    assert sorted(path.name for path in out.parent.iterdir()) == ["dataset"]
    (tmp_path / "file").touch()
    code, _, err = call("export", dataset, "--format", "datasets", "--out", tmp_path / "file/x")
    assert (code, "cannot be written" in err, err.count("\n")) == (2, True, 1)


def test_export_replaces_nothing_but_an_export(call: Any, dataset: Path) -> None:
    call("build", dataset, "--captioner", "shades")
    before = sorted(dataset.rglob("*"))
    code, _, err = call("export", dataset, "--format", "datasets", "--out", dataset)
    assert (code, "no earlier export" in err, err.count("\n")) == (2, True, 1)
    code, _, err = call("export", dataset, "--out", dataset / "entities.tsv")
    assert (code, "no earlier export" in err, err.count("\n")) == (2, True, 1)
    assert sorted(dataset.rglob("*")) == before


@pytest.mark.parametrize("format", ["tsv", "datasets"])
def test_the_folder_one_is_in_cannot_be_written_over(
    call: Any, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    call("build", dataset, "--captioner", "shades")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    code, _, err = call("export", dataset, "--format", format, "--out", ".")
    assert (code, "the folder you are in" in err, err.count("\n")) == (2, True, 1)


def test_cache_of_a_build_loads_as_a_parquet_data_set(
    call: Any, dataset: Path, tmp_path: Path
) -> None:
    import datasets

    for _ in range(2):
        call("build", dataset, "--captioner", "shades", "--limit", 3)
    assert (dataset / "captions/.images.parquet").exists()
    loaded = datasets.load_dataset("parquet", data_dir=str(dataset / "captions"), split="train",
                                   cache_dir=str(tmp_path / "cache"))
    assert sorted(loaded["text"][:]) == [f"{i}-0-0" for i in range(6)]
    assert set(loaded["status"][:]) == {"ok"}


def test_captioner_of_a_third_party_is_found_by_its_entry_point(plugin: Path) -> None:
    assert load_captioner("talkative").prompted
    with pytest.raises(InputError, match="palette, shades, talkative, transformers"):
        load_captioner("nobody")


# --- as processes ----------------------------------------------------------------------------


def python(*words: object, site: Path | None = None) -> subprocess.CompletedProcess[str]:
    paths = [*([str(site)] if site else []), *sys.path]
    return subprocess.run(
        [sys.executable, *map(str, words)], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)})


def test_help_loads_nothing_heavy() -> None:
    done = python("-c", "import sys; from caption_cache.cli import main\n"
                        "try: main(['--help'])\n"
                        "except SystemExit: print(*sys.modules)")
    assert "write the captions for other programs" in done.stdout
    assert not {"pyarrow", "PIL", "numpy", "torch", "rich"} & set(done.stdout.split())


def test_module_runs_as_the_command_does(dataset: Path, plugin: Path) -> None:
    done = python("-m", "caption_cache.build", dataset, "--captioner", "shades", "--json",
                  site=plugin)
    assert (done.returncode, json.loads(done.stdout)["captioned"]) == (0, 6), done.stderr
    done = python("-m", "caption_cache.build", dataset / "typo", site=plugin)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("caption-cache: ")


def test_two_processes_share_the_work(dataset: Path, plugin: Path) -> None:
    paint(dataset / "images/e1/same-as-e0.png", 0)
    (dataset / "images/e2/b.svg").write_text("<svg/>")
    done = python("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", 2,
                  "--num_machines", 1, "--mixed_precision", "no", "--dynamo_backend", "no",
                  "--main_process_port", 0,
                  "-m", "caption_cache.build", dataset, "--captioner", "shades", "--json",
                  site=plugin)
    report = json.loads(done.stdout)
    assert (report["captioned"], report["reused"], len(report["failures"])) == (6, 1, 1)
    assert done.returncode == 1, done.stderr
    verified = python("-m", "caption_cache.cli", "verify", dataset)
    assert verified.stdout == "8 captions checked, 0 problems found.\n"


# --- what all command lines share ------------------------------------------------------------


def parser_for(answer: Any) -> Parser:
    parser = Parser(prog="tool").runs(answer)
    parser.add_argument("--size", type=int, default=3, help="how big")
    parser.add_argument("--name", help="how called")
    return parser


def test_help_shows_defaults_that_say_something() -> None:
    text = parser_for(lambda options: None).format_help()
    assert "how big (default: 3)" in text
    assert "how called\n" in text
    assert "print one JSON document instead of text\n" in text


def test_answers_and_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    def command(options: argparse.Namespace) -> Answer:
        return Answer({"size": options.size}, f"size {options.size}", code=1)

    assert run(parser_for(command), ["--size", "4"]) == 1
    assert capsys.readouterr() == ("size 4\n", "")
    assert run(parser_for(command), ["--json"]) == 1
    assert json.loads(capsys.readouterr().out) == {"size": 3}
    assert run(parser_for(lambda options: None), []) == 0
    assert capsys.readouterr() == ("", "")


def test_interrupt_ends_with_130(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(options: argparse.Namespace) -> Answer:
        raise KeyboardInterrupt

    assert run(parser_for(interrupted), []) == 130
    assert capsys.readouterr() == ("", "")


def test_a_bug_is_no_sentence() -> None:
    def bug(options: argparse.Namespace) -> Answer:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        run(parser_for(bug), [])


def test_reader_that_has_seen_enough_is_no_error(dataset: Path) -> None:
    done = python("-c", "import os, sys; from caption_cache.cli import main\n"
                        "read, write = os.pipe(); os.close(read); os.dup2(write, 1)\n"
                        "sys.exit(main(['stats', sys.argv[1]]))", dataset)
    assert (done.returncode, done.stderr) == (141, "")
