"""Questions to pg_catalog, on names and objects as odd as PostgreSQL allows."""

from __future__ import annotations

import time

import pytest

from playbook import catalog
from playbook.database import connect, fetch
from playbook.targets import Target

ODD = ["Mixed Case", "spa ce", 'quo"te', "größe", "文書", "a.b", "100%s", "select"]


@pytest.fixture
def odd_database(fresh_database: Target) -> Target:
    with connect(fresh_database) as connection, connection.cursor() as cursor:
        for name in ODD:
            quoted = '"' + name.replace('"', '""') + '"'
            cursor.execute(f"CREATE TABLE {quoted} ({quoted} int PRIMARY KEY, note text)")
        cursor.execute(
            "CREATE SCHEMA other; CREATE TABLE other.t (id int);"
            "CREATE TABLE parts (n int NOT NULL) PARTITION BY RANGE (n);"
            "CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (1000);"
            "INSERT INTO parts SELECT generate_series(0, 999);"
            "CREATE INDEX ON parts (n);"
            "CREATE VIEW seen AS SELECT 1; CREATE MATERIALIZED VIEW kept AS SELECT 1;"
            "CREATE TEMPORARY TABLE passing (id int);"
            "CREATE SCHEMA playbook; CREATE TABLE playbook.history (id int);"
        )
    return fresh_database


def test_tables_of_every_name_and_schema_are_found_and_nothing_else(odd_database: Target) -> None:
    with connect(odd_database) as connection:
        found = catalog.table_names(connection)
        sizes = catalog.table_sizes(connection)

    assert sorted(found) == sorted([*(f"public.{name}" for name in ODD), "other.t", "public.parts"])
    assert found == [f"{size.schema}.{size.table}" for size in sizes]


def test_size_of_a_partitioned_table_is_that_of_its_partitions(odd_database: Target) -> None:
    with connect(odd_database) as connection:
        sizes = {size.table: size for size in catalog.table_sizes(connection)}

    assert sizes["parts"].table_bytes > 30_000
    assert sizes["parts"].index_bytes > 8_000
    assert sizes["parts"].total_bytes == sizes["parts"].table_bytes + sizes["parts"].index_bytes


def test_columns_come_in_order_with_type_and_key(odd_database: Target) -> None:
    with connect(odd_database) as connection:
        columns = catalog.table_columns(connection)

    for name in ODD:
        assert columns[f"public.{name}"] == [
            (name, "integer", True, True), ("note", "text", False, False),
        ]  # fmt: skip


def test_what_an_extension_owns_is_left_out(fresh_database: Target) -> None:
    with connect(fresh_database) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE owned (id int); CREATE SCHEMA theirs")
        cursor.execute("CREATE TABLE theirs.t (id int)")
        cursor.execute("ALTER EXTENSION plpgsql ADD TABLE owned")
        cursor.execute("ALTER EXTENSION plpgsql ADD SCHEMA theirs")

        assert catalog.table_names(connection) == ["theirs.t"]
        assert catalog.droppable_schemas(connection) == ["public"]


def test_unvalidated_constraint_is_found_until_it_is_validated(fresh_database: Target) -> None:
    with connect(fresh_database) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (n int)")
        cursor.execute("ALTER TABLE t ADD CONSTRAINT positive CHECK (n > 0) NOT VALID")
        (found,) = catalog.unvalidated_constraints(connection)
        cursor.execute("ALTER TABLE t VALIDATE CONSTRAINT positive")

        assert (found.table, found.constraint) == ("public.t", "positive")
        assert catalog.unvalidated_constraints(connection) == []


def test_invalid_index_is_found_until_it_is_dropped(fresh_database: Target) -> None:
    with connect(fresh_database) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (n int)")
        cursor.execute("INSERT INTO t VALUES (1), (1)")
        with pytest.raises(Exception, match="could not create unique index"):
            cursor.execute("CREATE UNIQUE INDEX CONCURRENTLY u ON t (n)")
        (found,) = catalog.invalid_indexes(connection)
        cursor.execute("DROP INDEX u")

        assert (found.table, found.index) == ("public.t", "public.u")
        assert catalog.invalid_indexes(connection) == []


def test_holder_of_a_table_is_named_and_others_are_not(odd_database: Target) -> None:
    app = odd_database.with_conninfo(application_name="the app")
    with connect(app, autocommit=False) as holder, connect(odd_database) as connection:
        fetch(holder, 'SELECT count(*) FROM "Mixed Case"')
        pid = holder.info.backend_pid
        time.sleep(0.1)

        alter, build = "AccessExclusiveLock", "ShareLock"
        (found,) = catalog.holders(connection, {"public.Mixed Case": alter, "public.parts": alter})

        assert (found.pid, found.user, found.application) == (pid, "postgres", "the app")
        assert found.state == "idle in transaction"
        assert found.tables == ("public.Mixed Case",)
        assert found.transaction_age_s >= 0.1
        assert found.query == 'SELECT count(*) FROM "Mixed Case"'
        assert catalog.holders(connection, {"public.parts": alter}) == []
        assert catalog.holders(connection, {"public.Mixed Case": build}) == []  # a reader may stay
        assert [s.pid for s in catalog.open_transactions(connection, older_than_s=0.05)] == [pid]
        assert catalog.open_transactions(connection, older_than_s=60) == []


def test_missing_privileges_name_the_table_as_everything_else_does(odd_database: Target) -> None:
    with connect(odd_database) as connection, connection.cursor() as cursor:
        assert catalog.missing_privileges(connection) == []
        cursor.execute("SET ROLE pg_read_all_data")

        missing = catalog.missing_privileges(connection)

        assert "schema public: CREATE" in missing
        assert {f"table public.{name}: owner is postgres" for name in ODD} <= set(missing)
        assert not catalog.may_create_schema(connection)


@pytest.mark.parametrize("name", ODD)
def test_relation_is_found_under_its_own_name_alone(odd_database: Target, name: str) -> None:
    with connect(odd_database) as connection:
        assert catalog.relation_exists(connection, "", name)
        assert catalog.relation_exists(connection, "public", name)
        assert not catalog.relation_exists(connection, "other", name)
        assert not catalog.relation_exists(connection, "", f"{name}x")
