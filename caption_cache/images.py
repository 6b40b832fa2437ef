"""Which image files belong to which entity, and how they are opened safely."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator
from enum import StrEnum
from functools import cache
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from caption_cache.columns import Columns, read_table
from caption_cache.errors import InputError

MAX_BYTES = 2**30
"""A larger file is not read: no picture needs it, and it would fill the memory."""
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "ICO")
# Pillow's other formats are refused: vector formats start other programs, the rest are exotic.
_QUALITY = 90  # per cent, of the formats that lose some


class Flaw(StrEnum):
    """Why an image cannot be captioned; the value is what the cache records as the reason."""

    EMPTY = "empty-file"
    VECTOR = "vector-drawing"
    UNKNOWN = "not-an-image"
    DAMAGED = "damaged"
    TOO_LARGE = "too-large"
    FLOAT = "float-pixels"
    OUTSIDE = "link-out-of-the-folder"
    NOT_A_FILE = "not-a-file"
    UNREADABLE = "unreadable"

    @property
    def mend(self) -> str:
        """What a person can do about it."""
        return _MENDS[self]


_MENDS = {
    Flaw.EMPTY: "the file has no content; fetch it again",
    Flaw.VECTOR: "SVG has no pixels; draw it to a PNG file",
    Flaw.UNKNOWN: "no image format that is read here; save it as PNG or JPEG, or take it away",
    Flaw.DAMAGED: "the file is cut off or damaged; fetch it again",
    Flaw.TOO_LARGE: "too many pixels or bytes to open safely; shrink it",
    Flaw.FLOAT: "the pixels are floating-point numbers of unknown range; save it with 8 bits",
    Flaw.OUTSIDE: "the link leads out of the data set; copy the file into it",
    Flaw.NOT_A_FILE: "this is a folder or a device; take it away",
    Flaw.UNREADABLE: "it cannot be read; check the link and the permissions",
}


class ImageError(Exception):
    """An image that cannot be used, with the reason; the build records it and goes on."""

    def __init__(self, flaw: Flaw) -> None:
        super().__init__(f"{flaw}: {flaw.mend}")
        self.flaw = flaw


class ImageFile(NamedTuple):
    """One image of one entity."""

    entity: str
    """The id of the entity."""
    path: str
    """Where the image lies, relative to the data-set folder, with forward slashes."""


def read_entities(dataset: Path) -> Columns:
    """Read ``entities.tsv``: the columns ``id`` and ``name``, perhaps ``description``.

    Raises:
        InputError: ``dataset`` is no folder, the table is missing or malformed, or an id stands
            there twice.
    """
    if not dataset.is_dir():
        raise InputError(f"{dataset} is not a folder; give the folder of a data set, which holds "
                         "entities.tsv and images.")
    table = read_table(dataset / "entities.tsv", ["id", "name"], ["description"])
    seen: set[str] = set()
    for line, entity in enumerate(table.texts("id"), start=2):
        if entity in seen:
            raise InputError(f"{table.path}, line {line}: the id {entity!r} stood there before; "
                             "each must be there once.")
        seen.add(entity)
    return table


def has_images(dataset: Path) -> bool:
    """Whether the data set comes with images (its captions may travel without them)."""
    return (dataset / "images.tsv").exists() or (dataset / "images").exists()


def find_images(dataset: Path, entities: Columns) -> list[ImageFile]:
    """List the images of a data set: those in ``images.tsv``, or else ``images/<entity id>/*``.

    Hidden files are passed over. The files are not opened.

    Args:
        dataset: The data-set folder.
        entities: Its entities, from `read_entities`.

    Returns:
        The images, by the order of the entities, then by path.

    Raises:
        InputError: An image belongs to no known entity, is listed twice or is missing, or there
            is no image at all.
    """
    order = {entity: index for index, entity in enumerate(entities.texts("id"))}
    listed = (dataset / "images.tsv").exists()
    found = list(_listed(dataset, order) if listed else _in_folders(dataset, order))
    if not found:
        raise InputError(f"{dataset} has no images; put them into images/<entity id>/, or list "
                         "them in images.tsv with the columns entity and path.")
    found.sort(key=lambda image: (order[image.entity], image.path))
    return found


def paths_by_entity(dataset: Path) -> dict[str, list[str]]:
    """The paths of the images of each entity that has any, by its id; as `find_images` sorts them.

    Empty where the data set comes without images.

    Raises:
        InputError: As `find_images`.
    """
    paths: dict[str, list[str]] = {}
    if has_images(dataset):
        for image in find_images(dataset, read_entities(dataset)):
            paths.setdefault(image.entity, []).append(image.path)
    return paths


def _in_folders(dataset: Path, known: dict[str, int]) -> Iterator[ImageFile]:
    top = dataset / "images"
    folders = _visible(top) if top.is_dir() else []
    # In their order already: so the sort by the caller is quick.
    for folder in sorted(folders, key=lambda folder: known.get(folder.name, -1)):
        if not folder.is_dir():
            raise InputError(f"{folder.path} stands beside the folders of the entities; move it "
                             "into images/<entity id>/ or out of images.")
        if folder.name not in known:
            raise InputError(f"{folder.path}: {folder.name!r} is no id of entities.tsv; rename "
                             "the folder or add the entity.")
        for name in sorted(file.name for file in _visible(folder.path)):
            yield ImageFile(folder.name, f"images/{folder.name}/{name}")


def _visible(folder: str | Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise InputError(f"{folder} cannot be listed ({error.strerror}); check its "
                         "permissions.") from None
    for entry in visible:
        if not entry.name.isprintable():  # nor are bytes that are no UTF-8
            raise InputError(f"{folder}: the name {entry.name!a} holds characters that cannot be "
                             "printed; rename it.")
    return visible


def _listed(dataset: Path, known: dict[str, int]) -> Iterator[ImageFile]:
    table = read_table(dataset / "images.tsv", ["entity", "path"])
    seen: dict[ImageFile, int] = {}
    rows = zip(table.texts("entity"), table.texts("path"), strict=True)
    for line, (entity, path) in enumerate(rows, start=2):
        where = f"{table.path}, line {line}"
        if entity not in known:
            raise InputError(f"{where}: {entity!r} is no id of entities.tsv; correct it or add "
                             "the entity.")
        pure = PurePosixPath(path)
        if pure.is_absolute() or ".." in pure.parts or not pure.parts:
            raise InputError(f"{where}: {path!r} is not a path inside the data set; write it "
                             f"relative to {dataset}.")
        if not os.path.lexists(dataset / pure):
            raise InputError(f"{where}: {dataset / pure} does not exist; correct the path or "
                             "delete the line.")
        image = ImageFile(entity, str(pure))
        if seen.setdefault(image, line) != line:
            raise InputError(f"{where}: the same image of {entity!r} stands at line "
                             f"{seen[image]} already; delete one.")
        yield image


def read_bytes(root: Path, path: str) -> bytes:
    """Read an image file that lies inside the data set.

    Args:
        root: The data-set folder, resolved (`Path.resolve`).
        path: The file, relative to ``root``.

    Raises:
        ImageError: It is a link out of the folder, no plain file, too large, or unreadable.
    """
    try:
        file = (root / path).resolve(strict=True)
        if not file.is_relative_to(root):
            raise ImageError(Flaw.OUTSIDE)
        if not file.is_file():
            raise ImageError(Flaw.NOT_A_FILE)
        if file.stat().st_size > MAX_BYTES:
            raise ImageError(Flaw.TOO_LARGE)
        return file.read_bytes()
    except (OSError, RuntimeError):  # a link that leads to itself is a RuntimeError
        raise ImageError(Flaw.UNREADABLE) from None


def content_hash(data: bytes) -> str:
    """The SHA-256 of a file's bytes, in hex."""
    return hashlib.sha256(data).hexdigest()


def decode(data: bytes) -> Image.Image:
    """Open an image from its bytes, whatever its name says.

    The first frame counts; the orientation that a camera noted is applied; what is transparent
    becomes white; 16 bits become 8. At most `PIL.Image.MAX_IMAGE_PIXELS` pixels are opened.

    Returns:
        The image, loaded, mode RGB.

    Raises:
        ImageError: It cannot be opened; with the reason.
    """
    if not data:
        raise ImageError(Flaw.EMPTY)
    try:
        image = Image.open(BytesIO(data), formats=_available_formats())
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(Flaw.TOO_LARGE) from None
    except Exception:
        raise ImageError(Flaw.VECTOR if b"<svg" in data[:4096].lower() else Flaw.UNKNOWN) from None
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise ImageError(Flaw.TOO_LARGE)
    try:
        with image:
            image.load()
            return _as_rgb(_upright(image))
    except ImageError:
        raise
    except MemoryError:
        raise ImageError(Flaw.TOO_LARGE) from None
    except Exception:
        # Damaged bytes make the decoders raise nearly anything (OSError, SyntaxError, …).
        raise ImageError(Flaw.DAMAGED) from None


def shrunk(image: Image.Image, side: int) -> Image.Image:
    """The image, neither side longer than ``side`` pixels."""
    if max(image.size) > side:
        image = image.copy()
        image.thumbnail((side, side))
    return image


def data_url(image: Image.Image, kind: str) -> str:
    """An image within a URL, as a file of a kind (``jpeg``, ``png`` or ``webp``)."""
    file = BytesIO()
    image.save(file, kind, quality=_QUALITY)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def open_or_none(root: Path, path: str) -> Image.Image | None:
    """As `decode` of `read_bytes`; None where that fails: the audit and the captioning say why."""
    try:
        return decode(read_bytes(root, path))
    except ImageError:
        return None


@cache
def _available_formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # notes that cannot be read are no reason to lose the picture
        return image


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits; Pillow's own conversion cuts them off at 255
        pixels = np.asarray(image).clip(0, 2**16 - 1) >> 8
        return Image.fromarray(pixels.astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ImageError(Flaw.FLOAT)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")
