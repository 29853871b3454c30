"""What an import of documents found and did: frozen dataclasses. Layer 0."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["FileReport", "FileReports", "FolderSurvey", "Imported"]


@dataclass(frozen=True)
class FolderSurvey:
    """What lies in a folder, before anything of it is read."""

    folder: str
    kinds: tuple[tuple[str, int, int], ...]
    """(kind, files, bytes) of what will be read, sorted by kind."""
    passed_over: tuple[tuple[str, int], ...] = ()
    """(reason, files) of what will not be read, sorted by reason."""

    @property
    def files(self) -> int:
        """How many files will be read."""
        return sum(files for _, files, _ in self.kinds)

    @property
    def size_bytes(self) -> int:
        """What they take together."""
        return sum(size for _, _, size in self.kinds)


@dataclass(frozen=True)
class FileReport:
    """What became of one file that was not simply imported."""

    name: str
    """Within the folder."""
    fate: str
    """``skipped``, ``duplicate``, ``replaced`` or ``imported`` (with a remark)."""
    reason: str


@dataclass(frozen=True)
class FileReports:
    """The files that were not simply imported."""

    tally: tuple[tuple[str, int], ...]
    """(fate, files), all of them."""
    first: tuple[FileReport, ...]
    """As many as a table shows, sorted by name."""
    file: Path | None = None
    """Where all of them are listed; None if the run left no files."""


@dataclass(frozen=True)
class Imported:
    """What one import did, or would have done."""

    corpus: str
    documents: int
    """Added, those in the place of an older version among them."""
    chunks: int
    replaced: int
    """Older versions that were taken out."""
    duplicates: int
    unchanged: int
    """Files that an earlier run imported and that are as they were."""
    skipped: int
    size_bytes: int
    """Of all files that were read."""
    duration_s: float
    marker: str
    """What ``attributes ->> 'ingest_run'`` of the new documents says."""
    dry_run: bool = False
