"""What a task comes to: the stages of a build, and their items."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from caption_cache.build.answers import texts, verdicts
from caption_cache.build.plan import Item, Outcome
from caption_cache.build.scopes import (
    RELEVANCE,
    Asker,
    Gallery,
    plan_again,
    plan_entities,
    plan_galleries,
    plan_pairs,
    plan_relations,
    plan_relevance,
    plan_summaries,
    said_yes,
)
from caption_cache.build.task import Task
from caption_cache.captioners import Captioner, Judge, Request
from caption_cache.captions import PROFILE, fitting, last_asked, of_source, sources
from caption_cache.errors import InputError
from caption_cache.images import Flaw, read_entities
from caption_cache.links import Links, read_links
from caption_cache.prompts import Prompt, read_prompts
from caption_cache.source import Source


@dataclass(frozen=True)
class Stage:
    """Items of one scope, and who answers them."""

    scope: str
    source: Source
    items: list[Item]
    answer: Callable[[Sequence[Request]], list[Outcome]]
    most_side: int | None
    """Images are shrunk to it as they are opened: many wait in memory, and no more is shown."""


def read_task(
    dataset: Path, captioner: Captioner, task: Task
) -> tuple[dict[str, Prompt], Links | None]:
    """What the task needs to know; refuse here what cannot be done, before any work."""
    prompts = read_prompts(task.prompts, names_hidden=task.names_hidden)
    if task.scope == "entity":
        return prompts, None
    who = captioner.identity.captioner
    if not captioner.prompted:
        raise InputError(f"The captioner {who!r} takes no questions, so it cannot caption the "
                         f"scope {task.scope!r}; choose another, or --scope entity.")
    if task.scope in PROFILE:
        return prompts, None
    judged = task.scope != "relation" and not task.keep_all and task.instead_of is None
    if judged and not isinstance(captioner, Judge):
        raise InputError(f"The captioner {who!r} cannot answer whether an image is relevant to a "
                         "pair; choose another, or ask about every image with --keep-all.")
    entities = set(read_entities(dataset).texts("id"))
    return prompts, read_links(dataset, entities, task.split)


def settled(rows: pa.Table, task: Task) -> pa.Table:
    """The rows without those that the task wants done anew.

    What an image file itself is to blame for stays: it comes back by itself with other content.
    """
    if not task.retry:
        return rows
    anew = pc.and_(
        pc.is_in(rows["status"], value_set=pa.array(task.retry)),
        pc.invert(pc.is_in(rows["reason"], value_set=pa.array([flaw.value for flaw in Flaw]))))
    return rows.filter(pc.invert(anew))


def plan_stages(
    dataset: Path, captioner: Captioner, task: Task, prompts: dict[str, Prompt],
    links: Links | None, gallery: Gallery, everything: pa.Table, rows: Callable[[], pa.Table],
) -> Iterator[Stage]:
    """What is to be done, one after the other; the last stage is that of the task's scope.

    Which images are kept for a pair is known when the first stage is done, so the second is
    planned then.
    """
    most_side = getattr(captioner, "most_side", None)

    def asker(about: str) -> Asker:
        prompt = prompts[about] if captioner.prompted else None
        return Asker(gallery, Source.of(captioner.identity, prompt), prompt)

    ask = asker(task.scope)
    if task.instead_of is not None:
        items = plan_again(
            ask, _without_text(everything, task.scope, task.instead_of, dataset), links)
    elif task.scope == "entity":
        items = plan_entities(ask)
    elif task.scope in PROFILE:
        items = plan_galleries(ask, task.most_images)
    elif links is None:
        raise AssertionError("links are read for every other scope")
    elif task.scope == "relation":
        items = plan_relations(ask, links)
    else:
        pairs = [pair for pair in links.pairs() if gallery.of_pair(*pair)]
        kept = None
        if not task.keep_all and isinstance(captioner, Judge):
            question = prompts[RELEVANCE]
            source = Source.of(captioner.judge_identity, question)
            yield Stage(RELEVANCE, source,
                         list(plan_relevance(Asker(gallery, source, question), pairs)),
                         lambda requests: verdicts(captioner, requests), most_side)
            kept = said_yes(of_source(rows(), source))
        items = (plan_pairs(ask, pairs, kept) if task.scope == "pair"
                 else plan_summaries(ask, pairs, kept, task.most_images))
    yield Stage(task.scope, ask.source, list(items),
                 lambda requests: texts(captioner, requests, task.language), most_side)


def _without_text(rows: pa.Table, scope: str, name: str, dataset: Path) -> pa.Table:
    """The rows of some sources that count and hold no text worth using; one for a subject."""
    rows = last_asked(rows.filter(pc.equal(rows["scope"], scope)))
    named = fitting(sources(rows), name, dataset)
    wanting = rows.filter(pc.not_equal(rows["status"], "ok"))
    return last_asked(pa.concat_tables([of_source(wanting, source) for source in named]), by=())
