"""Findings about what others do in the database: sessions, transactions, vacuums. Layer 3: reads.

Every finding that means sessions names their pids; nothing here ends one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from psycopg2.extensions import connection as Connection

from playbook import catalog
from playbook.formats import seconds
from playbook.needs import concurrent_locks
from playbook.records import Blocker, Finding, Severity

__all__ = ["find_obstacles"]

LONG_TRANSACTION_S = 60.0
"""Far above what an application takes: GitLab ended transactions that idled for as long."""
IDLE_TRANSACTION_S = 15.0
"""GitLab ended idle transactions after a minute, then proposed this: "an anti-pattern" that holds
a connection and its locks (gitlab.com/gitlab-com/gl-infra/production, issue 915)."""
OLD_SNAPSHOT_S = 2.0
"""As long as a step in a transaction waits for a lock by default; younger ones end themselves."""
CLOSE_TO_FREEZE = 0.95
"""Of the age at which a vacuum to prevent wraparound is forced: it may begin during the run."""
CONCURRENTLY_WAIT = "5 min"
"""`playbook.migrate.CONCURRENTLY_TIMEOUT`, as shown."""


def find_obstacles(
    connection: Connection, locks: Mapping[str, str], sql: str, tables: Sequence[str]
) -> list[Finding]:
    """Return a finding per kind of obstacle to a plan with these locks, SQL and tables."""
    waits = concurrent_locks(sql)
    return [
        _holders(connection, locks, waits),
        _running(connection),
        _idle(connection),
        *([_snapshots(connection)] if waits else []),
        _prepared(connection, locks, waits),
        _vacuums(connection, tables),
    ]


def _holders(connection: Connection, locks: Mapping[str, str], waits: Mapping[str, str]) -> Finding:
    """Warn of sessions that the plan's steps will wait for."""
    found = {s.pid: s for wanted in (locks, waits) for s in catalog.holders(connection, wanted)}
    if not found:
        return Finding("lock-holders", Severity.OK, "sessions", "None is in the way.")
    return Finding(
        "lock-holders",
        Severity.WARN,
        _pids(list(found.values())),
        "; ".join(_session(session) for session in found.values()) + ".",
        f"Wait for them, or end them: {_terminate(list(found))}.",
        "Their locks conflict with the plan's: its steps wait for them, and give up if they stay.",
    )


def _running(connection: Connection) -> Finding:
    old = catalog.open_transactions(connection, older_than_s=LONG_TRANSACTION_S)
    running = [session for session in old if not _is_idle(session)]
    if not running:
        return Finding("open-transactions", Severity.OK, "sessions", "None has run for long.")
    return Finding(
        "open-transactions",
        Severity.WARN,
        _pids(running),
        "; ".join(_session(session) for session in running) + ".",
        f"Wait for them, or end them: {_terminate([s.pid for s in running])}.",
        "They keep every lock taken so far, and may take one on the plan's tables any moment.",
    )


def _idle(connection: Connection) -> Finding:
    """Warn of sessions that have opened a transaction and do nothing in it."""
    transactions = catalog.open_transactions(connection, older_than_s=IDLE_TRANSACTION_S)
    idle = [s for s in transactions if _is_idle(s) and s.state_age_s > IDLE_TRANSACTION_S]
    if not idle:
        return Finding("idle-in-transaction", Severity.OK, "sessions", "None idles for long.")
    return Finding(
        "idle-in-transaction",
        Severity.WARN,
        _pids(idle),
        "; ".join(_session(session) for session in idle) + ".",
        f"Have the application commit, or end them: {_terminate([s.pid for s in idle])}; "
        "idle_in_transaction_session_timeout ends them in time.",
        "They do nothing, yet keep their locks and hold up vacuum until somebody ends them.",
    )


def _snapshots(connection: Connection) -> Finding:
    """Warn of sessions whose snapshots a concurrent build waits for."""
    old = catalog.old_snapshots(connection, older_than_s=OLD_SNAPSHOT_S)
    if not old:
        return Finding("old-snapshots", Severity.OK, "snapshots", "None is old.")
    return Finding(
        "old-snapshots",
        Severity.WARN,
        _pids(old),
        "; ".join(_session(session) for session in old) + ".",
        f"Wait for them, or end them: {_terminate([s.pid for s in old])}.",
        "CREATE INDEX CONCURRENTLY waits for every older snapshot of the database, on whatever "
        f"table: up to {CONCURRENTLY_WAIT}, then it fails and leaves an invalid index.",
    )


def _prepared(
    connection: Connection, locks: Mapping[str, str], waits: Mapping[str, str]
) -> Finding:
    """Stop for prepared transactions in the plan's way, warn of others."""
    prepared = catalog.prepared_transactions(connection, locks)
    held = {gid: tables for gid, _, _, tables in prepared if tables}
    for gid, _, _, tables in catalog.prepared_transactions(connection, waits):
        if tables:
            held[gid] = tuple(sorted({*held.get(gid, ()), *tables}))
    if not prepared:
        none = "There are none."
        return Finding("prepared-transactions", Severity.OK, "two-phase commit", none)
    ages = "; ".join(
        f"{gid!r} of {owner}, {seconds(age_s)} old"
        + (f", holds locks on {', '.join(held[gid])}" if gid in held else "")
        for gid, owner, age_s, _ in prepared
    )
    return Finding(
        "prepared-transactions",
        Severity.STOP if held else Severity.WARN,
        ", ".join(gid for gid, *_ in prepared),
        f"{ages}.",
        "Ask the transaction manager, then COMMIT PREPARED or ROLLBACK PREPARED each by its name.",
        "No session owns them any more: nobody will release their locks by ending, and a restart "
        "does not either.",
    )


def _vacuums(connection: Connection, tables: Sequence[str]) -> Finding:
    """Warn of vacuums on the plan's tables, and of one that is about to be forced."""
    under_way = catalog.vacuums(connection, tables)
    ages = catalog.freeze_ages(connection, tables)
    near = [(name, age) for name, age in ages if age >= CLOSE_TO_FREEZE]
    if not under_way and not near:
        return Finding("vacuum", Severity.OK, "vacuum", "None is under way on these tables.")
    facts = [_vacuum(table, pid, hard) for table, pid, hard in under_way]
    facts += [
        f"{table} is at {age:.0%} of the age at which a vacuum to prevent wraparound is forced"
        for table, age in near
    ]
    return Finding(
        "vacuum",
        Severity.WARN,
        ", ".join([f"{table} (pid {pid})" for table, pid, _ in under_way] + [t for t, _ in near]),
        "; ".join(facts) + ".",
        "Wait until it has ended (pg_stat_progress_vacuum)."
        if under_way
        else f"VACUUM (FREEZE) {', '.join(table for table, _ in near)} before the run.",
        "A vacuum's lock conflicts with that of ALTER TABLE and of an index build. Autovacuum "
        "gives way to a lock request, one against wraparound or by hand does not.",
    )


def _vacuum(table: str, pid: int, hard: bool) -> str:
    if hard:
        return f"pid {pid} vacuums {table} to prevent wraparound"
    return f"pid {pid} vacuums {table}"


def _is_idle(session: Blocker) -> bool:
    return session.state.startswith("idle in transaction")


def _pids(sessions: Sequence[Blocker]) -> str:
    return ", ".join(f"pid {session.pid}" for session in sessions)


def _terminate(pids: Sequence[int]) -> str:
    """Return the statement that ends some sessions."""
    return "; ".join(f"SELECT pg_terminate_backend({pid})" for pid in pids)


def _session(session: Blocker) -> str:
    """Return who a session is, since when it is in its state, and what it holds."""
    held = f", holds locks on {', '.join(session.tables)}" if session.tables else ""
    since = f" for {seconds(session.state_age_s)}" if _is_idle(session) else ""
    return (
        f"pid {session.pid}: {session.user} in {session.application or 'an unnamed application'}, "
        f"{session.state}{since}, transaction open for {seconds(session.transaction_age_s)}{held}"
    )
