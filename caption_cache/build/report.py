"""What a build would do, or did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from caption_cache.build.plan import Item, Standing
from caption_cache.captioners import Refusal
from caption_cache.images import Flaw


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


def report_of(items: Sequence[Item], before: Standing, after: Standing) -> Report:
    """What happened between two looks at the store; the judged and the seconds are left out."""
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
        failures=failures(items, after),
        seconds=0.0,
    )


def failures(items: Sequence[Item], after: Standing) -> list[Failure]:
    """The items that failed, now or before."""
    return [Failure(item.entity, item.images[0], reason, _mend(reason))
            for item, status, reason in zip(items, after.done, after.reasons, strict=True)
            if status == "failed" and reason is not None]


def _mend(reason: str) -> str:
    for kind in (Flaw, Refusal):
        if reason in {each.value for each in kind}:
            return kind(reason).mend
    return "build with --retry failed"
