"""Alembic's version table, whatever its form, and the SQL that gives it its own. Layer 3.

Alembic makes it with one column, ``version_num varchar(32) NOT NULL``, and a primary key on that.
Everything else here was made by hand, by another tool, or by an id that was too long.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from playbook.catalog import HISTORY_SCHEMA
from playbook.database import fetch, identifier
from playbook.records import RevisionGraph
from playbook.repairs import VersionTable

__all__ = ["ID_LENGTH", "is_sound", "move", "read_version_table", "rewrite", "room"]

ID_LENGTH = 32
"""What Alembic gives the column room for."""
COLUMN = "version_num"

FOUND = """
SELECT n.nspname || '.' || c.relname FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relname = %s AND c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_' AND n.nspname <> %s
  AND has_table_privilege(c.oid, 'SELECT') AND has_schema_privilege(n.oid, 'USAGE')
ORDER BY 1
"""
COLUMNS = """
SELECT a.attname::text, format_type(a.atttypid, a.atttypmod), a.attnotnull
FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname || '.' || c.relname = %s AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""
KEY = """
SELECT o.conname::text FROM pg_constraint AS o JOIN pg_class AS c ON c.oid = o.conrelid
JOIN pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_attribute AS a ON a.attrelid = c.oid AND o.conkey = ARRAY[a.attnum]
WHERE n.nspname || '.' || c.relname = %s AND o.contype = 'p' AND a.attname = 'version_num'
"""


def read_version_table(connection: Connection, graph: RevisionGraph) -> VersionTable:
    """Return the version table that env.py uses, and others of its name.

    Where env.py could not say which that is, it is taken for ``alembic_version`` in the one schema
    that has such a table, or else in ``public``.
    """
    found = [row[0] for row in fetch(connection, FOUND, (graph.version_table, HISTORY_SCHEMA))]
    name = f"{graph.version_table_schema or 'public'}.{graph.version_table}"
    if not graph.search_path and name not in found and len(found) == 1:
        name = found[0]
    columns = tuple(fetch(connection, COLUMNS, (name,))) if name in found else ()
    key = fetch(connection, KEY, (name,))
    return VersionTable(
        name=name,
        exists=name in found,
        columns=columns,
        key=key[0][0] if key else "",
        rows=_rows(connection, name) if name in found else (),
        others=tuple((other, _rows(connection, other)) for other in found if other != name),
    )


def _rows(connection: Connection, name: str) -> tuple[str | None, ...]:
    """Return the rows as text, NULL first; none where there is no such column."""
    if COLUMN not in [column for column, *_ in fetch(connection, COLUMNS, (name,))]:
        return ()
    query = sql.SQL("SELECT version_num::text FROM {} ORDER BY 1 NULLS FIRST")
    return tuple(row[0] for row in fetch(connection, query.format(identifier(name))))


def room(type_: str) -> int | None:
    """Return how long an id a column of some type can hold; None for a type that holds no id.

    0 stands for any length.
    """
    if type_ in {"text", "character varying"}:
        return 0
    sized = re.fullmatch(r"character varying\((\d+)\)", type_)
    return int(sized[1]) if sized else None


def is_sound(table: VersionTable, longest: int) -> bool:
    """Say whether a version table has the form that Alembic gives it, and room for each id."""
    length = room(table.type)
    return (
        [name for name, *_ in table.columns] == [COLUMN]
        and length is not None
        and (not length or length >= longest)
        and table.columns[0][2]
        and bool(table.key)
    )


def rewrite(
    connection: Connection, table: VersionTable, revisions: Sequence[str], *, longest: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the statements that make a version table sound, with some rows, and those back.

    One with further columns is not changed but renamed, and made anew.

    Args:
        connection: for its quoting only; nothing is run.
        longest: characters of the longest id that it must have room for.
    """
    named = identifier(table.name)
    insert = _insert(named, revisions)
    columns = [name for name, *_ in table.columns]
    if not table.exists:
        steps, back = [_create(table, longest), *insert], [_drop(named)]
    elif columns != [COLUMN]:
        aside = sql.Identifier(f"{table.name.split('.', 1)[1]}_before_repair")
        old = sql.Identifier(table.name.split(".", 1)[0])
        rename = sql.SQL("ALTER TABLE {} RENAME TO {}").format(named, aside)
        back_again = sql.SQL("ALTER TABLE {}.{} RENAME TO {}").format(
            old, aside, sql.Identifier(table.name.split(".", 1)[1])
        )
        # The old one keeps the name of its key.
        new = _create(table, longest, "pkey" if table.key else "pkc")
        steps, back = [rename, new, *insert], [_drop(named), back_again]
    else:
        steps, back = _alter(table, named, insert, revisions, longest)
    texts = [[f"{part.as_string(connection)};" for part in parts] for parts in (steps, back)]
    return tuple(texts[0]), tuple(texts[1])


def _create(table: VersionTable, longest: int, key_name: str = "pkc") -> sql.Composable:
    key = sql.Identifier(f"{table.name.split('.', 1)[1]}_{key_name}")
    return sql.SQL(
        "CREATE TABLE {} (version_num varchar({}) NOT NULL, "
        "CONSTRAINT {} PRIMARY KEY (version_num))"
    ).format(identifier(table.name), sql.Literal(max(ID_LENGTH, longest)), key)


def _drop(named: sql.Composable) -> sql.Composable:
    return sql.SQL("DROP TABLE {}").format(named)


def _insert(named: sql.Composable, rows: Sequence[str | None]) -> list[sql.Composable]:
    if not rows:
        return []
    values = sql.SQL(", ").join(sql.SQL("({})").format(sql.Literal(row)) for row in rows)
    return [sql.SQL("INSERT INTO {} (version_num) VALUES {}").format(named, values)]


def _alter(
    table: VersionTable,
    named: sql.Composable,
    insert: list[sql.Composable],
    revisions: Sequence[str],
    longest: int,
) -> tuple[list[sql.Composable], list[sql.Composable]]:
    """Return the statements for a table with the one column, and those back, in order."""
    new_rows = list(table.rows) != sorted(revisions)
    delete = [sql.SQL("DELETE FROM {}").format(named)] if new_rows else []
    forward, backward = _structure(table, named, longest)
    steps = [*delete, *forward, *(insert if new_rows else [])]
    back = [*delete, *backward, *(_insert(named, table.rows) if new_rows else [])]
    return steps, back


def _structure(
    table: VersionTable, named: sql.Composable, longest: int
) -> tuple[list[sql.Composable], list[sql.Composable]]:
    forward: list[sql.Composable] = []
    backward: list[sql.Composable] = []
    length = room(table.type)
    if length is None or 0 < length < longest:
        change = "ALTER TABLE {} ALTER COLUMN version_num TYPE {} USING version_num::text::{}"
        new = sql.SQL(f"varchar({max(ID_LENGTH, longest)})")
        old = sql.SQL(table.type)  # as format_type() wrote it
        forward.append(sql.SQL(change).format(named, new, new))
        backward.insert(0, sql.SQL(change).format(named, old, old))
    if not table.columns[0][2]:
        change = "ALTER TABLE {} ALTER COLUMN version_num {} NOT NULL"
        forward.append(sql.SQL(change).format(named, sql.SQL("SET")))
        backward.insert(0, sql.SQL(change).format(named, sql.SQL("DROP")))
    if not table.key:
        key = sql.Identifier(f"{table.name.split('.', 1)[1]}_pkc")
        add = sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} PRIMARY KEY (version_num)")
        forward.append(add.format(named, key))
        backward.insert(0, sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(named, key))
    return forward, backward


def move(
    connection: Connection, table: VersionTable, other: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the statements that bring another schema's table to where env.py looks, and back.

    An empty one that stands there is dropped, and made again on the way back.
    """
    here, there = table.name.split(".", 1)[0], other.split(".", 1)[0]
    change = sql.SQL("ALTER TABLE {} SET SCHEMA {}")
    steps: list[sql.Composable] = [change.format(identifier(other), sql.Identifier(here))]
    back: list[sql.Composable] = [change.format(identifier(table.name), sql.Identifier(there))]
    if table.exists:
        steps.insert(0, _drop(identifier(table.name)))
        back.append(_create(table, ID_LENGTH))
    return (
        tuple(f"{part.as_string(connection)};" for part in steps),
        tuple(f"{part.as_string(connection)};" for part in back),
    )
