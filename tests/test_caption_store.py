"""Keys, and the parts on disk."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from caption_cache import store as store_module
from caption_cache.captioners import Identity
from caption_cache.disk import replacing
from caption_cache.errors import InputError
from caption_cache.prompts import Prompt
from caption_cache.source import Source
from caption_cache.store import SCHEMA, Row, Store

words = st.text(max_size=3)
settings = st.dictionaries(words, st.none() | st.integers() | words, max_size=2)
identities = st.builds(Identity, words, words, words, settings, words)
origins = st.builds(Source.of, identities, st.none() | st.builds(Prompt, words, words))
inputs = st.tuples(origins, st.none() | words, st.lists(words, max_size=2))


@given(inputs, inputs)
def test_keys_are_equal_exactly_when_the_inputs_are(a: Any, b: Any) -> None:
    def key(source: Source, prompt: str | None, hashes: list[str]) -> str:
        return source.key(prompt, hashes)

    assert (key(*a) == key(*b)) == (a == b)


@given(inputs)
def test_key_is_the_same_after_a_round_through_the_store(values: Any) -> None:
    source, prompt, hashes = values
    again = Source.from_columns(source.columns)
    assert again == source
    assert again.key(prompt, hashes) == source.key(prompt, hashes)


@given(inputs)
def test_key_is_the_hash_of_json_that_anyone_can_make(values: Any) -> None:
    source, prompt, hashes = values
    plain = json.dumps([source.id, prompt, hashes], ensure_ascii=False, separators=(",", ":"))
    assert source.key(prompt, hashes) == hashlib.sha256(plain.encode()).hexdigest()


def test_key_does_not_depend_on_the_order_of_settings() -> None:
    one = Source.of(Identity("x", settings={"a": 1, "b": 2}), None)
    two = Source.of(Identity("x", settings={"b": 2, "a": 1}), None)
    assert one.key(None, ["h"]) == two.key(None, ["h"])


def test_key_never_changes_between_versions() -> None:
    """A changed key would caption every data set in the world again."""
    source = Source.of(Identity("vlm", "m", "r", {"beams": 1}, "pil"), Prompt("p-1", "What?"))
    assert source.key("What?", ["0" * 64]) == (
        "eef89e2bc15c4c559ae2e28ed4ffdf3f4b567266decf9d9e8644e3188708a014")


def row(entity: str = "a", key: str = "k", text: str | None = "red", **changes: Any) -> Row:
    values = {"scope": "entity", "neighbour": None, "relation": None, "images": ["x.png"],
              "image_hashes": ["h"], "prompt": None,
              **Source.of(Identity("shades"), None).columns, "status": "ok", "reason": None,
              "seconds": 0.5}
    return Row(key=key, entity=entity, text=text, **{**values, **changes})


def add(store: Store, *rows: Row) -> None:
    with store.writing() as writer:
        writer.add(rows)


def texts(store: Store) -> list[tuple[str, str]]:
    table = store.read()
    return list(zip(table["entity"].to_pylist(), table["text"].to_pylist(), strict=True))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def test_schema_is_the_row() -> None:
    assert SCHEMA.names == [field.name for field in dataclasses.fields(Row)]


def test_rows_come_back_as_they_were(store: Store) -> None:
    written = row(prompt="Ä?", prompt_id="p", prompt_hash="q", text="two\nlines\t", seconds=0.25)
    add(store, written)
    assert store.read().to_pylist() == [dataclasses.asdict(written)]


def test_an_empty_store_has_no_rows(store: Store) -> None:
    assert texts(store) == []
    add(store)
    assert store.parts == []


def test_the_last_row_of_an_item_counts(store: Store) -> None:
    add(store, row("a"), row("b", status="failed", text=None))
    add(store, row("b", text="blue"), row("c"))
    assert texts(store) == [("a", "red"), ("b", "blue"), ("c", "red")]


def test_every_add_is_on_the_disk_at_once_in_few_parts(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "_ROWS_PER_PART", 6)
    with store.writing() as writer:
        for index in range(10):
            writer.add([row(f"e{index}"), row(f"f{index}")])
            assert store.read().num_rows == 2 * (index + 1)
    assert [pq.read_metadata(part).num_rows for part in store.parts] == [6, 6, 6, 2]


def test_processes_of_a_build_do_not_disturb_each_other(store: Store) -> None:
    with store.writing(first=True) as one, store.writing(first=False) as two:
        for index in range(3):
            one.add([row(f"a{index}")])
            two.add([row(f"b{index}")])
    assert len(store.parts) == 2
    assert store.read().num_rows == 6


def test_compaction_keeps_every_item_once(store: Store) -> None:
    add(store, row("a"), row("b"))
    add(store, row("b", text="blue"))
    assert store.compact() == (3, 2)
    assert len(store.parts) == 1
    assert texts(store) == [("a", "red"), ("b", "blue")]
    left_by_a_kill = store.folder / ".part-1.parquet.7.aside"
    left_by_a_kill.touch()
    assert store.compact() == (2, 2)
    assert not left_by_a_kill.exists()


def test_what_a_killed_writer_of_our_number_left_is_in_nobodys_way(tmp_path: Path) -> None:
    """In a container every process may be the first."""
    (tmp_path / f".folder.{os.getpid()}.aside").mkdir()
    (tmp_path / f".folder.{os.getpid()}.aside" / "half").touch()
    (tmp_path / f".folder.{os.getpid()}.old").mkdir()
    (tmp_path / f".folder.{os.getpid()}.old" / "half").touch()
    for _ in range(2):
        with replacing(tmp_path / "folder") as aside:
            aside.mkdir()
    assert [path.name for path in tmp_path.rglob("*")] == ["folder"]


def test_killed_compaction_loses_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    add(store, row("a"), row("b"))
    add(store, row("b", text="blue"))
    before = texts(store)

    unlink = Path.unlink

    def killed(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == ".parquet":
            raise KeyboardInterrupt
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", killed)
    with pytest.raises(KeyboardInterrupt):
        store.compact()
    monkeypatch.undo()
    assert len(store.parts) == 3
    assert texts(store) == before


def test_nothing_is_compacted_while_a_build_runs(store: Store) -> None:
    add(store, row())
    with store.writing(), pytest.raises(InputError, match="in use by a build"):
        store.compact()


def test_nothing_to_compact_is_refused(store: Store) -> None:
    with pytest.raises(InputError, match="holds no captions"):
        store.compact()


def test_full_disk_ends_in_a_sentence_with_the_store_intact(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with store.writing() as writer:
        writer.add([row("a")])
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(InputError, match=r"cannot be written \(No space left"):
            writer.add([row("b")])
    assert texts(store) == [("a", "red")]
    assert sorted(path.name for path in store.folder.iterdir()) == [".lock", store.parts[0].name]


def test_folder_that_cannot_be_written_is_refused_before_any_work(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(store, row())
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(InputError, match="cannot be written"), store.writing():
        pass
    monkeypatch.undo()
    (store.folder.parent / "file").touch()
    with (pytest.raises(InputError, match="cannot be written"),
          Store(store.folder.parent / "file").writing()):
        pass


@pytest.mark.parametrize("damage", [
    lambda data: b"", lambda data: b"hello", lambda data: data[:-20],
    lambda data: data.replace(b"shades", b"shapes"),
])
def test_damaged_part_is_named(store: Store, damage: Any) -> None:
    add(store, row())
    part = store.parts[0]
    part.write_bytes(damage(part.read_bytes()))
    with pytest.raises(InputError, match=f"{part.name} cannot be read"):
        store.read()


def test_foreign_part_is_named(store: Store) -> None:
    add(store, row())
    pq.write_table(pq.read_table(store.parts[0]).drop(["text"]), store.folder / "part-0.parquet")
    with pytest.raises(InputError, match=r"part-0.parquet has other columns"):
        store.read()


def test_parts_are_a_hugging_face_data_set(store: Store, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    add(store, row("a"))
    add(store, row("b", prompt="What?"))
    for where in ({"data_files": str(store.folder / "part-*.parquet")},
                  {"data_dir": str(store.folder)}):
        loaded = datasets.load_dataset("parquet", **where, split="train",
                                       cache_dir=str(tmp_path / "cache"))
        assert loaded["entity"][:] == ["a", "b"]
        assert loaded["image_hashes"][:] == [["h"], ["h"]]
