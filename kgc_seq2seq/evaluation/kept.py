"""What was found of batches of questions, on disk, so that what is killed goes on."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from accelerate import Accelerator

from caption_cache.disk import replacing
from kgc_seq2seq.arrays import Ints

Found = npt.NDArray[Any]


class Kept:
    """An array for each batch of questions, a file each."""

    def __init__(
        self, folder: Path, about: Mapping[str, Any], accelerator: Accelerator
    ) -> None:
        """Go on with what is in a folder, or begin anew where it is of something else.

        Args:
            folder: Its files are called by what they are of and the questions they hold.
            about: What the arrays depend on beside the questions, as JSON values.
            accelerator: All its processes must call this.
        """
        self.folder = folder
        note, self._about = folder / "about.json", json.dumps(about, sort_keys=True)
        if accelerator.is_main_process and not (
                note.is_file() and note.read_text("utf-8") == self._about):
            shutil.rmtree(folder, ignore_errors=True)
            with replacing(note) as aside:
                aside.write_text(self._about, "utf-8")
        accelerator.wait_for_everyone()

    def get(self, questions: Ints) -> Found | None:
        """The array of these questions; None: they are not done.

        Args:
            questions: int32 [G, C]: entity, relation in ``0 … 2R - 1``, and perhaps an answer.
        """
        path = self._path(questions)
        if not path.is_file():
            return None
        found: Found = np.load(path, allow_pickle=False)
        return found

    def put(self, questions: Ints, found: Found) -> None:
        """Keep the array of questions."""
        with replacing(self._path(questions)) as aside, aside.open("wb") as file:
            np.save(file, found, allow_pickle=False)

    def forget(self) -> None:
        """Remove the folder; another that does the same may have done so, or write to it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, questions: Ints) -> Path:
        # Another process may write of something else to the same folder.
        digest = hashlib.sha256(self._about.encode())
        digest.update(np.ascontiguousarray(questions, "<i4").tobytes())
        return self.folder / f"{digest.hexdigest()}.npy"


def once(kept: Kept | None, questions: Ints, find: Callable[[], Found]) -> Found:
    """The array of questions: that which is kept, or what ``find`` gives, which is kept.

    Args:
        kept: None: nothing is kept.
        questions: As in `Kept.get`.
        find: Gives the array.
    """
    if kept is None:
        return find()
    found = kept.get(questions)
    if found is None:
        found = find()
        kept.put(questions, found)
    return found
