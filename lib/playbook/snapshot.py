"""Exact row counts and column fingerprints of every table, in one transaction. Layer 3: reads only.

A fingerprint is the sum, over all rows, of PostgreSQL's 64-bit hash of the value's text, seeded
with the hash of the row's primary key. A changed value changes it, two values swapped between
rows change it, and duplicates do not cancel out as they would under XOR. A table without a
primary key is fingerprinted without the seed: a swap within one column then goes unseen.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import psycopg2.extensions
from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from playbook.catalog import TableColumns, table_columns, table_names
from playbook.database import connect, fetch, identifier
from playbook.errors import PlaybookError
from playbook.records import ColumnSnapshot, Snapshot, TableSnapshot
from playbook.targets import Target

__all__ = [
    "TEXT_FORMS",
    "count_rows",
    "count_written_after",
    "count_written_by",
    "holds_rows",
    "read_snapshot",
    "read_tables",
    "take_snapshot",
    "write_snapshot",
    "written_since",
]

NULL_HASH = 7
"""Stands for NULL in a sum, so that NULL and a missing row differ."""
SEED = 20250101
SEED_COLUMN = "playbook: hash of the primary key"
HASHES = {
    "smallint": "hashint2extended({}, {})",
    "integer": "hashint4extended({}, {})",
    "bigint": "hashint8extended({}, {})",
    "uuid": "uuid_hash_extended({}, {})",
    "timestamp without time zone": "timestamp_hash_extended({}, {})",
    "timestamp with time zone": "timestamp_hash_extended({}::timestamp, {})",
}
"""The hash functions of PostgreSQL's hash partitioning (pg_amproc), by type; from 11 on."""

TEXT_FORMS = {
    "TimeZone": "UTC",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
}
"""Settings on which a value's text depends; fixed, so that equal values have equal hashes."""


def take_snapshot(
    target: Target,
    revisions: Sequence[str],
    *,
    except_tables: Sequence[str] = (),
    fingerprints: bool = True,
) -> Snapshot:
    """Count and fingerprint every user table in one REPEATABLE READ transaction.

    Args:
        target: a resolved target.
        revisions: where the database stands, for the record.
        except_tables: what to leave out, as ``schema.table``: Alembic's own table.
        fingerprints: False counts rows and non-null values only.

    Returns:
        One element per table, sorted by schema and name; columns in attribute order.
    """
    with connect(target, read_only=True, autocommit=False, settings=TEXT_FORMS) as connection:
        connection.set_session(
            isolation_level=psycopg2.extensions.ISOLATION_LEVEL_REPEATABLE_READ, readonly=True
        )
        tables = read_tables(connection, except_tables=except_tables, fingerprints=fingerprints)
        database = fetch(connection, "SELECT current_database()")[0][0]
    return Snapshot(
        database=database,
        taken_at=datetime.now(UTC).isoformat(timespec="seconds"),
        revisions=tuple(revisions),
        tables=tables,
    )


def read_tables(
    connection: Connection, *, except_tables: Sequence[str] = (), fingerprints: bool = True
) -> tuple[TableSnapshot, ...]:
    """Count and fingerprint every user table in a connection's own transaction.

    Args:
        connection: with the settings `TEXT_FORMS`, in a REPEATABLE READ transaction.
    """
    columns = table_columns(connection)
    names = [name for name in columns if name not in except_tables]
    return tuple(_table(connection, name, columns, fingerprints) for name in names)


def count_rows(connection: Connection, tables: Sequence[str]) -> dict[str, int]:
    """Return the exact number of rows of each table (``schema.table``)."""
    query = sql.SQL("SELECT count(*) FROM {}")
    return {t: fetch(connection, query.format(identifier(t)))[0][0] for t in tables}


def count_written_after(connection: Connection, tables: Sequence[str], xid: int) -> dict[str, int]:
    """Return how many rows of each table were inserted or updated after a transaction.

    Args:
        xid: a 64-bit transaction id of this server (`playbook.records.StepResult.xids`).
    """
    query = sql.SQL("SELECT count(*) FROM {} WHERE {}")
    return _count_each(connection, query, tables, written_since(xid + 1))


def written_since(xid: int) -> sql.Composable:
    """Return the condition that a transaction, or one that began after it, wrote the row.

    Args:
        xid: a 64-bit transaction id of this server, less than 2 billion transactions old.

    Source: the system column xmin, age(xid). A row that was not written for longer than 2 billion
    transactions is taken for a new one, unless a rewrite has frozen it since.
    """
    return sql.SQL("age(xmin) <= age({})").format(_xid(xid))


def count_written_by(
    connection: Connection, tables: Sequence[str], xids: Sequence[int]
) -> dict[str, int]:
    """Return how many rows of each table are as some transactions wrote them.

    Rows that they deleted, or that others wrote again afterwards, are not among them.

    Args:
        xids: 64-bit transaction ids of this server.
    """
    query = sql.SQL("SELECT count(*) FROM {} WHERE xmin = ANY (ARRAY[{}]::xid[])")
    return _count_each(connection, query, tables, sql.SQL(", ").join(map(_xid, xids)))


def _count_each(
    connection: Connection, query: sql.SQL, tables: Sequence[str], condition: sql.Composable
) -> dict[str, int]:
    return {t: fetch(connection, query.format(identifier(t), condition))[0][0] for t in tables}


def _xid(xid: int) -> sql.Composable:
    """Return a 64-bit transaction id as the system columns hold it: without its epoch."""
    return sql.SQL("{}::text::xid").format(sql.Literal(xid % 2**32))


def holds_rows(target: Target, *, except_tables: Sequence[str] = ()) -> bool:
    """Say whether any user table has a row, leaving some out; stops at the first."""
    query = sql.SQL("SELECT EXISTS (SELECT FROM {})")
    with connect(target, read_only=True) as connection:
        names = [name for name in table_names(connection) if name not in except_tables]
        return any(fetch(connection, query.format(identifier(n)))[0][0] for n in names)


def write_snapshot(snapshot: Snapshot, path: Path) -> None:
    """Write a snapshot as JSON."""
    path.write_text(json.dumps(asdict(snapshot), indent=1) + "\n", "utf-8")


def read_snapshot(path: Path) -> Snapshot:
    """Return a snapshot from JSON.

    Raises:
        PlaybookError: the file is not there or is not such a file.
    """
    try:
        record = json.loads(path.read_text("utf-8"))
        tables = tuple(
            TableSnapshot(
                table["schema"],
                table["table"],
                table["rows"],
                tuple(ColumnSnapshot(**column) for column in table["columns"]),
            )
            for table in record["tables"]
        )
        return Snapshot(record["database"], record["taken_at"], tuple(record["revisions"]), tables)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PlaybookError(
            f"{path} is not a readable snapshot ({type(error).__name__}).",
            state="Nothing was changed.",
            remedy="Choose another receipt with -r against PATH.",
        ) from error


def _table(
    connection: Connection, name: str, columns: TableColumns, fingerprints: bool
) -> TableSnapshot:
    schema, table = name.split(".", 1)
    row = fetch(connection, _query(name, columns, fingerprints))[0]
    values = [
        ColumnSnapshot(column, type_, not_null, row[1 + 2 * i], str(row[2 + 2 * i] or 0))
        for i, (column, type_, not_null, _) in enumerate(columns[name])
    ]
    return TableSnapshot(schema, table, row[0], tuple(values))


def _query(name: str, columns: TableColumns, fingerprints: bool) -> sql.Composable:
    """Return one scan for all statistics of a table."""
    seed: sql.Composable = sql.Literal(SEED)
    for column, type_, _, is_key in columns[name]:
        if is_key:
            seed = _hash(column, type_, seed)
    parts: list[sql.Composable] = [sql.SQL("count(*)")]
    for column, type_, not_null, _ in columns[name]:
        value = sql.SQL("*") if not_null else sql.Identifier(column)
        parts.append(sql.SQL("count({})").format(value))
        hashed = _hash(column, type_, sql.Identifier(SEED_COLUMN))
        fingerprint = sql.SQL("sum(coalesce({}, {}))").format(hashed, sql.Literal(NULL_HASH))
        parts.append(fingerprint if fingerprints else sql.SQL("NULL"))
    return sql.SQL("SELECT {} FROM (SELECT *, {} AS {} FROM {}) AS r").format(
        sql.SQL(", ").join(parts), seed, sql.Identifier(SEED_COLUMN), identifier(name)
    )


def _hash(column: str, type_: str, seed: sql.Composable) -> sql.Composable:
    """Return the 64-bit hash of a value: by its type's own function, else of its text.

    Those of the integers give equal hashes for equal numbers, so that a column made wider keeps
    its fingerprint. numeric's takes 1.0 and 1.00 as equal, so numeric goes by its text. In the
    collation "C" texts that another one takes as equal have different hashes.
    """
    function = HASHES.get(type_.split("(")[0], 'hashtextextended({}::text COLLATE "C", {})')
    return sql.SQL(function).format(sql.Identifier(column), seed)
