"""The progress bars of long work."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

Item = TypeVar("Item")

MINUTE = 60.0
"""Seconds between lines where there is no terminal to draw a bar on."""
CONSOLE = Console(stderr=True)
"""Standard error. All bars share it, so one within another stands below it."""


def progress_bar(*, visible: bool, transient: bool = False) -> Progress:
    """A bar on standard error with count, rate and remaining time; a transient one vanishes."""
    return Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(),
                    TextColumn("ETA"), TimeRemainingColumn(), console=CONSOLE,
                    # In a file, a bar that vanishes would leave empty lines.
                    disable=not visible or (transient and not CONSOLE.is_terminal),
                    transient=transient)


def tracked(items: Sequence[Item], what: str, *, visible: bool = True) -> Iterator[Item]:
    """The items one after another, with a bar that vanishes after the last.

    Where standard error is no terminal, a line every minute says how far they are.
    """
    if visible and not CONSOLE.is_terminal:
        last = time.monotonic()
        for done, item in enumerate(items):
            yield item
            if time.monotonic() - last >= MINUTE:
                last = time.monotonic()
                CONSOLE.print(f"{what}: {done + 1:,} of {len(items):,}", highlight=False)
        return
    with progress_bar(visible=visible, transient=True) as bar:
        yield from bar.track(items, description=what)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f}/s")
