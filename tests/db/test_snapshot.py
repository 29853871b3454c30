"""Counts and fingerprints: equal data are equal, and every kind of change is seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from playbook.database import connect, fetch
from playbook.errors import PlaybookError
from playbook.records import Snapshot
from playbook.snapshot import (
    count_rows,
    count_written_after,
    count_written_by,
    holds_rows,
    read_snapshot,
    take_snapshot,
    write_snapshot,
)
from playbook.targets import Target, load_target
from servers import PrivateServer

TYPES = {
    "json": ("""'{"a": 1}'""", """'{"a":1}'"""),
    "jsonb": ("'[1]'", "'[2]'"),
    "point": ("'(1,2)'", "'(2,1)'"),
    "box": ("'(1,2),(0,0)'", "'(1,3),(0,0)'"),
    "tsvector": ("'a b'", "'a c'"),
    "bytea": (r"'\x00ff'", r"'\x00fe'"),
    "int[]": ("'{1,2}'", "'{2,1}'"),
    "text[][]": ("'{{a},{b}}'", "'{{a},{NULL}}'"),
    "timestamptz": ("'2026-01-01 00:00:00.000001Z'", "'2026-01-01 00:00:00.000002Z'"),
    "interval": ("'1 month'", "'30 days'"),
    "numeric": ("1.0", "1.00"),
    "float8": ("0.1", "0.30000000000000004"),
    "money": ("1", "2"),
    "bit(3)": ("B'101'", "B'100'"),
    "inet": ("'10.0.0.1/8'", "'10.0.0.1/9'"),
    "uuid": ("gen_random_uuid()", "gen_random_uuid()"),
    "text": ("''", "NULL"),
    "int4range": ("'[1,2)'", "'[1,3)'"),
    "boolean": ("true", "false"),
}


def sql(target: Target, *statements: str) -> None:
    with connect(target) as connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def fingerprints(target: Target, table: str = "t") -> dict[str, str]:
    (found,) = [t for t in take_snapshot(target, ()).tables if t.table == table]
    return {column.column: column.fingerprint for column in found.columns}


def test_same_data_have_the_same_snapshot_whatever_their_order_on_disk(
    fresh_database: Target,
) -> None:
    sql(
        fresh_database,
        "CREATE TABLE t (id int PRIMARY KEY, x text, y int[])",
        "INSERT INTO t SELECT n, 'x' || n, ARRAY[n] FROM generate_series(1, 50) AS n",
    )
    before = take_snapshot(fresh_database, ("a",)).tables

    sql(fresh_database, "UPDATE t SET x = x WHERE id % 2 = 0", "VACUUM FULL t")

    assert take_snapshot(fresh_database, ("a",)).tables == before
    assert before[0].rows == 50


@pytest.mark.parametrize("type_", TYPES)
def test_changed_value_of_any_type_is_seen(fresh_database: Target, type_: str) -> None:
    first, second = TYPES[type_]
    sql(
        fresh_database,
        f"CREATE TABLE t (id int PRIMARY KEY, x {type_}, same int)",
        f"INSERT INTO t VALUES (1, {first}, 7), (2, {first}, 7)",
    )
    before = fingerprints(fresh_database)

    sql(fresh_database, f"UPDATE t SET x = {second} WHERE id = 2")
    after = fingerprints(fresh_database)

    assert before["x"] != after["x"]
    assert (before["id"], before["same"]) == (after["id"], after["same"])


def test_values_swapped_between_two_rows_are_seen(fresh_database: Target) -> None:
    sql(
        fresh_database,
        "CREATE TABLE t (a int, b text, x text, PRIMARY KEY (a, b))",
        "INSERT INTO t VALUES (1, 'x', 'one'), (1, 'y', 'two')",
    )
    before = fingerprints(fresh_database)

    sql(fresh_database, "UPDATE t SET x = CASE b WHEN 'x' THEN 'two' ELSE 'one' END")
    after = fingerprints(fresh_database)

    assert before["x"] != after["x"]
    assert before["a"] == after["a"]


def test_without_a_primary_key_changes_and_duplicates_are_seen(fresh_database: Target) -> None:
    sql(fresh_database, "CREATE TABLE t (x text)", "INSERT INTO t VALUES ('a'), ('a'), ('b')")
    before = fingerprints(fresh_database)

    sql(fresh_database, "UPDATE t SET x = 'b' WHERE ctid = (SELECT min(ctid) FROM t)")
    other_duplicate = fingerprints(fresh_database)
    sql(fresh_database, "DELETE FROM t", "INSERT INTO t VALUES ('b')")

    assert len({before["x"], other_duplicate["x"], fingerprints(fresh_database)["x"]}) == 3


def test_null_differs_from_an_empty_text_and_from_no_row(fresh_database: Target) -> None:
    seen = []
    sql(fresh_database, "CREATE TABLE t (id int PRIMARY KEY, x text)")
    for rows in ("(1, NULL)", "(1, '')", "(1, NULL), (2, NULL)"):
        sql(fresh_database, "DELETE FROM t", f"INSERT INTO t VALUES {rows}")
        seen.append(fingerprints(fresh_database)["x"])

    assert len(set(seen)) == 3
    (table,) = take_snapshot(fresh_database, ()).tables
    assert [column.non_null_rows for column in table.columns] == [2, 0]


@pytest.mark.parametrize(
    ("needs", "type_", "first", "second"),
    [
        ("SELECT '<a/>'::xml", "xml", "'<a/>'", "'<b/>'"),
        (
            "CREATE COLLATION lax (provider = icu, locale = 'und-u-ks-level2', "
            "deterministic = false)",
            "text COLLATE lax",
            "'Ann'",
            "'ann'",
        ),
    ],
    ids=["xml", "case that the collation ignores"],
)
def test_change_is_seen_also_where_the_sandbox_lacks_the_type(
    other_version: PrivateServer, needs: str, type_: str, first: str, second: str
) -> None:
    with other_version.database() as name:
        target = load_target(other_version.url(name))
        try:
            sql(target, needs)
        except PlaybookError as error:
            pytest.skip(f"this build of PostgreSQL lacks it: {error.problem}")
        sql(target, f"CREATE TABLE t (x {type_})", f"INSERT INTO t VALUES ({first})")
        before = fingerprints(target)

        sql(target, f"UPDATE t SET x = {second}")

        assert fingerprints(target) != before


@pytest.mark.parametrize(
    "setting",
    [
        "TimeZone TO 'Asia/Tokyo'",
        "DateStyle TO 'German'",
        "bytea_output TO 'escape'",
        "extra_float_digits TO -3",
    ],
)
def test_settings_of_the_database_do_not_change_a_fingerprint(
    fresh_database: Target, setting: str
) -> None:
    sql(
        fresh_database,
        "CREATE TABLE t (a timestamptz, b date, c bytea, d float8)",
        r"INSERT INTO t VALUES ('2026-01-02 03:04:05Z', '2026-01-02', '\x00', 0.1::float8 / 3)",
    )
    before = fingerprints(fresh_database)

    sql(fresh_database, f'ALTER DATABASE "{fresh_database.database}" SET {setting}')

    assert fingerprints(fresh_database) == before


def test_odd_names_empty_tables_and_tables_without_columns(fresh_database: Target) -> None:
    sql(
        fresh_database,
        'CREATE TABLE "a.b" ("100%s" int PRIMARY KEY, "Quo""te" text, "größe" text, r int, t int)',
        """INSERT INTO "a.b" VALUES (1, '%s', NULL, 2, 3)""",
        "CREATE TABLE bare ()",
        "INSERT INTO bare DEFAULT VALUES",
        "CREATE TABLE empty (x int)",
    )

    tables = {table.table: table for table in take_snapshot(fresh_database, ()).tables}

    assert {name: table.rows for name, table in tables.items()} == {"a.b": 1, "bare": 1, "empty": 0}
    assert [c.column for c in tables["a.b"].columns] == ["100%s", 'Quo"te', "größe", "r", "t"]
    assert [c.fingerprint for c in tables["empty"].columns] == ["0"]


def test_tables_can_be_left_out_and_fingerprints_too(fresh_database: Target) -> None:
    sql(fresh_database, "CREATE TABLE t (x int)", "CREATE TABLE alembic_version (v text)")

    (table,) = take_snapshot(
        fresh_database, (), except_tables=["public.alembic_version"], fingerprints=False
    ).tables

    assert table.name == "public.t"
    assert table.columns[0].fingerprint == "0"


def test_rows_anywhere_but_in_what_is_left_out_are_found(fresh_database: Target) -> None:
    sql(
        fresh_database,
        "CREATE TABLE t (x int)",
        "CREATE TABLE v (x int)",
        "INSERT INTO v VALUES (1)",
    )

    assert holds_rows(fresh_database)
    assert not holds_rows(fresh_database, except_tables=["public.v"])
    with connect(fresh_database) as connection:
        assert count_rows(connection, ["public.t", "public.v"]) == {"public.t": 0, "public.v": 1}


def test_snapshot_is_read_back_as_it_was_written(legacy_database: Target, tmp_path: Path) -> None:
    snapshot = take_snapshot(legacy_database, ("000_baseline",))

    write_snapshot(snapshot, tmp_path / "s.json")

    assert read_snapshot(tmp_path / "s.json") == snapshot
    assert isinstance(snapshot, Snapshot)


@pytest.mark.parametrize("text", [None, "", "{}", "[1]", '{"tables": [{}]}'])
def test_file_that_is_no_snapshot_is_one_sentence(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "s.json").write_text(text)

    with pytest.raises(PlaybookError, match="is not a readable snapshot"):
        read_snapshot(tmp_path / "s.json")


@pytest.mark.parametrize("table", ["t", "partitioned"])
def test_rows_are_counted_by_the_transaction_that_wrote_them(
    fresh_database: Target, table: str
) -> None:
    sql(
        fresh_database,
        "CREATE TABLE t (id int PRIMARY KEY, x text)",
        "CREATE TABLE partitioned (id int, x text) PARTITION BY RANGE (id)",
        "CREATE TABLE low PARTITION OF partitioned FOR VALUES FROM (0) TO (10)",
        "CREATE TABLE high PARTITION OF partitioned FOR VALUES FROM (10) TO (100)",
        f"INSERT INTO {table} SELECT n, 'old' FROM generate_series(1, 50) AS n",
    )
    name = f"public.{table}"
    with connect(fresh_database, autocommit=False) as connection:
        change = f"UPDATE {table} SET x = 'new' WHERE id < 4 RETURNING txid_current()"
        xid = fetch(connection, change)[0][0]  # type: ignore[arg-type]
        connection.commit()
    with connect(fresh_database) as connection:
        assert count_written_by(connection, [name], (xid,)) == {name: 3}
        assert count_written_after(connection, [name], xid - 1) == {name: 3}
        assert count_written_after(connection, [name], xid) == {name: 0}
        sql(fresh_database, f"UPDATE {table} SET x = 'newer' WHERE id IN (3, 4, 40)")
        assert count_written_after(connection, [name], xid) == {name: 3}
        assert count_written_by(connection, [name], (xid, xid + 2**32)) == {name: 2}
        assert count_written_by(connection, [name], ()) == {name: 0}
