"""What a rehearsal hands on: frozen dataclasses. Layer 0, on `playbook.records` alone.

Seconds and bytes, as the names say; tables are ``schema.table``.
"""

from __future__ import annotations

from dataclasses import dataclass

from playbook.locks import blocks
from playbook.records import Severity

__all__ = [
    "Allowed",
    "CopyMade",
    "HeldLock",
    "Measured",
    "Passage",
    "Rehearsal",
    "Rehearsed",
    "RoundTrip",
    "Trouble",
]


@dataclass(frozen=True)
class HeldLock:
    """A lock on a table that was there before, and how long it was held.

    From the beginning of the statement that took it until its transaction was committed.
    """

    table: str
    mode: str
    """As pg_locks.mode spells it."""
    held_s: float

    @property
    def blocks(self) -> str:
        """What others could not do meanwhile: ``reads and writes``, ``writes`` or ""."""
        return blocks(self.mode)


@dataclass(frozen=True)
class Measured:
    """What the sessions of one revision held and wrote, by the server's own account."""

    held: tuple[HeldLock, ...] = ()
    """The longest time for each table and mode, sorted."""
    rows: tuple[tuple[str, int], ...] = ()
    """Per table, rows inserted, updated and deleted, those by triggers included, sorted."""
    alone: tuple[tuple[str, float], ...] = ()
    """(statement, seconds) of those that ran outside a transaction, in order."""


@dataclass(frozen=True)
class Passage:
    """One revision, applied or undone once on a copy."""

    direction: str
    """``upgrade`` or ``downgrade``."""
    duration_s: float
    attempts: int
    """How often its locks were asked for."""
    statements: int
    held: tuple[HeldLock, ...]
    rewritten: tuple[str, ...]
    rows: tuple[tuple[str, int], ...]
    wal_bytes: int
    """Written by the whole server meanwhile: on one that others use, theirs is in it."""
    grown_bytes: int
    """Of the database; below 0: it shrank."""
    transactional: bool

    @property
    def rows_written(self) -> int:
        """Rows inserted, updated and deleted in all tables."""
        return sum(rows for _, rows in self.rows)


@dataclass(frozen=True)
class Rehearsed:
    """One revision: up, down and up again; None for a passage that was not, or failed."""

    revision: str
    message: str
    sha256: str
    """Of its file."""
    up: Passage | None = None
    down: Passage | None = None
    again: Passage | None = None


@dataclass(frozen=True)
class Trouble:
    """Something that a rehearsal found: in which revision, on which way, about what.

    ``code`` is one of: ``unplannable`` (its SQL cannot be had), ``failed`` (a revision failed),
    ``loses-data`` (what was there before is not the same after up and down), ``trace`` (the schema
    is not), ``not-repeatable`` (the second up gives another schema or other values), ``drops-data``
    (the way down drops what the way up filled), ``irreversible`` (there is no way down),
    ``not-transactional``, ``rewrites``.
    """

    code: str
    severity: Severity
    revision: str
    direction: str
    """``upgrade`` or ``downgrade``."""
    object: str
    """The table, column, constraint or index; "" where none is known."""
    detail: str
    remedy: str = ""

    @property
    def name(self) -> str:
        """The revision with its object, for a sentence or a table."""
        return f"{self.revision}: {self.object}" if self.object else self.revision


@dataclass(frozen=True)
class RoundTrip:
    """A plan that went up, down and up again on a copy, revision by revision.

    ``revisions`` are those that were begun, in the plan's order; ``troubles`` in the order in which
    they were found; ``reached`` is where the copy was left.
    """

    plan_sha256: str
    """As `playbook.records.Plan.sha256`; "" if there was no plan."""
    target: str
    from_revisions: tuple[str, ...]
    to_revisions: tuple[str, ...]
    """Where the plan leads."""
    reached: tuple[str, ...]
    revisions: tuple[Rehearsed, ...]
    troubles: tuple[Trouble, ...]
    tables: int = 0
    """How many were compared by rows and fingerprints."""
    unread: str = ""
    """A sentence on what of the rows was not compared; "" if all was."""

    @property
    def is_complete(self) -> bool:
        """Whether every revision of the plan came through."""
        return bool(self.plan_sha256) and sorted(self.reached) == sorted(self.to_revisions)

    @property
    def stops(self) -> tuple[Trouble, ...]:
        """What forbids to run this plan."""
        return tuple(t for t in self.troubles if t.severity is Severity.STOP)

    @property
    def expected_s(self) -> tuple[tuple[str, float], ...]:
        """(revision, seconds) that the real run may take: the slower of the two ways up."""
        return tuple(
            (one.revision, max(p.duration_s for p in (one.up, one.again) if p))
            for one in self.revisions
            if one.up
        )


@dataclass(frozen=True)
class CopyMade:
    """The copy that a rehearsal writes to."""

    database: str
    how: str
    """``template``, ``dump`` or ``backup``."""
    where: str
    """``the same server`` or ``the sandbox``."""
    source: str
    """The database, or the name of the backup's folder."""
    duration_s: float
    size_bytes: int
    remarks: tuple[str, ...] = ()
    """Sentences on what is not as in the original, and on what was removed first."""


@dataclass(frozen=True)
class Allowed:
    """What a revision may take before somebody has to look, or it is stopped.

    ``lock_s`` and ``lock_stop_s`` are `upgrade`'s own figures for hazards: 0.3 s is what a person
    begins to notice, 2 s is the usual lock_timeout for DDL (eugene, strong_migrations).
    ``revision_s`` is GitLab's figure for a revision beside a deployment: up to 3 minutes.
    ``wal_bytes`` is what `status` calls a standby that is far behind.
    """

    lock_s: float = 0.3
    lock_stop_s: float = 2.0
    revision_s: float = 180.0
    wal_bytes: int = 256 * 1024 * 1024


@dataclass(frozen=True)
class Rehearsal:
    """A rehearsal that is kept: when it was, of which database, how it ended."""

    run_id: str
    finished_at: str
    """ISO 8601, UTC."""
    passed: bool
    plan_sha256: str
    to_revisions: tuple[str, ...]
    expected_s: tuple[tuple[str, float], ...]
    problems: tuple[str, ...] = ()
    """What stopped it, each with its revision."""
