"""Watches every process's command line while something runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

EVERY_S = 0.02


@contextmanager
def watched_processes() -> Iterator[set[bytes]]:
    """Yield the set of all command lines seen so far; it grows while the block runs."""
    seen: set[bytes] = set()
    over = Event()
    watcher = Thread(target=_watch, args=(seen, over), daemon=True)
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()


def _watch(seen: set[bytes], over: Event) -> None:
    while not over.wait(EVERY_S):
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                seen.add(_command_line(folder / "cmdline"))


def _command_line(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # the process has just ended
        return b""
