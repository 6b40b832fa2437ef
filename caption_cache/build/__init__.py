"""Plan, skip what is done, caption, write: how the captions of a data set are made.

The work is divided by key: every process captions the keys it owns, whatever the others have
done before, so any number of processes can take up what any other number left.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from rich.progress import Progress

from caption_cache import prompts
from caption_cache.build.plan import Item, Outcome, Standing, compare, pending, plan_entities
from caption_cache.build.processes import Processes, joined
from caption_cache.captioners import Captioner, Request
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
)
from caption_cache.prefetch import prefetch
from caption_cache.progress import progress_bar
from caption_cache.source import Source
from caption_cache.store import PartWriter, Row, Store


@dataclass(frozen=True)
class Preview:
    """What a build would do. An item is a text about one entity."""

    items: int
    """The items of the data set."""
    done: int
    """Those that the store has."""
    at_once: int
    """Those that need no captioner: the same image is captioned already, or cannot be read."""
    to_caption: int
    """The texts to ask the captioner for; equal images of several entities need one."""


@dataclass(frozen=True)
class Failure:
    """An image that could not be captioned."""

    entity: str
    """The id of the entity."""
    image: str
    """The file, relative to the data-set folder."""
    reason: str
    """Why, as a short name."""
    mend: str
    """What a person can do about it."""


@dataclass(frozen=True)
class Report:
    """What a build did, all its processes together. An item is a text about one entity."""

    items: int
    """The items of the data set."""
    done_before: int
    """Those that the store had."""
    captioned: int
    """The texts that the captioner wrote now."""
    reused: int
    """The items that got the text of an equal image of another entity."""
    left: int
    """The items still to be done: beyond the limit, or of images that changed meanwhile."""
    failures: list[Failure]
    """The items recorded as failed, now or before."""
    seconds: float
    """How long the build took."""


def preview(dataset: Path, captioner: Captioner) -> Preview:
    """Find out what `build` would do, without writing anything.

    Raises:
        InputError: The data set is malformed.
    """
    _, items = _plan(dataset, captioner, Processes(), save=False, show_progress=False)
    standing = compare(items, Store(dataset).read())
    at_once, groups = pending(items, standing)
    return Preview(len(items), len(items) - standing.done.count(None), len(at_once), len(groups))


def build(
    dataset: Path, captioner: Captioner, *, limit: int | None = None, show_progress: bool = True
) -> Report:
    """Caption every image of every entity that ``captioner`` has not captioned before.

    A process that is killed loses the batch in flight; starting again goes on. Under
    ``accelerate launch`` all processes must call this: each does its share, and waits for the
    others.

    Args:
        dataset: The data-set folder; the captions go to ``captions`` in it.
        captioner: From `load_captioner`, or any other.
        limit: Ask the captioner for so many texts at most.
        show_progress: Show a bar with rate and remaining time on standard error.

    Raises:
        InputError: The data set is malformed or none of its images can be opened, or the
            captions cannot be read or written.
    """
    start = time.perf_counter()
    store = Store(dataset)
    with joined() as processes:
        show_progress = show_progress and processes.rank == 0
        with _quiet_pillow(), ExitStack() as stack:
            source, items = _plan(
                dataset, captioner, processes, save=True, show_progress=show_progress)
            with processes.first_alone():
                writer = stack.enter_context(store.writing(first=processes.rank == 0))
            before = compare(items, store.read())
            processes.wait()  # all have looked at the same rows; from here on they change
            at_once, groups = pending(items, before)
            writer.add([_row(item, source, _known(item, before))
                        for item in at_once if processes.owns(item.key)])
            share = [group for group in groups[:limit] if processes.owns(group[0].key)]
            if share:
                with progress_bar(visible=show_progress) as bar:
                    _caption(dataset.resolve(), share, captioner, source, writer, bar)
            processes.wait()
    after = compare(items, store.read())
    return _report(dataset, items, before, after, time.perf_counter() - start)


def _plan(
    dataset: Path, captioner: Captioner, processes: Processes, *, save: bool, show_progress: bool
) -> tuple[Source, list[Item]]:
    """Plan the whole data set; with ``save``, remember the hashes of its images."""
    entities = read_entities(dataset)
    images = find_images(dataset, entities)
    index = Store(dataset).index
    paths = sorted({image.path for image in images})
    with processes.first_alone():
        remembered = recall(index)
        fingerprints = take_fingerprints(
            dataset, paths, remembered, show_progress=show_progress)
        if save and processes.rank == 0 and fingerprints != remembered:
            try:
                remember(index, fingerprints)
            except OSError as error:
                raise cannot_write(index, error) from None
    prompt = prompts.ENTITY if captioner.prompted else None
    source = Source.of(captioner.identity, prompt)
    names = dict(zip(entities.columns["id"], entities.columns["name"], strict=True))
    return source, plan_entities(images, fingerprints, names, source, prompt)


def _caption(
    root: Path,
    groups: Sequence[list[Item]],
    captioner: Captioner,
    source: Source,
    writer: PartWriter,
    bar: Progress,
) -> None:
    """Caption the first item of every group; the others get the same text."""
    task = bar.add_task("captioning", total=len(groups))
    ahead = max(captioner.batch_size, os.cpu_count() or 1)
    with closing(prefetch(lambda group: _open(root, group[0]), groups, ahead)) as opened:
        work = zip(groups, opened, strict=True)
        while chunk := list(islice(work, captioner.batch_size)):
            asked = [(group, request) for group, request in chunk if isinstance(request, Request)]
            start = time.perf_counter()
            texts = captioner.caption([request for _, request in asked]) if asked else []
            seconds = (time.perf_counter() - start) / max(1, len(asked))
            rows = [_row(item, source, Outcome(text, "ok", None), seconds * (item is group[0]))
                    for (group, _), text in zip(asked, texts, strict=True) for item in group]
            rows += [_row(item, source, _failed(flaw))
                     for group, flaw in chunk if isinstance(flaw, Flaw) for item in group]
            writer.add(rows)
            bar.advance(task, len(chunk))


def _open(root: Path, item: Item) -> Request | Flaw | None:
    """Open the images of an item; None when one is no longer what was planned."""
    images = []
    for path, planned in zip(item.images, item.image_hashes, strict=True):
        try:
            data = read_bytes(root, path)
            if content_hash(data) != planned:
                return None
            images.append(decode(data))
        except ImageError as error:
            return error.flaw
    return Request(tuple(images), item.prompt)


def _known(item: Item, standing: Standing) -> Outcome:
    return standing.known[item.key] if item.flaw is None else _failed(item.flaw)


def _failed(flaw: Flaw) -> Outcome:
    return Outcome(None, "failed", flaw.value)


def _row(item: Item, source: Source, outcome: Outcome, seconds: float = 0.0) -> Row:
    return Row(
        key=item.key,
        scope="entity",
        entity=item.entity,
        neighbour=None,
        relation=None,
        images=list(item.images),
        image_hashes=list(item.image_hashes),
        prompt=item.prompt,
        **source.columns,
        text=outcome.text,
        status=outcome.status,
        reason=outcome.reason,
        seconds=seconds,
    )


def _report(
    dataset: Path, items: Sequence[Item], before: Standing, after: Standing, seconds: float
) -> Report:
    failures = [
        Failure(item.entity, item.images[0], reason, Flaw(reason).mend)
        for item, status, reason in zip(items, after.done, after.reasons, strict=True)
        if status == "failed" and reason is not None
    ]
    if len(failures) == len(items):
        first = failures[0]
        raise InputError(f"None of the {len(items)} images of {dataset} can be captioned; the "
                         f"first, {first.image}: {first.mend}.")
    new = [item.key for item, then, now in zip(items, before.done, after.done, strict=True)
           if then is None and now is not None and now != "failed"]
    captioned = len(set(new) - before.known.keys())
    return Report(
        items=len(items),
        done_before=len(items) - before.done.count(None),
        captioned=captioned,
        reused=len(new) - captioned,
        left=after.done.count(None),
        failures=failures,
        seconds=seconds,
    )


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    # What Pillow would warn of either does not matter or is recorded as a failure.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        yield
