"""Engines for the application and for migrations, from a target's name in alembic.ini."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg2
from sqlalchemy import Engine, NullPool, create_engine

from playbook.errors import CannotConnect
from playbook.sandbox import open_target
from playbook.targets import Target, load_target, redact

__all__ = ["application_engine", "migration_engine"]

CONNECT_TIMEOUT_S = 10


def application_engine(database: str = "sandbox", alembic_ini: str | Path = "") -> Engine:
    """Return an engine with a connection pool, for the application's lifetime.

    Args:
        database: a target's name, as the runbooks' parameter ``database`` takes it.
        alembic_ini: path of alembic.ini; "" is the one beside ``lib/``.

    Raises:
        SettingsError: there is no such target.
    """
    target = open_target(load_target(database, alembic_ini))
    return _engine(target, application_name="voice_agent", pool_pre_ping=True)


def migration_engine(database: str = "sandbox", alembic_ini: str | Path = "") -> Engine:
    """Return an engine without a pool whose sessions give up waiting for a lock early.

    The target's ``lock_timeout`` holds for each statement: a migration that waits for a lock
    makes the application wait behind it. A revision that builds an index CONCURRENTLY sets its
    own, since there the timeout would leave an invalid index behind.

    Args:
        database: a target's name, as the runbooks' parameter ``database`` takes it.
        alembic_ini: path of alembic.ini; "" is the one beside ``lib/``.

    Raises:
        SettingsError: there is no such target.
    """
    target = open_target(load_target(database, alembic_ini))
    return _engine(
        target,
        application_name="alembic",
        lock_timeout=target.lock_timeout,
        poolclass=NullPool,
    )


def _engine(
    target: Target, *, application_name: str, lock_timeout: str = "", **options: Any
) -> Engine:
    """Return an engine that hands libpq's keywords to libpq as they are.

    A URL would not do: SQLAlchemy's cannot say all that libpq takes (several hosts that share one
    port), and a password in it may end up in a log.
    """

    def connect() -> Any:
        keywords: dict[str, Any] = {
            "application_name": application_name,
            "connect_timeout": str(CONNECT_TIMEOUT_S),
            **target.conninfo,
        }
        try:
            connection = psycopg2.connect(**keywords)
        except psycopg2.OperationalError as error:
            reason = redact(" ".join(str(error).split())).rstrip(".?")
            raise CannotConnect(
                f"Cannot connect to the {target.label}: {reason}.",
                state="Nothing was changed.",
                remedy="Check that the server runs, and the host, port, user and database.",
            ) from None
        if lock_timeout:
            with connection.cursor() as cursor:
                cursor.execute("SELECT set_config('lock_timeout', %s, false)", (lock_timeout,))
            connection.commit()
        return connection

    return create_engine("postgresql+psycopg2://", creator=connect, **options)
