"""The flags of the nations, drawn from the compact descriptions in ``flags.json``.

A drawing is a grid and the shapes painted on it in order. The grid, ``size: [width, height]``,
counts in square units chosen to suit the flag (Norway's cross is one of 22 × 16), so it gives
the proportions as well. A shape is a list: its kind, then the arguments of the function of that
name below, for example ``["disc", "red", 5, 3, 2]``. The y axis points down; angles are degrees
clockwise from straight up; a colour is a name of the palette or ``#rrggbb``. An emblem is a
drawing of its own that ``inset`` places inside another.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from itertools import pairwise
from typing import Any, NewType, get_type_hints

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from caption_cache.errors import InputError

Colour = NewType("Colour", str)
"""``#rrggbb``."""
Points = NDArray[np.float64]
"""Positions or a closed outline in grid units, [n, 2] as (x, y)."""
Size = tuple[float, float]
"""Width and height in grid units."""
Paint = tuple[Colour, Points]
"""An outline and what fills it."""

SUPERSAMPLE = 4
"""Sub-pixels to a pixel, each way."""


@dataclass(frozen=True)
class Drawing:
    """Outlines on a grid, painted in order."""

    size: Size
    paints: tuple[Paint, ...]


class _Unfit(Exception):
    """What is wrong with a value, and what it must be."""


SHAPES: dict[str, Callable[..., Iterator[Paint]]] = {}
"""The kinds of shape: the functions below, by name."""


def _kind(function: Callable[..., Iterator[Paint]]) -> Callable[..., Iterator[Paint]]:
    SHAPES[function.__name__] = function
    return function


def _rectangle(x: float, y: float, width: float, height: float) -> Points:
    return np.array([(x, y), (x + width, y), (x + width, y + height), (x, y + height)], float)


def _polar(x: float, y: float, radius: Any, degrees: Any) -> Points:
    """Points at ``degrees`` (an array) around (x, y), [n, 2]."""
    angle = np.radians(degrees)
    return np.stack([x + radius * np.sin(angle), y - radius * np.cos(angle)], axis=-1)


def _arc(x: float, y: float, radius: float, start: float = 0, stop: float = 360) -> Points:
    return _polar(x, y, radius, np.linspace(start, stop, 97))


def _star(x: float, y: float, radius: float, points: int, turn: float, inner: float) -> Points:
    degrees = turn + np.arange(2 * points) * 180 / points
    return _polar(x, y, np.tile([radius, radius * inner], points), degrees)


def _lens(x: float, y: float, rx: float, ry: float, turn: float) -> Points:
    along = np.linspace(-1, 1, 33)
    side = np.stack([1 - along**2, along], axis=-1)
    return np.concatenate([side, -side]) * (rx, ry) @ _rotation(turn) + (x, y)


def _rotation(turn: float) -> Points:
    """The matrix that turns row vectors clockwise."""
    return _polar(0, 0, 1, np.array([turn + 90, turn + 180]))  # the turned x and y axes


def _spread(start: float, stop: float, count: int) -> NDArray[np.float64]:
    """``count`` even angles, both ends included unless they coincide."""
    return np.linspace(start, stop, count, endpoint=stop - start < 360)


def _bands(
    fills: list[Colour], weights: list[float] | None, total: float
) -> Iterator[tuple[Colour, float, float]]:
    """Colour, start and length of each of the parts into which the weights divide ``total``."""
    weights = weights or [1] * len(fills)
    if len(weights) != len(fills) or min(weights) <= 0:
        raise _Unfit(f"{weights} must be as many weights as colours, each above 0")
    ends = np.cumsum([0, *weights]) * (total / sum(weights))
    yield from zip(fills, ends[:-1].tolist(), np.diff(ends).tolist(), strict=True)


# Fields and bands.


@_kind
def field(size: Size, fill: Colour) -> Iterator[Paint]:
    """The whole grid in one colour."""
    yield fill, _rectangle(0, 0, *size)


@_kind
def horizontal(
    size: Size, fills: list[Colour], weights: list[float] | None = None
) -> Iterator[Paint]:
    """Bands from top to bottom, equal or in proportion to the weights."""
    for fill, y, height in _bands(fills, weights, size[1]):
        yield fill, _rectangle(0, y, size[0], height)


@_kind
def vertical(
    size: Size, fills: list[Colour], weights: list[float] | None = None
) -> Iterator[Paint]:
    """Bands from hoist to fly, equal or in proportion to the weights."""
    for fill, x, width in _bands(fills, weights, size[0]):
        yield fill, _rectangle(x, 0, width, size[1])


@_kind
def stripes(size: Size, fills: list[Colour], count: int) -> Iterator[Paint]:
    """``count`` equal horizontal stripes, the colours taking turns."""
    yield from horizontal(size, [fills[i % len(fills)] for i in range(count)])


@_kind
def cross(size: Size, fill: Colour, x: float, y: float, width: float) -> Iterator[Paint]:
    """A cross that reaches all edges, its arms meeting at (x, y)."""
    yield fill, _rectangle(x - width / 2, 0, width, size[1])
    yield fill, _rectangle(0, y - width / 2, size[0], width)


@_kind
def diagonal(size: Size, fill: Colour, width: float, rising: bool = True) -> Iterator[Paint]:
    """A band from corner to corner: from the lower hoist when rising, else from the upper."""
    across, down = size
    x, y = width / 2 * np.hypot(across, down) / np.array([down, across])  # cut off at a corner
    outline = np.array([(0, 0), (x, 0), (across, down - y), size, (across - x, down), (0, y)])
    yield fill, np.abs(outline - (0, down)) if rising else outline


@_kind
def saltire(size: Size, fill: Colour, width: float) -> Iterator[Paint]:
    """Both diagonals."""
    yield from diagonal(size, fill, width)
    yield from diagonal(size, fill, width, rising=False)


@_kind
def triangle(size: Size, fill: Colour, depth: float) -> Iterator[Paint]:
    """A triangle on the whole hoist, its tip ``depth`` towards the fly."""
    yield fill, np.array([(0, 0), (depth, size[1] / 2), (0, size[1])], float)


@_kind
def pall(size: Size, fill: Colour, x: float, width: float) -> Iterator[Paint]:
    """A Y on its side: from both hoist corners to the mid-line at x, then on to the fly."""
    across, down = size
    middle, half = down / 2, width / 2
    shift = half * np.hypot(x, middle) / middle  # of an arm's edge along the x axis
    rise = half * np.hypot(x, middle) / x  # and along the y axis
    bend = x + half * (np.hypot(x, middle) - x) / middle  # where edges of arm and stem meet
    yield fill, np.array([
        (-shift, 0), (0, -rise), (bend, middle - half), (across, middle - half),
        (across, middle + half), (bend, middle + half), (0, down + rise), (-shift, down),
        (x - shift, middle),
    ])


@_kind
def serrated(
    size: Size, fill: Colour, valley: float, tip: float, teeth: int
) -> Iterator[Paint]:
    """The hoist side up to a saw-tooth edge with ``teeth`` points between valley and tip."""
    xs = [valley, *[tip, valley] * teeth]
    ys = np.linspace(0, size[1], len(xs))
    yield fill, np.array([(0, 0), *zip(xs, ys, strict=True), (0, size[1])])


@_kind
def wave(
    size: Size, fill: Colour, y: float, width: float, swing: float, count: int
) -> Iterator[Paint]:
    """A horizontal stripe that waves ``count`` times; ``y`` is the middle of its upper edge."""
    along = np.linspace(0, 1, 16 * count + 1)
    edge = np.stack([along * size[0], y - swing * np.cos(2 * np.pi * count * along)], axis=-1)
    yield fill, np.concatenate([edge, edge[::-1] + np.array([0, width])])


# Single figures.


@_kind
def rect(
    size: Size, fill: Colour, x: float, y: float, width: float, height: float
) -> Iterator[Paint]:
    """A rectangle by its upper left corner."""
    yield fill, _rectangle(x, y, width, height)


@_kind
def rects(
    size: Size, fill: Colour, width: float, height: float, corners: Points
) -> Iterator[Paint]:
    """Equal rectangles by their upper left corners."""
    for x, y in corners.tolist():
        yield fill, _rectangle(x, y, width, height)


@_kind
def polygon(size: Size, fill: Colour, outline: Points) -> Iterator[Paint]:
    """Any outline."""
    yield fill, outline


@_kind
def line(size: Size, fill: Colour, points: Points, width: float) -> Iterator[Paint]:
    """A line through the points, with rounded corners and flat ends."""
    for start, end in pairwise(points):
        along = (end - start) / np.hypot(*(end - start))
        aside = along[::-1] * (-width / 2, width / 2)
        yield fill, np.array([start + aside, end + aside, end - aside, start - aside])
    for x, y in points[1:-1].tolist():
        yield fill, _arc(x, y, width / 2)


@_kind
def plus(
    size: Size, fill: Colour, x: float, y: float, length: float, width: float
) -> Iterator[Paint]:
    """A cross of four equal arms that ends before the edges, ``length`` from end to end."""
    yield fill, _rectangle(x - width / 2, y - length / 2, width, length)
    yield fill, _rectangle(x - length / 2, y - width / 2, length, width)


@_kind
def disc(
    size: Size, fill: Colour, x: float, y: float, radius: float,
    start: float = 0, stop: float = 360,
) -> Iterator[Paint]:
    """A disc, or the segment of it between two angles, cut along the chord."""
    yield fill, _arc(x, y, radius, start, stop)


@_kind
def ellipse(
    size: Size, fill: Colour, x: float, y: float, rx: float, ry: float, turn: float = 0
) -> Iterator[Paint]:
    """An ellipse by its half axes."""
    yield fill, _arc(0, 0, 1) * (rx, ry) @ _rotation(turn) + (x, y)


@_kind
def lens(
    size: Size, fill: Colour, x: float, y: float, rx: float, ry: float, turn: float = 0
) -> Iterator[Paint]:
    """A leaf: like an ellipse, but pointed at both ends of ``ry``."""
    yield fill, _lens(x, y, rx, ry, turn)


@_kind
def ring(
    size: Size, fill: Colour, x: float, y: float, outer: float, inner: float,
    start: float = 0, stop: float = 360,
) -> Iterator[Paint]:
    """A ring, or the arc of it between two angles."""
    yield fill, np.concatenate(
        [_arc(x, y, outer, start, stop), _arc(x, y, inner, start, stop)[::-1]]
    )


@_kind
def crescent(
    size: Size, fill: Colour, x: float, y: float, radius: float,
    x2: float, y2: float, radius2: float,
) -> Iterator[Paint]:
    """The first disc without the second; their edges must cross."""
    apart = np.hypot(x2 - x, y2 - y)
    if not abs(radius - radius2) < apart < radius + radius2:
        raise _Unfit("the edges of the two discs must cross")
    towards = np.degrees(np.arctan2(x2 - x, y - y2))
    # Half the angle that each circle spends inside the other (law of cosines).
    half, half2 = (
        np.degrees(np.arccos((apart**2 + own**2 - other**2) / (2 * apart * own)))
        for own, other in ((radius, radius2), (radius2, radius))
    )
    yield fill, np.concatenate([
        _arc(x, y, radius, towards + half, towards + 360 - half),
        _arc(x2, y2, radius2, towards + 180 + half2, towards + 180 - half2),
    ])


@_kind
def star(
    size: Size, fill: Colour, x: float, y: float, radius: float,
    points: int = 5, turn: float = 0, inner: float = 0.382,
) -> Iterator[Paint]:
    """A star; its notches lie at ``inner`` times the radius."""
    yield fill, _star(x, y, radius, points, turn, inner)


@_kind
def stars(
    size: Size, fill: Colour, radius: float, centres: Points,
    points: int = 5, turn: float = 0, inner: float = 0.382,
) -> Iterator[Paint]:
    """Equal stars, one at each centre."""
    for x, y in centres.tolist():
        yield fill, _star(x, y, radius, points, turn, inner)


@_kind
def star_arc(
    size: Size, fill: Colour, x: float, y: float, distance: float, count: int, radius: float,
    start: float = 0, stop: float = 360, upright: bool = True, points: int = 5,
) -> Iterator[Paint]:
    """Stars along a circle (or an arc of it) around (x, y), upright or pointing outwards."""
    degrees = _spread(start, stop, count)
    for (cx, cy), turn in zip(_polar(x, y, distance, degrees).tolist(), degrees, strict=True):
        yield fill, _star(cx, cy, radius, points, 0 if upright else turn, 0.382)


@_kind
def sun(
    size: Size, fill: Colour, x: float, y: float, radius: float, base: float, tip: float,
    rays: int, width: float = 0.5, start: float = 0, stop: float = 360,
) -> Iterator[Paint]:
    """A disc and pointed rays from ``base`` to ``tip``, each filling ``width`` of its share."""
    yield fill, _arc(x, y, radius)
    share = width * (stop - start) / rays / 2
    for degrees in _spread(start, stop, rays):
        yield fill, _polar(x, y, np.array([base, tip, base]), degrees + share * np.arange(-1, 2))


@_kind
def spokes(
    size: Size, fill: Colour, x: float, y: float, inner: float, outer: float, count: int,
    width: float, start: float = 0, stop: float = 360,
) -> Iterator[Paint]:
    """Straight bars from one radius to another."""
    for degrees in _spread(start, stop, count):
        yield from line(size, fill, _polar(x, y, np.array([inner, outer]), [degrees] * 2), width)


@_kind
def wreath(
    size: Size, fill: Colour, x: float, y: float, radius: float, count: int, leaf: float,
    gap: float = 30,
) -> Iterator[Paint]:
    """Two twigs that rise from the foot of a circle, ``count`` pairs of leaves each.

    ``leaf`` is a leaf's length and ``gap`` the angle on either side of the top left open.
    """
    for side in (-1, 1):
        for degrees in np.linspace(180 - 8, gap, count):
            for aside in (-1, 1):
                (cx, cy), = _polar(x, y, radius + aside * leaf * 0.28, [side * degrees])
                turn = side * (degrees - 90 - aside * 35)
                yield fill, _lens(cx, cy, leaf * 0.2, leaf * 0.5, turn)


@_kind
def inset(
    size: Size, emblem: Drawing, x: float, y: float, width: float, height: float, turn: float = 0
) -> Iterator[Paint]:
    """An emblem stretched into a box, then turned about the middle of the box."""
    box = np.array([width, height])
    for fill, outline in emblem.paints:
        centred = (outline / emblem.size - 0.5) * box
        yield fill, centred @ _rotation(turn) + (x + width / 2, y + height / 2)


# Reading the descriptions.


@dataclass(frozen=True)
class FlagBook:
    """The flags of one description file, read and checked."""

    flags: Mapping[str, Drawing]
    """By ISO 3166-1 alpha-3 code, upper case."""

    @classmethod
    def parse(cls, text: str, origin: str) -> FlagBook:
        """Read and check a description file.

        Args:
            text: JSON with the keys ``palette`` (name to ``#rrggbb``), ``emblems`` (name to
                drawing; each may use those before it) and ``flags`` (code to drawing).
            origin: What messages call the file.

        Raises:
            InputError: The text is not JSON or describes something that cannot be drawn; names
                the flag or emblem, the shape and the mend.
        """
        try:
            book = json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(f"{origin}, line {error.lineno}: not JSON ({error.msg}); mend the "
                             "line.") from None
        palette: dict[str, Colour] = {}
        emblems: dict[str, Drawing] = {}
        flags: dict[str, Drawing] = {}
        reader = _Reader(palette, emblems)
        parts: list[tuple[str, dict[str, Any], Callable[[Any], Any]]] = [
            ("palette", palette, reader.colour), ("emblems", emblems, reader.drawing),
            ("flags", flags, reader.drawing),
        ]
        for part, into, convert in parts:
            described = book.get(part) if isinstance(book, dict) else None
            if not isinstance(described, dict):
                raise InputError(f"{origin}: must be an object with the objects palette, emblems "
                                 "and flags.")
            for name, value in described.items():
                try:
                    into[name] = convert(value)
                except _Unfit as unfit:
                    raise InputError(f"{origin}, {part}, {name}: {unfit}.") from None
        return cls(flags)

    def draw(self, code: str, height: int = 120) -> Image.Image:
        """See :func:`draw_flag`."""
        if code not in self.flags:
            raise InputError(f"No flag is drawn for {code!r}; give one of the ISO 3166-1 alpha-3 "
                             f"codes {', '.join(sorted(self.flags))}.")
        if height < 1:
            raise InputError(f"A flag cannot be {height} pixels high; give at least 1.")
        drawing = self.flags[code]
        across, down = drawing.size
        shape = np.array([max(1, round(height * across / down)), height]) * SUPERSAMPLE
        canvas = Image.new("RGB", (int(shape[0]), int(shape[1])), "white")
        brush = ImageDraw.Draw(canvas)
        scale = shape / drawing.size
        for fill, outline in drawing.paints:
            brush.polygon((outline * scale).ravel().tolist(), fill=fill)
        return canvas.reduce(SUPERSAMPLE)


@dataclass(frozen=True)
class _Reader:
    """Turns the JSON values of a description into what the shape functions take."""

    palette: dict[str, Colour]
    emblems: dict[str, Drawing]

    @cached_property
    def converters(self) -> dict[Any, Callable[[Any], Any]]:
        """What turns a value into each type that a shape function asks for."""
        return {
            Size: tuple, Colour: self.colour, list[Colour]: self.colours, float: self.number,
            list[float] | None: self.numbers, Points: self.points, int: self.count,
            bool: self.truth, Drawing: self.emblem,
        }

    def drawing(self, value: Any) -> Drawing:
        if not isinstance(value, dict) or {"size", "shapes"} - value.keys() or (
            value.keys() - {"size", "shapes", "note"}
        ):
            raise _Unfit("must be an object with size, shapes and perhaps note")
        size = self.numbers(value["size"])
        if len(size) != 2 or min(size) <= 0:
            raise _Unfit(f"size {value['size']!r} must be a width and a height above 0")
        if not isinstance(value["shapes"], list) or not value["shapes"]:
            raise _Unfit("shapes must be a list of at least one shape")
        across, down = size
        return Drawing((across, down), tuple(
            paint for number, shape in enumerate(value["shapes"], start=1)
            for paint in self.shape(shape, number, (across, down))
        ))

    def shape(self, value: Any, number: int, size: Size) -> list[Paint]:
        if not isinstance(value, list) or not value or value[0] not in list(SHAPES):
            raise _Unfit(f"shape {number} must be a list that starts with one of "
                         f"{', '.join(SHAPES)}")
        kind, *arguments = value
        signature, hints = _signature(kind)
        try:
            bound = signature.bind(size, *arguments)
        except TypeError as error:
            raise _Unfit(f"shape {number}, {kind}: {error}; it takes "
                         f"{', '.join(list(signature.parameters)[1:])}") from None
        convert = self.converters
        try:
            return list(SHAPES[kind](*(
                convert[hints[name]](argument) for name, argument in bound.arguments.items())))
        except _Unfit as unfit:
            raise _Unfit(f"shape {number}, {kind}: {unfit}") from None

    def colour(self, value: Any) -> Colour:
        if isinstance(value, str):
            if value in self.palette:
                return self.palette[value]
            if re.fullmatch("#[0-9A-Fa-f]{6}", value):
                return Colour(value)
        raise _Unfit(f"{value!r} must be a colour of the palette or #rrggbb")

    def colours(self, value: Any) -> list[Colour]:
        if not isinstance(value, list) or not value:
            raise _Unfit(f"{value!r} must be a list of colours")
        return [self.colour(item) for item in value]

    def emblem(self, value: Any) -> Drawing:
        if not isinstance(value, str) or value not in self.emblems:
            raise _Unfit(f"{value!r} must be one of the emblems before it")
        return self.emblems[value]

    def number(self, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _Unfit(f"{value!r} must be a number")
        return float(value)

    def numbers(self, value: Any) -> list[float]:
        if not isinstance(value, list):
            raise _Unfit(f"{value!r} must be a list of numbers")
        return [self.number(item) for item in value]

    def points(self, value: Any) -> Points:
        if not isinstance(value, list) or not value:
            raise _Unfit(f"{value!r} must be a list of points [x, y]")
        points = [self.numbers(item) for item in value]
        if any(len(point) != 2 for point in points):
            raise _Unfit(f"{value!r} must be a list of points [x, y]")
        return np.array(points)

    def count(self, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise _Unfit(f"{value!r} must be a whole number above 0")
        return value

    def truth(self, value: Any) -> bool:
        if not isinstance(value, bool):
            raise _Unfit(f"{value!r} must be true or false")
        return value


@cache
def _signature(kind: str) -> tuple[inspect.Signature, dict[str, Any]]:
    return inspect.signature(SHAPES[kind]), get_type_hints(SHAPES[kind])


@cache
def _embedded() -> FlagBook:
    text = (resources.files(__package__) / "flags.json").read_text(encoding="utf-8")
    return FlagBook.parse(text, "flags.json")


def flag_codes() -> list[str]:
    """The ISO 3166-1 alpha-3 codes (upper case) of the nations whose flag can be drawn, sorted."""
    return sorted(_embedded().flags)


def draw_flag(code: str, height: int = 120) -> Image.Image:
    """Draw a nation's flag in its official proportions; the same call gives the same pixels.

    Args:
        code: ISO 3166-1 alpha-3, upper case.
        height: Pixels; the width follows.

    Returns:
        An RGB image, anti-aliased; what a flag that is no rectangle leaves open is white.

    Raises:
        InputError: No flag is drawn for the code, or the height is below 1.
    """
    return _embedded().draw(code, height)
