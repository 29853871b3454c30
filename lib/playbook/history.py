"""The table ``playbook.history`` in a target: who changed it, when, how it ended. Layer 3."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from psycopg2 import sql
from psycopg2.extensions import connection as Connection
from psycopg2.extras import Json

from playbook.catalog import HISTORY_SCHEMA
from playbook.database import connect, fetch, fetch_value
from playbook.errors import PlaybookError
from playbook.receipts import to_step
from playbook.records import History, Receipt, RevisionGraph
from playbook.revisions import applied
from playbook.targets import Target

__all__ = ["edited_revisions", "read_history", "settle_history", "write_history"]

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

_COLUMNS = (
    "run_id, runbook, target, database, outcome, started_at, finished_at, who, "
    "from_revisions, to_revisions, steps, backup, revision_files, message"
)
UPSERT = f"""
INSERT INTO {HISTORY_SCHEMA}.history ({_COLUMNS})
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (run_id) DO UPDATE SET
    outcome = excluded.outcome, finished_at = excluded.finished_at,
    to_revisions = excluded.to_revisions, steps = excluded.steps, backup = excluded.backup,
    revision_files = excluded.revision_files, message = excluded.message
"""
SETTLE = f"""
UPDATE {HISTORY_SCHEMA}.history SET outcome = 'interrupted'
WHERE outcome = 'running' AND run_id <> %s
"""
MAY_READ_HISTORY = f"""
SELECT EXISTS (SELECT FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
               WHERE n.nspname = '{HISTORY_SCHEMA}' AND c.relname = 'history'
                 AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT'))
"""
HISTORY = f"SELECT {_COLUMNS} FROM {HISTORY_SCHEMA}.history ORDER BY started_at DESC, run_id DESC"


def write_history(target: Target, receipt: Receipt) -> None:
    """Put a receipt into the history, or its new state in place of its old one.

    **Effects**: creates the schema ``playbook`` and its table on first use.

    Raises:
        PrivilegeMissing: the role may not create or write it.
    """
    with connect(target) as connection, connection.cursor() as cursor:
        _check_ours(connection)
        if not _has_history(connection):
            cursor.execute(CREATE_HISTORY)
        cursor.execute(sql.SQL(UPSERT), _history_row(receipt))


IS_OURS = f"""
SELECT coalesce(bool_and(
         (pg_has_role(current_user, n.nspowner, 'MEMBER') OR n.nspowner = d.datdba OR r.rolsuper)
         AND (c.oid IS NULL OR c.relowner = n.nspowner)
         AND NOT EXISTS (SELECT FROM pg_trigger AS t WHERE t.tgrelid = c.oid)
         AND NOT coalesce(c.relhasrules, false)), true)
FROM pg_namespace AS n JOIN pg_database AS d ON d.datname = current_database()
JOIN pg_roles AS r ON r.oid = n.nspowner
LEFT JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = 'history'
WHERE n.nspname = '{HISTORY_SCHEMA}'
"""
"""Whether nobody else can have laid a trap: the schema is ours, the database owner's or a
superuser's, and no trigger or rule runs with our rights when a row is written."""


def _check_ours(connection: Connection) -> None:
    if not fetch_value(connection, IS_OURS):
        raise PlaybookError(
            f"{HISTORY_SCHEMA}.history belongs to another role, or has triggers or rules: writing "
            "to it would run their code with this role's rights."
        )


def settle_history(target: Target, run_id: str) -> None:
    """Write ``interrupted`` to every row but one that still says ``running``.

    To be called while the advisory lock is held: such a run is no more, or it is past its changes
    and will write its own end.

    Raises:
        PrivilegeMissing: the role may not write it.
    """
    with connect(target) as connection, connection.cursor() as cursor:
        _check_ours(connection)
        if _has_history(connection):
            cursor.execute(SETTLE, (run_id,))


def read_history(connection: Connection) -> History:
    """Return the runs in ``playbook.history``, the newest first.

    There are none without the table, nor for a role that may not read it.
    """
    if not fetch_value(connection, MAY_READ_HISTORY):
        return History(())
    return History(tuple(_from_row(row) for row in fetch(connection, HISTORY)))


def edited_revisions(history: History, graph: RevisionGraph) -> list[str]:
    """Return applied revisions whose file is not the one that was applied, in upgrade order.

    One whose run failed was never applied: its file is there to be mended.
    """
    known: dict[str, str] = {}
    for run in reversed(history.runs):
        if run.runbook in {"upgrade", "init"}:
            done = {step.revision for step in run.steps}
            known.update({name: sha for name, sha in run.revision_files if name in done})
    here = [r for r in graph.revisions if r.revision in applied(graph)]
    return [r.revision for r in here if known.get(r.revision, r.sha256) != r.sha256]


def _has_history(connection: Connection) -> bool:
    query = "SELECT to_regclass(%s) IS NOT NULL"
    return bool(fetch_value(connection, query, (f"{HISTORY_SCHEMA}.history",)))


def _history_row(receipt: Receipt) -> tuple[Any, ...]:
    steps: Sequence[Any] = [asdict(step) for step in receipt.steps]
    return (
        receipt.run_id,
        receipt.runbook,
        receipt.target,
        receipt.database,
        receipt.outcome,
        receipt.started_at,
        receipt.finished_at,
        receipt.who,
        list(receipt.from_revisions),
        list(receipt.to_revisions),
        Json(steps),
        receipt.backup,
        Json(receipt.revision_files),
        receipt.message,
    )


def _from_row(row: tuple[Any, ...]) -> Receipt:
    *head, from_revisions, to_revisions, steps, backup, files, message = row
    run_id, runbook, target, database, outcome, started_at, finished_at, who = head
    return Receipt(
        run_id=run_id,
        runbook=runbook,
        target=target,
        database=database,
        outcome=outcome,
        started_at=started_at,
        finished_at=finished_at,
        who=who,
        from_revisions=tuple(from_revisions),
        to_revisions=tuple(to_revisions),
        steps=tuple(to_step(step) for step in steps),
        backup=backup,
        revision_files=tuple((name, digest) for name, digest in files),
        message=message,
        directory=Path(run_id),
    )
