"""The processes that build together, as ``accelerate launch`` or ``torchrun`` started them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

from caption_cache.errors import InputError

_LONGEST_BUILD = timedelta(days=30)


@dataclass(frozen=True)
class Processes:
    """This process among those that share a build."""

    rank: int = 0
    """The number of this process, ``0 … count - 1``."""
    count: int = 1
    """How many there are."""

    @classmethod
    def from_environment(cls) -> Processes:
        """Read ``RANK`` and ``WORLD_SIZE``, which the launchers set."""
        return cls(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))

    def owns(self, key: str) -> bool:
        """Whether this process writes the text of ``key``; of all processes exactly one does."""
        return int(key[:16], 16) % self.count == self.rank

    def wait(self) -> None:
        """Go on when all processes have come to this point.

        Raises:
            InputError: One of them has ended.
        """
        if self.count > 1:
            import torch.distributed

            try:
                if torch.distributed.get_backend() == "gloo":
                    torch.distributed.monitored_barrier(timeout=_LONGEST_BUILD)
                else:
                    torch.distributed.barrier()
            except RuntimeError:
                raise InputError("Another process of this build has ended; see what it said, then "
                                 "run the command again, which goes on from there.") from None

    @contextmanager
    def first_alone(self) -> Iterator[None]:
        """Let process 0 do something before the others do it, so that they find its result."""
        if self.rank > 0:
            self.wait()
        yield
        if self.rank == 0:
            self.wait()


@contextmanager
def joined() -> Iterator[Processes]:
    """Connect this process with the others; alone, it needs no torch."""
    processes = Processes.from_environment()
    if processes.count == 1:
        yield processes
        return
    import torch.distributed

    if torch.distributed.is_initialized():  # by the program that calls the build
        yield processes
        return
    # The time out is for meeting the others: a process whose launcher was killed must not linger.
    torch.distributed.init_process_group("gloo", timeout=timedelta(minutes=5))
    try:
        yield processes
    finally:
        torch.distributed.destroy_process_group()
