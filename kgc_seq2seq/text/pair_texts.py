"""Which text belongs to a pair of entities: a lookup in arrays, for whole batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kgc_seq2seq.graph.csr import Longs


@dataclass(frozen=True, eq=False)
class PairTexts:
    """Texts of a `TokenTable` by (head, neighbour)."""

    keys: Longs
    """``head * entities + neighbour`` of every pair that has a text, ascending, int64 [P]."""
    texts: Longs
    """The text of each of them, int64 [P]."""
    entities: int
    """The number of entities, N."""

    @classmethod
    def build(
        cls, captions: Mapping[tuple[str, str], str], entity_ids: Sequence[str]
    ) -> tuple[PairTexts, list[str]]:
        """Number the texts of pairs.

        Args:
            captions: By (entity id, neighbour id), as `caption_cache.captions.read_link_captions`
                gives them; a pair with an entity that is not in ``entity_ids`` is passed over.
            entity_ids: Of the graph.

        Returns:
            The lookup, whose texts count from 0, and the texts; equal ones stand there once.
        """
        place = {key: index for index, key in enumerate(entity_ids)}
        known = sorted((place[head] * len(place) + place[neighbour], text)
                       for (head, neighbour), text in captions.items()
                       if head in place and neighbour in place)
        number: dict[str, int] = {}
        texts = [number.setdefault(text, len(number)) for _, text in known]
        keys = np.array([key for key, _ in known], np.int64)
        return cls(keys, np.array(texts, np.int64), len(place)), list(number)

    def find(self, heads: Longs, neighbours: Longs, missing: int) -> Longs:
        """Look many pairs up.

        Args:
            heads: int64 [B].
            neighbours: int64 [B].
            missing: Stands for a pair without a text.

        Returns:
            The text of each pair, int64 [B].
        """
        if not len(self.keys):
            return np.full(len(heads), missing, np.int64)
        keys = heads * self.entities + neighbours
        index = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[index] == keys, self.texts[index], missing)
