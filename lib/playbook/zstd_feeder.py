"""A dump's zstd files as pipes of plain text, for a running pg_restore. Layer 1: files.

pg_restore of most packages has no zstd. `Feeder` shows it a folder in which each compressed file is
a named pipe. Threads do the work: zstandard and os release the interpreter's lock meanwhile.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

from playbook.archive_toc import of_plain_files, with_frozen_rows
from playbook.unfinished import unfinished_folder
from playbook.zstd_frames import SUFFIX, plain_chunks, write_all

__all__ = ["Feeder"]

MAX_READERS = 16
POLL_S = 0.01
STEM = "playbook-restore-"
PIPE_BYTES = 1 << 20
"""The default limit of an ordinary user's pipes (/proc/sys/fs/pipe-max-size)."""
SMALL_BYTES = 64 * 1024
"""A compressed file below this is given to pg_restore as a plain file instead of a pipe: a dump
may hold one for each of many thousand large objects."""


class Feeder:
    """Shows a program the plain text of a folder's zstd files, each through a named pipe.

    The folder it makes is for this user only and holds no data but that of small files. One that a
    killed process has left is removed by the next.

    Args:
        directory: the dump.
        frozen: have the rows loaded by COPY FREEZE (`playbook.archive_toc.with_frozen_rows`).
    """

    def __init__(self, directory: Path, *, frozen: bool = False) -> None:
        self.directory: Path
        self._folder = ExitStack()
        self.plain_bytes = 0
        self.failure: Exception | None = None
        self._source = directory
        self._frozen = frozen
        self._waiting: dict[Path, Path] = {}
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(MAX_READERS, thread_name_prefix="unzstd")
        self._opener = threading.Thread(target=self._open_pipes, name="pipes", daemon=True)

    def __enter__(self) -> Feeder:
        """Make the folder, fill it and begin to serve it."""
        temporary = Path(tempfile.gettempdir())
        with ExitStack() as folder:
            self.directory = folder.enter_context(unfinished_folder(temporary, STEM))
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
            toc = of_plain_files(path.read_bytes())
            plain.write_bytes(with_frozen_rows(toc) if self._frozen else toc)
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
                    write_all(pipe, chunk)
                    with self._lock:
                        self.plain_bytes += len(chunk)
        except BrokenPipeError:
            return  # the program has failed, and says why by itself
        except (OSError, ValueError) as error:
            self.failure = error
