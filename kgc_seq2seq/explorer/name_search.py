"""Finds entities while their name is typed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kgc_seq2seq.graph.knowledge_graph import KnowledgeGraph


class NameSearch:
    """The entities whose name holds a text, whatever its case and accents."""

    def __init__(self, graph: KnowledgeGraph) -> None:
        self._names = graph.entity_names
        self._plain = _plain(graph.entity_names)
        self._degree = graph.train_degree

    def find(self, text: str, limit: int) -> list[str]:
        """The best matches.

        Args:
            text: What was typed; nothing matches all.
            limit: At most so many.

        Returns:
            Names: the same one first, then those that begin so, then those with a word that
            does, then the rest; of each, those of the most facts first.
        """
        wanted = _plain([text.strip()])[0].as_py()
        place = pc.find_substring(self._plain, wanted).to_numpy()
        hits = np.flatnonzero(place >= 0)
        found = self._plain.take(pa.array(hits))
        # lexsort: the last key counts first.
        order = np.lexsort((
            -self._degree[hits],
            ~pc.match_substring(found, f" {wanted}").to_numpy(zero_copy_only=False),
            place[hits] != 0,
            ~pc.equal(found, wanted).to_numpy(zero_copy_only=False)))
        return [self._names[hit] for hit in hits[order[:limit]].tolist()]


def _plain(names: Sequence[str]) -> pa.Array:
    split = pc.utf8_normalize(pa.array(names, pa.string()), form="NFKD")
    return pc.utf8_lower(pc.replace_substring_regex(split, r"\p{M}", ""))
