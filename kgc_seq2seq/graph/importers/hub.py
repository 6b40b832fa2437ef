"""Hugging Face datasets: on disk or by name, with the columns head, relation and tail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from caption_cache.columns import Columns
from caption_cache.errors import InputError
from kgc_seq2seq.graph.importers.raw import Order, RawGraph
from kgc_seq2seq.graph.importers.tsv import number_tables

_SPLITS = {"train": "train", "valid": "valid", "validation": "valid", "dev": "valid",
           "test": "test"}
_COLUMNS = ("head", "relation", "tail")


def read_hub(source: Path, order: Order | None) -> RawGraph:
    """Read a dataset that ``save_to_disk`` wrote, or one by its name on the hub.

    Entities and relations are numbered as they first appear, heads before tails.

    Raises:
        InputError: It cannot be loaded, a column or a split is missing, or an order is stated:
            the columns are named.
    """
    if order is not None:
        raise InputError("The columns of a Hugging Face dataset are found by name; leave --order "
                         "out.")
    loaded = _load(source)
    named = dict(loaded) if isinstance(loaded, dict) else {"train": loaded}
    if len(named) == 1:
        parts = {"all": next(iter(named.values()))}
    else:
        parts = {_SPLITS.get(name, name): part for name, part in named.items()}
        if set(parts) != set(_SPLITS.values()) or len(parts) != len(named):
            raise InputError(f"{source} has the splits {', '.join(named)}; it must have train, "
                             "validation and test, or one alone.")
    return number_tables({name: _read_part(source, name, part) for name, part in parts.items()},
                         "hrt", [])


def _load(source: Path) -> Any:
    import datasets

    if source.is_file():
        raise InputError(f"{source} is a file; give the folder that holds it.")
    on_disk = any((source / name).is_file() for name in ("dataset_dict.json", "state.json"))
    try:
        return datasets.load_from_disk(str(source)) if on_disk else datasets.load_dataset(
            str(source))
    except Exception as error:  # the loaders raise nearly anything
        why = " ".join(str(error).split())[:200].rstrip(".")
        raise InputError(f"{source} cannot be loaded as a Hugging Face dataset ({why}); check the "
                         "folder or the name.") from None


def _read_part(source: Path, name: str, part: Any) -> Columns:
    missing = [column for column in _COLUMNS if column not in part.column_names]
    if missing:
        raise InputError(f"{source}, split {name}: no column {missing[0]!r}; the columns must be "
                         "head, relation and tail.")
    table: pa.Table = part.with_format("arrow")[:]
    cells = []
    for column in _COLUMNS:
        if table[column].null_count:
            raise InputError(f"{source}, split {name}: the column {column} has empty cells; fill "
                             "them in.")
        try:
            words = getattr(part.features[column], "names", None)  # of a ClassLabel
            cells.append(table[column].cast(pa.string()) if words is None
                         else pa.chunked_array([words]).take(table[column]))
        except pa.ArrowException:
            raise InputError(f"{source}, split {name}: the column {column} holds "
                             f"{table[column].type}; it must hold texts or numbers.") from None
    return Columns(source / name, 1, cells)
