"""What each scope asks about: entities, linked pairs, relations, and whether an image is kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc

from caption_cache.build.plan import Item
from caption_cache.fingerprints import Fingerprints
from caption_cache.images import ImageFile
from caption_cache.links import Links
from caption_cache.prompts import Prompt
from caption_cache.source import Source

RELEVANCE = "relevance"
"""The scope of the answers whether an image is kept; `said_yes` reads them."""


@dataclass(frozen=True)
class Gallery:
    """The images of a data set, and the names of whose they are."""

    images: Sequence[ImageFile]
    """From `images.find_images`."""
    fingerprints: Fingerprints
    """That of every image."""
    names: Mapping[str, str]
    """The name of every entity, by id."""

    @cached_property
    def of(self) -> dict[str, list[str]]:
        """By entity id, the paths of its images; different content only."""
        paths: dict[str, list[str]] = {}
        for image in self.images:
            paths.setdefault(image.entity, []).append(image.path)
        return {entity: self._different(of) for entity, of in paths.items()}

    def of_pair(self, head: str, neighbour: str) -> list[str]:
        """The paths of the images of two entities; different content only."""
        return self._different([*self.of.get(head, []), *self.of.get(neighbour, [])])

    def _different(self, paths: list[str]) -> list[str]:
        if len(paths) < 2:
            return paths
        first: dict[str, str] = {}
        for path in paths:
            first.setdefault(self.fingerprints[path].hash, path)
        return list(first.values())


@dataclass(frozen=True)
class Asker:
    """Makes items: who is asked, and what."""

    gallery: Gallery
    source: Source
    prompt: Prompt | None
    """None when the captioner takes none."""

    def item(
        self, entity: str, paths: Sequence[str], words: Mapping[str, str], *,
        neighbour: str | None = None, relation: str | None = None,
    ) -> Item:
        """One item; ``words`` fill the gaps of the question."""
        question = None if self.prompt is None else self.prompt.fill(words)
        if len(paths) == 1:  # most often by far
            mark = self.gallery.fingerprints[paths[0]]
            return Item(self.source.key(question, (mark.hash,)), entity, neighbour, relation,
                        (paths[0],), (mark.hash,), question, mark.flaw, mark.size)
        marks = [self.gallery.fingerprints[path] for path in paths]
        hashes = tuple(mark.hash for mark in marks)
        return Item(
            self.source.key(question, hashes), entity, neighbour, relation, tuple(paths), hashes,
            question, next((mark.flaw for mark in marks if mark.flaw is not None), None),
            sum(mark.size for mark in marks))


def plan_entities(ask: Asker) -> Iterator[Item]:
    """One item for each different image of each entity."""
    names = ask.gallery.names
    for entity, paths in ask.gallery.of.items():
        for path in paths:
            yield ask.item(entity, [path], {"name": names[entity]})


def plan_galleries(ask: Asker, most: int) -> Iterator[Item]:
    """One item for each entity, over at most ``most`` of its different readable images."""
    names = ask.gallery.names
    for entity, paths in ask.gallery.of.items():
        readable = [path for path in paths if ask.gallery.fingerprints[path].flaw is None]
        if readable:
            yield ask.item(entity, readable[:most], {"name": names[entity]})


def plan_relations(ask: Asker, links: Links) -> Iterator[Item]:
    """One item for each image of an entity and each relation it has; the answer plays no part."""
    for entity, relation in links.questions():
        for path in ask.gallery.of.get(entity, []):
            words = {"name": ask.gallery.names[entity], "relation": links.relation_names[relation]}
            yield ask.item(entity, [path], words, relation=relation)


def plan_relevance(ask: Asker, pairs: Iterable[tuple[str, str]]) -> Iterator[Item]:
    """One item for each entity and each image of a pair that it is in."""
    asked: set[tuple[str, str]] = set()
    for pair in pairs:
        for path in ask.gallery.of_pair(*pair):
            if ask.gallery.fingerprints[path].flaw is None:
                asked.update((entity, path) for entity in pair)
    for entity, path in sorted(asked):
        yield ask.item(entity, [path], {"name": ask.gallery.names[entity]})


def plan_pairs(
    ask: Asker, pairs: Iterable[tuple[str, str]], kept: Mapping[tuple[str, str], bool] | None
) -> Iterator[Item]:
    """One item for each kept image of each pair.

    Args:
        ask: Makes the items.
        pairs: From `Links.pairs`.
        kept: As `_kept` needs it; None keeps every image.
    """
    for pair in pairs:
        for path in _kept(ask.gallery, pair, kept):
            yield ask.item(pair[0], [path], _named(ask.gallery, pair), neighbour=pair[1])


def plan_summaries(
    ask: Asker, pairs: Iterable[tuple[str, str]],
    kept: Mapping[tuple[str, str], bool] | None, most: int
) -> Iterator[Item]:
    """One item for each pair, over at most ``most`` of its kept images; else as `plan_pairs`."""
    for pair in pairs:
        paths = [path for path in _kept(ask.gallery, pair, kept)
                 if ask.gallery.fingerprints[path].flaw is None]
        if paths:
            yield ask.item(pair[0], paths[:most], _named(ask.gallery, pair), neighbour=pair[1])


def plan_again(ask: Asker, rows: pa.Table, links: Links | None) -> Iterator[Item]:
    """One item for each row: the same subject and images, asked of someone else.

    Args:
        ask: Makes the items.
        rows: Rows of the store, of one scope; those whose images are gone are passed over, and
            those about what no fact states any more.
        links: Where the scope is another than ``entity``.
    """
    names, marks = ask.gallery.names, ask.gallery.fingerprints
    stated = None if links is None else {
        *((*pair, None) for pair in links.pairs()),
        *((entity, None, relation) for entity, relation in links.questions())}
    for row in rows.to_pylist():
        entity, neighbour, relation = row["entity"], row["neighbour"], row["relation"]
        if stated is not None and (entity, neighbour, relation) not in stated:
            continue
        owned = {marks[path].hash: path for owner in (neighbour, entity)
                 for path in ask.gallery.of.get(owner, [])}
        paths = [owned[shown] for shown in row["image_hashes"] if shown in owned]
        if len(paths) < len(row["image_hashes"]) or entity not in names:
            continue
        words = {"name": names[entity]}
        if neighbour is not None:
            words |= {"head": names[entity], "neighbour": names[neighbour]}
        if relation is not None and links is not None:
            words["relation"] = links.relation_names[relation]
        yield ask.item(entity, paths, words, neighbour=neighbour, relation=relation)


def said_yes(rows: pa.Table) -> dict[tuple[str, str], bool]:
    """Read the answers of `plan_relevance` from rows of the store.

    Returns:
        By entity id and image hash, whether the model finds the image relevant; an image that
        it could not be shown is not.
    """
    rows = rows.filter(pc.equal(rows["scope"], RELEVANCE))
    return {(entity, image): bool(text and text.startswith("yes"))
            for entity, [image], text in zip(
                *(rows[name].to_pylist() for name in ("entity", "image_hashes", "text")),
                strict=True)}


def _kept(
    gallery: Gallery, pair: tuple[str, str], kept: Mapping[tuple[str, str], bool] | None
) -> list[str]:
    """The images that are relevant to both; none before all of the pair's are judged."""
    paths = gallery.of_pair(*pair)
    if kept is None:
        return paths
    verdicts = []
    for path in paths:
        mark = gallery.fingerprints[path]
        both = [kept.get((entity, mark.hash)) for entity in pair]
        if mark.flaw is None and None in both:
            return []
        verdicts.append(mark.flaw is None and all(both))
    return [path for path, keep in zip(paths, verdicts, strict=True) if keep]


def _named(gallery: Gallery, pair: tuple[str, str]) -> dict[str, str]:
    return {"head": gallery.names[pair[0]], "neighbour": gallery.names[pair[1]]}
