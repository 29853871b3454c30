"""A dump's data files as zstd, beside the programs that know plain files only. Layer 1: files.

pg_dump and pg_restore of most packages have no zstd. `Compressor` follows the plain files that a
running pg_dump writes and turns each into ``NAME.zst``; `Feeder` shows a running pg_restore a
folder in which each such file is a named pipe with its plain text. The compressed files are
ordinary zstd frames with checksums: ``zstd -d --rm *.zst`` makes the folder a plain dump again.

Threads do the work: zstandard, hashlib and os release the interpreter's lock meanwhile.

Source of the choice: 1.36 GB of plain text on 2 cores that others kept busy (load 11), seconds of
single runs, so that only their order tells: ``pg_dump > file`` 25.1 and 29.1; ``pg_dump | zstd -1``
in one stream, which cannot be restored in parallel, 45.8; this, with two jobs, 27.7 and 41.3, with
one 35.0, each 376 MB; zstd level -1 38.6, but 583 MB. tests/benchmarks/backups.py measures anew.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO

import zstandard

from playbook.unfinished import unfinished_folder

__all__ = ["SUFFIX", "Compressor", "Feeder", "check_frames", "is_data_file", "names_zstd"]

SUFFIX = ".zst"
ZSTD = 3
"""pg_dump's number for the method (pg_compress_algorithm)."""
CHUNK = 1 << 20
BLOCK = 1 << 16
"""A multiple of the blocks of usual file systems."""
READ_BYTES = 8 * 1024
"""Of a compressed file at a time: of zeros, that is up to 100 MB of plain text."""
MAX_READERS = 16
FOLLOWED = 4
"""Files that are followed at a time where there is one writer: of those made within one tick of the
kernel's clock it is not known which are complete; one that waits must not keep up the others."""
POLL_S = 0.01
FEEDER_STEM = "playbook-restore-"
PIPE_BYTES = 1 << 20
"""The default limit of an ordinary user's pipes (/proc/sys/fs/pipe-max-size)."""
SMALL_BYTES = 64 * 1024
"""A compressed file below this is given to pg_restore as a plain file instead of a pipe: a dump
may hold one for each of many thousand large objects."""


def is_data_file(name: str) -> bool:
    """Say whether a file of a directory-format dump holds data: not a table of contents.

    Source: pg_backup_directory.c: toc.dat, ``N.dat`` per table, ``blob_OID.dat`` per large object
    and ``blobs*.toc``; the tables of contents are never compressed.
    """
    return name.endswith(".dat") and name != "toc.dat"


class Compressor:
    """Turns the data files that a running program writes into zstd files, as they grow.

    **Effects**: each complete plain file is replaced by ``NAME.zst``, flushed to the disk. Where
    the file system can, the plain text is freed as soon as it is read, so that little of it is
    ever on the disk.

    Args:
        directory: what the program writes into; it need not exist yet.
        level: zstd's, -7 to 19.
        writers: how many files the program writes at a time.
    """

    def __init__(self, directory: Path, *, level: int, writers: int) -> None:
        self.plain_bytes = 0
        self._directory = directory
        self._level = level
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
        compressor = zstandard.ZstdCompressor(self._level, write_checksum=True).compressobj()
        packed = path.with_name(path.name + SUFFIX)
        with path.open("r+b", buffering=0) as plain, packed.open("xb") as out:
            for chunk in self._chunks(path.name, plain):
                out.write(compressor.compress(chunk))
            if self._stopped.is_set():
                return
            out.write(compressor.flush())
            out.flush()
            os.fsync(out.fileno())
        path.unlink()

    def _chunks(self, name: str, plain: BinaryIO) -> Iterator[bytes]:
        """Yield a growing file's text until it is complete, freeing what was read."""
        offset = freed = 0
        while not self._stopped.is_set():
            # Asked before reading: what was written before the end was told is then read too.
            last = self._ended.is_set() or name in self._complete
            chunk = plain.read(CHUNK)
            if chunk:
                yield chunk
                with self._lock:
                    self.plain_bytes += len(chunk)
                offset += len(chunk)
                if offset - freed >= CHUNK:  # whole blocks only: parts of one are not freed
                    whole = offset - offset % BLOCK
                    _free(plain.fileno(), freed, whole - freed)
                    freed = whole
            elif last:
                return
            else:
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


def plain_chunks(path: Path) -> Iterator[bytes]:
    """Yield the plain text of a zstd file, about `READ_BYTES` of the file at a time.

    Raises:
        ValueError: the file is damaged or ends too early.
    """
    decompressor = zstandard.ZstdDecompressor().decompressobj()
    try:
        with path.open("rb", buffering=CHUNK) as packed:
            while data := packed.read(READ_BYTES):
                if decompressor.eof:
                    decompressor = zstandard.ZstdDecompressor().decompressobj()
                yield decompressor.decompress(data)
                # What follows a frame's end is another frame: `zstd` itself writes several.
                while decompressor.eof and (rest := decompressor.unused_data):
                    decompressor = zstandard.ZstdDecompressor().decompressobj()
                    yield decompressor.decompress(rest)
    except zstandard.ZstdError as error:
        raise ValueError(f"{path.name} is damaged: {error}") from error
    if not decompressor.eof and not _is_empty_object(path):
        raise ValueError(f"{path.name} ends too early")


def _is_empty_object(path: Path) -> bool:
    """Say whether a file is empty as it should be.

    Where pg_dump has zstd itself, it writes no frame for a large object without content.
    """
    if path.stat().st_size:
        return False
    with path.with_name("toc.dat").open("rb") as file:
        return names_zstd(file.read(METHOD_AT + 1))


def check_frames(paths: Iterable[Path]) -> int:
    """Decompress zstd files to their ends, several at a time, and return the size of their text.

    Raises:
        OSError: a file cannot be read.
        ValueError: a file is damaged or ends too early; it is named.
    """
    # The largest first: of one file the text can be read by one thread only.
    largest_first = sorted(paths, key=lambda path: -path.stat().st_size)
    with ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="unzstd") as pool:
        return sum(pool.map(_plain_size, largest_first))


def _plain_size(path: Path) -> int:
    return sum(len(chunk) for chunk in plain_chunks(path))


class Feeder:
    """Shows a program the plain text of a folder's zstd files, each through a named pipe.

    The folder it makes is for this user only and holds no data but that of small files. One that a
    killed process has left is removed by the next.
    """

    def __init__(self, directory: Path) -> None:
        self.directory: Path
        self._folder = ExitStack()
        self.plain_bytes = 0
        self.failure: Exception | None = None
        self._source = directory
        self._waiting: dict[Path, Path] = {}
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(MAX_READERS, thread_name_prefix="unzstd")
        self._opener = threading.Thread(target=self._open_pipes, name="pipes", daemon=True)

    def __enter__(self) -> Feeder:
        """Make the folder, fill it and begin to serve it."""
        temporary = Path(tempfile.gettempdir())
        with ExitStack() as folder:
            self.directory = folder.enter_context(unfinished_folder(temporary, FEEDER_STEM))
            for path in sorted(self._source.iterdir()):
                self._offer(path)
            self._folder = folder.pop_all()
        self._opener.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End all threads and remove the folder; the program that read it must have ended."""
        self._stopped.set()
        self._opener.join()
        self._pool.shutdown(cancel_futures=True)
        self._folder.close()

    @property
    def pipes(self) -> bool:
        """Whether there are pipes that nobody has opened yet."""
        return bool(self._waiting)

    def unpack(self) -> None:
        """Put plain files in the place of the pipes: for a program that takes none.

        Raises:
            OSError: there is no room.
            ValueError: a file is damaged.
        """
        self._stopped.set()
        self._opener.join()
        for pipe, path in self._waiting.items():
            pipe.unlink()
            with pipe.open("xb") as file:
                file.writelines(plain_chunks(path))
        self._waiting = {}

    def _offer(self, path: Path) -> None:
        plain = self.directory / path.name.removesuffix(SUFFIX)
        if path.name == "toc.dat":
            plain.write_bytes(_of_plain_files(path.read_bytes()))
        elif path.suffix != SUFFIX:  # pg_restore 17.12 refuses a link
            plain.write_bytes(path.read_bytes())
        elif path.stat().st_size < SMALL_BYTES:
            with plain.open("xb") as file:
                file.writelines(plain_chunks(path))
        else:
            os.mkfifo(plain, 0o600)
            self._waiting[plain] = path

    def _open_pipes(self) -> None:
        """Begin to write into each pipe as soon as the program opens it; never wait for one."""
        while self._waiting and not self._stopped.is_set():
            for pipe in list(self._waiting):
                with suppress(OSError):  # ENXIO: nobody reads it yet
                    descriptor = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
                    self._pool.submit(self._feed, self._waiting.pop(pipe), descriptor)
            self._stopped.wait(POLL_S)

    def _feed(self, path: Path, descriptor: int) -> None:
        """Write a file's plain text into a pipe; its reader's end ends this too."""
        os.set_blocking(descriptor, True)
        with suppress(OSError, AttributeError):  # a smaller limit, or not Linux
            fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        try:
            with open(descriptor, "wb", buffering=0) as pipe:
                for chunk in plain_chunks(path):
                    _write_all(pipe, chunk)
                    with self._lock:
                        self.plain_bytes += len(chunk)
        except BrokenPipeError:
            return  # the program has failed, and says why by itself
        except (OSError, ValueError) as error:
            self.failure = error


METHOD_AT = 11
"""Of an archive's head: ``PGDMP``, version (3 bytes), size of int and offset, format, method."""


def _of_plain_files(head: bytes) -> bytes:
    """Return a table of contents that names no compression, where pg_dump itself has compressed.

    A pg_restore without that method would refuse it, though it is given plain files.

    Source: WriteHead and ReadHead in src/bin/pg_dump/pg_backup_archiver.c; the method is there
    from archive version 1.15 (pg_dump 16) on, and only such a pg_dump has zstd.
    """
    if not names_zstd(head):
        return head
    return head[:METHOD_AT] + b"\0" + head[METHOD_AT + 1 :]


def names_zstd(head: bytes) -> bool:
    """Say whether the beginning of a ``toc.dat`` tells that pg_dump itself compressed by zstd."""
    return head[:5] == b"PGDMP" and head[5:7] >= b"\x01\x0f" and head[METHOD_AT] == ZSTD


def _write_all(pipe: BinaryIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[pipe.write(view) :]
