"""A database made like another one of the same server, and dropped again. Layer 3.

Encoding, locale, owner, settings, privileges and comment are the other one's; its contents are
somebody else's business. Until it is finished its comment says so, and only its owner and
superusers may connect: a half-made one is never taken for a whole one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from playbook.database import connect, fetch, fetch_value, map_driver_errors
from playbook.errors import CannotConnect, DatabaseError, SettingsError
from playbook.targets import Target

__all__ = [
    "Like",
    "check_name",
    "create",
    "drop",
    "exists",
    "finish",
    "maintenance_target",
    "read_like",
    "stamped_name",
    "unfinished",
]

NAME_BYTES = 63
"""PostgreSQL cuts longer names off (NAMEDATALEN - 1)."""
UNFINISHED = "migration-playbook: being made by "
"""What the comment of an unfinished database begins with; the run follows."""
RESERVED = re.compile(r"postgres|template[01]|(template|seeding)_.*")
"""Of PostgreSQL and of the sandbox."""
LISTS = frozenset({
    "local_preload_libraries", "search_path", "session_preload_libraries",
    "shared_preload_libraries", "temp_tablespaces", "unix_socket_directories",
})  # fmt: skip
"""Settings whose stored value is a list of quoted names (variable_is_guc_list_quote of pg_dump)."""
_NAME_LIST = re.compile(r'("(?:[^"]|"")*"|[a-z_][a-z0-9_]*)(, ("(?:[^"]|"")*"|[a-z_][a-z0-9_]*))*')

LIKE = """
SELECT d.oid::bigint, d.datname, r.rolname, pg_has_role(d.datdba, 'MEMBER'),
       pg_encoding_to_char(d.encoding), d.datcollate, d.datctype,
       coalesce(to_jsonb(d) ->> 'datlocprovider', ''),
       coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale', ''),
       coalesce(to_jsonb(d) ->> 'daticurules', ''), t.spcname, d.datconnlimit,
       coalesce(shobj_description(d.oid, 'pg_database'), ''), d.datacl IS NULL
FROM pg_database AS d JOIN pg_roles AS r ON r.oid = d.datdba
JOIN pg_tablespace AS t ON t.oid = d.dattablespace WHERE d.datname = %s
"""
SETTINGS = """
SELECT coalesce(r.rolname, ''), s.name_and_value
FROM pg_db_role_setting AS p
CROSS JOIN unnest(p.setconfig) WITH ORDINALITY AS s (name_and_value, place)
LEFT JOIN pg_roles AS r ON r.oid = p.setrole WHERE p.setdatabase = %s ORDER BY 1, s.place
"""
GRANTS = """
SELECT coalesce(r.rolname, ''), a.privilege_type, a.is_grantable
FROM pg_database AS d CROSS JOIN aclexplode(d.datacl) AS a
LEFT JOIN pg_roles AS r ON r.oid = a.grantee WHERE d.oid = %s ORDER BY 1, 2
"""
UNFINISHED_DATABASES = """
SELECT datname, shobj_description(oid, 'pg_database') FROM pg_database
WHERE starts_with(shobj_description(oid, 'pg_database'), %s) ORDER BY datname
"""


@dataclass(frozen=True)
class Like:
    """What a database is like, besides its contents."""

    oid: int
    name: str
    owner: str
    may_own: bool
    """Whether this role can make a database that belongs to the same owner."""
    encoding: str
    collate: str
    ctype: str
    provider: str
    """``c`` (libc), ``i`` (ICU) or ``b`` (built in); "" before PostgreSQL 15."""
    locale: str
    rules: str
    tablespace: str
    connection_limit: int
    comment: str
    default_privileges: bool


def maintenance_target(target: Target) -> Target:
    """Return a target on the same server for statements about whole databases.

    Raises:
        CannotConnect: neither ``postgres`` nor ``template1`` takes this role.
    """
    for name in ("postgres", "template1"):
        found = target.with_conninfo(dbname=name)
        if name == target.database:
            continue
        try:
            with connect(found, read_only=True):
                return found
        except CannotConnect as error:
            problem = error
    raise problem


def check_name(name: str, parameter: str) -> str:
    """Return the name of a database to be made.

    Raises:
        SettingsError: it is too long for PostgreSQL, or not to be used.
    """
    if len(name.encode()) > NAME_BYTES or "\0" in name:
        raise SettingsError(
            f"{parameter}={name!r} is longer than PostgreSQL's {NAME_BYTES} bytes for a name.",
            remedy="Choose a shorter one.",
        )
    if not name.strip() or RESERVED.fullmatch(name):
        raise SettingsError(
            f"{parameter}={name!r} is no name for a new database: PostgreSQL or the sandbox uses "
            "it itself.",
            remedy="Choose another one.",
        )
    return name


def stamped_name(name: str, word: str, stamp: str) -> str:
    """Return ``NAME_WORD_STAMP``, the name cut so that all has at most 63 bytes."""
    ending = f"_{word}_{stamp}"
    kept = name.encode()[: NAME_BYTES - len(ending.encode())]
    return kept.decode(errors="ignore") + ending


def exists(connection: Connection, name: str) -> bool:
    """Say whether the server has a database of that name."""
    query = "SELECT EXISTS (SELECT FROM pg_database WHERE datname = %s)"
    return bool(fetch_value(connection, query, (name,)))


def read_like(connection: Connection, name: str) -> Like:
    """Return what an existing database is like."""
    return Like(*fetch(connection, LIKE, (name,))[0])


def unfinished(connection: Connection) -> list[tuple[str, str]]:
    """Return (database, run) of each database that somebody has begun and not finished."""
    rows = fetch(connection, UNFINISHED_DATABASES, (UNFINISHED,))
    return [(name, comment.removeprefix(UNFINISHED)) for name, comment in rows]


def create(connection: Connection, name: str, like: Like, *, run_id: str) -> None:
    """Make an empty database like another one, marked as unfinished.

    Args:
        connection: a maintenance session in autocommit.
        run_id: who makes it, for its comment.

    Raises:
        DatabaseError: it exists (42P04), or this role may not.
    """
    parts = [
        sql.SQL(
            "CREATE DATABASE {} TEMPLATE template0 ENCODING {} LC_COLLATE {} LC_CTYPE {}"
        ).format(
            sql.Identifier(name), *map(sql.Literal, (like.encoding, like.collate, like.ctype))
        ),
        *_locale(like),
    ]
    if like.may_own:
        parts.append(sql.SQL("OWNER {}").format(sql.Identifier(like.owner)))
    if like.tablespace != "pg_default":
        parts.append(sql.SQL("TABLESPACE {}").format(sql.Identifier(like.tablespace)))
    database = sql.Identifier(name)
    _execute(connection, sql.SQL(" ").join(parts))
    mark = sql.Literal(f"{UNFINISHED}{run_id}")
    _execute(connection, sql.SQL("COMMENT ON DATABASE {} IS {}").format(database, mark))
    _execute(connection, sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(database))


def _locale(like: Like) -> Iterator[sql.Composable]:
    if like.provider == "c":
        yield sql.SQL("LOCALE_PROVIDER libc")
    elif like.provider == "b":
        yield sql.SQL("LOCALE_PROVIDER builtin BUILTIN_LOCALE {}").format(sql.Literal(like.locale))
    elif like.provider == "i":
        yield sql.SQL("LOCALE_PROVIDER icu ICU_LOCALE {}").format(sql.Literal(like.locale))
        if like.rules:
            yield sql.SQL("ICU_RULES {}").format(sql.Literal(like.rules))


def finish(connection: Connection, target: Target, name: str, like: Like) -> tuple[str, ...]:
    """Give a database the settings, privileges, limit and comment of the one it is like.

    Returns:
        One sentence for each that this role may not give; all others are given.
    """
    remarks = [] if like.may_own else [f"It does not belong to {like.owner}, as {like.name} does."]
    for what, statement in (
        *_settings(connection, name, like),
        *_privileges(connection, name, like),
        *_rest(name, like),
    ):
        try:
            with map_driver_errors(target):
                _execute(connection, statement)
        except DatabaseError as error:
            remarks.append(f"Not taken over from {like.name}: {what} ({error.sqlstate}).")
    return tuple(remarks)


def _settings(
    connection: Connection, name: str, like: Like
) -> Iterator[tuple[str, sql.Composable]]:
    for role, pair in fetch(connection, SETTINGS, (like.oid,)):
        setting, _, value = pair.partition("=")
        statement = sql.SQL("{} SET {} TO {}").format(
            sql.SQL("ALTER ROLE {} IN DATABASE {}").format(*map(sql.Identifier, (role, name)))
            if role
            else sql.SQL("ALTER DATABASE {}").format(sql.Identifier(name)),
            sql.Identifier(*setting.split(".")),
            _value(setting, value),
        )
        yield f"the setting {setting}" + (f" of {role}" if role else ""), statement


def _value(setting: str, value: str) -> sql.Composable:
    """Return a setting's value as SQL; a list of names is quoted already."""
    if setting in LISTS and _NAME_LIST.fullmatch(value):
        return sql.SQL(value)
    return sql.Literal(value)


def _privileges(
    connection: Connection, name: str, like: Like
) -> Iterator[tuple[str, sql.Composable]]:
    database = sql.Identifier(name)
    if like.default_privileges:
        grant = sql.SQL("GRANT CONNECT, TEMPORARY ON DATABASE {} TO PUBLIC").format(database)
        yield "the privileges of PUBLIC", grant
    for role, privilege, grantable in fetch(connection, GRANTS, (like.oid,)):
        grant = sql.SQL("GRANT {} ON DATABASE {} TO {}{}").format(
            sql.SQL(privilege),
            database,
            sql.Identifier(role) if role else sql.SQL("PUBLIC"),
            sql.SQL(" WITH GRANT OPTION" if grantable and role != like.owner else ""),
        )
        yield f"{privilege} for {role or 'PUBLIC'}", grant


def _rest(name: str, like: Like) -> Iterator[tuple[str, sql.Composable]]:
    database = sql.Identifier(name)
    if like.connection_limit >= 0:
        limit = sql.SQL("ALTER DATABASE {} CONNECTION LIMIT {}")
        yield "the connection limit", limit.format(database, sql.Literal(like.connection_limit))
    comment = sql.Literal(like.comment) if like.comment else sql.SQL("NULL")
    yield "the comment", sql.SQL("COMMENT ON DATABASE {} IS {}").format(database, comment)


def drop(connection: Connection, name: str) -> None:
    """Drop a database that was made here, ending what still works in it."""
    statement = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
    _execute(connection, statement.format(sql.Identifier(name)))


def _execute(connection: Connection, statement: sql.Composable) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)
