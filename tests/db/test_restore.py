"""The runbook `restore`: beside the live one, proven, swapped; whatever fails, live is whole."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import psycopg2
import pytest
from psycopg2 import sql
from psycopg2.extensions import make_dsn

from builders import TABLE, Script, execute
from playbook import archive, restore, restore_steps, sandbox
from playbook.database import advisory_lock, connect, fetch, fetch_value, server_info
from playbook.dump import find_client_tools, restore_archive
from playbook.errors import (
    BackupFailed,
    DatabaseError,
    GuardRefused,
    RestoreFailed,
    SettingsError,
    VerifyFailed,
)
from playbook.new_database import UNFINISHED, maintenance_target, stamped_name
from playbook.postgres_files import server_account
from playbook.records import BackupManifest, Restored, Snapshot
from playbook.restore_checks import Wanted, archiving, describe_archiving
from playbook.restore_checks import _extensions as extensions
from playbook.snapshot import take_snapshot
from playbook.targets import Target, load_target
from playbook.verification import compare
from servers import PrivateServer
from steps import Namespace, at, go, run_sql, runs

FILLED = Script(
    execute(
        "CREATE TABLE a (id int PRIMARY KEY)",
        "INSERT INTO a SELECT generate_series(1, 300)",
        'CREATE SCHEMA "Od d"',
        """CREATE TABLE "Od d"."se""lect ü" (id serial PRIMARY KEY, "Ja/Nein" text,
           a_id int REFERENCES a)""",
        """INSERT INTO "Od d"."se""lect ü" ("Ja/Nein", a_id)
           SELECT md5(n::text), n FROM generate_series(1, 200) n""",
        "CREATE TABLE parts (n int) PARTITION BY RANGE (n)",
        "CREATE TABLE parts_low PARTITION OF parts FOR VALUES FROM (0) TO (50)",
        "CREATE TABLE parts_high PARTITION OF parts FOR VALUES FROM (50) TO (100)",
        "INSERT INTO parts SELECT generate_series(0, 99)",
        "CREATE VIEW seen AS SELECT count(*) FROM a",
    ),
    "pass",
)


def take(namespace: Namespace, target: Target) -> BackupManifest:
    with connect(target) as connection:
        server = server_info(connection)
    project = load_target(namespace["database"], namespace["alembic_ini"])
    project = project.with_conninfo(**target.conninfo)
    return archive.take_backup(project, server, at(target), directory="backups")


def names(target: Target) -> set[str]:
    with connect(maintenance_target(target)) as connection:
        query = "SELECT datname FROM pg_database WHERE NOT datistemplate"
        return {name for (name,) in fetch(connection, query)}


def oid(target: Target, name: str) -> int:
    with connect(maintenance_target(target)) as connection:
        query = "SELECT oid::bigint FROM pg_database WHERE datname = %s"
        return int(fetch_value(connection, query, (name,)))


def tables(target: Target, name: str = "") -> tuple[object, ...]:
    chosen = target.with_conninfo(dbname=name) if name else target
    return take_snapshot(chosen, ()).tables


@contextmanager
def session(target: Target, application: str = "the shop") -> Iterator[Any]:
    """Hold a session of an application's."""
    dsn = make_dsn(**{**target.conninfo, "application_name": application})
    with closing(psycopg2.connect(dsn)) as connection:
        connection.autocommit = True
        yield connection


@pytest.fixture
def dropping(fresh_database: Target) -> Iterator[None]:
    """Drop what tests leave beside their database."""
    before = names(fresh_database)
    yield
    with connect(maintenance_target(fresh_database)) as connection:
        for name in names(fresh_database) - before:
            statement = sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name))
            connection.cursor().execute(statement)


@pytest.fixture
def shop(
    small: Callable[..., Namespace], fresh_database: Target, dropping: None
) -> tuple[Namespace, Target, BackupManifest]:
    """A filled database, its project, and a backup of it."""
    namespace = small({"a1": FILLED})
    return namespace, fresh_database, take(namespace, fresh_database)


Shop = tuple[Namespace, Target, BackupManifest]


def test_backup_is_restored_beside_the_live_database_which_stays_as_it_is(shop: Shop) -> None:
    namespace, live, manifest = shop
    before = tables(live)
    run_sql(live, "DELETE FROM parts")
    now = tables(live)

    outcome = go(restore, namespace)

    receipt = runs(namespace)[-1]
    new = receipt["restored_into"]
    assert outcome.outcome == receipt["outcome"] == "succeeded"
    assert new.startswith(f"{live.database}_restored_")
    assert receipt["backup"] == str(manifest.directory)
    assert tables(live, new) == before
    assert tables(live) == now
    assert f'ALTER DATABASE "{new}" RENAME TO "{live.database}"' in " ".join(outcome.next_steps)


def test_new_database_is_analysed_and_no_longer_marked_as_unfinished(shop: Shop) -> None:
    namespace, live, _ = shop

    go(restore, namespace, into="beside")

    with connect(live.with_conninfo(dbname="beside")) as connection:
        query = "SELECT reltuples FROM pg_class WHERE relname = 'a'"
        assert fetch_value(connection, query) == 300
        comment = "SELECT shobj_description(oid, 'pg_database') FROM pg_database"
        assert fetch_value(connection, f"{comment} WHERE datname = 'beside'") is None


@pytest.mark.parametrize("name", ['O"dd näme', "select", "UPPER case", "a;b'c"])
def test_any_name_is_a_name(shop: Shop, name: str) -> None:
    namespace, live, _ = shop
    before = tables(live)

    go(restore, namespace, into=name)

    assert tables(live, name) == before


def test_database_of_an_odd_name_is_restored_and_swapped(
    small: Callable[..., Namespace], fresh_database: Target, dropping: None
) -> None:
    namespace = small({"a1": FILLED})
    odd = 'Sh"op ' + "ü" * 20 + secrets.token_hex(3)
    with connect(maintenance_target(fresh_database)) as connection:
        statement = sql.SQL("ALTER DATABASE {} RENAME TO {}")
        connection.cursor().execute(
            statement.format(sql.Identifier(fresh_database.database), sql.Identifier(odd))
        )
    live = fresh_database.with_conninfo(dbname=odd)
    namespace = namespace | {"database": f"sandbox:{odd}"}
    take(namespace, live)
    before, number = tables(live), oid(live, odd)

    go(restore, namespace, swap=True)

    swapped = runs(namespace)[-1]["swap"]
    assert tables(live) == before
    assert oid(live, swapped["kept"]) == number
    assert all(len(swapped[name].encode()) <= 63 for name in ("kept", "restored"))


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"into": "x" * 64}, "longer than PostgreSQL's 63 bytes"),
        ({"into": "postgres"}, "no name for a new database"),
        ({"into": "template_mine"}, "no name for a new database"),
        ({"into": " "}, "no name for a new database"),
        ({"jobs": -1}, "jobs must be 0 or more"),
        ({"swap": True, "tables": "a"}, "never swapped in"),
        ({"end_sessions": True}, "swap is False"),
        ({"tables": "a, nowhere"}, "no table public.nowhere"),
    ],
)
def test_parameter_that_cannot_be_is_refused_before_anything_is_made(
    shop: Shop, parameters: dict[str, object], said: str
) -> None:
    namespace, live, _ = shop
    before, earlier = names(live), len(runs(namespace))

    with pytest.raises(SettingsError, match=said):
        go(restore, namespace, **parameters)

    assert names(live) == before
    assert len(runs(namespace)) == earlier


def test_existing_database_is_never_overwritten(shop: Shop) -> None:
    namespace, live, _ = shop
    go(restore, namespace, into="there")
    run_sql(live.with_conninfo(dbname="there"), "CREATE TABLE precious ()")
    before = tables(live, "there")

    for name in ("there", live.database):
        with pytest.raises(SettingsError, match="already, and a restore overwrites nothing"):
            go(restore, namespace, into=name)

    assert tables(live, "there") == before


def test_name_that_is_taken_meanwhile_is_left_alone(shop: Shop) -> None:
    namespace, live, _ = shop

    def take_it() -> None:
        run_sql(maintenance_target(live), "CREATE DATABASE late")
        run_sql(live.with_conninfo(dbname="late"), "CREATE TABLE precious ()")

    with pytest.raises(Exception, match="already exists"):
        go(restore, namespace, into="late", meanwhile={"run_restore": take_it})

    assert len(tables(live, "late")) == 1
    assert runs(namespace)[-1]["outcome"] == "failed"


def test_missing_backup_is_one_sentence(
    small: Callable[..., Namespace], fresh_database: Target
) -> None:
    namespace = small({"a1": TABLE})

    with pytest.raises(BackupFailed, match=f"No backup of {fresh_database.database} on this"):
        go(restore, namespace)
    with pytest.raises(BackupFailed, match="not a manifest that can be read"):
        go(restore, namespace, backup="nowhere")


@pytest.mark.parametrize("pattern", ["toc.dat", "[0-9]*.dat*"])
def test_damaged_backup_makes_no_database(shop: Shop, pattern: str) -> None:
    namespace, live, manifest = shop
    before = names(live)
    path = max((manifest.directory / "dump").glob(pattern), key=lambda p: p.stat().st_size)
    path.write_bytes(path.read_bytes()[:-3])

    with pytest.raises(BackupFailed, match=f"is damaged: dump/{path.name}"):
        go(restore, namespace)

    assert names(live) == before


def test_backup_is_found_by_its_name_and_by_its_path(shop: Shop) -> None:
    namespace, live, manifest = shop
    run_sql(live, "DELETE FROM parts")
    newer = take(namespace, live)

    go(restore, namespace, into="by_name", backup=manifest.directory.name)
    go(restore, namespace, into="by_path", backup=str(manifest.directory))
    go(restore, namespace, into="newest")

    assert tables(live, "by_name") == tables(live, "by_path") != tables(live)
    assert tables(live, "newest") == tables(live)
    assert runs(namespace)[-1]["backup"] == str(newer.directory)


def test_latest_is_never_a_backup_of_another_server(shop: Shop) -> None:
    namespace, _, manifest = shop
    path = manifest.directory / archive.MANIFEST
    record = json.loads(path.read_text()) | {"system_identifier": "123"}
    path.write_text(json.dumps(record))

    with pytest.raises(BackupFailed, match="There is one of other databases or servers"):
        go(restore, namespace)


def test_restored_rows_that_differ_from_the_manifest_fail_and_are_kept_for_a_look(
    shop: Shop,
) -> None:
    namespace, live, manifest = shop
    path = manifest.directory / archive.MANIFEST
    record = json.loads(path.read_text())
    record["rows"] = [[n, r + (n == "public.a")] for n, r in record["rows"]]
    path.write_text(json.dumps(record))

    with pytest.raises(VerifyFailed, match="manifest says: public.a. It is kept as beside"):
        go(restore, namespace, into="beside", swap=True)

    assert "beside" in names(live)
    assert runs(namespace)[-1]["outcome"] == "failed"


def test_revision_that_differs_from_the_manifest_fails(shop: Shop) -> None:
    namespace, _, manifest = shop
    path = manifest.directory / archive.MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | {"revisions": ["zz"]}))

    with pytest.raises(VerifyFailed, match="public.alembic_version: a1, not zz"):
        go(restore, namespace)


def test_new_database_has_the_live_one_s_settings_privileges_and_comment(shop: Shop) -> None:
    namespace, live, _ = shop
    name = f'"{live.database}"'
    role = f"app_{secrets.token_hex(4)}"
    run_sql(
        live,
        f"CREATE ROLE {role}",
        f"CREATE ROLE {role}_owner",
        f"ALTER DATABASE {name} SET search_path TO \"Od d\", public",
        f"ALTER DATABASE {name} SET playbook.mode TO 'it''s on'",
        f"ALTER ROLE {role} IN DATABASE {name} SET statement_timeout TO '7s'",
        f"ALTER DATABASE {name} CONNECTION LIMIT 17",
        f"REVOKE ALL ON DATABASE {name} FROM PUBLIC",
        f"GRANT CONNECT ON DATABASE {name} TO {role} WITH GRANT OPTION",
        f"COMMENT ON DATABASE {name} IS 'the shop''s'",
        f"GRANT SELECT ON a TO {role}",
        f"ALTER DATABASE {name} OWNER TO {role}_owner",
    )  # fmt: skip
    take(namespace, live)

    try:
        go(restore, namespace, into="twin")

        query = """
            SELECT pg_get_userbyid(datdba), datcollate, datctype, encoding, datconnlimit,
                   shobj_description(oid, 'pg_database'),
                   (SELECT array_agg(a::text ORDER BY a::text) FROM unnest(datacl) AS a),
                   (SELECT array_agg(s.setconfig::text ORDER BY s.setrole)
                    FROM pg_db_role_setting AS s WHERE s.setdatabase = d.oid)
            FROM pg_database AS d WHERE datname = %s
        """
        with connect(live) as connection:
            twin = fetch(connection, query, ("twin",))
            assert twin == fetch(connection, query, (live.database,))
        assert twin[0][0] == f"{role}_owner"
        with connect(live.with_conninfo(dbname="twin")) as connection:
            assert fetch_value(connection, "SHOW search_path") == '"Od d", public'
            assert fetch_value(
                connection, "SELECT has_table_privilege(%s, 'public.a', 'SELECT')", (role,)
            )
    finally:
        run_sql(
            live,
            f"ALTER DATABASE {name} OWNER TO postgres",
            "DROP DATABASE IF EXISTS twin",
            f"DROP OWNED BY {role}",
            f"ALTER ROLE {role} IN DATABASE {name} RESET ALL",
            f"DROP ROLE {role}, {role}_owner",
        )


def test_roles_that_the_server_lacks_are_named_before_and_done_without(shop: Shop) -> None:
    namespace, live, _ = shop
    role = f"gone_{secrets.token_hex(4)}"
    run_sql(live, f"CREATE ROLE {role}", f"ALTER TABLE a OWNER TO {role}")
    take(namespace, live)
    run_sql(live, f"REASSIGN OWNED BY {role} TO postgres", f"DROP ROLE {role}")

    with go(restore, namespace, before="verify_backup") as run:
        checks = {f.code: f for f in run.require("preflight", object).findings}
    assert (checks["roles"].severity, checks["roles"].subject) == ("WARN", role)

    with go(restore, namespace, into="beside", before="compare_with_backup") as run:
        restored = run.require("restored", Restored)
    assert "Owners and privileges were not restored" in restored.remarks[0]
    assert tables(live, "beside") == tables(live)


def test_extension_that_the_server_lacks_stops_before_anything_is_made(shop: Shop) -> None:
    namespace, live, _ = shop
    run_sql(live, "CREATE EXTENSION vector")
    take(namespace, live)
    before = names(live)

    with go(restore, namespace, before="verify_backup") as run:
        wanted = run.require("wanted", Wanted)
        assert "vector" in wanted.contents.extensions
        with connect(live) as connection:
            found = extensions(connection, replace(wanted.contents, extensions={"vector", "nope"}))
    assert (found.severity, found.subject) == ("STOP", "nope")
    assert names(live) == before


def test_role_of_a_policy_that_the_server_lacks_stops_before_anything_is_made(shop: Shop) -> None:
    namespace, live, _ = shop
    role = f"gone_{secrets.token_hex(4)}"
    run_sql(live, f"CREATE ROLE {role}", f"CREATE POLICY p ON a TO {role} USING (true)")
    take(namespace, live)
    run_sql(live, f"DROP OWNED BY {role}", f"DROP ROLE {role}")
    before = names(live)

    with pytest.raises(GuardRefused, match=f"{role}: Policies in the backup"):
        go(restore, namespace)

    assert names(live) == before
    assert runs(namespace)[-1]["outcome"] == "refused"


def test_single_tables_come_with_all_their_rows_and_nothing_else_s(shop: Shop) -> None:
    namespace, live, _ = shop
    odd = 'Od d.se"lect ü'
    before = {table.name: table for table in tables(live)}

    outcome = go(restore, namespace, into="some", tables=f"parts, {odd}")

    after = {table.name: table for table in tables(live, "some")}
    assert {name for name, table in after.items() if table.rows} == {"public.parts", odd}
    assert after[odd] == before[odd]
    assert after["public.parts"] == before["public.parts"]
    assert "only" in outcome.summary


def test_table_whose_name_begins_like_another_s_is_not_taken_for_it(shop: Shop) -> None:
    namespace, live, _ = shop
    run_sql(live, 'CREATE TABLE "a b" AS SELECT 1 AS n')
    take(namespace, live)

    go(restore, namespace, into="some", tables="a")

    rows = {table.name: table.rows for table in tables(live, "some")}
    assert (rows["public.a"], rows["public.a b"]) == (300, 0)


def test_single_tables_are_found_by_names_that_a_list_shows_otherwise(shop: Shop) -> None:
    """Line ends that are shown as spaces or end no line there, and a schema named as an entry."""
    namespace, live, _ = shop
    odd = ("public.new\nline", "public.next\x85line", "public.line\u2028separator", "DATA.t")
    run_sql(live, 'CREATE SCHEMA "DATA"')
    for name in odd:
        schema, table = name.split(".")
        run_sql(live, f'CREATE TABLE "{schema}"."{table}" AS SELECT 1 AS n')
    take(namespace, live)

    go(restore, namespace, into="some", tables=",".join(odd), jobs=2)

    assert {table.name for table in tables(live, "some") if table.rows} == set(odd)


def test_swap_gives_the_live_name_to_the_restored_one_and_keeps_the_other(shop: Shop) -> None:
    namespace, live, _ = shop
    good = tables(live)
    run_sql(live, "DELETE FROM parts", "INSERT INTO a VALUES (1000)")
    bad, number = tables(live), oid(live, live.database)

    outcome = go(restore, namespace, swap=True)

    receipt = runs(namespace)[-1]
    kept = receipt["swap"]["kept"]
    assert tables(live) == good
    assert tables(live, kept) == bad
    assert oid(live, kept) == number
    assert receipt["database_oid"] == oid(live, live.database)
    query = "SELECT runbook, outcome FROM playbook.history ORDER BY started_at"
    with connect(live) as connection:
        assert fetch(connection, query)[-1] == ("restore", "succeeded")

    way_back = next(step for step in outcome.next_steps if step.startswith("The way back: "))
    for statement in way_back.removeprefix("The way back: ").split("; "):
        run_sql(maintenance_target(live), statement)
    assert oid(live, live.database) == number
    assert kept in sandbox.list_databases(live.project) or kept not in names(live)


def test_what_a_swap_takes_out_of_use_is_counted_before_it(shop: Shop) -> None:
    namespace, live, _ = shop
    run_sql(live, "DELETE FROM parts WHERE n < 10", "ALTER TABLE a ADD COLUMN extra text")

    with go(restore, namespace, swap=True, before="find_sessions") as run:
        found = {(d.table, d.column): d for d in run.require("loss", object).differences}

    parts = found["public.parts", ""]
    assert (parts.kind, parts.rows_before, parts.rows_after) == ("rows changed", 100, 90)
    assert found['Od d.se"lect ü', ""].kind == "intact"
    assert found["public.a", ""].kind == "columns added"
    assert [name for name in found if name[1]] == [("public.a", "extra")]


def test_sessions_stop_a_swap_before_the_restore_and_are_named(shop: Shop) -> None:
    namespace, live, _ = shop
    before = names(live)

    with session(live) as shopper:
        with pytest.raises(GuardRefused, match="postgres in the shop"):
            go(restore, namespace, swap=True)
        assert not shopper.closed
        shopper.cursor().execute("SELECT 1")

    assert names(live) == before


def test_session_that_comes_during_the_restore_stays_and_the_swap_is_refused(shop: Shop) -> None:
    namespace, live, _ = shop
    number = oid(live, live.database)
    held: list[Any] = []

    def come() -> None:
        held.append(session(live))
        held.append(held[0].__enter__())

    with pytest.raises(GuardRefused, match="1 session on .*the shop.*is restored and stays") as one:
        go(restore, namespace, swap=True, meanwhile={"run_swap": come})

    held[1].cursor().execute("SELECT 1")
    held[0].__exit__(None, None, None)
    assert oid(live, live.database) == number
    assert "ALTER DATABASE" in one.value.remedy
    assert runs(namespace)[-1]["outcome"] == "refused"


def test_sessions_are_ended_only_when_asked_and_new_ones_find_the_restored(shop: Shop) -> None:
    namespace, live, _ = shop
    good = tables(live)
    run_sql(live, "DELETE FROM parts")

    with session(live) as shopper, session(live) as other:
        other.autocommit = False
        other.cursor().execute("INSERT INTO a VALUES (5000)")

        go(restore, namespace, swap=True, end_sessions=True)

        with pytest.raises(psycopg2.OperationalError, match="terminat"):
            shopper.cursor().execute("SELECT 1")
    assert tables(live) == good
    assert "2 sessions ended" in json.dumps(runs(namespace)[-1]["events"])
    with connect(maintenance_target(live)) as connection:
        query = "SELECT bool_and(datallowconn) FROM pg_database WHERE starts_with(datname, %s)"
        assert fetch_value(connection, query, (live.database,))


def test_run_in_progress_is_not_ended_by_a_swap(shop: Shop) -> None:
    namespace, live, _ = shop
    number = oid(live, live.database)

    with advisory_lock(live) as check_lock:
        with pytest.raises(GuardRefused, match="Another run holds"):
            go(restore, namespace, swap=True, end_sessions=True)
        check_lock()

    assert oid(live, live.database) == number


def test_protected_target_is_swapped_only_with_its_name_and_restored_beside_without(
    shop: Shop,
) -> None:
    namespace, live, manifest = shop
    namespace = namespace | {"database": "guarded", "backup": str(manifest.directory)}
    before, number = names(live), oid(live, live.database)

    for confirm in ("", "yes"):
        with pytest.raises(GuardRefused, match=f"'guarded' is protected.*confirm {live.database}"):
            go(restore, namespace, swap=True, confirm=confirm)
    assert names(live) == before

    go(restore, namespace)
    assert oid(live, live.database) == number
    go(restore, namespace, swap=True, confirm=live.database, into="other")
    assert oid(live, live.database) != number


def test_backup_of_another_database_is_swapped_in_only_with_a_confirmation(
    shop: Shop, legacy_database: Target
) -> None:
    namespace, _, manifest = shop
    namespace = namespace | {
        "database": f"sandbox:{legacy_database.database}", "backup": str(manifest.directory)
    }  # fmt: skip
    before = tables(legacy_database)

    with pytest.raises(GuardRefused, match="the backup is of .* and would take the place of"):
        go(restore, namespace, swap=True)

    assert tables(legacy_database) == before


def test_pg_restore_that_is_killed_leaves_no_database_and_the_live_one_untouched(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    namespace, live, _ = shop
    run_sql(live, "CREATE TABLE big AS SELECT md5(n::text) FROM generate_series(1, 400000) n",
            "CREATE INDEX ON big (md5)")  # fmt: skip
    take(namespace, live)
    before, databases = tables(live), names(live)

    def kill_soon(*arguments: Any, **options: Any) -> None:
        with ThreadPoolExecutor(1) as pool:
            killed = pool.submit(_kill_at_work, "pg_restore")
            restore_archive(*arguments, **options)
            killed.result()

    monkeypatch.setattr(restore_steps, "restore_archive", kill_soon)
    with pytest.raises(RestoreFailed, match="pg_restore failed: .*was dropped again") as caught:
        go(restore, namespace, jobs=2)

    assert f"{live.database} was left alone" in str(caught.value)
    assert names(live) == databases
    assert tables(live) == before
    assert runs(namespace)[-1]["outcome"] == "failed"


def _kill_at_work(name: str) -> None:
    """Kill a client tool that has workers, with them, as soon as there are any."""
    deadline = time.monotonic() + 20
    workers: list[psutil.Process] = []
    while not workers:
        assert time.monotonic() < deadline
        with suppress(psutil.NoSuchProcess):
            found = [c for c in psutil.Process().children(recursive=True) if c.name() == name]
            workers = [c for c in found if c.ppid() in {parent.pid for parent in found}]
    for process in found:
        process.kill()


def test_connections_lost_while_it_restores_leave_no_database(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    namespace, live, _ = shop
    run_sql(live, "CREATE TABLE big AS SELECT md5(n::text) FROM generate_series(1, 400000) n")
    take(namespace, live)
    before, databases = tables(live), names(live)

    def cut_soon(*arguments: Any, **options: Any) -> None:
        with ThreadPoolExecutor(1) as pool:
            cut = pool.submit(_end_a_copy, live)
            restore_archive(*arguments, **options)
            cut.result()

    monkeypatch.setattr(restore_steps, "restore_archive", cut_soon)
    with pytest.raises(
        RestoreFailed, match="(terminating|closed the) connection.*was dropped again"
    ) as caught:
        go(restore, namespace, jobs=2)

    assert f"{live.database} was left alone" in str(caught.value)
    assert names(live) == databases
    assert tables(live) == before


def _end_a_copy(live: Target) -> None:
    query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'COPY %%big%%'"
    deadline = time.monotonic() + 20
    with connect(maintenance_target(live)) as connection:
        while not fetch(connection, query):
            assert time.monotonic() < deadline
            time.sleep(0.002)


def test_full_disk_of_the_server_leaves_no_database(
    small: Callable[..., Namespace],
    fresh_database: Target,
    dropping: None,
    small_disk: Callable[[str], Path],
) -> None:
    namespace, live = small({"a1": FILLED}), fresh_database
    run_sql(live, "CREATE TABLE big AS SELECT md5(n::text) FROM generate_series(1, 400000) n")
    take(namespace, live)
    disk = small_disk("64m")
    account = server_account()
    os.chown(disk, account.uid, account.gid)
    run_sql(maintenance_target(live), f"CREATE TABLESPACE tight LOCATION '{disk}'",
            f'ALTER DATABASE "{live.database}" SET TABLESPACE tight')  # fmt: skip
    try:
        before, databases = tables(live), names(live)
        with go(restore, namespace, before="run_restore") as run:
            free = shutil.disk_usage(disk).free
            (disk / "filler").write_bytes(bytes(free - 20 * 2**20))
            with pytest.raises(RestoreFailed, match="No space left.*was dropped again") as caught:
                restore.run_restore(run)

        assert f"{live.database} was left alone" in str(caught.value)
        assert names(live) == databases
        assert tables(live) == before
    finally:
        (disk / "filler").unlink(missing_ok=True)
        run_sql(maintenance_target(live),
                f'ALTER DATABASE "{live.database}" SET TABLESPACE pg_default',
                "DROP TABLESPACE tight")  # fmt: skip


def test_statement_that_fails_midway_leaves_no_database(shop: Shop) -> None:
    namespace, live, _ = shop
    # The check holds where its function sees the table, which it does not while it is restored.
    run_sql(
        live,
        "CREATE FUNCTION bad(int) RETURNS bool LANGUAGE sql AS 'SELECT count(*) > 0 FROM a'",
        "CREATE TABLE checked (n int CHECK (bad(n)))",
        "INSERT INTO checked VALUES (1)",
    )
    take(namespace, live)
    before = names(live)

    with pytest.raises(RestoreFailed, match="The restore failed: pg_restore failed: .*relation"):
        go(restore, namespace)

    assert names(live) == before


def test_interrupt_ends_pg_restore_and_drops_the_database(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    namespace, live, _ = shop
    before = names(live)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(restore_steps, "_watch", interrupt)
    with pytest.raises(RestoreFailed, match="was interrupted.*was dropped again"):
        go(restore, namespace)

    assert names(live) == before


KILLED = """
import sys
from playbook import restore
namespace = dict(zip(("database", "alembic_ini", "into"), sys.argv[1:4]))
from playbook import sandbox, restore_steps, swap_steps
from pathlib import Path
sandbox.sandbox_folder = lambda project: Path(sys.argv[4])
def stop(*arguments, **options):
    print("half", flush=True)
    sys.stdin.read()
restore_steps.restore_archive = stop
run = restore.open_run(namespace)
for step in ("check_preflight", "verify_backup", "run_restore"):
    getattr(restore, step)(run)
"""


def test_killed_run_is_told_and_what_it_left_is_dropped_by_the_next(shop: Shop) -> None:
    namespace, live, _ = shop
    folder = str(sandbox.sandbox_folder(load_target().project))
    arguments = [namespace["database"], namespace["alembic_ini"], "half", folder]
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        while b"half" not in child.stdout.readline():
            assert child.poll() is None
        child.kill()
        child.wait()
    assert "half" in names(live)
    comment = "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = 'half'"
    with connect(live) as connection:
        assert fetch_value(connection, comment).startswith(UNFINISHED)

    with go(restore, namespace, before="verify_backup") as run:
        checks = {f.code: f for f in run.require("preflight", object).findings}
    assert (checks["half-restored"].severity, checks["half-restored"].subject) == ("WARN", "half")
    assert "interrupted" in checks["last-run"].detail

    go(restore, namespace)
    assert "half" not in names(live)


SWAPPED = """
import sys
from playbook.database_swap import swap
from playbook.targets import Target
from pathlib import Path
host, port, live, restored = sys.argv[1:5]
conninfo = {"host": host, "port": port, "user": "postgres", "dbname": "postgres"}
print("begins", flush=True)
swap(Target("t", "url", Path("x"), conninfo), live, restored, kept="kept", end_sessions=False)
"""


def test_process_that_dies_between_the_two_renames_leaves_both_names(shop: Shop) -> None:
    namespace, live, _ = shop
    go(restore, namespace, into="beside")
    before = {name: oid(live, name) for name in (live.database, "beside")}
    host, port = live.conninfo["host"], live.conninfo["port"]

    with session(live.with_conninfo(dbname="beside")):  # the second rename waits for it
        with subprocess.Popen(
            [sys.executable, "-c", SWAPPED, host, port, live.database, "beside"],
            stdout=subprocess.PIPE,
        ) as child:
            _until_between_renames(live, before["beside"])
            os.kill(child.pid, signal.SIGKILL)
        _until_gone(live)

    assert {name: oid(live, name) for name in before} == before
    assert "kept" not in names(live)


SWAPPED_THEN_KILLED = (
    KILLED.replace(
        """
restore_steps.restore_archive = stop
""",
        """
swap_steps._record = stop
""",
    )
    .replace(
        '"verify_backup", "run_restore"',
        """"verify_backup", "run_restore", "compare_with_backup", "find_loss", "find_sessions",
             "run_swap\"""",
    )
    .replace("namespace = dict(", "namespace = {'swap': True} | dict(")
)


def test_run_killed_right_after_its_swap_is_told_by_the_next_on_the_live_name(shop: Shop) -> None:
    namespace, live, _ = shop
    folder = str(sandbox.sandbox_folder(load_target().project))
    arguments = [namespace["database"], namespace["alembic_ini"], "new", folder]
    old = oid(live, live.database)
    with subprocess.Popen(
        [sys.executable, "-c", SWAPPED_THEN_KILLED, *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as child:  # fmt: skip
        assert child.stdout is not None
        while b"half" not in child.stdout.readline():
            assert child.poll() is None
        child.kill()
        child.wait()
    assert oid(live, live.database) != old

    with go(restore, namespace, before="verify_backup") as run:
        (found,) = [f for f in run.require("preflight", object).findings if f.code == "last-run"]
        known = run.known_runs().runs[0]

    assert "interrupted" in found.detail
    assert known.outcome == "interrupted"
    kept = next(iter(names(live) - {live.database, "postgres"}))
    assert f"if there is a database {kept}, it has" in known.message


def _until_between_renames(live: Target, number: int) -> None:
    query = """
        SELECT count(*) FROM pg_locks WHERE locktype = 'object' AND objid = %s AND granted
        AND mode = 'AccessExclusiveLock'
    """
    with connect(maintenance_target(live)) as connection:
        deadline = time.monotonic() + 20
        while not fetch_value(connection, query, (number,)):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def _until_gone(live: Target) -> None:
    query = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'ALTER DATABASE%%RENAME%%'"
    with connect(maintenance_target(live)) as connection:
        deadline = time.monotonic() + 20
        while fetch_value(connection, query + " AND pid <> pg_backend_pid() AND state = 'active'"):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_backup_is_restored_and_swapped_on_another_server(
    shop: Shop, other_version: PrivateServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older server takes no archive of a newer one's client; so the backup is taken there."""
    namespace, _, _ = shop
    with other_version.database() as name, other_version.database() as elsewhere:
        monkeypatch.setenv("OLDER", other_version.url(name))
        monkeypatch.setenv("ELSEWHERE", other_version.url(elsewhere))
        namespace = namespace | {"database": "env:OLDER"}
        older = load_target("env:OLDER", namespace["alembic_ini"])
        run_sql(older, *_statements(FILLED), "CREATE TABLE alembic_version (version_num text)",
                "INSERT INTO alembic_version VALUES ('a1')")  # fmt: skip
        take(namespace, older)
        before, empty = tables(older), oid(older, elsewhere)
        made: set[str] = set()
        try:
            go(restore, namespace, swap=True)
            made |= set(runs(namespace)[-1]["swap"].values())
            assert tables(older) == before

            with pytest.raises(GuardRefused, match="would take the place of"):
                go(restore, namespace, to="env:ELSEWHERE", swap=True, backup="latest")
            go(restore, namespace, to="env:ELSEWHERE", swap=True, confirm=elsewhere)
            made |= set(runs(namespace)[-1]["swap"].values())
            there = load_target("env:ELSEWHERE", namespace["alembic_ini"])
            assert tables(there) == before
            assert oid(there, runs(namespace)[-1]["swap"]["kept"]) == empty
        finally:
            for left in made - {name, elsewhere}:
                other_version.execute(f'DROP DATABASE IF EXISTS "{left}" WITH (FORCE)')


def test_backup_of_a_newer_client_is_refused_for_an_older_server(
    shop: Shop, other_version: PrivateServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    namespace, _, _ = shop
    if other_version.major >= 17:
        pytest.skip("pg_restore 18 serves PostgreSQL 17")
    with other_version.database() as name:
        monkeypatch.setenv("THERE", other_version.url(name))

        with pytest.raises(GuardRefused, match="by pg_dump 18.* serves PostgreSQL 1[3-6]"):
            go(restore, namespace, to="env:THERE")


def as_now(live: Target, before: Snapshot, manifest: BackupManifest) -> Snapshot:
    """Return what a snapshot says of a database, as that is now."""
    tools = find_client_tools(180000)
    dump = manifest.directory / archive.DUMP
    return restore_steps.snapshot_like(live, before, (), dump=dump, tools=tools, jobs=2)


def test_values_are_compared_too_where_the_manifest_has_their_fingerprints(shop: Shop) -> None:
    _, live, manifest = shop
    by_server = take_snapshot(live, ())
    by_texts = restore_steps.manifest_snapshot(manifest, (), form=manifest.form)
    assert by_server.form != by_texts.form
    for before in (by_server, by_texts):
        counted = [replace(t, columns=()) if t.table == "parts" else t for t in before.tables]
        before = replace(before, tables=tuple(counted))
        assert as_now(live, before, manifest).tables == before.tables

        run_sql(live, "UPDATE a SET id = -1 WHERE id = 250")

        changed = compare(before, as_now(live, before, manifest), names=("a", "b")).differences
        assert {d.table for d in changed if d.kind != "intact"} == {"public.a"}
        run_sql(live, "UPDATE a SET id = 250 WHERE id = -1")


def test_manifest_of_fingerprints_of_another_form_says_that_rows_are_only_counted(
    shop: Shop,
) -> None:
    _, live, manifest = shop
    before = restore_steps.manifest_snapshot(manifest, (), form=manifest.form + 1)

    found = compare(before, as_now(live, before, manifest), names=("a", "b"))

    assert {d.detail for d in found.differences} == {"rows counted, values not compared"}
    assert {d.kind for d in found.differences} == {"intact"}


def test_backup_goes_to_another_server(
    shop: Shop, password_server: PrivateServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    namespace, live, _ = shop
    with password_server.database() as name:
        monkeypatch.setenv("THERE", password_server.url(name).replace(
            "postgres@", f"postgres:{_quoted(password_server.password)}@"))  # fmt: skip

        go(restore, namespace, to="env:THERE", into="from_elsewhere")

        there = load_target("env:THERE", namespace["alembic_ini"])
        try:
            assert tables(there, "from_elsewhere") == tables(live)
            assert tables(there) == ()
        finally:
            password_server.execute("DROP DATABASE from_elsewhere")


def _quoted(password: str) -> str:
    from urllib.parse import quote

    return quote(password, safe="")


def _statements(script: Script) -> list[str]:
    import ast

    calls = [node for node in ast.walk(ast.parse(script.upgrade)) if isinstance(node, ast.Call)]
    return [ast.literal_eval(call.args[0]) for call in calls]


def test_role_that_owns_nothing_of_it_restores_without_owners(
    shop: Shop, password_server: PrivateServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    namespace, live, _ = shop
    role = f"maker_{secrets.token_hex(4)}"
    password_server.execute(f"CREATE ROLE {role} LOGIN CREATEDB PASSWORD 'pw'")
    with password_server.database() as name:
        monkeypatch.setenv("THERE", password_server.url(name, user=f"{role}:pw"))
        try:
            with go(
                restore, namespace, to="env:THERE", into="of_maker", before="compare_with_backup"
            ) as run:
                remarks = run.require("restored", Restored).remarks

            assert "Owners and privileges were not restored" in remarks[0]
            assert any("does not belong to postgres" in remark for remark in remarks)
            there = load_target("env:THERE", namespace["alembic_ini"])
            assert tables(there, "of_maker") == tables(live)
        finally:
            password_server.execute("DROP DATABASE IF EXISTS of_maker", f"DROP ROLE {role}")


ARCHIVED = datetime(2026, 11, 25, 16, tzinfo=UTC)


@pytest.mark.parametrize(
    ("settings", "last", "failed", "told"),
    [
        ({"archive_command": "pgbackrest --stanza=shop archive-push %p"}, ARCHIVED, None,
         ("OK", "pgBackRest")),
        ({"archive_command": "/usr/bin/envdir /etc/wal-g wal-g wal-push %p"}, ARCHIVED, None,
         ("OK", "WAL-G")),
        ({"archive_command": "barman-wal-archive host shop %p"}, ARCHIVED, None, ("OK", "Barman")),
        ({"archive_command": "(disabled)", "archive_library": "basic_archive"}, ARCHIVED, None,
         ("OK", "a command or library of its own")),
        ({"archive_command": "(disabled)"}, None, None, ("WARN", "archive_mode")),
        ({"archive_command": "cp %p /x"}, None, ARCHIVED,
         ("WARN", "a command or library of its own")),
        ({"archive_command": "cp %p /x"}, ARCHIVED, ARCHIVED - timedelta(1),
         ("OK", "a command or library of its own")),
    ],
)  # fmt: skip
def test_archiving_of_wal_is_named_by_its_tool_and_its_command_is_not_shown(
    settings: dict[str, str], last: datetime, failed: datetime, told: tuple[str, str]
) -> None:
    found = describe_archiving({"archive_mode": "on", **settings}, last, failed)

    assert (found.severity, found.subject) == told
    assert settings["archive_command"] not in str(found)
    assert ("2026-11-25 16:00:00 UTC" in found.detail) == bool(last)


def test_server_without_archiving_says_so(other_version: PrivateServer) -> None:
    with closing(other_version.connect()) as connection:
        assert archiving(connection).subject == "archive_mode is off"


def test_session_that_may_not_be_ended_keeps_both_names_and_says_what_it_takes(
    shop: Shop, password_server: PrivateServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    namespace, _, _ = shop
    role = f"owner_{secrets.token_hex(4)}"
    password_server.execute(f"CREATE ROLE {role} LOGIN CREATEDB PASSWORD 'pw'")
    with password_server.database() as name:
        password_server.execute(f"ALTER DATABASE {name} OWNER TO {role}")
        monkeypatch.setenv("THERE", password_server.url(name, user=f"{role}:pw"))
        there = load_target("env:THERE", namespace["alembic_ini"])
        parameters = {"to": "env:THERE", "swap": True, "confirm": name, "into": "beside_it"}
        try:
            with closing(password_server.connect(name)):
                with pytest.raises(GuardRefused, match="1 session: postgres in"):
                    go(restore, namespace, **parameters)
                with pytest.raises(DatabaseError, match="could not be ended.*pg_signal_backend"):
                    go(restore, namespace, **parameters, end_sessions=True)
            assert {name, "beside_it"} <= names(there)
            assert tables(there) == ()
        finally:
            password_server.execute(
                "DROP DATABASE IF EXISTS beside_it",
                f"ALTER DATABASE {name} OWNER TO postgres",
                f"DROP ROLE {role}",
            )


def test_lost_database_comes_back_under_its_name(shop: Shop) -> None:
    namespace, live, _ = shop
    before = tables(live)
    for statement in ("DROP DATABASE", "CREATE DATABASE"):
        run_sql(maintenance_target(live), f"{statement} {live.database}")

    go(restore, namespace, swap=True)

    assert tables(live) == before


def test_progress_tells_rows_and_then_that_indexes_are_made(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    namespace, live, _ = shop
    run_sql(live, "CREATE TABLE big AS SELECT md5(n::text) FROM generate_series(1, 300000) n",
            "CREATE INDEX ON big (md5)")  # fmt: skip
    take(namespace, live)
    monkeypatch.setattr(restore_steps, "REPORT_S", 0.0)

    go(restore, namespace, jobs=1)

    told = capsys.readouterr().out
    assert re.search(r"restoring: [\d,]+ of 300,\d{3} rows loaded", told)
    assert "restoring: indexes and constraints" in told
    assert "analysing the new database" in told


def test_names_are_cut_between_characters() -> None:
    name = stamped_name("ü" * 31, "restored", "20261125T160000Z")

    assert len(name.encode()) <= 63
    assert name.endswith("_restored_20261125T160000Z")
    assert set(name.removesuffix("_restored_20261125T160000Z")) == {"ü"}
