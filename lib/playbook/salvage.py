"""What a downgrade destroys: counted, and written to files first. Layer 4.

The SQL of the plan tells which tables and columns are dropped. Each dropped table becomes one
CSV file; the dropped columns of a table that stays become one, with its primary key. What the
application writes between that moment and the drop itself, the revision's own transaction appends
(`late_rows`), once no one else can write.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from urllib.parse import quote

import psycopg2.extensions
from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from playbook.catalog import TableColumns, table_columns, table_sizes
from playbook.database import connect, fetch, fetch_value, identifier
from playbook.errors import BackupFailed
from playbook.records import (
    LateRows,
    Loss,
    LossItem,
    Plan,
    PlanStep,
    Salvage,
    SalvagedFile,
    TableSize,
)
from playbook.salvage_load import LOAD, load_sql
from playbook.snapshot import written_since
from playbook.statements import dropped_objects
from playbook.targets import Target

__all__ = ["find_loss", "late_rows", "renew_manifest", "write_salvage"]

MANIFEST = "salvage.json"
OLDEST_IN_PROGRESS = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint"
SECOND_LOOK_ROWS = 2_500_000
"""A table of more rows is not read again while it is locked: at 5 million rows a second, as
`playbook.hazards` measured a scan, the application would wait for longer than half a second."""

ROW_BYTES = 24
"""The least that a row takes, with which a table that was never analysed is judged.

Source: PostgreSQL's documentation, "Database Page Layout": a row's header, aligned.
"""


def find_loss(
    target: Target,
    plan: Plan,
    *,
    version_table: str,
    since: Mapping[str, int] | None = None,
    limit: str = "",
) -> Loss:
    """Return what a plan drops that exists now, with its rows; tables first.

    Args:
        version_table: ``schema.table`` of Alembic's own table, which is not data.
        since: the transaction in which each revision was applied, as a 64-bit id of this server;
            rows written after it are counted apart.
        limit: how long each count may take, as statement_timeout, and then how long it may wait
            where somebody holds the table (2 s); "" leaves both as they are.

    Raises:
        StatementTimeout: a count took longer than ``limit``.
        LockNotAcquired: somebody holds a table exclusively.
    """
    settings = {"statement_timeout": limit, "lock_timeout": "2s"} if limit else {}
    with connect(target, read_only=True, settings=settings) as connection:
        oldest = fetch_value(connection, OLDEST_IN_PROGRESS)
        existing = table_columns(connection)
        existing.pop(version_table, None)
        items = _loss_items(connection, plan, existing, since or {})
        return Loss(tuple(items), xid=oldest)


def _loss_items(
    connection: Connection, plan: Plan, existing: TableColumns, since: Mapping[str, int]
) -> Iterator[LossItem]:
    tables = {t: step for step in plan.steps for t in _tables_of(step, existing)}
    for table in sorted(tables):
        columns = [column for column, *_ in existing[table]]
        xid = since.get(tables[table].revision, 0)
        (rows, late), *counts = _count(connection, table, columns, xid)
        values = tuple((name, held) for name, (held, _) in zip(columns, counts, strict=True))
        yield LossItem(table, "", rows, values, late)
    for step in plan.steps:
        for table, columns in _columns_of(step, existing, tables).items():
            xid = since.get(step.revision, 0)
            _, *counts = _count(connection, table, columns, xid)
            for name, (held, late) in zip(columns, counts, strict=True):
                yield LossItem(table, name, held, (), late)


def _tables_of(step: PlanStep, existing: TableColumns) -> list[str]:
    """Return the tables that a step drops or empties whole."""
    found = (d.table for d in dropped_objects(step.sql) if not d.column)
    return [table for table in dict.fromkeys(found) if table in existing]


def _columns_of(
    step: PlanStep, existing: TableColumns, but: Mapping[str, object]
) -> dict[str, list[str]]:
    """Return, per table, the columns that a step drops of tables that stay, in its order."""
    found: dict[str, list[str]] = {}
    for item in dropped_objects(step.sql):
        columns = [column for column, *_ in existing.get(item.table, ())]
        if item.table not in but and item.column in columns:
            found.setdefault(item.table, []).append(item.column)
    return found


def _count(
    connection: Connection, table: str, columns: list[str], xid: int
) -> list[tuple[int, int]]:
    """Return (rows, written after ``xid`` or -1) of a table, then of each column; one scan."""
    things = [sql.SQL("*"), *map(sql.Identifier, columns)]
    late = sql.SQL("FILTER (WHERE {})").format(written_since(xid + 1)) if xid else None
    parts: list[sql.Composable] = []
    for thing in things:
        counted = sql.SQL("count({})").format(thing)
        parts.append(counted)
        parts.append(sql.SQL("{} {}").format(counted, late) if late else sql.SQL("-1"))
    query = sql.SQL("SELECT {} FROM {}").format(sql.SQL(", ").join(parts), identifier(table))
    row = fetch(connection, query)[0]
    return list(zip(row[::2], row[1::2], strict=True))


def write_salvage(target: Target, loss: Loss, directory: Path) -> Salvage:
    """Write what is lost as CSV with a header, in one transaction, and a manifest beside it.

    **Effects**: makes the folder, mode 0700. NULL is an empty field, an empty text is quoted,
    as COPY writes them; ``load.sql`` brings the rows back by psql.

    Raises:
        BackupFailed: a file cannot be written; nothing was destroyed.
    """
    try:
        directory.mkdir(mode=0o700, parents=True)
        with connect(target, read_only=True, autocommit=False) as connection:
            connection.set_session(
                isolation_level=psycopg2.extensions.ISOLATION_LEVEL_REPEATABLE_READ, readonly=True
            )
            oldest = fetch_value(connection, OLDEST_IN_PROGRESS)
            existing = table_columns(connection)
            files = [
                _write(connection, table, columns, directory)
                for table, columns in _selections(loss, existing).items()
            ]
            text = load_sql(connection, loss, existing, files)
        salvage = Salvage(directory, tuple(files), xid=oldest)
        _write_manifest(salvage)
        (directory / LOAD).write_text(text, "utf-8")
    except OSError as error:
        raise BackupFailed(
            f"What the rollback destroys could not be written to {directory}: {error.strerror}.",
            state="Nothing was changed in the database.",
            remedy="Make room or choose another folder with -r output_dir PATH.",
        ) from error
    return salvage


def late_rows(
    target: Target, plan: Plan, loss: Loss, salvage: Salvage | None
) -> dict[str, tuple[LateRows, ...]]:
    """Return, per revision, how it saves the rows that came after the salvage.

    Args:
        salvage: None if nothing was salvaged, as there were no rows: any row is late then.
    """
    with connect(target, read_only=True) as connection:
        existing = table_columns(connection)
        sizes = {f"{size.schema}.{size.table}": size for size in table_sizes(connection)}
    lossy = _selections(loss, existing).keys()
    written = {file.table: file for file in salvage.files} if salvage else {}
    xid = salvage.xid if salvage else loss.xid
    found: dict[str, tuple[LateRows, ...]] = {}
    for step in plan.steps:
        named = {item.table for item in dropped_objects(step.sql)} & lossy
        small = [table for table in sorted(named) if _is_small(sizes[table])]
        found[step.revision] = tuple(
            _late(table, xid, _key(existing, table), loss, written.get(table)) for table in small
        )
    return found


def _late(table: str, xid: int, key: list[str], loss: Loss, file: SalvagedFile | None) -> LateRows:
    lost = [item.column for item in loss.items if item.table == table and item.column]
    columns = list(file.columns) if file else [*key, *lost]
    name = _quoted(*table.split(".", 1))
    condition = f"age(xmin) <= age('{xid % 2**32}'::xid)"
    if not file and lost:  # of a row that was written, only a value is lost
        condition += f" AND num_nonnulls({', '.join(_quoted(c) for c in lost)}) > 0"
    shown = ", ".join(f"{_quoted(column)}::text" for column in columns) or "NULL"
    return LateRows(
        table=table,
        lock=f"LOCK TABLE {name} IN ACCESS EXCLUSIVE MODE",
        query=f"SELECT {shown} FROM {name} WHERE {condition}",
        # Without a key, a row that was updated could not be told from a new one.
        path=file.path if file and key else None,
    )


def _is_small(size: TableSize) -> bool:
    rows = size.estimated_rows if size.estimated_rows >= 0 else size.table_bytes // ROW_BYTES
    return rows <= SECOND_LOOK_ROWS


def renew_manifest(salvage: Salvage) -> Salvage:
    """Return a salvage with the rows that a revision appended, its manifest written anew."""
    files = tuple(
        replace(file, size_bytes=file.path.stat().st_size, sha256=_sha256(file.path))
        for file in salvage.files
    )
    if files == salvage.files:
        return salvage
    renewed = replace(salvage, files=files)
    _write_manifest(renewed)
    return renewed


def _write_manifest(salvage: Salvage) -> None:
    text = json.dumps([asdict(file) for file in salvage.files], indent=1, default=str)
    (salvage.directory / MANIFEST).write_text(text + "\n", "utf-8")


def _quoted(*names: str) -> str:
    return ".".join('"' + name.replace('"', '""') + '"' for name in names)


def _key(existing: TableColumns, table: str) -> list[str]:
    return [column for column, _, _, is_key in existing[table] if is_key]


def _selections(loss: Loss, existing: TableColumns) -> dict[str, list[str]]:
    """Return, per table, the columns to write: one file each."""
    found = {i.table: [c for c, *_ in existing[i.table]] for i in loss.items if not i.column}
    partial: dict[str, list[str]] = {}
    for item in loss.items:
        if item.column:
            partial.setdefault(item.table, []).append(item.column)
    for table, columns in partial.items():
        # Without a key, only the whole row tells to which row a value belongs.
        whose = _key(existing, table) or [c for c, *_ in existing[table] if c not in columns]
        found[table] = [*whose, *(column for column in columns if column not in whose)]
    return found


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
    return SalvagedFile(table, tuple(columns), rows, path, path.stat().st_size, _sha256(path))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
