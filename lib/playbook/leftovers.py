"""What a run makes for its own time only, and what killed runs have left of it. Layer 3.

Whoever makes such a thing holds a lock on it, which ends with the process however that ends: a
file's lock on an unfinished folder, an advisory lock for a scratch database. What nobody holds is
of a run that is no more, and the next one that makes such a thing removes it first.
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from psycopg2 import sql
from psycopg2.errors import ObjectInUse
from psycopg2.extensions import connection as Connection

from playbook.database import connect, fetch
from playbook.sandbox import ensure_server
from playbook.sandbox_databases import maintenance_target
from playbook.targets import Target

__all__ = [
    "held",
    "hold_database",
    "scratch_name",
    "sweep_databases",
    "sweep_folders",
    "unfinished_folder",
    "unmark_folder",
]

LOCK = ".lock"
PARTIAL = ".partial"
DATABASE_CLASS = 0x706C6179
"""The first key of the advisory locks on scratch databases: the ASCII codes of "play"."""

HOLD = "SELECT pg_advisory_lock(%s, ('x' || right(%s, 8))::bit(32)::int)"
ABANDONED = """
SELECT d.datname FROM pg_database AS d
WHERE d.datname ~ '^playbook_(scratch|verify|rehearse)_[0-9a-f]{8}$'
  AND pg_has_role(d.datdba, 'USAGE')
  AND NOT EXISTS (SELECT FROM pg_stat_activity AS a WHERE a.datid = d.oid)
  AND NOT EXISTS (SELECT FROM pg_locks AS l WHERE l.locktype = 'advisory' AND l.objsubid = 2
                  AND l.classid::bigint = %s
                  AND l.objid::bigint = ('x' || right(d.datname, 8))::bit(32)::bigint)
ORDER BY d.datname
"""
"""pg_locks shows the locks of all databases, so the holder may be connected to another one."""


@contextmanager
def unfinished_folder(parent: Path) -> Iterator[Path]:
    """Make a folder, mode 0700, that is removed at the end unless it was given another name.

    Whoever gives it one takes its mark off first (`unmark_folder`). What killed processes have
    left beside it is removed before.
    """
    sweep_folders(parent)
    new = parent / f".{uuid4().hex}.new"
    new.mkdir(mode=0o700)
    partial = new.with_suffix(PARTIAL)
    with (new / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        new.rename(partial)  # under its name it is never seen without its lock
        try:
            yield partial
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def unmark_folder(partial: Path) -> None:
    """Take the lock's file out of a folder that is finished; nobody sweeps one without it."""
    (partial / LOCK).unlink()


def sweep_folders(parent: Path) -> None:
    """Remove unfinished folders whose makers are gone; one without a lock's file stays."""
    for partial in parent.glob(f".*{PARTIAL}"):
        with suppress(FileNotFoundError, BlockingIOError), (partial / LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(partial, ignore_errors=True)


def scratch_name(purpose: str) -> str:
    """Return a new name for a scratch database: for ``scratch``, ``verify`` or ``rehearse``."""
    return f"playbook_{purpose}_{uuid4().hex[:8]}"


def hold_database(connection: Connection, name: str) -> None:
    """Mark a scratch database, before it is made, as in use for as long as this session lasts."""
    fetch(connection, HOLD, (DATABASE_CLASS, name))


def sweep_databases(connection: Connection) -> list[str]:
    """Drop the server's scratch databases that no session holds or uses, if this role may.

    Returns:
        Their names, sorted.
    """
    dropped = []
    with connection.cursor() as cursor:
        for (name,) in fetch(connection, ABANDONED, (DATABASE_CLASS,)):
            with suppress(ObjectInUse):  # another run is dropping it
                cursor.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(name)))
                dropped.append(name)
    return dropped


@contextmanager
def held(scratch: Target) -> Iterator[None]:
    """Hold a scratch database of the sandbox meanwhile; killed runs' ones are dropped first."""
    server = ensure_server(scratch.project)
    with connect(maintenance_target(scratch.project, server.socket_directory)) as connection:
        sweep_databases(connection)
        hold_database(connection, scratch.database)
        yield
