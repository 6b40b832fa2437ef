"""The palette captioner, on images painted for each layout and on images that have none."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from caption_cache.captioners import Captioner, Request
from caption_cache.captioners.palette import COLOURS, PaletteCaptioner, describe

RED, WHITE, BLUE, GREEN, YELLOW, BLACK = (
    "#CE1126", "#FFFFFF", "#0038A8", "#009543", "#FCD116", "#000000")
W, H = 300, 200


def bands(*colours: str, vertical: bool = False) -> Image.Image:
    image = Image.new("RGB", (W, H))
    pen, count = ImageDraw.Draw(image), len(colours)
    for i, colour in enumerate(colours):
        box = ((W * i // count, 0, W * (i + 1) // count - 1, H) if vertical else
               (0, H * i // count, W, H * (i + 1) // count - 1))
        pen.rectangle(box, colour)
    return image


def painted(ground: Image.Image, *shapes: Callable[[ImageDraw.ImageDraw], None]) -> Image.Image:
    for shape in shapes:
        shape(ImageDraw.Draw(ground))
    return ground


def rectangle(x: int, y: int, x2: int, y2: int, fill: str) -> Callable[[ImageDraw.ImageDraw], None]:
    return lambda pen: pen.rectangle((x, y, x2 - 1, y2 - 1), fill)


def disc(x: int, y: int, radius: int, fill: str) -> Callable[[ImageDraw.ImageDraw], None]:
    return lambda pen: pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill)


def polygon(fill: str, *points: tuple[int, int]) -> Callable[[ImageDraw.ImageDraw], None]:
    return lambda pen: pen.polygon(points, fill)


def line(fill: str, width: int, *points: tuple[int, int]) -> Callable[[ImageDraw.ImageDraw], None]:
    return lambda pen: pen.line(points, fill, width)


SAMPLES = {
    "plain field: blue": bands(BLUE),
    "horizontal bicolour: blue, yellow": bands(BLUE, YELLOW),
    "horizontal tricolour: black, red, yellow": bands(BLACK, RED, YELLOW),
    "horizontal triband: red, white, red": bands(RED, WHITE, RED),
    "horizontal stripes: red, blue, yellow, green": bands(RED, BLUE, YELLOW, GREEN),
    "vertical bicolour: white, red": bands(WHITE, RED, vertical=True),
    "vertical tricolour: green, white, red": bands(GREEN, WHITE, RED, vertical=True),
    "vertical triband: green, white, green": bands(GREEN, WHITE, GREEN, vertical=True),
    "horizontal triband: blue, white, blue; yellow disc at the centre": painted(
        bands(BLUE, WHITE, BLUE), disc(150, 100, 32, YELLOW)),
    "canton: blue on white, red": painted(
        bands(WHITE, RED), rectangle(0, 0, 100, 100, BLUE)),
    "canton: blue on red, white": painted(
        bands(*[RED, WHITE] * 5), rectangle(0, 0, 120, 100, BLUE)),
    "hoist triangle: green on red, white, black": painted(
        bands(RED, WHITE, BLACK), polygon(GREEN, (0, 0), (100, 100), (0, 200))),
    "Nordic cross: yellow on blue": painted(
        bands(BLUE), rectangle(90, 0, 130, H, YELLOW), rectangle(0, 80, W, 120, YELLOW)),
    "cross: red on white": painted(
        bands(WHITE), rectangle(130, 0, 170, H, RED), rectangle(0, 80, W, 120, RED)),
    "cross: white on red": painted(
        bands(RED), rectangle(135, 40, 165, 160, WHITE), rectangle(90, 85, 210, 115, WHITE)),
    "saltire: white on blue": painted(
        bands(BLUE), line(WHITE, 40, (0, 0), (W, H)), line(WHITE, 40, (0, H), (W, 0))),
    "diagonal: green, yellow, red": painted(
        bands(GREEN), polygon(RED, (W, 0), (W, H), (0, H)), line(YELLOW, 50, (0, H), (W, 0))),
    "diagonal: black, red": painted(bands(RED), polygon(BLACK, (0, 0), (0, H), (W, H))),
    "hoist band: green on yellow, red": painted(
        bands(YELLOW, RED), rectangle(0, 0, 110, H, GREEN)),
    "charged field: white; red disc at the centre": painted(
        bands(WHITE), disc(150, 100, 60, RED)),
    "charged field: red; small yellow shape at the upper left": painted(
        bands(RED), polygon(YELLOW, (50, 15), (85, 75), (15, 75))),
    "bordered field: red on green": painted(
        bands(RED), rectangle(40, 40, 260, 160, GREEN)),
    "serrated division: white, red": painted(
        bands(RED), polygon(WHITE, (0, 0), *((60 + 40 * (i % 2), 20 * i) for i in range(11)),
                            (0, H))),
    "pall: green on black, red, blue": painted(
        bands(RED, BLUE), polygon(BLACK, (0, 0), (140, 100), (0, H)),
        line(GREEN, 40, (0, 0), (140, 100), (W, 100)), line(GREEN, 40, (0, H), (140, 100))),
    "rays: green, blue, yellow, red": painted(
        bands(RED), polygon(GREEN, (0, H), (0, 0), (90, 0)),
        polygon(BLUE, (0, H), (90, 0), (W, 0)), polygon(YELLOW, (0, H), (W, 0), (W, 110))),
    "quarterly: white, red, blue, white": painted(
        bands(WHITE), rectangle(150, 0, W, 100, RED), rectangle(0, 100, 150, H, BLUE)),
    "lozenge: yellow on green": painted(
        bands(GREEN), polygon(YELLOW, (25, 100), (150, 20), (275, 100), (150, 180))),
}


@pytest.mark.parametrize("layout", SAMPLES)
def test_layouts(layout: str) -> None:
    said = describe(SAMPLES[layout])
    # Rays are read around a corner, in either sense.
    words = layout.split(", ") if layout.startswith("rays") else [layout]
    assert all(word.removeprefix("rays: ") in said for word in words)
    assert f"layout {layout.split(':')[0]}:" in said


@pytest.mark.parametrize("layout", SAMPLES)
@pytest.mark.parametrize("size", [(150, 100), (600, 400), (333, 222), (400, 400)])
def test_size_plays_no_part(layout: str, size: tuple[int, int]) -> None:
    image = SAMPLES[layout]
    resized = image.resize(size, Image.Resampling.BOX)
    (colours, says), (same_colours, same) = (describe(i).split(". ") for i in (image, resized))
    assert same == says
    # Colours of equal area may change places.
    assert set(re.split("[ ,]+", same_colours)) == set(re.split("[ ,]+", colours))


def test_colours_are_named_by_area() -> None:
    image = painted(bands(WHITE), rectangle(0, 0, W, 120, BLUE), rectangle(0, 0, 60, 60, BLACK))
    assert describe(image).startswith("colours blue, white, black. ")


@pytest.mark.parametrize(("colour", "word"), [
    ("#CE1126", "red"), ("#FFFFFF", "white"), ("#012169", "blue"), ("#75AADB", "light blue"),
    ("#006A4E", "green"), ("#FFDE00", "yellow"), ("#000000", "black"), ("#FF8200", "orange"),
    ("#8A1538", "maroon"), ("#7B4B24", "brown"), ("#00778B", "turquoise"), ("#8030A0", "purple"),
    ("#808080", "grey"),
])
def test_every_colour_word(colour: str, word: str) -> None:
    assert describe(Image.new("RGB", (30, 20), colour)) == (
        f"colours {word}. layout plain field: {word}.")


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (2, 2), (5000, 20)])
def test_any_size(size: tuple[int, int]) -> None:
    assert describe(Image.new("RGB", size, RED)) == "colours red. layout plain field: red."


def test_big_image() -> None:
    image = bands(BLUE, WHITE, RED, vertical=True)
    assert describe(image.resize((6000, 4000))) == describe(image)


def test_noise_has_no_layout() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (H // 2, W // 2, 3), np.uint8)
    assert "no clear layout: " in describe(Image.fromarray(noise))


def test_grey_noise_is_grey() -> None:
    noise = np.random.default_rng(0).integers(96, 160, (H, W), np.uint8)
    assert describe(Image.fromarray(noise).convert("RGB")) == (
        "colours grey. layout plain field: grey.")


def test_a_landscape_keeps_its_colours() -> None:
    rng = np.random.default_rng(0)
    sky = np.array([120, 180, 240]) + rng.integers(-12, 12, (400, 900, 3))
    grass = np.array([40, 120, 40]) + rng.integers(-25, 25, (500, 900, 3))
    said = describe(Image.fromarray(np.concatenate([sky, grass]).clip(0, 255).astype(np.uint8)))
    assert said.startswith("colours green, light blue.")


@settings(max_examples=100)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_texts_are_short_regular_and_repeatable(width: int, height: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    palette = rng.integers(0, 256, (rng.integers(1, 5), 3), np.uint8)
    image = Image.fromarray(palette[rng.integers(0, len(palette), (height, width))])
    said = describe(image)
    assert said == describe(image.copy())
    assert len(said.split()) <= 40
    assert re.fullmatch(r"colours [a-z, ]+\. (layout|no clear layout)[A-Za-z ]*: [a-z,; ]+\.", said)
    named = re.match(r"colours ([a-z, ]+)\.", said)
    assert named and set(named[1].split(", ")) <= set(COLOURS)


def test_captioner() -> None:
    captioner: Captioner = PaletteCaptioner()
    images = bands(BLUE, YELLOW), bands(RED, WHITE)
    one, two = captioner.caption([Request(images[:1], None), Request(images, None)])
    assert one == describe(images[0])
    assert two == f"{describe(images[0])} {describe(images[1])}"
    assert captioner.identity.captioner == "palette"
    assert not captioner.prompted
