"""A running pg_dump's data files, while they grow: rows told, text as zstd. Layer 1: files.

pg_dump of most packages has no zstd. `Compressor` follows the plain files that it writes and turns
each into ``NAME.zst`` (`playbook.zstd_frames`); ``zstd -d --rm *.zst`` makes the folder a plain
dump again. Threads do the work: zstandard and os release the interpreter's lock meanwhile.
What a table's file holds is told as it passes (`playbook.row_texts`).

Source of the choice: ``pg_dump | zstd`` makes one stream, which cannot be restored in parallel, and
took longer than this with two jobs (tests/benchmarks/backups.py measures anew).
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from io import FileIO
from pathlib import Path
from queue import LifoQueue

from zstandard import ZstdCompressor

from playbook.row_texts import RowReader, RowTexts
from playbook.zstd_frames import FRAME_BYTES, SUFFIX, frame_compressor, write_all

__all__ = ["Compressor", "is_data_file"]

FOLLOWED = 4
"""Files that are followed at a time where there is one writer: of those made within one tick of the
kernel's clock it is not known which are complete; one that waits must not keep up the others."""
POLL_S = 0.01


def is_data_file(name: str) -> bool:
    """Say whether a file of a directory-format dump holds data: not a table of contents.

    Source: pg_backup_directory.c: toc.dat, ``N.dat`` per table, ``blob_OID.dat`` per large object
    and ``blobs*.toc``; the tables of contents are never compressed.
    """
    return name.endswith(".dat") and name != "toc.dat"


def is_table_file(name: str) -> bool:
    """Say whether a data file holds a table's rows: ``N.dat``, as `is_data_file` says."""
    return name.removesuffix(".dat").isdigit()


class Compressor:
    """Turns the data files that a running program writes into zstd files, as they grow.

    **Effects**: each complete plain file is replaced by ``NAME.zst``, flushed to the disk. Where
    the file system can, the plain text is freed as soon as it is read, so that little of it is
    ever on the disk.

    Args:
        directory: what the program writes into; it need not exist yet.
        level: zstd's, -7 to 19; None keeps nothing of the data: it is only read.
        writers: how many files the program writes at a time.
    """

    def __init__(self, directory: Path, *, level: int | None, writers: int) -> None:
        self.plain_bytes = 0
        self.texts: dict[str, RowTexts] = {}
        """What each table's plain file held, by its name; those that are complete."""
        self._keeps = level is not None
        self._directory = directory
        self._idle: LifoQueue[ZstdCompressor] = LifoQueue()
        if level is not None:
            for _ in range(os.cpu_count() or 1):
                self._idle.put(frame_compressor(level))
        self._writers = writers
        self._seen: dict[str, Future[None]] = {}
        self._written_ns: dict[str, int] = {}
        self._complete: set[str] = set()
        self._ended = threading.Event()
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(max(writers, FOLLOWED), thread_name_prefix="zstd")

    def look(self, complete: Iterable[str] = ()) -> None:
        """Take up files that are new; to be called often.

        Args:
            complete: names of files that the program says it has finished.

        Raises:
            OSError: a file could not be written.
            ValueError: a table's file does not end as pg_dump ends one; it is named.
        """
        self._complete.update(complete)
        new = self._new_files()
        self._complete.update(self._left_behind(new))
        for name in new:
            self._seen[name] = self._pool.submit(self._pack, self._directory / name)
        for job in [job for job in self._seen.values() if job.done()]:
            job.result()

    def finish(self) -> None:
        """Compress what is left after the program has ended, and flush the folder to the disk.

        Raises:
            OSError: a file could not be written.
            ValueError: a table's file does not end as pg_dump ends one; it is named.
        """
        self._ended.set()
        self.look()
        for job in self._seen.values():
            job.result()
        _flush(self._directory)

    def stop(self) -> None:
        """End all work, leaving files as they are."""
        self._stopped.set()
        self._pool.shutdown(cancel_futures=True)

    def _new_files(self) -> list[str]:
        """Return the data files that were not seen before, the longest unchanged first.

        With several writers pg_dump never says that a large object is done: those are left for the
        end, as following each of them would keep the threads from the tables.
        """
        if not self._directory.is_dir():
            return []
        with os.scandir(self._directory) as entries:
            new = [e for e in entries if e.name not in self._seen and is_data_file(e.name)]
        if self._writers > 1 and not self._ended.is_set():
            new = [e for e in new if not e.name.startswith("blob_")]
        written = {entry.name: entry.stat().st_mtime_ns for entry in new}
        self._written_ns |= written
        return sorted(written, key=written.__getitem__)

    def _left_behind(self, new: Sequence[str]) -> set[str]:
        """Return the files that a single writer has closed, as it has begun a later one.

        It makes one after the other, so an older file's time is not after a younger one's. Of two
        with the same time (the kernel's clock ticks each 1 to 10 ms) nobody knows which is open.
        """
        if self._writers > 1 or not new:
            return set()
        youngest = self._written_ns[new[-1]]
        return {n for n, at in self._written_ns.items() if at < youngest} - self._complete

    def _pack(self, path: Path) -> None:
        reader = RowReader() if is_table_file(path.name) else None
        with path.open("r+b", buffering=0) as plain, self._output(path) as out:
            for text in self._frames(path.name, plain):
                if out:
                    write_all(out, self._compressed(text))
                if reader:
                    reader.add(text)
            if self._stopped.is_set():
                return
            if out:
                write_all(out, self._compressed(b""))
                os.fsync(out.fileno())
        if reader:
            try:
                self.texts[path.name] = reader.result()
            except ValueError as error:
                raise ValueError(f"{path.name} is not complete: {error}") from error
        path.unlink()

    def _output(self, path: Path) -> AbstractContextManager[FileIO | None]:
        packed = path.with_name(path.name + SUFFIX)
        return packed.open("xb", buffering=0) if self._keeps else nullcontext()

    def _compressed(self, text: memoryview | bytes) -> bytes:
        """Return a frame; as many at a time as there are cores, since each takes some memory."""
        compressor = self._idle.get()
        try:
            return compressor.compress(text)
        finally:
            self._idle.put(compressor)

    def _frames(self, name: str, plain: FileIO) -> Iterator[memoryview]:
        """Yield a growing file's text until it is complete, freeing what was read."""
        text = memoryview(bytearray(FRAME_BYTES))
        offset = size = 0
        while not self._stopped.is_set():
            # Asked before reading: what was written before the end was told is then read too.
            last = self._ended.is_set() or name in self._complete
            read = plain.readinto(text[size:])
            with self._lock:
                self.plain_bytes += read
            size += read
            at_end = last and not read
            if size == FRAME_BYTES or (size and at_end):
                yield text[:size]
                _free(plain.fileno(), offset, size)
                offset, size = offset + size, 0
            if at_end:
                return
            if not read:
                time.sleep(POLL_S)


def _flush(directory: Path) -> None:
    """Flush to the disk the tables of contents and the folder."""
    for path in (*directory.glob("*toc*"), directory):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@cache
def _fallocate() -> Callable[[int, int, int, int], int] | None:
    """Return Linux's fallocate(2), which Python does not offer with its flags; None elsewhere."""
    if not sys.platform.startswith("linux"):
        return None
    function = getattr(ctypes.CDLL(None, use_errno=True), "fallocate64", None)
    if function is not None:
        function.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    return function


PUNCH_HOLE_KEEP_SIZE = 0x02 | 0x01


def _free(descriptor: int, offset: int, length: int) -> None:
    """Free a part of a file that another process goes on appending to, where that is possible.

    A file system that cannot keeps the text until the whole file is removed.
    """
    function = _fallocate()
    if function is not None:
        function(descriptor, PUNCH_HOLE_KEEP_SIZE, offset, length)
