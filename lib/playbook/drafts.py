"""What a new revision is made of, as frozen dataclasses. Layer 0, on `playbook.records` alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from playbook.records import Finding

__all__ = [
    "CheckSkeleton",
    "Draft",
    "DraftFile",
    "DraftSql",
    "ModelChange",
    "ModelChanges",
    "Placed",
    "Tried",
    "TriedRevision",
    "Unseen",
]


@dataclass(frozen=True)
class ModelChange:
    """One thing that a new revision would do, in words."""

    text: str
    destroys: bool = False
    """Whether it drops what may hold data."""


@dataclass(frozen=True)
class Unseen:
    """What Alembic's comparison does not see or takes for something else; likely, not certain."""

    kind: str
    """``rename``, ``check``, ``enum``, ``default``, ``type``, ``trigger`` or ``code``."""
    subject: str
    detail: str
    write: str = ""
    """Lines for the revision file, in Python; "" where there are none to give."""


@dataclass(frozen=True)
class ModelChanges:
    """How the models differ from the database."""

    changes: tuple[ModelChange, ...]
    unseen: tuple[Unseen, ...]
    compared_with: str
    """``revisions`` (a scratch database that they built), ``target`` or ``nothing``."""
    remarks: tuple[str, ...] = ()
    """What could not be looked at, and why."""

    @property
    def is_empty(self) -> bool:
        """Whether Alembic found nothing."""
        return not self.changes


@dataclass(frozen=True)
class DraftFile:
    """A revision file that is not in the project yet."""

    revision: str
    path: Path
    text: str


@dataclass(frozen=True)
class Draft:
    """The revision file, or several, that a run has written into its own folder."""

    files: tuple[DraftFile, ...]
    destination: Path
    """The folder of the project where they belong."""
    message: str
    follows: tuple[str, ...]
    """The heads that it stands on."""
    remaining: tuple[str, ...] | None = None
    """How the models still differ once it has run; None where that is not known."""
    unknown: str = "not compared again"
    """Why it is not."""
    form: str = "as Alembic writes it"

    @property
    def revisions(self) -> tuple[str, ...]:
        """The new ids, in the order in which they run."""
        return tuple(file.revision for file in self.files)


@dataclass(frozen=True)
class DraftSql:
    """What a draft would run on the target, each revision by itself."""

    steps: tuple[tuple[str, str], ...]
    """(revision, SQL)."""
    method: str
    """How it was found: ``offline`` or ``observed``."""


@dataclass(frozen=True)
class TriedRevision:
    """One revision up, down and up again; ``took_s`` in seconds, -1 for a way not gone."""

    revision: str
    took_s: tuple[float, ...]
    rows_written: int
    rewritten: tuple[str, ...]


@dataclass(frozen=True)
class Tried:
    """What came of a draft on a copy of the target; ``reason`` says why it was not tried."""

    reason: str = ""
    copied: str = ""
    """How the copy was made, and where."""
    tables: int = 0
    """How many were compared by rows and fingerprints."""
    revisions: tuple[TriedRevision, ...] = ()
    findings: tuple[Finding, ...] = ()
    failures: tuple[str, ...] = ()
    """What failed, in words; nothing is put into the project then."""
    unread: str = ""


@dataclass(frozen=True)
class CheckSkeleton:
    """Data checks that follow from the changes, for the author to complete."""

    revision: str
    text: str
    """The file's text; "" where nothing follows."""
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Placed:
    """The files that a run has put into the project, or why it has not."""

    files: tuple[Path, ...]
    reason: str = ""
