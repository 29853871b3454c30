"""What a rollback destroys is counted, written, and can be loaded back as it was."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from playbook.database import connect, fetch
from playbook.errors import BackupFailed
from playbook.records import Loss, LossItem, Plan, PlanStep
from playbook.salvage import find_loss, write_salvage
from playbook.targets import Target

TABLE = '"Odd, ""name"'
ROWS = (
    f"INSERT INTO {TABLE} VALUES (1, '', NULL), (2, NULL, ''), "
    r"""(3, E'line\nand "quote", comma', E'\\. \t'), (4, '文書', 'NULL')"""
)
DROP_TABLE = f"DROP TABLE {TABLE}"
DROP_COLUMN = f'ALTER TABLE {TABLE} DROP COLUMN "y z"'


@pytest.fixture
def filled(fresh_database: Target) -> Target:
    with connect(fresh_database) as connection, connection.cursor() as cursor:
        cursor.execute(f'CREATE TABLE {TABLE} (id int PRIMARY KEY, x text, "y z" text)')
        cursor.execute(ROWS)
        cursor.execute("CREATE TABLE b (x int); CREATE TABLE alembic_version (v text)")
        cursor.execute("INSERT INTO alembic_version VALUES ('a')")
    return fresh_database


def plan(sql: str) -> Plan:
    step = PlanStep("b2", "downgrade", ("b2",), ("a1",), "", Path("b2.py"), "", sql)
    return Plan("downgrade", "-1", ("b2",), ("a1",), (step,), "offline", "")


def loss_items(target: Target, sql: str) -> list[tuple[str, str, int]]:
    loss = find_loss(target, plan(sql), version_table="public.alembic_version")
    return [(item.table, item.column, item.rows) for item in loss.items]


def test_tables_and_columns_are_counted_and_what_does_not_exist_is_no_loss(filled: Target) -> None:
    odd = 'public.Odd, "name'

    assert loss_items(filled, DROP_TABLE) == [(odd, "", 4)]
    assert loss_items(filled, DROP_COLUMN) == [(odd, "y z", 3)]
    assert loss_items(filled, f"{DROP_COLUMN}; {DROP_TABLE}") == [(odd, "", 4)]
    assert loss_items(filled, "DROP TABLE b, nope") == [("public.b", "", 0)]
    assert loss_items(filled, "DROP TABLE alembic_version; ALTER TABLE b DROP nope") == []
    assert loss_items(filled, "TRUNCATE b") == [("public.b", "", 0)]


@pytest.mark.parametrize(
    ("sql", "columns"), [(DROP_TABLE, ("id", "x", "y z")), (DROP_COLUMN, ("id", "y z"))]
)
def test_files_are_loaded_back_equal_by_copy(
    filled: Target, tmp_path: Path, sql: str, columns: tuple[str, ...]
) -> None:
    loss = find_loss(filled, plan(sql), version_table="public.alembic_version")
    names = ", ".join(f'"{column}"' for column in columns)
    with connect(filled) as connection:
        before = fetch(connection, f"SELECT {names} FROM {TABLE} ORDER BY id")  # type: ignore[arg-type]

    salvage = write_salvage(filled, loss, tmp_path / "salvage")
    (file,) = salvage.files

    with connect(filled) as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE back AS SELECT {names} FROM {TABLE} LIMIT 0")
        with file.path.open("rb") as text:
            cursor.copy_expert("COPY back FROM STDIN (FORMAT csv, HEADER)", text)
        assert fetch(connection, "SELECT * FROM back ORDER BY id") == before
    assert (file.columns, file.rows) == (columns, 4)
    assert file.sha256 == hashlib.sha256(file.path.read_bytes()).hexdigest()
    assert file.size_bytes == file.path.stat().st_size
    assert (tmp_path / "salvage" / "salvage.json").is_file()


def test_folder_that_cannot_be_written_stops_before_anything_is_destroyed(
    filled: Target, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    loss = find_loss(filled, plan(DROP_TABLE), version_table="public.alembic_version")

    with pytest.raises(BackupFailed, match="Nothing was changed in the database"):
        write_salvage(filled, loss, tmp_path / "file" / "salvage")


def test_table_whose_name_holds_a_slash_stays_in_the_folder(
    fresh_database: Target, tmp_path: Path
) -> None:
    with connect(fresh_database) as connection, connection.cursor() as cursor:
        cursor.execute('CREATE TABLE "../../up" (x int); INSERT INTO "../../up" VALUES (1)')
    loss = find_loss(fresh_database, plan('DROP TABLE "../../up"'), version_table="public.v")

    (file,) = write_salvage(fresh_database, loss, tmp_path / "salvage").files

    assert file.path.parent == tmp_path / "salvage"


def test_load_sql_brings_dropped_columns_and_tables_back(
    fresh_database: Target, tmp_path: Path, run_psql: Callable[..., Any]
) -> None:
    with connect(fresh_database) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id int PRIMARY KEY, a text, b int)")
        cursor.execute("INSERT INTO t VALUES (1, NULL, 1), (2, '', 2), (3, 'x,\"y', 3)")
        cursor.execute('CREATE TABLE "odd name" (v text)')
        cursor.execute("INSERT INTO \"odd name\" VALUES ('kept'), (NULL)")
        rows, odd = "SELECT id, a, b FROM t ORDER BY id", 'SELECT v FROM "odd name" ORDER BY v'
        before = fetch(connection, rows), fetch(connection, odd)
    loss = Loss(
        (
            LossItem("public.odd name", "", 2),
            LossItem("public.t", "a", 2),
            LossItem("public.t", "b", 3),
        )
    )
    write_salvage(fresh_database, loss, tmp_path / "salvage")

    with connect(fresh_database) as connection, connection.cursor() as cursor:
        cursor.execute('ALTER TABLE t DROP COLUMN a, DROP COLUMN b; DROP TABLE "odd name"')
        cursor.execute('ALTER TABLE t ADD COLUMN a text, ADD COLUMN b int; CREATE TABLE "odd name"'
                       " (v text)")  # fmt: skip
    text = (tmp_path / "salvage" / "load.sql").read_text()
    done = run_psql(fresh_database, f"\\cd {tmp_path / 'salvage'}\n{text}")

    assert done.returncode == 0, done.stderr
    with connect(fresh_database, read_only=True) as connection:
        assert (fetch(connection, rows), fetch(connection, odd)) == before
