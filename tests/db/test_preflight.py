"""Each question before a change, with an answer that lets go on and one that does not."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import psycopg2.errors
import pytest
from psycopg2.extensions import connection as Connection

from builders import make_graph
from playbook import obstacles, preflight
from playbook.database import advisory_lock, connect, fetch, server_info
from playbook.errors import DatabaseError, LockNotAcquired
from playbook.migrate import CONCURRENTLY_TIMEOUT
from playbook.preflight import Question, check
from playbook.records import (
    DataCheckResult,
    DataChecks,
    Finding,
    Receipt,
    RevisionGraph,
    ServerInfo,
    Severity,
)
from playbook.targets import Target, load_target
from servers import PASSWORD, PrivateServer
from steps import run_sql

DOTTED = 'CREATE SCHEMA "a.b"; CREATE TABLE "a.b".t (id int)'
GRAPH = make_graph("a<-b", current=("a",))


def ask(
    target: Target,
    graph: RevisionGraph = GRAPH,
    server: ServerInfo | None = None,
    **question: object,
) -> dict[str, Finding]:
    with connect(target) as connection:
        found = server or server_info(connection)
    checks = check(target, found, Question(graph=graph, **question))  # type: ignore[arg-type]
    return {finding.code: finding for finding in checks.findings}


def info(target: Target) -> ServerInfo:
    with connect(target) as connection:
        return server_info(connection)


def test_sound_database_is_ok_in_every_respect(fresh_database: Target, tmp_path: Path) -> None:
    run_sql(fresh_database, "CREATE TABLE alembic_version (v text)", "CREATE TABLE t (x int)")

    found = ask(fresh_database, tables=["public.t"], backup_folder=tmp_path / "not" / "yet")

    assert {"server", "version-table", "heads", "privileges", "other-run", "disk-room",
            "pg-dump", "invalid-indexes", "open-transactions"} <= set(found)  # fmt: skip
    assert {f.severity for f in found.values()} == {Severity.OK}, found


@pytest.mark.parametrize(
    ("changes", "severity"),
    [({"in_recovery": True}, Severity.STOP), ({"version_num": 120005}, Severity.WARN)],
)
def test_standby_stops_and_an_old_server_warns(
    fresh_database: Target, changes: dict[str, object], severity: Severity
) -> None:
    server = replace(info(fresh_database), **changes)  # type: ignore[arg-type]

    assert ask(fresh_database, server=server)["server"].severity is severity


def test_tables_without_a_version_and_unknown_revisions_stop(fresh_database: Target) -> None:
    unknown = ask(fresh_database, make_graph("a", current=("gone",)))
    run_sql(fresh_database, "CREATE TABLE t (x int)")
    bare = ask(fresh_database, make_graph("a"))

    for found, said in ((unknown, "gone, which no revision file has"), (bare, "without Alembic")):
        assert found["version-table"].severity is Severity.STOP
        assert said in found["version-table"].detail


@pytest.mark.parametrize(
    ("current", "said"),
    [
        (("a", "b"), "It holds a beside b, which already stands on it."),
        (("b", "b"), "It holds b more than once."),
    ],
)
def test_rows_of_the_version_table_that_cannot_be_stop(
    fresh_database: Target, current: tuple[str, ...], said: str
) -> None:
    found = ask(fresh_database, make_graph("a<-b", current=current))["version-table"]

    assert (found.severity, found.detail) == (Severity.STOP, said)


def test_rows_of_two_branches_are_as_alembic_has_them(fresh_database: Target) -> None:
    found = ask(fresh_database, make_graph("a<-b a<-c", current=("b", "c")))["version-table"]

    assert found.severity is Severity.OK


def test_several_heads_and_edited_files_warn(fresh_database: Target) -> None:
    found = ask(fresh_database, make_graph("a<-b a<-c"), edited=["b"])

    assert found["heads"].severity is Severity.WARN
    assert found["revision-files"].severity is Severity.WARN


@pytest.mark.parametrize("name", ["t", "Mixed Case", 'quo"te'])
def test_table_of_another_role_stops_only_where_the_plan_names_it(
    fresh_database: Target, name: str
) -> None:
    quoted = name.replace('"', '""')
    role = fresh_database.database
    run_sql(
        fresh_database, f'CREATE TABLE "{quoted}" (x int)', f"CREATE ROLE {role} LOGIN",
        f"GRANT CREATE ON SCHEMA public TO {role}",
    )  # fmt: skip
    weak = fresh_database.with_conninfo(user=role)
    try:
        touched = ask(weak, tables=[f"public.{name}"])["privileges"]
        untouched = ask(weak, tables=["public.other"])["privileges"]
    finally:
        run_sql(fresh_database, f"DROP OWNED BY {role}", f"DROP ROLE {role}")

    assert touched.severity is Severity.STOP
    assert f"table public.{name}: owner is postgres" in touched.subject
    assert untouched.severity is Severity.OK


@pytest.fixture
def weak(fresh_database: Target) -> Iterator[Target]:
    """A role that may log in and nothing else, where ``t``, ``s.t`` and types are another's."""
    role = fresh_database.database
    run_sql(
        fresh_database, "CREATE SCHEMA s", "CREATE TABLE t (x int PRIMARY KEY)",
        "CREATE TABLE s.t (x int)", "CREATE TYPE kind AS ENUM ('a')", "CREATE SEQUENCE numbers",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE TABLE alembic_version (version_num text)", f"CREATE ROLE {role} LOGIN",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON alembic_version TO {role}",
        f"REVOKE CREATE ON SCHEMA public FROM PUBLIC; GRANT USAGE ON SCHEMA s TO {role}",
    )  # fmt: skip
    try:
        yield fresh_database.with_conninfo(user=role)
    finally:
        run_sql(fresh_database, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


@pytest.mark.parametrize(
    ("sql", "lacking"),
    [
        ("ALTER TABLE t ADD y int", "table public.t: owner is postgres"),
        ("ALTER TABLE s.t ADD y int", "table s.t: owner is postgres"),
        ("DROP TABLE s.t", "table s.t: owner is postgres"),
        ("CREATE TABLE n (x int)", "schema public: CREATE"),
        ("CREATE TABLE s.n (x int)", "schema s: CREATE"),
        ("CREATE TEMP TABLE n (x int REFERENCES t)", "table public.t: REFERENCES"),
        ("CREATE SCHEMA n", "database {}: CREATE"),
        ("INSERT INTO t VALUES (1)", "table public.t: INSERT"),
        ("UPDATE t SET x = 1", "table public.t: UPDATE"),
        ("DELETE FROM t", "table public.t: DELETE"),
        ("SELECT x FROM t", "table public.t: SELECT"),
        ("TRUNCATE t", "table public.t: TRUNCATE"),
        ("ALTER TYPE kind ADD VALUE 'b'", "type public.kind: owner is postgres"),
        ("ALTER SEQUENCE numbers RESTART", "sequence public.numbers: owner is postgres"),
        ("DROP FUNCTION f()", "function public.f: owner is postgres"),
        ("CREATE EXTENSION vector", "extension vector: superuser"),
        ("CREATE EXTENSION nowhere", "extension nowhere: this server does not have it"),
    ],
)
def test_each_missing_privilege_is_named_and_postgresql_refuses_it(
    weak: Target, sql: str, lacking: str
) -> None:
    found = ask(weak, sql=f"{sql};")["privileges"]

    assert found.severity is Severity.STOP
    assert found.subject == lacking.format(weak.database)
    assert found.why
    with pytest.raises(DatabaseError):
        run_sql(weak, sql)


@pytest.mark.parametrize(
    "sql",
    [
        "ALTER TABLE nowhere ADD y int",
        "DROP TABLE IF EXISTS nowhere",
        "CREATE TEMP TABLE n (x int)",
        "UPDATE alembic_version SET version_num = 'b'",
        "SELECT 1",
    ],
)
def test_what_asks_for_no_privilege_passes(weak: Target, sql: str) -> None:
    assert ask(weak, sql=f"{sql};")["privileges"].severity is Severity.OK


def test_member_of_the_owner_and_maker_of_an_object_lack_nothing(weak: Target) -> None:
    owner = weak.with_conninfo(user="postgres")
    role, group = weak.database, f"{weak.database}_app"
    run_sql(owner, f"CREATE ROLE {group}", f"GRANT {group} TO {role}",
            f"ALTER TABLE t OWNER TO {group}", f"GRANT CREATE ON SCHEMA s TO {role}",
            f"GRANT CREATE ON DATABASE {owner.database} TO {role}")  # fmt: skip
    sql = (
        "ALTER TABLE t ADD y int; CREATE SCHEMA own; CREATE TABLE own.n (x int REFERENCES t);"
        "CREATE INDEX ON own.n (x); CREATE TABLE s.n (x int); ALTER TABLE s.n ADD y int;"
    )
    try:
        found = ask(weak, sql=sql)["privileges"]
        run_sql(weak, sql)
    finally:
        run_sql(owner, f"DROP OWNED BY {group} CASCADE", f"DROP ROLE {group}")

    assert found.severity is Severity.OK, found.subject


def test_role_that_may_not_write_the_version_table_stops(weak: Target) -> None:
    owner = weak.with_conninfo(user="postgres")
    run_sql(owner, f"REVOKE UPDATE, INSERT ON alembic_version FROM {weak.database}")

    found = ask(weak, sql="SELECT 1;")["privileges"]

    assert (
        found.subject
        == "table public.alembic_version: INSERT; table public.alembic_version: UPDATE"
    )


def test_role_that_cannot_keep_the_history_is_warned_until_it_can(weak: Target) -> None:
    owner = weak.with_conninfo(user="postgres")
    none = ask(weak, sql="SELECT 1;")["history"]
    run_sql(owner, "CREATE SCHEMA playbook", "CREATE TABLE playbook.history (x int)")
    unseen = ask(weak, sql="SELECT 1;")["history"]
    run_sql(owner, f"GRANT USAGE ON SCHEMA playbook TO {weak.database}",
            f"GRANT SELECT, INSERT, UPDATE ON playbook.history TO {weak.database}")  # fmt: skip
    granted = ask(weak, sql="SELECT 1;")["history"]

    severities = [finding.severity for finding in (none, unseen, granted)]
    assert severities == [Severity.WARN, Severity.WARN, Severity.OK]


def test_policies_on_the_plan_s_tables_stop_and_on_others_warn(weak: Target) -> None:
    owner = weak.with_conninfo(user="postgres")
    sound = ask(weak, tables=["public.t"])["row-level-security"]
    run_sql(owner, "ALTER TABLE t ENABLE ROW LEVEL SECURITY")
    planned = ask(weak, tables=["public.t"])["row-level-security"]
    other = ask(weak, tables=["s.t"])["row-level-security"]
    superuser = ask(owner, tables=["public.t"])["row-level-security"]

    assert (planned.severity, planned.subject) == (Severity.STOP, "public.t")
    assert (other.severity, other.subject) == (Severity.WARN, "public.t")
    assert (sound.severity, superuser.severity) == (Severity.OK, Severity.OK)


def test_room_on_the_server_is_told_where_it_can_be_and_not_invented(
    fresh_database: Target, weak: Target
) -> None:
    told = ask(fresh_database, sql="SELECT 1;", tables=["public.t"])["server-room"]
    hidden = ask(weak, sql="SELECT 1;", tables=["public.t"])["server-room"]
    elsewhere = replace(info(fresh_database), system_identifier="1")
    other = ask(fresh_database, server=elsewhere, sql="SELECT 1;")["server-room"]

    assert told.severity is Severity.OK
    assert {hidden.severity, other.severity} == {Severity.WARN}
    assert "cannot be told" in hidden.detail


def test_data_checks_that_fail_already_are_named_with_their_rows(fresh_database: Target) -> None:
    broken = DataCheckResult("a", "no_orphans", "", 3)
    sound = DataCheckResult("a", "unique", "", 0)

    found = ask(fresh_database, checks=DataChecks((broken, sound)))["data-checks"]

    assert (found.severity, found.subject) == (Severity.WARN, "no_orphans")
    assert "Broken already before the upgrade: no_orphans (3 rows)" in found.detail
    assert ask(fresh_database, checks=DataChecks((sound,)))["data-checks"].severity is Severity.OK
    assert "data-checks" not in ask(fresh_database)


def test_unvalidated_constraint_warns(fresh_database: Target) -> None:
    run_sql(fresh_database, "CREATE TABLE t (x int)",
            "ALTER TABLE t ADD CONSTRAINT positive CHECK (x > 0) NOT VALID")  # fmt: skip

    found = ask(fresh_database)["unvalidated-constraints"]

    assert (found.severity, found.subject) == (Severity.WARN, "positive on public.t")


def test_slot_that_nobody_reads_warns_once_it_is_far_behind(
    password_server: PrivateServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "LATE_BYTES", 100)
    with password_server.database() as name:
        target = load_target(password_server.url(name)).with_conninfo(password=PASSWORD)
        run_sql(target, f"SELECT pg_create_physical_replication_slot('{name}', true)")
        run_sql(target, "CREATE TABLE t (x int)")
        found = ask(target)["standbys"]
        run_sql(target, f"SELECT pg_drop_replication_slot('{name}')")

    assert (found.severity, found.subject) == (Severity.WARN, f"slot {name}")
    assert "of WAL behind" in found.detail


def test_other_run_stops_and_is_named(fresh_database: Target) -> None:
    with advisory_lock(fresh_database):
        found = ask(fresh_database)["other-run"]

    assert found.severity is Severity.STOP
    assert "migration-playbook" in found.subject


ALTER = "AccessExclusiveLock"


def test_holder_of_the_plan_s_tables_warns_and_of_others_does_not(fresh_database: Target) -> None:
    run_sql(fresh_database, "CREATE TABLE t (x int)")
    app = fresh_database.with_conninfo(application_name="the app")
    with connect(app, autocommit=False) as holder:
        fetch(holder, "SELECT FROM t")
        pid = holder.info.backend_pid
        named = ask(fresh_database, locks={"public.t": ALTER})["lock-holders"]
        other = ask(fresh_database, locks={"public.u": ALTER})["lock-holders"]

    assert named.severity is Severity.WARN
    assert named.subject == f"pid {pid}"
    assert f"pid {pid}: postgres in the app, idle in transaction for " in named.detail
    assert "holds locks on public.t" in named.detail
    assert f"SELECT pg_terminate_backend({pid})" in named.remedy
    assert "its steps wait for them" in named.why
    assert other.severity is Severity.OK


def test_idle_transaction_is_named_apart_from_a_running_one(
    fresh_database: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(obstacles, "IDLE_TRANSACTION_S", 0.05)
    monkeypatch.setattr(obstacles, "LONG_TRANSACTION_S", 0.05)
    run_sql(fresh_database, "CREATE TABLE t (x int)")
    app = fresh_database.with_conninfo(application_name="the app")
    with (
        connect(app, autocommit=False) as idle,
        connect(app) as runner,
        ThreadPoolExecutor(1) as pool,
    ):
        fetch(idle, "SELECT FROM t")
        running = pool.submit(fetch, runner, "SELECT pg_sleep(2)")
        time.sleep(0.4)
        found = ask(fresh_database)
        running.result()
        pids = idle.info.backend_pid, runner.info.backend_pid

    assert found["idle-in-transaction"].subject == f"pid {pids[0]}"
    assert "idle in transaction for 0." in found["idle-in-transaction"].detail
    assert "holds locks on public.t" in found["idle-in-transaction"].detail
    assert found["open-transactions"].subject == f"pid {pids[1]}"
    assert "the app, active, transaction open for 0." in found["open-transactions"].detail
    assert {found[code].severity for code in ("idle-in-transaction", "open-transactions")} == {
        Severity.WARN
    }


BUILD = "CREATE INDEX CONCURRENTLY i ON t (x);"


def test_old_snapshot_warns_only_before_a_concurrent_build_which_then_waits_for_it(
    fresh_database: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(obstacles, "OLD_SNAPSHOT_S", 0.05)
    run_sql(fresh_database, "CREATE TABLE t (x int)", "CREATE TABLE other (x int)")
    with connect(fresh_database, autocommit=False) as reader:
        fetch(reader, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT FROM other")
        pid = reader.info.backend_pid
        time.sleep(0.1)
        found = ask(fresh_database, sql=BUILD)["old-snapshots"]
        assert "old-snapshots" not in ask(fresh_database, sql="ALTER TABLE t ADD y int;")
        with (
            pytest.raises(LockNotAcquired),
            connect(fresh_database, settings={"lock_timeout": "100ms"}) as builder,
        ):
            fetch(builder, BUILD)

    assert (found.severity, found.subject) == (Severity.WARN, f"pid {pid}")
    assert "5 min" in found.why
    assert "invalid index" in found.why
    assert CONCURRENTLY_TIMEOUT.replace("min", " min") == obstacles.CONCURRENTLY_WAIT


def test_transaction_without_a_snapshot_holds_up_no_build(
    fresh_database: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(obstacles, "OLD_SNAPSHOT_S", 0.05)
    run_sql(fresh_database, "CREATE TABLE t (x int)", "CREATE TABLE other (x int)")
    with connect(fresh_database, autocommit=False) as session:
        fetch(session, "SELECT FROM other")
        time.sleep(0.1)
        assert ask(fresh_database, sql=BUILD)["old-snapshots"].severity is Severity.OK
        run_sql(fresh_database, BUILD)


def test_writer_of_the_table_is_waited_for_by_a_concurrent_build(fresh_database: Target) -> None:
    run_sql(fresh_database, "CREATE TABLE t (x int)")
    locks = {"public.t": "ShareUpdateExclusiveLock"}
    with connect(fresh_database, autocommit=False) as writer, writer.cursor() as cursor:
        cursor.execute("INSERT INTO t VALUES (1)")
        pid = writer.info.backend_pid
        found = ask(fresh_database, sql=BUILD, locks=locks, tables=["public.t"])["lock-holders"]

    assert found.subject == f"pid {pid}"


@pytest.mark.parametrize(
    ("sql", "locks", "severity"),
    [
        ("ALTER TABLE t ADD y int;", {"public.t": ALTER}, Severity.STOP),
        (BUILD, {"public.t": "ShareUpdateExclusiveLock"}, Severity.STOP),
        ("ALTER TABLE u ADD y int;", {"public.u": ALTER}, Severity.WARN),
    ],
)
def test_prepared_transaction_stops_where_it_holds_the_plan_s_tables_and_warns_elsewhere(
    password_server: PrivateServer, sql: str, locks: dict[str, str], severity: Severity
) -> None:
    with password_server.database() as name:
        target = load_target(password_server.url(name)).with_conninfo(password=PASSWORD)
        run_sql(target, "CREATE TABLE t (x int)", "CREATE TABLE u (x int)")
        sound = ask(target, locks=locks, sql=sql)["prepared-transactions"]
        run_sql(target, "BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'two''phase'")
        found = ask(target, locks=locks, sql=sql)["prepared-transactions"]
        run_sql(target, "ROLLBACK PREPARED 'two''phase'")

    assert sound.severity is Severity.OK
    assert (found.severity, found.subject) == (severity, "two'phase")
    assert ("holds locks on public.t" in found.detail) is (severity is Severity.STOP)
    assert "nobody will release" in found.why


def test_vacuum_on_the_plan_s_table_is_named_by_pid(fresh_database: Target) -> None:
    slow = {"vacuum_cost_delay": "100", "vacuum_cost_limit": "1"}
    run_sql(
        fresh_database, "CREATE TABLE t (x int) WITH (autovacuum_enabled = off)",
        "INSERT INTO t SELECT generate_series(1, 20000)", "DELETE FROM t",
    )  # fmt: skip
    with connect(fresh_database, settings=slow) as session, ThreadPoolExecutor(1) as pool:
        pid = session.info.backend_pid
        running = pool.submit(_vacuum, session)
        found = _eventually(lambda: ask(fresh_database, tables=["public.t"])["vacuum"])
        other = ask(fresh_database, tables=["public.u"])["vacuum"]
        session.cancel()
        running.result()

    assert (found.severity, found.subject) == (Severity.WARN, f"public.t (pid {pid})")
    assert found.detail == f"pid {pid} vacuums public.t."
    assert other.severity is Severity.OK


def _vacuum(session: Connection) -> None:
    with suppress(psycopg2.errors.QueryCanceled), session.cursor() as cursor:
        cursor.execute("VACUUM t")


def _eventually(question: Callable[[], Finding]) -> Finding:
    deadline = time.monotonic() + 10
    while (found := question()).severity is Severity.OK and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def test_table_close_to_a_forced_vacuum_warns(fresh_database: Target) -> None:
    run_sql(
        fresh_database, "CREATE TABLE t (x int)", "CREATE TABLE u (x int)",
        "UPDATE pg_class SET relfrozenxid = ((txid_current() - 195000000 + (1::bigint << 32)) "
        "% (1::bigint << 32))::text::xid WHERE relname = 't'",
    )  # fmt: skip

    found = ask(fresh_database, tables=["public.t"])["vacuum"]

    assert (found.severity, found.subject) == (Severity.WARN, "public.t")
    assert "public.t is at 98% of the age" in found.detail
    assert "VACUUM (FREEZE) public.t" in found.remedy
    assert ask(fresh_database, tables=["public.u"])["vacuum"].severity is Severity.OK


def test_invalid_index_warns(fresh_database: Target) -> None:
    run_sql(fresh_database, "CREATE TABLE t (x int)", "INSERT INTO t VALUES (1), (1)")
    with pytest.raises(Exception, match="could not create unique index"):
        run_sql(fresh_database, "CREATE UNIQUE INDEX CONCURRENTLY u ON t (x)")

    assert ask(fresh_database)["invalid-indexes"].subject == "public.u"


def test_missing_client_and_missing_room_stop_a_backup(
    fresh_database: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = replace(info(fresh_database), version_num=990001, size_bytes=2**62)

    found = ask(fresh_database, server=newer, backup_folder=tmp_path)

    assert found["pg-dump"].severity is Severity.STOP
    assert found["disk-room"].severity is Severity.STOP


@pytest.mark.parametrize(
    ("outcome", "severity"),
    [("interrupted", Severity.WARN), ("failed", Severity.WARN), ("succeeded", Severity.OK)],
)
def test_last_run_that_did_not_end_well_warns(
    fresh_database: Target, outcome: str, severity: Severity
) -> None:
    receipts: Sequence[Receipt] = [
        Receipt("r", "upgrade", "t", "d", outcome, datetime.now(UTC), None, "me", ("a",), (), (),
                "", (), "", Path())
    ]  # fmt: skip

    assert ask(fresh_database, receipts=receipts)["last-run"].severity is severity


def test_room_for_what_stays_but_not_for_the_plain_text_warns(
    fresh_database: Target, tmp_path: Path
) -> None:
    free = shutil.disk_usage(tmp_path).free
    server = replace(info(fresh_database), size_bytes=int(free * 1.5))

    found = ask(fresh_database, server=server, backup_folder=tmp_path)

    assert found["disk-room"].severity is Severity.WARN


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, "had changed nothing. Run `upgrade` again."),
        ({"goal": ("b",), "direction": "upgrade"},
         "the database is at a now. `upgrade` with -r target b goes on"),
        ({"goal": ("b",), "direction": "upgrade", "under_way": "b"},
         "at a now. b was rolled back whole. `upgrade` with -r target b"),
        ({"goal": ("b",), "direction": "upgrade", "under_way": "b", "leaves_transaction": True},
         "b is half-applied: it commits parts of itself"),
        ({"goal": ("a",), "direction": "upgrade", "under_way": "a", "leaves_transaction": True},
         "the database is at a now. `upgrade` with -r target a goes on"),
        ({"runbook": "rollback", "goal": (), "direction": "downgrade", "under_way": "a"},
         "a was rolled back whole. `rollback` with -r target base goes on"),
        ({"goal": ("a",), "direction": "downgrade", "under_way": "b"},
         "the database is at a now. `rollback` with -r target a goes on"),
        ({"runbook": "init"}, "the database is at a now. Run `init` again."),
    ],
)  # fmt: skip
def test_killed_run_is_told_with_what_was_under_way_and_what_goes_on(
    fresh_database: Target, changes: dict[str, object], says: str
) -> None:
    killed = Receipt("r", "upgrade", "t", "d", "interrupted", datetime.now(UTC), None, "me",
                     ("a",), (), (), "", (), "", Path())  # fmt: skip

    found = ask(fresh_database, receipts=[replace(killed, **changes)])["last-run"]  # type: ignore[arg-type]

    assert says in f"{found.detail} {found.remedy}"


def test_version_table_that_env_py_has_found_is_not_looked_for_again(
    fresh_database: Target,
) -> None:
    run_sql(fresh_database, "CREATE TABLE t (x int)")

    found = ask(fresh_database, make_graph("a", current=("a",)))["version-table"]

    assert found.severity is Severity.OK


def test_tables_that_this_role_may_not_read_ask_for_no_stamp(weak: Target) -> None:
    run_sql(weak.with_conninfo(user="postgres"), "DROP TABLE alembic_version")

    assert ask(weak, make_graph("a"))["version-table"].severity is Severity.OK


def test_extension_that_the_server_lacks_is_no_matter_of_privileges(fresh_database: Target) -> None:
    found = ask(fresh_database, sql="CREATE EXTENSION nowhere;")["privileges"]

    assert (found.severity, found.detail) == (
        Severity.STOP,
        "The server lacks the extension's files.",
    )
    assert "Install" in found.remedy


def test_schema_with_a_dot_in_its_name_stops_where_it_has_tables(fresh_database: Target) -> None:
    run_sql(fresh_database, 'CREATE SCHEMA "c.d"')
    assert "schema-names" not in ask(fresh_database)

    run_sql(fresh_database, DOTTED)

    finding = ask(fresh_database)["schema-names"]
    assert (finding.severity, finding.subject) == (Severity.STOP, "a.b")
