"""Alembic in its child process: every request, and every way in which a project can go wrong."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from builders import (
    CONCURRENT_INDEX,
    DUPLICATES,
    FAILING,
    INVALID_INDEX,
    OWN_PATH,
    SECOND,
    TABLE,
    Project,
    Script,
    execute,
)
from playbook.catalog import invalid_indexes, table_names
from playbook.database import connect, fetch, fetch_value, server_info
from playbook.errors import LockNotAcquired, MigrationFailed, SettingsError, WrongDatabase
from playbook.migrate import RUNNER, Alembic
from playbook.records import PlanStep
from playbook.targets import Target

Staging = Callable[..., Project]
TWO = {"a1": TABLE, "b2": SECOND}
KILLED_PARENT = """
import sys, time
from pathlib import Path
from playbook.migrate import Alembic
from playbook.records import PlanStep
from playbook.targets import Target
conninfo = dict(pair.split("=", 1) for pair in sys.argv[2:])
target = Target("x", "url", Path(sys.argv[1]), conninfo)
with Alembic(target) as alembic:
    alembic.open(target, None, session={})
    (step,) = alembic.plan("upgrade", "head", ())
    print(alembic.pid, flush=True)
    alembic.run(step, expected_current=(), session={})
"""


@contextmanager
def opened(
    project: Project, database: Target, *, anywhere: bool = False, **session: str
) -> Iterator[Alembic]:
    target = project.target(database)
    with connect(target) as connection:
        server = None if anywhere else server_info(connection)
    with Alembic(target) as alembic:
        alembic.open(target, server, session=session)
        yield alembic


def step_of(alembic: Alembic, target: str = "+1", direction: str = "upgrade") -> PlanStep:
    return alembic.plan(direction, target, alembic.current())[0]


def run(alembic: Alembic, target: str = "+1", direction: str = "upgrade", **session: str) -> object:
    step = step_of(alembic, target, direction)
    return alembic.run(step, expected_current=alembic.current(), session=session)


def tables(database: Target) -> list[str]:
    with connect(database) as connection:
        return [name.removeprefix("public.") for name in table_names(connection)]


def test_graph_tells_files_heads_and_place_and_writes_nothing(
    staging: Staging, fresh_database: Target
) -> None:
    project = staging(TWO)
    with opened(project, fresh_database) as alembic:
        graph = alembic.graph()

    assert [r.revision for r in graph.revisions] == ["a1", "b2"]
    assert (graph.heads, graph.current, graph.unknown) == (("b2",), (), ())
    assert graph.revision("b2").down_revisions == ("a1",)
    assert graph.revision("a1").path == project.revision_file("a1")
    assert Path(graph.script_directory) == project.folder / "migrations"
    assert tables(fresh_database) == []


def test_steps_go_up_and_down_one_by_one(staging: Staging, fresh_database: Target) -> None:
    with opened(staging(TWO), fresh_database) as alembic:
        assert [s.revision for s in alembic.plan("upgrade", "head", ())] == ["a1", "b2"]
        result = run(alembic)
        assert alembic.current() == ("a1",)
        assert tables(fresh_database) == ["a", "alembic_version"]

        run(alembic)
        assert alembic.current() == ("b2",)
        down = alembic.plan("downgrade", "base", ("b2",))
        assert [(s.revision, s.to_revisions) for s in down] == [("b2", ("a1",)), ("a1", ())]
        run(alembic, "-1", "downgrade")

        assert alembic.current() == ("a1",)
        assert (result.revision, result.transactional) == ("a1", True)  # type: ignore[attr-defined]
    assert tables(fresh_database) == ["a", "alembic_version"]


def test_several_heads_and_a_dependency_between_branches(
    staging: Staging, fresh_database: Target
) -> None:
    project = staging(
        {
            "a1": Script(labels=("left",)),
            "b1": Script(down=(), labels=("right",)),
            "a2": Script(down="a1", depends="b1"),
        }
    )
    with opened(project, fresh_database) as alembic:
        graph = alembic.graph()
        assert set(graph.heads) >= {"a2"}
        current: tuple[str, ...] = ()
        for step in alembic.plan("upgrade", "heads", ()):
            alembic.run(step, expected_current=current, session={})
            current = alembic.current()

        assert not set(current) ^ set(alembic.graph().current)
        assert "a2" in current


def test_version_table_in_its_own_schema_is_found(staging: Staging, fresh_database: Target) -> None:
    with connect(fresh_database) as connection:
        connection.cursor().execute("CREATE SCHEMA own")
    project = staging(TWO, settings="version_table='ver', version_table_schema='own'")
    with opened(project, fresh_database) as alembic:
        run(alembic)
        graph = alembic.graph()

    assert (graph.version_table_schema, graph.version_table) == ("own", "ver")
    assert graph.current == ("a1",)
    assert tables(fresh_database) == ["own.ver", "a"]


def test_unknown_revision_in_the_database_is_told_and_no_error(
    staging: Staging, fresh_database: Target
) -> None:
    with opened(staging(TWO), fresh_database) as alembic:
        run(alembic)
        with connect(fresh_database) as connection:
            connection.cursor().execute("UPDATE alembic_version SET version_num = 'gone'")

        graph = alembic.graph()

    assert (graph.current, graph.unknown) == (("gone",), ("gone",))


def test_stamp_sets_the_place_and_runs_nothing(staging: Staging, fresh_database: Target) -> None:
    with opened(staging(TWO), fresh_database) as alembic:
        alembic.stamp(["b2"])

        assert alembic.current() == ("b2",)
    assert tables(fresh_database) == ["alembic_version"]


def test_failing_revision_is_rolled_back_whole_and_says_statement_and_code(
    staging: Staging, fresh_database: Target
) -> None:
    with opened(staging({"a1": TABLE, "b2": FAILING}), fresh_database) as alembic:
        run(alembic)
        with pytest.raises(MigrationFailed) as caught:
            run(alembic)

        assert (caught.value.revision, caught.value.sqlstate) == ("b2", "22012")
        assert caught.value.statement == "SELECT 1 / 0"
        assert caught.value.transactional
        assert alembic.current() == ("a1",)
    assert "late" not in tables(fresh_database)


def test_failing_concurrent_index_is_told_as_half_applied(
    staging: Staging, fresh_database: Target
) -> None:
    with opened(staging({"a1": DUPLICATES, "b2": INVALID_INDEX}), fresh_database) as alembic:
        run(alembic)
        with pytest.raises(MigrationFailed) as caught:
            run(alembic)

        assert not caught.value.transactional
        assert caught.value.sqlstate == "23505"
        assert alembic.current() == ("a1",)
    with connect(fresh_database) as connection:
        assert [i.index for i in invalid_indexes(connection)] == ["public.d_n"]


def test_concurrent_index_after_which_the_revision_goes_on(
    staging: Staging, fresh_database: Target
) -> None:
    with opened(staging({"a1": TABLE, "b2": CONCURRENT_INDEX}), fresh_database) as alembic:
        run(alembic)
        result = run(alembic, lock_timeout="1s")

    assert result.transactional is False  # type: ignore[attr-defined]
    with connect(fresh_database) as connection:
        assert invalid_indexes(connection) == []
        assert fetch_value(connection, "SELECT count(*) FROM pg_indexes WHERE indexname = 'a_x'")


def test_locks_and_rewrites_are_reported(staging: Staging, fresh_database: Target) -> None:
    change = "ALTER TABLE a ALTER id TYPE bigint"
    project = staging({"a1": TABLE, "b2": Script(execute(change, "CREATE INDEX ON a (id)"))})
    with opened(project, fresh_database) as alembic:
        run(alembic)
        seen: list[dict[str, object]] = []
        result = alembic.run(
            step_of(alembic),
            expected_current=("a1",),
            session={},
            on_event=lambda event: seen.append(dict(event)),
        )

    assert dict(result.locks)["public.a"] == "AccessExclusiveLock"
    assert result.rewritten == ("public.a",)
    assert result.statements >= 3
    assert any(event["event"] == "statement" and event["sql"] == change for event in seen)
    assert result.duration_s > 0


def test_lock_that_is_not_granted_may_be_tried_again(
    staging: Staging, fresh_database: Target
) -> None:
    project = staging({"a1": TABLE, "b2": Script(execute("ALTER TABLE a ADD COLUMN x int"))})
    with opened(project, fresh_database) as alembic:
        run(alembic)
        with connect(fresh_database, autocommit=False) as holder:
            fetch(holder, "SELECT FROM a")
            with pytest.raises(LockNotAcquired) as caught:
                run(alembic, lock_timeout="20ms")

        assert caught.value.sqlstate == "55P03"
        run(alembic, lock_timeout="20ms")
        assert alembic.current() == ("b2",)


def test_lock_that_is_not_granted_outside_a_transaction_is_not_tried_again(
    staging: Staging, fresh_database: Target
) -> None:
    project = staging({"a1": TABLE, "b2": CONCURRENT_INDEX})
    with opened(project, fresh_database, concurrently_timeout="100ms") as alembic:
        run(alembic)
        with connect(fresh_database, autocommit=False) as holder:
            # Only the concurrent build waits for it: its table is another one.
            fetch(holder, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT 1")
            with pytest.raises(MigrationFailed) as caught:
                run(alembic, lock_timeout="5s")

    assert caught.value.sqlstate == "55P03"
    assert not caught.value.transactional
    with connect(fresh_database) as connection:
        assert [i.index for i in invalid_indexes(connection)] == ["public.a_x"]


def test_serializable_transaction_is_no_trouble(staging: Staging, fresh_database: Target) -> None:
    project = staging(
        {"a1": TABLE, "b2": Script(execute("INSERT INTO a SELECT count(*) FROM a"))},
        engine="isolation_level='SERIALIZABLE'",
    )
    with opened(project, fresh_database) as alembic:
        run(alembic)
        run(alembic)

        assert alembic.current() == ("b2",)


def test_database_that_moved_meanwhile_is_not_touched(
    staging: Staging, fresh_database: Target
) -> None:
    with opened(staging(TWO), fresh_database) as alembic:
        step = step_of(alembic)
        alembic.stamp(["b2"])

        with pytest.raises(MigrationFailed, match="is now at b2, which is not where"):
            alembic.run(step, expected_current=(), session={})
    assert tables(fresh_database) == ["alembic_version"]


def test_env_py_that_goes_elsewhere_is_stopped_before_it_writes(
    staging: Staging, fresh_database: Target, legacy_database: Target
) -> None:
    elsewhere = fresh_database.sqlalchemy_url()
    with opened(staging(TWO, url=repr(elsewhere)), legacy_database) as alembic:
        with pytest.raises(WrongDatabase) as caught:
            alembic.graph()

    assert repr(fresh_database.database) in str(caught.value)
    assert "It was stopped before it could write." in str(caught.value)
    assert tables(fresh_database) == []


def test_env_py_that_prints_does_not_disturb(staging: Staging, fresh_database: Target) -> None:
    before = "print('{\"event\": \"result\"}'); import os; os.write(1, b'raw\\n')"
    with opened(staging(TWO, before=before), fresh_database) as alembic:
        assert alembic.current() == ()
        assert "raw" in alembic.output()


def test_what_a_project_prints_is_kept_without_its_passwords(
    staging: Staging, fresh_database: Target
) -> None:
    before = "print('postgresql://me:hunter2@db/app')"
    with opened(staging(TWO, before=before), fresh_database) as alembic:
        alembic.current()

        assert "postgresql://me:***@db/app" in alembic.output()


@pytest.mark.parametrize(
    ("before", "said"),
    [
        ("import nothing_of_that_name", "ModuleNotFoundError"),
        ("this is no Python", "SyntaxError"),
        ("raise SystemExit(3)", "SystemExit"),
        ("raise RuntimeError('no settings')", "RuntimeError: no settings."),
    ],
)
def test_broken_env_py_is_one_sentence(
    staging: Staging, fresh_database: Target, before: str, said: str
) -> None:
    with opened(staging(TWO, before=before), fresh_database) as alembic:
        with pytest.raises(SettingsError) as caught:
            alembic.graph()

    assert f"env.py stopped with {said}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_env_py_that_runs_nothing_is_told(staging: Staging, fresh_database: Target) -> None:
    with opened(staging(TWO, env="pass"), fresh_database) as alembic:
        with pytest.raises(SettingsError, match="without running any migration context"):
            alembic.graph()


def test_missing_env_py_and_missing_folder_are_one_sentence(
    staging: Staging, fresh_database: Target
) -> None:
    project = staging(TWO)
    (project.folder / "migrations" / "env.py").unlink()
    with opened(project, fresh_database) as alembic:
        with pytest.raises(SettingsError, match=r"env\.py"):
            alembic.graph()

    (project.folder / "migrations").rename(project.folder / "elsewhere")
    with pytest.raises(SettingsError, match="Alembic says: "), opened(project, fresh_database):
        pass


@pytest.mark.parametrize(
    ("text", "said"),
    [("import nope", "nope"), ("revision = 'b2'\ndown_revision = 'zz'", "zz"), ("x = (", "b2")],
)
def test_broken_revision_file_is_one_sentence(
    staging: Staging, fresh_database: Target, text: str, said: str
) -> None:
    project = staging(TWO)
    project.revision_file("b2").write_text(text)

    with pytest.raises(SettingsError, match=said), opened(project, fresh_database) as alembic:
        alembic.graph()


@pytest.mark.parametrize(
    ("target", "direction", "said"),
    [("nope", "upgrade", "nope"), ("+9", "upgrade", "9"), ("-9", "downgrade", "9"),
     ("b2", "downgrade", "not a valid downgrade target")],
)  # fmt: skip
def test_target_that_alembic_cannot_resolve_is_one_sentence(
    staging: Staging, fresh_database: Target, target: str, direction: str, said: str
) -> None:
    with opened(staging(TWO), fresh_database) as alembic:
        with pytest.raises(SettingsError, match=said):
            alembic.plan(direction, target, ("a1",))


def test_missing_downgrade_is_refused_before_anything_runs(
    staging: Staging, fresh_database: Target
) -> None:
    project = staging({"a1": TABLE, "b2": Script(SECOND.upgrade, None)})
    with opened(project, fresh_database) as alembic:
        run(alembic)
        run(alembic)
        with pytest.raises(SettingsError, match="Revision b2 has no downgrade function"):
            alembic.plan("downgrade", "-1", ("b2",))

        assert alembic.current() == ("b2",)


def test_interpreter_that_is_missing_or_lacks_alembic_is_told(
    staging: Staging, fresh_database: Target, tmp_path: Path
) -> None:
    project = staging(TWO, options="python = /nowhere/python")
    with pytest.raises(SettingsError, match="interpreter '/nowhere/python' of alembic.ini cannot"):
        Alembic(project.target(fresh_database))

    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nshift\nexec "{sys.executable}" -S -I "$@"\n')
    bare.chmod(0o755)
    text = project.ini.read_text().replace("/nowhere/python", str(bare))
    project.ini.write_text(text)
    with pytest.raises(SettingsError, match="No module named 'alembic'"):
        with opened(project, fresh_database):
            pass


def test_projects_own_modules_are_not_hidden_by_the_playbook_s(
    staging: Staging, fresh_database: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "database.py").write_text("URL = 'mine'")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    before = "import database, sys; assert database.URL == 'mine'; assert 'plan' not in sys.modules"

    with opened(staging(TWO, before=before), fresh_database) as alembic:
        assert alembic.current() == ()


def test_models_that_differ_are_told_a_line_each(staging: Staging, fresh_database: Target) -> None:
    before = """
import sqlalchemy as sa
metadata = sa.MetaData()
sa.Table("a", metadata, sa.Column("id", sa.BigInteger, primary_key=True),
         sa.Column("x", sa.Text, server_default=sa.text("'1'")), sa.Index("a_x", "x"),
         sa.UniqueConstraint("x", name="a_u"))
sa.Table("z", metadata, sa.Column("a_id", sa.ForeignKey("a.id")))
"""
    project = staging({"a1": TABLE}, before=before, settings="target_metadata=metadata")
    with opened(project, fresh_database) as alembic:
        run(alembic)
        lines = alembic.drift()

    text = "\n".join(lines)
    for said in ("add table z", "add column a a.x", "add index a.a_x", "modify type a id"):
        assert said in text
    assert "a_u" in text


def test_models_that_are_missing_are_told(staging: Staging, fresh_database: Target) -> None:
    with opened(staging({"a1": TABLE}), fresh_database) as alembic:
        run(alembic)

        with pytest.raises(SettingsError, match="Alembic says"):
            alembic.drift()


def test_child_dies_with_its_killed_parent_and_the_server_rolls_back(
    staging: Staging, fresh_database: Target
) -> None:
    project = staging({"a1": Script(execute("CREATE TABLE a ()", "SELECT pg_sleep(60)"))})
    pairs = [f"{key}={value}" for key, value in fresh_database.conninfo.items()]
    command = [sys.executable, "-c", KILLED_PARENT, str(project.ini), *pairs]
    busy = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)'"
    with connect(fresh_database) as connection:
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
            assert parent.stdout is not None
            child = psutil.Process(int(parent.stdout.readline()))
            assert until(lambda: fetch_value(connection, busy))

            os.kill(parent.pid, signal.SIGKILL)

        assert until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
        assert until(lambda: not fetch_value(connection, busy))
        assert table_names(connection) == ["public.alembic_version"] or not table_names(connection)


def until(condition: Callable[[], object], timeout_s: float = 10.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


def test_killed_child_is_told(staging: Staging, fresh_database: Target) -> None:
    with opened(staging(TWO), fresh_database) as alembic:
        os.kill(alembic.pid, signal.SIGKILL)

        with pytest.raises(MigrationFailed, match=r"ended by itself \(exit code -9\)"):
            alembic.current()


def test_answer_that_nobody_waited_for_is_not_taken_for_the_next_one(
    staging: Staging, fresh_database: Target
) -> None:
    def interrupt(event: object) -> None:
        raise KeyboardInterrupt

    with opened(staging(TWO), fresh_database) as alembic:
        with pytest.raises(KeyboardInterrupt):
            alembic._ask("current", on_event=interrupt)

        assert [s.revision for s in alembic.plan("upgrade", "head", ())] == ["a1", "b2"]


def test_versions_are_those_in_the_child(staging: Staging, fresh_database: Target) -> None:
    with opened(staging(TWO), fresh_database) as alembic:
        assert [name for name, _ in alembic.versions()] == ["Alembic", "SQLAlchemy"]


@pytest.mark.parametrize("name", ["runner", "drafting", "guarding"])
def test_what_runs_in_other_projects_is_written_for_old_interpreters(name: str) -> None:
    ast.parse(RUNNER.with_stem(name).read_text(), feature_version=(3, 8))


def test_version_table_is_found_by_the_search_path_that_env_py_sets(
    staging: Staging, fresh_database: Target
) -> None:
    with connect(fresh_database) as connection:
        connection.cursor().execute("CREATE SCHEMA app")
    with opened(staging(TWO, env=OWN_PATH), fresh_database) as alembic:
        before = alembic.graph()
        run(alembic)
        after = alembic.graph()

    assert (before.version_table_schema, before.current) == ("app", ())
    assert (after.version_table_schema, after.current) == ("app", ("a1",))


@pytest.mark.parametrize(
    ("statement", "wrote"),
    [
        ("UPDATE t SET x = 1", "public.t"),
        ("-- why\n  /* and */ update ONLY s.T SET x = 1", "s.t"),
        ('INSERT INTO "Odd ""one" VALUES (1)', 'public.Odd "one'),
        ('DELETE FROM s."T"', "s.T"),
        ("TRUNCATE TABLE t", "public.t"),
        ("WITH w AS (SELECT 1) UPDATE t SET x = 1", "public.t"),
        ("WITH w AS (DELETE FROM t RETURNING *) SELECT count(*) FROM w", "public.t"),
        ("UPDATE far SET x = 1", "s.far"),
        ("DO $$BEGIN UPDATE t SET x = 1; END$$", ""),
        ("SELECT * FROM t FOR UPDATE", ""),
        ("SELECT f()", ""),
        ("COPY t TO '/dev/null'", ""),
    ],
)
def test_step_tells_the_tables_that_its_statements_write(
    staging: Staging, fresh_database: Target, statement: str, wrote: str
) -> None:
    with connect(fresh_database) as connection:
        connection.cursor().execute(
            'CREATE SCHEMA s; CREATE TABLE t (x int); CREATE TABLE s.t (x int); CREATE TABLE s."T" '
            '(x int); CREATE TABLE "Odd ""one" (x int); CREATE TABLE s.far (x int);'
            "CREATE FUNCTION f() RETURNS void LANGUAGE sql AS 'UPDATE t SET x = 1';"
            "DO $$BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = public, s', "
            "current_database()); END$$"
        )
    with opened(staging({"a1": Script(execute(statement))}), fresh_database) as alembic:
        result = alembic.run(step_of(alembic), expected_current=(), session={})

    assert set(result.wrote) - {"public.alembic_version"} == ({wrote} if wrote else set())
