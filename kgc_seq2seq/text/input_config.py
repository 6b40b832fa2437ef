"""What goes into the model's input: the configuration of the verbalizer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from caption_cache.errors import InputError
from kgc_seq2seq.text.settings import (
    INSTRUCTION,
    MARK,
    SETTINGS,
    Section,
    SettingName,
    Source,
    atoms,
    check_instruction,
)

Ordering = Literal["random", "relevant", "linking", "diverse"]
CaptionScope = Literal["entity", "profile", "pair", "summary", "relation"]


@dataclass(frozen=True)
class InputConfig:
    """What goes into the model's input."""

    setting: SettingName = "compact"
    """The words and their order: ``kgt5`` (the query alone), ``kgt5-context`` (and facts about its
    entity), ``mmkg-t5`` (and captions, examples, the query again), or ours, ``compact``."""
    context_mode: Literal["all", "same_relation", "released_bug"] = "all"
    """Which facts may be read: all about the query's entity, as KGT5-context; those of the asked
    relation; or, to compare with figures made so, what a fault in the code released with MMKG-T5
    leaves: none for tail queries of the first half of the relations, else nearly all."""
    implying: bool = False
    """Whether other train facts may be read that state the asked one: by a relation that says the
    same, as a rule found on train tells, or by the same relation the other way round. KGT5-context
    reads them, and embedding models learn from them; without, a data set that leaks tells
    nothing."""
    revealed: float = 0.0
    """In training, share of the queries whose asked fact itself may be among those read: to copy a
    name out of the input is learnt there. Evaluation never reads it."""
    ordering: Ordering = "random"
    """Which facts come first where there are more than ``neighbours``: by lots, drawn by seed,
    epoch and fact; those whose relation meets the asked one at most entities of train; those
    whose relation says most surely that the asked one links the same two; or one of each relation
    in turn."""
    neighbours: int = 3
    """At most so many facts of the train split about the query's entity; 0 for none."""
    vary_neighbours: bool = True
    """In training, read a random number of facts from 0 to ``neighbours``: the model learns to
    answer from the query alone as well, and short inputs make cheap steps."""
    two_hop: int = 0
    """At most so many facts about the neighbours that are read."""
    relation_examples: int = 0
    """So many train facts of the asked relation are read, drawn by seed, epoch and query."""
    descriptions: bool = False
    """Whether the description of the query's entity is read."""
    captions: bool = True
    """Whether captions are read, where the setting has a place for them."""
    caption_scopes: tuple[CaptionScope, ...] = ("entity",)
    """Which: of the entity (``entity``, image by image, or ``profile``, the scopes commonsense and
    visual joined, as in MMKG-T5's third setting), of linked pairs (``pair`` or ``summary``; each
    follows a fact about the pair), of the entity under the asked relation."""
    instruction: str = INSTRUCTION
    """What ``mmkg-t5`` reads last, with {entity} and {relation} of the query."""
    max_tokens: int = 256
    """An input is at most so long, its end mark included."""
    truncate: Literal["priority", "right"] = "priority"
    """What an input that would be longer loses: whole parts, the least important first, or, as in
    the released code, its end."""

    def __post_init__(self) -> None:
        for key in ("neighbours", "two_hop", "relation_examples"):
            if getattr(self, key) < 0:
                raise InputError(f"input.{key} is {getattr(self, key)}; give 0 or more.")
        if not 0 <= self.revealed < 1:
            raise InputError(f"input.revealed is {self.revealed}; give a number from 0 to below 1.")
        if self.max_tokens < 32:
            raise InputError(f"input.max_tokens is {self.max_tokens}; give at least 32.")
        scopes = set(self.caption_scopes)
        if not scopes or {"pair", "summary"} <= scopes or {"entity", "profile"} <= scopes:
            raise InputError("input.caption_scopes names entity or profile, pair or summary, and "
                             "relation; give at least one, and not both of a kind; for no captions "
                             "say input.captions: false.")
        check_instruction(self.instruction)
        known = {section.source for section in SETTINGS[self.setting]}
        for key, source in (("two_hop", "two hops"), ("relation_examples", "example"),
                            ("descriptions", "description")):
            if getattr(self, key) and source not in known:
                raise InputError(f"input.{key} has no place in the setting {self.setting}; leave "
                                 "it out, or choose another input.setting.")

    def sections(self) -> list[Section]:
        """What is read, in order."""
        on: dict[Source, bool] = {
            "caption": self.reads("entity") or self.reads("profile"),
            "relation caption": self.reads("relation"),
            "description": self.descriptions, "fact": self.neighbours > 0,
            "two hops": self.two_hop > 0 and self.neighbours > 0,
            "example": self.relation_examples > 0}
        pairs = self.reads("pair") or self.reads("summary")
        return [replace(
            section,
            item=section.item.replace("{instruction}", self.instruction),
            heading=(self.relation_examples > 0 and section.heading_with_examples)
            or section.heading,
            pair_caption=section.pair_caption if pairs else "",
        ) for section in SETTINGS[self.setting] if on.get(section.source, True)]

    def reads(self, scope: CaptionScope) -> bool:
        """Whether captions of ``scope`` are read."""
        place = {"entity": "caption", "profile": "caption",
                 "relation": "relation caption"}.get(scope)
        return self.captions and scope in self.caption_scopes and any(
            section.source == place if place else section.pair_caption
            for section in SETTINGS[self.setting])

    @property
    def reads_captions(self) -> bool:
        """Whether captions of any scope are read."""
        return any(map(self.reads, self.caption_scopes))

    def literals(self) -> list[str]:
        """What stands in the inputs whatever the query; marks, which are single tokens, aside."""
        texts = (text for section in self.sections() for template in (
            section.heading, section.item, section.between, section.pair_caption)
            for slot, text in atoms(template) if not slot)
        words = (" ".join(word for word in text.split() if not word.startswith(MARK))
                 for text in texts)
        return list(dict.fromkeys(filter(None, words)))
