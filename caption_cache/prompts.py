"""What a captioner is asked: templates with a version, in a file that can be replaced."""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caption_cache.errors import InputError

SCOPES = ("entity", "commonsense", "visual", "pair", "summary", "relation")
"""What texts can be about. The first and second setting of MMKG-T5 (arXiv 2501.15688) are ``pair``
and ``summary`` here; its third asks ``commonsense`` and ``visual`` of all images of an entity, and
``entity`` is the same for captioners of one image."""
STANDARD = Path(__file__).with_name("prompts.toml")
"""The questions that come with this package."""

_NAMES = {"entity": {"name"}, "commonsense": {"name"}, "visual": {"name"},
          "pair": {"head", "neighbour"}, "summary": {"head", "neighbour"},
          "relation": {"name"}, "relevance": {"name"}}
# By question, the gaps for names of entities.
_OTHERS = {"relation": {"relation"}}
# By question, the other gaps; a template must have them.
_GAP = re.compile(r"\{(\w*)\}")


@dataclass(frozen=True)
class Prompt:
    """A question about images, with gaps."""

    id: str
    """Its name and version."""
    template: str
    """The question; ``{name}`` and the like are gaps."""

    @property
    def hash(self) -> str:
        """SHA-256 of the template, in hex: tells an edited template from the one it was."""
        return hashlib.sha256(self.template.encode()).hexdigest()

    def fill(self, values: Mapping[str, str]) -> str:
        """The question with its gaps filled; a value for no gap is passed over."""
        return _GAP.sub(lambda gap: values[gap[1]], self.template)


def read_prompts(file: Path = STANDARD, *, names_hidden: bool = False) -> dict[str, Prompt]:
    """Read a file of questions.

    Args:
        file: TOML; `STANDARD` says how it is built.
        names_hidden: Whether to take the questions that name no entity.

    Returns:
        By what is asked about: ``entity``, ``commonsense``, ``visual``, ``pair``, ``summary``,
        ``relation``, ``relevance``.
        What the file leaves out is taken from `STANDARD`.

    Raises:
        InputError: The file cannot be read, or a question is malformed.
    """
    tables = _read(STANDARD)
    if file != STANDARD:
        tables |= _read(file)
    return {about: _prompt(file, about, table, names_hidden) for about, table in tables.items()}


def _read(file: Path) -> dict[str, Any]:
    try:
        tables = tomllib.loads(file.read_text("utf-8-sig"))
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}); give a file of questions "
                         "like prompts.toml in this package.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is no TOML ({error}); mend it there.") from None
    for about, table in tables.items():
        if about not in _NAMES:
            raise InputError(f"{file}: no question is called {about!r}; the names are "
                             f"{', '.join(_NAMES)}.")
        if not isinstance(table, dict) or "version" not in table:
            raise InputError(f"{file}, [{about}]: write a table with version, named and hidden.")
        for key in table:
            if key not in ("version", "named", "hidden"):
                raise InputError(f"{file}, [{about}]: unknown key {key!r}; the keys are version, "
                                 "named, hidden.")
    return tables


def _prompt(file: Path, about: str, table: dict[str, Any], names_hidden: bool) -> Prompt:
    # An image is judged by the entity's name, or not at all; what it says is not kept as a text.
    hidden = names_hidden and about != "relevance"
    key = "hidden" if hidden else "named"
    text = table.get(key)
    where = f"{file}, [{about}]"
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"{where}: no question under {key!r}; write one.")
    needed = _OTHERS.get(about, set())
    allowed = needed if hidden else needed | _NAMES[about]
    gaps = set(_GAP.findall(text))
    for gap in sorted(gaps - allowed):
        raise InputError(f"{where}: {key!r} has the gap {{{gap}}}; it may have "
                         f"{', '.join(f'{{{name}}}' for name in sorted(allowed)) or 'none'}.")
    for gap in sorted(needed - gaps):
        raise InputError(f"{where}: {key!r} lacks the gap {{{gap}}}; put it in.")
    return Prompt(f"{about}{'-hidden' * hidden}-{table['version']}", text)
