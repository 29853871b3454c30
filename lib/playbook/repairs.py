"""What `repair` finds and what it can do about it: frozen dataclasses. Layer 0."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from playbook.records import Finding
from playbook.schema_objects import Schema, SchemaDifference

__all__ = [
    "BrokenIndex",
    "Diagnosis",
    "Mended",
    "Remedies",
    "Remedy",
    "RevisionMatch",
    "SchemaMatches",
    "VersionTable",
]


@dataclass(frozen=True)
class VersionTable:
    """Alembic's version table as it stands in the catalogs, whatever its form.

    ``rows`` are as text, NULL as None, sorted; ``others`` are tables of the same name in other
    schemas, as (``schema.table``, rows).
    """

    name: str
    """``schema.table``, where env.py looks for it."""
    exists: bool
    columns: tuple[tuple[str, str, bool], ...] = ()
    """(name, type as format_type() writes it, not null), in order."""
    key: str = ""
    """The name of the primary key on ``version_num`` alone; "" if there is none."""
    rows: tuple[str | None, ...] = ()
    others: tuple[tuple[str, tuple[str | None, ...]], ...] = ()

    @property
    def type(self) -> str:
        """The type of ``version_num``; "" where there is no such column."""
        return next((type_ for name, type_, _ in self.columns if name == "version_num"), "")


@dataclass(frozen=True)
class RevisionMatch:
    """How the database's schema differs from that of some revisions, built on an empty database.

    ``before`` of a difference is what the revisions make, ``after`` what the database has.
    ``lesser`` are differences that no revision is told by: privileges, comments, column order.
    """

    revisions: tuple[str, ...]
    """Where such a database stands; empty for base."""
    differences: tuple[SchemaDifference, ...]
    lesser: tuple[SchemaDifference, ...] = ()
    schema: Schema = field(default=Schema(()), repr=False)

    @property
    def is_equal(self) -> bool:
        """Whether the database has the schema of these revisions."""
        return not self.differences


@dataclass(frozen=True)
class SchemaMatches:
    """The database's schema against that of each revision, in upgrade order, base first."""

    where: str
    """On which server the revisions were built; "" if they were not."""
    matches: tuple[RevisionMatch, ...] = ()
    foreign: tuple[str, ...] = ()
    """Objects that no revision makes, e.g. another application's tables; they do not count."""
    remarks: tuple[str, ...] = ()
    """Sentences on what could not be built or compared."""

    @property
    def equal(self) -> tuple[RevisionMatch, ...]:
        """Those that the database's schema equals."""
        return tuple(one for one in self.matches if one.is_equal)

    def nearest(self) -> RevisionMatch | None:
        """Return the one with the fewest differences, of equals the latest; None without any."""
        return min(reversed(self.matches), key=lambda one: len(one.differences), default=None)

    def of(self, revisions: tuple[str, ...]) -> RevisionMatch | None:
        """Return the match of some revisions; None if they were not built."""
        wanted = sorted(revisions)
        return next((one for one in self.matches if sorted(one.revisions) == wanted), None)


@dataclass(frozen=True)
class BrokenIndex:
    """An index that is not valid, and what is in the way of building it again.

    ``kind`` is ``index``, ``partitioned`` (its partitions' indexes make it valid) or ``copy`` (what
    a REINDEX CONCURRENTLY that failed left). ``missing`` are partitions without their index.
    """

    table: str
    index: str
    definition: str
    kind: str = "index"
    is_unique: bool = False
    constraint: str = ""
    """The constraint that stands on it, which keeps it from being dropped; "" if none does."""
    builder_pid: int = 0
    """The session that builds it at this moment; 0 if none does."""
    duplicates: tuple[str, ...] = ()
    """Values that more than one row has, in words, where it is unique."""
    missing: tuple[str, ...] = ()
    attached: tuple[str, ...] = ()
    """Indexes of its partitions, ``schema.index``."""


@dataclass(frozen=True)
class Remedy:
    """Something that can be done, with its exact effect and the exact way back.

    ``name`` is what the parameter ``apply`` takes. ``statements`` and ``undo`` are SQL, each a
    statement, ready for psql; ``file`` and ``text`` are those of a remedy that writes a file.
    """

    name: str
    title: str
    """What it does, in a sentence."""
    statements: tuple[str, ...] = ()
    undo: tuple[str, ...] = ()
    in_transaction: bool = True
    """False: each statement commits by itself, as CONCURRENTLY must."""
    revisions: tuple[str, ...] | None = None
    """What the version table holds afterwards; None: it is not touched."""
    file: Path | None = None
    text: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """What is wrong, the worst first; a single OK if nothing is."""

    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Remedies:
    """What can be done about a diagnosis; empty if nothing can, or need be."""

    items: tuple[Remedy, ...]
    chosen: str = ""
    """The one that ``apply`` names."""


@dataclass(frozen=True)
class Mended:
    """A remedy that was applied: what was run, and how to come back."""

    remedy: str
    title: str
    statements: tuple[str, ...]
    undo: tuple[str, ...]
    duration_s: float
    file: str = ""
    """What it wrote, the name alone."""
