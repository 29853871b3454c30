"""The tables ``playbook.history`` and ``playbook.log`` in a target. Layer 3.

The history has one row per run, in its last state: who changed the target, when, how it ended.
The log beside it is only ever added to: each write of a row appends, in the same transaction,
an entry of what changed, chained to the one before by its hash (`playbook.chain`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from psycopg2 import sql
from psycopg2.extensions import connection as Connection
from psycopg2.extras import Json

from playbook.catalog import HISTORY_SCHEMA
from playbook.chain import change, find_tampering, seal
from playbook.database import connect, fetch, fetch_value
from playbook.errors import PlaybookError
from playbook.formats import count
from playbook.receipts import from_step, to_step
from playbook.records import Finding, History, LogEntry, Receipt, Severity
from playbook.targets import Target

__all__ = [
    "check_history",
    "has_history",
    "read_history",
    "read_log",
    "settle_history",
    "write_history",
]

CREATE_HISTORY = f"""
CREATE SCHEMA IF NOT EXISTS {HISTORY_SCHEMA};
CREATE TABLE IF NOT EXISTS {HISTORY_SCHEMA}.history (
    run_id text PRIMARY KEY,
    runbook text NOT NULL,
    target text NOT NULL,
    database text NOT NULL,
    outcome text NOT NULL,
    started_at timestamptz NOT NULL,
    finished_at timestamptz,
    who text NOT NULL,
    from_revisions text[] NOT NULL,
    to_revisions text[] NOT NULL,
    steps jsonb NOT NULL,
    backup text NOT NULL,
    revision_files jsonb NOT NULL,
    message text NOT NULL
)
"""
CREATE_LOG = f"""
ALTER TABLE {HISTORY_SCHEMA}.history
    ADD COLUMN IF NOT EXISTS host text NOT NULL DEFAULT '',
    ADD COLUMN IF NOT EXISTS system_identifier text NOT NULL DEFAULT '',
    ADD COLUMN IF NOT EXISTS database_oid bigint NOT NULL DEFAULT 0;
CREATE TABLE {HISTORY_SCHEMA}.log (
    number bigint PRIMARY KEY,
    at timestamptz NOT NULL,
    run_id text NOT NULL,
    record jsonb NOT NULL,
    previous text NOT NULL,
    sha256 text NOT NULL
);
CREATE INDEX ON {HISTORY_SCHEMA}.log (run_id)
"""
"""What the first version of the history had not: where there is a log, there is all of it."""

LOG_LOCK = 0x706C61796C6F6773
"""The key of the transaction's advisory lock by which entries are appended one after the other:
the ASCII codes of "playlogs". A lock on the table would need more than INSERT on it."""
WRITING = {"default_transaction_isolation": "read committed", "TimeZone": "UTC"}
"""Who has waited for the lock must see the entry that was appended meanwhile."""
READING = {"default_transaction_isolation": "repeatable read", "TimeZone": "UTC"}
"""The log and the history are read as of one moment: a run may be writing to both."""

_COLUMNS = (
    "run_id, runbook, target, database, outcome, started_at, finished_at, who, host, "
    "from_revisions, to_revisions, steps, backup, revision_files, message, "
    "system_identifier, database_oid"
)
UPSERT = f"""
INSERT INTO {HISTORY_SCHEMA}.history AS h ({_COLUMNS})
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (run_id) DO UPDATE SET
    outcome = excluded.outcome, finished_at = excluded.finished_at,
    to_revisions = excluded.to_revisions, steps = excluded.steps, backup = excluded.backup,
    revision_files = excluded.revision_files, message = excluded.message
RETURNING to_jsonb(h)
"""
RUNNING = f"""
SELECT run_id FROM {HISTORY_SCHEMA}.history
WHERE outcome = 'running' AND run_id <> %s ORDER BY started_at, run_id
"""
SETTLE = f"""
UPDATE {HISTORY_SCHEMA}.history AS h SET outcome = 'interrupted'
WHERE run_id = %s RETURNING to_jsonb(h)
"""
LOGGED_ROW = f"""
SELECT to_jsonb(h) FROM {HISTORY_SCHEMA}.history AS h
WHERE run_id = %s AND EXISTS (SELECT FROM {HISTORY_SCHEMA}.log AS l WHERE l.run_id = h.run_id)
"""
LAST_ENTRY = f"""
SELECT coalesce(max(number), 0), clock_timestamp(),
       coalesce((array_agg(sha256 ORDER BY number DESC))[1], '')
FROM (SELECT number, sha256 FROM {HISTORY_SCHEMA}.log ORDER BY number DESC LIMIT 1) AS last
"""
APPEND = f"""
INSERT INTO {HISTORY_SCHEMA}.log (number, at, run_id, record, previous, sha256)
VALUES (%s, %s, %s, %s, %s, %s)
"""
READABLE = f"""
SELECT c.relname,
       has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = '{HISTORY_SCHEMA}' AND c.relname IN ('history', 'log')
  -- A table of that name which somebody else made is not the history.
  AND EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attname = 'run_id')
ORDER BY 1
"""
HISTORY = f"""
SELECT to_jsonb(h) FROM {HISTORY_SCHEMA}.history AS h ORDER BY started_at DESC, run_id DESC
"""
"""Whole rows, as a table that an older version made has fewer columns."""
LOG = f"""
SELECT number, at, run_id, record, previous, sha256 FROM {HISTORY_SCHEMA}.log
ORDER BY number, sha256
"""


def write_history(target: Target, receipt: Receipt) -> str:
    """Put a receipt into the history, or its new state in place of its old one, and log it.

    **Effects**: creates the schema ``playbook`` and its tables on first use.

    Returns:
        The SHA-256 of the log's new entry.

    Raises:
        PrivilegeMissing: the role may not create or write it.
    """
    with _writing(target) as connection:
        if not _exists(connection, "history"):
            _run(connection, CREATE_HISTORY)
        _begin_log(connection)
        before = _logged_row(connection, receipt.run_id)
        ((after,),) = fetch(connection, UPSERT, _history_row(receipt))
        return _append(connection, receipt.run_id, before, after)


def settle_history(target: Target, run_id: str) -> None:
    """Write ``interrupted`` to every row but one that still says ``running``, and log it.

    To be called while the advisory lock is held: such a run is no more, or it is past its changes
    and will write its own end.

    Raises:
        PrivilegeMissing: the role may not write it.
    """
    with _writing(target) as connection:
        if not _exists(connection, "history"):
            return
        _begin_log(connection)
        for (running,) in fetch(connection, RUNNING, (run_id,)):
            before = _logged_row(connection, running)
            ((after,),) = fetch(connection, SETTLE, (running,))
            _append(connection, running, before, after)


@contextmanager
def _writing(target: Target) -> Iterator[Connection]:
    """Open the one transaction in which a row and its entry are written; others wait for it."""
    with connect(target, autocommit=False, settings=WRITING) as connection:
        _check_ours(connection)
        fetch(connection, "SELECT pg_advisory_xact_lock(%s)", (LOG_LOCK,))
        yield connection
        connection.commit()


def _begin_log(connection: Connection) -> None:
    """Make the log if there is none; what the history holds already becomes its first entries."""
    if _exists(connection, "log"):
        return
    _run(connection, CREATE_LOG)
    for (row,) in reversed(fetch(connection, HISTORY)):
        _append(connection, row["run_id"], {}, row)


def _logged_row(connection: Connection, run_id: str) -> Mapping[str, Any]:
    rows = fetch(connection, LOGGED_ROW, (run_id,))
    return rows[0][0] if rows else {}


def _append(
    connection: Connection, run_id: str, before: Mapping[str, Any], after: Mapping[str, Any]
) -> str:
    """Append what changed in a row, sealed; return its SHA-256."""
    record = change(before, after)
    ((last, at, previous),) = fetch(connection, LAST_ENTRY)
    sha256 = seal(last + 1, at, run_id, record, previous)
    _run(connection, APPEND, (last + 1, at, run_id, Json(record), previous, sha256))
    return sha256


def _run(connection: Connection, statement: str, parameters: Sequence[Any] | None = None) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql.SQL(statement), parameters)


IS_OURS = f"""
SELECT coalesce(bool_and(
         (pg_has_role(current_user, n.nspowner, 'MEMBER') OR n.nspowner = d.datdba OR r.rolsuper)
         AND (c.oid IS NULL OR c.relowner = n.nspowner)
         AND NOT EXISTS (SELECT FROM pg_trigger AS t WHERE t.tgrelid = c.oid)
         AND NOT coalesce(c.relhasrules, false)), true)
FROM pg_namespace AS n JOIN pg_database AS d ON d.datname = current_database()
JOIN pg_roles AS r ON r.oid = n.nspowner
LEFT JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname IN ('history', 'log')
WHERE n.nspname = '{HISTORY_SCHEMA}'
"""
"""Whether nobody else can have laid a trap: the schema is ours, the database owner's or a
superuser's, and no trigger or rule runs with our rights when a row is written."""


def _check_ours(connection: Connection) -> None:
    if not fetch_value(connection, IS_OURS):
        raise PlaybookError(
            f"{HISTORY_SCHEMA}.history or {HISTORY_SCHEMA}.log belongs to another role, or has "
            "triggers or rules: writing to it would run their code with this role's rights."
        )


def read_history(connection: Connection) -> History:
    """Return the runs in ``playbook.history``, the newest first.

    There are none without the table, nor for a role that may not read it.
    """
    if not _readable(connection).get("history"):
        return History(())
    return History(tuple(_from_row(row) for (row,) in fetch(connection, HISTORY)))


def read_log(connection: Connection) -> tuple[LogEntry, ...]:
    """Return the entries of ``playbook.log``, by number."""
    return tuple(LogEntry(*row) for row in fetch(connection, LOG))


def check_history(target: Target, receipts: Sequence[Receipt]) -> Finding:
    """Say whether the history is what the runs have written, or name what was changed first.

    Args:
        receipts: those of runs on this database, read just before: what they know of is written.
    """
    with connect(target, read_only=True, autocommit=False, settings=READING) as connection:
        readable = _readable(connection)
        if why := _unchecked(readable, receipts):
            return Finding("history", Severity.OK, HISTORY_SCHEMA, why)
        log = read_log(connection) if "log" in readable else ()
        rows = fetch(connection, HISTORY) if len(readable) == 2 else []
    found = find_tampering(log, {row["run_id"]: row for (row,) in rows}, receipts)
    if found:
        more = f" (And {len(found) - 1} more.)" if len(found) > 1 else ""
        return replace(found[0], detail=f"{found[0].detail}{more}")
    runs, entries = count(len(rows), "run"), count(len(log), "entry", "entries")
    said = f"It is as it was written: {runs}, {entries}, and the chain of hashes is whole."
    return Finding("history", Severity.OK, HISTORY_SCHEMA, said)


def _unchecked(readable: Mapping[str, bool], receipts: Sequence[Receipt]) -> str:
    """Return why there is nothing to check; "" if there is."""
    if not all(readable.values()):
        return "This role may not read the history, so it was not checked."
    if "log" in readable or any(receipt.history_sha256 for receipt in receipts):
        return ""
    if "history" in readable:
        return "It is of before there was a log: the next run begins one."
    return "No run has been recorded in the target yet."


def has_history(target: Target) -> bool:
    """Say whether the target keeps a history already."""
    with connect(target, read_only=True) as connection:
        return "history" in _readable(connection)


def _readable(connection: Connection) -> dict[str, bool]:
    """Return which of the two tables there are, and whether this role may read them."""
    return {table: bool(may) for table, may in fetch(connection, READABLE)}


def _exists(connection: Connection, table: str) -> bool:
    query = "SELECT to_regclass(%s) IS NOT NULL"
    return bool(fetch_value(connection, query, (f"{HISTORY_SCHEMA}.{table}",)))


def _history_row(receipt: Receipt) -> tuple[Any, ...]:
    """Return the values of `_COLUMNS`."""
    steps: Sequence[Any] = [from_step(step) for step in receipt.steps]
    return (
        receipt.run_id,
        receipt.runbook,
        receipt.target,
        receipt.database,
        receipt.outcome,
        receipt.started_at,
        receipt.finished_at,
        receipt.who,
        receipt.host,
        list(receipt.from_revisions),
        list(receipt.to_revisions),
        Json(steps),
        receipt.backup,
        Json(receipt.revision_files),
        receipt.message,
        receipt.system_identifier,
        receipt.database_oid,
    )


def _from_row(row: Mapping[str, Any]) -> Receipt:
    finished = row["finished_at"]
    return Receipt(
        run_id=row["run_id"],
        runbook=row["runbook"],
        target=row["target"],
        database=row["database"],
        outcome=row["outcome"],
        started_at=datetime.fromisoformat(row["started_at"]),
        finished_at=datetime.fromisoformat(finished) if finished else None,
        who=row["who"],
        from_revisions=tuple(row["from_revisions"]),
        to_revisions=tuple(row["to_revisions"]),
        steps=tuple(to_step(step) for step in row["steps"]),
        backup=row["backup"],
        revision_files=tuple((name, digest) for name, digest in row["revision_files"]),
        message=row["message"],
        directory=Path(row["run_id"]),
        host=row.get("host", ""),
        system_identifier=row.get("system_identifier", ""),
        database_oid=row.get("database_oid", 0),
    )
