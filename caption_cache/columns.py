"""Text files of any size as columns: read by blocks, split by NumPy, strict about every line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from caption_cache.errors import InputError

_BLOCK = 2**23
_NEWLINE, _RETURN = 10, 13
_BOM = b"\xef\xbb\xbf"
_BLANK_ENDS = re.compile(rb"[ \t\r]+\n")


@dataclass(frozen=True)
class Columns:
    """A text file, column by column."""

    path: Path
    """The file."""
    first_line: int
    """The line of row 0, counted from 1; every row is one line."""
    cells: list[pa.ChunkedArray]
    """The columns, strings, all of one length."""
    header: tuple[str, ...] = ()
    """What the columns are called, where the file says so."""

    def __len__(self) -> int:
        return len(self.cells[0])

    def __getitem__(self, name: str) -> pa.ChunkedArray:
        return self.cells[self.header.index(name)]

    def texts(self, name: str) -> list[str]:
        """A column as texts; where the file has no such column, "" in every row."""
        if name not in self.header:
            return [""] * len(self)
        texts: list[str] = self[name].to_numpy().tolist()
        return texts

    def where(self, row: int) -> str:
        """The place of a row, to begin an error message with."""
        return f"{self.path}, line {row + self.first_line}"

    def whole_numbers(self, column: int, what: str) -> npt.NDArray[np.int64]:
        """A column of whole numbers from 0 on, int64 [rows].

        Raises:
            InputError: A cell is something else; with its line.
        """
        cells = self.cells[column]
        try:
            numbers = cells.cast(pa.int64())
            bad = pc.less(numbers, 0)
        except pa.ArrowInvalid:
            bad = pc.invert(pc.match_substring_regex(cells, r"^\d{1,18}$"))
        if (row := first_true(bad)) is not None:
            raise InputError(f"{self.where(row)}: {shown(cells[row].as_py())} is no {what}; "
                             "a whole number from 0 on must stand there.")
        values: npt.NDArray[np.int64] = numbers.to_numpy()
        return values


def first_true(mask: pa.ChunkedArray | pa.Array) -> int | None:
    """The first place where ``mask`` holds, if there is one."""
    place = int(pc.index(mask, True).as_py())
    return None if place < 0 else place


def shown(text: str) -> str:
    """``text`` in quotes, cut to a length that fits into a sentence."""
    return repr(text if len(text) <= 60 else text[:57] + "...")


def separator_of(path: Path, skip: int = 0) -> bytes:
    """A tab when line ``skip + 1`` has one, else a space: what separates the cells of a file.

    Raises:
        InputError: The file cannot be read.
    """
    return b"\t" if b"\t" in _head(path, skip + 1)[-1] else b" "


def read_columns(
    path: Path, width: int, *, separator: bytes | None = b"\t", skip: int = 0,
    trim: bool = False,
) -> Columns:
    """Read a UTF-8 file in which every line has ``width`` cells.

    There is no quoting and no escaping. A byte order mark, CRLF line ends and empty lines at the
    end of the file are accepted.

    Args:
        path: The file.
        width: Cells a line.
        separator: One byte between two cells; None takes a line as one cell.
        skip: Lines to pass over at the beginning.
        trim: Whether blanks and tabs at the end of a line are to be passed over.

    Raises:
        InputError: The file cannot be read or is not UTF-8, or a line has more or fewer cells;
            with the line.
    """
    blocks: list[list[pa.Array]] = []
    line = skip + 1
    for data in _blocks(path, skip):
        cells = _split(path, _BLANK_ENDS.sub(b"\n", data) if trim else data, line, width,
                       separator)
        blocks.append(cells)
        line += len(cells[0])
    return Columns(path, skip + 1, [
        pa.chunked_array([block[column] for block in blocks], pa.string())
        for column in range(width)])


def read_lines(path: Path) -> Columns:
    """Read a file of one text a line; as `read_columns`, but an empty line is refused."""
    lines = read_columns(path, 1, separator=None)
    if (row := first_true(pc.equal(pc.utf8_trim_whitespace(lines.cells[0]), ""))) is not None:
        raise InputError(f"{lines.where(row)}: the line is empty; fill it in or delete it.")
    return lines


def read_header(path: Path) -> list[str]:
    """The cells of the first line, separated by tabs.

    Raises:
        InputError: The file cannot be read, is empty, or its first line is not UTF-8.
    """
    line = _head(path, 1)[0]
    try:
        return line.decode("utf-8-sig").rstrip("\r\n").split("\t")
    except UnicodeDecodeError:
        raise _not_utf8(path, 1) from None


def read_table(path: Path, required: Sequence[str], optional: Sequence[str] = ()) -> Columns:
    """Read a UTF-8 tab-separated file whose first line names its columns, as `read_columns` does.

    Blank lines between rows are refused, so that row ``i`` stood at line ``i + 2``.

    Args:
        path: The file.
        required: Columns that must be there; every cell of the first must be non-empty.
        optional: Columns that may be there. Any other column is refused.

    Raises:
        InputError: The file is missing, not UTF-8, or not such a table; with the line.
    """
    try:
        path.stat()
    except FileNotFoundError:
        raise InputError(f"{path} is missing; it must be a table with the columns "
                         f"{', '.join(required)}.") from None
    except OSError as error:
        raise _unreadable(path, error) from None
    expected = " <tab> ".join([*required, *(f"[{name}]" for name in optional)])
    if _end_of_content(path) == 0:
        raise InputError(f"{path} is empty; its first line must be {expected}.")
    header = read_header(path)
    for name in required:
        if name not in header:
            raise InputError(f"{path}, line 1: no column {name!r}; the header must be {expected}.")
    for name in header:
        if name not in required and name not in optional:
            raise InputError(f"{path}, line 1: unknown column {shown(name)}; the columns are "
                             f"{', '.join([*required, *optional])}.")
    if len(set(header)) != len(header):
        raise InputError(f"{path}, line 1: a column is named twice; keep one of them.")
    table = read_columns(path, len(header), skip=1)
    table = Columns(path, 2, table.cells, tuple(header))
    if (row := first_true(pc.equal(pc.utf8_trim_whitespace(table[required[0]]), ""))) is not None:
        raise InputError(f"{table.where(row)}: no {required[0]}; fill it in or delete the line.")
    return table


def ends_with_newline(path: Path) -> bool:
    """Whether the last line is ended: a file that was cut off seldom is. An empty file counts."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 1))
        return file.read() in (b"", b"\n")


def _head(path: Path, lines: int) -> list[bytes]:
    """The first lines of a file; empty ones where it has fewer."""
    try:
        with path.open("rb") as file:
            return [file.readline(_BLOCK) for _ in range(lines)]
    except OSError as error:
        raise _unreadable(path, error) from None


def _end_of_content(path: Path) -> int:
    """Where the file ends when the empty lines at its end are left out."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _BLOCK))
            tail = file.read()
    except OSError as error:
        raise _unreadable(path, error) from None
    end = size - len(tail) + len(tail.rstrip(b"\r\n"))
    return 0 if tail[: end] == _BOM else end


def _blocks(path: Path, skip: int) -> Iterator[bytes]:
    """The file from line ``skip + 1`` on, in parts of whole lines that end with a newline."""
    end = _end_of_content(path)
    try:
        with path.open("rb") as file:
            if file.read(len(_BOM)) != _BOM:
                file.seek(0)
            for _ in range(skip):
                file.readline()
            while (left := end - file.tell()) > 0:
                data = file.read(min(_BLOCK, left))
                if len(data) < left:
                    data += file.readline()
                yield data.removesuffix(b"\n") + b"\n"
    except OSError as error:
        raise _unreadable(path, error) from None


def _split(
    path: Path, data: bytes, line: int, width: int, separator: bytes | None
) -> list[pa.Array]:
    """The cells of a block whose first line has the number ``line``, column by column."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _not_utf8(path, line + data.count(b"\n", 0, error.start)) from None
    starts, ends, counts = _cells(data, separator)
    if len(bad := np.flatnonzero(counts != width)):
        between = "tabs" if separator == b"\t" else "spaces"
        raise InputError(f"{path}, line {line + bad[0]}: {counts[bad[0]]:,} cells where {width} "
                         f"are expected; separate cells by single {between}.")
    text = np.frombuffer(data, np.uint8)
    columns = []
    for column in range(width):
        start, length = starts[column::width], (ends - starts)[column::width]
        offsets = np.concatenate([[0], np.cumsum(length)])
        # Which byte each byte of the column comes from.
        source = np.arange(offsets[-1]) + np.repeat(start - offsets[:-1], length)
        columns.append(pa.StringArray.from_buffers(
            len(start), pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(text[source])))
    return columns


def _cells(
    data: bytes, separator: bytes | None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Where each cell starts and ends, and how many each line has."""
    text = np.frombuffer(data, np.uint8)
    stops = text == _NEWLINE
    if separator is not None:
        stops = stops | (text == separator[0])
    ends = np.flatnonzero(stops)
    starts = np.concatenate([[0], ends[:-1] + 1])
    last = text[ends] == _NEWLINE
    counts = np.diff(np.flatnonzero(last), prepend=-1)
    returns = last & (ends > starts) & (text[ends - 1] == _RETURN)
    return starts, ends - returns, counts


def _unreadable(path: Path, error: OSError) -> InputError:
    if isinstance(error, FileNotFoundError):
        return InputError(f"{path} is missing; check the folder and the format.")
    return InputError(f"{path} cannot be read ({error.strerror}); check what it is and its "
                      "permissions.")


def _not_utf8(path: Path, line: int) -> InputError:
    return InputError(f"{path}, line {line}: not valid UTF-8; save the file as UTF-8.")
