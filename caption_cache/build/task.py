"""What is to be captioned, as it is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from caption_cache import gate
from caption_cache.errors import InputError
from caption_cache.prompts import SCOPES, STANDARD


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
