"""A rewrite leaves the schema and the rows that its statement leaves, on a real server."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from builders import TABLE, Script
from playbook import upgrade
from playbook.database import connect, fetch
from playbook.dump import dump_schema, find_client_tools
from playbook.known import read_known
from playbook.records import ColumnFact
from playbook.rewrites import rewrite
from playbook.targets import Target, load_target
from servers import PrivateServer
from steps import Namespace, go

TABLES = """
CREATE TABLE u (id bigint PRIMARY KEY, x int, y int, UNIQUE (x, y));
CREATE TABLE t (id bigint, part int, a int NOT NULL, b varchar(50), "c d" int, e int,
                PRIMARY KEY (id, part));
INSERT INTO u SELECT n, n, n FROM generate_series(1, 3000) AS n;
INSERT INTO t SELECT n, n % 3, n, 'b' || n, n, n FROM generate_series(1, 2500) AS n;
"""
CASES = [
    ("require-concurrent-index-creation", "CREATE INDEX i ON t (a)"),
    ("require-concurrent-index-creation", "CREATE INDEX ON t (a, lower(b))"),
    ("require-concurrent-index-creation",
     'CREATE UNIQUE INDEX "I" ON t USING btree (lower(b) text_pattern_ops DESC NULLS LAST) '
     'INCLUDE ("c d") WITH (fillfactor = 70) WHERE a > 10'),
    ("adding-foreign-key-constraint", "ALTER TABLE t ADD FOREIGN KEY (id) REFERENCES u"),
    ("adding-foreign-key-constraint",
     "ALTER TABLE t ADD CONSTRAINT f FOREIGN KEY (a, e) REFERENCES u (x, y) MATCH FULL "
     "ON DELETE CASCADE ON UPDATE SET NULL DEFERRABLE INITIALLY DEFERRED"),
    ("constraint-missing-not-valid", "ALTER TABLE t ADD CONSTRAINT cs CHECK (a > 0) NO INHERIT"),
    ("constraint-missing-not-valid", 'ALTER TABLE t ADD CHECK ("c d" > 0)'),
    ("constraint-missing-not-valid", "ALTER TABLE t ADD z int, ADD CHECK (a > 0 OR b <> 'x')"),
    ("disallowed-unique-constraint", "ALTER TABLE t ADD UNIQUE (a, b)"),
    ("disallowed-unique-constraint",
     'ALTER TABLE t ADD CONSTRAINT "Q" UNIQUE NULLS NOT DISTINCT ("c d") INCLUDE (b) '
     "WITH (fillfactor = 70) DEFERRABLE"),
    ("adding-not-nullable-field", 'ALTER TABLE public.t ALTER COLUMN "c d" SET NOT NULL'),
    ("adding-field-with-default",
     "ALTER TABLE t ADD COLUMN r float NOT NULL DEFAULT random() CHECK (r >= 0)"),
    ("adding-field-with-default", "ALTER TABLE t ADD COLUMN g uuid DEFAULT gen_random_uuid() "
     "UNIQUE"),
    ("changing-column-type", "ALTER TABLE t ALTER COLUMN e TYPE bigint"),
    ("changing-column-type", "ALTER TABLE t ALTER COLUMN a TYPE text USING 'a' || a || b"),
    ("update-all-rows", "UPDATE t SET e = a + 1"),
    ("update-rows", "UPDATE t AS x SET b = 'it''s', e = NULL WHERE a % 7 = 0 OR a > 2400"),
    ("delete-rows", "DELETE FROM t WHERE a % 7 = 0 OR a > 2400"),
    ("delete-all-rows", "DELETE FROM t"),
]  # fmt: skip
KEYLESS_TABLE = "CREATE TABLE k (x int, y int NOT NULL); INSERT INTO k VALUES (1, 2), (1, 3)"
KEYLESS = [
    ("adding-serial-primary-key-field", "ALTER TABLE k ADD PRIMARY KEY (x, y)"),
    ("adding-serial-primary-key-field", "ALTER TABLE k ADD CONSTRAINT kk PRIMARY KEY (y)"),
]
ON_EMPTY = [
    ("adding-required-field", "ALTER TABLE t ADD COLUMN n int NOT NULL UNIQUE REFERENCES u"),
]
RANDOM = {"r", "g"}

Run = Callable[[Target, str], Any]


def left_behind(target: Target, run: Run, prepared: str, sql: str) -> tuple[list[str], list[Any]]:
    """Return the schema, whatever the order of columns, and the rows after some SQL."""
    done = run(target, f"DROP SCHEMA public CASCADE; CREATE SCHEMA public; {prepared}; {sql}")
    assert (done.returncode, done.stderr.count("ERROR")) == (0, 0), done.stderr
    schema = dump_schema(target, tools=find_client_tools(180000))
    with connect(target) as connection:
        table = "k" if "CREATE TABLE k" in prepared else "t"
        columns = sorted(c.name for c in read_known(connection).columns[f"public.{table}"])
        names = ", ".join(f'"{c}"' + " IS NULL" * (c in RANDOM) for c in columns)
        rows = fetch(connection, f"SELECT {names} FROM {table} ORDER BY {names}")
    # PostgreSQL 18 names NOT NULL, and a column that is renamed keeps the name it got first.
    schema = schema.replace("CONSTRAINT t_a_new_not_null ", "")
    lines = (line.strip().rstrip(",") for line in schema.splitlines())
    return sorted(line for line in lines if not line.startswith("\\")), rows


def rewritten(target: Target, run: Run, prepared: str, rule: str, sql: str) -> str:
    run(target, f"DROP SCHEMA public CASCADE; CREATE SCHEMA public; {prepared}")
    with connect(target) as connection:
        columns = read_known(connection).columns
    return rewrite(rule, sql, columns["public.k" if " k " in sql else "public.t"])


ALL = [
    *((TABLES, *case) for case in CASES),
    *((KEYLESS_TABLE, *case) for case in KEYLESS),
    *((f"{TABLES}; TRUNCATE t", *case) for case in ON_EMPTY),
]


@pytest.mark.parametrize(("prepared", "rule", "sql"), ALL)
def test_rewrite_ends_in_the_same_schema_and_rows_as_its_statement(
    fresh_database: Target, run_psql: Run, prepared: str, rule: str, sql: str
) -> None:
    made = rewritten(fresh_database, run_psql, prepared, rule, sql)

    plain = left_behind(fresh_database, run_psql, prepared, sql)
    anew = left_behind(fresh_database, run_psql, prepared, made)

    assert made
    assert anew == plain


def test_rewrites_hold_on_other_versions(other_version: PrivateServer, run_psql: Run) -> None:
    with other_version.database() as name:
        target = load_target(other_version.url(name))
        for prepared, rule, sql in ALL:
            made = rewritten(target, run_psql, prepared, rule, sql)
            plain = left_behind(target, run_psql, prepared, sql)
            assert left_behind(target, run_psql, prepared, made) == plain, sql


def test_not_null_proven_by_a_check_reads_no_row(fresh_database: Target, run_psql: Run) -> None:
    rule, sql = "adding-not-nullable-field", "ALTER TABLE t ALTER COLUMN e SET NOT NULL"
    made = rewritten(fresh_database, run_psql, TABLES, rule, sql)
    last = made.rindex("ALTER TABLE t ALTER COLUMN")

    def scans(before: str) -> int:
        left_behind(fresh_database, run_psql, TABLES, before)
        with connect(fresh_database) as connection:
            with connection.cursor() as cursor:
                cursor.execute("SET client_min_messages = debug1")
                cursor.execute(sql)
            return "".join(connection.notices).count("verifying table")

    assert scans("SELECT 1") == 1
    assert scans(made[:last]) == 0


def test_batches_commit_one_by_one_and_lock_no_row_for_long(
    fresh_database: Target, run_psql: Run
) -> None:
    made = rewritten(fresh_database, run_psql, TABLES, "update-all-rows", "UPDATE t SET e = 0")

    run_psql(fresh_database, made)

    with connect(fresh_database) as connection:
        transactions = fetch(connection, "SELECT count(*), xmin::text FROM t GROUP BY xmin")
    assert sorted(rows for rows, _ in transactions) == [500, 1000, 1000]


def test_rewrite_in_batches_runs_as_a_revision_of_its_own(
    small: Callable[..., Namespace], fresh_database: Target
) -> None:
    columns = (ColumnFact("id", "integer", True, True), ColumnFact("n", "text", False, False))
    made = rewrite("update-all-rows", "UPDATE a SET n = '5%:x' || id::text", columns)
    batches = f"with op.get_context().autocommit_block():\n    op.execute({sqlalchemy(made)!r})"
    namespace = small({"a1": TABLE, "b2": Script(batches)})
    with connect(fresh_database) as connection, connection.cursor() as cursor:
        cursor.execute(
            "ALTER TABLE a ADD COLUMN n text; INSERT INTO a SELECT generate_series(1, 5)"
        )

    assert go(upgrade, namespace).outcome == "succeeded"

    with connect(fresh_database) as connection:
        assert fetch(connection, "SELECT n FROM a ORDER BY id LIMIT 1") == [("5%:x1",)]


def sqlalchemy(sql: str) -> str:
    """Return SQL as text() takes it: a colon before a name would be a parameter."""
    return re.sub(r"(?<!:):(?=\w)", r"\\:", sql)
