"""Questions asked of a database before a change: OK, WARN or STOP. Layer 4: reads only.

Each question is one function that returns one finding with the fact, and the remedy where there
is something to do. The answers are in the order in which they were asked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from psycopg2.extensions import connection as Connection

from playbook.catalog import (
    droppable_schemas,
    invalid_indexes,
    relation_exists,
    standbys,
    table_names,
    unreadable_tables,
    unvalidated_constraints,
)
from playbook.database import connect, is_pooled, lock_holder
from playbook.formats import count, moment
from playbook.hazards import names_of, way_out
from playbook.obstacles import find_obstacles
from playbook.privileges import (
    find_dump_rights,
    find_hidden_sessions,
    find_history_rights,
    find_privileges,
    find_row_security,
)
from playbook.records import (
    Backups,
    Checks,
    DataCheckResult,
    DataChecks,
    Finding,
    Hazards,
    Receipt,
    RevisionGraph,
    ServerInfo,
    Severity,
)
from playbook.revisions import applied, join, pending
from playbook.room import backup_room, find_client, server_room
from playbook.targets import Target

__all__ = ["Question", "check"]

OLDEST_SUPPORTED = 130000
"""PostgreSQL 13, as server_version_num."""
LATE_BYTES = 256 * 1024 * 1024
"""A standby so far behind needs many segments of WAL (16 MB each) to catch up."""


@dataclass(frozen=True)
class Question:
    """What the answers depend on besides the database.

    ``tables``, ``locks`` (the mode on each table), ``sql`` and ``hazards`` are those of the plan;
    ``sql`` is "" where nothing will run. ``backup_folder`` is where a backup will go (None: none
    will be taken); ``backups`` are those that there are, ``checks`` the data checks as they are now
    (None: not asked).
    """

    graph: RevisionGraph
    tables: Sequence[str] = ()
    locks: Mapping[str, str] = field(default_factory=dict)
    edited: Sequence[str] = ()
    receipts: Sequence[Receipt] = ()
    backup_folder: Path | None = None
    hazards: Hazards | None = None
    backups: Backups | None = None
    sql: str = ""
    checks: DataChecks | None = None


WHY: Mapping[str, str] = {
    "server": "A standby refuses every write; on a version never tried, SQL may act differently.",
    "version-table": "Alembic decides by this table what is to run: if it is wrong, revisions run "
    "twice or never.",
    "heads": "`head` names no single revision, so Alembic refuses it.",
    "revision-files": "Databases made from the edited file differ from this one, and a rollback "
    "undoes something else than what was done.",
    "privileges": "The first statement that lacks one fails in the middle of the upgrade.",
    "history": "Edited files, earlier runs and who changed what are then known on this machine "
    "only; the run itself goes on.",
    "row-level-security": "Rows that a policy hides would be missed by updates, counts and the "
    "backup; this session makes that an error instead.",
    "other-run": "Two runs at once apply the same revision twice, or deadlock.",
    "last-run": "What stopped it may stop this run too, or have left something half done.",
    "invalid-indexes": "They slow every write and serve no query; a unique one does not guard.",
    "unvalidated-constraints": "A later revision that relies on them meets rows that break them.",
    "standbys": "A migration's WAL comes on top: replicas serve older data, and a slot fills the "
    "primary's disk.",
    "hazards": "Whoever reads or writes these tables waits meanwhile, and so does the application.",
    "data-checks": "They fail after the upgrade too, and hide what the upgrade itself breaks.",
    "backups": "Without one, what a change destroys is gone.",
    "backup-privileges": "pg_dump would fail at the first of them, and there would be no backup.",
    "hidden-sessions": "Long transactions and old snapshots of theirs are not among what is found "
    "here; locks are.",
    "pg-dump": "Without a pg_dump as new as the server there is no backup.",
    "disk-room": "A backup that does not fit is none, and a full disk stops other programs.",
    "server-room": "A rewritten table needs its size once more until commit; a server whose disk "
    "is full stops.",
}
"""Why a finding matters where it does not say so itself, by its code."""


def check(target: Target, server: ServerInfo, question: Question) -> Checks:
    """Ask everything, in one read-only session."""
    version_table = (question.graph.version_table_schema, question.graph.version_table)
    with connect(target, read_only=True) as connection:
        findings = [
            _server(server),
            _version_table(connection, question.graph, target.schemas),
            *_names(connection),
            _heads(question.graph),
            _files(question.edited),
            find_privileges(connection, question.sql, question.tables, version_table),
            *_for_what_runs(connection, server, question),
            find_row_security(connection, question.tables),
            _other_run(connection),
            _last_run([r for r in question.receipts if r.runbook != "rehearse"], question.graph),
            *find_obstacles(connection, question.locks, question.sql, question.tables),
            *find_hidden_sessions(connection),
            _indexes(connection),
            _constraints(connection),
            _standbys(connection, server),
            _pooler(connection),
            *(find_dump_rights(connection) if question.backup_folder else ()),
        ]
    if question.hazards is not None:
        findings.append(_hazards(question.hazards))
    if question.backups is not None:
        findings.append(_backups(question.backups))
    if question.checks is not None:
        findings.append(_data(question.checks))
    if question.backup_folder:
        findings += [find_client(server), backup_room(server, question.backup_folder)]
    return Checks(tuple(map(_with_reason, findings)))


def _with_reason(finding: Finding) -> Finding:
    if finding.severity is Severity.OK:
        return finding
    return replace(finding, why=finding.why or WHY[finding.code])


def _for_what_runs(
    connection: Connection, server: ServerInfo, question: Question
) -> tuple[Finding, ...]:
    """Return what matters only if something will run."""
    if not question.sql:
        return ()
    return (find_history_rights(connection), server_room(connection, server, question.tables))


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


def _version_table(
    connection: Connection, graph: RevisionGraph, schemas: Sequence[str] = ()
) -> Finding:
    name = f"{graph.version_table_schema or 'public'}.{graph.version_table}"
    if graph.unknown:
        return Finding(
            "version-table",
            Severity.STOP,
            name,
            f"It holds {join(graph.unknown)}, which no revision file has.",
            "Bring the missing file back, or check that this is the right project; `repair` says "
            "what the schema is and offers the remedy.",
        )
    disorder = _disorder(graph)
    if disorder:
        return Finding(
            "version-table",
            Severity.STOP,
            name,
            disorder,
            f"Delete that row from {name}, or let `repair` do it (-r apply tidy).",
        )
    # Where env.py has found a revision there is a table, wherever this session looks for it.
    # Another application's tables, which this role may not even read, are none of the project's.
    foreign = {name, *unreadable_tables(connection)}
    others = [t for t in table_names(connection) if t not in foreign and not graph.current]
    if schemas:  # those of other tenants are none of it
        others = [t for t in others if t.startswith(tuple(f"{name}." for name in schemas))]
    if others and not relation_exists(connection, graph.version_table_schema, graph.version_table):
        return Finding(
            "version-table",
            Severity.STOP,
            name,
            f"There is none, but {count(len(others), 'table')}, made without Alembic.",
            "`repair` finds the revision that they equal and stamps it; if the first revision "
            "stands on them, write `alembic stamp base`.",
        )
    return Finding("version-table", Severity.OK, name, f"The database is at {join(graph.current)}.")


def _names(connection: Connection) -> tuple[Finding, ...]:
    """Stop for tables in a schema with a dot in its name, which are not told apart from others."""
    dotted = [name for name in droppable_schemas(connection) if "." in name]
    held = [n for n in dotted if any(t.startswith(f"{n}.") for t in table_names(connection))]
    if not held:
        return ()
    return (
        Finding(
            "schema-names",
            Severity.STOP,
            ", ".join(held),
            "The schema's name has a dot in it: the playbook would take it for a schema and a "
            "table.",
            "ALTER SCHEMA ... RENAME TO a name without a dot, or migrate it by Alembic alone.",
            "Its tables could not be counted, compared or saved.",
        ),
    )


def _disorder(graph: RevisionGraph) -> str:
    """Return which row of the version table cannot be; "" if all can.

    Alembic keeps one row per head of what is applied, so no row is a parent of another.
    """
    twice = [one for one, number in Counter(graph.current).items() if number > 1]
    if twice:
        return f"It holds {join(twice)} more than once."
    for one in graph.current:
        below = applied(replace(graph, current=(one,))) - {one}
        under = [other for other in graph.current if other in below]
        if under:
            return f"It holds {join(under)} beside {one}, which already stands on it."
    return ""


def _heads(graph: RevisionGraph) -> Finding:
    if len(graph.heads) > 1:
        return Finding(
            "heads",
            Severity.WARN,
            join(graph.heads),
            "There are several heads.",
            "Write -r target heads, branch@head or one of them, or merge them (`repair`).",
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


def _last_run(receipts: Sequence[Receipt], graph: RevisionGraph) -> Finding:
    """Warn if the last writing run here was killed or failed, and say how to go on."""
    if not receipts:
        return Finding("last-run", Severity.OK, "receipts", "There was none yet.")
    last = receipts[0]
    if last.outcome == "interrupted":
        return Finding(
            "last-run", Severity.WARN, last.run_id, _interrupted(last, graph), _go_on(last)
        )
    if last.outcome == "failed":
        return Finding(
            "last-run",
            Severity.WARN,
            last.run_id,
            f"It failed: {last.message}{_half_applied(last, graph)}",
            f"See that its cause is mended, then run `{last.runbook}` again.",
        )
    return Finding("last-run", Severity.OK, "receipts", f"The last run ended: {last.outcome}.")


def _interrupted(last: Receipt, graph: RevisionGraph) -> str:
    """Return what is known of a killed run: where it began, what was under way, where it is."""
    begun = f"It was interrupted; it had begun at {join(last.from_revisions)}"
    if last.goal is None and last.runbook != "init":
        return f"{begun} and had changed nothing."
    place = f"the database is at {join(graph.current)} now"
    if not _is_unfinished(last, graph):
        return f"{begun}, and {place}."
    rolled_back = "" if last.leaves_transaction else f" {last.under_way} was rolled back whole."
    return f"{begun}, and {place}.{rolled_back}{_half_applied(last, graph)}"


def _is_unfinished(last: Receipt, graph: RevisionGraph) -> bool:
    """Say whether the revision that was under way when a run ended did not come through."""
    done = (last.under_way in applied(graph)) == (last.direction == "upgrade")
    return bool(last.under_way) and not done


def _half_applied(last: Receipt, graph: RevisionGraph) -> str:
    """Name the revision of which a run may have left a part; "" if it cannot have."""
    if not last.leaves_transaction or not _is_unfinished(last, graph):
        return ""
    return f" {last.under_way} is half-applied: it commits parts of itself, which may be there."


def _go_on(last: Receipt) -> str:
    if last.goal is None:
        return f"Run `{last.runbook}` again."
    onward = {"upgrade": "upgrade", "downgrade": "rollback"}[last.direction]
    if len(last.goal) > 1:
        return f"`{onward}` goes on from there."
    return f"`{onward}` with -r target {join(last.goal)} goes on from there."


def _indexes(connection: Connection) -> Finding:
    invalid = invalid_indexes(connection)
    if invalid:
        return Finding(
            "invalid-indexes",
            Severity.WARN,
            ", ".join(item.index for item in invalid),
            "No query uses them: an earlier concurrent build failed.",
            "`repair` builds them again, concurrently, or drops them.",
        )
    return Finding("invalid-indexes", Severity.OK, "indexes", "All are valid.")


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


def _pooler(connection: Connection) -> Finding:
    """Tell of a pooler; one in transaction mode was refused when the connection was opened."""
    kept = "What a session sets stays with it."
    if is_pooled(connection):
        return Finding("pooler", Severity.OK, "pool in session mode", kept)
    return Finding("pooler", Severity.OK, "session", kept)


def _hazards(hazards: Hazards) -> Finding:
    """Stop for statements that would keep others waiting too long, or fail, unless excused."""
    certain = [h for h in hazards.stops if h.is_certain]
    if certain:
        return Finding(
            "hazards",
            Severity.STOP,
            names_of(certain),
            " ".join(h.detail for h in certain),
            way_out(certain, "`preview`"),
            "The upgrade would stop at it, and stay at the revision before.",
        )
    if hazards.stops:
        worst = max(hazards.stops, key=lambda h: h.blocked_s)
        return Finding(
            "hazards",
            Severity.STOP,
            names_of(hazards.stops),
            f"{count(len(hazards.stops), 'statement')} would block others for too long, or fail; "
            f"the worst is in {worst.revision}.",
            way_out(hazards.stops, "`preview`"),
        )
    waits = [h for h in hazards.items if h.severity is not Severity.OK]
    if waits:
        return Finding(
            "hazards",
            Severity.WARN,
            names_of(waits),
            f"{count(len(waits), 'statement')} to look at.",
            "`preview` shows each with its remedy.",
            "" if any(h.table for h in waits) else "They may block, break or destroy, unseen.",
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
        "backups",
        f"The newest of {count(len(backups.items), 'backup')}: {newest.directory.name}, made "
        f"{moment(newest.started_at)}, at {join(newest.revisions)}, {proof}.",
    )


def _data(checks: DataChecks) -> Finding:
    """Warn of rows that break the rules already."""
    if checks.failed:
        return Finding(
            "data-checks",
            Severity.WARN,
            ", ".join(check.name for check in checks.failed),
            f"Broken already before the upgrade: {'; '.join(map(_failed, checks.failed))}.",
            "Correct the rows first (`verify` shows some of them), or go on: they do not fail it.",
        )
    said = f"All {len(checks.results)} hold." if checks.results else "There are none."
    return Finding("data-checks", Severity.OK, "rows", said)


def _failed(check: DataCheckResult) -> str:
    return f"{check.name} ({check.error or count(check.failing_rows, 'row')})"
