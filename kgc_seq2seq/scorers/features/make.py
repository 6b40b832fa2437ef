"""Makes the vectors of a data set: block by block, so that a killed process goes on."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from caption_cache.captions import read_captions
from caption_cache.disk import cannot_write, replacing
from caption_cache.errors import InputError
from caption_cache.images import open_or_none, read_entities
from caption_cache.prefetch import prefetch
from caption_cache.progress import progress_bar
from kgc_seq2seq.scorers.features.generated import images_to_read, read_generated_texts
from kgc_seq2seq.scorers.features.mentions import AFTER, BEFORE, LEAST, OFTEN, find_mentions
from kgc_seq2seq.scorers.known import MENTIONS
from kgc_seq2seq.scorers.mentions import read_mentions, write_mentions
from kgc_seq2seq.scorers.vectors import Vectors, vectors_path, write_vectors

Item = TypeVar("Item", contravariant=True)


class Encoder(Protocol[Item]):
    """What turns texts or images into vectors."""

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that determines the vectors beside the items, as JSON values."""

    @property
    def batch_size(self) -> int:
        """How many items `encode` gets at once, at most."""

    def encode(self, items: Sequence[Item]) -> Tensor:
        """One vector an item, float32 [n, d]."""


@dataclass(frozen=True)
class Made:
    """What was written."""

    modality: str
    """``image`` or ``text``."""
    path: str
    """The file."""
    entities: int
    """The entities of the data set."""
    vectors: int
    """Those that have a vector."""
    generated: int
    """Those of them whose vector is made of what was generated."""
    width: int
    """Of a vector."""

    def __str__(self) -> str:
        """A sentence."""
        return (f"{self.path}: {self.vectors} of {self.entities} entities have a vector, "
                + (f"{self.generated} of what was generated, " if self.generated else "")
                + f"{self.width} numbers each.")


@dataclass(frozen=True)
class MadeMentions:
    """What was written of mentions."""

    modality: str
    """``mentions``, which are not one but found in texts."""
    path: str
    """The file."""
    entities: int
    """The entities of the data set."""
    texts: int
    """Those whose text names another."""
    mentions: int
    """The pairs of a text and a name."""

    def __str__(self) -> str:
        """A sentence."""
        return (f"{self.path}: the texts of {self.texts} of {self.entities} entities name others, "
                f"{self.mentions} in all.")


def make_text_vectors(
    dataset: Path, encoder: Encoder[str], *, captions: str | None = None,
    generated: bool = True, show_progress: bool = True
) -> Made:
    """Write ``features/text.safetensors``: name, description and captions of each entity.

    An entity without a description has the text that was generated for it, if there is one.

    Args:
        dataset: The data-set folder.
        encoder: Gets one text an entity.
        captions: Whose captions are read besides, as in `read_captions`; an empty string takes
            the only ones, None takes none.
        generated: Whether to read generated texts.
        show_progress: Show a bar on standard error.

    Raises:
        InputError: The data set is malformed, or the captions are not there.
    """
    found = _read_texts(dataset, captions, generated=generated)
    texts = [_joined(name, *said) for name, said in zip(found.names, found.said, strict=True)]

    def encode(rows: Sequence[int]) -> Vectors:
        return Vectors(encoder.encode([texts[row] for row in rows]),
                       torch.ones(len(rows), dtype=torch.bool))

    return _make(dataset, "text", found.ids, texts, found.generated, encoder.identity,
                 encoder.batch_size, lambda blocks: map(encode, blocks),
                 show_progress=show_progress)


def make_mentions(
    dataset: Path, *, captions: str | None = None, generated: bool = True,
    show_progress: bool = True
) -> MadeMentions:
    """Write ``features/mentions.safetensors``: whose description and captions name whom.

    Args:
        dataset: The data-set folder.
        captions: As in `make_text_vectors`, as what follows.
        generated: Whether to read generated texts.
        show_progress: Show a bar on standard error.

    Raises:
        InputError: The data set is malformed, the captions are not there, or as in
            `find_mentions`.
    """
    found = _read_texts(dataset, captions, generated=generated)
    texts = [_joined(*said) for said in found.said]
    path = vectors_path(dataset, MENTIONS)
    about = {"encoder": "shares, rarity, words around", "least": LEAST,
             "around": [BEFORE, AFTER, OFTEN], "key": _hash([found.ids, found.names, texts])}
    if _about(path) == about:
        mentions = read_mentions(path, found.ids)
    else:
        mentions = find_mentions(found.names, texts, show_progress=show_progress)
        try:
            write_mentions(path, found.ids, mentions, about)
        except OSError as error:
            raise cannot_write(path, error) from None
    return MadeMentions(MENTIONS, str(path), len(found.ids), len(mentions.text.unique()),
                        len(mentions.text))


@dataclass(frozen=True)
class _Texts:
    """What is said of each entity."""

    ids: Sequence[str]
    names: Sequence[str]
    said: Sequence[tuple[str, str]]
    """Description and captions; empty where there are none."""
    generated: Sequence[bool]
    """Whose description was generated."""


def _read_texts(dataset: Path, captions: str | None, *, generated: bool) -> _Texts:
    entities = read_entities(dataset)
    ids, own = entities.texts("id"), entities.texts("description")
    seen = {} if captions is None else read_captions(dataset, captions or None).texts
    stand_in = ({row.entity: row.text for row in read_generated_texts(dataset)} if generated
                else {})
    said = [(description if description.strip() else stand_in.get(entity, ""),
             seen.get(entity, "")) for entity, description in zip(ids, own, strict=True)]
    return _Texts(ids, entities.texts("name"), said, [
        entity in stand_in and not description.strip()
        for entity, description in zip(ids, own, strict=True)])


def _joined(*parts: str) -> str:
    return ". ".join(dict.fromkeys(part for part in parts if part))


def make_image_vectors(
    dataset: Path, encoder: Encoder[Image.Image], *, generated: bool = True,
    show_progress: bool = True
) -> Made:
    """Write ``features/image.safetensors``: the mean over each entity's images.

    Images that cannot be opened are passed over; an entity that has no other has no vector. One
    without an image has that which was generated for it, if there is one.

    Args:
        dataset: The data-set folder.
        encoder: Gets images, mode RGB.
        generated: Whether to read generated images.
        show_progress: Show a bar on standard error.

    Raises:
        InputError: The data set is malformed or has no image.
    """
    table = read_entities(dataset)
    ids = table.texts("id")
    images: dict[str, list[str]] = {entity: [] for entity in ids}
    found, painted = images_to_read(dataset, table, generated=generated)
    for image in found:
        images[image.entity].append(image.path)
    contents = [[(path, *_stamp(dataset / path)) for path in images[entity]] for entity in ids]
    root = dataset.resolve()

    def encode(blocks: Sequence[Sequence[int]]) -> Iterator[Vectors]:
        wanted = [path for rows in blocks for row in rows for path in images[ids[row]]]
        opened = prefetch(lambda path: open_or_none(root, path), wanted, encoder.batch_size)
        with closing(opened):
            for rows in blocks:
                owners = [place for place, row in enumerate(rows) for _ in images[ids[row]]]
                yield _pooled(encoder, islice(opened, len(owners)), owners, len(rows))

    return _make(dataset, "image", ids, contents, [entity in painted for entity in ids],
                 encoder.identity, encoder.batch_size, encode, show_progress=show_progress)


def _pooled(
    encoder: Encoder[Image.Image], images: Iterable[Image.Image | None], owners: Sequence[int],
    count: int
) -> Vectors:
    """The mean vector of each of ``count`` entities; the i-th image is of entity ``owners[i]``."""
    pairs = zip(images, owners, strict=True)
    encoded, good = [], []
    # Of an entity with many images, so many are in memory at once and no more.
    while batch := list(islice(pairs, encoder.batch_size)):
        if shown := [image for image, _ in batch if image]:
            encoded.append(encoder.encode(shown))
            good += [owner for image, owner in batch if image]
    if not encoded:
        return Vectors(torch.empty(count, 0), torch.zeros(count, dtype=torch.bool))
    vectors, places = torch.cat(encoded), torch.tensor(good)
    number = torch.bincount(places, minlength=count)
    total = torch.zeros(count, vectors.shape[1]).index_add_(0, places, vectors)
    return Vectors(total / number.clamp(min=1)[:, None], number > 0)


def _stamp(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return 0, 0  # a broken link: `open_or_none` passes it over
    return found.st_size, found.st_mtime_ns


def _make(
    dataset: Path, modality: str, ids: Sequence[str], contents: Sequence[object],
    generated: Sequence[bool], identity: dict[str, Any], block_size: int,
    encode: Callable[[Sequence[Sequence[int]]], Iterator[Vectors]], *, show_progress: bool
) -> Made:
    """Encode the entities block by block, keeping each block, and put the blocks together.

    Args:
        dataset: The data-set folder.
        modality: ``image`` or ``text``.
        ids: The entities.
        contents: What the vector of each entity is made of, as JSON values.
        generated: Whose contents were generated.
        identity: Of the encoder.
        block_size: Entities in a block.
        encode: Gets the rows of blocks that are missing, gives their vectors in order.
        show_progress: Show a bar on standard error.
    """
    path = vectors_path(dataset, modality)
    blocks = [range(start, min(start + block_size, len(ids)))
              for start in range(0, len(ids), block_size)]
    keys = [_hash([identity, [ids[row] for row in rows], [contents[row] for row in rows]])
            for rows in blocks]
    about = {**identity, "key": _hash([*keys, list(generated)])}
    if _about(path) != about:
        parts = path.parent / f".{modality}-parts"
        files = [parts / f"{key}.safetensors" for key in keys]
        missing = [place for place, file in enumerate(files) if not file.exists()]
        try:
            with progress_bar(visible=show_progress) as bar:
                task = bar.add_task(f"{modality} vectors", total=len(blocks),
                                    completed=len(blocks) - len(missing))
                found = encode([blocks[place] for place in missing])
                for place, vectors in zip(missing, found, strict=True):
                    with replacing(files[place]) as aside:
                        save_file({"values": vectors.values, "mask": vectors.mask}, aside)
                    bar.advance(task)
            joined = _join(path, [load_file(file) for file in files])
            made = put_vectors(dataset, modality, ids, replace(
                joined, generated=joined.mask & torch.tensor(generated)), about)
            shutil.rmtree(parts)
        except OSError as error:
            raise cannot_write(path, error) from None
        return made
    with safe_open(path, "pt") as file:
        return _made(path, modality, Vectors(*(
            file.get_tensor(name) for name in ("values", "mask", "generated"))))


def put_vectors(dataset: Path, modality: str, ids: Sequence[str], vectors: Vectors,
                about: dict[str, Any]) -> Made:
    """Write vectors to where `vectors.read_vectors` finds them.

    Args:
        dataset: The data-set folder.
        modality: ``image`` or ``text``.
        ids: The entity of each row.
        vectors: The rows.
        about: What made them, as JSON values.

    Raises:
        InputError: The folder cannot be written.
    """
    path = vectors_path(dataset, modality)
    try:
        write_vectors(path, ids, vectors, about)
    except OSError as error:
        raise cannot_write(path, error) from None
    return _made(path, modality, vectors)


def _made(path: Path, modality: str, vectors: Vectors) -> Made:
    generated = 0 if vectors.generated is None else int(vectors.generated.sum())
    return Made(modality, str(path), len(vectors.mask), int(vectors.mask.sum()), generated,
                vectors.values.shape[1])


def _join(path: Path, parts: Sequence[dict[str, Tensor]]) -> Vectors:
    width = max(part["values"].shape[1] for part in parts)
    if not width:
        raise InputError(f"None of the images for {path} can be opened; see 'caption-cache "
                         "verify' for the reasons.")
    # A block in which nobody has a vector does not know how wide they are.
    values = torch.cat([part["values"] if part["values"].shape[1] else torch.zeros(
        len(part["mask"]), width) for part in parts])
    return Vectors(values, torch.cat([part["mask"] for part in parts]))


def _about(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            about: dict[str, Any] = json.loads(file.metadata()["about"])
    except Exception:  # whatever is wrong with it, it is made anew
        return None
    return about


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
