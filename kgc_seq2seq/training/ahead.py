"""Batches are made while the model computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def ahead(make: Callable[[int], T], steps: Sequence[int], depth: int = 2) -> Iterator[T]:
    """Call ``make`` on every step, in order, in a thread that is ``depth`` steps ahead.

    For a model on an accelerator: the interpreter is free while it computes.

    Args:
        make: Must not depend on what happens between the steps.
        steps: The steps.
        depth: So many results wait at most.
    """
    with ThreadPoolExecutor(1, "ahead") as pool:
        waiting: deque[Future[T]] = deque()
        for step in steps:
            waiting.append(pool.submit(make, step))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
