"""Questions asked of a database before a change: OK, WARN or STOP. Layer 4: reads only.

Each question is one function that returns one finding with the fact, and the remedy where there
is something to do. The answers are in the order in which they were asked.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from psycopg2.extensions import connection as Connection

from playbook.catalog import (
    holders,
    invalid_indexes,
    missing_privileges,
    open_transactions,
    prepared_transactions,
    relation_exists,
    standbys,
    table_names,
    unvalidated_constraints,
    vacuums,
)
from playbook.database import connect, lock_holder, settings_stick
from playbook.dump import find_client_tools
from playbook.errors import BackupFailed
from playbook.present import count, moment
from playbook.records import (
    Backups,
    Blocker,
    Checks,
    Finding,
    Hazards,
    Receipt,
    RevisionGraph,
    ServerInfo,
    Severity,
)
from playbook.revisions import join, pending
from playbook.targets import Target

__all__ = ["Question", "check"]

OLDEST_SUPPORTED = 130000
"""PostgreSQL 13, as server_version_num."""
LONG_TRANSACTION_S = 60.0
LATE_BYTES = 256 * 1024 * 1024
"""A standby so far behind needs many segments of WAL (16 MB each) to catch up."""


@dataclass(frozen=True)
class Question:
    """What the answers depend on besides the database.

    ``tables``, ``locks`` (the mode on each table) and ``hazards`` are those of the plan;
    ``backup_folder`` is where a backup will go (None: none will be taken); ``backups`` are those
    that there are (None: that is not asked).
    """

    graph: RevisionGraph
    tables: Sequence[str] = ()
    locks: Mapping[str, str] = field(default_factory=dict)
    edited: Sequence[str] = ()
    receipts: Sequence[Receipt] = ()
    backup_folder: Path | None = None
    hazards: Hazards | None = None
    backups: Backups | None = None


def check(target: Target, server: ServerInfo, question: Question) -> Checks:
    """Ask everything, in one read-only session."""
    with connect(target, read_only=True) as connection:
        findings = [
            _server(server),
            _version_table(connection, question.graph),
            _heads(question.graph),
            _files(question.edited),
            _privileges(connection, question.tables),
            _other_run(connection),
            _interrupted(question.receipts),
            _transactions(connection, question.locks),
            _prepared(connection),
            _vacuums(connection, question.tables),
            _indexes(connection),
            _constraints(connection),
            _standbys(connection, server),
            _pooler(target),
        ]
    if question.hazards is not None:
        findings.append(_hazards(question.hazards))
    if question.backups is not None:
        findings.append(_backups(question.backups))
    if question.backup_folder:
        findings += [_client(server), _room(server, question.backup_folder)]
    return Checks(tuple(findings))


def _server(server: ServerInfo) -> Finding:
    subject = f"PostgreSQL {server.version}"
    if server.in_recovery:
        return Finding(
            "server",
            Severity.STOP,
            subject,
            "It is a standby, which takes no writes.",
            "Point the target at the primary.",
        )
    if server.version_num < OLDEST_SUPPORTED:
        return Finding(
            "server",
            Severity.WARN,
            subject,
            "It is older than 13, the oldest this was tried on.",
            "Rehearse on a copy first.",
        )
    return Finding("server", Severity.OK, subject, "It takes writes.")


def _version_table(connection: Connection, graph: RevisionGraph) -> Finding:
    name = f"{graph.version_table_schema or 'public'}.{graph.version_table}"
    if graph.unknown:
        return Finding(
            "version-table",
            Severity.STOP,
            name,
            f"It holds {join(graph.unknown)}, which no revision file has.",
            "Bring the missing file back, or check that this is the right project.",
        )
    others = [table for table in table_names(connection) if table != name]
    if others and not relation_exists(connection, graph.version_table_schema, graph.version_table):
        return Finding(
            "version-table",
            Severity.STOP,
            name,
            f"There is none, but {count(len(others), 'table')}, made without Alembic.",
            "If they equal a revision, write `alembic stamp REVISION`; if the first revision "
            "stands on them, `alembic stamp base`.",
        )
    return Finding("version-table", Severity.OK, name, f"The database is at {join(graph.current)}.")


def _heads(graph: RevisionGraph) -> Finding:
    if len(graph.heads) > 1:
        return Finding(
            "heads",
            Severity.WARN,
            join(graph.heads),
            "There are several heads.",
            "Write -r target heads, branch@head or one of them, or merge them (`alembic merge`).",
        )
    return Finding(
        "heads",
        Severity.OK,
        join(graph.heads),
        f"Pending: {count(len(pending(graph)), 'revision')}.",
    )


def _files(edited: Sequence[str]) -> Finding:
    if edited:
        return Finding(
            "revision-files",
            Severity.WARN,
            join(edited),
            "The file was edited after it had been applied here.",
            "Put the change into a new revision, and restore the file.",
        )
    return Finding(
        "revision-files", Severity.OK, "versions", "No file differs from what was applied here."
    )


def _privileges(connection: Connection, tables: Sequence[str]) -> Finding:
    wanted = [f"table {table}:" for table in tables]
    missing = [
        item
        for item in missing_privileges(connection)
        if item.startswith("schema ") or any(item.startswith(name) for name in wanted)
    ]
    if missing:
        return Finding(
            "privileges",
            Severity.STOP,
            "; ".join(missing),
            "This role may not change it.",
            "Run as the owner, or ask for what is named here.",
        )
    return Finding("privileges", Severity.OK, "role", "It may change what the plan touches.")


def _other_run(connection: Connection) -> Finding:
    holder = lock_holder(connection)
    if holder:
        return Finding(
            "other-run",
            Severity.STOP,
            holder,
            "Another run holds this target.",
            "Wait until it has ended.",
        )
    return Finding("other-run", Severity.OK, "advisory lock", "No other run is in progress.")


def _interrupted(receipts: Sequence[Receipt]) -> Finding:
    """Warn if the last writing run here was killed."""
    if receipts and receipts[0].outcome == "interrupted":
        last = receipts[0]
        return Finding(
            "last-run",
            Severity.WARN,
            last.run_id,
            f"It was interrupted; it had begun at {join(last.from_revisions)}.",
            "Compare with where the database is now; running `upgrade` again goes on from there.",
        )
    if receipts and receipts[0].outcome == "failed":
        return Finding(
            "last-run",
            Severity.WARN,
            receipts[0].run_id,
            f"It failed: {receipts[0].message}",
            "See that its cause is mended.",
        )
    detail = f"The last run ended: {receipts[0].outcome}." if receipts else "There was none yet."
    return Finding("last-run", Severity.OK, "receipts", detail)


def _transactions(connection: Connection, locks: Mapping[str, str]) -> Finding:
    """Warn of sessions whose locks are in the plan's way, or that have been open for long."""
    blockers = holders(connection, locks) if locks else []
    old = open_transactions(connection, older_than_s=LONG_TRANSACTION_S)
    if blockers or old:
        sessions = {session.pid: session for session in (*blockers, *old)}
        return Finding(
            "open-transactions",
            Severity.WARN,
            ", ".join(f"pid {pid}" for pid in sessions),
            "; ".join(_session(session) for session in sessions.values()),
            "Wait for them, or end them: SELECT pg_terminate_backend(PID).",
        )
    return Finding("open-transactions", Severity.OK, "sessions", "None is in the way.")


def _session(session: Blocker) -> str:
    held = f", holds locks on {', '.join(session.tables)}" if session.tables else ""
    return (
        f"{session.user} in {session.application or 'an unnamed application'}, {session.state}, "
        f"open for {session.transaction_age_s:.0f} s{held}"
    )


def _indexes(connection: Connection) -> Finding:
    invalid = invalid_indexes(connection)
    if invalid:
        return Finding(
            "invalid-indexes",
            Severity.WARN,
            ", ".join(item.index for item in invalid),
            "No query uses them: an earlier concurrent build failed.",
            "REINDEX INDEX CONCURRENTLY, or drop them and build them again.",
        )
    return Finding("invalid-indexes", Severity.OK, "indexes", "All are valid.")


def _prepared(connection: Connection) -> Finding:
    prepared = prepared_transactions(connection)
    if prepared:
        return Finding(
            "prepared-transactions",
            Severity.WARN,
            ", ".join(gid for gid, *_ in prepared),
            f"The oldest is {prepared[0][2]:.0f} s old; they hold their locks until ended.",
            "Ask the transaction manager, then COMMIT PREPARED or ROLLBACK PREPARED.",
        )
    return Finding("prepared-transactions", Severity.OK, "two-phase commit", "There are none.")


def _vacuums(connection: Connection, tables: Sequence[str]) -> Finding:
    """Warn of vacuums on the plan's tables: the one against wraparound does not give way."""
    found = vacuums(connection, tables)
    if found:
        return Finding(
            "vacuum",
            Severity.WARN,
            ", ".join(f"{table} (pid {pid})" for table, pid, _ in found),
            "A vacuum to prevent wraparound is under way, which does not give way."
            if any(hard for *_, hard in found)
            else "A vacuum is under way; autovacuum gives way to a lock request.",
            "Wait until it has ended (pg_stat_progress_vacuum).",
        )
    return Finding("vacuum", Severity.OK, "vacuum", "None is under way on these tables.")


def _constraints(connection: Connection) -> Finding:
    found = unvalidated_constraints(connection)
    if found:
        return Finding(
            "unvalidated-constraints",
            Severity.WARN,
            ", ".join(f"{item.constraint} on {item.table}" for item in found),
            "Old rows were never checked against them.",
            "ALTER TABLE ... VALIDATE CONSTRAINT ...",
        )
    return Finding("unvalidated-constraints", Severity.OK, "constraints", "All are validated.")


def _standbys(connection: Connection, server: ServerInfo) -> Finding:
    """Warn of standbys and slots that are far behind: a migration's WAL comes on top."""
    behind = [] if server.in_recovery else standbys(connection)
    late = [(name, size) for name, size in behind if size > LATE_BYTES]
    if late:
        return Finding(
            "standbys",
            Severity.WARN,
            ", ".join(name for name, _ in late),
            ", ".join(f"{name} is {size // 2**20} MB of WAL behind" for name, size in late) + ".",
            "Let them catch up; drop a slot that nobody reads from any more.",
        )
    return Finding("standbys", Severity.OK, "replication", "No standby or slot is far behind.")


def _pooler(target: Target) -> Finding:
    """Stop behind a pooler in transaction mode: timeouts and locks of a session do not hold."""
    if settings_stick(target):
        return Finding("pooler", Severity.OK, "session", "What a session sets stays with it.")
    return Finding(
        "pooler",
        Severity.STOP,
        "connection",
        "A pooler in transaction mode is in between: lock_timeout and the advisory lock do not "
        "stay with their session.",
        "Give the target the server's own port, or that of a pool in session mode.",
    )


def _hazards(hazards: Hazards) -> Finding:
    """Stop for statements that would keep others waiting too long, or fail, unless excused."""
    if hazards.stops:
        worst = max(hazards.stops, key=lambda h: h.blocked_s)
        return Finding(
            "hazards",
            Severity.STOP,
            ", ".join(dict.fromkeys(f"{h.rule} on {h.table}" for h in hazards.stops)),
            f"{count(len(hazards.stops), 'statement')} would block others for too long, or fail; "
            f"the worst is in {worst.revision}.",
            "Rewrite them as `preview` proposes, or excuse each in its revision file: "
            f"# playbook: allow {worst.rule} on {worst.table} because ...",
        )
    waits = [h for h in hazards.items if h.severity is not Severity.OK]
    if waits:
        return Finding(
            "hazards",
            Severity.WARN,
            ", ".join(dict.fromkeys(f"{h.rule} on {h.table}" for h in waits)),
            f"{count(len(waits), 'statement')} to look at.",
            "`preview` shows each with its remedy.",
        )
    return Finding("hazards", Severity.OK, "SQL", "No statement keeps others waiting for long.")


def _backups(backups: Backups) -> Finding:
    """Tell the newest backup of this database; whether one is needed, the runbook decides."""
    if not backups.items:
        return Finding("backups", Severity.OK, "backups", "There is none of this database yet.")
    newest, _ = backups.items[0]
    proof = f"verified ({newest.verified})" if newest.verified else "never verified"
    return Finding(
        "backups",
        Severity.OK,
        newest.directory.name,
        f"The newest of {count(len(backups.items), 'backup')}: {moment(newest.started_at)}, at "
        f"{join(newest.revisions)}, {proof}.",
    )


def _client(server: ServerInfo) -> Finding:
    try:
        tools = find_client_tools(server.version_num)
    except BackupFailed as error:
        return Finding("pg-dump", Severity.STOP, "pg_dump", error.problem, error.remedy)
    return Finding(
        "pg-dump", Severity.OK, f"pg_dump {tools.version}", "It serves this server's version."
    )


def _room(server: ServerInfo, folder: Path) -> Finding:
    """Stop if the backup would not fit even when it compresses to half of the database.

    What zstd has not taken up yet lies there as plain text, for a moment: all of it at the worst,
    which is seldom more than the database. Then the backup fails, and says so.
    """
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    room = (
        f"{free // 2**20} MB are free for the backup of a {server.size_bytes // 2**20} MB database"
    )
    if free < server.size_bytes / 2:
        return Finding(
            "disk-room",
            Severity.STOP,
            existing.name,
            f"{room}.",
            "Make room, or choose another folder for backups.",
        )
    if free < server.size_bytes:
        return Finding(
            "disk-room",
            Severity.WARN,
            existing.name,
            f"{room}: enough for what stays, perhaps not for the plain text on its way there.",
            "Make room, or choose another folder for backups.",
        )
    return Finding("disk-room", Severity.OK, "backup", "There is room for it.")
