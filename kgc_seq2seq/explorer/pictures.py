"""Small copies of the images of entities, made when they are looked at."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from caption_cache.images import data_url, open_or_none, paths_by_entity, shrunk

SIDE = 240
"""Width and height of a small copy are at most so many pixels."""
KEPT = 512
"""So many small copies are kept in memory."""


class Pictures:
    """The images of a data set, as data URLs; a page never gets a path."""

    def __init__(self, dataset: Path, captions: Mapping[str, str]) -> None:
        """List the images of a data set, if it has any.

        Args:
            dataset: Its folder.
            captions: Text by entity id.

        Raises:
            InputError: As `find_images`.
        """
        self.captions = captions
        self._paths = paths_by_entity(dataset)
        root = dataset.resolve()
        self._small = lru_cache(KEPT)(lambda path: _small(root, path))

    def __contains__(self, entity: str) -> bool:
        return entity in self._paths

    def of(self, entity: str, limit: int) -> list[str]:
        """The first ``limit`` images of an entity that can be opened, as data URLs."""
        paths = self._paths.get(entity, [])[:limit]
        return [url for url in map(self._small, paths) if url]


def _small(root: Path, path: str) -> str | None:
    image = open_or_none(root, path)
    return None if image is None else data_url(shrunk(image, SIDE), "jpeg")
