"""Draws every flag of the nations graph on one labelled sheet, for looking them over."""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from caption_cache.disk import replacing
from kgc_seq2seq.graph.nations.flags import draw_flag, flag_codes

MARGIN = 12
"""Pixels around a flag; its code is written below it."""


def sheet(codes: list[str], columns: int, height: int) -> Image.Image:
    """The flags of ``codes``, row by row, each in a cell as wide as the widest."""
    flags = [draw_flag(code, height) for code in codes]
    across = max(flag.width for flag in flags) + MARGIN
    down = height + 2 * MARGIN
    page = Image.new("RGB", (columns * across + MARGIN, -(-len(flags) // columns) * down + MARGIN),
                     "#8C96A0")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(MARGIN)
    for place, (code, flag) in enumerate(zip(codes, flags, strict=True)):
        x, y = MARGIN + place % columns * across, MARGIN + place // columns * down
        page.paste(flag, (x, y))
        pen.text((x, y + height), code, fill="white", font=font)
    return page


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="the PNG to write")
    parser.add_argument("--codes", nargs="+", default=flag_codes(), metavar="CODE",
                        help="only these flags (default: all)")
    parser.add_argument("--columns", type=int, default=10)
    parser.add_argument("--height", type=int, default=120, help="of a flag, in pixels")
    arguments = parser.parse_args()
    page = sheet(arguments.codes, arguments.columns, arguments.height)
    with replacing(arguments.out) as aside:
        page.save(aside, format="PNG")


if __name__ == "__main__":
    main()
