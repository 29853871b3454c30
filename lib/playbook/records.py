"""What the layers hand to each other: frozen dataclasses. Layer 0: imports nothing of the playbook.

Nothing here reads, writes, draws or decides; each record says in which unit and order its
values are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

__all__ = [
    "Applied",
    "BackupManifest",
    "Backups",
    "Banner",
    "Blocker",
    "Changes",
    "Checks",
    "ColumnFact",
    "ColumnSequence",
    "ColumnSnapshot",
    "Comparison",
    "ConstraintFact",
    "DataCheckResult",
    "DataChecks",
    "Difference",
    "Drift",
    "DumpProgress",
    "Finding",
    "ForeignKey",
    "Hazard",
    "Hazards",
    "History",
    "Integrity",
    "InvalidIndex",
    "LateRows",
    "LogEntry",
    "Known",
    "Loss",
    "LossItem",
    "Note",
    "Orphans",
    "Outcome",
    "Plan",
    "PlanStep",
    "Receipt",
    "Retention",
    "Restored",
    "Revision",
    "RevisionGraph",
    "Salvage",
    "SalvagedFile",
    "SequenceBehind",
    "ServerInfo",
    "Sessions",
    "Severity",
    "Snapshot",
    "StepResult",
    "TableSize",
    "TableSizes",
    "TableSnapshot",
    "TableStorage",
    "UnvalidatedConstraint",
    "WayBack",
    "WaysBack",
]


class Severity(StrEnum):
    """How much a finding weighs: go on, look at it, or do not go on."""

    OK = "OK"
    WARN = "WARN"
    STOP = "STOP"


@dataclass(frozen=True)
class Finding:
    """One answer to one question asked of the database or the plan.

    ``code`` is a stable kebab-case name; ``subject`` the object meant; ``detail`` the fact;
    ``remedy`` what to do, "" when nothing is to be done; ``why`` the reason it matters.
    """

    code: str
    severity: Severity
    subject: str
    detail: str
    remedy: str = ""
    why: str = ""


@dataclass(frozen=True)
class ServerInfo:
    """Who answered on the other end of a connection."""

    database: str
    database_oid: int
    system_identifier: str
    version: str
    """As the server writes it, e.g. ``18.4``."""
    version_num: int
    """``server_version_num``: 180004 is 18.4."""
    user: str
    in_recovery: bool
    size_bytes: int
    encrypted: bool = False
    """Whether the connection is by TLS."""


@dataclass(frozen=True)
class Revision:
    """One revision file."""

    revision: str
    down_revisions: tuple[str, ...]
    depends_on: tuple[str, ...]
    branch_labels: tuple[str, ...]
    message: str
    """First line of the file's docstring."""
    path: Path
    sha256: str
    """Of the file's bytes, hexadecimal."""
    is_head: bool
    is_base: bool
    is_branch_point: bool
    is_merge_point: bool


@dataclass(frozen=True)
class RevisionGraph:
    """The revisions of a project and where the database stands among them.

    ``revisions`` are in upgrade order (a revision after all it stands on). ``current`` is what
    the version table holds: empty for a database without one. ``unknown`` are those of
    ``current`` that no file has.
    """

    revisions: tuple[Revision, ...]
    heads: tuple[str, ...]
    current: tuple[str, ...]
    unknown: tuple[str, ...] = ()
    version_table: str = "alembic_version"
    version_table_schema: str = ""
    search_path: tuple[str, ...] = ()
    """The schemas in which env.py's session looks for a name without one; empty: not known."""
    script_directory: str = ""
    marks: tuple[tuple[str, str], ...] = ()
    """(revision, ``failed``, ``interrupted``, ``edited``, ``out of order`` or ``missing``), told
    from the history; a missing one is none of ``revisions``."""

    def revision(self, revision: str) -> Revision:
        """Return the record of a revision id.

        Raises:
            KeyError: no file has it.
        """
        for candidate in self.revisions:
            if candidate.revision == revision:
                return candidate
        raise KeyError(revision)


@dataclass(frozen=True)
class PlanStep:
    """One revision of a plan: applying it or undoing it."""

    revision: str
    direction: str
    """``upgrade`` or ``downgrade``."""
    from_revisions: tuple[str, ...]
    to_revisions: tuple[str, ...]
    message: str
    path: Path
    sha256: str
    sql: str
    """Its statements, ready for psql, the version table's update included."""


@dataclass(frozen=True)
class Plan:
    """The ordered revisions between where the database is and where it is to go."""

    direction: str
    target: str
    """As it was asked for, e.g. ``head``."""
    from_revisions: tuple[str, ...]
    to_revisions: tuple[str, ...]
    steps: tuple[PlanStep, ...]
    method: str
    """How the SQL was found: ``offline`` (Alembic's --sql) or ``observed`` (run on a copy)."""
    sha256: str
    """Of the steps' ids, file hashes and SQL: equal plans have equal hashes."""
    tables: tuple[str, ...] = ()
    """Existing tables that the SQL names, as ``schema.table``, sorted."""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to run."""
        return not self.steps

    @property
    def sql(self) -> str:
        """The SQL of all steps, in order."""
        return "\n".join(step.sql for step in self.steps)


@dataclass(frozen=True)
class Hazard:
    """Something in a plan's SQL that can block, break or destroy.

    ``rule`` is squawk's name or one of ours; ``rows`` the estimate for ``table`` (-1: unknown), or
    what was counted of it; ``blocked_s`` how long the lock will be held by that estimate, 0 for a
    moment.
    """

    revision: str
    rule: str
    severity: Severity
    table: str
    rows: int
    lock: str
    blocks: str
    """What others cannot do meanwhile, in words; "" if nothing waits."""
    blocked_s: float
    statement: str
    detail: str
    remedy: str
    allowed_because: str = ""
    """The reason of an exemption in the revision file."""
    object: str = ""
    """The index, constraint or column that it is about, where it is not the table itself."""
    rewrite: str = ""
    """SQL ready to copy: the statement rewritten, or the query that shows the rows in its way."""
    is_certain: bool = False
    """Whether it was counted that the statement fails: no exemption lifts that."""


@dataclass(frozen=True)
class Hazards:
    """The hazards of a plan, in the order of its statements; empty if there are none."""

    items: tuple[Hazard, ...]

    @property
    def stops(self) -> tuple[Hazard, ...]:
        """Those that forbid to go on and that no revision file excuses."""
        return tuple(h for h in self.items if h.severity is Severity.STOP and not h.allowed_because)


@dataclass(frozen=True)
class ColumnFact:
    """A column as it is now: its type as format_type() writes it; in the primary key or not."""

    name: str
    type: str
    not_null: bool
    is_key: bool


@dataclass(frozen=True)
class ConstraintFact:
    """A CHECK or foreign key as it is now, with its pg_get_constraintdef()."""

    table: str
    name: str
    definition: str
    is_valid: bool


@dataclass(frozen=True)
class Known:
    """What is in a database that a plan is weighed against; tables are ``schema.table``.

    ``rows`` are estimates; ``keys`` the columns of each primary key, in its order; ``held`` what
    each table ("" as the column) or column to be dropped holds, counted; ``casts`` the pairs of
    types that pg_cast calls binary coercible; ``partitioned`` the partitioned tables;
    ``functions`` the names of functions that are not PostgreSQL's own; ``filling`` those of domains
    with a default; ``steady`` those of functions of which no form is volatile; ``indexes`` those
    of all indexes; ``inherited`` the tables, not partitioned, from which others inherit.
    """

    rows: Mapping[str, int]
    columns: Mapping[str, tuple[ColumnFact, ...]] = field(default_factory=dict)
    keys: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    constraints: tuple[ConstraintFact, ...] = ()
    held: Mapping[tuple[str, str], int] = field(default_factory=dict)
    casts: frozenset[tuple[str, str]] = frozenset()
    partitioned: frozenset[str] = frozenset()
    functions: frozenset[str] = frozenset()
    filling: frozenset[str] = frozenset()
    steady: frozenset[str] = frozenset()
    indexes: frozenset[str] = frozenset()
    inherited: frozenset[str] = frozenset()
    is_utc: bool = False


@dataclass(frozen=True)
class TableSize:
    """One table on disk; sizes in bytes, rows as estimated by the last ANALYZE (-1: never)."""

    schema: str
    table: str
    estimated_rows: int
    table_bytes: int
    index_bytes: int
    total_bytes: int


@dataclass(frozen=True)
class ColumnSnapshot:
    """One column: its type as format_type() writes it, non-null values, and a fingerprint.

    The fingerprint is a decimal number that changes when any value changes or moves to another
    row; "" where the type has no text form to hash.
    """

    column: str
    type: str
    not_null: bool
    non_null_rows: int
    fingerprint: str
    is_key: bool = field(default=False, compare=False)
    """Whether it is part of the primary key."""


@dataclass(frozen=True)
class TableSnapshot:
    """One table: exact row count and its columns in attribute order."""

    schema: str
    table: str
    rows: int
    """-1: not counted."""
    columns: tuple[ColumnSnapshot, ...]
    """What was read of them: every row, or those in the blocks of a sample."""
    coverage: str = ""
    """What of its rows was read, in words; "" for every row."""
    share: float = 1.0
    """The part of its blocks that was read; 0: nothing."""
    file: int = field(default=0, compare=False)
    """Which files hold it (relfilenode); another number after a rewrite."""

    @property
    def name(self) -> str:
        """``schema.table``."""
        return f"{self.schema}.{self.table}"


@dataclass(frozen=True)
class Snapshot:
    """Every table of a database, seen in one transaction."""

    database: str
    taken_at: str
    """ISO 8601, UTC."""
    revisions: tuple[str, ...]
    tables: tuple[TableSnapshot, ...]
    form: int = 1
    """How its fingerprints were made; only those of one form compare."""
    xid: int = 0
    """The first transaction id that was not given out yet when it was taken; 0: not known."""
    system_identifier: str = ""
    """Of the server, whose ids those are."""


@dataclass(frozen=True)
class Difference:
    """How one table or column differs between two snapshots.

    ``kind`` of a table: ``intact``, ``added``, ``dropped``, ``rows changed``, ``columns added``,
    ``columns changed``, ``not compared``; of a column: ``added``, ``dropped``, ``values changed``,
    ``type changed``, ``null rule changed``. ``column`` is "" when the whole table is meant; counts
    are -1 where the object does not exist, and where a table that is not compared was not counted.
    """

    table: str
    column: str
    kind: str
    rows_before: int
    rows_after: int
    detail: str = ""
    rows_written: int = -1
    """Rows of its table written since the first snapshot; -1: not counted."""
    rows_by_run: int = -1
    """Those of them that the run's own transactions wrote; -1: not counted."""
    verdict: str = ""
    """Of changed values: ``undeclared``, ``as declared``, ``its SQL writes the table`` (of a
    revision that declares nothing) or ``by others``; "": not judged."""


@dataclass(frozen=True)
class Changes:
    """What a run's revisions mean to change.

    ``declared`` are tables and columns as the revision files write them; ``written`` are the
    tables, ``schema.table``, that the SQL of those revisions names which declare nothing;
    ``silent`` are those revisions.
    """

    declared: tuple[str, ...] = ()
    written: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()


@dataclass(frozen=True)
class TableStorage:
    """Where a table's rows are: bytes with their long values, and which files.

    ``inherited``: other tables inherit from it, so that a scan finds their rows too.
    """

    size_bytes: int
    file: int
    inherited: bool


@dataclass(frozen=True)
class DataCheckResult:
    """One data check: how many rows break the rule, and the first few of them as text."""

    revision: str
    name: str
    description: str
    failing_rows: int
    examples: tuple[str, ...] = ()
    error: str = ""
    """Why the query could not run, "" if it did."""

    @property
    def passed(self) -> bool:
        """Whether the query ran and returned no row."""
        return not self.failing_rows and not self.error


@dataclass(frozen=True)
class UnvalidatedConstraint:
    """A constraint that PostgreSQL has not checked against the rows there are."""

    table: str
    constraint: str
    definition: str


@dataclass(frozen=True)
class InvalidIndex:
    """An index that a failed or running CREATE INDEX CONCURRENTLY left unusable."""

    table: str
    index: str
    definition: str


@dataclass(frozen=True)
class ForeignKey:
    """A foreign key: its columns in pairs, and the operator that compares each pair."""

    table: str
    constraint: str
    parent: str
    columns: tuple[str, ...]
    parent_columns: tuple[str, ...]
    operators: tuple[tuple[str, str], ...]
    """(schema, name), the parent's column on the left."""
    match_full: bool
    validated: bool
    whole: tuple[bool, bool]
    """Whether the table, and the parent, are partitioned: else the key is of that table only."""


@dataclass(frozen=True)
class Orphans:
    """Rows that a foreign key forbids: the parent that they refer to is not there."""

    table: str
    constraint: str
    parent: str
    rows: int
    validated: bool
    """False: PostgreSQL has not said that there are none."""


@dataclass(frozen=True)
class ColumnSequence:
    """A sequence that gives a column its values."""

    table: str
    column: str
    sequence: str
    """``schema.sequence``."""
    increment: int


@dataclass(frozen=True)
class SequenceBehind:
    """A sequence whose next value its column has, or has passed, already."""

    table: str
    column: str
    sequence: str
    next_value: int
    reached: int
    """The largest value of the column; the smallest, of a sequence that counts down."""

    @property
    def remedy(self) -> str:
        """The statement that brings it up to its column."""
        parts = (part.replace('"', '""') for part in self.sequence.split(".", 1))
        name = ".".join(f'"{part}"' for part in parts).replace("'", "''")
        return f"SELECT setval('{name}', {self.reached})"


@dataclass(frozen=True)
class Blocker:
    """A session that stands, or may stand, in the way."""

    pid: int
    user: str
    application: str
    state: str
    query: str
    transaction_age_s: float
    tables: tuple[str, ...] = ()
    """Tables on which it holds a lock, as ``schema.table``."""
    state_age_s: float = 0.0
    """How long it has been in its state."""
    transaction: str = ""
    """Its transaction's virtual id, where this role may not see how old it is; else ""."""


@dataclass(frozen=True)
class BackupManifest:
    """What ``manifest.json`` beside a dump says. Paths are relative to the backup's folder."""

    format_version: int
    target: str
    database: str
    server_version: str
    system_identifier: str
    revisions: tuple[str, ...]
    started_at: str
    finished_at: str
    duration_s: float
    user: str
    host: str
    compression: str
    jobs: int
    pg_dump_version: str
    restore_command: str
    files: tuple[tuple[str, int, str], ...]
    """(relative path, size in bytes, SHA-256), sorted by path."""
    rows: tuple[tuple[str, int], ...]
    """(``schema.table``, exact rows in the dump's own snapshot), sorted."""
    verified: str
    """``archive``, ``restore`` or "" (not yet)."""
    directory: Path = field(default=Path(), compare=False)
    """Where the backup lies; not part of the file."""
    tables: tuple[TableSnapshot, ...] = ()
    """Counts and fingerprints in the dump's own snapshot; empty in manifests of format 1."""
    database_bytes: int = 0
    """The size of the database when it was dumped."""
    restore_s: float = 0.0
    """How long pg_restore took when the backup was last proven by a restore; 0.0: never."""
    verified_at: str = ""
    """ISO 8601, UTC."""
    large_objects: int = 0
    extensions: tuple[str, ...] = ()
    """What the dump needs of a server besides PostgreSQL itself, sorted; not in the dump."""
    roles: tuple[str, ...] = ()
    """Owners, grantees and roles of policies, sorted; not in the dump."""
    form: int = 0
    """How the fingerprints were made (`Snapshot.form`); 0: there are none."""

    @property
    def size_bytes(self) -> int:
        """All files of the dump together."""
        return sum(size for _, size, _ in self.files)


@dataclass(frozen=True)
class Backups:
    """The complete backups of a database with their ages in seconds, the newest first."""

    items: tuple[tuple[BackupManifest, float], ...]


@dataclass(frozen=True)
class Retention:
    """Which backups of a database go and which stay, the newest first.

    ``kept`` has each one's reason; ``keep`` is how many of the newest stay, 0: all.
    """

    keep: int
    removed: tuple[BackupManifest, ...]
    kept: tuple[tuple[BackupManifest, str], ...]


@dataclass(frozen=True)
class DumpProgress:
    """How far a dump has come. ``left_s`` is an estimate; below 0: not known yet."""

    tables: int
    """Those whose dump has begun."""
    all_tables: int
    size_bytes: int
    expected_bytes: int
    left_s: float


@dataclass(frozen=True)
class StepResult:
    """One revision that was applied or undone."""

    revision: str
    direction: str
    duration_s: float
    attempts: int
    statements: int
    locks: tuple[tuple[str, str], ...]
    """(``schema.table``, lock mode) held just before commit, sorted, strongest mode per table."""
    rewritten: tuple[str, ...]
    """Tables whose file changed: they were rewritten."""
    transactional: bool
    """False if it left Alembic's transaction (an autocommit block)."""
    xids: tuple[int, ...] = ()
    """Its committed transactions that wrote, as 64-bit ids with their epoch, in order.

    The last one also wrote the version table. Savepoints and autocommit statements have ids of
    their own, which are not here.
    """
    wrote: tuple[str, ...] = ()
    """Relations, ``schema.table``, that the statements which it sent name as written, sorted."""


@dataclass(frozen=True)
class LossItem:
    """What a downgrade destroys: a whole table (``column`` is "") or one column's values."""

    table: str
    column: str
    rows: int
    """Rows of the table, or rows with a value in the column."""
    values: tuple[tuple[str, int], ...] = ()
    """Of a whole table: (column, rows with a value in it), in attribute order."""
    written_since: int = -1
    """Those of ``rows`` written after the upgrade that made what is destroyed; -1: not known."""


@dataclass(frozen=True)
class SalvagedFile:
    """What was written before it was destroyed."""

    table: str
    columns: tuple[str, ...]
    rows: int
    path: Path
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Receipt:
    """The record of one run, as in ``receipt.json`` and as a row of ``playbook.history``."""

    run_id: str
    runbook: str
    target: str
    database: str
    outcome: str
    """``running``, ``succeeded``, ``failed``, ``refused``, ``rolled back`` or ``interrupted``."""
    started_at: datetime
    finished_at: datetime | None
    who: str
    from_revisions: tuple[str, ...]
    to_revisions: tuple[str, ...]
    steps: tuple[StepResult, ...]
    backup: str
    revision_files: tuple[tuple[str, str], ...]
    """(revision, SHA-256 of its file) of every revision that this run applied or undid."""
    message: str
    directory: Path
    under_way: str = ""
    """The revision that was begun and not yet finished; known from receipts only."""
    leaves_transaction: bool = False
    """Whether parts of that revision may stay although it did not finish."""
    direction: str = ""
    """``upgrade`` or ``downgrade``: which way that revision was run."""
    goal: tuple[str, ...] | None = None
    """The revisions that the run's plan leads to; None: it had not begun to change anything."""
    host: str = ""
    system_identifier: str = ""
    """Of the server: only there do the steps' transaction ids mean anything."""
    database_oid: int = 0
    history_sha256: str = ""
    """Of the last entry in ``playbook.log`` that this run knows it has written; "" if none."""


@dataclass(frozen=True)
class LogEntry:
    """One entry of ``playbook.log``: how a run's row in ``playbook.history`` changed.

    ``record`` holds the columns that changed; of ``steps``, those that were added.
    ``sha256`` is over everything else, ``previous`` (the SHA-256 of the entry before) included.
    """

    number: int
    at: datetime
    run_id: str
    record: Mapping[str, Any]
    previous: str
    sha256: str


@dataclass(frozen=True)
class Outcome:
    """The last thing a runbook shows."""

    outcome: str
    runbook: str
    summary: str
    changed: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()
    next_steps: tuple[str, ...] = ()
    """Sentences; the runbook to open next is named in them."""
    files: tuple[Path, ...] = ()
    """What the run left behind."""
    versions: tuple[tuple[str, str], ...] = ()
    """(software, version) in use."""


@dataclass(frozen=True)
class Banner:
    """Which database a runbook is pointed at, and whether it will write there."""

    runbook: str
    target: str
    label: str
    kind: str
    protected: bool
    writes: str
    """What the runbook may change, in words; "nothing" for a read-only one."""
    server_version: str
    user: str
    current: tuple[str, ...]
    heads: tuple[str, ...]
    pending: int
    """Revisions that are not applied yet."""


@dataclass(frozen=True)
class Checks:
    """The findings of a preflight, in the order they were asked."""

    findings: tuple[Finding, ...]

    @property
    def stops(self) -> tuple[Finding, ...]:
        """The findings that forbid to go on."""
        return tuple(f for f in self.findings if f.severity is Severity.STOP)


@dataclass(frozen=True)
class TableSizes:
    """The user tables, sorted by name."""

    tables: tuple[TableSize, ...]


@dataclass(frozen=True)
class History:
    """Runs on a target, the newest first; empty if none is known."""

    runs: tuple[Receipt, ...]


@dataclass(frozen=True)
class Applied:
    """The revisions that a run applied or undid, in order, and where that led."""

    direction: str
    from_revisions: tuple[str, ...]
    to_revisions: tuple[str, ...]
    steps: tuple[StepResult, ...]
    expected: tuple[tuple[str, float], ...] = ()
    """(revision, seconds) as a rehearsal of the same plan measured them; empty: there was none."""


@dataclass(frozen=True)
class DataChecks:
    """The results of all data checks that hold at a revision; empty if there are none."""

    results: tuple[DataCheckResult, ...]

    @property
    def failed(self) -> tuple[DataCheckResult, ...]:
        """Those that did not pass."""
        return tuple(result for result in self.results if not result.passed)


@dataclass(frozen=True)
class Comparison:
    """How two snapshots differ: one element per table, and one per column that is not intact.

    ``before`` and ``after`` name what was compared, e.g. ``before the upgrade``.
    """

    before: str
    after: str
    differences: tuple[Difference, ...]


@dataclass(frozen=True)
class Drift:
    """How the models differ from the database.

    ``unknown`` says why it could not be told (not at head, no models), "" when it could.
    """

    lines: tuple[str, ...]
    unknown: str = ""


@dataclass(frozen=True)
class Integrity:
    """What is unfinished or broken in the schema: what PostgreSQL knows, and what it does not."""

    unvalidated: tuple[UnvalidatedConstraint, ...]
    invalid: tuple[InvalidIndex, ...]
    orphans: tuple[Orphans, ...] = ()
    behind: tuple[SequenceBehind, ...] = ()
    unchecked: tuple[tuple[str, str], ...] = ()
    """(foreign key or sequence, why it could not be checked)."""


@dataclass(frozen=True)
class Loss:
    """Everything that a downgrade destroys, tables first; empty if nothing.

    ``xid`` is the oldest transaction that was in progress when it was counted: what had been
    committed by all before it is in the counts.
    """

    items: tuple[LossItem, ...]
    xid: int = 0
    untold: tuple[str, ...] = ()
    """What else may be destroyed, which nobody can tell from the SQL; the backup has it."""


@dataclass(frozen=True)
class Salvage:
    """The files that hold what a downgrade destroys; ``directory`` has their manifest.

    ``xid`` is the oldest transaction that was in progress when they were written: rows written by
    it or by a later one may not be in them.
    """

    directory: Path
    files: tuple[SalvagedFile, ...]
    xid: int = 0


@dataclass(frozen=True)
class LateRows:
    """How a revision's own transaction saves the rows of a table written after the salvage.

    ``lock`` is a statement that keeps other writers out; ``query`` returns those rows, each column
    as text, and ends with its condition, to which another may be added; ``path`` is the CSV file
    that they are appended to. None: there is no way to save them, and a single one stops the
    revision.
    """

    table: str
    lock: str
    query: str
    path: Path | None


@dataclass(frozen=True)
class WayBack:
    """One way to be rid of an upgrade: what it loses, how long it takes, when it is the right one.

    ``way`` is ``downgrade``, ``restore`` or ``fix forward``.
    """

    way: str
    loses: str
    takes: str
    right_when: str


@dataclass(frozen=True)
class WaysBack:
    """The ways back that there are; ``advised`` names one of them, for ``reason``."""

    ways: tuple[WayBack, ...]
    advised: str
    reason: str


@dataclass(frozen=True)
class Restored:
    """The new database that a backup was restored into.

    ``tables`` are those whose rows were restored, empty for all; ``remarks`` are sentences on what
    is not as it was where the backup was taken.
    """

    database: str
    beside: str
    """The live database, which was left alone."""
    backup: str
    """The name of the backup's folder."""
    tables: tuple[str, ...]
    jobs: int
    duration_s: float
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class Sessions:
    """The sessions of others on a database; empty if there are none."""

    database: str
    sessions: tuple[Blocker, ...]


@dataclass(frozen=True)
class Note:
    """A sentence for the reader where there is nothing to tabulate."""

    text: str
