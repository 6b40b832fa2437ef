"""Which text belongs to a pair, such as two entities: a lookup in arrays, for whole batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kgc_seq2seq.arrays import Longs


@dataclass(frozen=True, eq=False)
class PairTexts:
    """Texts of a `TokenTable` by (entity, neighbour), or by (entity, relation)."""

    keys: Longs
    """``entity * others + other`` of every pair that has a text, ascending, int64 [P]."""
    texts: Longs
    """The text of each of them, int64 [P]."""
    others: int
    """How many neighbours or relations there are."""

    @classmethod
    def build(
        cls, captions: Mapping[tuple[str, str], str], entity_ids: Sequence[str],
        others: Mapping[str, int] | None = None,
    ) -> tuple[PairTexts, list[str]]:
        """Number the texts of pairs.

        Args:
            captions: By (entity id, other id), as `caption_cache.captions.read_link_captions`
                gives them; a pair with an id that is not known is passed over.
            entity_ids: Of the graph.
            others: The numbers of the other ids; None: they are entities too.

        Returns:
            The lookup, whose texts count from 0, and the texts; equal ones stand there once.
        """
        place = {key: index for index, key in enumerate(entity_ids)}
        others = place if others is None else others
        size = max(others.values(), default=0) + 1
        known = {place[entity] * size + others[other]: text
                 for (entity, other), text in captions.items()
                 if entity in place and other in others}
        keys = np.array(sorted(known), np.int64)
        number: dict[str, int] = {}
        texts = [number.setdefault(known[key], len(number)) for key in keys.tolist()]
        return cls(keys, np.array(texts, np.int64), size), list(number)

    def find(self, entities: Longs, others: Longs, missing: int) -> Longs:
        """Look many pairs up.

        Args:
            entities: int64 [B].
            others: int64 [B].
            missing: Stands for a pair without a text.

        Returns:
            The text of each pair, int64 [B].
        """
        if not len(self.keys):
            return np.full(len(entities), missing, np.int64)
        keys = entities * self.others + others
        index = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[index] == keys, self.texts[index], missing)
