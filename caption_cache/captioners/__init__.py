"""One file per engine that turns images into a text; here, what every engine promises.

A third party adds a captioner by an entry point in the group ``caption_cache.captioners``
whose object gives a `Captioner` when it is called: without arguments, or, when it has an
attribute ``Options`` (a frozen dataclass, see `captioners.options`), with one of those.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from importlib.metadata import entry_points
from typing import Any, NamedTuple, Protocol, runtime_checkable

from PIL import Image

from caption_cache.errors import InputError

GROUP = "caption_cache.captioners"


@dataclass(frozen=True)
class Identity:
    """Everything about a captioner that determines its texts; it is part of every key."""

    captioner: str
    """The name of the engine, the same as that of its entry point."""
    model: str = ""
    """The model, as a hub name or a folder; empty when there is none."""
    revision: str = ""
    """The revision of the model, or of the code where the code is the model."""
    settings: Mapping[str, object] = field(default_factory=dict)
    """What generation depends on (length, beams, seed, data type, …), as JSON values."""
    back_end: str = ""
    """What prepares the pixels, when there are several (``pil``, ``torchvision``)."""


@dataclass(frozen=True)
class Request:
    """One text to write."""

    images: tuple[Image.Image, ...]
    """At least one image; mode RGB."""
    prompt: str | None
    """What is asked; None for a captioner that takes no prompt."""


class Refusal(Enum):
    """Why one request got no text; the value is what the cache records as the reason."""

    MEMORY = "out-of-memory"
    UNPREPARED = "not-prepared"
    REFUSED = "refused-by-the-server"
    SERVER = "server-error"
    SLOW = "timed-out"
    MALFORMED = "malformed-answer"
    BROKEN = "not-a-number"

    @property
    def mend(self) -> str:
        """What a person can do about it."""
        return _MENDS[self]


_MENDS = {
    Refusal.MEMORY: "the accelerator's memory is too small even for it alone; shrink the image, "
                    "quantise the model, then build with --retry failed",
    Refusal.UNPREPARED: "the model's processor takes no such image or question; convert the image",
    Refusal.REFUSED: "the server takes no such image or question; see its log",
    Refusal.SERVER: "the server failed on it again and again; see its log, then build with "
                    "--retry failed",
    Refusal.SLOW: "the server did not answer in time; raise --timeout, then build with "
                  "--retry failed",
    Refusal.BROKEN: "the model computed no numbers; load its weights in bfloat16 or float32 "
                    "(--dtype), then build with --retry failed",
    Refusal.MALFORMED: "the server's answer could not be understood; see its log, then build "
                       "with --retry failed",
}


class InVain(InputError):
    """Request after request got no text. A build goes on if it was only these."""

    def __init__(self, message: str, refusal: Refusal) -> None:
        """Say it.

        Args:
            message: The sentence.
            refusal: Why the last of them got none.
        """
        super().__init__(message)
        self.refusal = refusal


class YesNo(NamedTuple):
    """How a yes/no question was answered at its first token."""

    yes: float
    """P(Yes) + P(yes)."""
    no: float
    """P(No) + P(no)."""


class Captioner(Protocol):
    """An engine that turns images into texts.

    One that looks at no more than so many pixels a side may say so by a property ``most_side``:
    images are shrunk to it when they are opened.
    """

    @property
    def identity(self) -> Identity:
        """Everything that determines the texts, beside the requests."""

    @property
    def prompted(self) -> bool:
        """Whether the text depends on a prompt."""

    @property
    def batch_size(self) -> int:
        """How many requests `caption` gets at once, at most."""

    def caption(self, requests: Sequence[Request]) -> Sequence[str | Refusal]:
        """Write one text for every request, in their order.

        A text depends on its own request alone, never on the others in the batch.

        Raises:
            InVain: One request after another got no text; the next that gets one ends the count.
            InputError: The engine cannot work (a wrong model, a refused key); the build stops.
        """


@runtime_checkable
class Judge(Protocol):
    """A captioner that can also weigh yes against no."""

    @property
    def judge_identity(self) -> Identity:
        """Everything that determines the answers: no setting of the texts."""

    def judge(self, requests: Sequence[Request]) -> Sequence[YesNo | Refusal]:
        """Answer the yes/no question of every request, in their order.

        Raises:
            InputError: As in `Captioner.caption`.
        """


def load_captioner(name: str, options: Any = None) -> Captioner:
    """Find a captioner by the name of its entry point, and make it.

    Args:
        name: The name.
        options: An instance of `options_of(name)`; None for one that has none.

    Raises:
        InputError: No installed package brings a captioner of that name.
    """
    make = _find(name)
    return make() if options is None else make(options)


def options_of(name: str) -> type | None:
    """The dataclass of the options that a captioner takes, if any.

    Raises:
        InputError: As in `load_captioner`.
    """
    return getattr(_find(name), "Options", None)


def _find(name: str) -> Callable[..., Captioner]:
    known = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name not in known:
        raise InputError(
            f"No captioner is called {name!r}; the installed ones are "
            f"{', '.join(sorted(known)) or 'none (install this package again)'}."
        )
    make: Callable[..., Captioner] = known[name].load()
    return make
