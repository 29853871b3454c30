"""The SQL that brings salvaged rows back, once their tables and columns are there again. Layer 3.

psql runs it in the folder of the files. Rows are brought back in an order that foreign keys allow;
a row that is there already takes the salvaged values; of several lines with one key the last one
holds, as later lines were written later. Triggers of the application rest meanwhile: the rows come
back as they were.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from psycopg2.extensions import connection as Connection

from playbook.catalog import TableColumns, generated_columns, parents_first, sequence_columns
from playbook.records import Loss, SalvagedFile
from playbook.revisions import join

__all__ = ["LOAD", "load_sql"]

LOAD = "load.sql"
HEADER = r"""-- In this folder: psql --file=load.sql DATABASE
-- {place}Run it once: rows of a table without a primary key would come twice.
\set ON_ERROR_STOP on"""
LINE = '"playbook: line"'
"""Numbers the lines of a file in its temporary table."""
TRIGGERS = """CREATE TEMP TABLE resting ON COMMIT DROP AS SELECT tgname FROM pg_trigger
 WHERE tgrelid = '{table}'::regclass AND NOT tgisinternal AND tgenabled = 'O';
{rest}"""
EACH_TRIGGER = """DO $$ DECLARE t name; BEGIN FOR t IN SELECT tgname FROM resting LOOP
 EXECUTE format('ALTER TABLE %s {word} TRIGGER %I', '{table}'::regclass, t); END LOOP; END $$;"""


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
    connection: Connection,
    loss: Loss,
    existing: TableColumns,
    files: Sequence[SalvagedFile],
    *,
    at: Sequence[str] = (),
) -> str:
    """Return what psql runs to load salvaged files back.

    Args:
        loss: tells which tables were dropped whole, and which columns of the others.
        existing: the columns of every table as they were before the drop.
        files: a later one of the same table holds later values.
        at: the revisions at which there is all that was lost.
    """
    whole = {item.table for item in loss.items if not item.column}
    computed = generated_columns(connection)
    numbered = sequence_columns(connection)
    place = f"The database must be at {join(at)} (`upgrade` -r target). " if at else ""
    parts = [HEADER.format(place=place)]
    for table in parents_first(connection, list({file.table for file in files})):
        lost = {item.column for item in loss.items if item.table == table}
        serial = {column for name, column in numbered if name == table}
        own = {column for name, column in computed if name == table}
        for file in (file for file in files if file.table == table):
            load = _load(file, existing, lost, own)
            parts += _resting(load, _rows(load) if table in whole else _values(load, lost))
        name = _quoted(*table.split(".", 1))
        parts += [_setval(name, column) for column in sorted(serial) if table in whole]
    return "\n".join(parts) + "\n"


def _load(
    file: SalvagedFile,
    existing: TableColumns,
    lost: Collection[str],
    computed: Collection[str],
) -> _Load:
    key = [column for column, _, _, is_key in existing[file.table] if is_key]
    key = [] if set(key) & set(lost) or not set(key) <= set(file.columns) else key
    written = [column for column in file.columns if column not in computed]
    changed = [c for c in written if c not in key and (c in lost or "" in lost)]
    return _Load(
        file,
        _quoted(*file.table.split(".", 1)),
        [_quoted(column) for column in key],
        [_quoted(column) for column in written],
        [_quoted(column) for column in changed],
    )


def _rows(load: _Load) -> list[str]:
    """Return how the rows of a table that was dropped come back."""
    columns = ", ".join(load.written)
    insert = f"INSERT INTO {load.table} ({columns}) OVERRIDING SYSTEM VALUE"
    if not load.key:
        return [f"{insert} SELECT {columns} FROM salvaged ORDER BY {LINE};"]
    same = " AND ".join(f"t.{name} = s.{name}" for name in load.key)
    missing = f"WHERE NOT EXISTS (SELECT FROM {load.table} AS t WHERE {same})"
    return [
        *_update(load, f"({_latest(load)})", same),
        f"{insert} SELECT {columns} FROM ({_latest(load)}) AS s {missing};",
    ]


def _values(load: _Load, lost: Collection[str]) -> list[str]:
    """Return how the dropped columns of a table that stayed get their values back."""
    if load.key:
        same = " AND ".join(f"t.{name} = s.{name}" for name in load.key)
        return _update(load, f"({_latest(load)})", same)
    # As text, since some types (json, point) know no equality.
    names = [_quoted(column) for column in load.file.columns if column not in lost]
    same = " AND ".join(f"t.{name}::text IS NOT DISTINCT FROM s.{name}::text" for name in names)
    return _update(load, "salvaged", same or "false")


def _update(load: _Load, source: str, same: str) -> list[str]:
    if not load.changed:
        return []
    values = ", ".join(f"{column} = s.{column}" for column in load.changed)
    return [f"UPDATE {load.table} AS t SET {values} FROM {source} AS s WHERE {same};"]


def _resting(load: _Load, statements: Sequence[str]) -> list[str]:
    """Return the statements in a transaction, with the file at hand and the triggers at rest."""
    columns = ", ".join(_quoted(column) for column in load.file.columns)
    file, table = (text.replace("'", "''") for text in (load.file.path.name, load.table))
    stop, go = (EACH_TRIGGER.format(word=word, table=table) for word in ("DISABLE", "ENABLE"))
    return [
        "BEGIN;",
        f"CREATE TEMP TABLE salvaged ON COMMIT DROP AS SELECT {columns} FROM {load.table} "
        "WITH NO DATA;",
        f"ALTER TABLE salvaged ADD COLUMN {LINE} bigserial;",
        f"\\copy salvaged ({columns}) FROM '{file}' WITH (FORMAT csv, HEADER, ENCODING 'UTF8')",
        TRIGGERS.format(table=table, rest=stop),
        *statements,
        go,
        "COMMIT;",
    ]


def _latest(load: _Load) -> str:
    key, columns = ", ".join(load.key), ", ".join(_quoted(c) for c in load.file.columns)
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
