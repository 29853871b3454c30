"""The engine of `rehearse`: what a trip up, down and up again finds, by revision and object."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator

import pytest

from builders import Project, Script, execute, staging_project
from playbook import sandbox
from playbook.errors import WrongDatabase
from playbook.rehearsals import Passage, Rehearsed, RoundTrip
from playbook.round_trip import run_round_trip
from playbook.targets import PROJECT_INI, Target, load_target
from steps import run_sql

ROWS = 20_000
STATEMENTS = (
    "CREATE TABLE people (id int PRIMARY KEY, name text NOT NULL, nick text, born text)",
    f"INSERT INTO people SELECT n, 'n' || n, 'k' || n, (1900 + n % 100)::text "
    f"FROM generate_series(1, {ROWS}) n",
    "INSERT INTO people VALUES (0, 'zero', NULL, 'unknown')",
    "CREATE TABLE small (id int PRIMARY KEY)",
    "INSERT INTO small VALUES (1)",
)
STAMP = (
    "CREATE TABLE alembic_version (version_num text PRIMARY KEY)",
    "INSERT INTO alembic_version VALUES ('first')",
)
HARMLESS = Script(
    execute("CREATE TABLE note (id int)", "ALTER TABLE small ADD COLUMN remark text"),
    execute("DROP TABLE note", "ALTER TABLE small DROP COLUMN remark"),
)
DROP_NICK = "ALTER TABLE people DROP COLUMN nick"
COUNTS = (
    "CREATE FUNCTION count_up() RETURNS trigger LANGUAGE plpgsql AS "
    "'BEGIN INSERT INTO small SELECT max(id) + 1 FROM small; RETURN NEW; END'",
    "CREATE TRIGGER t AFTER UPDATE ON people FOR EACH ROW EXECUTE FUNCTION count_up()",
    "UPDATE people SET name = 'x' WHERE id <= 5",
    "DELETE FROM people WHERE id > 19990",
    "DROP TRIGGER t ON people",
)
CHAIN = {
    "first": Script(execute(*STATEMENTS), execute("DROP TABLE people, small")),
    "harmless": HARMLESS,
    "loses": Script(execute(DROP_NICK), execute("ALTER TABLE people ADD COLUMN nick text")),
    "declares": Script(
        "# playbook: changes people.name because nobody has one any more\n"
        + execute("UPDATE people SET name = 'x' WHERE id < 10"),
        "pass",
    ),
    "leaves": Script(
        execute(
            "ALTER TABLE small ADD COLUMN mood text",
            "CREATE INDEX IF NOT EXISTS people_born ON people (born)",
            "GRANT SELECT ON people TO PUBLIC",
            "COMMENT ON TABLE small IS 'moody'",
        ),
        execute("ALTER TABLE small DROP COLUMN mood"),
    ),
    "rewrites": Script(
        execute("ALTER TABLE people ALTER COLUMN id TYPE bigint"),
        execute("ALTER TABLE people ALTER COLUMN id TYPE int"),
    ),
    "concurrent": Script(
        """
        with op.get_context().autocommit_block():
            op.execute("CREATE INDEX CONCURRENTLY people_name ON people (name)")
        """,
        execute("DROP INDEX people_name"),
    ),
    "random": Script(
        execute("ALTER TABLE people ADD COLUMN token uuid DEFAULT gen_random_uuid()"),
        execute("ALTER TABLE people DROP COLUMN token"),
    ),
    "renames": Script(
        execute("ALTER TABLE people RENAME COLUMN name TO alias", "ALTER TABLE small RENAME TO s"),
        execute("ALTER TABLE people RENAME COLUMN alias TO name", "ALTER TABLE s RENAME TO small"),
    ),
    "back": Script(
        execute("ALTER TABLE people RENAME COLUMN alias TO name", "ALTER TABLE s RENAME TO small"),
        execute("ALTER TABLE people RENAME COLUMN name TO alias", "ALTER TABLE small RENAME TO s"),
    ),
    "waits": Script(
        execute(
            "ALTER TABLE small ADD COLUMN x int",
            "SELECT pg_sleep(0.2)",
            "ALTER TABLE people ADD COLUMN x int",
        ),
        execute("ALTER TABLE small DROP COLUMN x", "ALTER TABLE people DROP COLUMN x"),
    ),
    "by_design": Script(execute(*COUNTS), "raise NotImplementedError"),
    "one_way": Script("pass", None),
    "broken_down": Script("pass", execute("DROP TABLE nowhere")),
    "by_rows": Script(
        execute("ALTER TABLE people ALTER COLUMN born TYPE int USING born::int"),
        execute("ALTER TABLE people ALTER COLUMN born TYPE text"),
    ),
    "never": HARMLESS,
}
Take = Callable[..., RoundTrip]


@pytest.fixture(scope="module")
def trip(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RoundTrip]:
    """One trip through a chain whose revisions have each a fault of its own."""
    shared = sandbox.sandbox_folder(PROJECT_INI.parent)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sandbox, "sandbox_folder", lambda project: shared)
        project = staging_project(tmp_path_factory.mktemp("chain") / "project", CHAIN)
        target = load_target(f"sandbox:test_{secrets.token_hex(6)}", project.ini)
        target = sandbox.open_target(target, state="empty")
        run_sql(target, *STATEMENTS, *STAMP)
        yield run_round_trip(target)
        sandbox.drop_database(target)


@pytest.fixture
def take(staging: Callable[..., Project], fresh_database: Target) -> Take:
    """Take a project's further revisions on a trip, from its first one with rows in it."""

    def go(*further: Script, to: str = "head") -> RoundTrip:
        scripts = {"first": CHAIN["first"]} | {f"r{n + 1}": s for n, s in enumerate(further)}
        target = staging(scripts).target(fresh_database)
        run_sql(target, *STATEMENTS, *STAMP)
        return run_round_trip(target, to)

    return go


def found(trip: RoundTrip, revision: str) -> list[tuple[str, str, str, str]]:
    return [
        (t.code, str(t.severity), t.direction, t.object)
        for t in trip.troubles
        if t.revision == revision
    ]


def passed(trip: RoundTrip, revision: str) -> Rehearsed:
    return next(one for one in trip.revisions if one.revision == revision)


def up(trip: RoundTrip, revision: str) -> Passage:
    passage = passed(trip, revision).up
    assert passage
    return passage


def test_a_revision_without_faults_has_no_trouble(trip: RoundTrip) -> None:
    assert found(trip, "harmless") == []
    assert passed(trip, "harmless").again


def test_a_revision_that_loses_data_on_the_way_down_is_named_with_its_column(
    trip: RoundTrip,
) -> None:
    assert ("loses-data", "STOP", "downgrade", "public.people.nick") in found(trip, "loses")
    [lost] = [t for t in trip.stops if t.revision == "loses"]
    assert "20,000 values became 0" in lost.detail


def test_what_is_declared_to_change_is_no_stop(trip: RoundTrip) -> None:
    assert found(trip, "declares") == [("loses-data", "WARN", "downgrade", "public.people.name")]


def test_a_downgrade_that_leaves_a_trace_is_named_with_each_object(trip: RoundTrip) -> None:
    traces = {t.object for t in trip.stops if t.code == "trace" and t.revision == "leaves"}

    assert traces == {"public.people_born", "public.people to PUBLIC", "table public.small"}


def test_what_a_downgrade_leaves_may_fail_the_second_upgrade_and_ends_the_trip(take: Take) -> None:
    mood = execute("CREATE TYPE mood AS ENUM ('good')")

    trip = take(Script(mood, "pass"), HARMLESS)

    codes = [(t.code, t.direction, t.object) for t in trip.stops]
    assert codes == [("trace", "downgrade", "public.mood"), ("failed", "upgrade", "")]
    assert "(SQLSTATE 42710)" in trip.stops[1].detail
    assert "passed the first time" in trip.stops[1].detail
    assert (trip.reached, trip.is_complete) == (("first",), False)


def test_a_revision_that_rewrites_a_table_is_named_with_it_and_its_lock_measured(
    trip: RoundTrip,
) -> None:
    assert ("rewrites", "WARN", "upgrade", "public.people") in found(trip, "rewrites")
    passage = up(trip, "rewrites")
    [lock] = [one for one in passage.held if one.mode == "AccessExclusiveLock"]
    assert lock.table == "public.people"
    assert 0.001 < lock.held_s <= passage.duration_s
    assert passage.rewritten == ("public.people",)
    assert passage.wal_bytes > 500_000


def test_a_revision_that_is_not_transactional_is_named_with_its_index(trip: RoundTrip) -> None:
    assert found(trip, "concurrent") == [
        ("not-transactional", "WARN", "upgrade", "public.people_name")
    ]
    assert up(trip, "concurrent").held == (), "CONCURRENTLY keeps nobody waiting"


def test_a_revision_that_fails_on_the_rows_alone_is_told_from_one_that_always_fails(
    trip: RoundTrip, take: Take
) -> None:
    [failed] = [t for t in trip.stops if t.revision == "by_rows"]
    always = take(Script(execute("SELECT 1 / 0")))

    assert (failed.code, failed.direction, failed.object) == ("failed", "upgrade", "public.people")
    assert "unknown" in failed.detail
    assert "passes on an empty copy" in failed.detail
    assert "fails on an empty copy" in always.stops[0].detail


def test_a_revision_that_fails_ends_the_trip_at_the_one_before(trip: RoundTrip) -> None:
    assert trip.reached == ("broken_down",)
    assert not trip.is_complete
    assert [one.revision for one in trip.revisions][-1] == "by_rows"
    assert passed(trip, "by_rows").up is None


def test_a_column_that_rows_break_is_named(take: Take) -> None:
    trip = take(Script(execute("ALTER TABLE people ALTER COLUMN nick SET NOT NULL")))

    assert trip.stops[0].object == "public.people.nick"


@pytest.mark.parametrize("revision", ["by_design", "one_way"])
def test_a_revision_without_a_way_down_goes_up_only(trip: RoundTrip, revision: str) -> None:
    assert found(trip, revision) == [("irreversible", "WARN", "downgrade", "")]
    one = passed(trip, revision)
    assert (bool(one.up), one.down, one.again) == (True, None, None)


def test_a_downgrade_that_fails_is_a_finding_and_the_trip_goes_on(trip: RoundTrip) -> None:
    assert found(trip, "broken_down") == [("failed", "STOP", "downgrade", "public.nowhere")]


def test_values_that_a_second_upgrade_makes_differently_are_named(trip: RoundTrip) -> None:
    troubles = found(trip, "random")

    assert ("not-repeatable", "WARN", "upgrade", "public.people.token") in troubles
    assert ("drops-data", "WARN", "downgrade", "public.people.token") in troubles


@pytest.mark.parametrize("revision", ["renames", "back"])
def test_a_renamed_column_or_table_is_no_loss_on_either_way(trip: RoundTrip, revision: str) -> None:
    assert found(trip, revision) == []


def test_rows_written_are_counted_with_those_of_triggers_and_those_that_are_deleted(
    trip: RoundTrip,
) -> None:
    assert up(trip, "by_design").rows == (("public.people", 16), ("public.small", 6))


def test_locks_count_from_their_statement_until_the_commit(trip: RoundTrip) -> None:
    held = {one.table: one.held_s for one in up(trip, "waits").held}

    assert held["public.small"] >= 0.2
    assert held["public.people"] < held["public.small"] - 0.19


def test_another_database_than_the_copy_is_not_written_to(
    staging: Callable[..., Project], fresh_database: Target, legacy_database: Target
) -> None:
    url = repr(legacy_database.sqlalchemy_url())
    target = staging({"r0": CHAIN["first"]}, url=url).target(fresh_database)

    with pytest.raises(WrongDatabase, match="before it could write"):
        run_round_trip(target)


def test_nothing_to_run_is_an_empty_trip(take: Take) -> None:
    trip = take()

    assert (trip.revisions, trip.troubles, trip.is_complete) == ((), (), True)


def test_a_plan_that_cannot_be_had_is_a_finding(take: Take) -> None:
    asks = "if op.get_bind().execute(sa.text('SELECT 1')).scalar(): raise ValueError('no rows')"

    trip = take(Script(asks))

    [trouble] = trip.stops
    assert (trouble.code, trouble.revision) == ("unplannable", "r1")
    assert not trip.is_complete


def test_a_revision_that_ends_its_process_is_a_finding(take: Take) -> None:
    dies = """
    if op.get_bind().execute(sa.text("SELECT count(*) FROM people")).scalar():
        __import__("os")._exit(3)
    """

    trip = take(Script(dies))

    [failed] = trip.stops
    assert (failed.code, failed.revision) == ("failed", "r1")
    assert "exit code 3" in failed.detail
    assert trip.reached == ("first",)
