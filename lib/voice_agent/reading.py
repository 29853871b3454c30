"""Files to documents with their chunks, in worker processes that a hostile file cannot hold up.

Each file has a time limit, a memory limit and a size limit; a worker that passes one is ended and
replaced, and only its file is lost. Workers end with the process that began them. Order is kept
and few results are held at a time, so memory does not grow with the number of files.
"""

from __future__ import annotations

import hashlib
import logging
import multiprocessing
import os
import resource
import signal
import sys
import threading
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as TooLong
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from pebble import ProcessExpired, ProcessPool

from voice_agent.copy_format import copy_text
from voice_agent.extraction import Unreadable, extract
from voice_agent.tokenizers import TOKENIZERS

if TYPE_CHECKING:
    from semantic_text_splitter import MarkdownSplitter, TextSplitter

__all__ = [
    "Document",
    "Job",
    "Limits",
    "Skipped",
    "Splitting",
    "Unchanged",
    "read_all",
    "read_file",
]

AHEAD = 4
"""Files under way or read and not taken yet, per worker."""
MOST_BYTES_AHEAD = 64 << 20
"""Of files under way at once, unless a single one is larger."""
WORKER_BYTES = 2 << 30
"""Address space of a worker: beyond it a file is given up (Linux; macOS does not hold to it)."""
GRACE_S = 10
"""How much longer than its time limit a worker may compute if nobody is left to end it; s."""


@dataclass(frozen=True)
class Splitting:
    """How a text is split, and tokenized for which model."""

    size: int
    """The most characters that a chunk has."""
    overlap: int
    """About how many of them repeat the end of the chunk before."""
    model: str


@dataclass(frozen=True)
class Limits:
    """What a file may cost."""

    size_bytes: int
    time_s: float
    workers: int


@dataclass(frozen=True)
class Job:
    """A file to read."""

    path: str
    size_bytes: int
    known_sha256: tuple[str, ...] = ()
    """The hashes of the file as it was when it was imported from this path before."""


@dataclass(frozen=True)
class Document:
    """A file's text and its chunks."""

    path: str
    title: str
    media_type: str
    content: str
    content_sha256: str
    file_sha256: str
    file_bytes: int
    chunks: tuple[bytes, ...]
    """Per chunk, in order: its index, content and tokens as a line of COPY, without its end."""
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Unchanged:
    """A file that is the same as when it was imported."""

    path: str
    size_bytes: int


@dataclass(frozen=True)
class Skipped:
    """A file that was not imported, and why: a reason for ``NAME ...``."""

    path: str
    size_bytes: int
    reason: str


Read = Document | Unchanged | Skipped


def _read_within(job: Job, splitting: Splitting, limits: Limits) -> Read:
    """Read one file in a worker, which the system ends if its parent cannot any more."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    most = int(used.ru_utime + used.ru_stime + limits.time_s + GRACE_S) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (most, resource.getrlimit(resource.RLIMIT_CPU)[1]))
    return read_file(job, splitting, limits)


def read_file(job: Job, splitting: Splitting, limits: Limits) -> Read:
    """Read one file: hash it, extract its text, split it and tokenize the chunks.

    Returns:
        `Skipped` for whatever is wrong with the file; it raises nothing for that.
    """
    try:
        content = _content(job.path, limits.size_bytes)
        digest = hashlib.sha256(content).hexdigest()
        if digest in job.known_sha256:
            return Unchanged(job.path, len(content))
        return _document(job, content, digest, splitting, limits)
    except Unreadable as problem:
        return Skipped(job.path, job.size_bytes, str(problem))
    except FileNotFoundError:
        return Skipped(job.path, job.size_bytes, "is gone since the folder was listed")
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        return Skipped(job.path, job.size_bytes, f"cannot be read: {reason}")
    except MemoryError:
        return Skipped(job.path, job.size_bytes, "needs more memory than a file may take")


def _content(path: str, most: int) -> bytes:
    """Return a file's bytes; never follows a link that came in its place meanwhile."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise Unreadable(f"is larger than {most >> 20} MB")
    return content


def _document(
    job: Job, content: bytes, digest: str, splitting: Splitting, limits: Limits
) -> Document:
    found = extract(content, Path(job.path).suffix.lower())
    encoded = found.text.encode()
    if len(encoded) > limits.size_bytes:
        raise Unreadable(f"holds more than {limits.size_bytes >> 20} MB of text")
    return Document(
        path=job.path,
        title=found.title or os.fsencode(Path(job.path).stem).decode("utf-8", "replace"),
        media_type=found.media_type,
        content=found.text,
        content_sha256=hashlib.sha256(encoded).hexdigest(),
        file_sha256=digest,
        file_bytes=len(content),
        chunks=tuple(_chunks(found.text, found.media_type, splitting)),
        remarks=found.remarks,
    )


def _chunks(text: str, media_type: str, splitting: Splitting) -> Iterator[bytes]:
    tokenize = TOKENIZERS[splitting.model]
    splitter = _splitter(media_type == "text/markdown", splitting.size, splitting.overlap)
    for index, chunk in enumerate(splitter.chunks(text)):
        tokens = ",".join(map(str, tokenize(chunk)))
        yield f"{index}\t{copy_text(chunk)}\t{{{tokens}}}".encode()


@lru_cache
def _splitter(markdown: bool, size: int, overlap: int) -> MarkdownSplitter | TextSplitter:
    """Return what splits at the largest unit that fits: headings, paragraphs, sentences, words."""
    from semantic_text_splitter import MarkdownSplitter, TextSplitter

    return (MarkdownSplitter if markdown else TextSplitter)(size, overlap=overlap)


# ---- Workers -------------------------------------------------------------------------------------


def read_all(jobs: Iterable[Job], splitting: Splitting, limits: Limits) -> Iterator[Read]:
    """Yield what each file holds, in the order of the jobs.

    **Effects**: worker processes while it is read; none afterwards, also after an error.
    """
    waiting: deque[tuple[Job, Future[Read]]] = deque()
    ahead = 0
    with _pool(limits) as pool:
        for job in jobs:
            while waiting and (
                len(waiting) >= AHEAD * limits.workers or ahead + job.size_bytes > MOST_BYTES_AHEAD
            ):
                ahead -= waiting[0][0].size_bytes
                yield _result(*waiting.popleft(), limits)
            work = pool.schedule(_read_within, args=(job, splitting, limits), timeout=limits.time_s)
            waiting.append((job, work))
            ahead += job.size_bytes
        while waiting:
            yield _result(*waiting.popleft(), limits)


@contextmanager
def _pool(limits: Limits) -> Iterator[ProcessPool]:
    pool = ProcessPool(
        max_workers=limits.workers,
        initializer=_begin_worker,
        # A forked child of a threaded kernel may deadlock; a spawned one knows its parent, too.
        context=multiprocessing.get_context("spawn"),
    )
    try:
        yield pool
    finally:
        pool.stop()  # type: ignore[no-untyped-call]
        pool.join()


def _result(job: Job, work: Future[Read], limits: Limits) -> Read:
    try:
        return work.result()
    except TooLong:
        reason = f"takes longer than the {limits.time_s:g} s that a file may take"
    except ProcessExpired as end:
        killed = -end.exitcode if end.exitcode and end.exitcode < 0 else 0
        how = f" (by {signal.Signals(killed).name})" if killed else ""
        reason = f"ends the process that reads it{how}"
    except Exception as error:
        reason = f"cannot be read ({type(error).__name__})"
    return Skipped(job.path, job.size_bytes, reason)


def _begin_worker() -> None:
    """Make this process end with its parent, keep within its memory, and say nothing."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (WORKER_BYTES, WORKER_BYTES))
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)


def _end_with_parent() -> None:
    """Wait until the parent is gone, also if it was killed, and end."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)
