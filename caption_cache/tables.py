"""Strict reading of the tab-separated tables that a data set is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from caption_cache.errors import InputError


@dataclass(frozen=True)
class Table:
    """A table of text, column by column.

    Row ``i`` stood at line ``i + 2`` of ``path`` (line 1 is the header), since blank lines between
    rows are refused; error messages count on that.
    """

    path: Path
    """The file it was read from."""
    columns: dict[str, list[str]]
    """Every column of the header, all of the same length."""

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))


def read_table(path: Path, required: Sequence[str], optional: Sequence[str] = ()) -> Table:
    """Read a UTF-8 tab-separated file whose first line names its columns.

    There is no quoting and no escaping: a cell is what stands between two tabs. A byte order
    mark, CRLF line ends and empty lines at the end of the file are accepted.

    Args:
        path: The file.
        required: Columns that must be there; every cell of the first must be non-empty.
        optional: Columns that may be there. Any other column is refused.

    Raises:
        InputError: The file is missing, not UTF-8, or not such a table; with the line.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path} is missing; it must be a table with the columns "
                         f"{', '.join(required)}.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check what it is and its "
                         "permissions.") from None
    try:
        text = data.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}, line {line}: not valid UTF-8; save the file as UTF-8.") from None
    if not text:
        raise InputError(f"{path} is empty; its first line must be "
                         f"{' <tab> '.join(required)}.")
    # Only "\n" ends a line: str.splitlines would also break at U+2028 or U+0085 inside a name.
    rows = [line.removesuffix("\r").split("\t") for line in text.split("\n")]
    header = rows[0]
    for name in required:
        if name not in header:
            raise InputError(f"{path}, line 1: no column {name!r}; the header must be "
                             f"{' <tab> '.join([*required, *(f'[{o}]' for o in optional)])}.")
    for name in header:
        if name not in required and name not in optional:
            raise InputError(f"{path}, line 1: unknown column {name!r}; the columns are "
                             f"{', '.join([*required, *optional])}.")
    if len(set(header)) != len(header):
        raise InputError(f"{path}, line 1: a column is named twice; keep one of them.")
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(header):
            raise InputError(f"{path}, line {number}: {len(row)} cells where the header has "
                             f"{len(header)}; separate cells by single tabs.")
        if not row[header.index(required[0])].strip():
            raise InputError(f"{path}, line {number}: no {required[0]}; fill it in or delete the "
                             "line.")
    cells = list(zip(*rows[1:], strict=True)) or [()] * len(header)
    return Table(path, {name: list(column) for name, column in zip(header, cells, strict=True)})
