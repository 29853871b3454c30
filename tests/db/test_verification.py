"""Before against after, and the project's own data checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from builders import Project, Script, make_graph, make_snapshot
from playbook.database import connect
from playbook.errors import SettingsError
from playbook.records import Integrity, RevisionGraph, Snapshot
from playbook.snapshot import take_snapshot
from playbook.targets import Target
from playbook.verification import compare, find_integrity, load_checks, run_checks

NAMES = ("before", "after")
CHECKS = """-- Checks of a1.

-- name: no_negatives
-- Values below zero.
SELECT n, 'a%b' AS x FROM t WHERE n < 0 ORDER BY n; -- the smallest first

-- name: broken
SELECT nothing FROM t
"""


@pytest.fixture
def checked(tmp_path: Path) -> RevisionGraph:
    (tmp_path / "checks").mkdir()
    (tmp_path / "checks" / "a.sql").write_text(CHECKS)
    (tmp_path / "checks" / "b.sql").write_text("-- name: later\nSELECT 1")
    return replace(make_graph("a<-b", current=("a",)), script_directory=str(tmp_path))


def found(before: object, after: object) -> list[tuple[str, str, str]]:
    comparison = compare(before, after, names=NAMES)  # type: ignore[arg-type]
    return [(d.table, d.column, d.kind) for d in comparison.differences]


def test_equal_snapshots_are_intact() -> None:
    snapshot = make_snapshot(t={"x": "1"})

    assert found(snapshot, snapshot) == [("public.t", "", "intact")]


def test_each_kind_of_difference_is_told() -> None:
    before = make_snapshot(a=3, b={"x": "1", "y": "2"}, gone=1)
    after = make_snapshot(a=4, b={"x": "9", "z": "2"}, new=1)

    assert found(before, after) == [
        ("public.a", "", "rows changed"),
        ("public.b", "", "columns changed"),
        ("public.b", "x", "values changed"),
        ("public.b", "y", "dropped"),
        ("public.b", "z", "added"),
        ("public.gone", "", "dropped"),
        ("public.new", "", "added"),
    ]


@pytest.mark.parametrize(
    ("change", "kind"),
    [({"type": "int"}, "type changed"), ({"not_null": True}, "null rule changed")],
)
def test_changed_rule_of_a_column_is_told(change: dict[str, object], kind: str) -> None:
    before = make_snapshot(t={"x": "1"})
    (table,) = before.tables
    column = replace(table.columns[0], **change)  # type: ignore[arg-type]
    after = replace(before, tables=(replace(table, columns=(column,)),))

    assert ("public.t", "x", kind) in found(before, after)


def sampled(snapshot: Snapshot, **changes: object) -> Snapshot:
    (table,) = snapshot.tables
    columns = tuple(replace(c, is_key=c.column == "id") for c in table.columns)
    values = {"coverage": "10 % of its blocks", "share": 0.1, "file": 1, "columns": columns}
    return replace(snapshot, tables=(replace(table, **values, **changes),))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("after", "expected", "why"),
    [
        ({"id": "1", "x": "1"}, ["intact"], "10 % of its blocks"),
        ({"id": "1", "x": "2"}, ["columns changed", "values changed"], "10 % of its blocks"),
        ({"id": "2", "x": "2"}, ["not compared"], "not the same rows in them"),
    ],
    ids=["same rows", "same rows, another value", "other rows"],
)
def test_samples_are_compared_where_the_key_says_that_they_hold_the_same_rows(
    after: dict[str, str], expected: list[str], why: str
) -> None:
    before, now = (sampled(make_snapshot(t=t)) for t in ({"id": "1", "x": "1"}, after))

    found = compare(before, now, names=NAMES).differences

    assert [d.kind for d in found] == expected
    assert why in found[0].detail


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"file": 2}, "the table was rewritten"),
        ({"share": 0.2, "coverage": "20 % of its blocks"}, "10 % of its blocks against 20 %"),
        ({"share": 0.0, "rows": -1, "coverage": "not read: time budget"}, "not read: time budget"),
    ],
    ids=["rewritten", "other share", "not read"],
)
def test_what_cannot_be_compared_is_said_and_not_taken_for_changed(
    change: dict[str, object], why: str
) -> None:
    before = make_snapshot(t={"id": "1", "x": "1"})
    after = sampled(make_snapshot(t={"id": "9", "x": "9"}))
    (table,) = after.tables
    after = replace(after, tables=(replace(table, **change),))  # type: ignore[arg-type]

    (found,) = compare(sampled(before), after, names=NAMES).differences

    assert (found.kind, why in found.detail) == ("not compared", True)


@pytest.mark.parametrize(
    ("statement", "kinds"),
    [
        ("ALTER TABLE t DROP CONSTRAINT t_pkey", ["not compared"]),
        ("ALTER TABLE t RENAME id TO key", ["columns changed", "dropped", "added"]),
        ("ALTER TABLE t ALTER id TYPE bigint", ["columns changed", "type changed"]),
        ("ALTER TABLE t ALTER id TYPE text", ["not compared", "type changed"]),
    ],
    ids=["dropped", "renamed", "wider", "of another kind"],
)
def test_changed_primary_key_does_not_make_values_look_changed(
    fresh_database: Target, statement: str, kinds: list[str]
) -> None:
    with connect(fresh_database) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id int PRIMARY KEY, x text)")
        cursor.execute("INSERT INTO t VALUES (1, 'a'), (2, 'b')")
        before = take_snapshot(fresh_database, ())
        cursor.execute(statement)  # type: ignore[arg-type]

    compared = found(before, take_snapshot(fresh_database, ()))

    assert [kind for *_, kind in compared if kind != "null rule changed"] == kinds


def test_fingerprints_of_another_form_are_not_compared_and_rows_are() -> None:
    before = make_snapshot(t={"x": "1"}, u=1)
    after = replace(make_snapshot(t={"x": "9"}, u=2), form=2)

    assert found(before, after) == [
        ("public.t", "", "not compared"),
        ("public.u", "", "rows changed"),
    ]


def test_checks_of_applied_revisions_run_and_show_what_breaks_them(
    fresh_database: Target, checked: RevisionGraph
) -> None:
    with connect(fresh_database) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t AS SELECT n FROM generate_series(-5, 5) AS n")

    negatives, broken = run_checks(fresh_database, checked).results

    assert (negatives.name, negatives.failing_rows) == ("no_negatives", 5)
    assert negatives.description == "Values below zero."
    assert negatives.examples == ("(-5,a%b)", "(-4,a%b)", "(-3,a%b)")
    assert not negatives.passed
    assert 'column "nothing" does not exist' in broken.error
    assert not broken.passed


def test_check_passes_when_no_row_breaks_it(fresh_database: Target, checked: RevisionGraph) -> None:
    with connect(fresh_database) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (n int, nothing int)")

    assert run_checks(fresh_database, checked).failed == ()


def test_check_cannot_write(fresh_database: Target, checked: RevisionGraph) -> None:
    folder = Path(checked.script_directory) / "checks"
    with connect(fresh_database) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (n int)")
        cursor.execute(
            "CREATE FUNCTION sneak() RETURNS int LANGUAGE sql "
            "AS 'INSERT INTO t VALUES (1) RETURNING n'"
        )
    (folder / "a.sql").write_text("-- name: sneaks\nSELECT sneak()\n")

    (result,) = run_checks(fresh_database, checked).results

    assert "read-only" in result.error


@pytest.mark.parametrize(
    ("text", "said"),
    [("-- name: empty\n-- nothing\n", "has no query"), ("SELECT 1;\n", "before its first"),
     ("SELECT 1;\n-- name: x\nSELECT 2", "before its first")],
)  # fmt: skip
def test_check_that_would_never_run_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "a.sql").write_text(text)

    with pytest.raises(SettingsError, match=said):
        load_checks(tmp_path)


def test_project_without_checks_has_none(
    staging: Callable[..., Project], fresh_database: Target
) -> None:
    folder = staging({"a": Script()}).folder / "migrations"
    graph = replace(make_graph("a", current=("a",)), script_directory=str(folder))

    assert run_checks(fresh_database, graph).results == ()


def test_integrity_of_a_sound_database_is_empty(legacy_database: Target) -> None:
    assert find_integrity(legacy_database) == Integrity((), ())
