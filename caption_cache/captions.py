"""What the cache says of the images that the entities have now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from caption_cache.errors import InputError
from caption_cache.fingerprints import Fingerprints, recall, take_fingerprints
from caption_cache.images import ImageFile, find_images, has_images, read_entities
from caption_cache.source import Source
from caption_cache.store import Store

S = TypeVar("S")
PROFILE = ("commonsense", "visual")
"""The scopes that are asked about all images of an entity at once."""
_AT_ONCE = ("summary", *PROFILE)


@dataclass(frozen=True)
class Captions:
    """The texts of one source, or of several, about entities."""

    sources: tuple[Source, ...]
    """Who wrote them, asked what; `Source.id` names it in a protocol. Of several, a later one
    speaks only of images of which those before it say nothing."""
    texts: dict[str, str]
    """By entity id; an entity without a text is not there."""


@dataclass(frozen=True)
class LinkCaptions:
    """Such texts about two entities each, or about an entity and a relation."""

    sources: tuple[Source, ...]
    """As in `Captions`."""
    texts: dict[tuple[str, str], str]
    """Of pairs by (entity id, neighbour id), each in both orders; of relations by (entity id,
    relation id), where the id of an inverse stands after `links.INVERSE`."""


def read_captions(dataset: Path, source: str | None = None, scope: str = "entity") -> Captions:
    """Read what is said of each entity's images: the texts with spaces between, each taken once.

    Args:
        dataset: The data-set folder. When its images have been taken away, all captions count;
            otherwise those of the images that are there, by content.
        source: A captioner, a model, a prompt, or the eight digits that end `Source.label`;
            several with commas between them, the preferred one first, those of other scopes
            passed over. None will do while the cache holds texts of one source.
        scope: ``entity``, ``commonsense`` or ``visual``.

    Raises:
        InputError: There are no captions, or ``source`` fits none or several.
    """
    chosen, rows = _said(dataset, scope, source)
    return Captions(chosen, _joined(rows["entity"].to_pylist(), rows, " "))


def read_profiles(dataset: Path, source: str | None = None) -> Captions:
    """Read what is said of each entity's images together: MMKG-T5's third setting.

    ``<name> is …commonsense… And …visual…``, where the name is put before a text that does not
    begin with it; how the two are asked is our reconstruction.

    Args:
        dataset: As in `read_captions`.
        source: As in `read_captions`, of both scopes.

    Raises:
        InputError: As in `read_captions`.
    """
    entities = read_entities(dataset)
    names = dict(zip(entities.texts("id"), entities.texts("name"), strict=True))
    chosen: tuple[Source, ...] = ()
    said: dict[str, list[str]] = {}
    for scope in PROFILE:
        captions = read_captions(dataset, source, scope=scope)
        chosen += captions.sources
        for entity, text in captions.texts.items():
            said.setdefault(entity, []).append(text)
    return Captions(chosen, {entity: as_profile(names[entity], parts)
                             for entity, parts in said.items()})


def as_profile(name: str, texts: Sequence[str]) -> str:
    """What `read_profiles` makes of the texts about an entity, in the order of `PROFILE`."""
    text = " And ".join(texts)
    return text if text.casefold().startswith(name.casefold()) else f"{name} is {text}"


def read_link_captions(dataset: Path, scope: str, source: str | None = None) -> LinkCaptions:
    """Read what is said of linked pairs, or of entities and their relations.

    As in MMKG-T5, ``|`` stands between texts of the same; each is taken once.

    Args:
        dataset: As in `read_captions`.
        scope: ``pair``, ``summary`` or ``relation``.
        source: As in `read_captions`.

    Raises:
        InputError: As in `read_captions`.
    """
    chosen, rows = _said(dataset, scope, source)
    other = rows["relation" if scope == "relation" else "neighbour"]
    texts = _joined(list(zip(rows["entity"].to_pylist(), other.to_pylist(), strict=True)), rows,
                    " | ")
    if scope != "relation":
        texts |= {(neighbour, entity): text for (entity, neighbour), text in texts.items()}
    return LinkCaptions(chosen, texts)


def _said(
    dataset: Path, scope: str, source: str | None
) -> tuple[tuple[Source, ...], pa.Table]:
    rows = current_rows(dataset)
    anywhere = sources(rows)
    rows = rows.filter(pc.and_(pc.equal(rows["scope"], scope), pc.equal(rows["status"], "ok")))
    if rows.num_rows == 0:
        if scope == "entity" and not has_images(dataset):
            raise InputError(f"{dataset} has neither captions nor images; put images into "
                             "images/<entity id>/, or read no captions (--input.captions false; of "
                             "'kgc show-input' --no-captions).")
        what, how = (("its images", "") if scope == "entity"
                     else (f"the scope {scope!r}", f" --scope {scope}"))
        raise InputError(f"{dataset} has no captions of {what}; run 'caption-cache build "
                         f"{dataset}{how}' first.")
    known = sources(rows)
    names = [None] if source is None else source.split(",")
    # Of several, some may be for other scopes: those of a profile have a question each.
    here = [name for name in names
            if name is None or _fit(known, name) or not _fit(anywhere, name)]
    chosen = tuple(_choose(known, name, dataset) for name in here or names)
    if len(chosen) == 1:
        return chosen, of_source(rows, chosen[0])
    return chosen, _preferred(rows, chosen)


def _preferred(rows: pa.Table, chosen: Sequence[Source]) -> pa.Table:
    """Of all rows that `_asked` counts as one, that of the first of ``chosen``."""
    rows = rows.append_column("place", pa.array(np.arange(rows.num_rows)))
    places: dict[tuple[object, ...], int] = {}
    for source in chosen:
        mine = of_source(rows, source)
        columns = _asked(mine, ["place"]).to_pydict().values()
        for place, *subject in zip(*columns, strict=True):
            places.setdefault(tuple(subject), place)
    return rows.take(sorted(places.values()))


def _joined(subjects: Sequence[S], rows: pa.Table, separator: str) -> dict[S, str]:
    texts: dict[S, dict[str, None]] = {}
    for subject, text in zip(subjects, rows["text"].to_pylist(), strict=True):
        texts.setdefault(subject, {})[text] = None
    return {subject: separator.join(said) for subject, said in texts.items()}


def current_rows(dataset: Path) -> pa.Table:
    """Read the rows of the store about entities of the data set that still have the images, by
    content.

    Where the same source was asked twice about the same subject and images (an entity got
    another name), the last row counts; of a text about all images the last, whatever images.
    ``images`` says what they are called now.

    Returns:
        A table of `store.SCHEMA`, in the order of the entities and of their images, then texts
        that came without an image. When the data set has come without its images, only folders
        called like a neighbour tell that an image is the neighbour's.

    Raises:
        InputError: The data set is malformed, or a part cannot be read.
    """
    rows = last_asked(Store(dataset).read())
    known = pa.array(read_entities(dataset).texts("id"), pa.string())
    rows = rows.filter(_of_known(rows, known))
    if not has_images(dataset):
        return _by_paths(rows, known)
    places = find_places(dataset, rows, recall(Store(dataset).index), show_progress=False)
    rows = rows.set_column(rows.column_names.index("images"), "images", places.paths)
    return rows.take(np.argsort(places.first, kind="stable")[np.count_nonzero(places.first < 0):])


def _of_known(rows: pa.Table, entities: pa.Array) -> pa.ChunkedArray:
    """Whether rows are about entities that are known, as booleans."""
    return pc.and_(
        pc.is_in(rows["entity"], value_set=entities),
        pc.or_(pc.is_null(rows["neighbour"]), pc.is_in(rows["neighbour"], value_set=entities)))


def _by_paths(rows: pa.Table, entities: pa.Array) -> pa.Table:
    """The rows in the order that their images would have if they were there."""
    path = pc.list_element(rows["images"], 0)
    folder = pc.struct_field(pc.extract_regex(path, "^images/(?P<name>[^/]*)/"), "name")
    encoded = pa.array([quote(name, safe="") for name in entities.to_pylist()], pa.string())
    of_folder = pc.coalesce(pc.index_in(folder, entities), pc.index_in(folder, encoded))
    entity, neighbour = (pc.index_in(rows[name], entities) for name in ("entity", "neighbour"))
    theirs = pc.equal(of_folder, neighbour).fill_null(False)
    order = pa.table({"owner": pc.if_else(theirs, neighbour, entity), "path": path})
    return rows.take(pc.sort_indices(
        order, sort_keys=[("owner", "ascending"), ("path", "ascending")]))


@dataclass(frozen=True)
class Places:
    """Where the images of rows are among those that the entities have."""

    each: npt.NDArray[np.int64]
    """[images of the rows, one row after the other]: its position in the list of all images, or
    -1 when the entity (or the neighbour; whoever, where relevance was asked) does not have it any
    more. A text that was imported without an image (its hash is "") comes after all images while
    its entity has none."""
    first: npt.NDArray[np.int64]
    """[rows]: the least of the row's positions, so -1 where an image is gone."""
    paths: pa.Array
    """What a row's images are called now, or were called, list of strings [rows]."""


def find_places(
    dataset: Path, rows: pa.Table, remembered: Fingerprints, *, show_progress: bool
) -> Places:
    """Find the images of rows among those that the entities have, by content.

    Args:
        dataset: The data-set folder.
        rows: A table of `store.SCHEMA`.
        remembered: As in `take_fingerprints`.
        show_progress: As in `take_fingerprints`.

    Raises:
        InputError: The data set is malformed or has no images.
    """
    images = find_images(dataset, read_entities(dataset))
    paths = sorted({image.path for image in images})
    fingerprints = take_fingerprints(dataset, paths, remembered, show_progress=show_progress)
    stored = rows["images"].combine_chunks()
    if rows.num_rows == 0:
        return Places(np.empty(0, np.int64), np.empty(0, np.int64), stored)
    hashes = rows["image_hashes"].combine_chunks()
    owner = pc.list_parent_indices(hashes)
    flat = pc.list_flatten(hashes)
    shown = pa.array([fingerprints[image.path].hash for image in images], pa.string())
    owned = _join(pa.array([image.entity for image in images], pa.string()), shown)
    anywhere = pc.equal(rows["scope"].combine_chunks().take(owner), "relevance")
    found = pc.coalesce(
        *(pc.index_in(_join(rows[name].combine_chunks().take(owner), flat), value_set=owned)
          for name in ("entity", "neighbour")),
        pc.if_else(anywhere, pc.index_in(flat, value_set=shown), pa.scalar(None, pa.int32())),
        pc.if_else(_imageless(rows, images).take(owner), len(images), None))
    first = np.cumsum(np.r_[0, pc.list_value_length(hashes).to_numpy()[:-1]])
    place = found.fill_null(-1).to_numpy().astype(np.int64)
    called = pa.array([image.path for image in images], pa.string())
    paths = pc.coalesce(called.take(pc.if_else(pc.less(found, len(images)), found, None)),
                        pc.list_flatten(stored))
    return Places(place, np.minimum.reduceat(place, first), pa.ListArray.from_arrays(
        pa.array(np.r_[first, len(paths)], pa.int32()), paths))


def _imageless(rows: pa.Table, images: Sequence[ImageFile]) -> pa.Array:
    """Whether a row was made without an image, and its entity still has none."""
    entities = pa.array([image.entity for image in images], pa.string())
    return pc.and_(pc.equal(pc.binary_join(rows["image_hashes"].combine_chunks(), " "), ""),
                   pc.invert(pc.is_in(rows["entity"].combine_chunks(), value_set=entities)))


def still_shown(dataset: Path, rows: pa.Table) -> pa.Array:
    """Whether the entities of each row are there and still have its images, as booleans.

    Every image is read, whatever is remembered of it.

    Raises:
        InputError: The data set is malformed or has no images.
    """
    known = pa.array(read_entities(dataset).texts("id"), pa.string())
    places = find_places(dataset, rows, {}, show_progress=True)
    return pc.and_(_of_known(rows, known), pa.array(places.first >= 0))


def sources(rows: pa.Table) -> list[Source]:
    """The sources of ``rows``, sorted by label."""
    columns = list(Source.COLUMNS)
    found = rows.group_by(columns).aggregate([]).to_pylist()
    return sorted((Source.from_columns(row) for row in found), key=lambda source: source.label)


def of_source(rows: pa.Table, source: Source) -> pa.Table:
    """The rows of one source."""
    for name, value in source.columns.items():
        column = rows[name]
        rows = rows.filter(pc.is_null(column) if value is None else pc.equal(column, value))
    return rows


def last_asked(rows: pa.Table, by: Sequence[str] = Source.COLUMNS) -> pa.Table:
    """Of rows about the same subject and images, the last; of those about all images of a
    subject the last, whatever images.

    Args:
        rows: Of the store (`Store.read`).
        by: Columns that keep rows apart besides: by default the source.
    """
    numbered = _asked(rows, by)
    asked = numbered.column_names
    numbered = numbered.append_column("row", pa.array(np.arange(rows.num_rows)))
    last = numbered.group_by(asked).aggregate([("row", "max")])["row_max"]
    return rows if len(last) == rows.num_rows else rows.take(np.sort(last.to_numpy()))


def _asked(rows: pa.Table, by: Sequence[str]) -> pa.Table:
    """The columns ``by``, then what rows were asked about: the subject and, but where all are
    shown at once, the images."""
    images = pc.binary_join(rows["image_hashes"], " ")
    at_once = pc.is_in(rows["scope"], value_set=pa.array(_AT_ONCE))
    return rows.select([*by, "scope", "entity", "neighbour", "relation"]).append_column(
        "shown", pc.if_else(at_once, "", images))


def _join(entities: pa.Array, hashes: pa.Array) -> pa.Array:
    return pc.binary_join_element_wise(entities, hashes, "\n")


def fitting(known: Sequence[Source], name: str, dataset: Path) -> list[Source]:
    """The sources that a name fits.

    Args:
        known: From `sources`.
        name: A captioner, a model, a prompt, or the eight digits that end `Source.label`.
        dataset: For the sentence.

    Raises:
        InputError: It fits none.
    """
    if found := _fit(known, name):
        return found
    raise InputError(f"{dataset} has no captions by {name!r}; there are: {_labels(known)}.")


def _fit(known: Sequence[Source], name: str) -> list[Source]:
    return [source for source in known if name in (
        source.identity.captioner, source.identity.model, source.prompt_id, source.id[:8])]


def _choose(known: Sequence[Source], name: str | None, dataset: Path) -> Source:
    found = list(known) if name is None else fitting(known, name, dataset)
    if len(found) == 1:
        return found[0]
    raise InputError(f"{dataset} has captions by several sources; name one by the digits in "
                     "brackets, of a run in its config.yaml as caption_source: "
                     f"'DIGITS', in quotes: {_labels(found)}.")


def _labels(known: Sequence[Source]) -> str:
    return "; ".join(source.label for source in known)
