"""A backup into a new database, and what is compared afterwards. Layer 4, on archive and journal.

Knows nothing of runs and receipts: who calls says where to restore and is told how far it is.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from playbook.archive import DUMP
from playbook.catalog import relation_exists, table_names
from playbook.contents import only_counted, read_restored
from playbook.database import connect, fetch, fetch_value, map_driver_errors
from playbook.dump import REPORT_S, WITHOUT_OWNERS, ClientTools, restore_archive
from playbook.errors import GuardRefused, PlaybookError, RestoreFailed
from playbook.fingerprints import ROW_TEXTS, form_of
from playbook.formats import count, seconds
from playbook.new_database import create, drop, finish, read_like, unfinished
from playbook.records import (
    BackupManifest,
    Receipt,
    Restored,
    RevisionGraph,
    Snapshot,
    TableSnapshot,
)
from playbook.restore_checks import Place
from playbook.snapshot import count_rows, take_snapshot
from playbook.targets import Target

__all__ = [
    "Task",
    "check_tools",
    "drop_interrupted",
    "form_to_compare",
    "manifest_snapshot",
    "restore_beside",
    "snapshot_like",
    "version_rows",
]

SMALL_BYTES = 16 * 1024 * 1024
"""A smaller backup is restored by one job: a second one costs more than it gives."""
POLL_S = 0.02
ROWS_LOADED = "SELECT coalesce(sum(n_tup_ins), 0)::bigint FROM pg_stat_user_tables"
ROWS_LOADING = """
SELECT coalesce(sum(tuples_processed), 0)::bigint FROM pg_stat_progress_copy
WHERE datname = current_database()
"""
INDEXES_BUILDING = """
SELECT count(*) FROM pg_stat_progress_create_index WHERE datname = current_database()
"""
"""None of these takes a lock on a table, so that none waits for pg_restore.

Source: the statistics' views; pg_stat_progress_copy is there from 14 on. A session tells its counts
up to a second late.
"""


@dataclass(frozen=True)
class Task:
    """One restore: what, beside which database, under which name, and how."""

    place: Place
    name: str
    manifest: BackupManifest
    tools: ClientTools
    jobs: int
    """0 chooses by cores and size."""
    tables: tuple[str, ...]
    options: tuple[str, ...]
    """Of pg_restore."""
    run_id: str


def check_tools(manifest: BackupManifest, tools: ClientTools, place: Place) -> None:
    """Refuse where no client reads the backup and also serves the server.

    An older pg_restore does not read a newer pg_dump's archive, and a newer one sets what an older
    server does not know (`playbook.dump.find_client_tools`).

    Raises:
        GuardRefused: the server is older than the pg_dump that made the backup.
    """
    made_by = manifest.pg_dump_version
    if made_by.split(".")[0].isdigit() and int(made_by.split(".")[0]) > tools.major:
        raise GuardRefused(
            f"The backup was made by pg_dump {made_by}, and no client here both reads it and "
            f"serves PostgreSQL {place.server.version}.",
            remedy=f"Restore it on a server of PostgreSQL {made_by.split('.')[0]} or newer.",
        )


def drop_interrupted(place: Place, receipts: Collection[Receipt]) -> list[str]:
    """Drop what interrupted runs left half restored, and return their names."""
    dead = {receipt.run_id for receipt in receipts if receipt.outcome == "interrupted"}
    with connect(place.maintenance) as admin:
        left = [name for name, run_id in unfinished(admin) if run_id in dead]
        for name in left:
            drop(admin, name)
    return left


def restore_beside(task: Task, *, on_progress: Callable[[str], None]) -> Restored:
    """Make the new database, fill it, analyse it, and give it what the live one has.

    **Effects**: a new database; dropped again after a failure or an interrupt.

    Raises:
        RestoreFailed: it could not be restored; the sentence says what is left.
    """
    clock = time.monotonic()
    jobs = task.jobs or _jobs(task.manifest)
    live = task.place.server.database
    new = task.place.target.with_conninfo(dbname=task.name)
    with connect(task.place.maintenance, settings={"idle_session_timeout": "0"}) as admin:
        like = read_like(admin, live)
        create(admin, task.name, like, run_id=task.run_id)
        try:
            with map_driver_errors(new):
                _fill(task, new, jobs, on_progress)
                remarks = finish(admin, new, task.name, like)
        except BaseException as error:
            raise _failed(task, error) from error
    if WITHOUT_OWNERS[0] in task.options:
        remarks = ("Owners and privileges were not restored: all belongs to this role.", *remarks)
    if task.tables:
        remarks += ("All other tables are empty, and foreign keys were left out.",)
    return Restored(
        database=task.name,
        beside=live,
        backup=task.manifest.directory.name,
        tables=task.tables,
        jobs=jobs,
        duration_s=round(time.monotonic() - clock, 3),
        remarks=remarks,
    )


def _jobs(manifest: BackupManifest) -> int:
    return 1 if manifest.size_bytes < SMALL_BYTES else min(os.cpu_count() or 1, 4)


def _failed(task: Task, error: BaseException) -> BaseException:
    """Drop the half restored database and return the error to raise: it says what is left."""
    live = task.place.server.database
    try:
        with connect(task.place.maintenance) as admin:
            drop(admin, task.name)
    except PlaybookError as problem:
        state = (
            f"{live} was left alone. What there is of {task.name} could not be dropped "
            f"({problem.problem.rstrip('.')}); its comment calls it unfinished."
        )
    else:
        state = f"{live} was left alone, and {task.name} was dropped again."
    if not isinstance(error, Exception):  # Ctrl-C, or the kernel's end
        on_interrupt = "The restore was interrupted."
        return RestoreFailed(on_interrupt, state=state, remedy="Run `restore` again.")
    problem_text = error.problem if isinstance(error, PlaybookError) else str(error)
    remedy = "Mend the cause and run `restore` again."
    return RestoreFailed(f"The restore failed: {problem_text}", state=state, remedy=remedy)


def _fill(task: Task, new: Target, jobs: int, on_progress: Callable[[str], None]) -> None:
    """Run pg_restore in a thread, looking how far it is, then ANALYZE.

    An interrupt does not wait for pg_restore: it ends when its database is dropped.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="pg_restore")
    try:
        work = pool.submit(
            restore_archive,
            task.manifest.directory / DUMP,
            new,
            tools=task.tools,
            jobs=jobs,
            extra=task.options,
        )
        _watch(work, new, _Share(task), on_progress)
    finally:
        pool.shutdown(wait=False)
    on_progress("analysing the new database")
    with connect(new, settings={"lock_timeout": "60s"}) as connection:
        connection.cursor().execute("ANALYZE")


def _watch(
    work: Future[None], new: Target, share: _Share, on_progress: Callable[[str], None]
) -> None:
    with connect(new, read_only=True) as connection:
        reported = time.monotonic()
        while not wait([work], timeout=POLL_S).done:
            if time.monotonic() - reported >= REPORT_S:
                reported = time.monotonic()
                on_progress(share.told(connection))
    work.result()


class _Share:
    """How far a restore has come: rows loaded of those in the manifest, and the time left."""

    def __init__(self, task: Task) -> None:
        rows = {name: rows for name, rows in task.manifest.rows}
        self._total = sum(rows[name] for name in task.tables or rows)
        self._expected_s = task.manifest.restore_s
        self._begun = time.monotonic()
        self._loaded = 0

    def told(self, connection: Connection) -> str:
        """Return one line for the reader."""
        loaded = int(fetch_value(connection, ROWS_LOADED))
        if connection.server_version >= 140000:
            loaded += int(fetch_value(connection, ROWS_LOADING))
        self._loaded = loaded = max(loaded, self._loaded)
        if loaded >= self._total or fetch_value(connection, INDEXES_BUILDING):
            return f"restoring: indexes and constraints{self._left(0)}"
        passed = time.monotonic() - self._begun
        by_rows = passed * (self._total - loaded) / loaded if loaded else 0.0
        return (
            f"restoring: {count(loaded)} of {count(self._total)} rows loaded{self._left(by_rows)}"
        )

    def _left(self, by_rows_s: float) -> str:
        """Say the time left: by the measured restore of this backup, else by the rows."""
        measured = self._expected_s - (time.monotonic() - self._begun)
        if measured > 0:
            return f", about {seconds(measured)} left"
        return f", about {seconds(by_rows_s)} left for the rows" if by_rows_s else ""


def form_to_compare(manifest: BackupManifest, version_num: int) -> int:
    """Return the form of fingerprints in which a server's database is compared with a manifest."""
    return ROW_TEXTS if manifest.form == ROW_TEXTS else form_of(version_num)


def manifest_snapshot(manifest: BackupManifest, tables: Sequence[str], *, form: int) -> Snapshot:
    """Return what a manifest says of its tables: rows, and fingerprints where they compare.

    Args:
        form: of the fingerprints to compare with (`form_to_compare`).
        tables: those that are meant; none means all.
    """
    known = {table.name: table for table in manifest.tables if manifest.form == form}
    found = [
        replace(known.get(name) or only_counted(name, rows), rows=rows)
        for name, rows in manifest.rows
        if not tables or name in tables
    ]
    start, revisions = manifest.started_at, manifest.revisions
    return Snapshot(manifest.database, start, revisions, tuple(found), form)


def snapshot_like(
    target: Target,
    like: Snapshot,
    tables: Sequence[str],
    *,
    dump: Path,
    tools: ClientTools,
    jobs: int,
) -> Snapshot:
    """Return the same of a database as it is now: columns only of tables that have them there.

    Args:
        dump: that of the backup, for `playbook.contents.read_restored`, as are tools and jobs.
    """
    counted = {table.name for table in like.tables if not table.columns}
    if len(counted) < len(like.tables):
        now: Sequence[TableSnapshot]
        if like.form == ROW_TEXTS:
            now = read_restored(target, dump, form=like.form, tools=tools, jobs=jobs).tables
        else:
            now = take_snapshot(target, ()).tables
        found = [replace(t, columns=()) if t.name in counted else t for t in now]
    else:
        with connect(target, read_only=True) as connection:
            rows = count_rows(connection, table_names(connection))
        found = [only_counted(*pair) for pair in rows.items()]
    kept = tuple(table for table in found if not tables or table.name in tables)
    return Snapshot(target.database, datetime.now(UTC).isoformat(), like.revisions, kept, like.form)


def version_rows(target: Target, graph: RevisionGraph) -> tuple[str, ...]:
    """Return what a database's version table holds; empty if it has none."""
    schema, table = graph.version_table_schema, graph.version_table
    with connect(target, read_only=True) as connection:
        if not relation_exists(connection, schema, table):
            return ()
        name = sql.Identifier(schema, table) if schema else sql.Identifier(table)
        query = sql.SQL("SELECT version_num FROM {} ORDER BY version_num").format(name)
        return tuple(row[0] for row in fetch(connection, query))
