"""The databases of the embedded server: templates, and copies of them. Layer 2, below sandbox.

A template is filled once by the project's own seed, in a child process, and filled again when the
seed or the revisions have changed. The server runs already; nothing here starts or stops it.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from playbook.database import connect, fetch
from playbook.errors import SettingsError
from playbook.postgres_server import PORT, Server, locked
from playbook.targets import SANDBOX, Target, redact

__all__ = [
    "EMPTY",
    "check_name",
    "databases",
    "databases_locked",
    "drop",
    "libpq_variables",
    "maintenance_target",
    "replace_database",
]

EMPTY = "empty"
TEMPLATE_PREFIX = "template_"
SEEDING_PREFIX = "seeding_"
NAME_BYTES = 63
"""PostgreSQL cuts longer names off."""
FILE_COPY_FROM_BYTES = 64 * 1024 * 1024
"""Below it a copy through the log is faster (14 against 40 ms when empty), above it a file copy."""

DATABASES = """
SELECT datname, datconnlimit <> -2 FROM pg_database
WHERE NOT datistemplate AND datname <> 'postgres' AND NOT starts_with(datname, %s) ORDER BY datname
"""
TEMPLATE = """
SELECT coalesce(shobj_description(oid, 'pg_database'), ''), pg_database_size(oid)
FROM pg_database WHERE datname = %s AND datistemplate
"""
UNFINISHED = """
SELECT datname FROM pg_database WHERE starts_with(datname, %s) ORDER BY datname
"""
NAMED = "SELECT datname FROM pg_database WHERE datname = %s"


def maintenance_target(project: Path, socket_directory: Path, dbname: str = "postgres") -> Target:
    """Return a target for the sandbox's own statements, on a database of the running server.

    The empty ``hostaddr`` keeps a PGHOSTADDR in the environment from leading to another server.
    """
    conninfo = {
        "host": str(socket_directory), "hostaddr": "", "port": PORT, "user": "postgres",
        "dbname": dbname,
    }  # fmt: skip
    return Target(SANDBOX, SANDBOX, project / "alembic.ini", conninfo)


def databases(connection: Connection) -> dict[str, bool]:
    """Return the sandbox's databases by name, and whether each can be used.

    One whose removal was interrupted cannot; templates are left out.
    """
    return {name: usable for name, usable in fetch(connection, DATABASES, (SEEDING_PREFIX,))}


def libpq_variables(socket_directory: str | Path, dbname: str) -> dict[str, str]:
    """Return the environment for a child process that is to reach one database of the sandbox.

    The caller's own PG variables are not in it: they may lead to another server.
    """
    others = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
    own = {"PGHOST": str(socket_directory), "PGPORT": PORT, "PGUSER": "postgres"}
    return {**others, **own, "PGDATABASE": dbname}


@contextmanager
def databases_locked(server: Server, target: Target) -> Iterator[Connection]:
    """Keep other processes from making databases meanwhile; yield a maintenance session."""
    lock = server.directory.parent / f"{server.directory.name}.databases.lock"
    maintenance = maintenance_target(target.project, server.socket_directory)
    with locked(lock), connect(maintenance) as connection:
        yield connection


def check_name(target: Target, state: str) -> None:
    """Check the name of a sandbox database and the state it is to begin as.

    Raises:
        SettingsError: the name is the sandbox's own or too long, or the state is malformed.
    """
    name = target.database
    reserved = name.startswith((TEMPLATE_PREFIX, SEEDING_PREFIX))
    if reserved or name in ("", "postgres", "template0", "template1"):
        raise SettingsError(
            f"A sandbox database cannot be called {name!r}: the sandbox uses that name itself.",
            remedy="Choose another, such as -r database sandbox:trial.",
        )
    if len(name.encode()) > NAME_BYTES or "\0" in name:
        raise SettingsError(
            f"The database name {name!r} is longer than PostgreSQL's {NAME_BYTES} bytes.",
            remedy="Choose a shorter one.",
        )
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,30}", state):
        raise SettingsError(
            f"state={state!r} is not a state that a seed can make.",
            remedy="Write one of the seed's own, such as legacy, or empty.",
        )


def _execute(connection: Connection, statement: str, *parts: sql.Composable) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql.SQL(statement).format(*parts))


def replace_database(connection: Connection, target: Target, server: Server, state: str) -> None:
    """Make a database as a copy of its state's template, in place of the one there is."""
    template, size_bytes = "template0", 0
    if target.seed and state != EMPTY:
        template, size_bytes = _template(connection, target, server, state)
    drop(connection, target.database)
    strategy = "FILE_COPY" if size_bytes > FILE_COPY_FROM_BYTES else "WAL_LOG"
    names = (sql.Identifier(target.database), sql.Identifier(template))
    _execute(connection, f"CREATE DATABASE {{}} TEMPLATE {{}} STRATEGY {strategy}", *names)


def drop(connection: Connection, name: str) -> None:
    """Drop a database or template if it exists, ending its sessions."""
    if fetch(connection, NAMED, (name,)):
        _execute(connection, "ALTER DATABASE {} IS_TEMPLATE false", sql.Identifier(name))
        _execute(connection, "DROP DATABASE {} WITH (FORCE)", sql.Identifier(name))


def _template(
    connection: Connection, target: Target, server: Server, state: str
) -> tuple[str, int]:
    """Return (name, bytes) of the state's template, seeded if it is missing or out of date."""
    name, digest = f"{TEMPLATE_PREFIX}{state}", _seed_digest(target)
    found = fetch(connection, TEMPLATE, (name,))
    if not found or found[0][0] != digest:
        _make_template(connection, target, server, state, digest)
        found = fetch(connection, TEMPLATE, (name,))
    return name, found[0][1]


def _make_template(
    connection: Connection, target: Target, server: Server, state: str, digest: str
) -> None:
    """Seed a database of another name and rename it, so that no template is ever half made."""
    for (unfinished,) in fetch(connection, UNFINISHED, (SEEDING_PREFIX,)):
        drop(connection, unfinished)
    # A name of its own: the seed of a killed process may still be writing to an earlier one.
    seeding = f"{SEEDING_PREFIX}{state}_{secrets.token_hex(4)}"
    _execute(connection, "CREATE DATABASE {} TEMPLATE template0", sql.Identifier(seeding))
    try:
        _run_seed(target, server, state, seeding)
        # The planner's figures are copied too: estimates are the same in every copy.
        with connect(maintenance_target(target.project, server.socket_directory, seeding)) as own:
            _execute(own, "VACUUM (FREEZE, ANALYZE)")
    except BaseException:
        with suppress(psycopg2.Error):  # with the server gone, the next seeding drops it
            drop(connection, seeding)
        raise
    finished = sql.Identifier(f"{TEMPLATE_PREFIX}{state}")
    seeded = sql.Identifier(seeding)
    _execute(connection, "COMMENT ON DATABASE {} IS {}", seeded, sql.Literal(digest))
    _execute(connection, "ALTER DATABASE {} ALLOW_CONNECTIONS false IS_TEMPLATE true", seeded)
    drop(connection, f"{TEMPLATE_PREFIX}{state}")
    _execute(connection, "ALTER DATABASE {} RENAME TO {}", seeded, finished)


def _run_seed(target: Target, server: Server, state: str, dbname: str) -> None:
    """Run the project's seed module on a database, in a child process.

    Raises:
        SettingsError: it failed; the last line that it wrote to stderr says why.
    """
    command = [target.python or sys.executable, "-m", target.seed, "--state", state]
    environment = libpq_variables(server.socket_directory, dbname)
    try:
        done = subprocess.run(
            command, check=False, cwd=target.project, env=environment, capture_output=True,
            stdin=subprocess.DEVNULL, text=True, errors="replace",
        )  # fmt: skip
        code, lines = done.returncode, done.stderr.strip().splitlines()
    except OSError as error:
        code, lines = 127, [f"{command[0]}: {error.strerror}"]
    if code:
        reason = redact(lines[-1]) if lines else f"exit code {code}"
        raise SettingsError(
            f"The seed {target.seed!r} could not make a {state!r} database: {reason.rstrip('.')}.",
            state="No database was made or changed.",
            remedy=f"Correct {target.seed!r} (it is named in {target.alembic_ini.name}).",
        )


def _seed_digest(target: Target) -> str:
    """Return a hash of what a template is made from: the revisions and the seed's package."""
    digest = sha256(target.seed.encode())
    versions = sorted((target.project / "migrations" / "versions").glob("*.py"))
    for path in (*versions, *_package_files(target)):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _package_files(target: Target) -> list[Path]:
    """Return the Python files of the seed's top-level package, without importing it."""
    name = target.seed.partition(".")[0]
    importlib.invalidate_caches()
    spec = importlib.machinery.PathFinder.find_spec(name, [str(target.project), *sys.path])
    spec = spec or importlib.util.find_spec(name)
    if spec is None:  # it lives in the environment of `python =`
        return []
    folders = spec.submodule_search_locations
    if folders:
        return sorted(path for folder in folders for path in Path(folder).rglob("*.py"))
    return [Path(spec.origin)] if spec.origin else []
