"""The import itself: from a folder's files to batches in a corpus, with a report and progress.

Memory does not grow with the folder: files are listed as they are read (`folder`), few are held
at a time (`reading`), and what became of them goes to a file, but for the first rows.
"""

from __future__ import annotations

import csv
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from playbook.documents import FileReport, FileReports, FolderSurvey, Imported
from playbook.formats import bytes_text, count, seconds
from voice_agent.corpora import Fate, Writer
from voice_agent.extraction import SUFFIXES
from voice_agent.folder import Entry, relative_name, walk
from voice_agent.reading import (
    Document,
    Job,
    Limits,
    Read,
    Skipped,
    Splitting,
    Unchanged,
    read_all,
)

__all__ = ["Reports", "import_folder", "survey"]

LOOK_UP = 256
"""Files whose earlier versions are looked for at once."""
BATCH_CHUNKS, BATCH_BYTES, BATCH_DOCUMENTS, BATCH_S = 10_000, 16 << 20, 1_000, 5.0
"""A batch is committed when it has one of these: chunks, bytes of text, documents, seconds."""
PROGRESS_EVERY_S = 2.0
NO_ESTIMATE_BELOW = 0.01
"""The share of the bytes from which on a time left is told (as pgroll and gh-ost do)."""
SHOWN = 25
"""Rows of the table of reports."""
REPORT = "files.csv"


def survey(folder: Path, name: str) -> FolderSurvey:
    """List a folder and count its files; none is read.

    Args:
        name: how the folder is called in tables.
    """
    files: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    others: Counter[str] = Counter()
    for entry in walk(folder):
        if entry.problem:
            others[entry.problem] += 1
        else:
            kind = SUFFIXES[entry.suffix]
            files[kind] += 1
            sizes[kind] += entry.size_bytes
    kinds = tuple((kind, files[kind], sizes[kind]) for kind in sorted(files))
    return FolderSurvey(name, kinds, tuple(sorted(others.items())))


class Reports:
    """What became of the files that were not simply imported: counted, written, the first kept."""

    def __init__(self, file: Path | None) -> None:
        """Take the CSV file to write to, or None to keep the first rows only."""
        self._path = file
        self._tally: Counter[str] = Counter()
        self._first: list[FileReport] = []
        self._stack = ExitStack()
        self._rows: Any = None

    def __enter__(self) -> Self:
        if self._path is not None:
            file = self._stack.enter_context(self._path.open("w", encoding="utf-8", newline=""))
            self._rows = csv.writer(file)
            self._rows.writerow(("fate", "file", "why"))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def add(self, name: str, fate: str, reason: str) -> None:
        """Note a file."""
        self._tally[fate] += 1
        if len(self._first) < SHOWN:
            self._first.append(FileReport(name, fate, reason))
        if self._rows is not None:
            self._rows.writerow((fate, name, reason))

    def record(self) -> FileReports:
        """Return what is to be shown."""
        first = tuple(sorted(self._first, key=lambda report: report.name))
        return FileReports(tuple(sorted(self._tally.items())), first, self._path)


@dataclass
class _Tally:
    """How far an import has come."""

    documents: int = 0
    chunks: int = 0
    replaced: int = 0
    duplicates: int = 0
    unchanged: int = 0
    skipped: int = 0
    files: int = 0
    size_bytes: int = 0
    begun: float = field(default_factory=time.monotonic)
    told: float = field(default_factory=time.monotonic)


def import_folder(
    folder: Path,
    expected: FolderSurvey,
    writer: Writer,
    reports: Reports,
    *,
    splitting: Splitting,
    limits: Limits,
    before_batch: Callable[[], None],
    on_progress: Callable[[str], None],
    done: Callable[[Imported], None],
) -> Imported:
    """Read every file of a folder and write what is new, batch by batch.

    **Effects**: one transaction per batch; worker processes meanwhile. Whatever ends it, each
    document is there with all its chunks, or not at all.

    Args:
        expected: what the folder held when it was listed, for the time left.
        before_batch: called before each transaction; what it raises ends the import.
        done: told after each batch what is committed so far.
    """
    tally = _Tally()
    jobs = _jobs(walk(folder), writer, reports, folder, tally)
    for batch in _batches(read_all(jobs, splitting, limits), folder, reports, tally):
        before_batch()
        for fate in writer.write(batch):
            _note_fate(fate, folder, reports, tally)
        done(_imported(writer, tally))
        _tell(tally, expected, on_progress)
    # At least once: whether a short run passes a pause between two lines is chance.
    _tell(tally, expected, on_progress, every_s=0.0)
    return _imported(writer, tally)


def _jobs(
    entries: Iterable[Entry], writer: Writer, reports: Reports, folder: Path, tally: _Tally
) -> Iterator[Job]:
    """Yield the files to read, each with what is known of its path."""
    entries = iter(entries)
    while group := list(islice(entries, LOOK_UP)):
        known = writer.known([entry.path for entry in group if not entry.problem])
        for entry in group:
            if entry.problem:
                tally.skipped += 1
                reports.add(relative_name(entry.path, folder), "skipped", entry.problem)
            else:
                yield Job(entry.path, entry.size_bytes, known.get(entry.path, ()))


def _batches(
    found: Iterator[Read], folder: Path, reports: Reports, tally: _Tally
) -> Iterator[list[Document]]:
    """Yield documents in batches; what holds none is counted. The last may be empty."""
    batch: list[Document] = []
    chunks = size = 0
    begun = time.monotonic()
    for read in found:
        _note_read(read, folder, reports, tally)
        if isinstance(read, Document):
            batch.append(read)
            chunks += len(read.chunks)
            size += len(read.content)
        is_full = chunks >= BATCH_CHUNKS or size >= BATCH_BYTES or len(batch) >= BATCH_DOCUMENTS
        if is_full or time.monotonic() - begun >= BATCH_S:
            yield batch
            batch, chunks, size, begun = [], 0, 0, time.monotonic()
    yield batch


def _note_read(read: Read, folder: Path, reports: Reports, tally: _Tally) -> None:
    tally.files += 1
    if isinstance(read, Document):
        tally.size_bytes += read.file_bytes
        return
    tally.size_bytes += read.size_bytes
    if isinstance(read, Unchanged):
        tally.unchanged += 1
    elif isinstance(read, Skipped):
        tally.skipped += 1
        reports.add(relative_name(read.path, folder), "skipped", read.reason)


def _note_fate(fate: Fate, folder: Path, reports: Reports, tally: _Tally) -> None:
    document = fate.document
    name = relative_name(document.path, folder)
    tally.replaced += len(fate.replaced)
    if fate.added:
        tally.documents += 1
        tally.chunks += len(document.chunks)
    elif fate.duplicate_of is not None:
        tally.duplicates += 1
        original = _name_of(fate.duplicate_of, folder)
        reports.add(name, "duplicate", f"has the same text as {original}")
    else:
        tally.unchanged += 1
    if fate.replaced:
        reports.add(name, "replaced", "has changed: the version imported before was taken out")
    if fate.added and document.remarks:
        reports.add(name, "imported", "; ".join(document.remarks))


def _name_of(uri: str, folder: Path) -> str:
    """Return the name of the file with the same text, within the folder if it lies there."""
    parts = urlsplit(uri)
    if parts.scheme != "file":
        return uri or "a document that came from no file"
    path = Path(unquote(parts.path))
    return relative_name(str(path), folder) if path.is_relative_to(folder) else path.name


def _imported(writer: Writer, tally: _Tally) -> Imported:
    return Imported(
        corpus=writer.corpus.name,
        documents=tally.documents,
        chunks=tally.chunks,
        replaced=tally.replaced,
        duplicates=tally.duplicates,
        unchanged=tally.unchanged,
        skipped=tally.skipped,
        size_bytes=tally.size_bytes,
        duration_s=time.monotonic() - tally.begun,
        marker=writer.marker,
        dry_run=not writer.marker,
    )


def _tell(
    tally: _Tally,
    expected: FolderSurvey,
    on_progress: Callable[[str], None],
    *,
    every_s: float = PROGRESS_EVERY_S,
) -> None:
    """Say how far the import has come, and about how long it still takes, now and then."""
    now = time.monotonic()
    if now - tally.told < every_s:
        return
    tally.told = now
    share = tally.size_bytes / expected.size_bytes if expected.size_bytes else 0.0
    left = ""
    if NO_ESTIMATE_BELOW <= share < 1:
        left = f", about {seconds((now - tally.begun) * (1 - share) / share)} left"
    on_progress(
        f"{count(tally.files)} of {count(expected.files, 'file')}, "
        f"{bytes_text(tally.size_bytes)} of {bytes_text(expected.size_bytes)}: "
        f"{count(tally.documents, 'document')}, {count(tally.chunks, 'chunk')}{left}"
    )
