"""What is wrong with the images of a data set, and how many entities have each modality."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from caption_cache.columns import read_table
from caption_cache.errors import InputError
from caption_cache.fingerprints import recall, take_fingerprints
from caption_cache.images import (
    ImageError,
    ImageFile,
    decode,
    find_images,
    has_images,
    read_bytes,
    read_entities,
)
from caption_cache.prefetch import prefetch
from caption_cache.store import Store
from kgc_seq2seq.graph.audit.findings import NUM_EXAMPLES, Finding, Severity
from kgc_seq2seq.graph.knowledge_graph import KnowledgeGraph

MANY = 5
"""An image of so many entities is a stand-in rather than a picture."""
OPENED = 20_000
"""At most so many images are opened; of more, so many drawn at random."""


def audit_images(dataset: Path, graph: KnowledgeGraph) -> Iterator[Finding]:
    """Check that the images are there, can be opened, and show one entity each."""
    if not has_images(dataset):
        return
    try:
        if (dataset / "images.tsv").exists():
            images, findings = _listed(dataset, graph)
            yield from findings
        else:
            images = find_images(dataset, read_entities(dataset))
    except InputError as error:
        yield Finding("images-unlisted", Severity.ERROR, 1, "The images cannot be listed.",
                      "mend what the example says", (str(error),))
        return
    paths = sorted({image.path for image in images})
    prints = take_fingerprints(dataset, paths, recall(Store(dataset).index), show_progress=True)
    readable = [path for path in paths if prints[path].flaw is None]
    sample = readable
    if len(sample) > OPENED:
        sample = np.random.default_rng(0).choice(readable, OPENED, replace=False).tolist()
    root = dataset.resolve()
    flaws = {path: str(prints[path].flaw) for path in paths if prints[path].flaw is not None}
    opened = prefetch(lambda path: _flaw(root, path), sample, ahead=16)
    flaws |= {path: flaw for path, flaw in zip(sample, opened, strict=True) if flaw}
    if flaws:
        seen = "" if len(sample) == len(readable) else f" ({OPENED:,} drawn at random were opened)"
        yield Finding(
            "images-unreadable", Severity.WARNING, len(flaws),
            f"{len(flaws):,} of {len(paths):,} images cannot be opened{seen}.",
            "fetch them again, or take them away; 'caption-cache build' says how for each",
            tuple(f"{path}: {flaw}" for path, flaw in list(flaws.items())[:NUM_EXAMPLES]))
    yield from _shared([(image.entity, prints[image.path].hash, image.path) for image in images
                        if prints[image.path].flaw is None])
    covered = len({image.entity for image in images})
    yield coverage("images", covered, graph.num_entities)


def coverage(modality: str, covered: int, entities: int, origin: str = "") -> Finding:
    """How many entities have a modality, perhaps of some origin."""
    share = covered / max(1, entities)
    return Finding(f"{modality}-coverage", Severity.INFO, covered,
                   f"{covered:,} of {entities:,} entities ({share:.1%}) have {modality}{origin}.",
                   "report those without as a slice of their own", (), {"share": share})


def _listed(dataset: Path, graph: KnowledgeGraph) -> tuple[list[ImageFile], list[Finding]]:
    table = read_table(dataset / "images.tsv", ["entity", "path"])
    strangers = np.flatnonzero(pc.is_null(pc.index_in(
        table["entity"], value_set=pa.array(graph.entity_ids, pa.string())))).tolist()
    rows = list(zip(table.texts("entity"), table.texts("path"), strict=True))
    missing = [row for row, (_, path) in enumerate(rows) if not _inside(dataset, path)]
    findings = []
    if missing:
        findings.append(Finding(
            "images-missing", Severity.WARNING, len(missing),
            f"{len(missing):,} images that images.tsv lists are not in the data set.",
            "fetch them, or delete the lines",
            tuple(f"line {row + 2}: {rows[row][1]}" for row in missing[:NUM_EXAMPLES])))
    if strangers:
        findings.append(Finding(
            "images-of-strangers", Severity.WARNING, len(strangers),
            f"{len(strangers):,} lines of images.tsv name an entity that is not in entities.tsv.",
            "correct the ids or delete the lines",
            tuple(f"line {row + 2}: {rows[row][0]}" for row in strangers[:NUM_EXAMPLES])))
    left_out = {*missing, *strangers}
    return [ImageFile(*row) for number, row in enumerate(rows) if number not in left_out], findings


def _inside(dataset: Path, path: str) -> bool:
    pure = PurePosixPath(path)
    return (not pure.is_absolute() and ".." not in pure.parts and bool(pure.parts)
            and os.path.lexists(dataset / pure))


def _flaw(root: Path, path: str) -> str | None:
    try:
        decode(read_bytes(root, path))
    except ImageError as error:
        return str(error.flaw)
    return None


def _shared(owned: list[tuple[str, str, str]]) -> Iterator[Finding]:
    """Equal images: of one entity (twice the same says no more), and of several."""
    owners: dict[str, set[str]] = {}
    places: dict[str, str] = {}
    for entity, content, path in owned:
        owners.setdefault(content, set()).add(entity)
        places.setdefault(content, path)
    again = len(owned) - sum(map(len, owners.values()))
    if again:
        yield Finding("images-repeated", Severity.INFO, again,
                      f"{again:,} images are the same as another of their entity.",
                      "keep one of each")
    shared = {content: who for content, who in owners.items() if len(who) > 1}
    if shared:
        most = max(map(len, shared.values()))
        concerned = len(set().union(*shared.values()))
        yield Finding(
            "images-shared", Severity.WARNING if most >= MANY else Severity.INFO, concerned,
            f"{len(shared):,} images belong to several entities ({concerned:,} in all); one "
            f"belongs to {most:,}.",
            "take stand-ins away: a model reads them as a likeness",
            tuple(f"{places[content]}: {', '.join(sorted(who)[:4])}"
                  for content, who in sorted(shared.items(), key=lambda item: -len(item[1]))
                  [:NUM_EXAMPLES]))
