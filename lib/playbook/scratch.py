"""An empty scratch database for a while: in the sandbox, or beside the target. Layer 3.

Its target leads env.py there, wherever that looks for the database, and keeps a revision within it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from psycopg2 import sql

from playbook.database import connect
from playbook.leftovers import held, hold_database, scratch_name, sweep_databases
from playbook.sandbox import drop_database, open_target
from playbook.targets import Target, led_elsewhere

__all__ = ["on_server", "in_sandbox"]


@contextmanager
def in_sandbox(target: Target) -> Iterator[Target]:
    """Make an empty database on the sandbox's server, and drop it at the end."""
    beside = replace(
        target.with_conninfo(),
        kind="sandbox",
        seed="",
        conninfo={"dbname": scratch_name("scratch")},
        protected=False,
    )
    with held(beside):
        copy = open_target(beside, state="empty")
        try:
            yield led_elsewhere(target, copy)
        finally:
            drop_database(copy)


@contextmanager
def on_server(target: Target) -> Iterator[Target]:
    """Make an empty database on the target's own server, and drop it at the end.

    Raises:
        DatabaseError: this role may not create databases.
    """
    name = scratch_name("scratch")
    quoted = sql.Identifier(name)
    with connect(target) as admin, admin.cursor() as cursor:
        sweep_databases(admin)
        hold_database(admin, name)
        cursor.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(quoted))
        try:
            yield led_elsewhere(target, target.with_conninfo(dbname=name), beside=True)
        finally:
            cursor.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(quoted))
