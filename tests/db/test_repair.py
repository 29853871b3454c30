"""Twelve broken version tables, and more: diagnosed rightly, mended when told, else untouched."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from builders import Project, Script, execute
from playbook import repair, upgrade
from playbook.database import connect, fetch
from playbook.journal import Run
from playbook.records import Severity
from playbook.targets import Target, load_target
from steps import Namespace, at, go, picture, runs

A = Script(execute("CREATE TABLE a (id int PRIMARY KEY)"), execute("DROP TABLE a"))
B = Script(execute("CREATE TABLE b (id int PRIMARY KEY)"), execute("DROP TABLE b"))
C = Script(execute("ALTER TABLE b ADD COLUMN note text"), execute("ALTER TABLE b DROP note"))
CHAIN = {"a1": A, "b2": B, "c3": C}
TWO_HEADS = {"a1": A, "b2": B, "c3": Script(execute("CREATE TABLE c (id int)"), down="a1")}
NUMBERED = {"0001": A, "0002": B}
LONG = "b2_" + "x" * 40
FORM = "version_num varchar(32) NOT NULL"


@dataclass(frozen=True)
class Case:
    """A broken database, and what is to be found and done."""

    name: str
    sql: tuple[str, ...]
    """What breaks it, once it is at ``to``."""
    finds: tuple[str, ...]
    """The codes of the findings that are no OK."""
    says: tuple[str, ...]
    apply: str
    rows: tuple[str, ...]
    """What the version table holds when it is mended."""
    revisions: Mapping[str, Script] = field(default_factory=lambda: CHAIN)
    to: str = "b2"
    revision: str = ""
    left: tuple[str, ...] = ()
    """The codes of what is still found afterwards."""


TWELVE = (
    Case(
        "a revision that no file has", ("UPDATE alembic_version SET version_num = 'lost'",),
        ("unknown-revision",), ("lost", "which no revision file has", "schema is that of b2"),
        "stamp", ("b2",),
    ),
    Case(
        "tables made without Alembic", ("DROP TABLE alembic_version",),
        ("no-version-table",), ("2 tables, made without Alembic", "schema is that of b2"),
        "stamp", ("b2",),
    ),
    Case(
        "no rows", ("DELETE FROM alembic_version",),
        ("no-rows",), ("no revision in it", "schema is that of b2"), "stamp", ("b2",),
    ),
    Case(
        "the same row twice",
        ("ALTER TABLE alembic_version DROP CONSTRAINT alembic_version_pkc",
         "INSERT INTO alembic_version VALUES ('b2')"),
        ("duplicate-row", "no-primary-key"), ("b2 more than once",), "tidy", ("b2",),
    ),
    Case(
        "an ancestor beside its descendant", ("INSERT INTO alembic_version VALUES ('a1')",),
        ("ancestor-row",), ("a1 beside b2, which already stands on it",), "tidy", ("b2",),
    ),
    Case(
        "a row of NULL",
        ("ALTER TABLE alembic_version DROP CONSTRAINT alembic_version_pkc",
         "ALTER TABLE alembic_version ALTER version_num DROP NOT NULL",
         "INSERT INTO alembic_version VALUES (NULL)"),
        ("null-row", "no-primary-key"), ("names no revision (NULL or empty), and b2",), "tidy",
        ("b2",),
    ),
    Case(
        "a column of numbers",
        ("ALTER TABLE alembic_version ALTER version_num TYPE int USING version_num::int",),
        ("column-type",), ("of the type integer",), "tidy", ("0002",),
        revisions=NUMBERED, to="0002",
    ),
    Case(
        "a column too short", (), ("column-too-short",), ("room for 32", "the longest id has 43"),
        "tidy", ("a1",), revisions={"a1": A, LONG: B}, to="a1",
    ),
    Case(
        "no primary key", ("ALTER TABLE alembic_version DROP CONSTRAINT alembic_version_pkc",),
        ("no-primary-key",), ("has no primary key",), "tidy", ("b2",),
    ),
    Case(
        "a row behind the schema", ("UPDATE alembic_version SET version_num = 'a1'",),
        ("version-behind-schema",), ("names a1, but its schema is that of b2",), "stamp", ("b2",),
    ),
    Case(
        "a row ahead of the schema", ("UPDATE alembic_version SET version_num = 'c3'",),
        ("version-ahead-of-schema",), ("names c3, but its schema is that of b2",), "stamp", ("b2",),
    ),
    Case(
        "the table in another schema",
        ("CREATE SCHEMA other", "ALTER TABLE alembic_version SET SCHEMA other"),
        ("no-version-table", "other-schema"),
        ("other.alembic_version", "env.py looks in public.alembic_version"), "move", ("b2",),
    ),
)  # fmt: skip
"""The twelve."""

MORE = (
    Case(
        "no table, and no revision's schema",
        ("DROP TABLE alembic_version", "ALTER TABLE b ADD COLUMN extra int"),
        ("no-version-table",), ("nearest is b2", "column public.b.extra (not in the revision)"),
        "stamp", ("b2",), revision="b2", left=("schema-differs",),
    ),
    Case(
        "another one's tables beside",
        ("UPDATE alembic_version SET version_num = 'lost'", "CREATE TABLE theirs (id int)"),
        ("unknown-revision",), ("schema is that of b2",), "stamp", ("b2",),
    ),
    Case(
        "an empty table in the way of another",
        ("CREATE SCHEMA other", f"CREATE TABLE other.alembic_version ({FORM} PRIMARY KEY)",
         "INSERT INTO other.alembic_version TABLE alembic_version", "DELETE FROM alembic_version"),
        ("no-rows", "other-schema"), ("which is empty",), "move", ("b2",),
    ),
    Case(
        "a table of another form",
        ("DROP TABLE alembic_version", "CREATE TABLE alembic_version (id int, at timestamptz)"),
        ("no-rows", "no-version-column"), ("no column version_num (but id, at)",), "stamp",
        ("b2",),
    ),
    Case(
        "an unknown row beside a known one",
        ("INSERT INTO alembic_version VALUES ('lost')",),
        ("unknown-revision",), ("lost",), "stamp", ("b2",),
    ),
    Case(
        "two rows of two branches, one unknown to the schema",
        ("DELETE FROM alembic_version WHERE version_num = 'c3'",),
        ("several-heads", "version-behind-schema"), ("schema is that of b2, c3",), "stamp",
        ("b2", "c3"), revisions=TWO_HEADS, to="heads", left=("several-heads",),
    ),
)  # fmt: skip
WHOLE = (*TWELVE, *MORE)


@pytest.fixture
def broken(
    small: Callable[..., Namespace], fresh_database: Target
) -> Callable[[Case], Namespace]:
    """Make the database of a case."""

    def make(case: Case) -> Namespace:
        namespace = small(case.revisions, case.to)
        run_sql(fresh_database, *case.sql)
        return namespace

    return make


def run_sql(target: Target, *statements: str) -> None:
    with connect(target) as connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def diagnosed(namespace: Namespace, **parameters: object) -> Run[repair.Parameters]:
    run: Run[repair.Parameters] = go(repair, namespace, before="run_remedy", **parameters)
    return run


def codes(diagnosis: repair.Diagnosis) -> tuple[str, ...]:
    return tuple(one.code for one in diagnosis.findings if one.severity is not Severity.OK)


def told(run: Run[repair.Parameters]) -> str:
    found = run.require("diagnosis", repair.Diagnosis).findings
    return "\n".join(f"{one.subject}: {one.detail} {one.remedy}" for one in found)


@pytest.mark.parametrize("case", WHOLE, ids=lambda case: case.name)
def test_a_broken_version_table_is_diagnosed_and_mended_and_can_be_had_back(
    case: Case,
    broken: Callable[[Case], Namespace],
    fresh_database: Target,
    run_psql: Callable[..., object],
) -> None:
    namespace = broken(case)
    before = picture(fresh_database)

    run = diagnosed(namespace, revision=case.revision)
    outcome = go(repair, namespace)

    assert codes(run.require("diagnosis", repair.Diagnosis)) == case.finds, told(run)
    for words in case.says:
        assert words in told(run)
    assert outcome.changed == ()
    assert picture(fresh_database) == before
    assert [one["runbook"] for one in runs(namespace)] == ["upgrade"]

    outcome = go(repair, namespace, apply=case.apply, revision=case.revision)

    assert sorted(at(fresh_database)) == sorted(case.rows)
    assert outcome.outcome == "succeeded"
    assert codes(diagnosed(namespace).require("diagnosis", repair.Diagnosis)) == case.left
    assert run_sql_file(fresh_database, outcome, run_psql) == 0
    assert picture_without_history(fresh_database) == before


def run_sql_file(target: Target, outcome: object, run_psql: Callable[..., object]) -> int:
    undo = next(path for path in outcome.files if path.name == "undo.sql")  # type: ignore[attr-defined]
    done = run_psql(target, undo.read_text())
    return int(done.returncode)  # type: ignore[attr-defined]


def picture_without_history(target: Target) -> tuple[object, ...]:
    return picture(target)
