"""Opening images, asking about them batch by batch, writing what comes of it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path

from rich.progress import Progress

from caption_cache.build.plan import Item, Outcome, Standing
from caption_cache.build.scopes import RELEVANCE
from caption_cache.build.stages import Stage
from caption_cache.captioners import InVain, Request
from caption_cache.images import Flaw, ImageError, content_hash, decode, read_bytes, shrunk
from caption_cache.prefetch import prefetch
from caption_cache.store import PartWriter, Row


def caption(
    root: Path,
    groups: Sequence[list[Item]],
    batch_size: int,
    stage: Stage,
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
            rows = [as_row(item, stage, outcome, seconds * (item is group[0]))
                    for (group, _), outcome in zip(asked, outcomes, strict=True)
                    for item in group]
            rows += [as_row(item, stage, _failed(flaw))
                     for group, flaw in chunk if isinstance(flaw, Flaw) for item in group]
            writer.add(rows)
            bar.advance(task, len(chunk))


def _answered(
    stage: Stage, requests: Sequence[Request],
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


def time_text(
    root: Path, groups: Sequence[list[Item]], stage: Stage, batch_size: int, sample: int
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


def known_outcome(item: Item, standing: Standing) -> Outcome:
    """What came of an item that needs no captioner."""
    return standing.known[item.key] if item.flaw is None else _failed(item.flaw)


def _failed(flaw: Flaw) -> Outcome:
    return Outcome(None, "failed", flaw.value)


def as_row(item: Item, stage: Stage, outcome: Outcome, seconds: float = 0.0) -> Row:
    """What the store keeps of an item."""
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
