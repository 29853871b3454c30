"""Exact row counts and column fingerprints of every table, in one consistent view. Layer 3: reads.

Several sessions share one exported snapshot, so that what they read is of one moment. What a
fingerprint is made of, `playbook.fingerprints` says. A limit on size or time leaves out blocks or
whole tables, and the snapshot says which.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import psycopg2.errors
import psycopg2.extensions
from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from playbook.catalog import table_columns, table_names, table_storage, unreadable_tables
from playbook.database import Row, connect, fetch, fetch_value, identifier
from playbook.errors import CannotConnect, PlaybookError
from playbook.fingerprints import TEXT_FORMS, Columns, form_of, statistics, statistics_query
from playbook.records import ColumnSnapshot, Snapshot, TableSnapshot, TableStorage
from playbook.targets import Target, parse_duration_s, parse_size_bytes

__all__ = [
    "EVERYTHING",
    "Reading",
    "count_rows",
    "count_written_after",
    "count_written_by",
    "holds_rows",
    "read_snapshot",
    "read_tables",
    "reading",
    "take_snapshot",
    "write_snapshot",
    "written_since",
]

MOST_JOBS = 4
PARALLEL_ABOVE_BYTES = 64 * 1024**2
"""Below it a second session costs about what it gives.

Measured on 2 cores with PostgreSQL 18: a session more costs 10 ms; 8 tables of 8 MB took 0.31 s by
one session or two, 8 of 40 MB 1.02 s by one and 0.69 s by two.
"""
QUIET_S = 2.0
"""How long nothing is said of reading that goes on, and then how often something is."""
OUT_OF_TIME = "not read: time budget"
NOT_ALLOWED = "not read: no SELECT on it"

BEGIN, FREE = sql.SQL("SAVEPOINT ask"), sql.SQL("ROLLBACK TO SAVEPOINT ask")
"""Of what was asked since, a rollback undoes the failure, the limit, and the lock on a table."""
SET_LIMIT = sql.SQL("SELECT set_config('statement_timeout', {}, true)")
"""In one text with a query it holds for it: from PostgreSQL 13 on each statement is timed alone."""
MOMENT = """
SELECT current_database(), pg_snapshot_xmax(pg_current_snapshot())::text::bigint,
       (pg_control_system()).system_identifier::text, current_setting('server_version_num')::int
"""


@dataclass(frozen=True)
class Reading:
    """How much of the data is read; 0 sets no limit.

    Of a table larger than ``sample_above_bytes`` about so many bytes are read. Once ``budget_s``
    seconds are over, what is left is not.
    """

    sample_above_bytes: int = 0
    budget_s: float = 0.0


EVERYTHING = Reading()


@dataclass(frozen=True)
class _Task:
    """A table to read, and how."""

    name: str
    columns: Columns
    storage: TableStorage
    share: float
    is_readable: bool = True


def reading(sample_above: str, time_budget: str) -> Reading:
    """Return the limits that two parameters of a runbook mean; "" is none.

    Raises:
        SettingsError: one has another form.
    """
    return Reading(
        parse_size_bytes(sample_above, name="sample_above") if sample_above else 0,
        parse_duration_s(time_budget, name="time_budget") if time_budget else 0.0,
    )


def take_snapshot(
    target: Target,
    revisions: Sequence[str],
    *,
    except_tables: Sequence[str] = (),
    fingerprints: bool = True,
    limits: Reading = EVERYTHING,
    like: Snapshot | None = None,
    jobs: int = 0,
    on_progress: Callable[[str], None] | None = None,
) -> Snapshot:
    """Count and fingerprint every user table as of one moment.

    Args:
        target: a resolved target.
        revisions: where the database stands, for the record.
        except_tables: what to leave out, as ``schema.table``: Alembic's own table.
        fingerprints: False counts rows and non-null values only.
        limits: how much is read.
        like: an earlier snapshot: of a table that it sampled, no more is read than it did.
        jobs: sessions that read at once; 0: one per core up to `MOST_JOBS`, one for little data.
        on_progress: called with a line of text now and then, if it takes longer than `QUIET_S`.

    Returns:
        One element per table, sorted by schema and name; columns in attribute order.
    """
    deadline = time.monotonic() + limits.budget_s if limits.budget_s else None
    with ExitStack() as stack:
        first = stack.enter_context(_session(target))
        database, xid, system, version_num = fetch(first, MOMENT)[0]
        tasks = _tasks(first, except_tables, limits, like)
        work = _Work(tasks, fingerprints, version_num, deadline)
        sessions = [first, *_more(stack, target, first, _jobs(jobs, tasks) - 1)]
        tables = work.run(sessions, on_progress)
    return Snapshot(
        database=database,
        taken_at=datetime.now(UTC).isoformat(timespec="seconds"),
        revisions=tuple(revisions),
        tables=tables,
        form=form_of(version_num),
        xid=xid,
        system_identifier=system,
    )


def read_tables(connection: Connection) -> tuple[TableSnapshot, ...]:
    """Count and fingerprint every user table in a connection's own transaction.

    Args:
        connection: with the settings `TEXT_FORMS`, in a REPEATABLE READ transaction.
    """
    tasks = _tasks(connection, (), EVERYTHING, None)
    return _Work(tasks, True, connection.server_version, None).run([connection], None)


@contextmanager
def _session(target: Target) -> Iterator[Connection]:
    """Open a read-only session whose first query fixes what it sees."""
    with connect(target, read_only=True, autocommit=False, settings=TEXT_FORMS) as connection:
        connection.set_session(
            isolation_level=psycopg2.extensions.ISOLATION_LEVEL_REPEATABLE_READ, readonly=True
        )
        yield connection


def _more(stack: ExitStack, target: Target, first: Connection, number: int) -> list[Connection]:
    """Open further sessions that see what the first one does; fewer if the server has no more."""
    if number < 1:
        return []
    exported = fetch_value(first, "SELECT pg_export_snapshot()")
    found: list[Connection] = []
    try:
        for _ in range(number):
            session = stack.enter_context(_session(target))
            with session.cursor() as cursor:
                cursor.execute("SET TRANSACTION SNAPSHOT %s", (exported,))
            found.append(session)
    except CannotConnect:  # all its connections are taken
        return found
    return found


def _tasks(
    connection: Connection, except_tables: Sequence[str], limits: Reading, like: Snapshot | None
) -> list[_Task]:
    """Return what is to be read: the largest table first, under a time budget the smallest."""
    columns, storage = table_columns(connection), table_storage(connection)
    earlier = {t.name: t.share for t in like.tables} if like else {}
    closed = set(unreadable_tables(connection))
    tasks = [
        _Task(
            name, columns[name], where, min(_share(where, limits), earlier.get(name) or 1.0),
            name not in closed,
        )
        for name, where in storage.items()
        if name in columns and name not in except_tables
    ]  # fmt: skip
    order = 1 if limits.budget_s else -1
    return sorted(tasks, key=lambda task: (order * task.storage.size_bytes, task.name))


def _share(storage: TableStorage, limits: Reading) -> float:
    limit = limits.sample_above_bytes
    if not limit or storage.size_bytes <= limit:
        return 1.0
    return float(f"{limit / storage.size_bytes:.3g}")


def _jobs(asked: int, tasks: Sequence[_Task]) -> int:
    small = sum(task.storage.size_bytes for task in tasks) < PARALLEL_ABOVE_BYTES
    wanted = asked or (1 if small else min(os.cpu_count() or 1, MOST_JOBS))
    return max(1, min(wanted, len(tasks)))


class _Work:
    """Tables that several sessions take from one list; their threads only wait for the server."""

    def __init__(
        self, tasks: Iterable[_Task], fingerprints: bool, version_num: int, deadline: float | None
    ) -> None:
        self.waiting = deque(tasks)
        self.number = len(self.waiting)
        self.fingerprints = fingerprints
        self.version_num = version_num
        self.deadline = deadline
        self.found: list[TableSnapshot] = []
        self.stopped = threading.Event()

    def run(
        self, sessions: Sequence[Connection], on_progress: Callable[[str], None] | None
    ) -> tuple[TableSnapshot, ...]:
        """Read all tables; an interrupt or an error cancels what the sessions are doing."""
        with ThreadPoolExecutor(len(sessions)) as pool:
            futures = [pool.submit(self._take, session) for session in sessions]
            try:
                self._wait(futures, on_progress)
            except BaseException:
                self._stop(sessions, futures)
                raise
        return tuple(sorted(self.found, key=lambda table: (table.schema, table.table)))

    def _wait(
        self, futures: Sequence[Future[None]], on_progress: Callable[[str], None] | None
    ) -> None:
        pending: Iterable[Future[None]] = futures
        while pending:
            done, pending = wait(pending, timeout=QUIET_S, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
            if pending and on_progress:
                on_progress(f"reading tables: {len(self.found)} of {self.number} done")

    def _stop(self, sessions: Sequence[Connection], futures: Sequence[Future[None]]) -> None:
        self.stopped.set()
        # Again and again: a thread may have been between two queries.
        while wait(futures, timeout=0.1).not_done:
            for session in sessions:
                if not session.closed:
                    session.cancel()

    def _take(self, session: Connection) -> None:
        with session.cursor() as cursor:
            cursor.execute(BEGIN)
            while self.waiting and not self.stopped.is_set():
                self._take_one(session)
            cursor.execute(FREE)

    def _take_one(self, session: Connection) -> None:
        try:
            task = self.waiting.popleft()
        except IndexError:  # another session took the last one
            return
        try:
            self.found.append(self._read(session, task))
        except psycopg2.errors.UndefinedTable:  # dropped since its name was read
            self.number -= 1

    def _read(self, session: Connection, task: _Task) -> TableSnapshot:
        if not task.is_readable:
            return self._unread(task, NOT_ALLOWED)
        schema, table = task.name.split(".", 1)
        query = statistics_query(
            task.name,
            task.columns,
            version_num=self.version_num,
            unique=not task.storage.inherited,
            fingerprints=self.fingerprints,
            share=task.share,
        )
        row = self._ask(session, query)
        if row is None:
            return self._unread(task, OUT_OF_TIME)
        rows, columns = statistics(row, task.columns)
        found = TableSnapshot(schema, table, rows, tuple(columns), share=task.share)
        if task.share < 1:
            found = self._count_sampled(session, task, found)
        return replace(found, file=task.storage.file)

    def _unread(self, task: _Task, why: str) -> TableSnapshot:
        schema, table = task.name.split(".", 1)
        columns = [ColumnSnapshot(c, type_, null, -1, "") for c, type_, null, _ in task.columns]
        return TableSnapshot(schema, table, -1, tuple(columns), why, 0.0, task.storage.file)

    def _count_sampled(
        self, session: Connection, task: _Task, found: TableSnapshot
    ) -> TableSnapshot:
        query = sql.SQL("SELECT count(*) FROM {}").format(identifier(task.name))
        row = self._ask(session, query)
        read = f"{task.share * 100:.3g} % of its blocks"
        coverage = read if row else f"{read}, rows not counted: time budget"
        return replace(found, rows=row[0] if row else -1, coverage=coverage)

    def _ask(self, session: Connection, query: sql.Composable) -> Row | None:
        """Return the query's only row, or None if the time budget does not suffice.

        In one round trip, as there may be a thousand tables; the session's next one cleans up.

        Raises:
            UndefinedTable: there is no such table any more; the session goes on.
        """
        left_s = None if self.deadline is None else self.deadline - time.monotonic()
        if left_s is not None and left_s <= 0:
            return None
        limit = str(max(1, int(left_s * 1000))) if left_s is not None else "0"
        asked = sql.SQL("{}; {}; {}").format(FREE, SET_LIMIT.format(sql.Literal(limit)), query)
        with session.cursor() as cursor:
            try:
                cursor.execute(asked)
                row: Row = cursor.fetchone() or ()
            except psycopg2.errors.QueryCanceled:
                if left_s is None:
                    raise
                return None
        return row


def count_rows(connection: Connection, tables: Sequence[str]) -> dict[str, int]:
    """Return the exact number of rows of each table (``schema.table``)."""
    query = sql.SQL("SELECT count(*) FROM {}")
    return {t: fetch(connection, query.format(identifier(t)))[0][0] for t in tables}


def count_written_after(connection: Connection, tables: Sequence[str], xid: int) -> dict[str, int]:
    """Return how many rows of each table were inserted or updated after a transaction.

    Args:
        xid: a 64-bit transaction id of this server (`playbook.records.StepResult.xids`).
    """
    query = sql.SQL("SELECT count(*) FROM {} WHERE {}")
    return _count_each(connection, query, tables, written_since(xid + 1))


def written_since(xid: int) -> sql.Composable:
    """Return the condition that a transaction, or one that began after it, wrote the row.

    Args:
        xid: a 64-bit transaction id of this server, less than 2 billion transactions old.

    Source: the system column xmin, age(xid). A row that was not written for longer than 2 billion
    transactions is taken for a new one, unless a rewrite has frozen it since.
    """
    return sql.SQL("age(xmin) <= age({})").format(_xid(xid))


def count_written_by(
    connection: Connection, tables: Sequence[str], xids: Sequence[int]
) -> dict[str, int]:
    """Return how many rows of each table are as some transactions wrote them.

    Rows that they deleted, or that others wrote again afterwards, are not among them.

    Args:
        xids: 64-bit transaction ids of this server.
    """
    query = sql.SQL("SELECT count(*) FROM {} WHERE xmin = ANY (ARRAY[{}]::xid[])")
    return _count_each(connection, query, tables, sql.SQL(", ").join(map(_xid, xids)))


def _count_each(
    connection: Connection, query: sql.SQL, tables: Sequence[str], condition: sql.Composable
) -> dict[str, int]:
    return {t: fetch(connection, query.format(identifier(t), condition))[0][0] for t in tables}


def _xid(xid: int) -> sql.Composable:
    """Return a 64-bit transaction id as the system columns hold it: without its epoch."""
    return sql.SQL("{}::text::xid").format(sql.Literal(xid % 2**32))


def holds_rows(target: Target, *, except_tables: Sequence[str] = ()) -> bool:
    """Say whether any user table that this role may read has a row; stops at the first."""
    query = sql.SQL("SELECT EXISTS (SELECT FROM {})")
    with connect(target, read_only=True) as connection:
        left_out = {*except_tables, *unreadable_tables(connection)}
        names = [name for name in table_names(connection) if name not in left_out]
        return any(fetch(connection, query.format(identifier(n)))[0][0] for n in names)


def write_snapshot(snapshot: Snapshot, path: Path) -> None:
    """Write a snapshot as JSON."""
    path.write_text(json.dumps(asdict(snapshot), indent=1) + "\n", "utf-8")


def read_snapshot(path: Path) -> Snapshot:
    """Return a snapshot from JSON.

    Raises:
        PlaybookError: the file is not there or is not such a file.
    """
    try:
        record = json.loads(path.read_text("utf-8"))
        tables = tuple(
            TableSnapshot(
                table["schema"],
                table["table"],
                table["rows"],
                tuple(ColumnSnapshot(**column) for column in table["columns"]),
                table.get("coverage", ""),
                table.get("share", 1.0),
                table.get("file", 0),
            )
            for table in record["tables"]
        )
        return Snapshot(
            record["database"],
            record["taken_at"],
            tuple(record["revisions"]),
            tables,
            record.get("form", 1),
            record.get("xid", 0),
            record.get("system_identifier", ""),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PlaybookError(
            f"{path} is not a readable snapshot ({type(error).__name__}).",
            state="Nothing was changed.",
            remedy="Choose another receipt with -r against PATH.",
        ) from error
