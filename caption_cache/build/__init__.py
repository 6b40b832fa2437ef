"""Plan, skip what is done, caption, write: how the captions of a data set are made.

The work is divided by key: every process captions the keys it owns, whatever the others have
done before, so any number of processes can take up what any other number left.
"""

from __future__ import annotations

import gc
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from caption_cache.build.asking import as_row, caption, known_outcome, time_text
from caption_cache.build.plan import Item, compare, pending
from caption_cache.build.processes import Processes, joined
from caption_cache.build.report import Failure, Preview, Report, failures, report_of
from caption_cache.build.scopes import RELEVANCE, Gallery
from caption_cache.build.stages import plan_stages, read_task, settled
from caption_cache.build.task import Task
from caption_cache.captioners import Captioner
from caption_cache.captions import last_asked
from caption_cache.disk import cannot_write
from caption_cache.errors import InputError
from caption_cache.fingerprints import recall, remember, take_fingerprints
from caption_cache.images import find_images, read_entities
from caption_cache.progress import progress_bar
from caption_cache.store import Store, as_table

__all__ = ["Failure", "Preview", "Report", "Task", "build", "preview"]

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
    prompts, links = read_task(dataset, captioner, task)
    gallery = _gallery(dataset, Processes(), save=False, show_progress=False)
    everything = store.read()
    rows, known = settled(last_asked(everything), task), settled(everything, task)
    to_judge, seen = 0, [rows]
    for stage in plan_stages(dataset, captioner, task, prompts, links, gallery, everything,
                         lambda: pa.concat_tables(seen)):
        standing = compare(stage.items, stage.scope, rows, known)
        at_once, groups = pending(stage.items, standing)
        if stage.scope == RELEVANCE:
            to_judge = len(groups)
            seen.append(as_table(
                [as_row(item, stage, known_outcome(item, standing)) for item in at_once]))
    each = None
    if sample and groups:
        with _quiet_pillow():
            each = time_text(dataset.resolve(), groups, stage, captioner.batch_size, sample)
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
            prompts, links = read_task(dataset, captioner, task)
            gallery = _gallery(dataset, processes, save=True, show_progress=show_progress)
            with processes.first_alone():
                writer = stack.enter_context(store.writing(first=processes.rank == 0))
            old = set(store.parts)
            everything = store.read()
            counting, known = settled(last_asked(everything), task), settled(everything, task)

            def rows() -> pa.Table:  # parts that stood there before are not read again
                return pa.concat_tables([counting, store.read(besides=old)])

            for stage in plan_stages(dataset, captioner, task, prompts, links, gallery, everything,
                                 rows):
                before = compare(stage.items, stage.scope, rows(), known)
                processes.wait()  # all have looked at the same rows; from here on they change
                at_once, groups = pending(stage.items, before)
                writer.add([as_row(item, stage, known_outcome(item, before))
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
                        caption(dataset.resolve(), share, captioner.batch_size, stage, writer,
                                 bar)
                processes.wait()
                after = compare(stage.items, stage.scope, rows(), known)
                if stage.scope == RELEVANCE:
                    questions = failures(stage.items, after)
    report = report_of(stage.items, before, after)
    if len(report.failures) == report.items > 0 and task.instead_of is None:
        first = report.failures[0]
        raise InputError(f"None of the {report.items} images of {dataset} can be captioned; the "
                         f"first, {first.image}: {first.mend}.")
    return replace(report, judged=judged, left=report.left + unjudged,
                   failures=[*questions, *report.failures], seconds=time.perf_counter() - start)


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


def _longest_unasked(
    groups: list[list[Item]], limit: int, rows: pa.Table
) -> list[list[Item]]:
    """So many groups in their order; those retried before give way, so all have their turn."""
    asked = {key: place for place, key in enumerate(rows["key"].to_pylist())}
    turns = sorted(range(len(groups)), key=lambda which: asked.get(groups[which][0].key, -1))
    return [groups[which] for which in sorted(turns[:limit])]


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
