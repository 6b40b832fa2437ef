"""Writes docs/commands.md, the page of all commands and options, from the parsers themselves.

    python scripts/write_docs.py            # --check: only say whether the page is current
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from caption_cache import cli as caption_cli
from kgc_seq2seq import cli
from kgc_seq2seq.config import RunConfig, config_parser
from kgc_seq2seq.scorers.scorer import GROUP
from kgc_seq2seq.train_scorer import config_class
from kgc_seq2seq.training_run import add_training_options

PAGE = Path(__file__).resolve().parent.parent / "docs" / "commands.md"
CAPTIONERS = ("transformers", "openai")
SCORERS = ("complex", "rotate", "lbmkgc", "mocme", "mentions")
"""DistMult has the options of ComplEx."""


def main() -> int:
    """Write the page, or check it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true",
                        help="write nothing; end with 1 when the page is not current")
    current, text = PAGE.read_text("utf-8") if PAGE.is_file() else "", page()
    if not parser.parse_args().check:
        PAGE.write_text(text, "utf-8")
        return 0
    if current != text:
        sys.stderr.write(f"{PAGE} is not current; run 'python scripts/write_docs.py'.\n")
    return int(current != text)


def page() -> str:
    """The whole page."""
    return "\n".join([
        "# Commands", "",
        "Written by `python scripts/write_docs.py` from the parsers; `--help` says the same.",
        "",
        *program(cli._parser()), *program(caption_cli._parser(None)), *captioners(),
        *trainer("kgc_seq2seq.train", trainer_parser(RunConfig)), *scorers()]) + "\n"


def program(parser: argparse.ArgumentParser) -> Iterator[str]:
    """A program with its commands."""
    yield from (f"## {parser.prog}", "", parser.description or "", "")
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from (f"### {command.prog}", "", f"{_sentence(command.description)}", "",
                            f"`{_usage(command)}`", "", *table(options(command)))


def captioners() -> Iterator[str]:
    """The options that captioners add to ``caption-cache build``."""
    plain = {action.dest for action in options(_build(None))}
    for name in CAPTIONERS:
        more = [action for action in options(_build(name)) if action.dest not in plain]
        yield from (f"### caption-cache build --captioner {name}", "", *table(more))


def scorers() -> Iterator[str]:
    """The trainer of scorers, and the keys that each scorer has under ``model``."""
    plain = trainer_parser(config_class(SCORERS[0]))
    general = [action for action in options(plain) if not action.dest.startswith("model.")]
    yield from ("## python -m kgc_seq2seq.train_scorer", "",
                f"Scorers are found through the entry points `{GROUP}`.", "", *table(general))
    for name in SCORERS:
        yield from (f"### python -m kgc_seq2seq.train_scorer --scorer {name}", "", *table(
            action for action in options(trainer_parser(config_class(name)))
            if action.dest.startswith("model.")))


def trainer_parser(kind: type) -> argparse.ArgumentParser:
    """The parser of a program that trains."""
    parser = config_parser("python -m kgc_seq2seq.train", "", kind)
    add_training_options(parser)
    return parser


def trainer(module: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    """A program that trains."""
    yield from (f"## python -m {module}", "",
                "Every key can stand in the file of `--config`, nested at the dots.", "",
                *table(options(parser)))


def options(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """What a command line may hold, without what only groups other options."""
    names = [action.dest for action in parser._actions]
    return [action for action in parser._actions
            if action.dest != "help"
            and not any(name.startswith(f"{action.dest}.") for name in names)]


def table(actions: list[argparse.Action] | Iterator[argparse.Action]) -> Iterator[str]:
    """A row for each option."""
    yield from ("| option | meaning | default |", "|---|---|---|")
    # What must be given stands first, what every command has stands last.
    for action in sorted(actions, key=lambda action: (
            bool(action.option_strings), action.dest == "json")):
        name = "`, `".join(action.option_strings) or str(action.metavar or action.dest)
        silent = action.default is None or action.default is False or action.default in (
            [], argparse.SUPPRESS)
        default = "" if silent else f"`{action.default}`"
        words = " ".join((action.help or "").replace("%%", "%").replace("``", "`").split())
        if action.choices and not all(str(choice) in words for choice in action.choices):
            words += " (" + ", ".join(f"`{choice}`" for choice in action.choices) + ")"
        yield f"| `{name}` | {words.replace('|', chr(92) + '|')} | {default} |"
    yield ""


def _build(captioner: str | None) -> argparse.ArgumentParser:
    parser = caption_cli._parser(captioner)
    (commands,) = (action for action in parser._actions
                   if isinstance(action, argparse._SubParsersAction))
    found: argparse.ArgumentParser = commands.choices["build"]
    return found


def _usage(parser: argparse.ArgumentParser) -> str:
    words = [str(action.metavar or action.dest).upper() + ("…" if action.nargs == "+" else "")
             for action in parser._actions if not action.option_strings]
    return " ".join([parser.prog, *words, "[options]"])


def _sentence(text: str | None) -> str:
    text = text or ""
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


if __name__ == "__main__":
    sys.exit(main())
