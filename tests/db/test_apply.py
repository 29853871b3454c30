"""Applying a plan behind the application's back: it waits, gives up, rolls back, and goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import psycopg2
import pytest

from builders import FAILING, SECOND, TABLE, Project, Script, execute
from playbook import apply as apply_module
from playbook import patience as patience_module
from playbook.apply import apply_plan
from playbook.catalog import table_names
from playbook.database import connect, fetch, fetch_value, server_info
from playbook.errors import LockNotAcquired, MigrationFailed
from playbook.migrate import Alembic
from playbook.patience import Attempts, Limits
from playbook.plan import build_plan
from playbook.records import Applied, Blocker, StepResult
from playbook.targets import Target
from playbook.watch import watching

Staging = Callable[..., Project]
ADD_COLUMN = Script(execute("ALTER TABLE a ADD COLUMN x int"))
QUICK = Limits(lock_timeout_s=0.5, give_up_after_s=20)


@contextmanager
def ready(project: Project, database: Target, at: int = 1) -> Iterator[Callable[..., Applied]]:
    """Apply the first revisions; yield what applies the rest."""
    target = project.target(database)
    with connect(target) as connection:
        server = server_info(connection)
    with Alembic(target) as alembic:
        alembic.open(target, server, session={})
        first = build_plan(target, alembic, alembic.graph(), direction="upgrade", to=f"+{at}")
        quiet = {
            "check_lock": lambda: None,
            "on_progress": lambda text: None,
            "on_step": lambda result, reached: None,
        }
        apply_plan(target, server, alembic, first, QUICK, **quiet)  # type: ignore[arg-type]
        rest = build_plan(target, alembic, alembic.graph(), direction="upgrade", to="head")

        def go(limits: Limits = QUICK, **handlers: object) -> Applied:
            return apply_plan(target, server, alembic, rest, limits, **{**quiet, **handlers})  # type: ignore[arg-type]

        go.alembic = alembic  # type: ignore[attr-defined]
        yield go


@contextmanager
def holding(
    database: Target, statement: str, release_after_s: float | None = None
) -> Iterator[int]:
    """Hold a lock from a session of the application's, for a while or until the end."""
    app = database.with_conninfo(application_name="the app")
    with connect(app, autocommit=False) as holder:
        fetch(holder, statement) if statement.startswith("SELECT") else holder.cursor().execute(
            statement
        )
        if release_after_s:
            threading.Timer(release_after_s, holder.rollback).start()
        yield holder.info.backend_pid


def current(go: object) -> tuple[str, ...]:
    return go.alembic.current()  # type: ignore[attr-defined,no-any-return]


def test_revisions_are_applied_one_by_one_and_each_is_told(
    staging: Staging, fresh_database: Target
) -> None:
    seen: list[tuple[str, tuple[str, ...]]] = []
    with ready(staging({"a1": TABLE, "b2": ADD_COLUMN, "c3": SECOND}), fresh_database) as go:
        applied = go(on_step=lambda result, reached: seen.append((result.revision, reached)))

    assert seen == [("b2", ("b2",)), ("c3", ("c3",))]
    assert (applied.from_revisions, applied.to_revisions) == (("a1",), ("c3",))
    assert [step.attempts for step in applied.steps] == [1, 1]
    version = "SELECT xmin::text::bigint FROM alembic_version"
    with connect(fresh_database) as connection:
        assert fetch(connection, version)[0][0] == applied.steps[-1].xids[-1] % 2**32


def test_run_waits_for_the_holder_of_a_lock_and_succeeds_when_it_goes(
    staging: Staging, fresh_database: Target
) -> None:
    told: list[str] = []
    with ready(staging({"a1": TABLE, "b2": ADD_COLUMN}), fresh_database) as go:
        with holding(fresh_database, "SELECT FROM a", release_after_s=2.5) as pid:
            (step,) = go(on_progress=told.append).steps

    assert step.attempts > 1
    waits_for = f"b2 waits for pid {pid} (postgres, the app, idle in transaction"
    assert any(text.startswith(waits_for) for text in told)


def test_run_gives_up_in_time_and_names_who_was_in_its_way(
    staging: Staging, fresh_database: Target
) -> None:
    with ready(staging({"a1": TABLE, "b2": ADD_COLUMN}), fresh_database) as go:
        with holding(fresh_database, "SELECT FROM a") as pid:
            began = time.monotonic()
            with pytest.raises(LockNotAcquired) as caught:
                go(Limits(lock_timeout_s=0.2, give_up_after_s=1.3))

            assert 1.2 < time.monotonic() - began < 4
        assert current(go) == ("a1",)
    assert f"pid {pid} (postgres, the app, idle in transaction for " in str(caught.value)
    assert "on public.a: SELECT FROM a)" in str(caught.value)
    assert "PostgreSQL rolled every attempt back." in str(caught.value)
    assert caught.value.sqlstate == "55P03"


def test_writers_of_the_application_do_not_wait_behind_a_waiting_migration(
    staging: Staging, fresh_database: Target
) -> None:
    waits_s: list[float] = []
    stop = threading.Event()

    def write() -> None:
        connection = psycopg2.connect(**fresh_database.conninfo)
        connection.autocommit = True
        number = 0
        while not stop.is_set():
            number += 1
            began = time.monotonic()
            connection.cursor().execute("INSERT INTO a VALUES (%s)", (number,))
            waits_s.append(time.monotonic() - began)
            time.sleep(0.005)
        connection.close()

    with ready(staging({"a1": TABLE, "b2": ADD_COLUMN}), fresh_database) as go:
        writer = threading.Thread(target=write)
        with holding(fresh_database, "SELECT FROM a", release_after_s=2.5):
            writer.start()
            go(Limits(lock_timeout_s=2, give_up_after_s=20))
        stop.set()
        writer.join()

    assert len(waits_s) > 100
    assert max(waits_s) < 0.3


def test_first_wait_is_short_and_none_is_without_limit() -> None:
    attempts = Attempts(Limits(lock_timeout_s=2.0, give_up_after_s=60))
    seen = []
    for _ in range(8):
        seen.append(attempts.lock_timeout)
        attempts.next()

    assert seen == [f"{ms}ms" for ms in (25, 50, 100, 200, 400, 800, 1600, 2000)]
    assert Attempts(Limits(0.0004, 1)).lock_timeout == "1ms"


def blocker(age_s: float) -> Blocker:
    return Blocker(1, "postgres", "the app", "idle in transaction", "SELECT 1", age_s, ())


@pytest.mark.parametrize(
    ("ages_s", "wait"), [((0.3,), "50ms"), ((0.3, 0.6), "25ms"), ((60.0,), "25ms")]
)
def test_patience_grows_with_ever_new_transactions_and_not_with_one_that_stays(
    ages_s: tuple[float, ...], wait: str
) -> None:
    attempts = Attempts(QUICK)
    attempts.between_looks_s, attempts.grown = 0.5, time.monotonic() - 10

    attempts.next([blocker(age_s) for age_s in ages_s], asked=False)

    assert attempts.lock_timeout == wait


@pytest.fixture(params=["superuser", "role that sees no other's sessions"])
def user(request: pytest.FixtureRequest, fresh_database: Target) -> Iterator[str]:
    """A user who may migrate the database; dropped with what it owns."""
    if request.param == "superuser":
        yield fresh_database.conninfo["user"]
        return
    name = fresh_database.database
    with connect(fresh_database) as connection:
        connection.cursor().execute(
            f"CREATE ROLE {name} LOGIN; GRANT ALL ON SCHEMA public TO {name}"
        )
    yield name
    with connect(fresh_database) as connection:
        connection.cursor().execute(f"DROP OWNED BY {name} CASCADE; DROP ROLE {name}")


def test_run_never_asks_behind_a_transaction_older_than_its_own_patience(
    staging: Staging, fresh_database: Target, monkeypatch: pytest.MonkeyPatch, user: str
) -> None:
    asked: list[object] = []
    with ready(
        staging({"a1": TABLE, "b2": ADD_COLUMN}), fresh_database.with_conninfo(user=user)
    ) as go:
        real = Alembic.run

        def run(self: Alembic, step: object, **options: object) -> StepResult:
            asked.append(step)
            return real(self, step, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(apply_module.Alembic, "run", run)
        with holding(fresh_database, "SELECT FROM a", release_after_s=2):
            time.sleep(0.05)
            (step,) = go().steps

    assert step.attempts > 2
    assert len(asked) == 1


def test_lines_about_waiting_become_rarer(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(patience_module.time, "monotonic", lambda: clock[0])
    attempts = Attempts(QUICK)
    told = []
    for half_seconds in range(120):
        clock[0] = half_seconds / 2
        if attempts.tells():
            told.append(clock[0])

    assert told == [0.0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5]


@pytest.mark.parametrize("by", ["", "SET statement_timeout = 0", "RESET statement_timeout"])
def test_statement_that_runs_too_long_is_rolled_back_whatever_the_revision_sets(
    staging: Staging, fresh_database: Target, by: str
) -> None:
    slow = Script(execute("ALTER TABLE a ADD COLUMN x int", by or "SELECT 1", "SELECT pg_sleep(9)"))
    limits = replace(QUICK, statement_timeout_s=0.3)
    with ready(staging({"a1": TABLE, "b2": slow}), fresh_database) as go:
        began = time.monotonic()
        with pytest.raises(MigrationFailed) as caught:
            go(limits)

        assert time.monotonic() - began < 5
        assert current(go) == ("a1",)
    assert caught.value.sqlstate == "57014"
    assert "pg_sleep(9)" in caught.value.statement


BUILD = Script(
    """
    with op.get_context().autocommit_block():
        op.execute("CREATE INDEX CONCURRENTLY IF NOT EXISTS a_id ON a (id)")
    """
)
OLD_SNAPSHOT = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT 1"


def is_valid(target: Target, index: str) -> bool | None:
    query = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)"
    with connect(target) as connection:
        rows = fetch(connection, query, (index,))
    return rows[0][0] if rows else None


def test_concurrent_build_waits_beyond_the_limits_of_ordinary_statements(
    staging: Staging, fresh_database: Target
) -> None:
    told: list[str] = []
    limits = Limits(0.1, 5, concurrently_timeout_s=30, statement_timeout_s=0.3)
    with ready(staging({"a1": TABLE, "b2": BUILD}), fresh_database) as go:
        with holding(fresh_database, OLD_SNAPSHOT, release_after_s=2.5) as pid:
            (step,) = go(limits, on_progress=told.append).steps

    assert is_valid(fresh_database, "a_id")
    assert (step.attempts, step.transactional) == (1, False)
    (line,) = told
    assert line.startswith("b2: CREATE INDEX CONCURRENTLY IF NOT EXISTS a_id ON a (id) for 1 s, ")
    assert "waiting for" in line
    assert f"it waits for pid {pid} (postgres, the app, idle in transaction" in line


def test_invalid_leftover_of_a_failed_build_is_dropped_and_built_anew(
    staging: Staging, fresh_database: Target
) -> None:
    notes: list[str] = []
    project = staging({"a1": TABLE, "b2": BUILD})
    with ready(project, fresh_database) as go:
        with holding(fresh_database, OLD_SNAPSHOT):
            with pytest.raises(MigrationFailed) as caught:
                go(replace(QUICK, concurrently_timeout_s=0.2))
        assert not caught.value.transactional
        assert is_valid(fresh_database, "a_id") is False

        go(on_note=notes.append)

    assert notes == ["dropped public.a_id, which an earlier attempt had left invalid"]
    assert is_valid(fresh_database, "a_id")


def test_invalid_index_that_the_plan_does_not_build_is_left_alone(
    staging: Staging, fresh_database: Target
) -> None:
    with ready(staging({"a1": TABLE, "b2": BUILD}), fresh_database) as go:
        with connect(fresh_database) as connection, connection.cursor() as cursor:
            cursor.execute("CREATE TABLE d (n int); INSERT INTO d VALUES (1), (1)")
            with pytest.raises(psycopg2.errors.UniqueViolation):
                cursor.execute("CREATE UNIQUE INDEX CONCURRENTLY d_n ON d (n)")
        go()

    assert is_valid(fresh_database, "d_n") is False
    assert is_valid(fresh_database, "a_id")


def test_revision_that_leaves_an_invalid_index_behind_fails(
    staging: Staging, fresh_database: Target
) -> None:
    hides = Script(
        """
        op.execute("CREATE TABLE d (n int)")
        op.execute("INSERT INTO d VALUES (1), (1)")
        with op.get_context().autocommit_block():
            try:
                op.execute("CREATE UNIQUE INDEX CONCURRENTLY d_n ON d (n)")
            except sa.exc.IntegrityError:
                if op.get_context().as_sql:
                    raise
        """
    )
    with ready(staging({"a1": TABLE, "b2": hides}), fresh_database) as go:
        with pytest.raises(MigrationFailed, match="b2 left an invalid index: public.d_n"):
            go()


def test_long_statement_is_told_and_python_at_work_as_well(
    staging: Staging, fresh_database: Target
) -> None:
    told: list[str] = []
    slow = Script(
        execute("SELECT pg_sleep(1.6)")
        + "\nif not op.get_context().as_sql:\n    import time\n    time.sleep(2)"
    )
    with ready(staging({"a1": TABLE, "b2": slow}), fresh_database) as go:
        go(on_progress=told.append)

    assert told == [
        "b2: SELECT pg_sleep(1.6) for 1 s",
        "b2: Python is at work, without a statement for 1 s",
    ]


def test_statement_that_waits_for_a_lock_names_who_holds_it(fresh_database: Target) -> None:
    told: list[str] = []
    with connect(fresh_database) as connection:
        connection.cursor().execute("CREATE TABLE a (id int)")
    with holding(fresh_database, "SELECT FROM a", release_after_s=1.6) as pid:
        with connect(fresh_database) as connection:
            own = connection.info.backend_pid
            with watching(fresh_database, lambda: own, "b2", told.append):
                connection.cursor().execute("ALTER TABLE a ADD COLUMN x int")

    (line,) = told
    assert line.startswith("b2: ALTER TABLE a ADD COLUMN x int for 1 s, it waits for ")
    assert f"pid {pid} (postgres, the app, idle in transaction, its transaction open" in line


def test_failing_second_revision_leaves_the_first(staging: Staging, fresh_database: Target) -> None:
    done: list[StepResult] = []
    project = staging({"a1": TABLE, "b2": ADD_COLUMN, "c3": FAILING, "d4": SECOND})
    with ready(project, fresh_database) as go:
        with pytest.raises(MigrationFailed) as caught:
            go(on_step=lambda result, reached: done.append(result))

        assert current(go) == ("b2",)
    assert caught.value.revision == "c3"
    assert [result.revision for result in done] == ["b2"]
    with connect(fresh_database) as connection:
        assert table_names(connection) == ["public.a", "public.alembic_version"]


def test_interrupt_rolls_back_the_revision_under_way_and_the_child_serves_on(
    staging: Staging, fresh_database: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Script(execute("CREATE TABLE late ()", "SELECT pg_sleep(30)"))
    with ready(staging({"a1": TABLE, "b2": slow}), fresh_database) as go:
        real = Alembic.run

        def run(self: Alembic, step: object, **options: object) -> StepResult:
            def interrupt(event: dict[str, object]) -> None:
                if "pg_sleep" in str(event.get("sql")):
                    raise KeyboardInterrupt

            return real(self, step, **{**options, "on_event": interrupt})  # type: ignore[arg-type]

        monkeypatch.setattr(apply_module.Alembic, "run", run)
        with pytest.raises(KeyboardInterrupt):
            go()

        with connect(fresh_database) as connection:
            sleeping = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(30)'"
            assert fetch_value(connection, f"{sleeping} AND pid <> pg_backend_pid()") == 0
            assert "public.late" not in table_names(connection)
        assert current(go) == ("a1",)


def test_plan_undone_leads_back_to_where_it_began(staging: Staging, fresh_database: Target) -> None:
    project = staging({"a1": TABLE, "b2": SECOND})
    with ready(project, fresh_database) as go:
        go()
        alembic = go.alembic  # type: ignore[attr-defined]
        target = project.target(fresh_database)
        with connect(target) as connection:
            server = server_info(connection)
        back = build_plan(target, alembic, alembic.graph(), direction="downgrade", to="a1")
        applied = apply_plan(
            target, server, alembic, back, QUICK,
            check_lock=lambda: None,
            on_progress=lambda text: None, on_step=lambda result, reached: None,
        )  # fmt: skip

    assert (applied.direction, applied.to_revisions) == ("downgrade", ("a1",))
    assert replace(applied, steps=()).steps == ()
    with connect(fresh_database) as connection:
        assert "public.b" not in table_names(connection)
