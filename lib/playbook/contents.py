"""What a backup holds, read from a database and compared with its manifest. Layer 4: reads only.

Where a dump's rows pass through the playbook, a table's fingerprint is that of their texts: the
server has nothing to read a second time. It is kept as that of a column `EVERY_COLUMN`. Elsewhere,
and where tables inherit from one another (`INHERITS`), the server makes one for each column
(`playbook.fingerprints`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from psycopg2.extensions import connection as Connection

from playbook.archive_toc import encoding_of
from playbook.catalog import count_large_objects, installed_extensions, needed_roles, table_names
from playbook.database import connect, fetch, fetch_value
from playbook.dump import ClientTools, read_row_texts
from playbook.fingerprints import ROW_TEXTS, TEXT_FORMS, form_of
from playbook.records import BackupManifest, ColumnSnapshot, TableSnapshot
from playbook.row_texts import RowTexts
from playbook.snapshot import count_rows, read_tables
from playbook.targets import Target

__all__ = [
    "INHERITS",
    "Contents",
    "find_difference",
    "only_counted",
    "read_contents",
    "read_restored",
    "with_fixed_texts",
]

EVERY_COLUMN = ("*", "row")
"""Name and type of what stands for all columns of a table."""
ONLY_COUNTED = "rows counted, values not compared"
INHERITS = """
SELECT EXISTS (SELECT FROM pg_inherits JOIN pg_class AS c ON c.oid = inhrelid
               WHERE c.relkind IN ('r', 'f') AND NOT c.relispartition)
"""
"""Whether a table inherits from another, so that a restore may leave its columns, and its rows'
texts, in another order: CREATE TABLE ... INHERITS puts the parents' first, which ALTER TABLE of
either does not. A partition is made by itself and attached, and keeps its own order.
"""
FIXED_TEXTS = {"bytea_output": "hex", "quote_all_identifiers": "off"}
"""Settings on which values' texts depend and that pg_dump does not set; the latter for regclass."""
OTHER_TEXTS = """
SELECT EXISTS (SELECT FROM pg_settings AS s JOIN unnest(%s, %s) AS fixed (name, value) USING (name)
               WHERE s.reset_val <> fixed.value)
"""
"""Source: reset_val is the session's own default, by server, database and role."""
PARTS = """
WITH RECURSIVE part (name, oid, relkind) AS (
    SELECT n.nspname || '.' || c.relname, c.oid, c.relkind
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname || '.' || c.relname = ANY (%s)
    UNION
    SELECT part.name, c.oid, c.relkind
    FROM part JOIN pg_inherits AS i ON i.inhparent = part.oid JOIN pg_class AS c ON c.oid = inhrelid
)
SELECT name, oid::bigint, relkind::text FROM part
"""
"""Where a SELECT on a table finds rows: in itself, in its partitions, in what inherits from it."""


@dataclass(frozen=True)
class Contents:
    """What was read in one transaction."""

    tables: tuple[TableSnapshot, ...]
    form: int
    """How their fingerprints were made."""
    large_objects: int
    extensions: tuple[str, ...]
    roles: tuple[str, ...]


def read_contents(
    connection: Connection, texts: Mapping[int, RowTexts] = MappingProxyType({})
) -> Contents:
    """Return what a database holds, as its session's transaction sees it.

    Args:
        connection: with the settings `playbook.fingerprints.TEXT_FORMS`.
        texts: what a dump in the same snapshot has of each table, by its OID; none: the server
            reads its tables.
    """
    return Contents(
        _tables_of(connection, texts) if texts else read_tables(connection),
        ROW_TEXTS if texts else form_of(connection.server_version),
        count_large_objects(connection),
        tuple(installed_extensions(connection)),
        tuple(needed_roles(connection)),
    )


def _tables_of(connection: Connection, texts: Mapping[int, RowTexts]) -> tuple[TableSnapshot, ...]:
    parts: dict[str, list[int]] = {}
    elsewhere = set()
    for name, oid, kind in fetch(connection, PARTS, (table_names(connection),)):
        files = parts.setdefault(name, [])
        if kind == "r":
            files.append(oid)
        if (kind == "r" and oid not in texts) or kind == "f":
            elsewhere.add(name)  # rows of a foreign table are not in a dump
    counted = count_rows(connection, sorted(elsewhere))
    found = [only_counted(name, rows) for name, rows in counted.items()]
    for name in parts.keys() - elsewhere:
        found.append(_by_text(name, sum((texts[oid] for oid in parts[name]), start=RowTexts(0, 0))))
    return tuple(sorted(found, key=lambda table: (table.schema, table.table)))


def only_counted(name: str, rows: int) -> TableSnapshot:
    """Return what is known of a table (``schema.table``) whose rows were counted, no more."""
    schema, table = name.split(".", 1)
    return TableSnapshot(schema, table, rows, (), coverage=ONLY_COUNTED)


def _by_text(name: str, texts: RowTexts) -> TableSnapshot:
    schema, table = name.split(".", 1)
    every = ColumnSnapshot(*EVERY_COLUMN, True, texts.rows, str(texts.fingerprint))
    return TableSnapshot(schema, table, texts.rows, (every,))


def read_restored(
    target: Target, dump: Path, *, form: int, tools: ClientTools, jobs: int
) -> Contents:
    """Return what a database holds, to be compared with a manifest.

    Args:
        target: where the dump was restored.
        dump: pg_dump's folder.
        form: how the manifest's fingerprints were made. If of the rows' texts, the database is
            dumped to nowhere, in the encoding of the dump.

    Raises:
        BackupFailed: pg_dump failed.
    """
    texts = {}
    if form == ROW_TEXTS:
        encoding = encoding_of((dump / "toc.dat").read_bytes())
        with connect(target, read_only=True) as connection:
            fixed = with_fixed_texts(target, connection)
        texts = read_row_texts(fixed, tools=tools, jobs=jobs, encoding=encoding)
    with connect(target, read_only=True, autocommit=False, settings=TEXT_FORMS) as connection:
        return read_contents(connection, texts)


def with_fixed_texts(target: Target, connection: Connection) -> Target:
    """Return a target at which pg_dump writes equal values alike, whatever a database's defaults.

    It is the same one where they suffice: a pooler may refuse options.

    Args:
        connection: to that target.
    """
    if not fetch_value(connection, OTHER_TEXTS, (list(FIXED_TEXTS), list(FIXED_TEXTS.values()))):
        return target
    options = target.conninfo.get("options") or os.environ.get("PGOPTIONS", "")
    fixed = " ".join(f"-c {name}={value}" for name, value in FIXED_TEXTS.items())
    return target.with_conninfo(options=f"{options} {fixed}".strip())


def find_difference(manifest: BackupManifest, restored: Contents) -> str:
    """Return the first thing in which a restored database is not what the manifest says, or "".

    Values are compared where both have fingerprints of one form, rows always.
    """
    found = {table.name: table for table in restored.tables}
    for name, rows in manifest.rows:
        have = found[name].rows if name in found else "no"
        if have != rows:
            return f"{have} rows of {name}; its manifest says {rows}"
    for table in manifest.tables if manifest.form == restored.form else ():
        have_values = [_values(column) for column in found[table.name].columns]
        for column in [c for c in table.columns if _values(c) not in have_values]:
            return f"other values of {table.name}.{column.column} than its manifest says"
    if manifest.tables and restored.large_objects != manifest.large_objects:
        count = manifest.large_objects
        return f"{restored.large_objects} large objects; its manifest says {count}"
    return ""


def _values(column: ColumnSnapshot) -> tuple[str, str, int, str]:
    return column.column, column.type, column.non_null_rows, column.fingerprint
