"""What a plan is weighed against, read from the catalogs in one go. Layer 3: reads only."""

from __future__ import annotations

from psycopg2.errors import LockNotAvailable
from psycopg2.extensions import connection as Connection

from playbook.catalog import table_columns, table_sizes
from playbook.database import fetch, fetch_value
from playbook.records import ColumnFact, ConstraintFact, Known

__all__ = ["read_known"]

ROW_BYTES = 100
"""Taken for a row of a table that was never analysed."""
UTC_NAMES = {"UTC", "ETC/UTC", "GMT", "ETC/GMT", "UCT", "ETC/UCT", "ZULU", "ETC/ZULU", "UNIVERSAL"}

BINARY_CASTS = """
SELECT s.typname, t.typname FROM pg_cast AS c
JOIN pg_type AS s ON s.oid = c.castsource JOIN pg_type AS t ON t.oid = c.casttarget
WHERE c.castmethod = 'b'
"""

CONSTRAINTS = """
SELECT n.nspname || '.' || c.relname, o.conname, pg_get_constraintdef(o.oid), o.convalidated
FROM pg_constraint AS o JOIN pg_class AS c ON c.oid = o.conrelid
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE o.contype IN ('c', 'f') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
  AND NOT EXISTS (SELECT FROM pg_locks AS l
                  JOIN pg_database AS d ON d.oid = l.database AND d.datname = current_database()
                  WHERE l.relation = c.oid AND l.mode = 'AccessExclusiveLock')
ORDER BY 1, 2
"""
"""Of tables that somebody holds exclusively, nothing: pg_get_constraintdef() would wait."""

PRIMARY_KEYS = """
SELECT n.nspname || '.' || c.relname,
       array_agg(a.attname::text ORDER BY array_position(o.conkey, a.attnum))
FROM pg_constraint AS o JOIN pg_class AS c ON c.oid = o.conrelid
JOIN pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = ANY (o.conkey)
WHERE o.contype = 'p' GROUP BY 1
"""

PARTITIONED = """
SELECT n.nspname || '.' || c.relname
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.relkind = 'p'
"""

INHERITED = """
SELECT DISTINCT n.nspname || '.' || c.relname FROM pg_inherits AS i
JOIN pg_class AS c ON c.oid = i.inhparent JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind = 'r'
"""

FUNCTIONS = """
SELECT DISTINCT p.proname FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
"""

FILLING_DOMAINS = """
SELECT typname FROM pg_type WHERE typtype = 'd' AND typdefault IS NOT NULL
"""

INDEXES = "SELECT relname FROM pg_class WHERE relkind IN ('i', 'I')"

STEADY = "SELECT proname FROM pg_proc GROUP BY 1 HAVING bool_and(provolatile <> 'v')"


def read_known(connection: Connection) -> Known:
    """Return what is in a database; nothing is counted, rows are estimates.

    A table that was never analysed is taken to have a row per `ROW_BYTES` bytes.
    """
    return Known(
        rows={
            f"{t.schema}.{t.table}": t.estimated_rows
            if t.estimated_rows >= 0
            else t.table_bytes // ROW_BYTES
            for t in table_sizes(connection)
        },
        columns={
            table: tuple(ColumnFact(*column) for column in columns)
            for table, columns in table_columns(connection).items()
        },
        keys={table: tuple(columns) for table, columns in fetch(connection, PRIMARY_KEYS)},
        constraints=_constraints(connection),
        casts=frozenset((source, to) for source, to in fetch(connection, BINARY_CASTS)),
        partitioned=frozenset(name for (name,) in fetch(connection, PARTITIONED)),
        functions=frozenset(name for (name,) in fetch(connection, FUNCTIONS)),
        filling=frozenset(name for (name,) in fetch(connection, FILLING_DOMAINS)),
        steady=frozenset(name for (name,) in fetch(connection, STEADY)),
        indexes=frozenset(name for (name,) in fetch(connection, INDEXES)),
        inherited=frozenset(name for (name,) in fetch(connection, INHERITED)),
        is_utc=_is_utc(connection),
    )


def _constraints(connection: Connection) -> tuple[ConstraintFact, ...]:
    try:
        return tuple(ConstraintFact(*row) for row in fetch(connection, CONSTRAINTS))
    except LockNotAvailable:  # taken between the look and the reading
        return ()


def _is_utc(connection: Connection) -> bool:
    """Say whether the time zone is UTC all the year, as sessions get it without asking."""
    return str(fetch_value(connection, "SHOW timezone")).upper() in UTC_NAMES
