"""The embedded graph: the nations of the world, with flags drawn by this package.

The tables beside this file are written by ``scripts/build_nations.py``.
"""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

from caption_cache.disk import cannot_write, replacing
from caption_cache.errors import InputError

TABLES = ("entities.tsv", "relations.tsv", "train.tsv", "valid.tsv", "test.tsv", "dataset.json")
FLAG_HEIGHT = 120
"""Of the images, in pixels."""


def write_nations(folder: Path) -> None:
    """Write the nations graph as a data-set folder, flags included; what is there is kept.

    Raises:
        InputError: The folder holds another data set, or cannot be written.
    """
    from kgc_seq2seq.graph.nations.flags import draw_flag, flag_codes

    source = resources.files(__package__)
    owners = json.loads((source / "flag_owners.json").read_text("utf-8"))
    there = folder / TABLES[0]
    if there.is_file() and there.read_bytes() != (source / TABLES[0]).read_bytes():
        raise InputError(f"{there} is that of another data set; choose a new folder.")
    try:
        for name in TABLES:
            _write(folder / name, (source / name).read_bytes())
        for code in flag_codes():
            path = folder / "images" / owners[code] / "flag.png"
            if not path.exists():
                with replacing(path) as aside:
                    draw_flag(code, FLAG_HEIGHT).save(aside, "png")
    except OSError as error:
        raise cannot_write(folder, error) from None


def _write(path: Path, content: bytes) -> None:
    if not path.exists():
        with replacing(path) as aside:
            aside.write_bytes(content)
