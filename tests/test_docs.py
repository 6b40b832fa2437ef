"""The documentation: every command is parsed, many are run, and links, pages and plugins hold."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT
from doc_commands import PAGES, Command, commands, mains, program

from caption_cache import cli as caption_cli
from caption_cache.captions import read_captions
from caption_cache.errors import InputError
from kgc_seq2seq import cli
from kgc_seq2seq.config import RunConfig, config_parser, parse_config
from kgc_seq2seq.evaluation.results import read_result
from kgc_seq2seq.train_scorer import config_class, scorer_name
from kgc_seq2seq.train_scorer import main as train_scorer
from kgc_seq2seq.training_run import add_training_options

SHELL = {"source", "export", "pip", "curl"}
"""What is not ours; the calls by curl are run by the test of the explorer."""
COMMANDS = [command for page in PAGES for command in commands(page)]


def refuse_unknown(parser: ArgumentParser, words: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "exit", lambda code=0: pytest.fail(f"{words} end with {code}"))
        parser.parse_args(words)


def check_trainer(module: str, words: list[str]) -> None:
    if words == ["--help"]:
        return
    name = scorer_name(words) if module.endswith("scorer") else None
    kind = config_class(name or "complex") if module.endswith("scorer") else RunConfig
    parser = config_parser(module, "", kind)
    add_training_options(parser)
    parse_config(parser, words, kind)




@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_every_command_is_one_that_the_program_takes(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    name, words = program(command.words)
    if name == "kgc":
        refuse_unknown(cli._parser(), words)
    elif name == "caption-cache" or name == "caption_cache.build":
        words = words if name == "caption-cache" else ["build", *words]
        refuse_unknown(caption_cli._parser(caption_cli._named_captioner(words)), words)
    elif name in ("kgc_seq2seq.train", "kgc_seq2seq.train_scorer"):
        check_trainer(name, words)
    elif name in ("python", "bash"):
        assert (ROOT / words[0]).is_file(), words
        text = (ROOT / words[0]).read_text("utf-8")
        for option in [word for word in words[1:] if word.startswith("--")]:
            assert f'"{option}"' in text + (ROOT / "scripts" / "bench_common.py").read_text("utf-8")
    else:
        name = name.removeprefix("call=$(")
        assert name in SHELL, f"{command}: what is {name}?"


@pytest.mark.parametrize("words", [
    ["kgc", "predict", "run", "--haed", "France"], ["kgc", "predikt", "run"],
    ["caption-cache", "build", "data", "--captioner", "openai", "--beams", "3"],
    ["python", "-m", "kgc_seq2seq.train", "--dataset", "a", "--out", "b", "--training.stepps", "3"],
    ["python", "scripts/bench_nations.py", "--quickly"]])
def test_a_wrong_word_would_be_noticed(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises((InputError, AssertionError)):
        test_every_command_is_one_that_the_program_takes(
            Command(ROOT / "README.md", 1, tuple(words)), monkeypatch)


@pytest.fixture(scope="module")
def workplace(
    trained: Path, nations: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with ``runs/nations``, as somebody has it who has followed the README."""
    folder = tmp_path_factory.mktemp("workplace")
    run = folder / "runs" / "nations"
    shutil.copytree(trained, run)
    lines = (run / "config.yaml").read_text().splitlines()
    (run / "config.yaml").write_text("\n".join(
        f"dataset: {nations}" if line.startswith("dataset: ") else line for line in lines))
    (folder / "queries.jsonl").write_text(blocks("asking.md", "json")[0])
    return folder


def blocks(page: str, language: str) -> list[str]:
    """The blocks of one language in a page of ``docs``."""
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / "docs" / page).read_text("utf-8"),
                      re.MULTILINE | re.DOTALL)


def quick() -> Iterator[Command]:
    """The commands that end within seconds on the nations graph; each is run once."""
    seen = set()
    for command in COMMANDS:
        words = " ".join(command.words)
        # These have tests of their own.
        slow = ("kgc evaluate", "kgc calibrate", "kgc report", "kgc demo", "kgc explore",
                "kgc fuse", "kgc compare", "kgc push")
        if (re.match(r"(kgc|caption-cache) ", words) and not words.startswith(slow)
                and re.search(r"nations|doctor|exported", words) and words not in seen):
            seen.add(words)
            yield command


def test_the_quick_commands_do_what_they_say(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workplace)
    run = list(quick())
    assert len(run) >= 12
    for command in run:
        name, words = program(command.words)
        if words[0] == "nations" and Path(words[1]).exists():
            shutil.rmtree(words[1])  # each page begins anew
        assert mains()[name](words) == 0, f"{command}: {capsys.readouterr().err}"
        assert capsys.readouterr().out.strip(), command


def test_the_python_of_the_page_on_asking_answers(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workplace)
    (code,) = blocks("asking.md", "python")
    exec(compile(code, "asking.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) == 6


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_every_page_is_in_the_list_of_pages() -> None:
    listed = set(re.findall(r"\]\(([^)]+\.md)\)", (ROOT / "docs" / "README.md").read_text()))
    assert listed == {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}


@pytest.mark.parametrize("script", ["write_docs.py", "render_results.py"])
def test_what_scripts_write_into_pages_is_current(script: str) -> None:
    done = subprocess.run([sys.executable, str(ROOT / "scripts" / script), "--check"],
                          capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plugins of the page, installed as their ``pyproject.toml`` say."""
    site = tmp_path / "site"
    site.mkdir()
    for code in blocks("plugins.md", "python"):
        name = re.match(r"# (\w+\.py)\n", code)
        assert name
        assert code.count("\n") <= 45
        (site / name[1]).write_text(code, "utf-8")
    for block in blocks("plugins.md", "toml"):
        project = tomllib.loads(block)["project"]
        about = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
        (about / "entry_points.txt").write_text("".join(
            f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in entries.items())
            for group, entries in project["entry-points"].items()))
    monkeypatch.syspath_prepend(site)


@pytest.mark.usefixtures("plugins")
def test_the_scorer_of_the_page_trains_and_is_measured(tiny: Path, tmp_path: Path) -> None:
    assert train_scorer([
        "--scorer", "transe", "--dataset", str(tiny), "--out", str(tmp_path / "run"),
        "--model.dim", "8", "--training.steps", "60", "--training.batch_size", "8",
        "--training.validate_every", "30", "--optimizer.name", "adamw",
        "--optimizer.learning_rate", "0.05", "--optimizer.warmup_steps", "1"]) == 0
    result = read_result(tmp_path / "run" / "results" / "test.json")
    assert result["protocol"]["system"] == "TransE"
    assert result["both"]["count"] == 2
    losses = [line for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
              if "loss" in line]
    assert losses


@pytest.mark.usefixtures("plugins")
def test_the_captioner_of_the_page_captions(
    nations: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    for name in ("entities.tsv", "relations.tsv"):
        shutil.copy(nations / name, folder / name)
    shutil.copytree(nations / "images" / "france", folder / "images" / "france")
    assert caption_cli.main(["build", str(folder), "--captioner", "brightness"]) == 0
    assert read_captions(folder).texts == {"france": "A dark and wide picture."}
