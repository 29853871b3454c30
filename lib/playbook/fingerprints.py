"""The one query that counts and fingerprints a table. Layer 3: SQL text; it runs nothing.

A fingerprint is made of PostgreSQL's 64-bit hashes of a column's values, each seeded with its
row's primary key, so that two values swapped between rows change it. Seeded by a key that is
unique, equal hashes are as rare as chance allows, and they are put together by XOR; without such a
key duplicates would cancel out, so there they are summed, and a swap within a column goes unseen.
"""

from __future__ import annotations

from collections.abc import Sequence

from psycopg2 import sql

from playbook.database import identifier
from playbook.records import ColumnSnapshot

__all__ = ["ROW_TEXTS", "TEXT_FORMS", "form_of", "statistics", "statistics_query"]

NULL_HASH = 7
"""Stands for NULL in a sum, so that NULL and a missing row differ."""
SEED = 20250101
NULL_FACTOR = 0x9E3779B97F4A7C15
"""By which the number of NULLs is spread over 64 bits (2^64 divided by the golden ratio)."""
SAMPLE_SEED = 20250101
INTEGERS = ("smallint", "integer", "bigint")
HASHES = {
    "smallint": "hashint2extended({}, {})",
    "integer": "hashint4extended({}, {})",
    "bigint": "hashint8extended({}, {})",
    "uuid": "uuid_hash_extended({}, {})",
    "timestamp without time zone": "timestamp_hash_extended({}, {})",
    "timestamp with time zone": "timestamp_hash_extended({}::timestamp, {})",
}
"""The hash functions of PostgreSQL's hash partitioning (pg_amproc), by type; from 11 on."""
HASHES_18 = {"timestamp with time zone": "timestamptz_hash_extended({}, {})"}
"""The same hash without the detour by the calendar.

Measured at 10 million rows: such a column alone takes 1.6 times a count(*) instead of 2.6.
"""
BIT_XOR_SINCE = 140000
ROW_TEXTS = 4
"""The form of fingerprints that the server does not make: of whole rows (`playbook.row_texts`)."""

TEXT_FORMS = {
    "TimeZone": "UTC",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
}
"""Settings on which a value's text depends; fixed, so that equal values have equal hashes."""

Columns = Sequence[tuple[str, str, bool, bool]]
"""(column, type, not null, part of the primary key), as `playbook.catalog.table_columns` gives."""


def form_of(version_num: int) -> int:
    """Return the form of fingerprints that a server makes; only those of one form compare.

    Form 1 was summed everywhere and seeded by the key's hash; 2 is this module's; 3 is the same
    on PostgreSQL 13, which has no bit_xor.
    """
    return 2 if version_num >= BIT_XOR_SINCE else 3


def statistics_query(
    name: str,
    columns: Columns,
    *,
    version_num: int,
    unique: bool = True,
    fingerprints: bool = True,
    share: float = 1.0,
) -> sql.Composable:
    """Return one scan for all statistics of a table; `statistics` reads its only row.

    Args:
        name: ``schema.table``.
        unique: whether no two rows of the scan can have the same primary key.
        fingerprints: False counts rows and non-null values only.
        share: the part of the table's blocks that is read, above 0 and at most 1.
    """
    hashes = HASHES | (HASHES_18 if version_num >= 180000 else {})
    keys = [column for column, *_, is_key in columns if is_key]
    seed = _seed(columns, hashes)
    template = "bit_xor({hash})" if _xors(columns, unique, version_num) else _SUM
    parts: list[sql.Composable] = [sql.SQL("count(*)")]
    for column, type_, not_null, _ in columns:
        parts.append(
            sql.SQL("count(*)" if not_null else "count({})").format(sql.Identifier(column))
        )
        # Values of a key of one column are told apart by themselves; without a seed it is faster.
        hashed = _hash(column, type_, sql.Literal(0) if keys == [column] else seed, hashes)
        parts.append(sql.SQL(template).format(hash=hashed) if fingerprints else sql.SQL("NULL"))
    sample: sql.Composable = sql.SQL("")
    if share < 1:
        percent, repeat = sql.Literal(share * 100), sql.Literal(SAMPLE_SEED)
        sample = sql.SQL(" TABLESAMPLE SYSTEM ({}) REPEATABLE ({})").format(percent, repeat)
    selected = sql.SQL(", ").join(parts)
    return sql.SQL("SELECT {} FROM {}{}").format(selected, identifier(name), sample)


_SUM = f"sum(coalesce({{hash}}, {NULL_HASH}))"


def statistics(row: Sequence[int | None], columns: Columns) -> tuple[int, list[ColumnSnapshot]]:
    """Return the rows that were read and the columns, from the row that the query returned."""
    rows = row[0] or 0
    found = []
    for i, (column, type_, not_null, is_key) in enumerate(columns):
        values, hashed = row[1 + 2 * i] or 0, row[2 + 2 * i]
        fingerprint = str(_with_nulls(int(hashed or 0), rows - values))
        found.append(ColumnSnapshot(column, type_, not_null, values, fingerprint, is_key))
    return rows, found


def _with_nulls(hashed: int, nulls: int) -> int:
    """Return a hash that the number of NULLs changes: functions that are strict skip them."""
    return hashed ^ (nulls * NULL_FACTOR % 2**64)


def _xors(columns: Columns, unique: bool, version_num: int) -> bool:
    return unique and version_num >= BIT_XOR_SINCE and any(is_key for *_, is_key in columns)


def _seed(columns: Columns, hashes: dict[str, str]) -> sql.Composable:
    """Return what seeds a row's hashes: its key if that is one integer, else the key's hash.

    The planner pulls a sub-select up and would compute a hash anew for each column.
    """
    keys = [(column, type_) for column, type_, _, is_key in columns if is_key]
    if len(keys) == 1 and keys[0][1] in INTEGERS:
        return sql.Identifier(keys[0][0])
    seed: sql.Composable = sql.Literal(SEED)
    for column, type_ in keys:
        seed = _hash(column, type_, seed, hashes)
    return seed


def _hash(column: str, type_: str, seed: sql.Composable, hashes: dict[str, str]) -> sql.Composable:
    """Return the 64-bit hash of a value: by its type's own function, else of its text.

    Those of the integers give equal hashes for equal numbers, so that a column made wider keeps
    its fingerprint. Other types go by their text, though that takes longer: numeric's hash takes
    1.0 and 1.00 as equal, that of floats returns its seed for zero, and in jsonb's equal elements
    64 apart cancel out (JsonbHashScalarValueExtended). In the collation "C" texts that another one
    takes as equal have different hashes.
    """
    function = hashes.get(type_.split("(")[0], 'hashtextextended({}::text COLLATE "C", {})')
    return sql.SQL(function).format(sql.Identifier(column), seed)
