"""Captions as a table or a data set that other programs read."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from caption_cache.disk import cannot_write, replacing
from caption_cache.errors import InputError

Texts = Mapping[str, str] | Mapping[tuple[str, str], str]
"""By subject, as in `captions.Captions` and `captions.LinkCaptions`."""


def export_table(texts: Texts, subject: Sequence[str], out: Path) -> None:
    """Write a UTF-8 table: a column for each name in ``subject``, and text; tab-separated.

    Line breaks and tabs inside a text become spaces.

    Raises:
        InputError: ``out`` cannot be written, or holds something else than an earlier export.
    """
    header = [*subject, "text"]
    try:
        if out.is_file():
            with out.open("rb") as file:
                if file.readline().rstrip(b"\n") != "\t".join(header).encode():
                    raise InputError(f"{out} is there already and no earlier export; choose "
                                     "another file, or take it away.")
        with replacing(out) as aside, aside.open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file, "excel-tab", lineterminator="\n", quoting=csv.QUOTE_NONE,
                               quotechar=None)
            table.writerow(header)
            table.writerows([*_words(key), " ".join(text.split())] for key, text in texts.items())
    except OSError as error:
        raise cannot_write(out, error) from None


def export_dataset(texts: Texts, subject: Sequence[str], out: Path) -> None:
    """Write the same columns as a folder for ``datasets.load_from_disk``; texts as they are.

    Raises:
        InputError: ``out`` cannot be written, or holds something else than an earlier export.
    """
    if out.is_dir() and any(out.iterdir()) and not (out / "state.json").is_file():
        raise InputError(f"{out} is there already and no earlier export; choose a new folder, or "
                         "take it away.")
    import datasets

    columns = zip(*((*_words(key), text) for key, text in texts.items()), strict=True)
    data = datasets.Dataset.from_dict(
        dict(zip([*subject, "text"], map(list, columns), strict=True)))
    datasets.disable_progress_bars()
    try:
        with replacing(out) as aside:
            data.save_to_disk(str(aside))
    except OSError as error:
        raise cannot_write(out, error) from None
    finally:
        datasets.enable_progress_bars()


def _words(key: str | tuple[str, str]) -> tuple[str, ...]:
    return (key,) if isinstance(key, str) else key
