"""Folders that are not finished yet, and those that killed processes have left. Layer 1: files.

Whoever makes such a folder holds a lock on a file in it, which ends with the process however that
ends. What nobody holds is of a process that is no more, and the next one removes it first.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from uuid import uuid4

__all__ = ["sweep_folders", "unfinished_folder", "unmark_folder"]

LOCK = ".lock"
PARTIAL = ".partial"


@contextmanager
def unfinished_folder(parent: Path, stem: str = "") -> Iterator[Path]:
    """Make a folder, mode 0700, that is removed at the end unless it was given another name.

    Whoever gives it one takes its mark off first (`unmark_folder`). What killed processes have
    left beside it is removed before.

    Args:
        stem: what the folder's name begins with, after a dot: in a parent that others use too.
    """
    sweep_folders(parent, stem)
    new = parent / f".{stem}{uuid4().hex}.new"
    new.mkdir(mode=0o700)
    partial = new.with_suffix(PARTIAL)
    with (new / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        new.rename(partial)  # under its name it is never seen without its lock
        try:
            yield partial
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def unmark_folder(partial: Path) -> None:
    """Take the lock's file out of a folder that is finished; nobody sweeps one without it."""
    (partial / LOCK).unlink()


def sweep_folders(parent: Path, stem: str = "") -> None:
    """Remove unfinished folders whose makers are gone.

    Those without a lock's file stay, and those that another user made.
    """
    for partial in parent.glob(f".{stem}*{PARTIAL}"):
        not_ours = (FileNotFoundError, BlockingIOError, PermissionError)
        with suppress(*not_ours), FileIO(partial / LOCK, opener=_open_at_once) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(partial, ignore_errors=True)


def _open_at_once(path: str, flags: int) -> int:
    """Open a file, not waiting for a pipe's other end: in TMPDIR anybody may have made one."""
    return os.open(path, flags | os.O_NONBLOCK)
