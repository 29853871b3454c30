"""Tests of suspects: what rows may break, and what earlier statements of a plan do about it."""

from __future__ import annotations

from pathlib import Path

import pytest

from playbook.records import ColumnFact, ConstraintFact, Known, PlanStep
from playbook.suspects import find_suspects

COLUMNS = (
    ColumnFact("id", "bigint", True, True),
    ColumnFact("a", "integer", False, False),
    ColumnFact("b", "character varying(50)", False, False),
)
KNOWN = Known(
    {"public.t": 9, "public.u": 9},
    {"public.t": COLUMNS, "public.u": COLUMNS},
    keys={"public.t": ("id",), "public.u": ("id",)},
    constraints=(
        ConstraintFact("public.t", "nv", "CHECK ((a > 1)) NOT VALID", False),
        ConstraintFact(
            "public.u", "fk", "FOREIGN KEY (a) REFERENCES s(id) ON DELETE CASCADE", True
        ),
    ),
    functions=frozenset({"fill"}),
    filling=frozenset({"filled"}),
    indexes=frozenset({"there"}),
)
NOT_NULL = "ALTER TABLE t ALTER a SET NOT NULL"
UNIQUE = "CREATE UNIQUE INDEX i ON t (lower(b)) WHERE a > 0"
REFERS = "ALTER TABLE t ADD FOREIGN KEY (a) REFERENCES u"


def suspects(*revisions: str, is_observed: bool = False) -> list[tuple[str, bool]]:
    """Return the rule of each suspect and whether the plan changes its rows first."""
    steps = [
        PlanStep(f"r{n}", "upgrade", (), (), "", Path("r.py"), "", sql)
        for n, sql in enumerate(revisions)
    ]
    return [
        (suspect.violation.rule, suspect.is_changed)
        for suspect in find_suspects(steps, KNOWN, is_observed=is_observed)
    ]


@pytest.mark.parametrize(
    ("sql", "rules"),
    [
        (NOT_NULL, ["nulls-break-not-null"]),
        ("ALTER TABLE t ALTER id SET NOT NULL", []),
        (UNIQUE, ["duplicates-break-unique"]),
        ("CREATE INDEX i ON t (a)", []),
        ("CREATE UNIQUE INDEX IF NOT EXISTS there ON t (a)", []),
        ("CREATE UNIQUE INDEX IF NOT EXISTS i ON t (a)", ["duplicates-break-unique"]),
        ("ALTER TABLE t ADD COLUMN IF NOT EXISTS a int NOT NULL", []),
        ("ALTER TABLE t ADD COLUMN IF NOT EXISTS n int NOT NULL", ["rows-lack-a-value"]),
        ("ALTER TABLE t ADD PRIMARY KEY (a)", ["nulls-break-not-null", "duplicates-break-unique"]),
        ("ALTER TABLE t ADD UNIQUE USING INDEX i", []),
        ("ALTER TABLE t ADD CHECK (a > 0)", ["rows-break-check"]),
        ("ALTER TABLE t ADD CHECK (a > 0) NOT VALID", []),
        ("ALTER TABLE t ADD CHECK (a > 0) NOT VALID; ALTER TABLE t VALIDATE CONSTRAINT t_a_check",
         ["rows-break-check"]),
        ("ALTER TABLE t VALIDATE CONSTRAINT nv", ["rows-break-check"]),
        ("ALTER TABLE t ADD CONSTRAINT nn NOT NULL a", ["nulls-break-not-null"]),
        ("ALTER TABLE t ADD CONSTRAINT nn NOT NULL a NOT VALID", []),
        (REFERS, ["orphans-break-foreign-key"]),
        ("ALTER TABLE t ADD COLUMN n int NOT NULL", ["rows-lack-a-value"]),
        ("ALTER TABLE t ADD COLUMN n int NOT NULL DEFAULT 1", []),
        ("ALTER TABLE t ADD COLUMN n bigserial NOT NULL", []),
        ("ALTER TABLE t ADD COLUMN n filled NOT NULL", []),
        ("ALTER TABLE t ADD COLUMN n int GENERATED ALWAYS AS IDENTITY NOT NULL", []),
        ("ALTER TABLE t ALTER b TYPE varchar(5)", ["values-too-long"]),
        ("ALTER TABLE t ALTER b TYPE varchar(5) USING b::varchar(5)", ["values-cut-off"]),
        ("ALTER TABLE t ALTER b TYPE varchar(90)", []),
        ("ALTER TABLE t ALTER b TYPE int USING b::int", ["values-not-castable"]),
        ("ALTER TABLE t ALTER b TYPE int USING length(b)", []),
        ("ALTER TABLE t ALTER a TYPE smallint", ["values-not-castable"]),
        ("ALTER TABLE t ALTER a TYPE bigint", []),
        ("CREATE TABLE n (a int); ALTER TABLE n ALTER a SET NOT NULL", []),
        ("ALTER TABLE t RENAME TO old; CREATE TABLE t (a int); " + NOT_NULL, []),
        ("ALTER TABLE t RENAME COLUMN id TO a; " + NOT_NULL, []),
        ("DROP TABLE t; CREATE TABLE t (a int); " + NOT_NULL, []),
        ("CREATE TABLE n (id int PRIMARY KEY); ALTER TABLE t ADD FOREIGN KEY (a) REFERENCES n", []),
        ("ALTER TABLE t ADD COLUMN n int; ALTER TABLE t ALTER n SET NOT NULL",
         ["nulls-break-not-null"]),
        ("ALTER TABLE t ADD COLUMN n int, ALTER n SET DEFAULT 1, ALTER n SET NOT NULL",
         ["nulls-break-not-null"]),
        ("ALTER TABLE t ADD COLUMN n int; UPDATE t SET n = 1; ALTER TABLE t ALTER n SET NOT NULL",
         []),
        ("ALTER TABLE t ADD COLUMN n int DEFAULT 1; ALTER TABLE t ALTER n SET NOT NULL", []),
    ],
)  # fmt: skip
def test_what_hangs_on_rows_that_exist(sql: str, rules: list[str]) -> None:
    assert [rule for rule, _ in suspects(sql)] == rules


@pytest.mark.parametrize(
    ("before", "sql", "is_changed"),
    [
        ("UPDATE t SET a = 1", NOT_NULL, True),
        ("UPDATE t SET b = ''", NOT_NULL, False),
        ("UPDATE u SET a = 1", NOT_NULL, False),
        ("DELETE FROM t WHERE a IS NULL", NOT_NULL, True),
        ("TRUNCATE t", NOT_NULL, True),
        ("INSERT INTO t (id) VALUES (1)", NOT_NULL, False),
        ("INSERT INTO t VALUES (1) ON CONFLICT (id) DO UPDATE SET a = 1", NOT_NULL, True),
        ("WITH w AS (UPDATE t SET a = 1 RETURNING a) SELECT * FROM w", NOT_NULL, True),
        ("MERGE INTO t USING u ON t.id = u.id WHEN MATCHED THEN UPDATE SET a = 1", NOT_NULL, True),
        ("DO $$ BEGIN UPDATE t SET a = 1; END $$", NOT_NULL, True),
        ("DO $$ BEGIN PERFORM 1; END $$", NOT_NULL, False),
        ("CALL anything()", NOT_NULL, True),
        ("SET search_path TO s", NOT_NULL, True),
        ("SELECT pg_catalog.set_config('search_path', '', false)", NOT_NULL, True),
        ("SET lock_timeout = '2s'", NOT_NULL, False),
        ("SELECT fill()", NOT_NULL, True),
        ("SELECT count(*) FROM t", NOT_NULL, False),
        ("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'; SELECT f()", NOT_NULL, True),
        ("DELETE FROM s", NOT_NULL, True),
        ("ALTER TABLE t ALTER a TYPE int USING coalesce(a, 0)", NOT_NULL, True),
        ("UPDATE t SET a = %(x)s", NOT_NULL, True),
        ("UPDATE tt SET a = %(x)s", NOT_NULL, False),
        ("UPDATE t SET a = 1", UNIQUE, True),
        ("UPDATE t SET id = 1", UNIQUE, False),
        ("INSERT INTO u (id) VALUES (1)", REFERS, True),
        ("INSERT INTO t (id) VALUES (1)", REFERS, False),
        ("DELETE FROM u", REFERS, True),
    ],
)
def test_earlier_statement_may_mend_what_it_writes(before: str, sql: str, is_changed: bool) -> None:
    assert {changed for _, changed in suspects(before, sql)} == {is_changed}


def test_statement_that_comes_later_mends_nothing() -> None:
    assert suspects(NOT_NULL, "UPDATE t SET a = 1") == [("nulls-break-not-null", False)]


def test_table_that_python_read_may_have_been_filled_row_by_row() -> None:
    reads = "SELECT id FROM t"

    assert suspects(reads, NOT_NULL, is_observed=True) == [("nulls-break-not-null", True)]
    assert suspects(reads, NOT_NULL) == [("nulls-break-not-null", False)]


@pytest.mark.parametrize(
    ("create", "rules"),
    [
        ("CREATE TABLE IF NOT EXISTS t (a int)", [("nulls-break-not-null", False)]),
        ("CREATE TABLE t (a int)", []),
        ("DROP TABLE t; CREATE TABLE IF NOT EXISTS t (a int)", []),
    ],
)
def test_table_that_exists_is_not_a_new_one(create: str, rules: list[tuple[str, bool]]) -> None:
    assert suspects(f"{create}; {NOT_NULL}") == rules
