"""The only place where a connection is opened. Layer 2: errors, records and targets.

Sets each session up (name, timeouts, read-only), maps the driver's errors to ours by SQLSTATE,
and holds the advisory lock that keeps two runs apart. Runs no query about the schema.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any, LiteralString

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import make_dsn

from playbook.errors import (
    CannotConnect,
    DatabaseError,
    GuardRefused,
    LockNotAcquired,
    PlaybookError,
    PrivilegeMissing,
    StatementTimeout,
    TargetBusy,
)
from playbook.records import ServerInfo
from playbook.targets import Target, redact

__all__ = [
    "APPLICATION_NAME",
    "advisory_lock",
    "connect",
    "end_session",
    "fetch",
    "fetch_value",
    "identifier",
    "is_pooled",
    "lock_holder",
    "map_driver_errors",
    "server_info",
]

APPLICATION_NAME = "migration-playbook"
CONNECT_TIMEOUT_S = 10
SESSION = {
    "client_connection_check_interval": "1s",
    "lock_timeout": "10s",
    "row_security": "off",
}
"""What every session of the playbook sets: the server notices a dead client; no lock is waited
for without end; and rows that a policy hides are an error, since a count, a snapshot or a salvage
without them would be wrong."""
LOCK_WAIT_S = 60.0
"""How long a run waits for another one before it refuses (Sqitch waits as long)."""
LOCK_KEY = 0x706C6179626F6F6B
"""The advisory lock's key: the ASCII codes of "playbook"; it fits a bigint."""

Row = tuple[Any, ...]

SERVER_INFO = """
SELECT d.datname, d.oid::bigint, (pg_control_system()).system_identifier::text,
       current_setting('server_version'), current_setting('server_version_num')::int,
       current_user::text, pg_is_in_recovery(), pg_database_size(d.oid)
FROM pg_database AS d WHERE d.datname = current_database()
"""

LOCK_HOLDER = """
SELECT a.pid, coalesce(a.usename, '?'), coalesce(a.application_name, ''), a.backend_start
FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND (l.classid::bigint << 32) + l.objid::bigint = %s
"""

# psycopg2 gives a failed connection no SQLSTATE, so libpq's text is all there is to tell them
# apart by; a server that speaks another language falls through to the last remedy.
_REFUSALS = (
    (
        "08001",
        ("certificate verify failed", "does not match host name", "root certificate file"),
        "Correct sslrootcert (the file of the CA that signed the server's certificate) or the "
        "host's name; sslmode=verify-full checks both.",
    ),
    (
        "08001",
        ("server does not support SSL",),
        "Turn TLS on at the server, or correct host, port and sslmode.",
    ),
    (
        "28000",
        (
            "client certificate",
            "certificate authentication failed",
            "certificate file",
            "private key file",
            "certificate required",
            "unknown ca",
        ),
        "Correct sslcert and sslkey: the server asks for a certificate of its own CA for this "
        "user, and the key's file must be readable by its owner alone.",
    ),
    ("", ("definition of service",), "Correct the service's name, or the file ~/.pg_service.conf."),
    (
        "28P01",
        ("password authentication failed", "no password supplied"),
        "Correct the password where it is kept: the URL's variable, ~/.pgpass or the service file.",
    ),
    (
        "28000",
        ("pg_hba.conf", "is not permitted to log in", "Peer authentication failed"),
        "Ask for a login: the role's LOGIN attribute and the server's pg_hba.conf decide it.",
    ),
    ("28000", ('FATAL: role "',), "Correct the user's name, or ask for such a role."),
    ("3D000", ("does not exist",), "Create it (createdb), or correct the database's name."),
    ("42501", ("permission denied for database",), "Ask for GRANT CONNECT on this database."),
    (
        "53300",
        ("too many clients", "too many connections", "remaining connection slots"),
        "All its connections are taken: close some, or raise max_connections.",
    ),
    (
        "08P01",
        ("unsupported startup parameter",),
        "A pooler is in between, which takes no such parameter: leave it out of the URL, "
        "or name it in the pooler's ignore_startup_parameters, or use the server's own port.",
    ),
    ("57P03", ("the database system is",), "It is starting or stopping: wait and try again."),
)
_UNREACHABLE = ("08001", (), "Check that the server runs and that host and port are right.")


@contextmanager
def connect(
    target: Target,
    *,
    read_only: bool = False,
    autocommit: bool = True,
    settings: Mapping[str, str] | None = None,
) -> Iterator[Connection]:
    """Open a session on a target and close it at the end.

    Args:
        target: a resolved target (a sandbox target has its socket's folder filled in).
        read_only: refuse every write of this session in the server.
        autocommit: False opens transactions as psycopg2 does by default.
        settings: further settings of the session, e.g. ``{"lock_timeout": "2s"}``.

    Raises:
        CannotConnect: server down, no such database, login refused; the sentence says which.
        GuardRefused: a pooler in transaction mode is in between.
        DatabaseError: any error that the server raises inside the block.
    """
    connection = _open(target)
    try:
        with map_driver_errors(target):
            values = {**SESSION, **(settings or {})}
            if read_only:
                values["default_transaction_read_only"] = "on"
            connection.autocommit = True
            # What is set behind a pooler in transaction mode would stay with the application.
            if not _set(connection, values, pid=connection.info.backend_pid):
                _check_pooler(target)
                _set(connection, values, pid=0)
            connection.autocommit = autocommit
            yield connection
    finally:
        connection.close()


def _open(target: Target) -> Connection:
    keywords = {
        "connect_timeout": str(CONNECT_TIMEOUT_S),
        "application_name": APPLICATION_NAME,
        **target.conninfo,
    }
    try:
        return psycopg2.connect(make_dsn(**keywords))
    except psycopg2.Error as error:
        raise _connect_error(target, error) from None


def _connect_error(target: Target, error: psycopg2.Error) -> CannotConnect:
    """Return one sentence for a failed connection; libpq's own words follow, redacted."""
    text = redact(" ".join(str(error).split()))
    refusal = next((r for r in _REFUSALS if any(words in text for words in r[1])), _UNREACHABLE)
    sqlstate, _, remedy = refusal
    return CannotConnect(
        f"Cannot connect to the {target.label}: {text.rstrip('.?')}.",
        state="Nothing was changed.",
        remedy=remedy,
        sqlstate=sqlstate,
    )


def _set(connection: Connection, values: Mapping[str, str], *, pid: int) -> bool:
    """Apply session settings, leaving out those that this server's version does not have.

    Args:
        pid: the session's process id, or nothing is set and False is returned; 0 is any.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT set_config(s.name, v.value, false) FROM pg_settings AS s "
            "JOIN unnest(%s, %s) AS v (name, value) ON v.name = s.name "
            "WHERE %s IN (0, pg_backend_pid())",
            (list(values), list(values.values()), pid),
        )
        return bool(cursor.rowcount)


def _check_pooler(target: Target) -> None:
    """Refuse a pooler in transaction mode before anything is set in one of its sessions.

    Raises:
        GuardRefused: connections do not keep a session of their own.
    """
    if not _keep_sessions(target):
        raise GuardRefused(
            f"A pooler in transaction mode is in front of the {target.label}: read-only, timeouts "
            "and the lock that keeps two runs apart would not stay with this run's sessions, but "
            "with the application's.",
            remedy="Give the target the server's own port, or that of a pool in session mode.",
        )


@contextmanager
def map_driver_errors(target: Target) -> Iterator[None]:
    """Turn psycopg2's errors into the playbook's, by SQLSTATE."""
    try:
        yield
    except PlaybookError:
        raise
    except psycopg2.Error as error:
        raise _driver_error(target, error) from error


def _driver_error(target: Target, error: psycopg2.Error) -> DatabaseError:
    sqlstate = error.pgcode or ""
    message = redact((error.diag.message_primary or str(error)).strip())
    if isinstance(error, psycopg2.OperationalError) and not sqlstate:
        said = " ".join(message.split()).rstrip(".")
        return CannotConnect(
            f"The connection to the {target.label} was lost: {said}.",
            remedy="Look at the server, then run `status`.",
        )
    kind: type[DatabaseError] = {
        "55P03": LockNotAcquired,
        "57014": StatementTimeout,
        "42501": PrivilegeMissing,
    }.get(sqlstate, DatabaseError)
    remedy = "Ask the owner for it, or run as a role that has it." if sqlstate == "42501" else ""
    return kind(
        f"The {target.label} said: {message} (SQLSTATE {sqlstate}).",
        remedy=remedy,
        sqlstate=sqlstate,
    )


def fetch(
    connection: Connection,
    query: LiteralString | sql.Composable,
    parameters: Sequence[object] | Mapping[str, object] | None = None,
) -> list[Row]:
    """Return all rows of a query, in its order."""
    with connection.cursor() as cursor:
        cursor.execute(query, parameters)
        return list(cursor.fetchall())


def fetch_value(
    connection: Connection,
    query: LiteralString | sql.Composable,
    parameters: Sequence[object] | None = None,
) -> Any:
    """Return the first column of a query's only row."""
    return fetch(connection, query, parameters)[0][0]


def identifier(name: str) -> sql.Composable:
    """Return ``schema.table`` or ``name`` as a quoted identifier (split at the first dot)."""
    return sql.Identifier(*name.split(".", 1))


def server_info(connection: Connection) -> ServerInfo:
    """Return which server and database this session is on.

    Source: pg_control_system(), pg_database_size(); executable by every role on 13 to 18.
    """
    row = _with_short_version(fetch(connection, SERVER_INFO)[0])
    return replace(ServerInfo(*row), encrypted=bool(connection.info.ssl_in_use))


def _with_short_version(row: Row) -> Row:
    name, oid, identifier_, version, *rest = row
    return (name, oid, identifier_, version.split(" ")[0], *rest)


def is_pooled(connection: Connection) -> bool:
    """Say whether a pooler is in between: it answers with a process id of its own making.

    Source: BackendKeyData of the protocol, which PgBouncer fills with a random key.
    """
    pid = fetch_value(connection, "SELECT pg_backend_pid()")
    return bool(pid != connection.info.backend_pid)


def _keep_sessions(target: Target) -> bool:
    """Say whether each connection keeps a session of its own; only reads.

    Behind a pooler in transaction mode they take turns on the sessions that are idle, in whatever
    order it chooses: one then meets a session that was the other's, or another than before.
    """
    query = "SELECT pg_backend_pid()"
    first, second = _open(target), _open(target)
    with closing(first), closing(second):
        first.autocommit = second.autocommit = True
        pids = [(fetch_value(first, query), fetch_value(second, query)) for _ in range(ROUNDS)]
    ones, others = ({pair[place] for pair in pids} for place in (0, 1))
    return len(ones) == len(others) == 1 and not ones & others


ROUNDS = 5
"""More than the sessions that a pool lets two connections take turns on, if nobody else does."""


def end_session(target: Target, pid: int, *, wait_s: float = 10.0) -> None:
    """End a session of the playbook's own and wait until the server has rolled it back.

    Raises:
        DatabaseError: it is still there after ``wait_s`` seconds.
    """
    with connect(target) as connection:
        ours = "pid = %s AND application_name = %s"
        fetch(
            connection,
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {ours}",
            (pid, APPLICATION_NAME),
        )
        deadline = time.monotonic() + wait_s
        query = f"SELECT count(*) FROM pg_stat_activity WHERE {ours}"
        while fetch_value(connection, query, (pid, APPLICATION_NAME)):
            if time.monotonic() > deadline:
                raise DatabaseError(
                    f"The session with pid {pid} is still there after {wait_s:.0f} s.",
                    remedy="Look at it in pg_stat_activity before anything else is run.",
                )
            time.sleep(0.05)


@contextmanager
def advisory_lock(target: Target, *, wait_s: float = LOCK_WAIT_S) -> Iterator[Callable[[], None]]:
    """Hold the playbook's session advisory lock on a target, on a connection of its own.

    **Effects**: one idle autocommit session while the block runs. It is polled for with
    pg_try_advisory_lock, since a session that waits inside pg_advisory_lock would deadlock a
    concurrent index build. A crash frees it, as the server ends the session.

    Yields:
        A function that raises GuardRefused if the lock is no longer held: its session was ended,
        and another run may have begun. To be called before each further change.

    Raises:
        TargetBusy: another run holds it after ``wait_s`` seconds; it says who and since when.
    """
    # It idles for as long as the run takes; a server's idle_session_timeout must not end it.
    with connect(target, settings={"idle_session_timeout": "0"}) as connection:
        deadline = time.monotonic() + wait_s
        while not fetch_value(connection, "SELECT pg_try_advisory_lock(%s)", (LOCK_KEY,)):
            if time.monotonic() >= deadline:
                holder = lock_holder(connection) or "it ended just now"
                raise TargetBusy(
                    f"Another run holds the {target.label}: {holder}.",
                    remedy="Wait until it has ended, then run this again.",
                )
            time.sleep(random.uniform(0.2, 0.6))
        try:
            yield lambda: _check_held(connection, target)
        finally:
            if not connection.closed:
                _unlock(connection)


def _check_held(connection: Connection, target: Target) -> None:
    query = """
        SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND granted
        AND locktype = 'advisory' AND (classid::bigint << 32) + objid::bigint = %s
    """
    try:
        held = bool(fetch_value(connection, query, (LOCK_KEY,)))
    except (psycopg2.OperationalError, psycopg2.InterfaceError):
        held = False
    if not held:
        raise GuardRefused(
            f"The lock on the {target.label} was lost: its session was ended, and another run may "
            "have begun.",
            state="Nothing more was changed.",
            remedy="Run `status` before anything else.",
        )


def _unlock(connection: Connection) -> None:
    """Free the lock; a session that the server already ended has freed it by that."""
    try:
        fetch_value(connection, "SELECT pg_advisory_unlock(%s)", (LOCK_KEY,))
    except (psycopg2.OperationalError, psycopg2.InterfaceError):
        connection.close()


def lock_holder(connection: Connection) -> str:
    """Return who holds the playbook's lock on this database and since when; "" if nobody."""
    rows = fetch(connection, LOCK_HOLDER, (LOCK_KEY,))
    if not rows:
        return ""
    pid, user, application, since = rows[0]
    # PostgreSQL shows the time of another role's session only to members of pg_read_all_stats.
    when = f", since {since:%Y-%m-%d %H:%M:%S %Z}" if since else ""
    return f"{user!r} in {application!r}, pid {pid}{when}"
