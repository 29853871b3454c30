"""The SQL that brings salvaged rows back, once their tables and columns are there again. Layer 3.

psql runs it in the folder of the files. Rows are brought back in an order that foreign keys allow;
a row that is there already takes the salvaged values; of several lines with one key in a file the
last one holds, as later lines were written later.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from psycopg2.extensions import connection as Connection

from playbook.catalog import TableColumns, generated_columns, parents_first, sequence_columns
from playbook.records import Loss, SalvagedFile

__all__ = ["LOAD", "load_sql"]

LOAD = "load.sql"
HEADER = "-- In this folder: psql --set=ON_ERROR_STOP=1 --file=load.sql DATABASE"
LINE = '"playbook: line"'
"""Numbers the lines of a file in its temporary table."""


@dataclass(frozen=True)
class _Load:
    """What is known of one file's table: names are quoted already."""

    file: SalvagedFile
    table: str
    key: Sequence[str]
    written: Sequence[str]
    """Columns that can be inserted: not those that the server computes."""
    changed: Sequence[str]
    """Columns that take the salvaged value where the row is there already."""


def load_sql(
    connection: Connection, loss: Loss, existing: TableColumns, files: Sequence[SalvagedFile]
) -> str:
    """Return what psql runs to load salvaged files back.

    Args:
        loss: tells which tables were dropped whole, and which columns of the others.
        existing: the columns of every table as they were before the drop.
    """
    whole = {item.table for item in loss.items if not item.column}
    computed = generated_columns(connection)
    numbered = sequence_columns(connection)
    by_table = {file.table: file for file in files}
    parts = [HEADER]
    for table in parents_first(connection, list(by_table)):
        lost = {item.column for item in loss.items if item.table == table}
        serial = {column for name, column in numbered if name == table}
        load = _load(by_table[table], existing, lost, {c for t, c in computed if t == table},
                     serial)  # fmt: skip
        parts += _whole_table(load) if table in whole else _columns(load, lost)
        parts += [_setval(load.table, column) for column in sorted(serial) if table in whole]
    return "\n".join(parts) + "\n"


def _load(
    file: SalvagedFile,
    existing: TableColumns,
    lost: Collection[str],
    computed: Collection[str],
    serial: Collection[str],
) -> _Load:
    key = [column for column, _, _, is_key in existing[file.table] if is_key]
    written = [column for column in file.columns if column not in computed]
    changed = [c for c in written if c not in key and c not in serial and (c in lost or "" in lost)]
    return _Load(
        file,
        _quoted(*file.table.split(".", 1)),
        [_quoted(column) for column in key],
        [_quoted(column) for column in written],
        [_quoted(column) for column in changed],
    )


def _whole_table(load: _Load) -> list[str]:
    columns = ", ".join(load.written)
    if not load.key:
        return ["BEGIN;", *_into_temporary(load),
                f"INSERT INTO {load.table} ({columns}) OVERRIDING SYSTEM VALUE "
                f"SELECT {columns} FROM salvaged ORDER BY {LINE};", "COMMIT;"]  # fmt: skip
    values = ", ".join(f"{column} = excluded.{column}" for column in load.changed)
    conflict = f"DO UPDATE SET {values}" if values else "DO NOTHING"
    return [
        "BEGIN;",
        *_into_temporary(load),
        f"INSERT INTO {load.table} ({columns}) OVERRIDING SYSTEM VALUE {_latest(load, columns)} "
        f"ON CONFLICT ({', '.join(load.key)}) {conflict};",
        "COMMIT;",
    ]


def _columns(load: _Load, lost: Collection[str]) -> list[str]:
    """Return how the dropped columns of a table that stayed get their values back."""
    names = [_quoted(column) for column in load.file.columns]
    whose = load.key or [n for n, c in zip(names, load.file.columns, strict=True) if c not in lost]
    # As text, since some types (json, point) know no equality.
    form = "t.{0} = s.{0}" if load.key else "t.{0}::text IS NOT DISTINCT FROM s.{0}::text"
    same = " AND ".join(form.format(name) for name in whose)
    if not load.changed:
        return []
    values = ", ".join(f"{column} = s.{column}" for column in load.changed)
    source = f"({_latest(load, ', '.join(names))})" if load.key else "salvaged"
    return [
        "BEGIN;",
        *_into_temporary(load),
        f"UPDATE {load.table} AS t SET {values} FROM {source} AS s WHERE {same};",
        "COMMIT;",
    ]


def _into_temporary(load: _Load) -> list[str]:
    columns = ", ".join(_quoted(column) for column in load.file.columns)
    file = load.file.path.name.replace("'", "''")
    return [
        f"CREATE TEMP TABLE salvaged ON COMMIT DROP AS SELECT {columns} FROM {load.table} "
        "WITH NO DATA;",
        f"ALTER TABLE salvaged ADD COLUMN {LINE} bigserial;",
        f"\\copy salvaged ({columns}) FROM '{file}' WITH (FORMAT csv, HEADER)",
    ]


def _latest(load: _Load, columns: str) -> str:
    key = ", ".join(load.key)
    return f"SELECT DISTINCT ON ({key}) {columns} FROM salvaged ORDER BY {key}, {LINE} DESC"


def _setval(table: str, column: str) -> str:
    """Return how a sequence is set behind the ids that were brought back."""
    name, literal = _quoted(column), table.replace("'", "''")
    return (
        f"SELECT setval(pg_get_serial_sequence('{literal}', "
        f"'{column.replace(chr(39), chr(39) * 2)}'), max({name})) FROM {table} "
        f"HAVING max({name}) IS NOT NULL;"
    )


def _quoted(*names: str) -> str:
    return ".".join('"' + name.replace('"', '""') + '"' for name in names)
