"""A remedy, carried out: in one transaction where PostgreSQL allows, or a file. Layer 4: writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from playbook.database import connect, identifier
from playbook.errors import (
    CannotConnect,
    DatabaseError,
    GuardRefused,
    LockNotAcquired,
    MigrationFailed,
)
from playbook.migrate import CONCURRENTLY_TIMEOUT
from playbook.records import RevisionGraph
from playbook.repairs import Remedy, VersionTable
from playbook.targets import Target
from playbook.version_table import read_version_table

__all__ = ["carry_out", "script", "write_file"]

HEADER = "-- {title}\n-- Run by psql, on the database {database}.\n"


def carry_out(
    target: Target,
    remedy: Remedy,
    graph: RevisionGraph,
    table: VersionTable,
    *,
    lock_timeout: str,
    check_lock: Callable[[], None],
    on_done: Callable[[str], None],
) -> None:
    """Run a remedy's statements.

    **Effects**: those of the statements; of a remedy in a transaction all or none.

    Args:
        graph: for where the version table is.
        table: as it was when the remedy was made: if it is another now, nothing is run.
        lock_timeout: how long a lock may be waited for, while others wait behind.
        check_lock: raises if the run's advisory lock is lost.
        on_done: called with each statement that commits by itself, once it has.

    Raises:
        GuardRefused: the version table is not as it was.
        LockNotAcquired: somebody holds the table.
        MigrationFailed: a statement failed; the sentence says what stands.
    """
    check_lock()
    if remedy.in_transaction:
        _in_one_transaction(target, remedy, graph, table, lock_timeout)
    else:
        _one_by_one(target, remedy, check_lock, on_done)


def _in_one_transaction(
    target: Target, remedy: Remedy, graph: RevisionGraph, table: VersionTable, lock_timeout: str
) -> None:
    settings = {"lock_timeout": lock_timeout}
    try:
        with connect(target, autocommit=False, settings=settings) as connection:
            _lock(connection, table)
            if read_version_table(connection, graph) != table:
                raise GuardRefused(
                    f"{table.name} is not as it was when the remedy was shown.",
                    remedy="Run the notebook's cells from the top.",
                )
            for statement in remedy.statements:
                _execute(connection, statement)
            connection.commit()
    except (CannotConnect, LockNotAcquired):
        raise
    except DatabaseError as error:
        raise MigrationFailed(
            f"The remedy {remedy.name!r} failed: {error.problem}",
            state="PostgreSQL rolled it back whole: nothing was changed.",
            remedy=error.remedy or "Mend what it says, then run the notebook's cells from the top.",
            sqlstate=error.sqlstate,
        ) from error


def _lock(connection: Connection, table: VersionTable) -> None:
    """Keep others from the version tables meanwhile; a table that is gone is seen afterwards."""
    names = [table.name] if table.exists else []
    for name in (*names, *(other for other, _ in table.others)):
        query = sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(identifier(name))
        _execute(connection, query)


def _execute(connection: Connection, statement: str | sql.Composable) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql.SQL(statement) if isinstance(statement, str) else statement)


def _one_by_one(
    target: Target,
    remedy: Remedy,
    check_lock: Callable[[], None],
    on_done: Callable[[str], None],
) -> None:
    """Run statements that each commit by themselves; a lock_timeout would leave invalid indexes."""
    done: list[str] = []
    settings = {"lock_timeout": CONCURRENTLY_TIMEOUT, "statement_timeout": "0"}
    for statement in remedy.statements:
        check_lock()
        try:
            with connect(target, settings=settings) as connection:
                _execute(connection, statement)
        except DatabaseError as error:
            before = f"Before it was done: {' '.join(done)}" if done else "Nothing was done before."
            raise MigrationFailed(
                f"{statement} failed: {error.problem}",
                state=f"{before} What failed may have left an invalid index.",
                remedy="Mend what it says, then run `repair` again: it shows what there is now.",
                statement=statement,
                sqlstate=error.sqlstate,
            ) from error
        done.append(statement)
        on_done(statement)


def write_file(remedy: Remedy) -> Path:
    """Write a remedy's file, which must not exist.

    Raises:
        GuardRefused: it exists by now.
        MigrationFailed: it cannot be written.
    """
    if remedy.file is None:
        raise ValueError(remedy.name)
    try:
        with remedy.file.open("x", encoding="utf-8") as file:
            file.write(remedy.text)
    except FileExistsError:
        raise GuardRefused(
            f"There is a file {remedy.file.name} by now.",
            remedy="Run the notebook's cells from the top.",
        ) from None
    except OSError as error:
        raise MigrationFailed(
            f"{remedy.file} cannot be written: {error.strerror}.", state="Nothing was changed."
        ) from error
    return remedy.file


def script(remedy: Remedy, statements: tuple[str, ...], title: str, database: str) -> str:
    """Return statements as a script for psql, in a transaction if the remedy is in one."""
    body = "\n".join(statements)
    if remedy.in_transaction:
        body = f"BEGIN;\n{body}\nCOMMIT;"
    return f"{HEADER.format(title=title, database=database)}{body}\n"
