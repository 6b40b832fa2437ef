"""Reads feature matrices as published with LBMKGC and its kin: ``.pth`` files without ids."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from caption_cache.errors import InputError, first_line
from kgc_seq2seq.graph.knowledge_graph import KnowledgeGraph
from kgc_seq2seq.scorers.vectors import Vectors, align


def read_matrix(path: Path, rows: Path, graph: KnowledgeGraph) -> Vectors:
    """Read a matrix, and bring its rows into the order of a graph.

    A row of zeros means that the entity has no vector. Nothing is unpickled but tensors.

    Args:
        path: A tensor [M, d] as ``torch.save`` wrote it.
        rows: ``entity2id.txt``: the identifier of an entity and its row, one entity a line,
            perhaps after a line with their number. Identifiers are those of the graph, or
            addresses that end in them.
        graph: The graph.

    Raises:
        InputError: A file cannot be read, the two do not fit, or `vectors.align` refuses.
    """
    matrix = _load(path)
    ids = _read_rows(rows, graph)
    if matrix.ndim != 2 or len(matrix) != len(ids):
        raise InputError(f"{path} has the shape {tuple(matrix.shape)} where {rows} names "
                         f"{len(ids)} rows; give the files of one data set.")
    return align(str(path), matrix, (matrix != 0).any(dim=1), ids, graph.entity_ids)


def _load(path: Path) -> Tensor:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged archive raises nearly anything
        raise InputError(f"{path} cannot be read as a tensor ({first_line(error)}); give a file of "
                         "torch.save that holds one matrix.") from None
    if not isinstance(found, Tensor):
        raise InputError(f"{path} holds a {type(found).__name__}; give a file of torch.save that "
                         "holds one matrix.")
    return found


def _read_rows(path: Path, graph: KnowledgeGraph) -> list[str]:
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}); give the entity2id.txt of the "
                         "matrix.") from None
    known = set(graph.entity_ids)
    found: dict[int, str] = {}
    for number, line in enumerate(lines, start=1):
        name, _, row = line.strip().rpartition("\t" if "\t" in line else " ")
        if number == 1 and not name and row.isdecimal():
            continue  # how many there are
        if not name or not row.isdecimal() or int(row) in found:
            raise InputError(f"{path}, line {number}: not an identifier and a row of its own; "
                             "mend it.")
        name = name.strip()
        found[int(row)] = name if name in known else name.rpartition("/")[2]
    if sorted(found) != list(range(len(found))):
        raise InputError(f"{path}: the rows are not 0 … {len(found) - 1}; give the whole file.")
    return [found[row] for row in range(len(found))]
