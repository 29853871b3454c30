"""The engine of `rehearse`: what a trip up, down and up again finds, by revision and object."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from builders import Project, Script, execute
from playbook.database import connect
from playbook.errors import SettingsError, WrongDatabase
from playbook.rehearsals import RoundTrip
from playbook.round_trip import run_round_trip
from playbook.targets import Target

ROWS = 20_000
STATEMENTS = (
    "CREATE TABLE people (id int PRIMARY KEY, name text NOT NULL, nick text, born text)",
    f"INSERT INTO people SELECT n, 'n' || n, 'k' || n, (1900 + n % 100)::text "
    f"FROM generate_series(1, {ROWS}) n",
    "INSERT INTO people VALUES (0, 'zero', NULL, 'unknown')",
    "CREATE TABLE small (id int PRIMARY KEY)",
    "INSERT INTO small VALUES (1)",
)
BASE = Script(execute(*STATEMENTS), execute("DROP TABLE people, small"))
LOSES = Script(
    execute("ALTER TABLE people DROP COLUMN nick"),
    execute("ALTER TABLE people ADD COLUMN nick text"),
)
TRACE = Script(
    execute(
        "CREATE TYPE mood AS ENUM ('good', 'bad')",
        "ALTER TABLE small ADD COLUMN mood mood",
        "CREATE INDEX small_mood ON small (mood)",
        "GRANT SELECT ON people TO PUBLIC",
        "COMMENT ON TABLE small IS 'moody'",
    ),
    execute("ALTER TABLE small DROP COLUMN mood"),
)
REWRITES = Script(
    execute("ALTER TABLE people ALTER COLUMN id TYPE bigint"),
    execute("ALTER TABLE people ALTER COLUMN id TYPE int"),
)
NOT_TRANSACTIONAL = Script(
    """
    with op.get_context().autocommit_block():
        op.execute("CREATE INDEX CONCURRENTLY people_name ON people (name)")
    """,
    execute("DROP INDEX people_name"),
)
FAILS_ON_ROWS = Script(
    execute("ALTER TABLE people ALTER COLUMN born TYPE int USING born::int"),
    execute("ALTER TABLE people ALTER COLUMN born TYPE text"),
)
HARMLESS = Script(
    execute("CREATE TABLE note (id int)", "ALTER TABLE small ADD COLUMN remark text"),
    execute("DROP TABLE note", "ALTER TABLE small DROP COLUMN remark"),
)
Take = Callable[..., RoundTrip]


@pytest.fixture
def take(staging: Callable[..., Project], fresh_database: Target) -> Take:
    """Take a project's further revisions on a round trip, from its first one with rows in it."""

    def go(*further: Script, to: str = "head") -> RoundTrip:
        scripts = {f"r{number}": script for number, script in enumerate((BASE, *further))}
        target = staging(scripts).target(fresh_database)
        run_sql(target, *STATEMENTS, "CREATE TABLE alembic_version (version_num text PRIMARY KEY)",
                "INSERT INTO alembic_version VALUES ('r0')")  # fmt: skip
        return run_round_trip(target, to)

    return go


def run_sql(target: Target, *statements: str) -> None:
    with connect(target) as connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def found(trip: RoundTrip) -> list[tuple[str, str, str, str, str]]:
    return [(t.code, str(t.severity), t.revision, t.direction, t.object) for t in trip.troubles]


def test_a_revision_that_loses_data_on_the_way_down_is_named_with_its_column(take: Take) -> None:
    trip = take(HARMLESS, LOSES)

    assert ("loses-data", "STOP", "r2", "downgrade", "public.people.nick") in found(trip)
    assert trip.is_complete
    [lost] = [t for t in trip.stops if t.code == "loses-data"]
    assert "20,000 values became 0" in lost.detail


def test_what_is_declared_to_change_is_no_stop(take: Take) -> None:
    declared = Script(LOSES.upgrade + "\n# playbook: changes people.nick because nobody has one",
                      LOSES.downgrade)  # fmt: skip

    trip = take(declared)

    assert ("loses-data", "WARN", "r1", "downgrade", "public.people.nick") in found(trip)
    assert not trip.stops


def test_a_downgrade_that_leaves_a_trace_is_named_with_each_object(take: Take) -> None:
    trip = take(TRACE)

    traces = {t.object for t in trip.stops if t.code == "trace" and t.revision == "r1"}
    assert any("mood" in name and "small" not in name for name in traces)
    assert any("people" in name for name in traces), "the privilege"
    assert any("small" in name for name in traces), "the comment"
    assert ("failed", "STOP", "r1", "upgrade") in [row[:4] for row in found(trip)]
    assert not trip.is_complete


def test_a_revision_that_rewrites_a_table_is_named_with_it_and_its_lock_measured(
    take: Take,
) -> None:
    trip = take(REWRITES)

    rewrites = [row for row in found(trip) if row[0] == "rewrites"]
    assert ("rewrites", "WARN", "r1", "upgrade", "public.people") in rewrites
    up = trip.revisions[0].up
    assert up is not None
    [lock] = [one for one in up.held if one.mode == "AccessExclusiveLock"]
    assert lock.table == "public.people"
    assert 0.001 < lock.held_s <= up.duration_s
    assert up.wal_bytes > 500_000


def test_a_revision_that_is_not_transactional_is_named_with_its_index(take: Take) -> None:
    trip = take(NOT_TRANSACTIONAL)

    assert ("not-transactional", "WARN", "r1", "upgrade", "public.people_name") in found(trip)
    assert trip.is_complete
    assert not trip.stops
    assert trip.revisions[0].up is not None
    assert trip.revisions[0].up.held == (), "CONCURRENTLY keeps nobody waiting"


def test_a_revision_that_fails_on_the_rows_alone_is_told_from_one_that_always_fails(
    take: Take,
) -> None:
    trip = take(HARMLESS, FAILS_ON_ROWS, HARMLESS)

    [failed] = trip.stops
    assert (failed.code, failed.revision, failed.object) == ("failed", "r2", "public.people")
    assert "unknown" in failed.detail
    assert "passes on an empty copy" in failed.detail
    assert trip.reached == ("r1",)
    assert [one.revision for one in trip.revisions] == ["r1", "r2"]
    assert trip.revisions[1].up is None


def test_a_revision_that_fails_anywhere_says_so(take: Take) -> None:
    trip = take(Script(execute("SELECT 1 / 0")))

    [failed] = trip.stops
    assert "fails on an empty copy" in failed.detail


def test_a_constraint_that_rows_break_is_named(take: Take) -> None:
    trip = take(Script(execute("ALTER TABLE people ALTER COLUMN nick SET NOT NULL")))

    assert trip.stops[0].object == "public.people.nick"


@pytest.mark.parametrize("downgrade", [None, "raise NotImplementedError"])
def test_a_revision_without_a_way_down_goes_up_only(take: Take, downgrade: str | None) -> None:
    trip = take(Script(HARMLESS.upgrade, downgrade), REWRITES)

    assert ("irreversible", "WARN", "r1", "downgrade", "") in found(trip)
    assert not trip.stops
    assert [(bool(r.up), bool(r.down), bool(r.again)) for r in trip.revisions] == [
        (True, False, False), (True, True, True),
    ]  # fmt: skip


def test_a_downgrade_that_fails_is_a_finding_and_the_trip_goes_on(take: Take) -> None:
    trip = take(Script(HARMLESS.upgrade, execute("DROP TABLE nowhere")), REWRITES)

    assert ("failed", "STOP", "r1", "downgrade", "public.nowhere") in found(trip)
    assert trip.reached == ("r2",)


def test_values_that_a_second_upgrade_makes_differently_are_named(take: Take) -> None:
    random = Script(
        execute("ALTER TABLE people ADD COLUMN token uuid DEFAULT gen_random_uuid()"),
        execute("ALTER TABLE people DROP COLUMN token"),
    )

    trip = take(random)

    assert ("not-repeatable", "WARN", "r1", "upgrade", "public.people.token") in found(trip)
    assert ("drops-data", "WARN", "r1", "downgrade", "public.people.token") in found(trip)


def test_a_renamed_column_is_no_loss_on_either_way(take: Take) -> None:
    trip = take(
        Script(
            execute(
                "ALTER TABLE people RENAME COLUMN nick TO alias", "ALTER TABLE small RENAME TO s"
            ),
            execute(
                "ALTER TABLE people RENAME COLUMN alias TO nick", "ALTER TABLE s RENAME TO small"
            ),
        )
    )

    assert found(trip) == []


def test_rows_written_are_counted_with_those_of_triggers_and_those_that_are_deleted(
    take: Take,
) -> None:
    trip = take(
        Script(
            execute(
                "CREATE FUNCTION count_up() RETURNS trigger LANGUAGE plpgsql AS "
                "'BEGIN INSERT INTO small SELECT max(id) + 1 FROM small; RETURN NEW; END'",
                "CREATE TRIGGER t AFTER UPDATE ON people FOR EACH ROW EXECUTE FUNCTION count_up()",
                "UPDATE people SET nick = 'x' WHERE id <= 5",
                "DELETE FROM people WHERE id > 19990",
            ),
            "raise NotImplementedError",
        )
    )

    assert trip.revisions[0].up is not None
    assert trip.revisions[0].up.rows == (("public.people", 16), ("public.small", 6))


def test_locks_count_from_their_statement_until_the_commit(take: Take) -> None:
    trip = take(
        Script(
            execute("ALTER TABLE small ADD COLUMN x int", "SELECT pg_sleep(0.2)",
                    "ALTER TABLE people ADD COLUMN x int"),
            execute("ALTER TABLE small DROP COLUMN x", "ALTER TABLE people DROP COLUMN x"),
        )
    )  # fmt: skip

    assert trip.revisions[0].up is not None
    held = {one.table: one.held_s for one in trip.revisions[0].up.held}
    assert 0.2 <= held["public.small"] < 0.5
    assert held["public.people"] < 0.2


def test_another_database_than_the_copy_is_not_written_to(
    staging: Callable[..., Project], fresh_database: Target, legacy_database: Target
) -> None:
    url = repr(legacy_database.sqlalchemy_url())
    target = staging({"r0": BASE}, url=url).target(fresh_database)

    with pytest.raises(WrongDatabase, match="before it could write"):
        run_round_trip(target)


def test_a_target_not_there_is_refused(take: Take) -> None:
    with pytest.raises(SettingsError, match="nowhere"):
        take(HARMLESS, to="nowhere")


def test_nothing_to_run_is_an_empty_trip(take: Take) -> None:
    trip = take()

    assert (trip.revisions, trip.troubles, trip.is_complete) == ((), (), True)


def test_a_plan_that_cannot_be_had_is_a_finding(take: Take) -> None:
    asks = "if op.get_bind().execute(sa.text('SELECT 1')).scalar(): raise ValueError('no rows')"

    trip = take(Script(asks))

    assert found(trip) == [("unplannable", "STOP", "r1", "upgrade", "")]
