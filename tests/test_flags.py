"""Flags: every one draws, the well-known ones have the right colours in the right places."""

from __future__ import annotations

import json
import re
from importlib import resources
from typing import Any

import numpy as np
import pytest
from PIL import Image

from caption_cache.errors import InputError
from kgc_seq2seq.graph.nations.flags import SHAPES, FlagBook, draw_flag, flag_codes

WHITE, BLACK = (255, 255, 255), (0, 0, 0)
RED, BLUE, GREEN, YELLOW = "red", "blue", "green", "yellow"


def hue(pixel: tuple[int, ...]) -> str | tuple[int, ...]:
    """A rough word for a saturated colour; white and black as they are."""
    if pixel in (WHITE, BLACK):
        return pixel
    red, green, blue = pixel
    if min(red, green) > max(120, 1.5 * blue):
        return YELLOW
    return (RED, GREEN, BLUE)[int(np.argmax((red, green, blue)))]


def at(image: Image.Image, x: float, y: float) -> str | tuple[int, ...]:
    """The colour at a place given in shares of the width and the height."""
    pixel = image.getpixel((int(x * image.width), int(y * image.height)))
    assert isinstance(pixel, tuple)
    return hue(pixel)


@pytest.mark.parametrize("code", flag_codes())
def test_every_flag_draws(code: str) -> None:
    image = draw_flag(code, 60)
    assert image.mode == "RGB"
    assert image.height == 60
    assert 0.8 < image.width / image.height < 2.6
    assert len(np.unique(np.asarray(image).reshape(-1, 3), axis=0)) > 1


def test_codes() -> None:
    codes = flag_codes()
    assert len(codes) >= 150
    assert codes == sorted(set(codes))
    assert all(re.fullmatch("[A-Z]{3}", code) for code in codes)
    assert not {"SAU", "MEX", "ALB", "BTN", "LKA"} & set(codes)  # no emblem, no flag


@pytest.mark.parametrize(("code", "ratio", "places"), [
    ("FRA", 3 / 2, {(0.1, 0.5): BLUE, (0.5, 0.5): WHITE, (0.9, 0.5): RED}),
    ("DEU", 5 / 3, {(0.5, 0.1): BLACK, (0.5, 0.5): RED, (0.5, 0.9): YELLOW}),
    ("JPN", 3 / 2, {(0.5, 0.5): RED, (0.1, 0.1): WHITE, (0.5, 0.1): WHITE}),
    ("UKR", 3 / 2, {(0.5, 0.1): BLUE, (0.5, 0.9): YELLOW}),
    ("SWE", 8 / 5, {(6 / 16, 0.1): YELLOW, (0.9, 0.5): YELLOW, (0.1, 0.1): BLUE}),
    ("NOR", 22 / 16, {(8 / 22, 0.1): BLUE, (6.5 / 22, 0.1): WHITE, (0.1, 0.1): RED}),
    ("CHE", 1, {(0.5, 0.5): WHITE, (0.3, 0.5): WHITE, (0.05, 0.5): RED, (0.3, 0.3): RED}),
    ("JAM", 2, {(0.5, 0.5): YELLOW, (0.5, 0.1): GREEN, (0.1, 0.5): BLACK}),
    ("USA", 1.9, {(0.02, 0.02): BLUE, (0.9, 0.02): RED, (0.9, 0.11): WHITE, (0.02, 0.98): RED}),
    ("GBR", 2, {(0.5, 0.5): RED, (0.5, 0.05): RED, (0.3, 0.05): BLUE, (0.5, 0.37): RED,
                (0.1, 0.5): RED, (0.1, 0.37): WHITE}),
    ("GRC", 3 / 2, {(5 / 27, 5 / 18): WHITE, (0.05, 0.05): BLUE, (0.9, 0.05): BLUE,
                    (0.9, 3 / 18): WHITE, (0.05, 17 / 18): BLUE}),
    ("CZE", 3 / 2, {(0.1, 0.5): BLUE, (0.9, 0.1): WHITE, (0.9, 0.9): RED}),
    ("CHN", 3 / 2, {(5 / 30, 5 / 20): YELLOW, (10 / 30, 2 / 20): YELLOW, (0.9, 0.9): RED}),
    ("TUR", 3 / 2, {(0.2, 0.5): WHITE, (0.4, 0.5): RED, (0.55, 0.5): WHITE, (0.9, 0.5): RED}),
    ("ZAF", 3 / 2, {(0.05, 0.5): BLACK, (0.5, 0.5): GREEN, (0.9, 0.1): RED, (0.9, 0.9): BLUE}),
    ("BRA", 10 / 7, {(0.05, 0.05): GREEN, (0.2, 0.5): YELLOW, (0.4, 0.6): BLUE}),
    ("NPL", 369 / 443, {(0.9, 0.1): WHITE, (0.1, 0.5): RED, (0.01, 0.5): BLUE}),
])
def test_known_pixels(
    code: str, ratio: float, places: dict[tuple[float, float], str | tuple[int, ...]]
) -> None:
    image = draw_flag(code, 240)
    assert image.width == round(240 * ratio)
    assert {place: at(image, *place) for place in places} == places


def test_edges_are_smooth() -> None:
    row = np.asarray(draw_flag("JPN", 120))[60, :, 1].astype(int)
    mixed = (row > row.min()) & (row < row.max())
    assert 1 <= mixed.sum() <= 4


def test_the_same_pixels_every_time() -> None:
    for code in ("USA", "KHM", "KOR"):
        assert draw_flag(code).tobytes() == draw_flag(code).tobytes()
        assert draw_flag(code).height == 120


def test_a_pixel_is_enough() -> None:
    assert draw_flag("QAT", 1).size == (3, 1)


@pytest.mark.parametrize("code", ["fra", "XXX", ""])
def test_unknown_code(code: str) -> None:
    with pytest.raises(InputError, match=f"No flag is drawn for '{code}'; give one of .*AGO, ARE"):
        draw_flag(code)


def test_no_height() -> None:
    with pytest.raises(InputError, match="cannot be 0 pixels high"):
        draw_flag("FRA", 0)


def book(*shapes: Any, **change: Any) -> str:
    flag = {"size": [3, 2], "shapes": list(shapes)}
    return json.dumps({"palette": {"red": "#CE1126"}, "emblems": {}, "flags": {"FRA": flag}}
                      | change)


@pytest.mark.parametrize(("text", "message"), [
    ("{\n,", "flags.json, line 2: not JSON"),
    ("[]", "flags.json: must be an object with the objects palette, emblems and flags"),
    (book(palette={"red": "crimson"}), "palette, red: 'crimson' must be a colour"),
    (book(flags={"FRA": []}), "flags, FRA: must be an object with size, shapes"),
    (book(flags={"FRA": {"size": [3, 2], "shapes": [["field", "red"]], "colour": 1}}),
     "flags, FRA: must be an object with size, shapes"),
    (book(flags={"FRA": {"size": [3, 0], "shapes": [["field", "red"]]}}), "size .* above 0"),
    (book(flags={"FRA": {"size": [3], "shapes": [["field", "red"]]}}), "size .* above 0"),
    (book(), "shapes must be a list of at least one shape"),
    (book("field"), "shape 1 must be a list that starts with one of field, horizontal"),
    (book(["blob", "red"]), "shape 1 must be a list that starts with one of"),
    (book(["field", "red"], ["field", "pink"]), "shape 2, field: 'pink' must be a colour"),
    (book(["field", ["red"]]), "must be a colour"),
    (book([["field"], "red"]), "shape 1 must be a list that starts with one of"),
    (book(["field"]), "shape 1, field: missing .*fill"),
    (book(["disc", "red", 1, 2]), "shape 1, disc: missing .*radius.* it takes fill, x, y, radius"),
    (book(["disc", "red", 1, 2, "3"]), "shape 1, disc: '3' must be a number"),
    (book(["disc", "red", 1, 2, True]), "must be a number"),
    (book(["star", "red", 1, 1, 1, 4.5]), "4.5 must be a whole number"),
    (book(["diagonal", "red", 1, 0]), "0 must be true or false"),
    (book(["horizontal", "red"]), "'red' must be a list of colours"),
    (book(["horizontal", ["red"], 3]), "3 must be a list of numbers"),
    (book(["horizontal", ["red", "red"], [1]]), "as many weights as colours"),
    (book(["horizontal", ["red", "red"], [1, 0]]), "above 0"),
    (book(["polygon", "red", []]), "must be a list of points"),
    (book(["polygon", "red", [[0, 0], [1, 1, 1]]]), "must be a list of points"),
    (book(["crescent", "red", 0, 0, 1, 5, 0, 1]), "must cross"),
    (book(["inset", "lion", 0, 0, 1, 1]), "'lion' must be one of the emblems before it"),
])
def test_malformed_descriptions_are_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        FlagBook.parse(text, "flags.json")


def test_every_kind_of_shape_is_used_and_described() -> None:
    text = (resources.files("kgc_seq2seq.graph.nations") / "flags.json").read_text("utf-8")
    for kind, function in SHAPES.items():
        assert function.__doc__, kind
        assert f'["{kind}", ' in text, kind
