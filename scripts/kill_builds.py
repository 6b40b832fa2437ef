"""Kills a build of two processes again and again, and counts what that cost.

Each round starts both processes of a build and kills both with SIGKILL, either at a random call
of the operating system (so also between writing and renaming) or at a random time after a random
batch. At the end a build is let through, and the store is held against the images.
"""

from __future__ import annotations

import os
import random
import select
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch.distributed  # noqa: F401  loaded before forking, once for all rounds
from bench_common import bench_parser, finish
from PIL import Image

from caption_cache.build import build
from caption_cache.captioners import Request
from caption_cache.captioners.palette import PaletteCaptioner, describe
from caption_cache.store import Store, read_part
from caption_cache.verify import verify

COUNT = 2
"""Processes of each build."""
BATCH = 2
"""Texts a process writes at once."""


class Watched(PaletteCaptioner):
    """Notes every text it is asked for, and tells by a byte that a batch begins."""

    batch_size = BATCH

    def __init__(self, log: Path, tell: int) -> None:
        self._log = log
        self._tell = tell

    def caption(self, requests: Sequence[Request]) -> list[str]:
        with self._log.open("a") as file:
            file.write("asked\n" * len(requests))
        os.write(self._tell, b".")
        return super().caption(requests)


def make_dataset(folder: Path, images: int) -> None:
    """Different small images of as many entities, old enough to be remembered."""
    (folder / "entities.tsv").write_text(
        "id\tname\n" + "".join(f"e{i}\tEntity {i}\n" for i in range(images)))
    lots = np.random.default_rng(0)
    for i in range(images):
        path = folder / f"images/e{i}/a.png"
        path.parent.mkdir(parents=True)
        blocks = lots.integers(0, 256, (2, 3, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        Image.fromarray(blocks).save(path)
        os.utime(path, (1e9, 1e9))


def start(
    dataset: Path, log: Path, steps: Sequence[int], *, quiet: bool
) -> tuple[list[int], int]:
    """Fork the processes of a build.

    Args:
        dataset: The data-set folder.
        log: Where they note what they ask.
        steps: For each process, after how many calls that open or rename a file it kills itself;
            0 for never.
        quiet: Whether nothing is said on standard error.

    Returns:
        Their ids, and a pipe that gets a byte for every batch.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    hear, tell = os.pipe()
    processes = []
    for rank, left in enumerate(steps):
        process = os.fork()
        if process == 0:
            os.close(hear)
            os.environ.update(RANK=str(rank), WORLD_SIZE=str(COUNT), MASTER_ADDR="127.0.0.1",
                              MASTER_PORT=str(port))
            _run(dataset, Watched(log, tell), left, quiet=quiet)
        processes.append(process)
    os.close(tell)
    return processes, hear


def _run(dataset: Path, captioner: Watched, left: int, *, quiet: bool) -> None:
    """Build in this process, and end it."""
    remaining = left

    def step(event: str, arguments: object) -> None:
        nonlocal remaining
        if event in ("open", "os.rename"):
            remaining -= 1
            if remaining == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    if quiet:  # what survivors say of the others' end is no news here
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    if left:
        sys.addaudithook(step)
    try:
        build(dataset, captioner, show_progress=False)
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
        os._exit(1)
    os._exit(0)


def attack(dataset: Path, log: Path, chance: random.Random) -> int:
    """One round; gives how many processes a SIGKILL ended."""
    by_calls = chance.random() < 0.5
    steps = [chance.randrange(1, 120) if by_calls else 0 for _ in range(COUNT)]
    processes, hear = start(dataset, log, steps, quiet=True)
    if not by_calls:
        for _ in range(chance.randrange(10)):
            os.read(hear, 1)
        time.sleep(chance.uniform(0, 0.02))
        for process in chance.sample(processes, COUNT):
            os.kill(process, signal.SIGKILL)
            time.sleep(chance.uniform(0, 0.005))
        codes = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]
        os.close(hear)
        return codes.count(-signal.SIGKILL)
    # The launcher kills the others when one has died; until then they go on.
    first, status = os.wait()
    select.select([hear], [], [], chance.uniform(0, 0.02))
    codes = [os.waitstatus_to_exitcode(status)]
    for process in processes:
        if process != first:
            os.kill(process, signal.SIGKILL)
            codes.append(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
    os.close(hear)
    return codes.count(-signal.SIGKILL)


def main() -> int:
    """Run the rounds, print the result as JSON; 1 when something was lost, doubled or damaged."""
    parser = bench_parser("kill_builds", __doc__)
    parser.add_argument("--rounds", type=int, default=50, help="how often to kill the build")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.images = 5, 100
    chance = random.Random(options.seed)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as top:
        dataset, log = Path(top) / "data", Path(top) / "asked"
        dataset.mkdir()
        log.touch()
        make_dataset(dataset, options.images)
        kills = sum(attack(dataset, log, chance) for _ in range(options.rounds))
        asked_by_then = len(log.read_text().splitlines())
        processes, hear = start(dataset, log, [0] * COUNT, quiet=False)
        codes = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]
        os.close(hear)
        # From here on this process may use Arrow, whose threads would not survive a fork.
        asked = len(log.read_text().splitlines())
        result = examine(dataset, options.images, asked, kills)
    result |= {"rounds": options.rounds, "processes": COUNT,
               "asked_by_the_last_build": asked - asked_by_then,
               "last_exit_codes": codes, "seconds": round(time.perf_counter() - began, 1)}
    # A build that is done is not interrupted: the last must have had something to do.
    result["ok"] = bool(result["ok"]) and codes == [0] * COUNT and asked > asked_by_then
    finish(result, {"redone_over_allowed": float(asked - options.images) / (kills * BATCH)},
           ["pyarrow"], options.out)
    return 0 if result["ok"] else 1


def examine(dataset: Path, images: int, asked: int, kills: int) -> dict[str, object]:
    """Hold the store against the images."""
    store = Store(dataset)
    unreadable = 0
    rows: Counter[str] = Counter()
    wrong = 0
    for part in store.parts:
        try:
            table = read_part(part)
        except Exception:
            unreadable += 1
            continue
        for row in table.to_pylist():
            rows[row["entity"]] += 1
            with Image.open(dataset / row["images"][0]) as image:
                wrong += row["text"] != describe(image.convert("RGB"))
    checked, findings = verify(dataset)
    redone = asked - images
    found: dict[str, object] = {
        "images": images, "batch": BATCH, "kills": kills, "texts_asked_for": asked,
        "texts_redone": redone, "most_redone_allowed": kills * BATCH,
        "lost": images - len(rows), "doubled": sum(count > 1 for count in rows.values()),
        "wrong_texts": wrong, "unreadable_parts": unreadable, "rows_checked": checked,
        "problems_found_by_verify": len(findings)}
    found["ok"] = bool(redone <= kills * BATCH and kills > 0 and checked == images and not any(
        found[name] for name in ("lost", "doubled", "wrong_texts", "unreadable_parts",
                                 "problems_found_by_verify")))
    return found


if __name__ == "__main__":
    sys.exit(main())
