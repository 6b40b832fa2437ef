"""Reading columns, against a plain split and against files that are broken in every way."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from conftest import ROOT, TINY
from hypothesis import given, settings
from hypothesis import strategies as st

from caption_cache import columns
from caption_cache.columns import read_columns, read_table
from caption_cache.errors import InputError
from kgc_seq2seq.graph.csr import distinct_rows, number_rows
from kgc_seq2seq.graph.folder import read_graph
from kgc_seq2seq.graph.importers import ImportConfig, import_dataset
from kgc_seq2seq.graph.names import Policy

SHARED = Path(os.environ.get("KGC_SHARED", ROOT.parent / "shared")) / "data"
real = pytest.mark.skipif(not SHARED.is_dir(), reason="the real data sets are not at hand")
cells = st.text(st.characters(exclude_characters="\t\n\r", exclude_categories=["Cs"]), max_size=6)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Blocks so small that lines fall across them."""
    monkeypatch.setattr(columns, "_BLOCK", 16)
    yield


def outcome(path: Path) -> dict[str, list[str]] | None:
    """The columns of a table; None: it is refused."""
    try:
        table = read_table(path, ["a"], ["b", "c"])
    except InputError as error:
        assert "\n" not in str(error) and str(path) in str(error)
        return None
    assert table.texts("absent") == [""] * len(table)
    return {name: table.texts(name) for name in table.header}


def plainly(path: Path) -> dict[str, list[str]] | None:
    """As `outcome`, by splitting the whole text."""
    lines = path.read_bytes().decode("utf-8-sig").rstrip("\r\n").split("\n")
    header, *rows = [line.removesuffix("\r").split("\t") for line in lines]
    if header not in (["a"], ["a", "b"], ["a", "b", "c"]) or any(
            len(row) != len(header) or not row[0].strip() for row in rows):
        return None
    return {name: [row[column] for row in rows] for column, name in enumerate(header)}


@given(rows=st.lists(st.lists(cells, min_size=1, max_size=4), max_size=6), width=st.integers(0, 3),
       crlf=st.booleans(), bom=st.booleans(), last=st.integers(0, 3),
       block=st.sampled_from([32, 2**23]))
def test_tables_are_read_as_a_plain_split_does(
    rows: list[list[str]], width: int, crlf: bool, bom: bool, last: int, block: int
) -> None:
    if width:
        rows = [(row * 4)[:width] for row in rows]
    end = "\r\n" if crlf else "\n"
    text = ("\ufeff" if bom else "") + end.join(
        "\t".join(row) for row in [["a", "b", "c"][: width or 2], *rows]) + end * last
    before, columns._BLOCK = columns._BLOCK, block
    try:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "table.tsv"
            path.write_bytes(text.encode())
            assert outcome(path) == plainly(path)
    finally:
        columns._BLOCK = before


@given(st.binary(max_size=60))
def test_any_bytes_are_a_table_or_refused(data: bytes) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "table.tsv"
        path.write_bytes(b"a\tb\n" + data)
        read = outcome(path)
        if read is not None:
            lines = data.removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n")
            expected = lines.count(b"\n") + 1 if lines else 0
            assert len(read["a"]) == expected


def test_lines_across_blocks_keep_their_numbers(tmp_path: Path, small_blocks: None) -> None:
    path = tmp_path / "table.tsv"
    path.write_text("a\tb\n" + "".join(f"{i}\tvälue {i}\n" for i in range(50)) + "broken\n")
    with pytest.raises(InputError, match="line 52: 1 cells"):
        read_table(path, ["a", "b"])
    path.write_bytes(b"a\tb\n" + b"x\ty\n" * 40 + b"\xe4\ty\n")
    with pytest.raises(InputError, match="line 42: not valid UTF-8"):
        read_table(path, ["a", "b"])
    path.write_text("a\tb\n" + "".join(f"{i}\tvälue {i}\n" for i in range(50)))
    assert read_table(path, ["a", "b"])["b"].to_pylist() == [f"välue {i}" for i in range(50)]


def test_a_million_columns_are_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "wide.tsv"
    path.write_text("a\tb\n" + "\t" * 1_000_000 + "\n")
    with pytest.raises(InputError, match=r"line 2: 1,000,001 cells where 2 are expected"):
        read_table(path, ["a", "b"])
    path.write_text("\t" * 1_000_000 + "\n")
    with pytest.raises(InputError) as caught:
        read_table(path, ["a", "b"])
    assert len(str(caught.value)) < 400


def test_a_folder_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_columns(tmp_path, 2)


@given(st.lists(st.tuples(*[st.integers(0, 9)] * 3), max_size=30), st.booleans())
def test_distinct_rows_are_those_of_numpy(rows: list[tuple[int, int, int]], large: bool) -> None:
    table = np.array(rows, np.int32).reshape(-1, 3) * (200_000_000 if large else 1)
    distinct, place = np.unique(table, axis=0, return_inverse=True)
    assert np.array_equal(distinct_rows(table), distinct)
    assert number_rows(table).tolist() == place.ravel().tolist()


@settings(max_examples=300)
@given(file=st.sampled_from(sorted(TINY)), cut=st.integers(0, 10**6), kind=st.sampled_from(
    ["cut", "latin", "null", "drop", "swap", "twice", "tab"]))
def test_a_mutilated_data_set_is_refused_or_read_right(file: str, cut: int, kind: str) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        for table, text in TINY.items():
            (folder / table).write_text(text)
        before = read_graph(folder)
        data = TINY[file].encode()
        place = cut % len(data)
        changed = {
            "cut": data[:place], "latin": data[:place] + b"\xe9" + data[place:],
            "null": data[:place] + b"\0" + data[place + 1:],
            "drop": data[:place] + data[place + 1:],
            "swap": data[:place] + data[place:][1:2] + data[place:][:1] + data[place:][2:],
            "twice": data[:place] + data, "tab": data[:place] + b"\t" + data[place:]}[kind]
        (folder / file).write_bytes(changed)
        try:
            after = read_graph(folder)
        except InputError as error:
            assert str(folder) in str(error) and "\n" not in str(error)
            return
        # Whatever is still a graph has one row for every line of the file as it is now.
        lines = len(changed.decode().rstrip("\n").split("\n")) - 1
        counts = {"entities.tsv": after.num_entities, "relations.tsv": after.num_relations,
                  "train.tsv": len(after.train), "valid.tsv": len(after.valid),
                  "test.tsv": len(after.test)}
        assert counts[file] == lines
        assert all(counts[other] == len(TINY[other].splitlines()) - 1
                   for other in TINY if other != file)
        assert before.num_entities == 9


MUTILATIONS = ["cut", "half", "latin", "count", "range", "column", "crlf", "bom", "line"]
_FORMATS = {"DB15K": ("openke", "train2id.txt"), "MKG-W": ("momok", "train.txt"),
            "WN18RR": ("kgbert", "train.tsv")}


@real
@pytest.mark.parametrize("kind", MUTILATIONS)
@pytest.mark.parametrize("name", list(_FORMATS))
def test_mutilated_real_files_are_refused_or_read_whole(
    tmp_path: Path, name: str, kind: str
) -> None:
    format, file = _FORMATS[name]
    source = tmp_path / "source"
    source.mkdir()
    for path in (SHARED / name).iterdir():
        (source / path.name).symlink_to(path)
    data = (SHARED / name / file).read_bytes()
    middle = data.index(b"\n", len(data) // 2) + 1
    counted = format == "openke"
    changed = {
        "cut": data[: middle - 3], "half": data[:middle],
        "latin": data[:middle] + b"\xe9" + data[middle:],
        "count": b"7" + data, "range": data[:middle] + data[middle:].replace(
            {"openke": b" ", "momok": b"Q", "kgbert": b"0"}[format], b" 9999" if counted else b"X",
            1),
        "column": data[:middle] + b"x\t" * 999_999 + b"x\n" + data[middle:],
        "crlf": data.replace(b"\n", b"\r\n"), "bom": b"\xef\xbb\xbf" + data,
        "line": data[:middle] + b"\n" + data[middle:]}[kind]
    (source / file).unlink()
    (source / file).write_bytes(changed)
    config = ImportConfig(format, source, tmp_path / "out", on_collision=Policy.ID)
    # A format without counts cannot know of lines that are missing whole.
    harmless = kind in ("crlf", "bom") or (kind == "half" and not counted)
    if harmless:
        report = import_dataset(config)
        assert report.triples["train"] == changed.count(b"\n") - counted
        return
    with pytest.raises(InputError) as caught:
        import_dataset(config)
    assert f"{file}, line " in str(caught.value) and "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert not (tmp_path / "out").exists()
