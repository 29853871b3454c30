"""The SQL of a plan is what will run: the same by both methods, and known again by its hash."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from builders import (
    CONCURRENT_INDEX,
    READS_DATABASE,
    SECOND,
    TABLE,
    Project,
    Script,
    execute,
)
from playbook.database import connect, fetch, server_info
from playbook.dump import dump_schema, find_client_tools
from playbook.errors import MigrationFailed, SettingsError
from playbook.migrate import Alembic
from playbook.plan import build_plan, reverse_sql
from playbook.records import Plan, RevisionGraph
from playbook.sandbox import drop_database, list_databases, open_target
from playbook.targets import Target, load_target

Staging = Callable[..., Project]


@contextmanager
def opened(target: Target) -> Iterator[tuple[Alembic, RevisionGraph]]:
    with connect(target) as connection:
        server = server_info(connection)
    with Alembic(target) as alembic:
        alembic.open(target, server, session={})
        yield alembic, alembic.graph()


def plan(
    target: Target, method: str = "auto", to: str = "head", direction: str = "upgrade"
) -> Plan:
    with opened(target) as (alembic, graph):
        return build_plan(target, alembic, graph, direction=direction, to=to, method=method)


def apply(target: Target, made: Plan) -> None:
    with opened(target) as (alembic, _):
        for step in made.steps:
            alembic.run(step, expected_current=alembic.current(), session={})


def schema(target: Target) -> str:
    return dump_schema(target, tools=find_client_tools(180000))


@pytest.fixture
def copies() -> Iterator[list[Target]]:
    """Three empty databases on the sandbox server."""
    targets = [load_target(f"sandbox:test_{secrets.token_hex(6)}") for _ in range(3)]
    yield [open_target(target, state="empty") for target in targets]
    for target in targets:
        drop_database(target)


@pytest.mark.parametrize("settings", ["", "transaction_per_migration=True"])
@pytest.mark.parametrize("method", ["offline", "observed"])
def test_sql_applied_by_psql_gives_what_alembic_makes(
    staging: Staging, copies: list[Target], run_psql: Callable[..., object], method: str,
    settings: str,
) -> None:  # fmt: skip
    project = staging({"a1": TABLE, "b2": CONCURRENT_INDEX, "c3": SECOND}, settings=settings)
    by_alembic, by_psql = (project.target(copy) for copy in copies[:2])
    made = plan(by_alembic, method)

    done = run_psql(by_psql, made.sql)
    apply(by_alembic, made)

    assert (done.returncode, done.stderr) == (0, "")  # type: ignore[attr-defined]
    assert made.method == method
    assert schema(by_psql) == schema(by_alembic)
    with opened(by_psql) as (_, graph):
        assert graph.current == ("c3",)


def test_sql_of_the_example_is_the_same_in_effect_by_both_methods(
    legacy_database: Target, run_psql: Callable[..., object]
) -> None:
    found = []
    for method in ("offline", "observed"):
        copy = open_target(load_target(f"sandbox:test_{secrets.token_hex(6)}"))
        try:
            done = run_psql(copy, plan(legacy_database, method).sql)
            assert done.returncode == 0, done  # type: ignore[attr-defined]
            found.append(schema(copy))
        finally:
            drop_database(copy)

    assert found[0] == found[1]
    assert "rag_chunks" in found[0]


def test_revision_that_reads_the_database_is_observed_and_its_sql_is_complete(
    staging: Staging, copies: list[Target], run_psql: Callable[..., object]
) -> None:
    project = staging({"a1": TABLE, "b2": READS_DATABASE})
    by_alembic, by_psql = (project.target(copy) for copy in copies[:2])

    made = plan(by_alembic)
    done = run_psql(by_psql, f"{made.sql}\nSELECT note FROM c;")

    assert made.method == "observed"
    assert "LIKE '%'" in made.sql
    assert "%%" not in made.sql
    assert "pg_catalog" not in made.sql
    assert done.stdout.endswith("\nit's 5%\n"), done  # type: ignore[attr-defined]
    with pytest.raises(MigrationFailed):
        plan(by_alembic, "offline")


def test_observing_leaves_the_target_and_the_sandbox_as_they_were(
    staging: Staging, fresh_database: Target
) -> None:
    target = staging({"a1": TABLE, "b2": READS_DATABASE}).target(fresh_database)
    before = schema(target)

    plan(target, "observed")

    assert schema(target) == before
    assert not [name for name in list_databases(target.project) if "scratch" in name]


def test_failing_revision_fails_the_observation_and_no_copy_stays(
    staging: Staging, fresh_database: Target
) -> None:
    target = staging({"a1": Script(execute("SELECT 1 / 0"))}).target(fresh_database)

    with pytest.raises(MigrationFailed, match="division by zero"):
        plan(target, "observed")

    assert not [name for name in list_databases(target.project) if "scratch" in name]


def test_way_back_is_planned_and_undoes_the_plan(
    staging: Staging, copies: list[Target], run_psql: Callable[..., object]
) -> None:
    project = staging({"a1": TABLE, "b2": SECOND})
    target = project.target(copies[0])
    apply(target, plan(target, to="a1"))
    before = schema(target)
    with opened(target) as (alembic, graph):
        made = build_plan(target, alembic, graph, direction="upgrade", to="head")
        back = reverse_sql(alembic, made)
    apply(target, made)

    down = plan(target, direction="downgrade", to="-1")
    done = run_psql(target, back)

    assert done.returncode == 0, done  # type: ignore[attr-defined]
    assert schema(target) == before
    assert [s.revision for s in down.steps] == ["b2"]
    assert (down.from_revisions, down.to_revisions) == (("b2",), ("a1",))
    assert down.tables == ("public.b",)


def test_hash_is_the_same_until_a_file_is_edited(staging: Staging, fresh_database: Target) -> None:
    project = staging({"a1": TABLE, "b2": SECOND})
    target = project.target(fresh_database)
    first, again = plan(target), plan(target)
    shorter = plan(target, to="a1")

    path = project.revision_file("b2")
    path.write_text(path.read_text() + "\n# a remark\n")

    assert first.sha256 == again.sha256
    assert len({first.sha256, shorter.sha256, plan(target).sha256}) == 3


def test_hash_of_an_observed_plan_does_not_hang_on_values_made_anew(
    staging: Staging, fresh_database: Target
) -> None:
    reads = """
    import uuid
    op.get_bind().execute(sa.text("SELECT 1")).scalar()
    op.get_bind().execute(sa.text("INSERT INTO a VALUES (:n)"), {"n": uuid.uuid4().int % 10**6})
    """
    target = staging({"a1": TABLE, "b2": Script(reads)}).target(fresh_database)

    first, again = plan(target, "observed"), plan(target, "observed")

    assert first.sql != again.sql
    assert first.sha256 == again.sha256


def test_place_already_reached_is_an_empty_plan(staging: Staging, fresh_database: Target) -> None:
    target = staging({"a1": TABLE}).target(fresh_database)
    apply(target, plan(target))

    made = plan(target)

    assert made.is_empty
    assert (made.sql, made.tables) == ("", ())
    assert made.from_revisions == made.to_revisions == ("a1",)


def test_existing_tables_that_the_sql_names_are_in_the_plan(legacy_database: Target) -> None:
    assert plan(legacy_database).tables == ("public.users",)


def test_several_heads_ask_for_one_and_heads_takes_all(
    staging: Staging, fresh_database: Target
) -> None:
    project = staging({"a1": TABLE, "b2": SECOND, "c2": Script(down="a1")})
    target = project.target(fresh_database)

    with pytest.raises(SettingsError, match="Alembic says"):
        plan(target)
    made = plan(target, to="heads")
    apply(target, made)

    with opened(target) as (_, graph):
        assert sorted(graph.current) == sorted(made.to_revisions) == ["b2", "c2"]


def test_place_that_a_plan_promises_is_the_place_that_alembic_reaches_with_a_dependency(
    staging: Staging, fresh_database: Target
) -> None:
    project = staging(
        {"a1": TABLE, "b1": Script(SECOND.upgrade, down=()), "a2": Script(down="a1", depends="b1")}
    )
    target = project.target(fresh_database)

    made = plan(target, to="heads")
    apply(target, made)

    with opened(target) as (_, graph):
        assert sorted(graph.current) == sorted(made.to_revisions)


PERCENT = Script(
    """
op.execute("UPDATE c SET note = 'ab' WHERE note LIKE 'a%'")
op.add_column('c', sa.Column('50%', sa.Text, server_default='5%'))
op.execute("INSERT INTO c (id, note) VALUES (2, '100%')")
"""
)


def test_percent_signs_are_single_in_sql_made_offline_which_psql_runs_alike(
    staging: Staging, copies: list[Target], run_psql: Callable[..., object]
) -> None:
    table = Script("op.create_table('c', sa.Column('id', sa.Integer), sa.Column('note', sa.Text))")
    project = staging({"a1": table, "b2": PERCENT})
    by_alembic, by_psql = (project.target(copy) for copy in copies[:2])

    made = plan(by_alembic)
    apply(by_alembic, made)
    done = run_psql(by_psql, f'{made.sql}\nSELECT note, "50%" FROM c;')

    assert made.method == "offline"
    assert "LIKE 'a%'" in made.sql
    assert "%%" not in made.sql
    assert done.stdout.endswith("\n100%|5%\n"), done  # type: ignore[attr-defined]
    assert schema(by_psql) == schema(by_alembic)
    with connect(by_alembic) as connection:
        assert fetch(connection, 'SELECT note, "50%" FROM c') == [("100%", "5%")]


BULK = """
op.get_bind().execute(sa.text("SELECT 1")).scalar_one()
op.bulk_insert(sa.table('c', sa.column('id', sa.Integer), sa.column('note', sa.Text)),
               [{'id': i, 'note': "%s it's " + str(i)} for i in range(1, 4)])
"""


def test_rows_of_bulk_insert_are_observed_with_their_values(
    staging: Staging, copies: list[Target], run_psql: Callable[..., object]
) -> None:
    table = Script("op.create_table('c', sa.Column('id', sa.Integer), sa.Column('note', sa.Text))")
    project = staging({"a1": table, "b2": Script(BULK)})
    by_alembic, by_psql = (project.target(copy) for copy in copies[:2])

    made = plan(by_alembic)
    apply(by_alembic, made)
    done = run_psql(by_psql, f"{made.sql}\nSELECT string_agg(note, ',' ORDER BY id) FROM c;")

    rows = [(i, f"%s it's {i}") for i in range(1, 4)]
    assert made.method == "observed"
    assert done.stdout.endswith("\n" + ",".join(n for _, n in rows) + "\n"), done  # type: ignore[attr-defined]
    with connect(by_alembic) as connection:
        assert fetch(connection, "SELECT id, note FROM c ORDER BY id") == rows
