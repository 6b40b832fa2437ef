"""What a training run says of itself: a progress bar, a JSON-lines file, TensorBoard."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from caption_cache.disk import replacing
from caption_cache.progress import CONSOLE, MINUTE


class TrainingLog:
    """Writes the numbers of a run; the bar, or a line every minute, goes to standard error."""

    def __init__(self, run: Path, steps: int, start: int, unit: str) -> None:
        """Open the logs of a run.

        Args:
            run: The run folder.
            steps: Steps of the whole run.
            start: Steps already done; what an earlier process noted beyond them is dropped.
            unit: What the speed counts, in the plural.
        """
        from torch.utils.tensorboard import SummaryWriter  # slow to import; only training needs it

        path = run / "metrics.jsonl"
        kept = [line for line in _lines(path) if json.loads(line)["step"] <= start]
        with replacing(path) as aside:  # a kill here must not cost what is in it
            aside.write_text("".join(kept))
        self._file = path.open("a", buffering=1)
        self._steps, self._unit, self._said = steps, unit, time.monotonic()
        self._board = SummaryWriter(str(run / "tensorboard"), purge_step=start + 1)
        self._bar = Progress(
            TextColumn("training"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
            TextColumn(f"loss {{task.fields[loss]:.3f}}, {{task.fields[speed]:,.0f}} {unit}/s"),
            TimeRemainingColumn(), console=CONSOLE)
        self._task = self._bar.add_task("", total=steps, completed=start, loss=0.0, speed=0.0)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._bar.stop()
        self._file.close()
        self._board.close()

    def step(self, step: int, loss: float, speed: float) -> None:
        """Move the bar: mean loss, and units a second."""
        self._bar.update(self._task, completed=step, loss=loss, speed=speed)
        # A log file would show the bar only at its end.
        if not CONSOLE.is_terminal and time.monotonic() - self._said >= MINUTE:
            self._said = time.monotonic()
            self.say(f"step {step} of {self._steps}: loss {loss:.3f}, {speed:,.0f} {self._unit}/s")

    def note(self, step: int, **numbers: float) -> None:
        """Write numbers that belong to ``step`` to the file and to TensorBoard."""
        self._file.write(json.dumps({"step": step, "time": time.time(), **numbers}) + "\n")
        for name, value in numbers.items():
            self._board.add_scalar(name, value, step)

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self._bar.console.print(text, highlight=False)


def read_metrics(run: Path) -> list[dict[str, float]]:
    """What `TrainingLog.note` wrote, in the order of the steps."""
    return [json.loads(line) for line in _lines(run / "metrics.jsonl")]


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        return []
    # A killed process may have left half a line at the end.
    return [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
