"""The servers that foreign tables lie on: a copy of a database must not write there. Layer 3."""

from __future__ import annotations

from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from playbook.database import fetch, map_driver_errors
from playbook.errors import DatabaseError, GuardRefused
from playbook.targets import Target

__all__ = ["foreign_wrappers", "let_only_read"]

WRAPPERS = """
SELECT DISTINCT w.fdwname FROM pg_foreign_server AS s
JOIN pg_foreign_data_wrapper AS w ON w.oid = s.srvfdw
LEFT JOIN pg_proc AS p ON p.oid = w.fdwhandler
WHERE (p.proname = 'postgres_fdw_handler') IS NOT TRUE ORDER BY w.fdwname
"""
"""Those of which is not known how they are kept from writing."""
UPDATABLE = """
SELECT s.srvname, o.name, EXISTS (
    SELECT FROM pg_options_to_table(s.srvoptions) AS had WHERE had.option_name = o.name)
FROM pg_foreign_server AS s JOIN pg_foreign_data_wrapper AS w ON w.oid = s.srvfdw
JOIN pg_proc AS p ON p.oid = w.fdwhandler AND p.proname = 'postgres_fdw_handler'
CROSS JOIN (VALUES ('updatable', 90300), ('truncatable', 140000)) AS o (name, since)
WHERE current_setting('server_version_num')::int >= o.since ORDER BY s.srvname, o.name
"""
OVERRULED = """
SELECT n.nspname, c.relname, o.option_name
FROM pg_foreign_table AS t JOIN pg_class AS c ON c.oid = t.ftrelid
JOIN pg_namespace AS n ON n.oid = c.relnamespace
CROSS JOIN pg_options_to_table(t.ftoptions) AS o
WHERE o.option_name IN ('updatable', 'truncatable') ORDER BY 1, 2, 3
"""


def foreign_wrappers(connection: Connection) -> list[str]:
    """Return the kinds of foreign servers that `let_only_read` cannot keep from writing."""
    return [name for (name,) in fetch(connection, WRAPPERS)]


def let_only_read(copy: Target, connection: Connection) -> None:
    """Let the foreign tables of postgres_fdw only be read.

    **Effects**: options of the servers, and of the tables that overrule them; nothing on the other
    servers.

    Raises:
        GuardRefused: this role may not; rows that a revision writes would arrive there.
    """
    statements = [
        sql.SQL("ALTER SERVER {} OPTIONS ({} {} 'false')").format(
            sql.Identifier(server), sql.SQL("SET" if had else "ADD"), sql.Identifier(option)
        )
        for server, option, had in fetch(connection, UPDATABLE)
    ]
    statements += [
        sql.SQL("ALTER FOREIGN TABLE {} OPTIONS (SET {} 'false')").format(
            sql.Identifier(schema, table), sql.Identifier(option)
        )
        for schema, table, option in fetch(connection, OVERRULED)
    ]
    try:
        with map_driver_errors(copy), connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
    except DatabaseError as error:
        raise GuardRefused(
            f"The copy's foreign tables cannot be kept from writing elsewhere: {error.problem}",
            remedy="Rehearse as the owner of the foreign servers, or as a superuser.",
        ) from error
