"""Writing so that a killed process never leaves half a file, and two never collide."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from caption_cache.errors import InputError

_log = logging.getLogger(__name__)
_UMASK = os.umask(0)  # it cannot be read without being set
os.umask(_UMASK)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path beside ``path`` to write to, and rename it over ``path`` on success.

    A file is flushed to the disk before the rename, so after a power cut ``path`` holds
    either the old content or the new, never a part. A folder that is there is renamed first and
    deleted last: a process that is killed between two renames leaves it whole beside ``path``.
    When the body raises, what was written aside is removed and ``path`` stays as it was. Files
    that a library wrote for their owner alone are made as readable as any new file, but what is
    linked (`link_or_copy`): its permissions are its owner's.

    Raises:
        OSError: The folder cannot be written, or the disk is full.
    """
    if not path.name:
        raise OSError(errno.EBUSY, "the folder you are in; name one in it", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    # The process id keeps two processes that write the same target apart; one that was killed may
    # have had ours, in a container.
    aside = path.with_name(f".{path.name}.{os.getpid()}.aside")
    _remove(aside)
    try:
        yield aside
        for written in (aside, *aside.rglob("*")):
            if written.is_file() and (about := written.stat()).st_nlink == 1:
                written.chmod(about.st_mode | (0o666 & ~_UMASK))
        if aside.is_file():
            with aside.open("rb") as file:
                os.fsync(file.fileno())
        if aside.is_dir() and path.is_dir():
            old = path.with_name(f".{path.name}.{os.getpid()}.old")
            _remove(old)
            path.replace(old)
            aside.replace(path)
            shutil.rmtree(old)
        else:
            aside.replace(path)
    finally:
        _remove(aside)


def _remove(path: Path) -> None:
    """Remove a file, a link or a whole folder, or nothing."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def locked(path: Path, *, exclusive: bool, wait: bool) -> Iterator[Callable[[], None]]:
    """Hold a lock, shared or exclusive; it ends with the process, however that ends.

    Args:
        path: The file that stands for the lock; it is made when absent, and stays.
        exclusive: Whether nobody else may hold it, not even shared.
        wait: Whether to wait, with a notice, while another process is in the way.

    Yields:
        A function that makes an exclusive lock a shared one.

    Raises:
        BlockingIOError: Another process is in the way, and ``wait`` is false.
        OSError: The file cannot be made or opened.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                raise
            _log.warning("Another process is at work in %s; waiting until it ends.", path.parent)
            fcntl.flock(handle, kind)
        yield lambda: fcntl.flock(handle, fcntl.LOCK_SH)
    finally:
        os.close(handle)


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """A second name for a file, or a copy where the disk has no such thing.

    Raises:
        FileExistsError: ``target`` is there already.
        InputError: ``source`` is a link to no file.
        OSError: It cannot be written.
    """
    source = Path(source)
    if not source.exists():
        raise InputError(f"{source} is a link that leads nowhere; mend it or take it away.")
    try:
        os.link(source.resolve(), target)  # of a link, the file
    except FileExistsError:
        raise
    except OSError:
        shutil.copyfile(source, target)


def cannot_write(path: Path, error: OSError) -> InputError:
    """The sentence for a file that could not be written, to be raised."""
    return InputError(f"{path} cannot be written ({error.strerror or error}); make room or check "
                      "the permissions, then run the command again.")
