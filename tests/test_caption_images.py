"""Finding image files, and opening whatever they hold."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from caption_cache.errors import InputError
from caption_cache.images import (
    Flaw,
    ImageError,
    decode,
    find_images,
    read_bytes,
    read_entities,
)

RED = (255, 0, 0)
BLUE = (0, 0, 255)
WHITE = (255, 255, 255)


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    out = BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def red_left_blue_right(mode: str = "RGB") -> Image.Image:
    image = Image.new("RGB", (40, 20), RED)
    image.paste(BLUE, (20, 0, 40, 20))
    return image.convert(mode)


def png_of_size(width: int, height: int) -> bytes:
    """A PNG that says it has that size, with hardly any data in it."""
    def chunk(name: bytes, data: bytes) -> bytes:
        return (struct.pack(">I", len(data)) + name + data
                + struct.pack(">I", zlib.crc32(name + data)))
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0"))
            + chunk(b"IEND", b""))


def transparent_palette() -> bytes:
    image = Image.new("P", (40, 20), 0)
    image.putpalette([0, 0, 0, 0, 0, 255])
    image.paste(1, (20, 0, 40, 20))
    return encoded(image, "PNG", transparency=0)


def half_transparent() -> bytes:
    image = Image.new("RGBA", (40, 20), (0, 0, 0, 0))
    image.paste((0, 0, 255, 255), (20, 0, 40, 20))
    return encoded(image, "WEBP", lossless=True)


def animated(format: str, **options: Any) -> bytes:
    other = Image.new("RGB", (40, 20), "green")
    return encoded(red_left_blue_right(), format, save_all=True, append_images=[other], **options)


def rotated() -> bytes:
    """Stands on its side; the camera noted that it must be turned by 90 degrees."""
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = red_left_blue_right()
    return encoded(upright.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif, quality=95)


def sixteen_bits() -> bytes:
    pixels = np.zeros((20, 40), np.uint16)
    pixels[:, 20:] = 2**15
    return encoded(Image.fromarray(pixels), "PNG")


@pytest.mark.parametrize(("data", "left", "right"), [
    (encoded(red_left_blue_right(), "PNG"), RED, BLUE),
    (encoded(red_left_blue_right(), "JPEG", quality=95), RED, BLUE),
    (encoded(red_left_blue_right("CMYK"), "JPEG", quality=95), RED, BLUE),
    (encoded(red_left_blue_right("CMYK"), "TIFF"), RED, BLUE),
    (encoded(red_left_blue_right("P"), "GIF"), RED, BLUE),
    (encoded(red_left_blue_right(), "BMP"), RED, BLUE),
    (encoded(red_left_blue_right(), "PPM"), RED, BLUE),
    (transparent_palette(), WHITE, BLUE),
    (half_transparent(), WHITE, BLUE),
    (encoded(Image.new("LA", (40, 20), (0, 0)), "PNG"), WHITE, WHITE),
    (animated("GIF"), RED, BLUE),
    (animated("WEBP", lossless=True), RED, BLUE),
    (animated("PNG"), RED, BLUE),
    (rotated(), RED, BLUE),
    (sixteen_bits(), (0, 0, 0), (128, 128, 128)),
    (b"P5 40 20 65535\n" + (b"\0\0" * 20 + b"\x80\0" * 20) * 20, (0, 0, 0), (128, 128, 128)),
    (encoded(Image.new("1", (40, 20), 1), "PNG"), WHITE, WHITE),
], ids=["png", "jpeg", "cmyk-jpeg", "cmyk-tiff", "gif", "bmp", "ppm", "transparent-palette",
        "transparent", "transparent-grey", "animated-gif", "animated-webp", "animated-png",
        "exif-rotated", "16-bit-png", "16-bit-pgm", "1-bit"])
def test_image_is_opened_as_rgb(data: bytes, left: tuple[int, ...], right: tuple[int, ...]) -> None:
    image = decode(data)
    assert (image.mode, image.size) == ("RGB", (40, 20))
    for x, colour in ((5, left), (35, right)):
        np.testing.assert_allclose(np.asarray(image)[10, x], colour, atol=12)


def test_single_pixel_is_opened() -> None:
    assert decode(encoded(Image.new("RGB", (1, 1), RED), "PNG")).getpixel((0, 0)) == RED


def test_broken_camera_notes_do_not_lose_the_picture() -> None:
    data = encoded(red_left_blue_right(), "PNG", exif=b"Exif\0\0MM\0*\xff\xff")
    assert decode(data).size == (40, 20)


SVG = b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'


@pytest.mark.parametrize(("data", "flaw"), [
    (b"", Flaw.EMPTY),
    (SVG, Flaw.VECTOR),
    (b"hello", Flaw.UNKNOWN),
    (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", Flaw.UNKNOWN),
    (encoded(red_left_blue_right(), "PNG")[:-40], Flaw.DAMAGED),
    (encoded(Image.effect_noise((99, 99), 99), "JPEG")[:-999], Flaw.DAMAGED),
    (png_of_size(10_000, 10_000), Flaw.TOO_LARGE),
    (png_of_size(20_000, 20_000), Flaw.TOO_LARGE),
    (encoded(Image.new("F", (9, 9), 0.5), "TIFF"), Flaw.FLOAT),
], ids=["empty", "svg", "text", "postscript", "cut-png", "cut-jpeg", "large", "bomb", "float"])
def test_unusable_image_has_a_named_reason(data: bytes, flaw: Flaw) -> None:
    with pytest.raises(ImageError) as error:
        decode(data)
    assert error.value.flaw is flaw


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"])
@given(data=st.data())
def test_damage_never_escapes(format: str, data: st.DataObject) -> None:
    whole = encoded(red_left_blue_right(), format)
    keep = data.draw(st.integers(0, len(whole)))
    damaged = bytearray(whole[:keep])
    for position in data.draw(st.lists(st.integers(0, max(keep - 1, 0)), max_size=3)):
        if damaged:
            damaged[position] ^= data.draw(st.integers(1, 255))
    try:
        assert decode(bytes(damaged)).mode == "RGB"
    except ImageError as error:
        assert error.flaw.mend


# --- files ---------------------------------------------------------------------------------


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "entities.tsv").write_text("id\tname\nb\tBee\na\tAnt\nc\tCat\n")
    return folder


def put(dataset: Path, *paths: str) -> None:
    for path in paths:
        (dataset / path).parent.mkdir(parents=True, exist_ok=True)
        (dataset / path).write_bytes(encoded(red_left_blue_right(), "PNG"))


def found(dataset: Path) -> list[tuple[str, str]]:
    images = find_images(dataset, read_entities(dataset))
    return [(image.entity, image.path) for image in images]


def test_folders_are_listed_in_order(dataset: Path) -> None:
    put(dataset, "images/a/2.png", "images/a/1", "images/b/x.jpg", "images/a/.hidden",
        "images/.DS_Store")
    assert found(dataset) == [
        ("b", "images/b/x.jpg"), ("a", "images/a/1"), ("a", "images/a/2.png")]


def test_table_is_listed_in_order(dataset: Path) -> None:
    put(dataset, "pictures/1.png", "pictures/2.png")
    (dataset / "images.tsv").write_text(
        "path\tentity\npictures/2.png\ta\npictures/1.png\ta\npictures/1.png\tb\n")
    assert found(dataset) == [
        ("b", "pictures/1.png"), ("a", "pictures/1.png"), ("a", "pictures/2.png")]


def make_stray_file(dataset: Path) -> None:
    put(dataset, "images/flag.png")


def make_unknown_folder(dataset: Path) -> None:
    put(dataset, "images/z/flag.png")


def make_unprintable_name(dataset: Path) -> None:
    put(dataset, "images/a/x\ny.png")


def make_doubled_id(dataset: Path) -> None:
    (dataset / "entities.tsv").write_text("id\tname\na\tAnt\na\tBee\n")


def table(rows: str) -> Callable[[Path], None]:
    def make(dataset: Path) -> None:
        put(dataset, "x.png")
        (dataset / "images.tsv").write_text("entity\tpath\n" + rows)
    return make


@pytest.mark.parametrize(("make", "message"), [
    (lambda dataset: None, "has no images"),
    (lambda dataset: (dataset / "entities.tsv").unlink(), "entities.tsv is missing"),
    (make_doubled_id, "line 3: the id 'a' stood there before"),
    (make_stray_file, "flag.png stands beside the folders"),
    (make_unknown_folder, "'z' is no id of entities.tsv"),
    (make_unprintable_name, r"the name 'x\ny.png' holds characters"),
    (table("z\tx.png\n"), "images.tsv, line 2: 'z' is no id"),
    (table("a\tx.png\nb\ty.png\n"), "line 3: .*y.png does not exist"),
    (table("a\tx.png\na\t./x.png\n"), "line 3: the same image of 'a' stands at line 2"),
    (table("a\t../data/x.png\n"), "line 2: '../data/x.png' is not a path inside"),
    (table("a\t/x.png\n"), "line 2: '/x.png' is not a path inside"),
    (table("a\t\n"), "line 2: '' is not a path inside"),
    (table("a\tx.png\tz\n"), "line 2: 3 cells"),
])
def test_bad_data_set_is_refused_with_a_sentence(
    dataset: Path, make: Callable[[Path], None], message: str
) -> None:
    make(dataset)
    with pytest.raises(InputError, match=message.replace("\\", r"\\")):
        found(dataset)


def test_data_set_must_be_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a folder"):
        read_entities(tmp_path / "typo")


def test_files_are_read_inside_the_folder_only(dataset: Path, tmp_path: Path) -> None:
    put(dataset, "images/a/real.png")
    put(tmp_path, "secret.png")
    folder = dataset / "images/a"
    (folder / "inside.png").symlink_to("real.png")
    (folder / "outside.png").symlink_to(tmp_path / "secret.png")
    (folder / "gone.png").symlink_to("nothing.png")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "folder.png").mkdir()
    os.mkfifo(folder / "pipe.png")
    root = dataset.resolve()
    assert read_bytes(root, "images/a/inside.png") == read_bytes(root, "images/a/real.png")
    for name, flaw in [("outside", Flaw.OUTSIDE), ("gone", Flaw.UNREADABLE),
                       ("loop", Flaw.UNREADABLE), ("folder", Flaw.NOT_A_FILE),
                       ("pipe", Flaw.NOT_A_FILE)]:
        with pytest.raises(ImageError) as error:
            read_bytes(root, f"images/a/{name}.png")
        assert error.value.flaw is flaw, name
