"""The options of a captioner: a frozen dataclass that becomes a part of the command line.

Its fields are ``str``, ``int``, ``float``, ``bool`` or a ``Literal`` of strings, each perhaps
``| None``; the docstring under a field is its help. ``max_new_tokens`` is ``--max-new-tokens``.
Cross checks belong into ``__post_init__``, which raises `InputError`.
"""

from __future__ import annotations

import argparse
import types
from dataclasses import MISSING, fields
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

_PREFIX = "captioner:"


def add_options(parser: argparse._ActionsContainer, options: type) -> None:
    """Add one argument for every field of the dataclass ``options``."""
    from docstring_parser import parse_from_object

    help_of = {entry.arg_name: entry.description or ""
               for entry in parse_from_object(options).params}
    types_of = get_type_hints(options)
    for entry in fields(options):
        required = entry.default is MISSING
        how: dict[str, Any] = {"required": True} if required else {"default": entry.default}
        kind = _without_none(types_of[entry.name])
        if get_origin(kind) is Literal:
            how["choices"] = get_args(kind)
        elif kind is bool:
            how["action"] = argparse.BooleanOptionalAction
        else:
            how.update(type=kind, metavar=kind.__name__.upper())
        parser.add_argument(f"--{entry.name.replace('_', '-')}", dest=_PREFIX + entry.name,
                            help=" ".join(help_of.get(entry.name, "").replace("``", "").split()),
                            **how)


def take_options(options: type, parsed: argparse.Namespace) -> Any:
    """Make the dataclass from a command line with the arguments of `add_options`.

    Raises:
        InputError: The values do not fit together.
    """
    return options(**{entry.name: getattr(parsed, _PREFIX + entry.name)
                      for entry in fields(options)})


def _without_none(kind: Any) -> Any:
    if get_origin(kind) in (Union, types.UnionType):
        [kind] = [each for each in get_args(kind) if each is not types.NoneType]
    return kind
