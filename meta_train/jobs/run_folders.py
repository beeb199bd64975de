"""Run folders: new ones get a name of their own, and one job at a time uses a folder."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LOCK = ".lock"


def claim_folder(name: str) -> Path:
    """Create a folder under runs/ whose name is the time and `name`."""
    base = Path("runs") / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{name}"
    folder, count = base, 1
    while True:
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            count += 1
            folder = base.with_name(f"{base.name}_{count}")
        else:
            return folder


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a folder, which is created if need be, so that no other job writes into it.

    The lock ends with the process, however it ends. There is none on Windows, and on file systems
    that cannot lock.

    Raises:
        FileExistsError: another job uses the folder, or it is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file: give a folder as --out")
    created = not folder.exists()
    lock = _open_lock(folder / LOCK)
    try:
        yield
    finally:
        (folder / LOCK).unlink(missing_ok=True)  # Before it is released: see `_open_lock`.
        os.close(lock)
        if created:
            remove_if_empty(folder)


def remove_if_empty(folder: Path) -> None:
    """Remove the folder of a refused job, and an empty runs/ that it was made in."""
    with suppress(OSError):  # It holds something, or another process removed it.
        folder.rmdir()
        if folder.parent == Path("runs"):
            folder.parent.rmdir()


def _open_lock(path: Path) -> int:
    """Open and lock a file, and create its folder; the lock ends when the file is closed."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # Another job has just ended and removed the empty folder.
            continue
        try:
            _lock(lock)
        except BlockingIOError:
            os.close(lock)
            raise FileExistsError(
                f"another job is using {path.parent}: choose another --out, or wait until it ends"
            ) from None
        # The job that held the lock may have deleted this file after it was opened here.
        if path.exists() and os.path.samestat(os.fstat(lock), path.stat()):
            return lock
        os.close(lock)


def _lock(file: int) -> None:
    if sys.platform != "win32":
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:  # The file system has no locks.
            return
