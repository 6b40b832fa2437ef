"""Work done ahead in threads, its results in order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def prefetch(
    function: Callable[[T], R], items: Iterable[T], ahead: int, threads: int | None = None
) -> Generator[R, None, None]:
    """Map ``function`` over ``items`` in threads, at most ``ahead`` items before the consumer.

    Reading files, hashing and decoding images release Python's lock, so they overlap with one
    another and with what the consumer does. Memory holds ``ahead`` results, not all of them.

    Args:
        function: Must not depend on what the consumer does; in several threads at once, unless
            ``threads`` is 1.
        items: In this order the results come.
        ahead: So many results wait at most.
        threads: How many; None: as many as the machine has cores.
    """
    pool = ThreadPoolExecutor(threads or os.cpu_count())
    pending: deque[Future[R]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
