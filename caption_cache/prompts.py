"""What a captioner is asked, as templates with a version."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True)
class Prompt:
    """A question about images, with gaps."""

    id: str
    """Its name and version; a changed template gets a new one."""
    template: str
    """The question; ``{name}`` stands for the name of the entity."""

    @property
    def hash(self) -> str:
        """SHA-256 of the template, in hex: tells an edited template from the one it was."""
        return hashlib.sha256(self.template.encode()).hexdigest()

    def about(self, name: str) -> str:
        """The question about the entity called ``name``."""
        return self.template.replace("{name}", name)


ENTITY = Prompt(
    "entity-1",
    "This image belongs to {name}. Say in one sentence what it shows, naming only what can be "
    "seen: objects, people, places, colours, shapes, writing.",
)
"""The question of the scope ``entity``."""
