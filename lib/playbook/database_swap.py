"""Two databases that change their names in one transaction, and who is connected. Layer 3.

ALTER DATABASE ... RENAME holds a lock on the database from its first moment: whoever connects
waits for it, and it waits up to 5 s for those who are connected to leave. Both renames are one
transaction. So nobody can come in between, nothing has to be forbidden beforehand, and a client
that is killed at any moment leaves both names as they were.

Source: RenameDatabase() and CountOtherDBBackends() of PostgreSQL; tried on 15, 16 and 18.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

import psycopg2.errors
from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from playbook.database import APPLICATION_NAME, connect, fetch
from playbook.errors import DatabaseError, GuardRefused, PlaybookError
from playbook.records import Blocker
from playbook.targets import Target

__all__ = ["database_oids", "logical_slots", "sessions_on", "swap", "way_back", "way_on"]

LOOK_S = 0.02
LEAVING_S = 1.0

SESSIONS = """
SELECT pid, coalesce(usename::text, backend_type, '?'), coalesce(application_name, ''),
       coalesce(state, backend_type, 'not visible to this role'), '',
       greatest(0, coalesce(extract(epoch FROM clock_timestamp() - xact_start), 0))::float8
FROM pg_stat_activity
WHERE datname = %s AND pid <> pg_backend_pid()
  AND coalesce(backend_type, '') NOT LIKE 'autovacuum%%'
  AND NOT (backend_type IS NULL AND usesysid IS NULL)
ORDER BY backend_start, pid
"""
"""Of sessions of others an ordinary role sees no backend_type and no state."""
END_THOSE_LOCKED_OUT = """
SELECT a.pid, pg_terminate_backend(a.pid) FROM pg_stat_activity AS a
WHERE a.datid = %s AND a.pid <> pg_backend_pid() AND EXISTS (
  SELECT FROM pg_locks AS l WHERE l.pid = %s AND l.granted
    AND l.locktype = 'object' AND l.classid = 'pg_database'::regclass AND l.objid = a.datid
    AND l.mode = 'AccessExclusiveLock')
"""
SLOTS = """
SELECT slot_name::text FROM pg_replication_slots WHERE database = %s ORDER BY slot_name
"""
OIDS = "SELECT datname, oid::bigint FROM pg_database WHERE datname = ANY (%s)"


def sessions_on(connection: Connection, database: str) -> tuple[Blocker, ...]:
    """Return the sessions on a database, the oldest first; autovacuum gives way by itself.

    One that the playbook has just closed is still there for some milliseconds: where there are
    none but the playbook's, they get a moment to go.
    """
    deadline = time.monotonic() + LEAVING_S
    while True:
        found = tuple(Blocker(*row) for row in fetch(connection, SESSIONS, (database,)))
        others = [one for one in found if one.application != APPLICATION_NAME]
        if others or not found or time.monotonic() > deadline:
            return found
        time.sleep(LOOK_S)


def logical_slots(connection: Connection, database: str) -> list[str]:
    """Return the logical replication slots of a database: they stay with it under any name."""
    return [name for (name,) in fetch(connection, SLOTS, (database,))]


def database_oids(connection: Connection, *names: str) -> dict[str, int]:
    """Return the oid of each of these databases that exists."""
    return dict(fetch(connection, OIDS, (list(names),)))


def way_back(live: str, restored: str, kept: str) -> str:
    """Return the two statements that undo a swap, as text."""
    return f"{_renaming(live, restored)} {_renaming(kept, live)}"


def way_on(live: str, restored: str, kept: str) -> str:
    """Return the two statements that a swap is, as text."""
    return f"{_renaming(live, kept)} {_renaming(restored, live)}"


def _renaming(old: str, new: str) -> str:
    before, after = (name.replace('"', '""') for name in (old, new))
    return f'ALTER DATABASE "{before}" RENAME TO "{after}";'


def swap(
    maintenance: Target, live: str, restored: str, *, kept: str, end_sessions: bool
) -> tuple[int, ...]:
    """Give a restored database the live one's name, which is kept under another one.

    **Effects**: two renames in one transaction; with ``end_sessions`` the sessions on the live
    database are ended while nobody can come in. After a failure both names are as they were;
    sessions that were ended are.

    Args:
        maintenance: a target on another database of the same server.
        kept: the live database's new name.

    Returns:
        The pids of the sessions that were ended.

    Raises:
        GuardRefused: somebody is connected to one of the two.
        DatabaseError: the server refused.
    """
    settings = {"lock_timeout": "5s"}
    with (
        connect(maintenance) as other,
        connect(maintenance, autocommit=False, settings=settings) as connection,
    ):
        oid, pid = database_oids(other, live)[live], connection.info.backend_pid
        with _ending(other, oid, pid, wanted=end_sessions) as ended:
            _rename_both(connection, ((live, kept), (restored, live)))
    return tuple(ended)


def _rename_both(connection: Connection, names: tuple[tuple[str, str], ...]) -> None:
    try:
        with connection.cursor() as cursor:
            for old, new in names:
                statement = sql.SQL("ALTER DATABASE {} RENAME TO {}")
                cursor.execute(statement.format(sql.Identifier(old), sql.Identifier(new)))
        connection.commit()
    except psycopg2.errors.ObjectInUse as error:
        said = error.diag.message_detail or error.diag.message_primary or ""
        raise GuardRefused(
            f"The databases cannot change their names: {said}",
            state="Nothing was changed: both have the names they had.",
            remedy="End those sessions (and prepared transactions), or write "
            "-p end_sessions True, then run the notebook's cells from the top.",
        ) from error


@contextmanager
def _ending(connection: Connection, oid: int, pid: int, *, wanted: bool) -> Iterator[set[int]]:
    """End the sessions on a database from when another session has locked it, meanwhile."""
    ended: set[int] = set()
    if not wanted:
        yield ended
        return
    stop, failures = Event(), list[Exception]()

    def end() -> None:
        while not stop.is_set():
            try:
                rows = fetch(connection, END_THOSE_LOCKED_OUT, (oid, pid))
            except Exception as error:  # raised in the caller's thread
                failures.append(error)
                return
            ended.update(row[0] for row in rows)
            time.sleep(LOOK_S)

    ender = Thread(target=end, name="end-sessions", daemon=True)
    ender.start()
    try:
        yield ended
    except PlaybookError as error:
        stop.set()
        ender.join()
        if failures:
            raise DatabaseError(
                f"The sessions could not be ended: {' '.join(str(failures[0]).split())}",
                state="Nothing was changed: both databases have the names they had.",
                remedy="Run as a role that has pg_signal_backend, or end them by another one.",
            ) from error
        raise
    finally:
        stop.set()
        ender.join()
