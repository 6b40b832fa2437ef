"""The settings of the verbalizer: in which words and in what order a model reads, as data.

Each is a tuple of sections. ``kgt5``, ``kgt5-context`` and ``mmkg-t5`` read as in the code that
came with MMKG-T5 (arXiv 2501.15688), which holds all three; ``compact`` is ours. What an original
does not have (two hops; descriptions and captions of a relation in ``mmkg-t5``) is our addition,
and off unless it is asked for.
"""

from __future__ import annotations

import string
from dataclasses import dataclass
from functools import cache
from typing import Literal

from caption_cache.errors import InputError

SettingName = Literal["compact", "kgt5", "kgt5-context", "mmkg-t5"]
Source = Literal["query", "instruction", "caption", "relation caption", "description", "fact",
                 "pair caption", "example", "two hops"]
"""Where a part of the input comes from."""

PRIORITY: tuple[Source, ...] = ("query", "instruction", "caption", "relation caption",
                                "description", "fact", "pair caption", "example", "two hops")
"""In this order an input spends its tokens; the query is read whatever it takes."""

MARK = "<extra_id_"
"""How a mark begins: T5's sentinels, which no text of a graph holds."""
CAPTION_MARK, FACT_MARK = "<extra_id_98>", "<extra_id_97>"
"""The marks of ``compact``."""


@dataclass(frozen=True)
class Section:
    """A stretch of the input: a heading and any number of items, or nothing."""

    source: Source
    """What its items are."""
    item: str
    """One item, with slots in braces. White space parts words and plays no other part, as in
    T5's tokenizers; a slot must not touch a word."""
    heading: str = ""
    """Stands before the items, also where there is none."""
    heading_with_examples: str = ""
    """Takes the place of ``heading`` when examples of the relation are read too."""
    between: str = ""
    """Stands before every item but the first."""
    pair_caption: str = ""
    """Follows an item where the pair that it is about has a caption."""


_NAMED_QUERY = Section("query", "query: {entity} | {relation}\n")
_DESCRIPTION = Section("description", "<extra_id_96> {description}")

SETTINGS: dict[SettingName, tuple[Section, ...]] = {
    "compact": (
        Section("query", "{entity} {mark} {relation}"),
        Section("caption", f"{CAPTION_MARK} {{caption}}"),
        Section("relation caption", f"{CAPTION_MARK} {{relation_caption}}"),
        _DESCRIPTION,
        Section("fact", f"{FACT_MARK} {{relation}} {{tail}}",
                pair_caption=f"{CAPTION_MARK} {{pair_caption}}"),
        Section("two hops", "<extra_id_95> {head} {relation} {tail}"),
        Section("example", "<extra_id_94> {head} {relation} {tail}"),
    ),
    "kgt5": (
        Section("query", "{direction} {entity} | {plain} |"),
    ),
    "kgt5-context": (
        _NAMED_QUERY,
        _DESCRIPTION,
        Section("fact", "<extra_id_98> {relation} | {tail}", heading="context:"),
        Section("two hops", "<extra_id_97> {head} | {relation} | {tail}"),
    ),
    "mmkg-t5": (
        _NAMED_QUERY,
        Section("caption", "<extra_id_94> {caption}"),
        Section("relation caption", "<extra_id_93> {relation_caption}"),
        _DESCRIPTION,
        Section("fact", "<extra_id_95> {relation} | {tail}", heading="context:",
                heading_with_examples="entity context:",
                pair_caption="<extra_id_98> {pair_caption}"),
        Section("two hops", "<extra_id_97> {head} | {relation} | {tail}"),
        Section("example", "{head} | {relation} | {tail}", heading="\nrelation examples:",
                between="<extra_id_95>"),
        Section("instruction", "\n{instruction}\ntarget:"),
    ),
}
"""The slots: ``entity`` and ``relation`` of the query, in whose place ``plain`` is the relation's
name in either direction, ``direction`` a mark that tells which, and ``mark`` the relation's own;
``head``, ``relation`` and ``tail`` of a fact."""

INSTRUCTION = "Write the name of the entity that completes the query: {entity} | {relation}"
"""Echoes the query at the end of ``mmkg-t5``. Our wording."""
TAIL_MARK, HEAD_MARK = "<extra_id_55>", "<extra_id_56>"
"""What is asked for: the slot ``direction``."""


@cache
def atoms(template: str) -> tuple[tuple[str, str], ...]:
    """Take a template apart: literal texts as ``("", text)``, slots as ``(name, "")``."""
    pieces = string.Formatter().parse(template)
    return tuple(atom for literal, slot, _, _ in pieces
                 for atom in (("", literal.strip()), (slot or "", "")) if any(atom))


def check_instruction(template: str) -> None:
    """Check a template that takes the place of `INSTRUCTION`.

    Raises:
        InputError: It has braces without a partner, or other slots than entity and relation.
    """
    try:
        slots = {slot for slot, _ in atoms(template)} - {""}
    except ValueError as error:
        raise InputError(f"input.instruction: {error}; the slots are {{entity}} and "
                         "{relation}.") from None
    if unknown := slots - {"entity", "relation"}:
        raise InputError(f"input.instruction has the slot {{{min(unknown)}}}; there are "
                         "{entity} and {relation}.")
