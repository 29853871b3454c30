"""Whether a new column's default rewrites a table is what the server does."""

from __future__ import annotations

from pathlib import Path

import pytest

from playbook.database import connect, fetch_value
from playbook.plan import weigh_hazards
from playbook.records import Plan, PlanStep, Severity
from playbook.targets import Target

DEFAULTS = [
    ("text DEFAULT lower('A')", False),
    ("date DEFAULT current_date + 1", False),
    ("text DEFAULT current_setting('application_name')", False),
    ("text NOT NULL DEFAULT upper(lower('x'))", False),
    ("uuid DEFAULT gen_random_uuid()", True),
    ("timestamptz DEFAULT clock_timestamp()", True),
    ("int DEFAULT steady() + 1", False),
    ("int DEFAULT shaky()", True),
    ("float DEFAULT length('A') + random()", True),
    ("int GENERATED ALWAYS AS (id + 1) STORED", True),
    ("int GENERATED ALWAYS AS IDENTITY", True),
]
ROWS = 200_000
"""Enough that writing each anew weighs something: 0.4 s."""


SETUP = f"""
CREATE FUNCTION steady() RETURNS int LANGUAGE sql STABLE AS 'SELECT 1';
CREATE FUNCTION shaky() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN 1; END';
CREATE TABLE t AS SELECT n AS id FROM generate_series(1, {ROWS}) AS n;
ANALYZE t;
"""


@pytest.mark.parametrize(("column", "is_rewritten"), DEFAULTS)
def test_default_weighs_something_only_where_the_table_is_rewritten(
    fresh_database: Target, tmp_path: Path, column: str, is_rewritten: bool
) -> None:
    path = tmp_path / "r.py"
    path.write_text("")
    add = f"ALTER TABLE t ADD COLUMN c {column}"
    step = PlanStep("r1", "upgrade", (), (), "", path, "", f"{add};")
    with connect(fresh_database) as connection, connection.cursor() as cursor:
        cursor.execute(SETUP)
        found = weigh_hazards(
            fresh_database, Plan("upgrade", "head", (), ("r1",), (step,), "offline", "")
        )
        before = fetch_value(connection, "SELECT pg_relation_filenode('t')")
        cursor.execute(add)
        after = fetch_value(connection, "SELECT pg_relation_filenode('t')")

    (hazard,) = found.items
    assert (before != after) is is_rewritten
    assert (hazard.severity is not Severity.OK) is is_rewritten


NOTHING_TO_DO = [
    ("int REFERENCES o", 0),
    ("int GENERATED ALWAYS AS (id + 1) VIRTUAL", 180000),
]
SOMETHING_TO_DO = [
    ("int DEFAULT 1 REFERENCES o", 0),
    ("int, ADD FOREIGN KEY (c) REFERENCES o", 0),
    ("int GENERATED ALWAYS AS (id + 1) VIRTUAL NOT NULL", 180000),
]
VAST = 50_000_000
"""Rows that the catalog is made to claim: any work of one row at a time then weighs something."""


@pytest.mark.parametrize(
    ("column", "needs", "is_work"),
    [(*one, False) for one in NOTHING_TO_DO] + [(*one, True) for one in SOMETHING_TO_DO],
)
def test_new_column_weighs_nothing_where_the_server_neither_reads_nor_writes_rows(
    fresh_database: Target, tmp_path: Path, column: str, needs: int, is_work: bool
) -> None:
    path = tmp_path / "r.py"
    path.write_text("")
    add = f"ALTER TABLE t ADD COLUMN c {column}"
    step = PlanStep("r1", "upgrade", (), (), "", path, "", f"{add};")
    with connect(fresh_database) as connection, connection.cursor() as cursor:
        if connection.server_version < needs:
            pytest.skip(f"PostgreSQL {needs // 10000} is the first that knows it")
        cursor.execute("CREATE TABLE o (id int PRIMARY KEY); INSERT INTO o VALUES (1)")
        cursor.execute(f"{SETUP} UPDATE pg_class SET reltuples = {VAST} WHERE relname = 't'")
        found = weigh_hazards(
            fresh_database, Plan("upgrade", "head", (), ("r1",), (step,), "offline", "")
        )
        cursor.execute(f"BEGIN; {add}")
        reads = fetch_value(connection, "SELECT pg_stat_get_xact_numscans('t'::regclass)")

    assert (reads > 0) is is_work
    assert any(hazard.severity is not Severity.OK for hazard in found.items) is is_work
