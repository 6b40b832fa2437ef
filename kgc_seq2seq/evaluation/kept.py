"""Ranks of questions that are done, on disk, so that a killed evaluation goes on."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator

from caption_cache.disk import replacing
from kgc_seq2seq.evaluation.ranks import Longs
from kgc_seq2seq.graph.csr import Ints


class KeptRanks:
    """The columns of `ranks.Ranks` for batches of questions, a file each."""

    def __init__(
        self, folder: Path, about: Mapping[str, Any], accelerator: Accelerator
    ) -> None:
        """Go on with what is in a folder, or begin anew where it is of something else.

        Args:
            folder: Its files are called by the questions they hold.
            about: What the ranks depend on beside the questions, as JSON values.
            accelerator: All its processes must call this.
        """
        self.folder = folder
        note, text = folder / "about.json", json.dumps(about, sort_keys=True)
        if accelerator.is_main_process and not (
                note.is_file() and note.read_text("utf-8") == text):
            shutil.rmtree(folder, ignore_errors=True)
            with replacing(note) as aside:
                aside.write_text(text, "utf-8")
        accelerator.wait_for_everyone()

    def get(self, questions: Ints) -> Longs | None:
        """The columns of these questions, int64 [C, G]; None: they are not done.

        Args:
            questions: int32 [G, 3]: entity, relation in ``0 … 2R - 1``, answer.
        """
        path = self._path(questions)
        if not path.is_file():
            return None
        found: Longs = np.load(path, allow_pickle=False)
        return found

    def put(self, questions: Ints, columns: Longs) -> None:
        """Keep the columns of questions."""
        with replacing(self._path(questions)) as aside, aside.open("wb") as file:
            np.save(file, columns, allow_pickle=False)

    def forget(self) -> None:
        """Remove the folder; another evaluation of the same may have done so, or write to it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, questions: Ints) -> Path:
        rows = np.ascontiguousarray(questions, "<i4")
        return self.folder / f"{hashlib.sha256(rows.tobytes()).hexdigest()}.npy"


def rank_once(kept: KeptRanks | None, questions: Ints, rank: Callable[[], Longs]) -> Longs:
    """The columns of questions: those that are kept, or what ``rank`` gives, which is kept.

    Args:
        kept: None: nothing is kept.
        questions: As in `KeptRanks.get`.
        rank: Gives the columns, int64 [C, G].
    """
    if kept is None:
        return rank()
    found = kept.get(questions)
    if found is None:
        found = rank()
        kept.put(questions, found)
    return found
