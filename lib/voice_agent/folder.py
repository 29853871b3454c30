"""The files of a folder, in an order that is the same everywhere. Reads names, no content.

Flat in memory: of each folder on the way down only the sorted names are held, so a folder with
100,000 files takes about 10 MB, however much lies beside and below it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from voice_agent.extraction import SUFFIXES

__all__ = ["Entry", "relative_name", "walk"]


@dataclass(frozen=True)
class Entry:
    """A file of the folder, or what stands where one could be."""

    path: str
    size_bytes: int = 0
    problem: str = ""
    """Why it cannot be imported, as far as its name and kind tell; "" if it can."""

    @property
    def suffix(self) -> str:
        """The end of its name in lower case, with its dot; "" without one."""
        return Path(self.path).suffix.lower()


def walk(folder: Path) -> Iterator[Entry]:
    """Yield every file below a folder, sorted by name within each folder, folders in their place.

    Names that begin with a dot are not looked at. Symbolic links are not followed, so that a loop
    ends and nothing outside of the folder is read; they are yielded with that as their problem,
    as are folders that cannot be listed and what is no regular file.
    """
    stack = [_names(str(folder))]
    while stack:
        entry = next(stack[-1], None)
        if entry is None:
            stack.pop()
        elif isinstance(entry, Entry):
            yield entry
        else:
            stack.append(_names(entry))


def _names(folder: str) -> Iterator[Entry | str]:
    """Yield the entries of one folder; a folder in it as its path."""
    try:
        names = sorted(os.listdir(folder), key=os.fsencode)  # noqa: PTH208 (names alone are small)
    except OSError as error:
        yield Entry(folder, problem=f"is a folder that cannot be read: {_reason(error)}")
        return
    for name in names:
        if not name.startswith("."):
            yield _entry(os.path.join(folder, name))  # noqa: PTH118 (100,000 paths cost)


def _entry(path: str) -> Entry | str:
    try:
        status = os.lstat(path)
    except OSError as error:
        return Entry(path, problem=f"cannot be read: {_reason(error)}")
    if stat.S_ISDIR(status.st_mode):
        return path
    if stat.S_ISLNK(status.st_mode):
        return Entry(path, problem="is a symbolic link, and links are not followed")
    if not stat.S_ISREG(status.st_mode):
        return Entry(path, problem="is no regular file")
    if Path(path).suffix.lower() not in SUFFIXES:
        return Entry(path, status.st_size, "is of a kind that is not imported")
    return Entry(path, status.st_size)


def _reason(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()


def relative_name(path: str, folder: Path) -> str:
    """Return a path within the folder for a table; bytes that are no UTF-8 are escaped."""
    name = os.path.relpath(path, folder)
    return os.fsencode(name).decode("utf-8", "backslashreplace")
