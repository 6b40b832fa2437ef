"""Plan, skip what is done, caption, write: how the captions of a data set are made.

The work is divided by key: every process captions the keys it owns, whatever the others have
done before, so any number of processes can take up what any other number left.
"""

from __future__ import annotations

import gc
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from math import isfinite
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from rich.progress import Progress

from caption_cache import gate
from caption_cache.build.plan import Item, Outcome, Standing, compare, pending
from caption_cache.build.processes import Processes, joined
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
from caption_cache.captioners import Captioner, InVain, Judge, Refusal, Request
from caption_cache.captions import PROFILE, fitting, last_asked, of_source, sources
from caption_cache.disk import cannot_write
from caption_cache.errors import InputError
from caption_cache.fingerprints import recall, remember, take_fingerprints
from caption_cache.images import (
    Flaw,
    ImageError,
    content_hash,
    decode,
    find_images,
    read_bytes,
    read_entities,
    shrunk,
)
from caption_cache.links import Links, read_links
from caption_cache.prefetch import prefetch
from caption_cache.progress import progress_bar
from caption_cache.prompts import SCOPES, STANDARD, Prompt, read_prompts
from caption_cache.source import Source
from caption_cache.store import PartWriter, Row, Store, as_table


@dataclass(frozen=True)
class Task:
    """What is to be captioned, beside who does it."""

    scope: str = "entity"
    """One of `SCOPES`."""
    prompts: Path = STANDARD
    """The file of questions, see `read_prompts`."""
    names_hidden: bool = False
    """Whether the questions name no entity, so that what is said comes from the pixels."""
    split: str = "train"
    """Whose facts link entities; only ``train`` is allowed."""
    keep_all: bool = False
    """Of a pair, ask about every image, not only about those found relevant to both entities."""
    most_images: int = 25
    """So many images are shown at once at most."""
    language: str = "en"
    """The language of the texts, one of `gate.LANGUAGES`."""
    retry: tuple[str, ...] = ()
    """The statuses (``rejected``, ``failed``) whose items are done anew."""
    instead_of: str | None = None
    """A source (see `captions.fitting`): only what it has no text worth using for is captioned,
    so with another model, other settings or another prompt."""

    def __post_init__(self) -> None:
        if self.scope not in SCOPES:
            raise InputError(f"There is no scope {self.scope!r}; choose one of "
                             f"{', '.join(SCOPES)}.")
        if self.language not in gate.LANGUAGES:
            raise InputError(f"The language {self.language!r} is not known; choose one of "
                             f"{', '.join(gate.LANGUAGES)}.")
        if self.most_images < 1:
            raise InputError(f"--most-images is {self.most_images}; give 1 or more.")
        if wrong := set(self.retry) - {"rejected", "failed"}:
            raise InputError(f"Nothing has the status {min(wrong)!r} to be retried; choose "
                             "rejected or failed.")


@dataclass(frozen=True)
class Preview:
    """What a build would do. An item is a text about one subject."""

    items: int
    """The items of the data set, as far as they are known."""
    done: int
    """Those that the store has."""
    at_once: int
    """Those that need no captioner: the same was asked of the same image already, or it cannot be
    read."""
    to_caption: int
    """The texts to ask the captioner for; equal questions about equal images need one."""
    to_judge: int
    """The yes/no questions to ask first; which images of pairs are kept follows from them, so
    ``items`` has only the pairs judged before."""
    seconds_per_text: float | None
    """From the sample; None without one."""
    estimated_seconds: float | None
    """How long one process would take for all ``to_caption`` texts, from the sample."""


@dataclass(frozen=True)
class Failure:
    """An item that could not be captioned."""

    entity: str
    """The id of the entity."""
    image: str
    """The first file, relative to the data-set folder."""
    reason: str
    """Why, as a short name."""
    mend: str
    """What a person can do about it."""


@dataclass(frozen=True)
class Report:
    """What a build did, all its processes together. An item is a text about one subject."""

    items: int
    """The items of the data set."""
    done_before: int
    """Those that the store had."""
    judged: int
    """The yes/no questions that were answered now."""
    captioned: int
    """The texts that the captioner wrote now, rejected ones included."""
    reused: int
    """The items that got the text of an equal item, of another subject or of long ago."""
    rejected: int
    """The items whose text is not worth using, now or before."""
    left: int
    """The items still to be done, questions included: beyond the limit, or of images that
    changed meanwhile or could not be read just now."""
    failures: list[Failure]
    """The items recorded as failed, now or before, and before them the yes/no questions: what
    they ask about is left out as if the answer were no."""
    seconds: float
    """How long the build took."""


@dataclass(frozen=True)
class _Stage:
    """Items of one scope, and who answers them."""

    scope: str
    source: Source
    items: list[Item]
    answer: Callable[[Sequence[Request]], list[Outcome]]
    most_side: int | None
    """Images are shrunk to it as they are opened: many wait in memory, and no more is shown."""


def preview(
    dataset: Path, captioner: Captioner, task: Task | None = None, *, sample: int = 0
) -> Preview:
    """Find out what `build` would do, without writing anything.

    Args:
        dataset: The data-set folder.
        captioner: Who would caption.
        task: What would be captioned; None for the entities.
        sample: Caption so many items, spread over all of them, to see how long they take; the
            texts are thrown away.

    Raises:
        InputError: The data set is malformed, or the captioner cannot work.
    """
    task = task or Task()
    store = Store(dataset)
    prompts, links = _read_task(dataset, captioner, task)
    gallery = _gallery(dataset, Processes(), save=False, show_progress=False)
    everything = store.read()
    rows, known = _settled(last_asked(everything), task), _settled(everything, task)
    to_judge, seen = 0, [rows]
    for stage in _stages(dataset, captioner, task, prompts, links, gallery, everything,
                         lambda: pa.concat_tables(seen)):
        standing = compare(stage.items, stage.scope, rows, known)
        at_once, groups = pending(stage.items, standing)
        if stage.scope == RELEVANCE:
            to_judge = len(groups)
            seen.append(as_table(
                [_row(item, stage, _known(item, standing)) for item in at_once]))
    each = None
    if sample and groups:
        with _quiet_pillow():
            each = _time(dataset.resolve(), groups, stage, captioner.batch_size, sample)
    return Preview(len(stage.items), len(stage.items) - standing.done.count(None), len(at_once),
                   len(groups), to_judge, each,
                   None if each is None else round(each * len(groups), 1))


def build(
    dataset: Path, captioner: Captioner, task: Task | None = None, *, limit: int | None = None,
    show_progress: bool = True,
) -> Report:
    """Caption everything that ``captioner`` has not captioned before.

    A process that is killed loses the batch in flight; starting again goes on. Under
    ``accelerate launch`` all processes must call this: each does its share, and waits for the
    others.

    Args:
        dataset: The data-set folder; the captions go to ``captions`` in it.
        captioner: From `load_captioner`, or any other.
        task: What is captioned; None for the entities.
        limit: Ask the captioner for so many texts at most, yes/no questions included.
        show_progress: Show a bar with rate and remaining time on standard error.

    Raises:
        InputError: The data set is malformed or none of its images can be opened, the captions
            cannot be read or written, or the captioner cannot work.
    """
    start = time.perf_counter()
    task = task or Task()
    store = Store(dataset)
    asked, judged, unjudged = 0, 0, 0
    questions: list[Failure] = []
    with joined() as processes:
        show_progress = show_progress and processes.rank == 0
        with _quiet_pillow(), _few_collections() as planned, ExitStack() as stack:
            prompts, links = _read_task(dataset, captioner, task)
            gallery = _gallery(dataset, processes, save=True, show_progress=show_progress)
            with processes.first_alone():
                writer = stack.enter_context(store.writing(first=processes.rank == 0))
            old = set(store.parts)
            everything = store.read()
            counting, known = _settled(last_asked(everything), task), _settled(everything, task)

            def rows() -> pa.Table:  # parts that stood there before are not read again
                return pa.concat_tables([counting, store.read(besides=old)])

            for stage in _stages(dataset, captioner, task, prompts, links, gallery, everything,
                                 rows):
                before = compare(stage.items, stage.scope, rows(), known)
                processes.wait()  # all have looked at the same rows; from here on they change
                at_once, groups = pending(stage.items, before)
                writer.add([_row(item, stage, _known(item, before))
                            for item in at_once if processes.owns(item.key)])
                now = (groups if limit is None
                       else _longest_unasked(groups, limit - asked, everything))
                asked += len(now)
                if stage.scope == RELEVANCE:
                    judged, unjudged = len(now), len(groups) - len(now)
                share = [group for group in now if processes.owns(group[0].key)]
                planned()
                if share:
                    with progress_bar(visible=show_progress) as bar:
                        _caption(dataset.resolve(), share, captioner.batch_size, stage, writer,
                                 bar)
                processes.wait()
                after = compare(stage.items, stage.scope, rows(), known)
                if stage.scope == RELEVANCE:
                    questions = _failures(stage.items, after)
    report = _report(stage.items, before, after)
    if len(report.failures) == report.items > 0 and task.instead_of is None:
        first = report.failures[0]
        raise InputError(f"None of the {report.items} images of {dataset} can be captioned; the "
                         f"first, {first.image}: {first.mend}.")
    return replace(report, judged=judged, left=report.left + unjudged,
                   failures=[*questions, *report.failures], seconds=time.perf_counter() - start)


def _read_task(
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


def _gallery(
    dataset: Path, processes: Processes, *, save: bool, show_progress: bool
) -> Gallery:
    """Look at all images; with ``save``, remember their hashes."""
    entities = read_entities(dataset)
    images = find_images(dataset, entities)
    index = Store(dataset).index
    paths = list(dict.fromkeys(image.path for image in images))
    with processes.first_alone():
        remembered = recall(index)
        fingerprints = take_fingerprints(
            dataset, paths, remembered, show_progress=show_progress)
        if save and processes.rank == 0 and fingerprints != remembered:
            try:
                remember(index, fingerprints)
            except OSError as error:
                raise cannot_write(index, error) from None
    return Gallery(images, fingerprints,
                   dict(zip(entities.texts("id"), entities.texts("name"), strict=True)))


def _without_text(rows: pa.Table, scope: str, name: str, dataset: Path) -> pa.Table:
    """The rows of some sources that count and hold no text worth using; one for a subject."""
    rows = last_asked(rows.filter(pc.equal(rows["scope"], scope)))
    named = fitting(sources(rows), name, dataset)
    wanting = rows.filter(pc.not_equal(rows["status"], "ok"))
    return last_asked(pa.concat_tables([of_source(wanting, source) for source in named]), by=())


def _stages(
    dataset: Path, captioner: Captioner, task: Task, prompts: dict[str, Prompt],
    links: Links | None, gallery: Gallery, everything: pa.Table, rows: Callable[[], pa.Table],
) -> Iterator[_Stage]:
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
            yield _Stage(RELEVANCE, source,
                         list(plan_relevance(Asker(gallery, source, question), pairs)),
                         lambda requests: _verdicts(captioner, requests), most_side)
            kept = said_yes(of_source(rows(), source))
        items = (plan_pairs(ask, pairs, kept) if task.scope == "pair"
                 else plan_summaries(ask, pairs, kept, task.most_images))
    yield _Stage(task.scope, ask.source, list(items),
                 lambda requests: _texts(captioner, requests, task.language), most_side)


def _texts(captioner: Captioner, requests: Sequence[Request], language: str) -> list[Outcome]:
    outcomes = []
    for request, text in zip(requests, captioner.caption(requests), strict=True):
        if isinstance(text, Refusal):
            outcomes.append(Outcome(None, "failed", text.value))
        elif reject := gate.judge(text := _whole(text), request.prompt, language):
            outcomes.append(Outcome(text, "rejected", reject.value))
        else:
            outcomes.append(Outcome(text, "ok", None))
    return outcomes


def _whole(text: str) -> str:
    """The text with U+FFFD for halves of a UTF-16 letter, which no file can hold."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _verdicts(judge: Judge, requests: Sequence[Request]) -> list[Outcome]:
    outcomes = []
    for answer in judge.judge(requests):
        if not isinstance(answer, Refusal) and not isfinite(answer.yes + answer.no):
            answer = Refusal.BROKEN
        outcomes.append(
            Outcome(None, "failed", answer.value) if isinstance(answer, Refusal) else
            Outcome(f"{'yes' if answer.yes > answer.no else 'no'}, P(yes) {answer.yes:.4g}, "
                    f"P(no) {answer.no:.4g}", "ok", None))
    return outcomes


def _settled(rows: pa.Table, task: Task) -> pa.Table:
    """The rows without those that the task wants done anew.

    What an image file itself is to blame for stays: it comes back by itself with other content.
    """
    if not task.retry:
        return rows
    anew = pc.and_(
        pc.is_in(rows["status"], value_set=pa.array(task.retry)),
        pc.invert(pc.is_in(rows["reason"], value_set=pa.array([flaw.value for flaw in Flaw]))))
    return rows.filter(pc.invert(anew))


def _longest_unasked(
    groups: list[list[Item]], limit: int, rows: pa.Table
) -> list[list[Item]]:
    """So many groups in their order; those retried before give way, so all have their turn."""
    asked = {key: place for place, key in enumerate(rows["key"].to_pylist())}
    turns = sorted(range(len(groups)), key=lambda which: asked.get(groups[which][0].key, -1))
    return [groups[which] for which in sorted(turns[:limit])]


def _caption(
    root: Path,
    groups: Sequence[list[Item]],
    batch_size: int,
    stage: _Stage,
    writer: PartWriter,
    bar: Progress,
) -> None:
    """Caption the first item of every group; the others get the same outcome."""
    task = bar.add_task("judging" if stage.scope == RELEVANCE else "captioning",
                        total=len(groups))
    # The first has the most images, and all that are opened ahead are in memory.
    ahead = max(batch_size // len(groups[0][0].images), os.cpu_count() or 1)
    with closing(prefetch(lambda group: _open(root, group[0], stage.most_side), groups,
                          ahead)) as opened:
        work = zip(groups, opened, strict=True)
        while chunk := list(islice(work, batch_size)):
            asked = [(group, request) for group, request in chunk if isinstance(request, Request)]
            start = time.perf_counter()
            outcomes = _answered(stage, [request for _, request in asked],
                                 lambda: _open(root, groups[-1][0], stage.most_side))
            seconds = (time.perf_counter() - start) / max(1, len(asked))
            rows = [_row(item, stage, outcome, seconds * (item is group[0]))
                    for (group, _), outcome in zip(asked, outcomes, strict=True)
                    for item in group]
            rows += [_row(item, stage, _failed(flaw))
                     for group, flaw in chunk if isinstance(flaw, Flaw) for item in group]
            writer.add(rows)
            bar.advance(task, len(chunk))


def _answered(
    stage: _Stage, requests: Sequence[Request],
    open_smallest: Callable[[], Request | Flaw | None],
) -> list[Outcome]:
    """Ask; where large requests are in vain while the smallest is not, they alone fail.

    Args:
        stage: Answers.
        requests: To be answered.
        open_smallest: Gives the smallest request of all, if it can be opened.

    Raises:
        InVain: The smallest is in vain, too.
    """
    if not requests:
        return []
    try:
        return stage.answer(requests)
    except InVain as error:
        smallest = open_smallest()
        try:
            in_vain = (not isinstance(smallest, Request)
                       or stage.answer([smallest])[0].status == "failed")
        except InVain:
            in_vain = True
        if in_vain:
            raise
        if len(requests) == 1:
            return [Outcome(None, "failed", error.refusal.value)]
    return [outcome for request in requests
            for outcome in _answered(stage, [request], open_smallest)]


def _time(
    root: Path, groups: Sequence[list[Item]], stage: _Stage, batch_size: int, sample: int
) -> float | None:
    """The seconds a text takes, opening its image included, from a few spread over all."""
    step = max(1, len(groups) // (sample + 1))
    requests = (_open(root, group[0], stage.most_side) for group in groups[::step][:sample + 1])
    usable = (request for request in requests if isinstance(request, Request))
    warm = next(usable, None)
    if warm is None:
        return None
    stage.answer([warm])  # loads the model, which is not to be counted
    start, count = time.perf_counter(), 0
    while batch := list(islice(usable, batch_size)):
        stage.answer(batch)
        count += len(batch)
    return (time.perf_counter() - start) / count if count else None


def _open(root: Path, item: Item, most_side: int | None) -> Request | Flaw | None:
    """Open the images of an item, as many as can be; None when one is not what was planned.

    One that cannot be read now could be when this was planned: no fault of what it holds.
    """
    images, flaw = [], None
    for path, planned in zip(item.images, item.image_hashes, strict=True):
        try:
            data = read_bytes(root, path)
        except ImageError:
            return None
        if content_hash(data) != planned:
            return None
        try:
            image = decode(data)
            images.append(image if most_side is None else shrunk(image, most_side))
        except ImageError as error:
            flaw = error.flaw
    return Request(tuple(images), item.prompt) if images or flaw is None else flaw


def _known(item: Item, standing: Standing) -> Outcome:
    return standing.known[item.key] if item.flaw is None else _failed(item.flaw)


def _failed(flaw: Flaw) -> Outcome:
    return Outcome(None, "failed", flaw.value)


def _row(item: Item, stage: _Stage, outcome: Outcome, seconds: float = 0.0) -> Row:
    return Row(
        key=item.key,
        scope=stage.scope,
        entity=item.entity,
        neighbour=item.neighbour,
        relation=item.relation,
        images=list(item.images),
        image_hashes=list(item.image_hashes),
        prompt=item.prompt,
        **stage.source.columns,
        text=outcome.text,
        status=outcome.status,
        reason=outcome.reason,
        seconds=seconds,
    )


def _failures(items: Sequence[Item], after: Standing) -> list[Failure]:
    return [Failure(item.entity, item.images[0], reason, _mend(reason))
            for item, status, reason in zip(items, after.done, after.reasons, strict=True)
            if status == "failed" and reason is not None]


def _report(items: Sequence[Item], before: Standing, after: Standing) -> Report:
    new = [item.key for item, then, now in zip(items, before.done, after.done, strict=True)
           if then is None and now is not None and now != "failed"]
    captioned = len(set(new) - before.known.keys())
    return Report(
        items=len(items),
        done_before=len(items) - before.done.count(None),
        judged=0,
        captioned=captioned,
        reused=len(new) - captioned,
        rejected=after.done.count("rejected"),
        left=after.done.count(None),
        failures=_failures(items, after),
        seconds=0.0,
    )


def _mend(reason: str) -> str:
    for kind in (Flaw, Refusal):
        if reason in {each.value for each in kind}:
            return kind(reason).mend
    return "build with --retry failed"


@contextmanager
def _few_collections() -> Iterator[Callable[[], None]]:
    """Keep Python from looking for cycles among millions of items, which have none.

    Yields:
        A function to be called when all is planned: what is there by then is never looked at.
    """
    was_on = gc.isenabled()
    gc.disable()

    def planned() -> None:
        gc.freeze()
        if was_on:
            gc.enable()

    try:
        yield planned
    finally:
        gc.unfreeze()
        if was_on:
            gc.enable()


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    # What Pillow would warn of either does not matter or is recorded as a failure.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        yield
