"""Captions as a table that other programs read."""

from __future__ import annotations

from pathlib import Path

from caption_cache.captions import Captions
from caption_cache.disk import cannot_write, replacing


def export_table(captions: Captions, out: Path) -> None:
    """Write a UTF-8 table with the columns entity and text, separated by a tab.

    Line breaks and tabs inside a text become spaces.

    Raises:
        InputError: ``out`` cannot be written.
    """
    lines = [f"{entity}\t{' '.join(text.split())}\n" for entity, text in captions.texts.items()]
    try:
        with replacing(out) as aside:
            aside.write_text("entity\ttext\n" + "".join(lines), "utf-8", newline="\n")
    except OSError as error:
        raise cannot_write(out, error) from None
