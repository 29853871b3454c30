"""Scratch databases that runs make for their own time, and those that killed ones left. Layer 3.

Whoever makes one holds an advisory lock on it, which ends with the process however that ends. What
nobody holds is of a run that is no more, and the next one that makes such a thing drops it first.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
]

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
