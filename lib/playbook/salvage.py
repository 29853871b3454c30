"""What a downgrade destroys: counted, and written to files first. Layer 4.

The SQL of the plan tells which tables and columns are dropped. Each dropped table becomes one
CSV file; the dropped columns of a table that stays become one, with its primary key.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from urllib.parse import quote

import psycopg2.extensions
from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from playbook.catalog import TableColumns, table_columns
from playbook.database import connect, fetch_value, identifier
from playbook.errors import BackupFailed
from playbook.records import Loss, LossItem, Plan, Salvage, SalvagedFile
from playbook.statements import dropped_objects
from playbook.targets import Target

__all__ = ["find_loss", "write_salvage"]

MANIFEST = "salvage.json"
LOAD = "load.sql"
"""psql's way to bring the rows back, once the tables and columns are there again."""


def find_loss(target: Target, plan: Plan, *, version_table: str, limit: str = "") -> Loss:
    """Return what a plan drops that exists now, with its rows; tables first.

    Args:
        version_table: ``schema.table`` of Alembic's own table, which is not data.
        limit: how long each count may take, as statement_timeout, and then how long it may wait
            where somebody holds the table (2 s); "" leaves both as they are.

    Raises:
        StatementTimeout: a count took longer than ``limit``.
        LockNotAcquired: somebody holds a table exclusively.
    """
    settings = {"statement_timeout": limit, "lock_timeout": "2s"} if limit else {}
    with connect(target, read_only=True, settings=settings) as connection:
        existing = table_columns(connection)
        return Loss(tuple(_loss_items(connection, plan, existing, version_table)))


def _loss_items(
    connection: Connection, plan: Plan, existing: TableColumns, version_table: str
) -> Iterator[LossItem]:
    dropped = dropped_objects(plan.sql)
    tables = {d.table for d in dropped if not d.column} & existing.keys() - {version_table}
    for table in sorted(tables):
        query = sql.SQL("SELECT count(*) FROM {}").format(identifier(table))
        yield LossItem(table, "", fetch_value(connection, query))
    for item in dropped:
        columns = [column for column, *_ in existing.get(item.table, ())]
        if item.table not in tables and item.column in columns:
            query = sql.SQL("SELECT count({}) FROM {}").format(
                sql.Identifier(item.column), identifier(item.table)
            )
            yield LossItem(item.table, item.column, fetch_value(connection, query))


def write_salvage(target: Target, loss: Loss, directory: Path) -> Salvage:
    """Write what is lost as CSV with a header, in one transaction, and a manifest beside it.

    **Effects**: makes the folder, mode 0700. NULL is an empty field, an empty text is quoted,
    as COPY writes them; ``COPY table (columns) FROM ... CSV HEADER`` reads them back.

    Raises:
        BackupFailed: a file cannot be written; nothing was destroyed.
    """
    try:
        directory.mkdir(mode=0o700, parents=True)
        with connect(target, read_only=True, autocommit=False) as connection:
            connection.set_session(
                isolation_level=psycopg2.extensions.ISOLATION_LEVEL_REPEATABLE_READ, readonly=True
            )
            existing = table_columns(connection)
            files = [
                _write(connection, table, columns, directory)
                for table, columns in _selections(loss, existing)
            ]
        salvage = Salvage(directory, tuple(files))
        text = json.dumps([asdict(file) for file in files], indent=1, default=str)
        (directory / MANIFEST).write_text(text + "\n", "utf-8")
        (directory / LOAD).write_text(_load_sql(loss, existing, files), "utf-8")
    except OSError as error:
        raise BackupFailed(
            f"What the rollback destroys could not be written to {directory}: {error.strerror}.",
            state="Nothing was changed in the database.",
            remedy="Make room or choose another folder with -r output_dir PATH.",
        ) from error
    return salvage


def _load_sql(loss: Loss, existing: TableColumns, files: list[SalvagedFile]) -> str:
    """Return what psql runs, in the files' folder, to load them back."""
    whole = {item.table for item in loss.items if not item.column}
    parts = ["-- In this folder: psql --set=ON_ERROR_STOP=1 --file=load.sql DATABASE"]
    for file in files:
        table = _quoted(*file.table.split(".", 1))
        columns = ", ".join(_quoted(column) for column in file.columns)
        source = f"FROM '{file.path.name}' WITH (FORMAT csv, HEADER)"
        if file.table in whole:
            parts.append(f"\\copy {table} ({columns}) {source}")
            continue
        key = {column for column, _, _, is_key in existing[file.table] if is_key}
        lost = {i.column for i in loss.items if i.table == file.table}
        same = " AND ".join(
            f"t.{_quoted(c)} IS NOT DISTINCT FROM s.{_quoted(c)}"
            for c in file.columns
            if c in (key or set(file.columns) - lost)
        )
        values = ", ".join(f"{_quoted(c)} = s.{_quoted(c)}" for c in file.columns if c in lost)
        parts += [
            "BEGIN;",
            f"CREATE TEMP TABLE salvaged ON COMMIT DROP AS SELECT {columns} FROM {table} "
            "WITH NO DATA;",
            f"\\copy salvaged ({columns}) {source}",
            f"UPDATE {table} AS t SET {values} FROM salvaged AS s WHERE {same};",
            "COMMIT;",
        ]
    return "\n".join(parts) + "\n"


def _quoted(*names: str) -> str:
    return ".".join('"' + name.replace('"', '""') + '"' for name in names)


def _selections(loss: Loss, existing: TableColumns) -> Iterator[tuple[str, list[str]]]:
    """Return (table, columns to write) for each file."""
    for item in loss.items:
        if not item.column:
            yield item.table, [column for column, *_ in existing[item.table]]
    partial: dict[str, list[str]] = {}
    for item in loss.items:
        if item.column:
            partial.setdefault(item.table, []).append(item.column)
    for table, columns in partial.items():
        key = [column for column, _, _, is_key in existing[table] if is_key]
        # Without a key, only the whole row tells to which row a value belongs.
        key = key or [column for column, *_ in existing[table] if column not in columns]
        yield table, [*key, *(column for column in columns if column not in key)]


def _write(connection: Connection, table: str, columns: list[str], directory: Path) -> SalvagedFile:
    path = directory / f"{quote(table, safe='. ')}.csv"
    statement = sql.SQL("COPY (SELECT {} FROM {}) TO STDOUT WITH (FORMAT csv, HEADER)").format(
        sql.SQL(", ").join(map(sql.Identifier, columns)), identifier(table)
    )
    with path.open("xb") as file, connection.cursor() as cursor:
        cursor.copy_expert(statement, file)
        rows = cursor.rowcount
        file.flush()
        os.fsync(file.fileno())
    with path.open("rb") as written:
        digest = hashlib.file_digest(written, "sha256").hexdigest()
    return SalvagedFile(table, tuple(columns), rows, path, path.stat().st_size, digest)
