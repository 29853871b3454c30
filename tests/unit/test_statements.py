"""What SQL text does to which tables, by PostgreSQL's parser."""

from __future__ import annotations

import pytest

from playbook.statements import Dropped, commits_midway, dropped_objects, tables_in


@pytest.mark.parametrize(
    ("sql", "tables"),
    [
        ("SELECT 1 FROM a JOIN s.b ON true", {"public.a", "s.b"}),
        ('ALTER TABLE "Odd Name" ADD COLUMN x int', {"public.Odd Name"}),
        ("CREATE INDEX CONCURRENTLY i ON t (x)", {"public.t"}),
        ("DROP TABLE a, s.b", {"public.a", "s.b"}),
        ("ALTER TABLE a ADD FOREIGN KEY (x) REFERENCES b", {"public.a", "public.b"}),
        ("UPDATE a SET x = 1; -- a comment\nDELETE FROM b", {"public.a", "public.b"}),
        ("BEGIN;\nINSERT INTO a VALUES (1);\nCOMMIT;", {"public.a"}),
        ("", set()),
    ],
)
def test_tables_that_sql_names(sql: str, tables: set[str]) -> None:
    assert tables_in(sql) == tables


@pytest.mark.parametrize(
    ("sql", "dropped"),
    [
        ("DROP TABLE a", [Dropped("public.a", "")]),
        ("DROP TABLE IF EXISTS s.a CASCADE", [Dropped("s.a", "")]),
        ("DROP TABLE db.s.a", [Dropped("s.a", "")]),
        ("ALTER TABLE a DROP COLUMN x, DROP COLUMN IF EXISTS y",
         [Dropped("public.a", "x"), Dropped("public.a", "y")]),
        ("TRUNCATE a, s.b", [Dropped("public.a", ""), Dropped("s.b", "")]),
        ("DROP VIEW v; DROP INDEX i; ALTER TABLE a DROP CONSTRAINT c", []),
    ],
)  # fmt: skip
def test_what_sql_drops(sql: str, dropped: list[Dropped]) -> None:
    assert dropped_objects(sql) == dropped


@pytest.mark.parametrize("broken", ["SELECT %(x)s", "FROBNICATE THE t", "\\restrict key"])
def test_statement_that_cannot_be_read_hides_no_other(broken: str) -> None:
    sql = f"DROP TABLE a;\n{broken};\nALTER TABLE b DROP COLUMN c;"

    assert dropped_objects(sql) == [Dropped("public.a", ""), Dropped("public.b", "c")]
    assert tables_in(sql) >= {"public.a", "public.b"}


@pytest.mark.parametrize(
    ("sql", "midway"),
    [
        ("BEGIN;\nALTER TABLE a ADD x int;\nCOMMIT;", False),
        ("BEGIN;\nCOMMIT;\nCREATE INDEX CONCURRENTLY i ON a (x);\nBEGIN;\nCOMMIT;", True),
        ("BEGIN;\nCREATE TABLE a ();\ncommit;\nSELECT 1;\nCOMMIT;", True),
    ],
)
def test_step_that_commits_before_its_end_is_known_by_its_sql(sql: str, midway: bool) -> None:
    assert commits_midway(sql) is midway
