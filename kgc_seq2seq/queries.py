"""Queries and answers as lines of JSON: what a file of them holds, and what comes back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from caption_cache.errors import InputError
from kgc_seq2seq.completer import Prediction, Query
from kgc_seq2seq.newcomers import Newcomer

KEYS = ("head", "tail", "relation", "direction")
"""What a query must or may say: its relation, and either a head or a tail."""
_KINDS: dict[str, tuple[type, ...]] = {
    "head": (str, dict), "tail": (str, dict), "relation": (str,), "direction": (str,),
    "candidates": (list,)}


def parse_queries(text: str, source: str) -> list[Query]:
    """Read queries, one JSON object a line.

    Args:
        text: The lines.
        source: Where they come from, to begin an error message with.

    Raises:
        InputError: A line is no query, or there is none.
    """
    # At newlines only: JSON lets other ends of lines, such as U+2028, stand in a text.
    lines = text.rstrip("\r\n").split("\n") if text.strip() else []
    queries = []
    for number, line in enumerate(lines, start=1):
        where = f"{source}, line {number}: "
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:  # the latter: [[[[…
            raise InputError(f"{where}not JSON ({error}); write one object a line.") from None
        queries.append(_parse_entry(entry, where))
    if not queries:
        raise InputError(f"{source} holds no query; write one object a line.")
    return queries


def _parse_entry(entry: Any, where: str) -> Query:
    """One line: names, or objects for entities that the graph lacks."""
    if not isinstance(entry, dict) or not all(
            key in _KINDS and isinstance(value, _KINDS[key]) for key, value in entry.items()):
        raise InputError(f"{where}a query is an object with texts under head or tail, relation, "
                         "and perhaps direction and a list of candidates; mend it.")
    candidates = entry.pop("candidates", [])
    if not all(isinstance(name, str) for name in candidates):
        raise InputError(f"{where}candidates must be a list of names; mend it.")
    query = parse_query(entry, where)
    if isinstance(query.entity, dict):
        try:
            query = replace(query, entity=Newcomer.read(query.entity))
        except InputError as error:
            raise InputError(f"{where}{error}") from None
    return replace(query, candidates=tuple(candidates))


def parse_query(given: dict[str, Any], where: str = "", dashes: str = "") -> Query:
    """One query.

    Args:
        given: Texts or None under `KEYS`.
        where: To begin an error message with.
        dashes: What stands before a key where it was given: ``--`` on a command line.

    Raises:
        InputError: It has no relation, or not just one of head and tail.
    """
    head: Any = given.get("head")
    tail: Any = given.get("tail")
    if (head is None) == (tail is None) or given.get("relation") is None:
        raise InputError(f"{where}a query needs {dashes}relation and either {dashes}head or "
                         f"{dashes}tail; give both.")
    entity: str = head if tail is None else tail
    direction: Any = given.get("direction") or ("tail" if tail is None else "head")
    try:
        return Query(entity, given["relation"], direction)
    except InputError as error:
        raise InputError(f"{where}{error}") from None


def answers_data(query: Query, found: Sequence[Prediction]) -> dict[str, Any]:
    """A query and its answers as JSON values."""
    return {"query": asdict(query), "answers": [asdict(answer) for answer in found]}
