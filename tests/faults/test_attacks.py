"""What could lose data, or make a run say what is not so, and what the runbooks do instead."""

from __future__ import annotations

import json
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import quote

import pytest

from builders import ENV, FAILING, SECOND, TABLE, URL, Project, Script, execute
from playbook import archive, init, rollback, upgrade
from playbook.database import advisory_lock, connect, fetch, fetch_value, server_info
from playbook.errors import GuardRefused, MigrationFailed, PlaybookError
from playbook.history import CREATE_HISTORY
from playbook.retention import plan_retention, remove_backups
from playbook.targets import Target, load_target, redact
from servers import PASSWORD, PrivateServer
from steps import STEPS, WRITING, Namespace, at, go, history, picture, run_sql, runs

Small = Callable[..., Namespace]
ONLINE = "if not op.get_context().as_sql:\n    "


def value(target: Target, query: str) -> Any:
    with connect(target) as connection:
        return fetch_value(connection, query)  # type: ignore[arg-type]


def has_table(target: Target, table: str) -> bool:
    return bool(value(target, f"SELECT to_regclass('{table}') IS NOT NULL"))


def with_env(*, first: str = "", last: str = "") -> str:
    """Return an env.py that does more before context.configure, or when all is committed."""
    text = ENV.format(before="", settings="", url=URL, engine="")
    configure = "        context.configure(connection="
    assert text.count(configure) == 1
    return text.replace(configure, f"        {first or 'pass'}\n{configure}") + last


def once(flag: Path, action: str) -> tuple[Script, str]:
    """Return a revision after whose commit env.py does something, once, and that env.py."""
    script = Script(f"{SECOND.upgrade}\n{ONLINE}open({str(flag)!r}, 'w').close()", SECOND.downgrade)
    tail = (
        f"import os, signal\nif os.path.exists({str(flag)!r}):\n"
        f"    os.remove({str(flag)!r})\n    {action}\n"
    )
    return script, with_env(last=tail)


@pytest.fixture
def begun(small: Small, fresh_database: Target) -> Small:
    """A small project on a database that is at its first or second revision already."""

    def make(revisions: Mapping[str, Script], to: str = "a1", **options: str) -> Namespace:
        run_sql(
            fresh_database,
            "CREATE TABLE a (id int PRIMARY KEY)",
            "CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY)",
            f"INSERT INTO alembic_version VALUES ('{to}')",
        )
        if to == "b2":
            run_sql(fresh_database, "CREATE TABLE b (id int PRIMARY KEY)")
        return small(revisions, to="", **options)

    return make


@contextmanager
def role(database: Target) -> Iterator[str]:
    """Make a role that may log in and use the schema public, and drop it with what it owns."""
    name = database.database
    run_sql(database, f"CREATE ROLE {name} LOGIN; GRANT ALL ON SCHEMA public TO {name}")
    try:
        yield name
    finally:
        run_sql(database, f"DROP OWNED BY {name} CASCADE; DROP ROLE {name}")


def revision_file(namespace: Namespace, name: str) -> Path:
    return Path(namespace["alembic_ini"]).parent / "migrations" / "versions" / name


def append(path: Path, text: str) -> Callable[[], object]:
    """Return a function that edits a file."""
    return lambda: path.write_text(path.read_text() + text)


def events(receipt: dict[str, Any]) -> list[str]:
    return [event["what"] for event in receipt["events"]]


# What a run destroys.


@pytest.mark.parametrize("downgrade", ["DELETE FROM a", "DROP SCHEMA s CASCADE"])
def test_rollback_that_deletes_without_dropping_a_table_takes_a_backup(
    begun: Small, fresh_database: Target, downgrade: str
) -> None:
    namespace = begun({"a1": TABLE, "b2": Script("pass", execute(downgrade))}, to="b2")
    run_sql(fresh_database, "CREATE SCHEMA s CREATE TABLE t (id int)")
    table = "a" if downgrade.startswith("DELETE") else "s.t"
    run_sql(fresh_database, f"INSERT INTO {table} VALUES (1)")

    go(rollback, namespace)

    manifest = archive.read_manifest(Path(runs(namespace)[-1]["backup"]))
    assert sum(dict(manifest.rows).values()) == 2  # the row, and the version's
    assert manifest.revisions == ("b2",)


@pytest.mark.parametrize("module", [upgrade, rollback])
def test_rows_that_a_policy_hides_stop_the_run(
    small: Small, fresh_database: Target, monkeypatch: pytest.MonkeyPatch, module: ModuleType
) -> None:
    one_way = {"a1": TABLE, "b2": Script("pass", execute("DELETE FROM a")), "c3": Script()}
    namespace = small(one_way, to="") | {"database": "env:WEAK"}
    host = fresh_database.conninfo["host"]
    with role(fresh_database) as name:
        monkeypatch.setenv("WEAK", f"postgresql://{name}@/{name}?host={host}")
        go(upgrade, namespace, target="b2")
        run_sql(
            fresh_database,
            "INSERT INTO a VALUES (1)",
            "ALTER TABLE a ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
        )

        with pytest.raises(PlaybookError, match="row-level security policy"):
            go(module, namespace, backup="never")

        assert at(fresh_database) == ["b2"]
        assert value(fresh_database, "SELECT count(*) FROM a") == 1


def test_rows_that_come_after_the_salvage_stop_the_rollback(
    begun: Small, fresh_database: Target
) -> None:
    namespace = begun({"a1": TABLE, "b2": SECOND}, to="b2")

    def insert() -> None:
        run_sql(fresh_database, "INSERT INTO b VALUES (1)")

    with pytest.raises(GuardRefused, match="has changed since it was salvaged"):
        go(rollback, namespace, meanwhile={"run_rollback": insert})

    assert value(fresh_database, "SELECT count(*) FROM b") == 1
    assert at(fresh_database) == ["b2"]
    assert runs(namespace)[-1]["outcome"] == "refused"


def test_rows_that_come_after_the_backup_stop_the_drop(
    begun: Small, fresh_database: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    namespace = begun({"a1": TABLE, "b2": SECOND})
    real = init.save_backup

    def save_backup(run: Any) -> Any:
        manifest = real(run)
        run_sql(fresh_database, "INSERT INTO a VALUES (1)")
        return manifest

    monkeypatch.setattr(init, "save_backup", save_backup)

    with pytest.raises(GuardRefused, match="Rows came or went since the backup"):
        go(init, namespace, drop=True)

    assert value(fresh_database, "SELECT count(*) FROM a") == 1
    assert at(fresh_database) == ["a1"]
    assert runs(namespace)[-1]["outcome"] == "refused"


def test_going_back_after_a_failure_keeps_a_backup_and_every_step(
    begun: Small, fresh_database: Target
) -> None:
    filled = Script(SECOND.upgrade + "\n" + execute("INSERT INTO b VALUES (7)"), SECOND.downgrade)
    namespace = begun({"a1": TABLE, "b2": filled, "c3": FAILING})

    with pytest.raises(MigrationFailed, match="went back from b2 to a1"):
        go(upgrade, namespace, on_failure="rollback")

    receipt = runs(namespace)[-1]
    manifest = archive.read_manifest(Path(receipt["backup"]))
    assert dict(manifest.rows)["public.b"] == 1
    assert [(step["revision"], step["direction"]) for step in receipt["steps"]] == [
        ("b2", "upgrade"), ("b2", "downgrade"),
    ]  # fmt: skip
    assert not has_table(fresh_database, "b")


def test_two_backups_of_one_moment_have_folders_of_their_own(
    begun: Small, fresh_database: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    namespace = begun({"a1": TABLE})
    run_sql(fresh_database, "INSERT INTO a VALUES (1)")
    target = load_target(namespace["database"], namespace["alembic_ini"])
    target = target.with_conninfo(**fresh_database.conninfo)
    with connect(target) as connection:
        server = server_info(connection)
    moment = datetime.now(UTC)

    class Stopped(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return moment

    monkeypatch.setattr(archive, "datetime", Stopped)
    together = threading.Barrier(2)

    def take() -> Path:
        together.wait()
        return archive.take_backup(target, server, ("a1",), directory="backups").directory

    with ThreadPoolExecutor(2) as pool:
        folders = [task.result() for task in [pool.submit(take), pool.submit(take)]]

    assert len(set(folders)) == 2
    for folder in folders:
        manifest = archive.read_manifest(folder)
        assert archive.verify(manifest, "archive", target=target, server=server)


def test_prune_leaves_the_backups_of_another_database(
    begun: Small, fresh_database: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    namespace = begun({"a1": TABLE})
    host, user = (fresh_database.conninfo.get(key, "") for key in ("host", "user"))

    def take(database: str) -> Path:
        monkeypatch.setenv("MOVING", f"postgresql://{user}@/{database}?host={host}")
        target = load_target("env:MOVING", namespace["alembic_ini"])
        with connect(target) as connection:
            server = server_info(connection)
        taken = archive.take_backup(target, server, (), directory="backups").directory
        remove_backups(plan_retention(target, server, "backups", keep=1))
        return taken

    other = [take("postgres")]
    own = [take(fresh_database.database) for _ in range(2)]

    assert other[0].exists()
    assert [folder.exists() for folder in own] == [False, True]
    assert other[0].parent == own[0].parent


# What a run must not begin.


@pytest.mark.parametrize("spelling", ["env:PROD", "env:OTHER"])
def test_protection_follows_the_database_whatever_it_is_called(
    staging: Callable[..., Project],
    password_server: PrivateServer,
    monkeypatch: pytest.MonkeyPatch,
    spelling: str,
) -> None:
    sections = "[playbook:prod]\nurl = env:PROD\nprotected = true\n"
    project = staging({"a1": TABLE, "b2": SECOND}, sections=sections)
    with password_server.database() as name:
        where = f"postgres:{quote(PASSWORD, safe='')}@127.0.0.1:{password_server.port}/{name}"
        monkeypatch.setenv("PROD", f"postgresql://{where}")
        monkeypatch.setenv("OTHER", f"postgresql://{where}?keepalives=1")
        namespace = {"database": spelling, "alembic_ini": str(project.ini)}
        go(upgrade, namespace, target="a1", confirm=name)
        password_server.execute("INSERT INTO a VALUES (1)", database=name)

        with pytest.raises(GuardRefused, match="is protected"):
            go(init, namespace, drop=True)
        with pytest.raises(GuardRefused, match=f"is protected.*write -r confirm {name}"):
            go(upgrade, namespace)

        target = load_target(spelling, project.ini)
        assert at(target) == ["a1"]
        assert value(target, "SELECT count(*) FROM a") == 1


@pytest.mark.parametrize("module", [upgrade, rollback, init])
@pytest.mark.parametrize("when", ["plan", "run"])
def test_revision_file_that_is_edited_after_it_was_read_is_refused(
    small: Small, begun: Small, fresh_database: Target, module: ModuleType, when: str
) -> None:
    place = {upgrade: "a1", rollback: "b2", init: ""}[module]
    namespace = (begun if place else small)({"a1": TABLE, "b2": SECOND}, to=place)
    edit = append(revision_file(namespace, "b2.py"), "\n# edited\n")
    plan = next(step for step in STEPS[module] if step.startswith("plan_"))
    before = picture(fresh_database)

    with pytest.raises(GuardRefused, match="changed since the plan was shown: b2"):
        go(module, namespace, meanwhile={plan if when == "plan" else WRITING[module]: edit})

    assert picture(fresh_database) == before
    assert runs(namespace)[-1]["outcome"] == "refused"


def test_sql_file_that_is_edited_after_the_plan_is_refused(
    begun: Small, fresh_database: Target
) -> None:
    reads = Script(
        "from pathlib import Path\nop.execute(Path(__file__).with_name('b2.sql').read_text())",
        execute("DROP TABLE b"),
    )
    namespace = begun({"a1": TABLE, "b2": reads})
    file = revision_file(namespace, "b2.sql")
    file.write_text("CREATE TABLE b (id int)")

    with pytest.raises(GuardRefused, match="changed since the plan was shown"):
        go(upgrade, namespace, meanwhile={"run_upgrade": append(file, "; DROP TABLE a")})

    assert at(fresh_database) == ["a1"]
    go(upgrade, namespace)
    assert not has_table(fresh_database, "a")


def test_preflight_that_stops_when_taken_again_voids_the_one_before(
    begun: Small, fresh_database: Target
) -> None:
    namespace = begun({"a1": TABLE, "b2": SECOND})
    with upgrade.open_run(namespace) as run:
        for step in STEPS[upgrade][: STEPS[upgrade].index("run_upgrade")]:
            getattr(upgrade, step)(run)
        with advisory_lock(fresh_database):
            with pytest.raises(GuardRefused, match="Another run holds this target"):
                upgrade.check_preflight(run)
        for step in ("take_backup", "run_upgrade", "conclude"):
            with pytest.raises(GuardRefused):
                getattr(upgrade, step)(run)

    assert at(fresh_database) == ["a1"]
    assert runs(namespace)[-1]["outcome"] == "refused"


def test_run_taken_twice_keeps_what_the_first_one_did(begun: Small, fresh_database: Target) -> None:
    namespace = begun({"a1": TABLE, "b2": SECOND})
    with upgrade.open_run(namespace) as run:
        for step in STEPS[upgrade]:
            getattr(upgrade, step)(run)
            if step == "run_upgrade":
                kept = runs(namespace)[-1]
                with pytest.raises(GuardRefused, match="was taken already in this run"):
                    upgrade.run_upgrade(run)
                assert runs(namespace)[-1] == kept

        kept = runs(namespace)[-1]
        for step in ("run_upgrade", "take_backup", "conclude"):
            with pytest.raises(GuardRefused, match=r"was taken already|has ended"):
                getattr(upgrade, step)(run)

    assert runs(namespace)[-1] == kept
    assert kept["outcome"] == "succeeded"
    assert history(fresh_database)[-1] == ("upgrade", "succeeded", ["b2"])


# What a run says of itself.


def test_env_that_never_commits_is_no_success(small: Small, fresh_database: Target) -> None:
    env = with_env(first="connection.execute(text('SET search_path TO public'))")
    namespace = small({"a1": TABLE}, to="", env=env)

    with pytest.raises(MigrationFailed, match=r"env\.py did not commit"):
        go(upgrade, namespace)

    assert not has_table(fresh_database, "a")
    receipt = runs(namespace)[-1]
    assert (receipt["outcome"], receipt["to_revisions"], receipt["steps"]) == ("failed", [], [])


def test_lock_that_is_lost_between_two_revisions_stops_the_run(
    begun: Small, fresh_database: Target
) -> None:
    ends = Script(
        SECOND.upgrade
        + "\n"
        + execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND "
            "database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        ),
        SECOND.downgrade,
    )
    third = Script(execute("CREATE TABLE c (id int)"), execute("DROP TABLE c"))
    namespace = begun({"a1": TABLE, "b2": ends, "c3": third})

    with pytest.raises(MigrationFailed, match="lock on the .* was lost.*is at b2"):
        go(upgrade, namespace)

    assert at(fresh_database) == ["b2"]
    assert not has_table(fresh_database, "c")
    assert (runs(namespace)[-1]["outcome"], runs(namespace)[-1]["to_revisions"]) == (
        "failed", ["b2"],
    )  # fmt: skip


def test_failure_after_the_commit_says_that_the_revision_is_applied(
    begun: Small, fresh_database: Target, tmp_path: Path
) -> None:
    script, env = once(tmp_path / "flag", "raise RuntimeError('after the commit')")
    namespace = begun({"a1": TABLE, "b2": script}, env=env)

    with pytest.raises(MigrationFailed, match="is at b2: b2 is applied; what failed came after"):
        go(upgrade, namespace)

    assert at(fresh_database) == ["b2"]
    assert runs(namespace)[-1]["to_revisions"] == ["b2"]
    assert history(fresh_database)[-1] == ("upgrade", "failed", ["b2"])


@pytest.mark.parametrize("downgrade", [SECOND.downgrade, None], ids=["two ways", "one way"])
def test_failure_after_the_commit_goes_back_or_says_that_it_did_not(
    begun: Small, fresh_database: Target, tmp_path: Path, downgrade: str | None
) -> None:
    script, env = once(tmp_path / "flag", "raise RuntimeError('after the commit')")
    namespace = begun({"a1": TABLE, "b2": Script(script.upgrade, downgrade)}, env=env)
    said = "Going back failed as well" if downgrade is None else "went back from b2 to a1"

    with pytest.raises(MigrationFailed, match=said):
        go(upgrade, namespace, on_failure="rollback")

    assert at(fresh_database) == (["b2"] if downgrade is None else ["a1"])
    assert runs(namespace)[-1]["to_revisions"] == at(fresh_database)
    assert runs(namespace)[-1]["outcome"] == ("failed" if downgrade is None else "rolled back")


@pytest.mark.parametrize("sqlstate", ["22012", "55P03"])
def test_revision_that_commits_by_itself_is_half_applied_and_not_tried_again(
    begun: Small, fresh_database: Target, sqlstate: str
) -> None:
    fails = f"DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{sqlstate}'; END $$"
    namespace = begun({"a1": TABLE, "b2": Script(execute("CREATE TABLE b ()", "COMMIT", fails))})

    with pytest.raises(MigrationFailed, match="is at a1, with b2 half-applied") as caught:
        go(upgrade, namespace, give_up_after="5s", on_failure="rollback")

    assert caught.value.sqlstate == sqlstate
    assert "rolled back whole" not in str(caught.value)
    assert has_table(fresh_database, "b")
    assert runs(namespace)[-1]["outcome"] == "failed"


def test_child_killed_in_an_autocommit_block_leaves_a_revision_half_applied(
    begun: Small, fresh_database: Target
) -> None:
    killed = Script(
        "import os\nwith op.get_context().autocommit_block():\n"
        f"    op.execute('CREATE TABLE b ()')\n{ONLINE}os.kill(os.getpid(), 9)"
    )
    namespace = begun({"a1": TABLE, "b2": killed})

    with pytest.raises(MigrationFailed, match="is at a1, with b2 half-applied"):
        go(upgrade, namespace)

    assert has_table(fresh_database, "b")
    assert (runs(namespace)[-1]["outcome"], runs(namespace)[-1]["to_revisions"]) == (
        "failed", ["a1"],
    )  # fmt: skip


def test_child_killed_after_the_commit_leaves_a_true_receipt(
    begun: Small, fresh_database: Target, tmp_path: Path
) -> None:
    script, env = once(tmp_path / "flag", "os.kill(os.getpid(), signal.SIGKILL)")
    namespace = begun({"a1": TABLE, "b2": script}, env=env)

    with pytest.raises(MigrationFailed, match="b2 is applied; what failed came after"):
        go(upgrade, namespace)

    assert at(fresh_database) == ["b2"]
    assert (runs(namespace)[-1]["outcome"], runs(namespace)[-1]["to_revisions"]) == (
        "failed", ["b2"],
    )  # fmt: skip


def test_full_disk_after_a_commit_does_not_hide_where_the_database_is(
    begun: Small, fresh_database: Target, small_disk: Callable[[str], Path]
) -> None:
    disk = small_disk("256k")
    fills = Script(
        f"{SECOND.upgrade}\n{ONLINE}try:\n"
        f"        with open({str(disk / 'filler')!r}, 'wb', buffering=0) as file:\n"
        "            while True:\n                file.write(bytes(4096))\n"
        "    except OSError:\n        pass",
        SECOND.downgrade,
    )
    namespace = begun({"a1": TABLE, "b2": fills})

    with pytest.raises(MigrationFailed, match="No space left.*is at b2: b2 is applied"):
        go(upgrade, namespace, output_dir=str(disk))

    assert at(fresh_database) == ["b2"]
    assert history(fresh_database)[-1] == ("upgrade", "failed", ["b2"])


# What a run meets in the database and in a revision.


def test_history_that_another_role_has_planted_is_not_written(
    small: Small, fresh_database: Target
) -> None:
    namespace = small({"a1": TABLE}, to="")
    with role(fresh_database) as name:
        run_sql(
            fresh_database,
            f"GRANT CREATE ON DATABASE {name} TO {name}; SET ROLE {name}; {CREATE_HISTORY};"
            "CREATE TABLE playbook.trap (who name);"
            "GRANT ALL ON ALL TABLES IN SCHEMA playbook TO PUBLIC;"
            "CREATE FUNCTION playbook.spring() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "INSERT INTO playbook.trap VALUES (current_user); RETURN NEW; END $$;"
            "CREATE TRIGGER spring BEFORE INSERT OR UPDATE ON playbook.history "
            "FOR EACH ROW EXECUTE FUNCTION playbook.spring()",
        )

        assert go(upgrade, namespace).outcome == "succeeded"

        assert value(fresh_database, "SELECT count(*) FROM playbook.trap") == 0
        assert value(fresh_database, "SELECT count(*) FROM playbook.history") == 0
    assert "not written: " in runs(namespace)[-1]["history"]
    assert at(fresh_database) == ["a1"]


@pytest.mark.parametrize("where", ["env.py", "revision"])
def test_lock_timeout_that_a_project_turns_off_stays_within_the_limit(
    begun: Small, fresh_database: Target, where: str
) -> None:
    off = "SET lock_timeout = 0"
    # Inside DO the plan cannot see which table it is, so only the wait itself can be limited.
    alter = "DO $$ BEGIN EXECUTE 'ALTER TABLE a ADD COLUMN x int'; END $$"
    env = with_env(first=f"connection.execute(text({off!r})); connection.commit()")
    body = execute(alter) if where == "env.py" else execute(off, alter)
    namespace = begun(
        {"a1": TABLE, "b2": Script(body)}, **({"env": env} if where == "env.py" else {})
    )
    done = threading.Event()
    waits: list[float] = []

    def hold() -> None:
        with connect(fresh_database, autocommit=False) as connection:
            fetch(connection, "SELECT count(*) FROM a")
            done.wait(8)

    def read() -> None:
        with connect(fresh_database) as connection:
            while not done.is_set():
                started = time.monotonic()
                fetch(connection, "SELECT count(*) FROM a")
                waits.append(time.monotonic() - started)
                time.sleep(0.02)

    with ThreadPoolExecutor(2) as pool:
        tasks = [pool.submit(hold), pool.submit(read)]
        try:
            with pytest.raises(MigrationFailed, match="b2 did not get its locks in"):
                go(upgrade, namespace, lock_timeout="500ms", give_up_after="1s")
        finally:
            done.set()
        for task in tasks:
            task.result()

    assert max(waits) < 3
    assert at(fresh_database) == ["a1"]


def test_password_of_a_failing_statement_is_written_nowhere(begun: Small) -> None:
    secret = "hush-hush-4711"
    bad = Script(execute(f"ALTER ROLE nobody_of_that_name PASSWORD '{secret}'"))
    namespace = begun({"a1": TABLE, "b2": bad})

    with pytest.raises(MigrationFailed) as caught:
        go(upgrade, namespace)

    receipt = runs(namespace)[-1]
    folder = Path(namespace["alembic_ini"]).parent / "runs" / receipt["run_id"]
    assert "nobody_of_that_name" in str(caught.value)
    assert secret not in str(caught.value) + caught.value.statement + json.dumps(receipt)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    "text",
    ["'hush'", "E'hu\\'sh'", "U&'hush'", "$$hush$$", "$x$hush$x$", "'hu''sh'", "'hush", "$$hu"],
)
def test_password_is_masked_however_sql_writes_it(text: str) -> None:
    assert redact(f"ALTER ROLE x PASSWORD {text}") == "ALTER ROLE x PASSWORD '***'"


def test_program_that_reads_its_input_does_not_take_the_requests(
    begun: Small, fresh_database: Target
) -> None:
    reads = Script(
        f"import subprocess\n{ONLINE}subprocess.run(['cat'], check=True, timeout=10)",
    )
    namespace = begun({"a1": TABLE, "b2": reads})

    assert go(upgrade, namespace).outcome == "succeeded"
    assert at(fresh_database) == ["b2"]
