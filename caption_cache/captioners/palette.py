"""A weight-free baseline: says from the pixels alone which colours an image has, and how they lie.

It is no vision-language model and knows no objects. An image becomes a small grid of colour
words; the rules of `LAYOUTS` are tried from the most to the least particular, and the first that
accounts for the grid names the layout. The words are those used of flags, yet true of any image:
a beach may well be a "horizontal bicolour" of light blue and yellow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from caption_cache.captioners import Identity, Request

COLOURS = ("red", "white", "blue", "light blue", "green", "yellow", "black", "orange", "maroon",
           "brown", "turquoise", "purple", "grey")
"""All the colour words there are; the class of a cell is a place in this list."""

Grid = NDArray[np.uint8]
"""Classes; of a whole image [HEIGHT, WIDTH]."""
Mask = NDArray[np.bool_]

HEIGHT, WIDTH = 120, 180
"""Cells of the grid every image is brought to; the proportions of the image play no part."""
EDGE = 6
"""Cells of the strip that stands for an edge."""
THIN = 3
"""Cells from which a band counts."""
LEAST = 0.01
"""Share of the image from which a colour or a charge is worth a word."""
MOST_COLOURS, MOST_CHARGES = 6, 2
"""How many are named at most."""
SECTORS = 120
"""Into how many sectors rays divide the view from a point."""
NONE = np.uint8(255)
"""Stands for no class."""

_y = ((np.arange(HEIGHT) + 0.5) / HEIGHT)[:, None]
_x = ((np.arange(WIDTH) + 0.5) / WIDTH)[None, :]


@dataclass(frozen=True)
class Picture:
    """A grid, and the class at its edges."""

    grid: Grid
    left: Grid
    """Row by row, [HEIGHT]; so is ``right``."""
    right: Grid
    top: Grid
    """Column by column, [WIDTH]; so is ``bottom``."""
    bottom: Grid

    @property
    def edges(self) -> tuple[Grid, Grid, Grid, Grid]:
        return self.left, self.right, self.top, self.bottom

    @cached_property
    def reach(self) -> NDArray[np.intp]:
        """The column where the one colour begins that each row ends in, [HEIGHT]."""
        other = self.grid != self.right[:, None]
        return np.where(other.any(1), WIDTH - other[:, ::-1].argmax(1), 0)


class Layout(NamedTuple):
    """What a rule found."""

    name: str
    ground: list[int]
    """The classes below, in reading order."""
    figure: Sequence[int] = ()
    """The classes of the figure that gives the layout its name."""
    explained: Grid | None = None
    """The grid as it would be without charges; None where the rule does not know."""


# From pixels to colour words.


@cache
def _words() -> Grid:
    """The class of every colour at 6 bits a channel, [64, 64, 64], by its CIELAB coordinates."""
    level = (np.arange(64) * 4 + 2) / 255
    linear = np.where(level > 0.04045, ((level + 0.055) / 1.055) ** 2.4, level / 12.92)
    rgb = np.stack(np.meshgrid(linear, linear, linear, indexing="ij"), axis=-1)
    # sRGB to XYZ over the white point D65, then to CIELAB.
    xyz = rgb @ np.array([[0.4339, 0.2126, 0.0177], [0.3762, 0.7152, 0.1095],
                          [0.1899, 0.0722, 0.8728]])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    light = 116 * f[..., 1] - 16
    a, b = 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])
    chroma, hue = np.hypot(a, b), np.degrees(np.arctan2(b, a)) % 360
    rules = [
        ("black", (light < 6) | ((light < 20) & (chroma < 14))),
        ("white", (light > 90) & (chroma < 16)),
        ("grey", chroma < 14),
        ("maroon", (((hue < 30) | (hue > 345)) & (light < 35.6)) | ((hue < 47) & (light < 28))),
        ("red", (hue < 47) | (hue > 345)),
        ("brown", (hue < 100) & (light < 50)),
        ("orange", hue < 79),
        ("yellow", hue < 110),
        ("green", hue < 190),
        ("turquoise", (hue < 215) | ((hue < 225) & (light < 50))),
        ("light blue", (hue < 310) & (light > 52)),
        ("blue", hue < 310),
        ("purple", hue <= 345),
    ]
    words: Grid = np.select([where for _, where in rules],
                            [np.uint8(COLOURS.index(word)) for word, _ in rules])
    return words


def _grid(image: Image.Image) -> Grid:
    """The colour words of the image, rid of specks and of the mixed colours along edges."""
    width, height = min(image.width, WIDTH), min(image.height, HEIGHT)
    small = image.convert("RGB").resize((width, height), Image.Resampling.BOX, reducing_gap=2)
    red, green, blue = np.moveaxis(np.asarray(small) >> 2, -1, 0)
    grid: Grid = _words()[red, green, blue]
    # A cell is sure when it belongs to some 2 x 2 block of one colour; the others take the
    # colour of a sure neighbour, if they have one.
    corner = grid[1:, 1:]
    block = np.pad((corner == grid[:-1, :-1]) & (corner == grid[:-1, 1:])
                   & (corner == grid[1:, :-1]), 1)
    sure = block[1:, 1:] | block[:-1, 1:] | block[1:, :-1] | block[:-1, :-1]
    for _ in range(2):
        around, known = np.pad(grid, 1), np.pad(sure, 1)
        for y, x in ((1, 0), (1, 2), (0, 1), (2, 1)):
            beside = slice(y, y + height), slice(x, x + width)
            take = known[beside] & ~sure
            grid[take] = around[beside][take]
            sure |= take
    return grid[np.arange(HEIGHT)[:, None] * height // HEIGHT, np.arange(WIDTH) * width // WIDTH]


def _picture(image: Image.Image) -> Picture:
    grid = _grid(image)
    strips = grid[:, :EDGE], grid[:, -EDGE:], grid[:EDGE].T, grid[-EDGE:].T
    classes = np.arange(len(COLOURS), dtype=np.uint8)
    return Picture(grid, *((strip[:, :, None] == classes).sum(1).argmax(1).astype(np.uint8)
                           for strip in strips))


# Small tools on classes.


def _shares(cells: Grid) -> NDArray[np.float64]:
    """The share of each class, [len(COLOURS)]."""
    return np.bincount(cells.ravel(), minlength=len(COLOURS)) / max(1, cells.size)


def _mode(cells: Grid) -> tuple[int, float]:
    """The most frequent class and its share."""
    shares = _shares(cells)
    return int(shares.argmax()), float(shares.max())


def _largest(shares: NDArray[np.float64], least: float) -> list[int]:
    """The classes with at least that share, the largest first."""
    return [c for c in np.argsort(-shares, kind="stable").tolist() if shares[c] >= least]


def _distinct(classes: Iterable[int]) -> list[int]:
    return list(dict.fromkeys(int(c) for c in classes))


def _runs(line: Grid, least: int) -> list[tuple[int, int, int]]:
    """The runs of equal values as (value, start, stop), those shorter than ``least`` left out.

    Equal neighbours that a left-out run parted become one.
    """
    ends = [0, *(np.flatnonzero(np.diff(line)) + 1).tolist(), len(line)]
    runs: list[tuple[int, int, int]] = []
    for start, stop in pairwise(ends):
        value = int(line[start])
        if stop - start < least:
            continue
        if runs and runs[-1][0] == value:
            runs[-1] = (value, runs[-1][1], stop)
        else:
            runs.append((value, start, stop))
    return runs


def _bands_of(line: Grid) -> list[int]:
    return [value for value, _, _ in _runs(line, THIN)]


def _box(mask: Mask) -> Mask:
    """The part of the mask within its bounding box."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _fills(box: Mask, power: int) -> bool:
    """Whether a mask is the figure |x|^power + |y|^power < 1 that fills it: diamond or disc."""
    y, x = (np.abs((np.arange(side) + 0.5) / side * 2 - 1) ** power for side in box.shape)
    return min(box.shape) > 9 and bool((box == (y[:, None] + x < 1)).mean() > 0.94)


def _beside(name: str, picture: Picture, inside: Mask) -> Layout:
    """The layout of a figure, given by its cells, on the bands that reach the right edge."""
    figure = _largest(_shares(picture.grid[inside]), 1 / 7)
    own = inside & np.isin(picture.grid, figure)
    return Layout(name, _distinct(_bands_of(picture.right)), figure,
                  np.where(own, picture.grid, picture.right[:, None]))


# The rules. Each names its layout, or returns None.


def _bordered(picture: Picture) -> Layout | None:
    """One colour all round, and inside it a rectangle."""
    border, _ = _mode(picture.top)
    if min((edge == border).mean() for edge in picture.edges) < 0.85:
        return None
    inner = picture.grid != border
    if not inner.any():
        return None
    # How far the border reaches in from each side, past the middle third of that side.
    down, across = inner[:, WIDTH // 3 : -WIDTH // 3], inner[HEIGHT // 3 : -HEIGHT // 3].T
    top, bottom, left, right = (int(np.median(way.argmax(0)))
                                for way in (down, down[::-1], across, across[::-1]))
    box = np.zeros_like(inner)
    box[top : HEIGHT - bottom, left : WIDTH - right] = True
    if (inner & box).sum() < 0.85 * (inner | box).sum():
        return None
    inside, _ = _mode(picture.grid[box])
    return Layout("bordered field", [inside], [border], np.where(box, inside, np.uint8(border)))


def _canton(picture: Picture) -> Layout | None:
    """The left edge differs from the right one, but only in the upper part."""
    differs = picture.left != picture.right
    rows = HEIGHT - int(differs[::-1].argmax())
    if not 0.3 < rows / HEIGHT < 0.75 or differs[:rows].mean() < 0.4:
        return None
    # The right side of the canton is the column with the most change.
    change = (picture.grid[:rows, 2:] != picture.grid[:rows, :-2]).mean(0)
    change[: WIDTH // 5] = change[WIDTH * 3 // 5 :] = 0
    if change.max() < 0.4:
        return None
    return _beside("canton", picture, (_y * HEIGHT < rows) & (_x * WIDTH < change.argmax() + 1))


def _rays(picture: Picture) -> Layout | None:
    """Sectors that spread from a corner or from the middle."""
    for sectors, least in zip(_sectors(), (4, 4, 4, 4, 12), strict=True):
        count = np.bincount((sectors * len(COLOURS) + picture.grid).ravel(),
                            minlength=SECTORS * len(COLOURS)).reshape(SECTORS, -1)
        classes = _bands_of(count.argmax(1).astype(np.uint8))
        if count.max(1).sum() > 0.87 * picture.grid.size and len(classes) >= least:
            return Layout("rays", _distinct(classes))
    return None


@cache
def _sectors() -> NDArray[np.intp]:
    """The sector of every cell, [5, HEIGHT, WIDTH], seen from the four corners and the middle."""
    corners = [np.arctan2(np.abs(_y - y), np.abs(_x - x)) / (np.pi / 2)
               for x in (0, 1) for y in (0, 1)]
    middle = np.arctan2(_y - 0.5, _x - 0.5) / (2 * np.pi) % 1
    return (np.stack([*corners, middle]) * SECTORS).astype(np.intp)


def _cross(picture: Picture) -> Layout | None:
    """A band from edge to edge both ways, of the same colours."""
    arms: list[dict[int, float]] = []  # class of the band to its place along the edge
    for start, end in ((picture.left, picture.right), (picture.top, picture.bottom)):
        both = np.where(start == end, start, NONE)
        arms.append({value: (first + last) / 2 / len(both)
                     for value, first, last in _runs(both, THIN)[1:-1]
                     if last - first < len(both) / 2})
    high, wide = HEIGHT // 5, WIDTH // 5
    corners = _distinct(_mode(picture.grid[rows, columns])[0]
                        for rows in (slice(high), slice(-high, None))
                        for columns in (slice(wide), slice(-wide, None)))
    figure = [c for c in arms[0] if c in arms[1] and c not in (NONE, *corners)
              and (picture.grid == c).mean(1).max() > 0.6]
    if not figure:
        return None
    name = "Nordic cross" if arms[1][figure[-1]] < 0.45 else "cross"
    return Layout(name, corners, figure)


def _saltire(picture: Picture) -> Layout | None:
    """Both diagonals in one colour, the middles of the edges in others."""
    rows = np.arange(HEIGHT)
    columns = rows * WIDTH // HEIGHT
    lines = np.stack([picture.grid[rows, columns], picture.grid[rows, WIDTH - 1 - columns]])
    figure, _ = _mode(lines)
    ground = _distinct(edge[len(edge) // 2] for edge in picture.edges)
    if (lines == figure).mean(1).min() < 0.7 or figure in ground:
        return None
    return Layout("saltire", ground, [figure])


def _pall(picture: Picture) -> Layout | None:
    """A Y on its side: from both left corners to the mid-line, then on to the right."""
    middle = HEIGHT // 2
    ground = _distinct([picture.left[middle], picture.right[middle // 3],
                        picture.right[-middle // 3]])
    for bend in (0.36, 0.4, 0.44, 0.48):
        knee = int(bend * WIDTH)
        run = np.arange(EDGE, knee)
        rise = run * middle // knee
        stem = picture.grid[middle, knee:]
        arms = picture.grid[rise, run], picture.grid[HEIGHT - 1 - rise, run]
        figure, _ = _mode(stem)
        if figure not in ground and min((line == figure).mean() for line in (stem, *arms)) > 0.8:
            return Layout("pall", ground, [figure])
    return None


def _diagonal(picture: Picture) -> Layout | None:
    """Two halves, perhaps with a band between them, parted from corner to corner."""
    grid = picture.grid
    for across, along in ((_x + _y - 1, _x - _y), (_x - _y, _x + _y - 1)):
        # Beside the parting line, a strip on either side: both its ends must agree.
        strips = [[_mode(grid[(side * across > 0.27) & (side * across < 0.45)
                              & (end * along > 0.25)]) for end in (-1, 1)] for side in (-1, 1)]
        if any(a != b or min(share, other) < 0.7 for (a, share), (b, other) in strips):
            continue
        (first, _), (second, _) = strips[0][0], strips[1][0]
        band, share = _mode(grid[np.abs(across) < 0.04])
        between = [band] if share > 0.7 and band not in (first, second) else []
        if first != second or between:
            return Layout("diagonal", [first, *between, second])
    return None


def _serrated(picture: Picture) -> Layout | None:
    """Two colours that meet in a saw-tooth line."""
    (first, share), (second, other) = _mode(picture.left), _mode(picture.right)
    reach = picture.reach
    if first == second or min(share, other) < 0.9 or np.ptp(reach) < 0.03 * WIDTH:
        return None
    teeth = _runs((reach > (reach.min() + reach.max()) / 2).astype(np.uint8), 1)
    even = max(stop - start for _, start, stop in teeth) < HEIGHT / 4
    if len(teeth) < 7 or not even:
        return None
    return Layout("serrated division", [first, second], (),
                  np.where(_x * WIDTH < reach[:, None], np.uint8(first), np.uint8(second)))


def _triangle(picture: Picture) -> Layout | None:
    """A triangle on the left edge; bands or one colour beside it."""
    tent = 1 - np.abs(2 * _y - 1)  # its width at each row, [HEIGHT, 1]
    depths = np.linspace(0.15, 1, 52)
    fit = (np.abs(tent * depths - picture.reach[:, None] / WIDTH) < 0.03).mean(0)
    if fit.max() < 0.6:
        return None
    return _beside("hoist triangle", picture, _x < depths[fit.argmax()] * tent)


def _quarterly(picture: Picture) -> Layout | None:
    """Four quarters, each unlike its neighbours."""
    grid, middle, centre = picture.grid, HEIGHT // 2, WIDTH // 2
    quarters = [_mode(part) for half in (grid[:middle], grid[middle:])
                for part in (half[:, :centre], half[:, centre:])]
    a, b, c, d = (quarter for quarter, _ in quarters)
    if min(share for _, share in quarters) < 0.7 or a in (b, c) or d in (b, c):
        return None
    explained = np.array([[a, b], [c, d]], np.uint8).repeat(middle, 0).repeat(centre, 1)
    return Layout("quarterly", [a, b, c, d], (), explained)


def _hoist_band(picture: Picture) -> Layout | None:
    """A vertical band on the left edge, horizontal ones beside it."""
    band, share = _mode(picture.left)
    # Where a horizontal band has the colour of the vertical one, its beginning cannot be seen.
    seen = picture.reach[picture.right != (band if share > 0.6 else NONE)]
    if len(_bands_of(picture.right)) < 2 or len(seen) < 0.3 * HEIGHT:
        return None
    width = np.median(seen)
    if not 0.06 < width / WIDTH < 0.5 or (np.abs(seen - width) <= THIN).mean() < 0.8:
        return None
    return _beside("hoist band", picture, np.broadcast_to(_x * WIDTH < width, (HEIGHT, WIDTH)))


def _bands(picture: Picture) -> Layout | None:
    """Bands from edge to edge."""
    for way, start, end, line in (
        ("horizontal", picture.left, picture.right, picture.left[:, None]),
        ("vertical", picture.top, picture.bottom, picture.top[None, :]),
    ):
        bands = _bands_of(start)
        if len(bands) > 1 and (start == end).mean() > 0.9 and (line == picture.grid).mean() > 0.6:
            kind = ("bicolour" if len(bands) == 2 else "stripes" if len(bands) > 3 else
                    "triband" if bands[0] == bands[2] else "tricolour")
            named = bands if len(bands) <= MOST_COLOURS else _distinct(bands)
            return Layout(f"{way} {kind}", named, (), np.broadcast_to(line, (HEIGHT, WIDTH)))
    return None


def _field(picture: Picture) -> Layout | None:
    """One colour along most of the edges, with or without something on it."""
    field, share = _mode(np.concatenate(picture.edges))
    if share < 0.6:
        return None
    explained = np.full((HEIGHT, WIDTH), field, np.uint8)
    charge = picture.grid != field
    if charge.mean() < LEAST:
        return Layout("plain field", [field])
    figure, box = [_mode(picture.grid[charge])[0]], _box(charge)
    if _fills(box, 1):
        return Layout("lozenge", [field], figure)
    high, wide = (side // 4 + 1 for side in box.shape)
    ends = (box[rows, columns] for rows in (slice(high), slice(-high, None))
            for columns in (slice(wide), slice(-wide, None)))
    arms = box[len(box) // 2], box[:, box.shape[1] // 2]
    if max(end.mean() for end in ends) < 0.05 and min(arm.mean() for arm in arms) > 0.95:
        return Layout("cross", [field], figure)
    return Layout("charged field", [field], (), explained)


LAYOUTS: tuple[Callable[[Picture], Layout | None], ...] = (
    _bordered, _canton, _rays, _cross, _saltire, _pall, _diagonal, _serrated, _triangle,
    _quarterly, _hoist_band, _bands, _field,
)
"""The rules, from the most to the least particular; the first that finds something counts."""


# Saying it.


PLACES = (("upper left", "top", "upper right"), ("left", "centre", "right"),
          ("lower left", "bottom", "lower right"))


def _charges(grid: Grid, explained: Grid) -> list[str]:
    """What lies on the layout: size, colour, kind and place, the largest first."""
    differs = grid != explained
    apart = np.where(differs, grid, NONE)
    # Along the edges of a layout narrow remnants stay; a charge is also as thick as this.
    inner = apart[2:-2, 2:-2]
    thick = np.logical_and.reduce([
        inner == apart[2 + y : HEIGHT - 2 + y, 2 + x : WIDTH - 2 + x]
        for y, x in ((-2, 0), (2, 0), (0, -2), (0, 2))
    ])
    said = []
    for charge in _largest(_shares(grid[differs]) * differs.mean(), LEAST):
        mask = apart == charge
        if not (thick & (inner == charge)).any():
            continue
        row, column = ((at > 0.36) + (at > 0.64) for at in (
            float((axis * mask).sum() / mask.sum()) for axis in (_y, _x)))
        size = "small " if mask.mean() < 0.05 else ""
        kind = "disc" if _fills(_box(mask), 2) else "shape"
        said.append(f"{size}{COLOURS[charge]} {kind} at the {PLACES[row][column]}")
    return said[:MOST_CHARGES]


def _list(classes: Iterable[int]) -> str:
    return ", ".join(COLOURS[c] for c in classes)


def describe(image: Image.Image) -> str:
    """Say which colours an image has and how they are laid out.

    Args:
        image: Any size; read as RGB.

    Returns:
        One line such as ``colours white, red. layout charged field: white; red disc at the
        centre.``: the colours by their share of the image (to a twelfth), then the layout and
        what lies on it.
    """
    picture = _picture(image)
    grid = picture.grid
    shares = _shares(grid)
    # Shares that are as good as equal keep the order of the words, so that texts are regular.
    named = [c for c in _largest(np.round(12 * shares), 0) if shares[c] >= LEAST]
    said = f"colours {_list(named[:MOST_COLOURS])}. "
    layout = next(filter(None, (rule(picture) for rule in LAYOUTS)), None)
    if layout is None:
        high, wide = HEIGHT // 3, WIDTH // 3
        parts = {"top": grid[:high], "bottom": grid[-high:],
                 "centre": grid[high:-high, wide:-wide]}
        return f"{said}no clear layout: " + ", ".join(
            f"{COLOURS[_mode(part)[0]]} at the {place}" for place, part in parts.items()) + "."
    figure = f"{_list(layout.figure)} on " if layout.figure else ""
    charges = [] if layout.explained is None else _charges(grid, layout.explained)
    return said + "; ".join(
        [f"layout {layout.name}: {figure}{_list(layout.ground)}", *charges]) + "."


class PaletteCaptioner:
    """`describe` as a captioner of the cache; it takes no prompt."""

    identity = Identity("palette", revision="1")
    prompted = False
    batch_size = 64

    def caption(self, requests: Sequence[Request]) -> list[str]:
        """Describe the images of each request."""
        return [" ".join(map(describe, request.images)) for request in requests]
