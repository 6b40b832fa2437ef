"""Exactly what a model reads for a query, and how many tokens each source takes."""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kgc_seq2seq.completer import Query, QueryNames
from kgc_seq2seq.config import RunConfig
from kgc_seq2seq.graph.folder import read_graph
from kgc_seq2seq.reading import load_captions, make_tokenizer, make_verbalizer
from kgc_seq2seq.runs import read_generator
from kgc_seq2seq.text.settings import PRIORITY, SettingName, Source
from kgc_seq2seq.text.verbalizer import Part
from kgc_seq2seq.training.model import load_tokenizer

_COLOURS: dict[Source, str] = {
    "query": "bold", "instruction": "bright_black", "caption": "magenta",
    "relation caption": "bright_magenta", "description": "yellow", "fact": "cyan",
    "pair caption": "green", "example": "blue", "two hops": "bright_cyan"}


@dataclass(frozen=True)
class ShownInput:
    """One input."""

    query: Query
    """What is asked."""
    config: RunConfig
    """Of the run."""
    parts: list[Part]
    """What is read, in order, and what the budget leaves out."""

    def tokens(self) -> dict[Source, dict[str, int]]:
        """Tokens of each source that has any: ``read`` and ``left_out``."""
        table = {source: {"read": 0, "left_out": 0} for source in PRIORITY}
        for part in self.parts:
            table[part.source]["left_out" if part.left_out else "read"] += len(part.tokens)
        return {source: counts for source, counts in table.items() if any(counts.values())}

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""
        tokens = self.tokens()
        return {"query": asdict(self.query), "setting": self.config.input.setting,
                "max_tokens": self.config.input.max_tokens,
                "total": 1 + sum(counts["read"] for counts in tokens.values()),
                "tokens": tokens, "parts": [asdict(part) for part in self.parts]}

    def as_text(self, *, colours: bool) -> str:
        """For people: one text in colours, or without them a line for each part."""
        console = Console(file=io.StringIO(), force_terminal=colours, highlight=False, markup=False,
                          no_color=not colours, width=None if colours else 100)
        counts = self.tokens()
        if colours:
            console.print(Text(" ").join(
                Text(part.text, _COLOURS[part.source] + " strike dim" * part.left_out)
                for part in self.parts))
        else:
            width = max(map(len, counts))
            for part in self.parts:
                out = "  (left out)" * part.left_out
                console.print(f"{part.source:{width}}  {part.text}{out}", soft_wrap=True)
        table = Table("source", box=None, pad_edge=False)
        for heading in ("tokens", "left out"):
            table.add_column(heading, justify="right")
        for source, row in counts.items():
            table.add_row(Text(source, _COLOURS[source]), str(row["read"]), str(row["left_out"]))
        read, left_out = (sum(row[key] for row in counts.values()) for key in ("read", "left_out"))
        table.add_row("end", "1", "0")
        table.add_row(f"all (of {self.config.input.max_tokens})", str(read + 1), str(left_out))
        console.print()
        console.print(table)
        file = console.file
        assert isinstance(file, io.StringIO)
        return file.getvalue().rstrip("\n")


def show_input(
    folder: Path, query: Query, *, config: Path | None = None, setting: SettingName | None = None,
    captions: bool = True, answer: str | None = None, epoch: int = 0,
) -> ShownInput:
    """Verbalize one query.

    Args:
        folder: A run, or a data set, with whose texts a tokenizer is then trained.
        query: The query.
        config: A file with the configuration of a run; by default the run's own, or the defaults.
        setting: In place of that of the configuration.
        captions: Whether captions are read.
        answer: Name or id of an answer; the fact that it makes is left out, as in training.
        epoch: Which facts are drawn; 0: as in evaluation.

    Raises:
        InputError: There is no such run, data set or entity, or what is to be read is not there.
    """
    is_run = (folder / "config.yaml").is_file()
    if config is not None:
        chosen = RunConfig.load(config)
    else:
        chosen = read_generator(folder) if is_run else RunConfig(str(folder), out="")
    dataset = folder / read_generator(folder).dataset if is_run else folder
    inputs = replace(chosen.input, captions=chosen.input.captions and captions)
    chosen = replace(chosen, input=replace(inputs, setting=setting or inputs.setting))
    graph = read_graph(dataset)
    names = QueryNames(graph)
    entity, relation = names.resolve(query)
    gold = -1 if answer is None else names.entities[answer]
    said = load_captions(dataset, chosen)
    tokenizer = (load_tokenizer(folder / "tokenizer") if is_run else
                 make_tokenizer(graph, said, chosen))
    verbalizer = make_verbalizer(graph, said, tokenizer, chosen)
    return ShownInput(query, chosen, verbalizer.parts(
        np.array([entity, relation, gold], np.int32), epoch))
