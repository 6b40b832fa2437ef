"""The commands in the documentation: found, and given to the real parsers or run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from conftest import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Command:
    """A command in a page."""

    page: Path
    line: int
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line} {' '.join(self.words)[:60]}"


def commands(page: Path) -> Iterator[Command]:
    """Every command in the bash blocks of a page; what stands before ``|`` or ``&&`` is one."""
    text = page.read_text("utf-8")
    for block in _BLOCK.finditer(text):
        line = text.count("\n", 0, block.start(1)) + 1
        for joined in re.split(r"(?<!\\)\n", block.group(1)):
            words = shlex.split(joined.replace("\\\n", " "), comments=True)
            while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
                words = words[1:]
            if words:
                yield Command(page, line, tuple(words))
            line += joined.count("\n") + 1


def program(words: Sequence[str]) -> tuple[str, list[str]]:
    """What a command starts, and with which arguments.

    Returns:
        ``kgc``, ``caption-cache``, the name of a module, or the first word; ``accelerate launch``
        is looked through.
    """
    words = list(words)
    if words[:2] == ["accelerate", "launch"] and "-m" in words:
        words = ["python", *words[words.index("-m"):]]
    if words[:2] == ["python", "-m"]:
        return words[2], words[3:]
    return words[0], words[1:]


def mains() -> dict[str, Callable[[Sequence[str]], int]]:
    """The entry points of the programs that can be run in this process."""
    from caption_cache import cli as captions
    from kgc_seq2seq import cli, train, train_scorer

    return {"kgc": cli.main, "caption-cache": captions.main, "kgc_seq2seq.train": train.main,
            "kgc_seq2seq.train_scorer": train_scorer.main}
