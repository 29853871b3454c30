"""A database's whole schema as canonical text, and how two schemas differ. Layer 3: reads only.

A dozen queries to pg_catalog, whatever the number of tables. Nothing in the text depends on oids,
on the session's settings or search path, or on the order in which things were made; only the order
of a table's columns is kept, as a fact of its own. Left out are PostgreSQL's own objects, those of
extensions, the playbook's, Alembic's version table, tablespaces and, unless asked for, owners.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from psycopg2.extensions import connection as Connection

from playbook.database import Row, fetch
from playbook.fingerprints import TEXT_FORMS
from playbook.schema_objects import COLUMN_ORDER, Schema, SchemaDifference, SchemaObject
from playbook.schema_queries import queries

__all__ = ["VERSION_TABLE", "differences", "read_schema"]

VERSION_TABLE = "public.alembic_version"
SETTINGS = {**TEXT_FORMS, "search_path": "", "quote_all_identifiers": "off"}
"""On which the text of definitions depends: without a path, each name has its schema."""
READ_SETTINGS = "SELECT name, setting FROM pg_settings WHERE name = ANY (%s)"
SET_SETTINGS = "SELECT set_config(n, v, false) FROM unnest(%s::text[], %s::text[]) AS s (n, v)"
IN_ERROR = 3
"""libpq's PQTRANS_INERROR: the rollback that must follow sets the settings back as well."""


def read_schema(
    connection: Connection,
    *,
    left_out: Sequence[str] = (VERSION_TABLE,),
    owners: bool = False,
) -> Schema:
    """Return everything that makes up the schema of a connection's database.

    The session's settings that the text depends on are set meanwhile and set back afterwards.

    Args:
        connection: in autocommit or not; for one moment's view, in a REPEATABLE READ transaction.
        left_out: relations that do not count, as ``schema.table``: Alembic's version table.
        owners: whether who owns an object belongs to it.

    Source: pg_catalog, by pg_get_constraintdef(), pg_get_indexdef() and their like.
    """
    before = fetch(connection, READ_SETTINGS, (list(SETTINGS),))
    _set(connection, list(SETTINGS.items()))
    try:
        rows = [
            row
            for query in queries(connection.server_version, owners=owners)
            for row in fetch(connection, query, {"left_out": list(left_out)})
        ]
    finally:
        if not connection.closed and connection.info.transaction_status != IN_ERROR:
            _set(connection, before)
    return _schema(rows)


def _set(connection: Connection, settings: Sequence[Row]) -> None:
    names, values = zip(*settings, strict=True)
    fetch(connection, SET_SETTINGS, (list(names), list(values)))


def _schema(rows: Sequence[Row]) -> Schema:
    """Return the schema of the queries' rows; those of columns are in order and have their name."""
    columns: dict[str, list[str]] = {}
    for kind, _, _, table, *column in rows:
        if kind == "column":
            columns.setdefault(table, []).extend(column)
    objects = {SchemaObject(*row[:4]) for row in rows}
    return Schema(
        tuple(sorted(objects, key=lambda one: (one.kind, one.name, one.definition))),
        tuple(sorted((table, tuple(names)) for table, names in columns.items())),
    )


def differences(before: Schema, after: Schema) -> tuple[SchemaDifference, ...]:
    """Return how two schemas differ, sorted by kind and object; another order of columns last.

    Of what only one side has, its parts (columns, constraints, privileges ...) are left out.
    """
    old = {(one.kind, one.name): one for one in before.objects}
    new = {(one.kind, one.name): one for one in after.objects}
    alone = {old.get(key, new.get(key)) for key in old.keys() ^ new.keys()}
    gone = {one.name for one in alone if one and one.parent != one.name}
    found = []
    for key in sorted(old.keys() | new.keys()):
        sides = (old.get(key), new.get(key))
        texts = [side.definition if side else "" for side in sides]
        parent = next(side.parent for side in sides if side)
        if texts[0] != texts[1] and parent not in gone:
            found.append(SchemaDifference(*key, *texts))
    return (*found, *_orders(before, after))


def _orders(before: Schema, after: Schema) -> Iterator[SchemaDifference]:
    """Return the tables whose common columns stand in another order."""
    new = dict(after.columns)
    for table, columns in before.columns:
        others = new.get(table, ())
        common = [[c for c in side if c in columns and c in others] for side in (columns, others)]
        if common[0] != common[1]:
            yield SchemaDifference(COLUMN_ORDER, table, *map(", ".join, common))
