"""Each question before a change, with an answer that lets go on and one that does not."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from builders import make_graph
from playbook.database import advisory_lock, connect, fetch, server_info
from playbook.preflight import Question, check
from playbook.records import Finding, Receipt, RevisionGraph, ServerInfo, Severity
from playbook.targets import Target

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


def execute(target: Target, *statements: str) -> None:
    with connect(target) as connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def test_sound_database_is_ok_in_every_respect(fresh_database: Target, tmp_path: Path) -> None:
    execute(fresh_database, "CREATE TABLE alembic_version (v text)", "CREATE TABLE t (x int)")

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
    execute(fresh_database, "CREATE TABLE t (x int)")
    bare = ask(fresh_database, make_graph("a"))

    for found, said in ((unknown, "gone, which no revision file has"), (bare, "without Alembic")):
        assert found["version-table"].severity is Severity.STOP
        assert said in found["version-table"].detail


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
    execute(
        fresh_database, f'CREATE TABLE "{quoted}" (x int)', f"CREATE ROLE {role} LOGIN",
        f"GRANT CREATE ON SCHEMA public TO {role}",
    )  # fmt: skip
    weak = fresh_database.with_conninfo(user=role)
    try:
        touched = ask(weak, tables=[f"public.{name}"])["privileges"]
        untouched = ask(weak, tables=["public.other"])["privileges"]
    finally:
        execute(fresh_database, f"DROP OWNED BY {role}", f"DROP ROLE {role}")

    assert touched.severity is Severity.STOP
    assert f"table public.{name}: owned by postgres" in touched.subject
    assert untouched.severity is Severity.OK


def test_other_run_stops_and_is_named(fresh_database: Target) -> None:
    with advisory_lock(fresh_database):
        found = ask(fresh_database)["other-run"]

    assert found.severity is Severity.STOP
    assert "migration-playbook" in found.subject


ALTER = "AccessExclusiveLock"


def test_holder_of_the_plan_s_tables_warns_and_of_others_does_not(fresh_database: Target) -> None:
    execute(fresh_database, "CREATE TABLE t (x int)")
    app = fresh_database.with_conninfo(application_name="the app")
    with connect(app, autocommit=False) as holder:
        fetch(holder, "SELECT FROM t")
        named = ask(fresh_database, locks={"public.t": ALTER})["open-transactions"]
        other = ask(fresh_database, locks={"public.u": ALTER})["open-transactions"]

    assert named.severity is Severity.WARN
    assert "the app, idle in transaction" in named.detail
    assert "holds locks on public.t" in named.detail
    assert other.severity is Severity.OK


def test_invalid_index_warns(fresh_database: Target) -> None:
    execute(fresh_database, "CREATE TABLE t (x int)", "INSERT INTO t VALUES (1), (1)")
    with pytest.raises(Exception, match="could not create unique index"):
        execute(fresh_database, "CREATE UNIQUE INDEX CONCURRENTLY u ON t (x)")

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
