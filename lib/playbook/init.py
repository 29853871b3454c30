"""The runbook `init`: from an empty database to head. Layer 5; writes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from psycopg2 import sql

from playbook.catalog import droppable_schemas, table_names, table_sizes
from playbook.database import advisory_lock, connect, identifier
from playbook.errors import GuardRefused, MigrationFailed, SettingsError
from playbook.execution import execute, save_backup
from playbook.formats import count
from playbook.journal import Run
from playbook.parameters import Common
from playbook.plan import build_plan
from playbook.records import (
    Applied,
    BackupManifest,
    Banner,
    DataChecks,
    Note,
    Outcome,
    Plan,
    RevisionGraph,
    Snapshot,
    TableSizes,
)
from playbook.revisions import at_head, join, pending
from playbook.snapshot import count_rows as count_table_rows
from playbook.targets import redact
from playbook.verification import run_checks

__all__ = [
    "Parameters",
    "add_sample_data",
    "check_data",
    "check_place",
    "conclude",
    "count_rows",
    "drop_everything",
    "measure_tables",
    "open_run",
    "plan_install",
    "read_revisions",
    "run_install",
    "show_target",
]


@dataclass(frozen=True)
class Parameters(Common):
    """The parameters of `init`."""

    drop: bool = False
    sample_data: bool = False


def open_run(namespace: Mapping[str, Any]) -> Run[Parameters]:
    """Check the parameters and connect; raises as `playbook.journal.Run.open` does.

    A sandbox database that does not exist yet is made empty.
    """
    run = Run.open("init", Parameters, namespace, state="empty")
    with run.closing_on_error():
        if run.parameters.sample_data and not run.target.seed:
            raise SettingsError(
                f"The target {run.target.name!r} has no sample data.",
                remedy="Leave out sample_data, or name a module with seed = ... in alembic.ini.",
            )
    return run


def show_target(run: Run[Parameters]) -> Banner:
    """Return which database this is and what will be written to it."""
    first = "everything in it is dropped, then " if run.parameters.drop else ""
    return run.banner(f"{first}all revisions up to head, and a row in playbook.history")


def read_revisions(run: Run[Parameters]) -> RevisionGraph:
    """Return all revisions, and which of them the database is at."""
    return run.graph


def measure_tables(run: Run[Parameters]) -> TableSizes:
    """Return the tables that are there now."""
    with connect(run.target, read_only=True) as connection:
        return TableSizes(tuple(table_sizes(connection)))


def check_place(run: Run[Parameters]) -> Note:
    """Say what the database is, and refuse what an installation would overwrite.

    Raises:
        GuardRefused: it has tables that Alembic does not know, a version no file has, or it is
            protected.
    """
    with run.recording_refusal():
        if run.target.protected:
            raise GuardRefused(
                f"{run.target.name!r} is protected: `init` neither drops nor installs there.",
                remedy="`upgrade` takes it forward, an empty one too, with its name in confirm.",
            )
        if run.parameters.drop:
            return run.keep("place", Note("Everything in it will be dropped and built anew."))
        return run.keep("place", _recognised(run))


def _recognised(run: Run[Parameters]) -> Note:
    """Return what an untouched database is, or refuse."""
    graph = run.graph
    if graph.unknown:
        raise GuardRefused(
            f"The database is at {join(graph.unknown)}, which no revision file has.",
            remedy="Bring the file back, or check that this is the right project; `repair` says "
            "what the schema is.",
        )
    if graph.current:
        return Note(
            f"It is under Alembic already, at {join(graph.current)}, with "
            f"{count(len(pending(graph)), 'revision')} pending: there is nothing to install."
        )
    with connect(run.target, read_only=True) as connection:
        tables = [name for name in table_names(connection) if name != run.version_table]
    if tables:
        first = graph.revisions[0].revision if graph.revisions else "REVISION"
        raise GuardRefused(
            f"The database has {count(len(tables), 'table')} ({', '.join(tables[:5])}) and no "
            "revision: they were made without Alembic.",
            remedy=f"`repair` finds the revision that they equal and stamps it (by hand: `alembic "
            f"stamp {first}`); then run `upgrade`. To throw a development database away, "
            "write -p drop True.",
        )
    return Note("It is empty: every revision will be installed.")


def drop_everything(run: Run[Parameters]) -> Note:
    """Drop every schema's content if ``drop`` asks for it; a backup is taken first.

    **Effects**: a backup; then, in one transaction that holds every table, all user schemas are
    dropped and ``public`` is made anew with its default privileges. ``playbook.history`` stays.

    Raises:
        BackupFailed: there is no backup, so nothing was dropped.
        GuardRefused: rows came since the backup; nothing was dropped.
        LockNotAcquired: a table is in use; nothing was dropped.
    """
    run.require("place", Note)
    run.must_be_first("dropped")
    if not run.parameters.drop:
        return run.keep("dropped", Note("Nothing was dropped."))
    with run.recording_failure(), advisory_lock(run.target) as check_lock:
        run.note("drop begins")
        backup = save_backup(run)
        run.settle_interrupted()
        run.write_history()
        check_lock()
        schemas = _drop_schemas(run, backup)
        run.note(f"dropped the schemas {', '.join(schemas)}")
        run.refresh()
    return run.keep(
        "dropped",
        Note(
            f"Dropped: the schemas {', '.join(schemas)}. What was there is in a backup, which the "
            "receipt names."
        ),
    )


def _drop_schemas(run: Run[Parameters], backup: BackupManifest) -> list[str]:
    """Drop the schemas if every table still has the rows that the backup has."""
    with (
        connect(run.target, autocommit=False, settings={"lock_timeout": "2s"}) as connection,
        connection.cursor() as cursor,
    ):
        for table in table_names(connection):
            cursor.execute(sql.SQL("LOCK TABLE {}").format(identifier(table)))
        if count_table_rows(connection, table_names(connection)) != dict(backup.rows):
            raise GuardRefused(
                "Rows came or went since the backup: somebody works with this database.",
                remedy="Stop those writes, then run the notebook's cells from the top.",
            )
        schemas = droppable_schemas(connection)
        for schema in schemas:
            cursor.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(schema)))
        cursor.execute("CREATE SCHEMA IF NOT EXISTS public")
        cursor.execute("GRANT USAGE ON SCHEMA public TO PUBLIC")
        connection.commit()
    return schemas


def plan_install(run: Run[Parameters]) -> Plan:
    """Return the revisions that will be installed, with their SQL; none if there is one."""
    run.require("dropped", Note)
    if run.graph.current:
        plan = Plan("upgrade", "heads", run.graph.current, run.graph.current, (), "offline", "")
        return run.keep("plan", plan)
    plan = build_plan(run.target, run.alembic, run.graph, direction="upgrade", to="heads")
    return run.keep("plan", plan)


def run_install(run: Run[Parameters]) -> Applied | Note:
    """Apply all revisions, one by one, each in its own transaction.

    Raises:
        MigrationFailed: a revision failed; the sentence says where the database is now.
    """
    run.must_be_first("applied")
    plan = run.require("plan", Plan)
    if plan.is_empty:
        return run.keep("applied", Note("Nothing was installed."))
    with run.recording_failure(), advisory_lock(run.target) as check_lock:
        run.same_place()
        run.same_files(plan)
        files = [(step.revision, step.sha256) for step in plan.steps]
        run.note("installation begins", plan_sha256=plan.sha256, revision_files=files)
        run.settle_interrupted()
        run.write_history()
        return run.keep("applied", execute(run, plan, check_lock))


def add_sample_data(run: Run[Parameters]) -> Note:
    """Fill the new tables with the project's sample data, if asked for.

    Raises:
        MigrationFailed: the project's seed module failed; the schema is installed.
    """
    applied = run.require("applied", object)
    if not run.parameters.sample_data or isinstance(applied, Note):
        return run.keep("sample", Note("No sample data were added."))
    with run.recording_failure():
        done = subprocess.run(
            [run.target.python or sys.executable, "-m", run.target.seed, "--state", "rows"],
            cwd=run.target.project,
            env=os.environ | run.target.libpq_variables(),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            last = redact((done.stderr.strip().splitlines() or ["it said nothing"])[-1])
            raise MigrationFailed(
                f"The sample data could not be added: {last}",
                state=f"The schema is installed, at {join(run.graph.current)}.",
                remedy="Run `init` again with -p drop True -p sample_data True.",
            )
    run.note("sample data added")
    return run.keep("sample", Note("Sample data were added."))


def count_rows(run: Run[Parameters]) -> Snapshot:
    """Count every table as it is now."""
    run.require("applied", object)
    run.refresh()
    return run.keep("now", run.snapshot(fingerprints=False))


def check_data(run: Run[Parameters]) -> DataChecks:
    """Run the data checks of every applied revision."""
    run.require("applied", object)
    return run.keep("data", run_checks(run.target, run.graph))


def conclude(run: Run[Parameters]) -> Outcome:
    """Write the outcome to the receipt and the history, and return it."""
    applied = run.require("applied", object)
    run.require("sample", Note)
    run.require("data", DataChecks)
    place = join(run.graph.current)
    if isinstance(applied, Note):
        behind = not at_head(run.graph)
        return run.outcome(
            "succeeded",
            f"Nothing was installed: the database is at {place}.",
            unchanged=("everything",),
            next_steps=("`upgrade` takes it to head.",) if behind else ("It is at head.",),
        )
    steps = run.require("applied", Applied).steps
    message = f"{run.server.database} was installed and is at {place}."
    run.finish("succeeded", message)
    return run.outcome(
        "succeeded",
        message,
        changed=tuple(f"{step.revision} applied" for step in steps),
        next_steps=("`status` shows it.",),
    )
