"""Counts and fingerprints: equal data are equal, and every kind of change is seen."""

from __future__ import annotations

import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from playbook import snapshot as snapshots
from playbook.database import connect, fetch
from playbook.errors import PlaybookError
from playbook.records import Snapshot
from playbook.snapshot import (
    EVERYTHING,
    Reading,
    count_rows,
    count_written_after,
    count_written_by,
    holds_rows,
    read_snapshot,
    take_snapshot,
    write_snapshot,
)
from playbook.targets import Target, load_target
from playbook.verification import compare
from servers import PrivateServer
from steps import run_sql

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


SLOW = (
    # A thousand numbers are slow to write as text, and small on disk.
    "CREATE TABLE a_large AS SELECT i AS id, array_fill(123456789, ARRAY[1000]) AS x "
    "FROM generate_series(1, 100000) i"
)


def fingerprints(target: Target, table: str = "t") -> dict[str, str]:
    (found,) = [t for t in take_snapshot(target, ()).tables if t.table == table]
    return {column.column: column.fingerprint for column in found.columns}


def test_same_data_have_the_same_snapshot_whatever_their_order_on_disk(
    fresh_database: Target,
) -> None:
    run_sql(
        fresh_database,
        "CREATE TABLE t (id int PRIMARY KEY, x text, y int[])",
        "INSERT INTO t SELECT n, 'x' || n, ARRAY[n] FROM generate_series(1, 50) AS n",
    )
    before = take_snapshot(fresh_database, ("a",)).tables

    run_sql(fresh_database, "UPDATE t SET x = x WHERE id % 2 = 0", "VACUUM FULL t")

    assert take_snapshot(fresh_database, ("a",)).tables == before
    assert before[0].rows == 50


@pytest.mark.parametrize("type_", TYPES)
def test_changed_value_of_any_type_is_seen(fresh_database: Target, type_: str) -> None:
    first, second = TYPES[type_]
    run_sql(
        fresh_database,
        f"CREATE TABLE t (id int PRIMARY KEY, x {type_}, same int)",
        f"INSERT INTO t VALUES (1, {first}, 7), (2, {first}, 7)",
    )
    before = fingerprints(fresh_database)

    run_sql(fresh_database, f"UPDATE t SET x = {second} WHERE id = 2")
    after = fingerprints(fresh_database)

    assert before["x"] != after["x"]
    assert (before["id"], before["same"]) == (after["id"], after["same"])


def test_values_swapped_between_two_rows_are_seen(fresh_database: Target) -> None:
    run_sql(
        fresh_database,
        "CREATE TABLE t (a int, b text, x text, PRIMARY KEY (a, b))",
        "INSERT INTO t VALUES (1, 'x', 'one'), (1, 'y', 'two')",
    )
    before = fingerprints(fresh_database)

    run_sql(fresh_database, "UPDATE t SET x = CASE b WHEN 'x' THEN 'two' ELSE 'one' END")
    after = fingerprints(fresh_database)

    assert before["x"] != after["x"]
    assert before["a"] == after["a"]


def test_without_a_primary_key_changes_and_duplicates_are_seen(fresh_database: Target) -> None:
    run_sql(fresh_database, "CREATE TABLE t (x text)", "INSERT INTO t VALUES ('a'), ('a'), ('b')")
    before = fingerprints(fresh_database)

    run_sql(fresh_database, "UPDATE t SET x = 'b' WHERE ctid = (SELECT min(ctid) FROM t)")
    other_duplicate = fingerprints(fresh_database)
    run_sql(fresh_database, "DELETE FROM t", "INSERT INTO t VALUES ('b')")

    assert len({before["x"], other_duplicate["x"], fingerprints(fresh_database)["x"]}) == 3


def test_null_differs_from_an_empty_text_and_from_no_row(fresh_database: Target) -> None:
    seen = []
    run_sql(fresh_database, "CREATE TABLE t (id int PRIMARY KEY, x text)")
    for rows in ("(1, NULL)", "(1, '')", "(1, NULL), (2, NULL)"):
        run_sql(fresh_database, "DELETE FROM t", f"INSERT INTO t VALUES {rows}")
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
            run_sql(target, needs)
        except PlaybookError as error:
            pytest.skip(f"this build of PostgreSQL lacks it: {error.problem}")
        run_sql(target, f"CREATE TABLE t (x {type_})", f"INSERT INTO t VALUES ({first})")
        before = fingerprints(target)

        run_sql(target, f"UPDATE t SET x = {second}")

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
    run_sql(
        fresh_database,
        "CREATE TABLE t (a timestamptz, b date, c bytea, d float8)",
        r"INSERT INTO t VALUES ('2026-01-02 03:04:05Z', '2026-01-02', '\x00', 0.1::float8 / 3)",
    )
    before = fingerprints(fresh_database)

    run_sql(fresh_database, f'ALTER DATABASE "{fresh_database.database}" SET {setting}')

    assert fingerprints(fresh_database) == before


def test_odd_names_empty_tables_and_tables_without_columns(fresh_database: Target) -> None:
    run_sql(
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
    run_sql(fresh_database, "CREATE TABLE t (x int)", "CREATE TABLE alembic_version (v text)")

    (table,) = take_snapshot(
        fresh_database, (), except_tables=["public.alembic_version"], fingerprints=False
    ).tables

    assert table.name == "public.t"
    assert table.columns[0].fingerprint == "0"


def test_rows_anywhere_but_in_what_is_left_out_are_found(fresh_database: Target) -> None:
    run_sql(
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
    run_sql(
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
        run_sql(fresh_database, f"UPDATE {table} SET x = 'newer' WHERE id IN (3, 4, 40)")
        assert count_written_after(connection, [name], xid) == {name: 3}
        assert count_written_by(connection, [name], (xid, xid + 2**32)) == {name: 2}
        assert count_written_by(connection, [name], ()) == {name: 0}


def many_tables(target: Target, number: int = 6) -> None:
    run_sql(
        target,
        *(
            f"CREATE TABLE t{n} AS SELECT i AS id, md5(i::text) AS x "
            f"FROM generate_series(1, {n}00) AS i"
            for n in range(1, number + 1)
        ),
    )


def test_many_sessions_see_what_one_does(fresh_database: Target) -> None:
    many_tables(fresh_database)

    together = take_snapshot(fresh_database, (), jobs=4)

    assert together.tables == take_snapshot(fresh_database, (), jobs=1).tables
    assert [table.rows for table in together.tables] == [100, 200, 300, 400, 500, 600]


def test_many_sessions_see_one_moment_while_rows_come_in(fresh_database: Target) -> None:
    many_tables(fresh_database)
    stopped = threading.Event()

    def write() -> None:
        with connect(fresh_database) as connection, connection.cursor() as cursor:
            while not stopped.is_set():
                insert = "; ".join(f"INSERT INTO t{n} VALUES (0, '')" for n in range(1, 7))
                cursor.execute(f"BEGIN; {insert}; COMMIT")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        seen = [take_snapshot(fresh_database, (), jobs=4).tables for _ in range(5)]
    finally:
        stopped.set()
        writer.join()

    for tables in seen:
        assert len({t.rows - 100 * n for n, t in enumerate(tables, 1)}) == 1
    assert seen[0] != seen[-1]


def test_error_in_one_session_ends_the_others(fresh_database: Target) -> None:
    many_tables(fresh_database)
    run_sql(
        fresh_database,
        "ALTER TABLE t1 ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE t1 FORCE ROW LEVEL SECURITY",
        "CREATE ROLE reader_of_snapshots LOGIN",
        "GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader_of_snapshots",
    )
    try:
        begun = time.monotonic()
        with pytest.raises(PlaybookError, match="row-level security"):
            take_snapshot(fresh_database.with_conninfo(user="reader_of_snapshots"), (), jobs=3)
        assert time.monotonic() - begun < 10
    finally:
        run_sql(
            fresh_database, "DROP OWNED BY reader_of_snapshots", "DROP ROLE reader_of_snapshots"
        )


@pytest.mark.parametrize("key", ["id bigint PRIMARY KEY", "id bigint", "id uuid PRIMARY KEY"])
def test_timestamps_have_the_hash_of_every_version_of_postgresql(
    fresh_database: Target, key: str
) -> None:
    given = "gen_random_uuid()" if "uuid" in key else "1"
    run_sql(
        fresh_database,
        f"CREATE TABLE t ({key}, x timestamptz)",
        f"INSERT INTO t VALUES ({given}, '2026-03-29 01:30:00.000001 Europe/Berlin')",
    )
    as_is = fingerprints(fresh_database)["x"]

    run_sql(fresh_database, "ALTER TABLE t ALTER x TYPE timestamp USING x AT TIME ZONE 'UTC'")

    assert fingerprints(fresh_database)["x"] == as_is


def test_column_made_wider_keeps_its_fingerprint_also_in_the_key(fresh_database: Target) -> None:
    run_sql(
        fresh_database,
        "CREATE TABLE t (id int PRIMARY KEY, n smallint, x text)",
        "INSERT INTO t VALUES (-1, -2, 'x'), (1, 2, NULL)",
    )
    before = fingerprints(fresh_database)

    run_sql(fresh_database, "ALTER TABLE t ALTER id TYPE bigint, ALTER n TYPE int")

    assert fingerprints(fresh_database) == before


def test_equal_rows_of_tables_that_inherit_do_not_cancel_out(fresh_database: Target) -> None:
    run_sql(
        fresh_database,
        "CREATE TABLE t (id int PRIMARY KEY, x text)",
        "CREATE TABLE heir (LIKE t INCLUDING ALL) INHERITS (t)",
        "INSERT INTO t VALUES (1, 'a')",
        "INSERT INTO heir VALUES (1, 'a')",
    )
    before = fingerprints(fresh_database)

    run_sql(fresh_database, "UPDATE t SET x = 'b'")

    assert fingerprints(fresh_database)["x"] != before["x"]


def test_composite_value_of_nulls_is_counted_as_a_value(fresh_database: Target) -> None:
    run_sql(
        fresh_database,
        "CREATE TYPE pair AS (a int, b int)",
        "CREATE TABLE t (id int PRIMARY KEY, x pair)",
        "INSERT INTO t VALUES (1, ROW(NULL, NULL)), (2, NULL)",
    )

    (table,) = take_snapshot(fresh_database, ()).tables

    assert table.columns[1].non_null_rows == 1


def test_nulls_that_a_constraint_does_not_exclude_yet_are_counted(fresh_database: Target) -> None:
    run_sql(
        fresh_database,
        "CREATE TABLE parent (id int, x int, y int NOT NULL NO INHERIT)",
        "INSERT INTO parent VALUES (1, NULL, 1), (2, 2, 2)",
        "ALTER TABLE parent ADD CONSTRAINT later NOT NULL x NOT VALID",
        "CREATE TABLE child () INHERITS (parent)",
        "INSERT INTO child VALUES (3, 3, NULL)",
    )

    table = take_snapshot(fresh_database, ()).tables[-1]

    assert table.table == "parent"
    assert {c.column: c.non_null_rows for c in table.columns} == {"id": 3, "x": 2, "y": 2}


def test_of_a_large_table_a_sample_is_read_and_all_rows_counted(fresh_database: Target) -> None:
    run_sql(
        fresh_database,
        "CREATE TABLE t AS SELECT i AS id, md5(i::text) AS x FROM generate_series(1, 50000) i",
        "CREATE TABLE little (id int)",
        "ANALYZE t",
    )
    limits = Reading(sample_above_bytes=500 * 1024)

    little, table = take_snapshot(fresh_database, (), limits=limits).tables

    assert (little.coverage, little.share) == ("", 1.0)
    assert table.rows == 50_000
    assert 0.1 < table.share < 0.2
    assert table.coverage == f"{table.share * 100:.3g} % of its blocks"
    assert 2_000 < table.columns[0].non_null_rows < 15_000
    full = take_snapshot(fresh_database, ())
    sampled = take_snapshot(fresh_database, (), limits=limits)
    assert take_snapshot(fresh_database, (), like=sampled).tables[1] == table
    assert take_snapshot(fresh_database, (), limits=limits, like=full).tables[1] == table


def test_time_budget_leaves_out_the_tables_that_do_not_fit_the_small_ones_first(
    fresh_database: Target,
) -> None:
    run_sql(
        fresh_database,
        SLOW,
        "CREATE TABLE little (id int)",
        "INSERT INTO little VALUES (1)",
    )

    large, little = take_snapshot(fresh_database, (), limits=Reading(budget_s=0.6)).tables

    assert (little.rows, little.coverage) == (1, "")
    assert (large.rows, large.coverage, large.share) == (-1, "not read: time budget", 0.0)
    assert [(c.fingerprint, c.non_null_rows) for c in large.columns] == [("", -1)] * 2


def test_snapshot_knows_the_transactions_after_it(fresh_database: Target) -> None:
    run_sql(fresh_database, "CREATE TABLE t (id int)", "INSERT INTO t VALUES (1), (2)")
    snapshot = take_snapshot(fresh_database, ())
    run_sql(fresh_database, "INSERT INTO t VALUES (3)")

    with connect(fresh_database) as connection:
        written = count_written_after(connection, ["public.t"], snapshot.xid - 1)

    assert written == {"public.t": 1}
    assert snapshot.system_identifier.isdigit()


def test_snapshot_of_an_older_form_is_read_as_such(fresh_database: Target, tmp_path: Path) -> None:
    snapshot = take_snapshot(fresh_database, ())
    write_snapshot(replace(snapshot, form=1, xid=0), tmp_path / "s.json")
    older = (tmp_path / "s.json").read_text().replace('"form": 1,', "")
    (tmp_path / "s.json").write_text(older)

    assert read_snapshot(tmp_path / "s.json").form == 1 != snapshot.form


def test_interrupt_ends_the_reading_in_the_server_too(fresh_database: Target) -> None:
    run_sql(fresh_database, SLOW)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with pytest.raises(KeyboardInterrupt):
            take_snapshot(fresh_database, ())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)

    query = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%%hash%%' AND datname = %s"
    with connect(fresh_database) as connection:
        query += " AND pid <> pg_backend_pid() AND state = 'active'"
        assert fetch(connection, query, (fresh_database.database,)) == [(0,)]


def test_reading_that_takes_long_says_how_far_it_is(
    fresh_database: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    many_tables(fresh_database)
    run_sql(fresh_database, SLOW)
    said: list[str] = []
    take_snapshot(fresh_database, (), except_tables=["public.a_large"], on_progress=said.append)
    assert said == []

    monkeypatch.setattr(snapshots, "QUIET_S", 0.2)
    take_snapshot(fresh_database, (), jobs=2, on_progress=said.append)

    assert "reading tables: 6 of 7 done" in said


@pytest.mark.parametrize("limits", [EVERYTHING, Reading(budget_s=60)], ids=["no limit", "a budget"])
def test_table_dropped_while_others_are_read_is_left_out(
    fresh_database: Target, monkeypatch: pytest.MonkeyPatch, limits: Reading
) -> None:
    run_sql(
        fresh_database, "CREATE TABLE a (x int)", "CREATE TABLE b (x int)", "CREATE TABLE c (x int)"
    )
    own = snapshots.statistics_query

    def query_after_drop(name: str, *arguments: object, **options: object) -> object:
        if name == "public.b":
            run_sql(fresh_database, "DROP TABLE b")
        return own(name, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(snapshots, "statistics_query", query_after_drop)

    found = take_snapshot(fresh_database, (), limits=limits)

    assert [table.name for table in found.tables] == ["public.a", "public.c"]


def test_table_that_was_read_may_be_changed_while_others_are_read(
    fresh_database: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_sql(
        fresh_database, "CREATE TABLE a (x int)", "CREATE TABLE b (x int)", "CREATE TABLE c (x int)"
    )
    own = snapshots.statistics_query

    def query_after_change(name: str, *arguments: object, **options: object) -> object:
        if name == "public.c":
            run_sql(fresh_database, "SET lock_timeout = '1s'; ALTER TABLE a ADD COLUMN y int")
        return own(name, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(snapshots, "statistics_query", query_after_change)

    found = take_snapshot(fresh_database, ())

    assert [table.name for table in found.tables] == ["public.a", "public.b", "public.c"]


def test_table_that_this_role_may_not_read_is_named_and_the_others_are_read(
    fresh_database: Target,
) -> None:
    role = fresh_database.database
    run_sql(
        fresh_database, f"CREATE ROLE {role} LOGIN", f"CREATE SCHEMA app AUTHORIZATION {role}",
        "CREATE SCHEMA other", "CREATE TABLE other.t (x int)", "INSERT INTO other.t VALUES (1)",
        "CREATE TABLE public.t (x int)", "INSERT INTO public.t VALUES (1)",
        f"CREATE TABLE app.t (x int); ALTER TABLE app.t OWNER TO {role}",
    )  # fmt: skip
    weak = fresh_database.with_conninfo(user=role)
    try:
        before = take_snapshot(weak, ())
        empty = holds_rows(weak)
        run_sql(fresh_database, "INSERT INTO app.t VALUES (1)")
        after = take_snapshot(weak, ())
        full = holds_rows(weak)
    finally:
        run_sql(fresh_database, f"DROP OWNED BY {role} CASCADE", f"DROP ROLE {role}")

    assert {t.name: (t.rows, t.coverage) for t in before.tables} == {
        "app.t": (0, ""),
        "other.t": (-1, "not read: no SELECT on it"),
        "public.t": (-1, "not read: no SELECT on it"),
    }
    compared = compare(before, after, names=("before", "after")).differences
    assert [(d.table, d.kind) for d in compared if not d.column] == [
        ("app.t", "rows changed"), ("other.t", "not compared"), ("public.t", "not compared"),
    ]  # fmt: skip
    assert (empty, full) == (False, True)
