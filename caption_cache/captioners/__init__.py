"""One file per engine that turns images into a text; here, what every engine promises.

A third party adds a captioner by an entry point in the group ``caption_cache.captioners``
whose object, called without arguments, gives a `Captioner`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Protocol

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


class Captioner(Protocol):
    """An engine that turns images into texts."""

    @property
    def identity(self) -> Identity:
        """Everything that determines the texts, beside the requests."""

    @property
    def prompted(self) -> bool:
        """Whether the text depends on a prompt."""

    @property
    def batch_size(self) -> int:
        """How many requests `caption` gets at once, at most."""

    def caption(self, requests: Sequence[Request]) -> Sequence[str]:
        """Write one text for every request, in their order.

        A text depends on its own request alone, never on the others in the batch.

        Raises:
            InputError: The engine cannot work (a wrong model, a refused key); the build stops.
        """


def load_captioner(name: str) -> Captioner:
    """Find a captioner by the name of its entry point, and make it.

    Raises:
        InputError: No installed package brings a captioner of that name.
    """
    known = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name not in known:
        raise InputError(
            f"No captioner is called {name!r}; the installed ones are "
            f"{', '.join(sorted(known)) or 'none (install this package again)'}."
        )
    captioner: Captioner = known[name].load()()
    return captioner
