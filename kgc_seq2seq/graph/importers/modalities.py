"""Images and captions that come with a graph, put where the data-set folder has them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc

from caption_cache.captioners import Identity
from caption_cache.columns import shown
from caption_cache.disk import link_or_copy
from caption_cache.errors import InputError
from caption_cache.images import content_hash
from caption_cache.source import Source
from caption_cache.store import Row, Store
from kgc_seq2seq.graph.folder import write_table
from kgc_seq2seq.graph.importers.joins import Joined, join, variants

CAPTIONER = "imported"
"""What the cache calls the captioner of captions from a table."""
_ROWS_AT_ONCE = 2048
_LONGEST = 200


def import_images(source: Path, ids: pa.Array, out_ids: list[str], out: Path
                  ) -> tuple[dict[str, list[str]], list[str]]:
    """Put the images of entities into a data-set folder, as links where the disk allows.

    Args:
        source: A folder with a folder or a file for each entity, or a table with the columns
            entity and path, relative to the table.
        ids: What the source calls the entities.
        out_ids: Their ids in the data set.
        out: The data-set folder; it gets ``images`` and ``images.tsv``.

    Returns:
        The paths of the images by entity id, and what is worth a note.

    Raises:
        InputError: The source is malformed, a file is missing, or no image belongs to an entity.
    """
    found, notes = _in_folder(source, ids) if source.is_dir() else _listed(source, ids)
    paths: dict[str, list[str]] = {}
    for entity, file in found:
        folder = Path("images") / _folder_name(out_ids[entity])
        listed = paths.setdefault(out_ids[entity], [])
        target, again = folder / file.name, len(listed)
        while str(target) in listed:
            target, again = folder / f"{again}-{file.name}", again + 1
        (out / folder).mkdir(parents=True, exist_ok=True)
        _link(file, out / target)
        listed.append(str(target))
    if not paths:
        raise InputError(f"{source} holds no image of an entity such as "
                         f"{shown(ids[0].as_py())}; it must have a folder or a file called "
                         "like each entity, or be a table with the columns entity and path.")
    rows = [(entity, path) for entity, listed in paths.items() for path in listed]
    write_table(out / "images.tsv", {"entity": pa.array([entity for entity, _ in rows]),
                                     "path": pa.array([path for _, path in rows])})
    return paths, notes


def import_captions(
    joined: Joined, out_ids: list[str], images: dict[str, list[str]], out: Path
) -> int:
    """Put the column ``caption`` of a table into the caption cache of a data-set folder.

    A caption counts as one of all the images that the entity has. Where there are none, it counts
    until images are added.

    Returns:
        The number of captions.

    Raises:
        InputError: The folder cannot be written.
    """
    table = joined.table
    captions = table["caption"].combine_chunks().take(joined.rows)
    revision = content_hash(table.path.read_bytes())[:12]
    source = Source(Identity(CAPTIONER, table.path.name, revision), None, None)
    known = pc.and_(pc.is_valid(captions), pc.not_equal(pc.utf8_trim_whitespace(captions), ""))
    places = pc.indices_nonzero(known).to_pylist()
    with Store(out).writing() as writer:
        for start in range(0, len(places), _ROWS_AT_ONCE):
            part = places[start : start + _ROWS_AT_ONCE]
            writer.add([
                _row(source, out_ids[place], images.get(out_ids[place], []), out, text)
                for place, text in zip(part, captions.take(pa.array(part)).to_pylist(),
                                       strict=True)])
    return len(places)


def _row(source: Source, entity: str, images: list[str], out: Path, text: str) -> Row:
    hashes = [content_hash((out / path).read_bytes()) for path in images]
    return Row(
        key=source.key(None, hashes or [""]), scope="entity", entity=entity, neighbour=None,
        relation=None,
        # The cache is keyed by images, so a caption without one gets a stand-in.
        images=images or [f"imported:{entity}"], image_hashes=hashes or [""], prompt=None,
        text=" ".join(text.split()), status="ok", reason=None, seconds=0.0, **source.columns)


def _in_folder(source: Path, ids: pa.Array) -> tuple[Iterator[tuple[int, Path]], list[str]]:
    """Images under ``source``: in a folder called like the entity, or files called like it."""
    try:
        entries = sorted((entry for entry in os.scandir(source)
                          if not entry.name.startswith(".")), key=lambda entry: entry.name)
        folder = [entry.is_dir() for entry in entries]
    except OSError as error:
        raise InputError(f"{source} cannot be listed ({error.strerror}); check its "
                         "permissions.") from None
    called = [entry.name if is_folder else Path(entry.name).stem
              for entry, is_folder in zip(entries, folder, strict=True)]
    try:
        owner = _owners(called, ids)
    except UnicodeEncodeError as error:  # Python has put something else for what is not UTF-8
        raise _unprintable(source, error.object) from None
    strangers = [entry.name for entry, entity in zip(entries, owner, strict=True)
                 if entity is None]
    notes = [f"{len(strangers):,} files or folders of {source.name} belong to no entity, such as "
             f"{shown(strangers[0])}"] if strangers else []

    def files() -> Iterator[tuple[int, Path]]:
        for entry, is_folder, entity in zip(entries, folder, owner, strict=True):
            if entity is None:
                continue
            if not is_folder:
                yield entity, Path(entry.path)
                continue
            for file in sorted(Path(entry.path).iterdir()):
                if file.is_file() and not file.name.startswith("."):
                    yield entity, file

    return files(), notes


def _owners(called: list[str], ids: pa.Array) -> list[int | None]:
    """The entity that each name of a file or folder means.

    It is the id, percent-encoded or not; or what is left of the id's letters and digits, for a
    file cannot be called ``A/B`` and disks differ in how they write accents.
    """
    names = pa.array(called, pa.string())
    written = [*variants(ids), *map(_quoted, variants(ids))]
    loose = _loose(ids)
    counts = loose.value_counts()
    alone = counts.field("values").filter(pc.equal(counts.field("counts"), 1))
    loose = pc.if_else(pc.is_in(loose, value_set=alone), loose, pa.scalar(None, pa.string()))
    found = pc.coalesce(
        *(pc.index_in(names, value_set=variant) for variant in written),
        pc.index_in(_loose(names), value_set=loose, skip_nulls=True))
    owners: list[int | None] = found.to_pylist()
    return owners


def _loose(names: pa.Array) -> pa.Array:
    """Letters and digits in lower case, anything else a space; missing where there are none."""
    text = pc.utf8_lower(pc.utf8_normalize(names, form="NFKC"))
    text = pc.utf8_trim_whitespace(pc.replace_substring_regex(text, r"[^\pL\pN\pM]+", " "))
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)


def _quoted(ids: pa.Array) -> pa.Array:
    return pa.array([quote(text, safe="") for text in ids.to_pylist()], pa.string())


def _listed(source: Path, ids: pa.Array) -> tuple[Iterator[tuple[int, Path]], list[str]]:
    joined = join(source, ids, ["path", "image"], several=True)
    table = joined.table
    column = next((table.header.index(name) for name in ("path", "image") if name in table.header),
                  1 - joined.key)

    def files() -> Iterator[tuple[int, Path]]:
        for row, (entity, path) in enumerate(zip(
                joined.owners.to_pylist(), table.cells[column].to_pylist(), strict=True)):
            if entity is None:
                continue
            file = source.parent / path
            if not file.is_file():
                raise InputError(f"{table.where(row)}: {file} is no file; correct the path, which "
                                 f"starts at {source.parent}, or delete the line.")
            yield entity, file

    return files(), joined.notes("entities")


def _folder_name(entity: str) -> str:
    """The id, percent-encoded; a digest where that is longer than disks allow."""
    name = quote(entity, safe="")
    return name if len(name) <= _LONGEST else content_hash(entity.encode())


def _link(file: Path, target: Path) -> None:
    if not file.name.isprintable():
        raise _unprintable(file.parent, file.name)
    link_or_copy(file, target)


def _unprintable(folder: Path, name: str) -> InputError:
    return InputError(f"{folder}: the name {name!a} holds characters that cannot be printed; "
                      "rename it.")
