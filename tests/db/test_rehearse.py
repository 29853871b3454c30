"""The runbook `rehearse`: only a copy is written, which never stays; `upgrade` knows the result."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import make_dsn

from builders import SECOND, TABLE, Script, execute
from children import runbook
from playbook import archive, rehearse, status, upgrade
from playbook.database import connect, fetch, server_info
from playbook.errors import BackupFailed, GuardRefused, VerifyFailed, WrongDatabase
from playbook.new_database import maintenance_target
from playbook.records import (
    Applied,
    BackupManifest,
    Checks,
    Finding,
    Outcome,
    ServerInfo,
    Severity,
)
from playbook.rehearsal_checks import _extensions as extensions_finding
from playbook.rehearsal_checks import _version as version_finding
from playbook.rehearsed import FILE
from playbook.room import copy_room, folder_room
from playbook.targets import Target, load_target
from servers import PrivateServer
from steps import Namespace, at, go, picture, runs

FILLED = Script(
    execute(
        "CREATE TABLE a (id int PRIMARY KEY, note text)",
        "INSERT INTO a SELECT n, 'n' || n FROM generate_series(1, 500) n",
    ),
    execute("DROP TABLE a"),
)
WIDER = Script(
    execute("ALTER TABLE a ADD COLUMN more text"), execute("ALTER TABLE a DROP COLUMN more")
)
LOSES = Script(
    execute("ALTER TABLE a DROP COLUMN note"), execute("ALTER TABLE a ADD COLUMN note text")
)
SLOW = Script(execute("CREATE TABLE late (id int)", "SELECT pg_sleep(30)"), "pass")
Small = Callable[..., Namespace]


def scratch(target: Target) -> list[str]:
    """Return the rehearsals' databases that are on a target's server."""
    with connect(maintenance_target(target)) as connection:
        query = "SELECT datname FROM pg_database WHERE datname ~ '^playbook_rehearse_' ORDER BY 1"
        return [name for (name,) in fetch(connection, query)]


@contextmanager
def session(target: Target) -> Iterator[None]:
    """Hold a session of an application's."""
    dsn = make_dsn(**{**target.conninfo, "application_name": "the shop"})
    with closing(psycopg2.connect(dsn)):
        yield


def finding(checks: Checks, code: str) -> Finding | None:
    return next((one for one in checks.findings if one.code == code), None)


def copy_of(namespace: Namespace, **parameters: object) -> tuple[str, str, str]:
    """Rehearse and return how and where the copy was made, and from what."""
    run = go(rehearse, namespace, before="judge", **parameters)
    made = run.taken("copy", object)
    return made.how, made.where, made.source


def take(namespace: Namespace, target: Target) -> BackupManifest:
    with connect(target) as connection:
        server = server_info(connection)
    project = load_target(namespace["database"], namespace["alembic_ini"])
    project = project.with_conninfo(**target.conninfo)
    return archive.take_backup(project, server, at(target), directory="backups")


def test_a_rehearsal_writes_to_a_copy_alone_and_drops_it(
    small: Small, fresh_database: Target
) -> None:
    namespace = small({"r1": FILLED, "r2": WIDER})
    before = picture(fresh_database)

    outcome = go(rehearse, namespace)

    assert isinstance(outcome, Outcome)
    assert outcome.outcome == "succeeded"
    assert picture(fresh_database) == before
    assert scratch(fresh_database) == []
    receipt = runs(namespace)[-1]
    assert (receipt["runbook"], receipt["outcome"], receipt["steps"]) == (
        "rehearse", "succeeded", [],
    )  # fmt: skip
    assert receipt["plan_sha256"]
    assert [path.name for path in outcome.files] == ["receipt.json", FILE]


def test_the_upgrade_of_the_same_plan_shows_what_to_expect_and_what_it_took(
    small: Small,
) -> None:
    namespace = small({"r1": FILLED, "r2": WIDER})
    go(rehearse, namespace)

    run = go(upgrade, namespace, before="compare_data")

    found = finding(run.taken("preflight", Checks), "rehearsal")
    assert found
    assert found.severity is Severity.OK
    assert "expected" in found.detail
    assert "r2 0." in found.detail
    [(revision, expected_s)] = run.taken("applied", Applied).expected
    assert revision == "r2"
    assert 0 < expected_s < 30


def test_the_upgrade_of_another_plan_is_warned(small: Small) -> None:
    namespace = small({"r1": FILLED, "r2": WIDER, "r3": SECOND})
    go(rehearse, namespace, target="r2")

    run = go(upgrade, namespace, before="take_backup")

    found = finding(run.taken("preflight", Checks), "rehearsal")
    assert found
    assert found.severity is Severity.WARN
    assert "another plan" in found.detail


def test_a_rehearsal_that_does_not_pass_fails_the_run_and_warns_the_upgrade(
    small: Small, fresh_database: Target
) -> None:
    namespace = small({"r1": FILLED, "r2": LOSES})
    before = picture(fresh_database)

    with pytest.raises(VerifyFailed, match=r"r2: public\.a\.note \(loses-data\)"):
        go(rehearse, namespace)

    assert picture(fresh_database) == before
    assert scratch(fresh_database) == []
    assert runs(namespace)[-1]["outcome"] == "failed"
    preflight = go(upgrade, namespace, before="take_backup").taken("preflight", Checks)
    found = finding(preflight, "rehearsal")
    assert found
    assert found.severity is Severity.WARN
    assert "r2: public.a.note (loses-data)" in found.detail
    last = finding(preflight, "last-run")
    assert last
    assert last.severity is Severity.OK, "a rehearsal changed nothing that a run may stumble over"


def test_status_tells_of_the_last_rehearsal(small: Small) -> None:
    namespace = small({"r1": FILLED, "r2": WIDER})
    go(rehearse, namespace)

    outcome = go(status, namespace)

    assert any("led to r2 and passed" in line for line in outcome.next_steps)


def test_a_protected_target_is_told_that_there_was_no_rehearsal(small: Small) -> None:
    namespace = small({"r1": FILLED, "r2": WIDER})
    name = namespace["database"].partition(":")[2]

    run = go(upgrade, namespace, before="take_backup", database="guarded", confirm=name)

    found = finding(run.taken("preflight", Checks), "rehearsal")
    assert found
    assert (found.severity, found.detail) == (Severity.WARN, "It was never rehearsed.")


def test_the_copy_is_made_by_template_where_nobody_is_connected_else_by_a_dump(
    small: Small, fresh_database: Target
) -> None:
    namespace = small({"r1": FILLED, "r2": WIDER})
    name = fresh_database.database

    assert copy_of(namespace) == ("template", "the same server", name)
    with session(fresh_database):
        assert copy_of(namespace) == ("dump", "the same server", name)
        with pytest.raises(GuardRefused, match="by template: it has 1 session"):
            go(rehearse, namespace, copy_by="template")
    assert scratch(fresh_database) == []


def test_a_protected_database_is_never_a_template(small: Small) -> None:
    namespace = small({"r1": FILLED, "r2": WIDER})

    how, _, _ = copy_of(namespace, database="guarded")

    assert how == "dump"


def test_a_rehearsal_from_a_backup_proves_it(small: Small, fresh_database: Target) -> None:
    namespace = small({"r1": FILLED, "r2": WIDER})
    manifest = take(namespace, fresh_database)

    made = copy_of(namespace, from_backup="latest")

    assert made == ("backup", "the same server", manifest.directory.name)
    proven = archive.read_manifest(manifest.directory)
    assert (manifest.verified, proven.verified) == ("", "restore")
    assert proven.restore_s > 0


def test_a_backup_of_an_earlier_revision_is_rehearsed_from_there(
    small: Small, fresh_database: Target
) -> None:
    namespace = small({"r1": FILLED, "r2": WIDER})
    take(namespace, fresh_database)
    go(upgrade, namespace)

    outcome = go(rehearse, namespace, from_backup="latest")

    assert "1 revision passed" in outcome.summary


def test_a_damaged_backup_is_no_copy(small: Small, fresh_database: Target) -> None:
    namespace = small({"r1": FILLED, "r2": WIDER})
    manifest = take(namespace, fresh_database)
    largest = max((manifest.directory / "dump").iterdir(), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1])

    with pytest.raises(BackupFailed, match="is damaged"):
        go(rehearse, namespace, from_backup="latest")

    assert scratch(fresh_database) == []
    assert archive.read_manifest(manifest.directory).verified == ""


@pytest.mark.parametrize("where", ["", "sandbox"])
def test_a_rehearsal_works_on_other_versions_and_from_them_in_the_sandbox(
    where: str, staging: Callable[..., Any], other_version: PrivateServer
) -> None:
    project = staging({"r1": FILLED, "r2": WIDER})
    with other_version.database() as name:
        namespace = {"database": other_version.url(name), "alembic_ini": str(project.ini)}
        go(upgrade, namespace, target="r1")

        run = go(rehearse, namespace, before="conclude", where=where)

        assert run.taken("copy", object).where == ("the sandbox" if where else "the same server")
        version = finding(run.taken("preflight", Checks), "sandbox-version")
        assert (version and version.severity) == (Severity.WARN if where else None)
        assert run.taken("judged", Checks).stops == ()
        target = load_target(namespace["database"], project.ini)
        assert scratch(target) == []


def test_a_sandbox_that_is_older_or_lacks_an_extension_is_refused() -> None:
    def server(version_num: int) -> ServerInfo:
        return ServerInfo("app", 1, "7", f"{version_num / 10000:g}", version_num, "me", False, 0)

    assert version_finding(server(180000), server(160000)).severity is Severity.STOP
    assert version_finding(server(160000), server(180000)).severity is Severity.WARN
    assert version_finding(server(180000), server(180000)).severity is Severity.OK
    missing = extensions_finding(["postgis"])
    assert (missing.severity, missing.subject) == (Severity.STOP, "postgis")


def test_an_env_that_reads_the_targets_variable_is_led_to_the_copy(
    staging: Callable[..., Any], fresh_database: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_URL", fresh_database.sqlalchemy_url())
    reads = Script("op.get_bind().execute(sa.text('SELECT 1')).scalar()")
    project = staging(
        {"r1": FILLED, "r2": WIDER, "r3": reads}, url='__import__("os").environ["SHOP_URL"]'
    )
    namespace = {"database": "env:SHOP_URL", "alembic_ini": str(project.ini)}
    go(upgrade, namespace, target="r1")
    before = picture(fresh_database)

    outcome = go(rehearse, namespace)

    assert "2 revisions passed" in outcome.summary
    assert picture(fresh_database) == before


def test_an_env_that_goes_to_the_live_database_is_stopped_before_it_writes(
    staging: Callable[..., Any], fresh_database: Target
) -> None:
    project = staging({"r1": FILLED, "r2": WIDER}, url=repr(fresh_database.sqlalchemy_url()))
    namespace = {
        "database": f"sandbox:{fresh_database.database}", "alembic_ini": str(project.ini),
    }  # fmt: skip
    go(upgrade, namespace, target="r1")
    before = picture(fresh_database)

    with pytest.raises(WrongDatabase):
        go(rehearse, namespace)

    assert picture(fresh_database) == before
    assert scratch(fresh_database) == []


def test_room_that_is_too_small_stops(fresh_database: Target, tmp_path: Path) -> None:
    with connect(fresh_database) as connection:
        server = server_info(connection)
        there = copy_room(connection, server, 10**18)
        enough = copy_room(connection, server, server.size_bytes)
    here = folder_room(tmp_path / "not yet", 10**18, subject="sandbox")

    assert (there.severity, enough.severity, here.severity) == (
        Severity.STOP, Severity.OK, Severity.STOP,
    )  # fmt: skip


def sleeping(namespace: Namespace, target: Target) -> AbstractContextManager[subprocess.Popen[str]]:
    """Rehearse in a process of its own until the revision sleeps in the copy."""
    return runbook("rehearse", namespace, is_there=lambda: asleep(target), until=until)


def asleep(target: Target) -> bool:
    query = "SELECT FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(30)%%'"
    with connect(maintenance_target(target)) as connection:
        return bool(fetch(connection, query, ()))


def until(what: Callable[[], bool], most_s: float = 20) -> None:
    deadline = time.monotonic() + most_s
    while not what():
        assert time.monotonic() < deadline, "it does not become true"
        time.sleep(0.05)


def test_a_rehearsal_that_is_told_to_stop_drops_its_copy(
    small: Small, fresh_database: Target
) -> None:
    namespace = small({"r1": TABLE, "r2": SLOW})

    with sleeping(namespace, fresh_database) as child:
        assert len(scratch(fresh_database)) == 1
        child.send_signal(signal.SIGTERM)
        said, _ = child.communicate(timeout=20)

    assert "was told to stop" in said
    assert "was only read, and the copy was dropped" in said
    assert scratch(fresh_database) == []
    assert runs(namespace)[-1]["outcome"] == "interrupted"


def test_what_a_killed_rehearsal_leaves_the_next_one_drops_and_names(
    small: Small, fresh_database: Target
) -> None:
    namespace = small({"r1": TABLE, "r2": SLOW, "r3": SECOND})
    with sleeping(namespace, fresh_database) as child:
        child.send_signal(signal.SIGKILL)
        child.wait()
    [left] = scratch(fresh_database)
    until(lambda: not asleep(fresh_database))

    project = Path(namespace["alembic_ini"]).parent
    (project / "migrations/versions/r2.py").write_text(
        (project / "migrations/versions/r2.py").read_text().replace("pg_sleep(30)", "1")
    )
    run = go(rehearse, namespace, before="judge")

    assert scratch(fresh_database) == []
    assert run.taken("copy", object).remarks == (f"Dropped {left}, which a killed run had left.",)
