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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from urllib.parse import quote

import psycopg2.extensions
from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from playbook.catalog import (
    TableColumns,
    partition_columns,
    partition_parents,
    search_path,
    stored_bytes,
    table_columns,
)
from playbook.database import connect, fetch, fetch_value, identifier
from playbook.destroyed import StepView, follow
from playbook.errors import BackupFailed
from playbook.records import (
    LateRows,
    Loss,
    LossItem,
    Plan,
    Salvage,
    SalvagedFile,
)
from playbook.salvage_load import LOAD, load_sql
from playbook.snapshot import written_since
from playbook.targets import Target

__all__ = ["Late", "find_loss", "late_rows", "renew_manifest", "write_salvage"]

MANIFEST = "salvage.json"
OLDEST_IN_PROGRESS = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint"
SECOND_LOOK_BYTES = 48 * 1024 * 1024
"""A larger table is not read again while it is locked: the application would wait for longer than
about 0.3 s, as 100 MB in memory took 0.6 s on 2 cores."""


def find_loss(
    target: Target,
    plan: Plan,
    *,
    version_table: str,
    since: Mapping[str, int] | None = None,
    limit: str = "",
    path: Sequence[str] = (),
) -> Loss:
    """Return what a plan drops that exists now, with its rows; tables first.

    Args:
        version_table: ``schema.table`` of Alembic's own table, which is not data.
        since: the transaction in which each revision was applied, as a 64-bit id of this server;
            rows written after it are counted apart.
        limit: how long each count may take, as statement_timeout, and then how long it may wait
            where somebody holds the table (2 s); "" leaves both as they are.
        path: the schemas of env.py's search path; empty: as this session has it.

    Raises:
        StatementTimeout: a count took longer than ``limit``.
        LockNotAcquired: somebody holds a table exclusively.
    """
    settings = {"statement_timeout": limit, "lock_timeout": "2s"} if limit else {}
    with connect(target, read_only=True, settings=settings) as connection:
        oldest = fetch_value(connection, OLDEST_IN_PROGRESS)
        existing = _existing(connection)
        existing.pop(version_table, None)
        views = _views(connection, plan, existing, path)
        items = _loss_items(connection, views, existing, since or {})
        return Loss(tuple(items), xid=oldest, untold=_untold(plan, views))


def _existing(connection: Connection) -> TableColumns:
    """Return the columns of every user table; a partition can be dropped by itself, too."""
    return {**partition_columns(connection), **table_columns(connection)}


def _views(
    connection: Connection, plan: Plan, existing: TableColumns, path: Sequence[str]
) -> list[StepView]:
    names = {table: [column for column, *_ in columns] for table, columns in existing.items()}
    parents = partition_parents(connection)
    return list(follow(plan.steps, names, path or search_path(connection), parents))


def _untold(plan: Plan, views: Sequence[StepView]) -> tuple[str, ...]:
    """Return what a plan may destroy that its SQL does not tell, in sentences."""
    found = [f"{view.revision}: {kind}" for view in views for kind in view.untold]
    if plan.method == "observed":
        found.append("what Python decides by the rows there are is not in SQL seen without rows")
    return tuple(found)


def _loss_items(
    connection: Connection,
    views: Sequence[StepView],
    existing: TableColumns,
    since: Mapping[str, int],
) -> Iterator[LossItem]:
    tables = {d.table: view for view in views for d in view.destroyed if not d.column}
    for table in sorted(tables):
        columns = [column for column, *_ in existing[table]]
        xid = since.get(tables[table].revision, 0)
        (rows, late), *counts = _count(connection, table, columns, xid)
        values = tuple((name, held) for name, (held, _) in zip(columns, counts, strict=True))
        yield LossItem(table, "", rows, values, late)
    for view in views:
        for table, columns in _columns_of(view, tables).items():
            xid = since.get(view.revision, 0)
            _, *counts = _count(connection, table, columns, xid)
            for name, (held, late) in zip(columns, counts, strict=True):
                yield LossItem(table, name, held, (), late)


def _columns_of(view: StepView, but: Mapping[str, object]) -> dict[str, list[str]]:
    """Return, per table, the columns that a step drops of tables that stay, in its order."""
    found: dict[str, list[str]] = {}
    for item in view.destroyed:
        if item.column and item.table not in but:
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


def write_salvage(target: Target, loss: Loss, directory: Path, at: Sequence[str] = ()) -> Salvage:
    """Write what is lost as CSV with a header, in one transaction, and a manifest beside it.

    **Effects**: makes the folder, mode 0700. NULL is an empty field, an empty text is quoted,
    as COPY writes them; ``load.sql`` brings the rows back by psql.

    Args:
        at: the revisions at which there is all that is lost; load.sql says so.

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
            existing = _existing(connection)
            files = [
                _write(connection, table, columns, directory)
                for table, columns in _selections(loss, existing).items()
            ]
            text = load_sql(connection, loss, existing, files, at=at)
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


@dataclass(frozen=True)
class Late:
    """How rows that come after the salvage are saved: per revision, in its own transaction.

    ``salvage`` has the files that they may be written to; ``too_large`` are the tables that are not
    looked at again while they are locked.
    """

    rows: Mapping[str, tuple[LateRows, ...]]
    salvage: Salvage | None
    too_large: tuple[str, ...]


def late_rows(
    target: Target, plan: Plan, loss: Loss, salvage: Salvage | None, *, path: Sequence[str] = ()
) -> Late:
    """Return how each revision saves the rows that came after the salvage.

    The first revision that destroys something of a table appends to its file, and so does each
    one before it that writes over its rows. Of a later one the columns that are left by then go to
    a file of its own, made here with its header.

    Args:
        salvage: None if nothing was salvaged, as there were no rows: any row is late then.
        path: the schemas of env.py's search path; empty: as this session has it.
    """
    with connect(target, read_only=True) as connection:
        existing = _existing(connection)
        views = _views(connection, plan, existing, path)
        lossy = _selections(loss, existing)
        large = tuple(t for t in lossy if stored_bytes(connection, t) > SECOND_LOOK_BYTES)
        xid = salvage.xid if salvage else loss.xid
        files = list(salvage.files) if salvage else []
        found: dict[str, tuple[LateRows, ...]] = {}
        begun: set[str] = set()
        in_blocks: set[str] = set()
        for view in views:
            gone = {item.table for item in view.destroyed} & lossy.keys()
            named = (gone | view.written & lossy.keys()) - set(large)
            rows = []
            for table in sorted(named):
                if salvage and table in begun:
                    files.append(_later_file(salvage.directory, view, table, lossy[table]))
                file = next((f for f in reversed(files) if f.table == table), None)
                key = _key(existing, table, loss)
                late = _late(view, table, xid, key, loss, file)
                if table in in_blocks:
                    late = _with_a_value(view, late)
                rows.append(late)
            begun |= gone
            in_blocks |= view.in_blocks
            found[view.revision] = tuple(rows)
        if salvage and len(files) > len(salvage.files):
            salvage = replace(salvage, files=tuple(files))
            text = load_sql(connection, loss, existing, files, at=plan.from_revisions)
            (salvage.directory / LOAD).write_text(text, "utf-8")
            _write_manifest(salvage)
    return Late(found, salvage, large if any(view.destroyed for view in views) else ())


def _later_file(
    directory: Path, view: StepView, table: str, columns: Sequence[str]
) -> SalvagedFile:
    """Make the file for what is left of a table when a later revision of the plan comes to it."""
    left = tuple(column for column in columns if column in view.columns.get(table, {}))
    path = directory / f"{_file_stem(table)}.{_file_stem(view.revision)}.csv"
    path.write_text(",".join(_quoted(column) for column in left) + "\n", "utf-8")
    return SalvagedFile(table, left, 0, path, path.stat().st_size, _sha256(path))


def _late(
    view: StepView,
    table: str,
    xid: int,
    key: list[str],
    loss: Loss,
    file: SalvagedFile | None,
) -> LateRows:
    """Return a table's late rows at a step, by the names that table and columns have then."""
    then = view.columns[table]
    lost = [i.column for i in loss.items if i.table == table and i.column in then]
    columns = [c for c in (file.columns if file else (*key, *lost)) if c in then]
    name = _quoted(*view.tables[table].split(".", 1))
    condition = f"age(xmin) <= age('{xid % 2**32}'::xid)"
    if not file and lost:  # of a row that was written, only a value is lost
        held = ", ".join(_quoted(then[column]) for column in lost)
        condition += f" AND num_nonnulls({held}) > 0"
    shown = ", ".join(f"{_quoted(then[column])}::text" for column in columns) or "NULL"
    # Who only writes over rows lets others read them.
    is_changed = table in view.altered or table in {item.table for item in view.destroyed}
    mode = "ACCESS EXCLUSIVE" if is_changed else "SHARE ROW EXCLUSIVE"
    return LateRows(
        table=table,
        lock=f"LOCK TABLE {name} IN {mode} MODE",
        query=f"SELECT {shown} FROM {name} WHERE {condition}",
        # Without a key, a row that was updated could not be told from a new one.
        path=file.path if file and key and tuple(columns) == file.columns else None,
    )


def _with_a_value(view: StepView, late: LateRows) -> LateRows:
    """Return late rows without those that hold nothing in the columns that a step drops.

    After a block that empties these columns in batches: its own writes, each committed, are not to
    be told from the application's, and would stand in the file after the values.
    """
    then, mine = view.columns[late.table], [i for i in view.destroyed if i.table == late.table]
    if not mine or any(not item.column for item in mine):
        return late
    held = ", ".join(_quoted(then[item.column]) for item in mine)
    return replace(late, query=f"{late.query} AND num_nonnulls({held}) > 0")


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


def _key(existing: TableColumns, table: str, loss: Loss) -> list[str]:
    """Return the primary key of a table; one of which a column is lost identifies no row later."""
    key = [column for column, _, _, is_key in existing[table] if is_key]
    lost = {item.column for item in loss.items if item.table == table}
    return [] if lost & set(key) else key


def _selections(loss: Loss, existing: TableColumns) -> dict[str, list[str]]:
    """Return, per table, the columns to write: one file each."""
    found = {i.table: [c for c, *_ in existing[i.table]] for i in loss.items if not i.column}
    partial: dict[str, list[str]] = {}
    for item in loss.items:
        if item.column:
            partial.setdefault(item.table, []).append(item.column)
    for table, columns in partial.items():
        # Without a key, only the whole row tells to which row a value belongs.
        whose = _key(existing, table, loss) or [c for c, *_ in existing[table] if c not in columns]
        found[table] = [*whose, *(column for column in columns if column not in whose)]
    return found


def _write(connection: Connection, table: str, columns: list[str], directory: Path) -> SalvagedFile:
    path = directory / f"{_file_stem(table)}.csv"
    form = "COPY (SELECT {} FROM {}) TO STDOUT WITH (FORMAT csv, HEADER, ENCODING 'UTF8')"
    statement = sql.SQL(form).format(
        sql.SQL(", ").join(map(sql.Identifier, columns)), identifier(table)
    )
    with path.open("xb") as file, connection.cursor() as cursor:
        cursor.copy_expert(statement, file)
        rows = cursor.rowcount
        file.flush()
        os.fsync(file.fileno())
    return SalvagedFile(table, tuple(columns), rows, path, path.stat().st_size, _sha256(path))


def _file_stem(name: str) -> str:
    return quote(name, safe=". ")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
