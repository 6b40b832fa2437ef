"""What scorers read of the entities, in whatever form: vectors of a modality, or mentions."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from kgc_seq2seq.scorers.mentions import Mentions, read_mentions
from kgc_seq2seq.scorers.vectors import Vectors, read_vectors, vectors_path

MENTIONS = "mentions"
Known = Vectors | Mentions


def kind_of(what: str) -> type[Known]:
    """The form of ``"mentions"``, or of a modality."""
    return Mentions if what == MENTIONS else Vectors


def read_known(dataset: Path, what: str, entity_ids: Sequence[str]) -> Known:
    """Read what ``kgc features`` wrote of a data set, in the order of a graph's entities.

    Raises:
        InputError: As in `read_vectors` and `read_mentions`.
    """
    read = read_mentions if what == MENTIONS else read_vectors
    return read(vectors_path(dataset, what), entity_ids)


def known_hash(known: Mapping[str, Known]) -> str:
    """SHA-256 over what is known, in hex."""
    digest = hashlib.sha256()
    for what in sorted(known):
        digest.update(what.encode())
        for key in known[what].STORED:
            digest.update(getattr(known[what], key).numpy().tobytes())
    return digest.hexdigest()
