"""What a run changed without saying so is found, and named to the column."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from builders import TABLE, Project, Script, execute
from playbook import rollback, upgrade, verify
from playbook.errors import SettingsError, VerifyFailed
from playbook.records import Comparison, Difference, Plan
from playbook.targets import Target
from steps import Namespace, at, go, run_sql, runs

DAMAGE = "UPDATE t SET note = 'damaged' WHERE id = 777"
TABLES = (
    "CREATE TABLE t (id int PRIMARY KEY, name text, note text, n int)",
    "CREATE TABLE other (id int PRIMARY KEY, x int)",
    "INSERT INTO other VALUES (1, 1)",
)
TRIGGER = (
    "CREATE FUNCTION damage() RETURNS trigger LANGUAGE plpgsql AS "
    f"$$BEGIN {DAMAGE}; RETURN NEW; END$$",
    "CREATE TRIGGER damage AFTER UPDATE ON other FOR EACH ROW EXECUTE FUNCTION damage()",
)


def base(rows: int) -> Script:
    fill = f"INSERT INTO t SELECT i, 'name' || i, 'note' || i, i FROM generate_series(1, {rows}) i"
    return Script(execute(*TABLES, fill, *TRIGGER))


def declaring(text: str, *statements: str) -> Script:
    return Script(f"# playbook: changes {text}\n" + execute(*statements))


DO_BLOCK = Script(
    execute("UPDATE other SET id = id + 1 WHERE false", f"DO $$BEGIN {DAMAGE}; END$$")
)
BY_TRIGGER = Script(execute("UPDATE other SET x = 2"))
BESIDE_A_DECLARATION = declaring(
    "t.name because it is new", "UPDATE t SET name = '' WHERE id = 5", DAMAGE
)
AGAINST_NOTHING = declaring("nothing", DAMAGE)
SILENT = {
    "a DO block": DO_BLOCK,
    "a trigger": BY_TRIGGER,
    "an UPDATE beside what is declared": BESIDE_A_DECLARATION,
    "an UPDATE where nothing is declared to change": AGAINST_NOTHING,
}


ORM = """
from sqlalchemy.orm import Session, declarative_base
class T(declarative_base()):
    __tablename__ = 't'
    id = sa.Column(sa.Integer, primary_key=True)
    note = sa.Column(sa.Text)
session = Session(bind=op.get_bind())
for one in session.query(T).filter(T.id > 990):
    one.note = one.note.upper()
session.flush()
"""
LOOP = """
connection = op.get_bind()
for id, note in connection.execute(sa.text("SELECT id, note FROM t WHERE id > 990")).fetchall():
    connection.execute(sa.text('UPDATE ONLY "t" SET note = upper(:note) WHERE id = :id'),
                       {"note": note, "id": id})
"""


def changed(comparison: Comparison) -> dict[str, Difference]:
    return {d.column: d for d in comparison.differences if d.kind == "values changed"}


@pytest.mark.slow
@pytest.mark.parametrize("how", ["a DO block", "a trigger", "an UPDATE beside what is declared"])
def test_one_row_of_a_million_that_a_migration_damages_silently_is_found_and_named(
    small: Callable[..., Namespace], fresh_database: Target, how: str
) -> None:
    namespace = small({"a1": base(1_000_000), "b2": SILENT[how]})

    with pytest.raises(VerifyFailed, match=r"public\.t\.note \(") as failure:
        go(upgrade, namespace, backup="never")

    assert "the database is at b2" in str(failure.value)
    with pytest.raises(VerifyFailed, match=r"not declared: public\.t\.note"):
        go(verify, namespace)


@pytest.mark.parametrize("how", SILENT)
def test_undeclared_change_fails_the_upgrade_after_it_is_done_and_verify_against_it(
    small: Callable[..., Namespace], fresh_database: Target, how: str
) -> None:
    namespace = small({"a1": base(1000), "b2": SILENT[how]})

    with pytest.raises(VerifyFailed) as failure:
        go(upgrade, namespace)

    assert "public.t.note (" in failure.value.problem
    assert "public.t.name" not in failure.value.problem
    assert "`rollback` -r target a1, or restore the backup" in failure.value.remedy
    assert at(fresh_database) == ["b2"]
    assert runs(namespace)[-1]["outcome"] == "failed"
    with pytest.raises(VerifyFailed, match=r"changed and not declared: public\.t\.note"):
        go(verify, namespace)


@pytest.mark.parametrize(
    ("script", "verdict"),
    [
        (declaring("t.note because it was wrong", DAMAGE), "as declared"),
        (declaring("public.t", f"DO $$BEGIN {DAMAGE}; END$$"), "as declared"),
        (Script(execute(DAMAGE)), "its SQL writes the table"),
        (
            Script(execute(f"WITH w AS ({DAMAGE} RETURNING id) SELECT count(*) FROM w")),
            "its SQL writes the table",
        ),
    ],
    ids=["the column is declared", "the table is declared", "the SQL names the table", "in WITH"],
)
def test_change_that_is_meant_passes_and_is_shown_with_its_rows(
    small: Callable[..., Namespace], script: Script, verdict: str
) -> None:
    namespace = small({"a1": base(1000), "b2": script})

    outcome = go(upgrade, namespace)

    assert f"Look at it: values of public.t.note changed ({verdict})." in outcome.next_steps
    found = changed(go(verify, namespace, before="show_chart").taken("comparison", Comparison))
    assert [(d.rows_written, d.rows_by_run, d.verdict) for d in found.values()] == [(1, 1, verdict)]
    assert go(verify, namespace).outcome == "succeeded"


@pytest.mark.parametrize("body", [ORM, LOOP], ids=["the ORM", "a loop of UPDATEs"])
def test_change_that_python_makes_for_each_row_that_it_reads_is_known_by_what_it_sent(
    small: Callable[..., Namespace], body: str
) -> None:
    namespace = small({"a1": base(1000), "b2": Script(body)})

    run = go(upgrade, namespace, before="check_data")

    assert run.taken("plan", Plan).method == "observed"
    assert "upper" not in run.taken("plan", Plan).steps[0].sql
    (found,) = changed(run.taken("comparison", Comparison)).values()
    assert (found.rows_by_run, found.verdict) == (10, "its SQL writes the table")
    assert go(verify, namespace).outcome == "succeeded"


@pytest.mark.parametrize(
    "script",
    [
        Script(LOOP + execute("DO $$BEGIN UPDATE other SET x = 5; END$$")),
        Script(f"# playbook: changes nothing\n{LOOP}"),
    ],
    ids=["a DO block beside it", "it declares to change nothing"],
)
def test_what_an_observed_revision_changes_without_a_statement_of_its_own_is_undeclared(
    small: Callable[..., Namespace], script: Script
) -> None:
    namespace = small({"a1": base(1000), "b2": script})

    with pytest.raises(VerifyFailed, match=r"declares: public\.(other\.x|t\.note) \(1"):
        go(upgrade, namespace)

    with pytest.raises(VerifyFailed, match="changed and not declared"):
        go(verify, namespace)


def test_change_by_others_is_told_apart_from_the_run_s(
    small: Callable[..., Namespace], fresh_database: Target
) -> None:
    namespace = small({"a1": base(1000), "b2": Script(execute("ALTER TABLE t ADD COLUMN x int"))})

    outcome = go(
        upgrade,
        namespace,
        meanwhile={"run_upgrade": lambda: run_sql(fresh_database, "UPDATE t SET n = 0")},
    )

    assert "Look at it: values of public.t.n changed (by others)." in outcome.next_steps
    found = changed(go(verify, namespace, before="show_chart").taken("comparison", Comparison))
    assert [(d.rows_written, d.rows_by_run) for d in found.values()] == [(1000, 0)]


def test_rows_that_a_trigger_adds_to_another_table_are_named_as_a_table(
    small: Callable[..., Namespace],
) -> None:
    script = Script(execute("DO $$BEGIN INSERT INTO other VALUES (9, 9); END$$"))
    namespace = small({"a1": base(10), "b2": script})

    with pytest.raises(VerifyFailed, match=r"declares: public\.other \(1 row written by this run"):
        go(upgrade, namespace)


def test_writes_through_a_view_and_to_a_partition_count_for_their_table(
    small: Callable[..., Namespace],
) -> None:
    make = (
        "CREATE TABLE parts (id int, x int) PARTITION BY RANGE (id)",
        "CREATE TABLE low PARTITION OF parts FOR VALUES FROM (0) TO (10)",
        "INSERT INTO parts VALUES (1, 1)",
        "CREATE VIEW seen AS SELECT * FROM t",
    )
    namespace = small({
        "a1": Script(base(10).upgrade + "\n" + execute(*make)),
        "b2": Script(execute("UPDATE low SET x = 2", "UPDATE seen SET n = 0 WHERE id = 1")),
    })  # fmt: skip

    outcome = go(upgrade, namespace)

    assert [s for s in outcome.next_steps if "by others" in s] == []
    assert sum("(its SQL writes the table)" in step for step in outcome.next_steps) == 2


def test_rollback_shows_what_it_changed_undeclared_and_goes_through(
    small: Callable[..., Namespace],
) -> None:
    namespace = small(
        {"a1": base(1000), "b2": Script("pass", execute(f"DO $$BEGIN {DAMAGE}; END$$"))}
    )
    go(upgrade, namespace)

    outcome = go(rollback, namespace)

    assert "Look at it: values of public.t.note changed (undeclared)." in outcome.next_steps
    with pytest.raises(VerifyFailed, match=r"changed and not declared: public\.t\.note"):
        go(verify, namespace)


def test_run_that_did_not_write_down_what_it_meant_is_not_judged(
    small: Callable[..., Namespace],
) -> None:
    namespace = small({"a1": base(1000), "b2": DO_BLOCK})
    with pytest.raises(VerifyFailed):
        go(upgrade, namespace)
    (record,) = Path(namespace["alembic_ini"]).parent.glob(
        f"runs/{runs(namespace)[-1]['run_id']}/*d.json"
    )
    assert "public.other" in json.loads(record.read_text())["written"]
    record.unlink()

    outcome = go(verify, namespace)

    assert "Look at it: values of public.t.note changed." in outcome.next_steps


def test_tables_that_were_sampled_or_left_out_are_named_in_the_outcome(
    small: Callable[..., Namespace], staging: Callable[..., Project]
) -> None:
    namespace = small({"a1": base(20_000), "b2": Script(execute("ALTER TABLE t ADD COLUMN x int"))})

    outcome = go(upgrade, namespace, sample_above="200kB")

    assert "Not every row was read: public.t (" in outcome.summary
    assert "% of its blocks)" in go(verify, namespace).summary
    # So small a budget is over before the first table is read.
    late = go(verify, namespace, time_budget="0.001ms")
    assert "public.t (not read: time budget)" in late.summary
    assert any("public.t was not compared" in step for step in late.next_steps)


def test_values_that_others_changed_in_a_table_that_was_rewritten_do_not_fail_the_upgrade(
    small: Callable[..., Namespace], fresh_database: Target
) -> None:
    rewrite = Script(execute("ALTER TABLE t ADD COLUMN y float DEFAULT random()"))
    namespace = small({"a1": base(1000), "b2": rewrite})

    outcome = go(
        upgrade,
        namespace,
        meanwhile={"run_upgrade": lambda: run_sql(fresh_database, "UPDATE t SET n = 0")},
    )

    assert "Look at it: values of public.t.n changed." in outcome.next_steps
    found = changed(go(verify, namespace, before="show_chart").taken("comparison", Comparison))
    assert [(d.rows_written, d.detail) for d in found.values()] == [(1000, "rewritten by the run")]


@pytest.mark.parametrize("module", [upgrade, verify, rollback])
@pytest.mark.parametrize(
    "parameters", [{"sample_above": "10"}, {"sample_above": "10%"}, {"time_budget": "2 days"}]
)
def test_limit_of_another_form_is_refused_at_once(
    small: Callable[..., Namespace], module: ModuleType, parameters: dict[str, str]
) -> None:
    namespace = small({"a1": TABLE}, to="")

    with pytest.raises(SettingsError, match=f"{next(iter(parameters))}=.* is not a"):
        module.open_run({**namespace, **parameters})
