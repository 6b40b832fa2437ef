"""Content hashes of many images, remembered so that unchanged files are not read again.

What is remembered is only a short cut: deleting the file that holds it costs time, no result.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from itertools import repeat
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from caption_cache.disk import replacing
from caption_cache.images import Flaw, ImageError, content_hash, read_bytes
from caption_cache.prefetch import prefetch
from caption_cache.progress import progress_bar

_SETTLED_NS = 2_000_000_000
# A file touched so shortly ago could change again without a new time of change (some file
# systems count in steps of two seconds), so it is not remembered.


class Fingerprint(NamedTuple):
    """What an image file holds."""

    size: int
    """In bytes."""
    changed: int
    """When the file last changed, in nanoseconds since 1970."""
    hash: str
    """`images.content_hash`, or for a file that cannot be read a stand-in, made of its path."""
    flaw: Flaw | None = None
    """Why it cannot be read, if so."""


Fingerprints = dict[str, Fingerprint]
"""By path, relative to the data-set folder."""


def take_fingerprints(
    dataset: Path, paths: Sequence[str], remembered: Fingerprints, *, show_progress: bool
) -> Fingerprints:
    """Find the content hash of every file, reading only those not remembered or changed since.

    Args:
        dataset: The data-set folder.
        paths: The files, relative to it.
        remembered: From `recall`; empty to read every file.
        show_progress: Show on standard error how far the reading is.
    """
    root = dataset.resolve()
    found = {path: remembered[path] for path in paths
             if path in remembered and not _changed(root, path, remembered[path])}
    if unread := [path for path in paths if path not in found]:
        read = prefetch(lambda path: _read(root, path), unread, ahead=64)
        with progress_bar(visible=show_progress) as bar:
            shown = bar.track(read, len(unread), description="reading images")
            found.update(zip(unread, shown, strict=True))
    return found


def recall(index: Path) -> Fingerprints:
    """Read what `remember` wrote; nothing when the file is absent or damaged."""
    try:
        table = pq.read_table(index)
        columns = (table[name].to_pylist() for name in ("size", "changed", "hash"))
        found = map(Fingerprint._make, zip(*columns, repeat(None)))
        return dict(zip(table["path"].to_pylist(), found, strict=True))
    except (OSError, KeyError, pa.ArrowException):
        return {}


def remember(index: Path, fingerprints: Fingerprints) -> None:
    """Write the fingerprints of the files that can be read and did not change just now.

    Raises:
        OSError: The file cannot be written.
    """
    before = time.time_ns() - _SETTLED_NS
    settled = [(path, f) for path, f in fingerprints.items()
               if f.flaw is None and f.changed < before]
    table = pa.table({
        "path": pa.array([path for path, _ in settled], pa.string()),
        "size": pa.array([f.size for _, f in settled], pa.int64()),
        "changed": pa.array([f.changed for _, f in settled], pa.int64()),
        "hash": pa.array([f.hash for _, f in settled], pa.string()),
    })
    with replacing(index) as aside:
        pq.write_table(table, aside)


def _changed(root: Path, path: str, known: Fingerprint) -> bool:
    try:
        state = os.stat(f"{root}/{path}")  # noqa: PTH116  (pathlib takes three times as long)
    except OSError:
        return True
    return (state.st_size, state.st_mtime_ns) != (known.size, known.changed)


def _read(root: Path, path: str) -> Fingerprint:
    try:
        # The time is taken before the bytes: a change in between is seen the next time.
        changed = (root / path).stat().st_mtime_ns
        data = read_bytes(root, path)
    except OSError:
        return _unread(path, Flaw.UNREADABLE)
    except ImageError as error:
        return _unread(path, error.flaw)
    return Fingerprint(len(data), changed, content_hash(data))


def _unread(path: str, flaw: Flaw) -> Fingerprint:
    return Fingerprint(0, 0, f"unread:{path}", flaw)
