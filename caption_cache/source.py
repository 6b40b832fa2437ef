"""Where a text comes from, and the key that follows from all that determines it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from caption_cache.captioners import Identity
from caption_cache.prompts import Prompt

_KEY_VERSION = 1
"""Part of every key: raised when the same inputs would be turned into another text."""


@dataclass(frozen=True)
class Source:
    """A captioner and the prompt it is given: what many texts have in common."""

    identity: Identity
    """The captioner."""
    prompt_id: str | None
    """`Prompt.id`; None when the captioner takes no prompt."""
    prompt_hash: str | None
    """`Prompt.hash`, likewise."""

    COLUMNS: ClassVar = ("captioner", "model", "revision", "settings", "back_end", "prompt_id",
                         "prompt_hash")
    """The columns of the store that make a source."""

    @classmethod
    def of(cls, identity: Identity, prompt: Prompt | None) -> Source:
        """The source of what ``identity`` says when asked ``prompt``."""
        if prompt is None:
            return cls(identity, None, None)
        return cls(identity, prompt.id, prompt.hash)

    @classmethod
    def from_columns(cls, columns: Mapping[str, Any]) -> Source:
        """The inverse of `columns`."""
        identity = Identity(columns["captioner"], columns["model"], columns["revision"],
                            json.loads(columns["settings"]), columns["back_end"])
        return cls(identity, columns["prompt_id"], columns["prompt_hash"])

    @property
    def columns(self) -> dict[str, Any]:
        """This source as columns of the store; the settings are JSON with sorted names."""
        who = self.identity
        values = (who.captioner, who.model, who.revision, _json(who.settings), who.back_end,
                  self.prompt_id, self.prompt_hash)
        return dict(zip(self.COLUMNS, values, strict=True))

    @cached_property
    def id(self) -> str:
        """SHA-256 over the whole source, in hex."""
        return _sha256([_KEY_VERSION, self.columns])

    @property
    def label(self) -> str:
        """A name for people, with the start of `id`, which alone names it without doubt."""
        words = [self.identity.captioner, self.identity.model, self.identity.revision,
                 self.prompt_id]
        return " ".join([*(word for word in words if word), f"[{self.id[:8]}]"])

    def key(self, prompt: str | None, image_hashes: Sequence[str]) -> str:
        """The key of one text: equal exactly when everything that determines the text is equal.

        Args:
            prompt: The question with its gaps filled; None when there is none.
            image_hashes: `images.content_hash` of every image shown, in their order.

        Returns:
            SHA-256 in hex.
        """
        # The JSON of [id, prompt, hashes], put together here since millions are made at a time.
        asked = "null" if prompt is None else _quoted(prompt)
        shown = ",".join(map(_quoted, image_hashes))
        return hashlib.sha256(f'["{self.id}",{asked},[{shown}]]'.encode()).hexdigest()


_quoted = json.encoder.encode_basestring
_json = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode


def _sha256(value: object) -> str:
    return hashlib.sha256(_json(value).encode()).hexdigest()
