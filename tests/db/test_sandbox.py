"""The embedded server and its databases, for real: every test's server has a folder of its own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg2
import pytest

from playbook import sandbox
from playbook.database import connect, fetch, fetch_value
from playbook.errors import GuardRefused, SettingsError
from playbook.postgres_server import Cluster
from playbook.targets import Target, load_target

IS_ROOT = os.geteuid() == 0
SEED = """
import sys
import psycopg2

state = sys.argv[sys.argv.index("--state") + 1]
if state == "broken":
    sys.exit("first line\\nno such state: broken")
connection = psycopg2.connect("")
with connection, connection.cursor() as cursor:
    cursor.execute("CREATE TABLE item AS SELECT n, %s AS state FROM generate_series(1, 1000) n",
                   (state,))
connection.close()
"""
ENSURE = """
from pathlib import Path
import sys
from playbook.sandbox import ensure_server
print(ensure_server(Path(sys.argv[1])).pid, flush=True)
"""


@pytest.fixture(autouse=True)
def base() -> Iterator[Path]:
    """A folder for sandboxes that the server's OS user can reach, unlike pytest's own as root."""
    folder = Path(tempfile.mkdtemp(prefix="playbook-test-", dir="/tmp")).resolve()
    folder.chmod(0o711)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLAYBOOK_SANDBOX", str(folder / "s"))
        patch.delenv("PLAYBOOK_SANDBOX_POSTGRES", raising=False)
        yield folder
    shutil.rmtree(folder)


@pytest.fixture
def project(base: Path) -> Iterator[Path]:
    """A small project with a seed of its own; its servers are stopped by their pid files."""
    project = base / "project"
    (project / "migrations" / "versions").mkdir(parents=True)
    (project / "seeds").mkdir()
    (project / "seeds" / "__init__.py").touch()
    (project / "seeds" / "data.py").write_text(SEED)
    (project / "alembic.ini").write_text(
        "[playbook:sandbox]\nurl = sandbox\nseed = seeds.data\n"
        "[playbook:bare]\nurl = sandbox:bare\n"
        "[playbook:live]\nurl = postgresql://somebody@localhost/live\n"
    )
    folder = os.environ["PLAYBOOK_SANDBOX"]
    yield project
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLAYBOOK_SANDBOX", folder)
        sandbox.remove(project)


@pytest.fixture
def target(project: Path) -> Target:
    return load_target("sandbox", project / "alembic.ini")


def query(target: Target, statement: str) -> object:
    with connect(target) as connection:
        return fetch_value(connection, statement)


def cluster_of(project: Path, version: int = 18) -> Cluster:
    return Cluster(sandbox.sandbox_folder(project), version)


def keepers(project: Path, version: int = 18) -> list[int]:
    data = str(cluster_of(project, version).data)
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if "playbook.sandbox_keeper" in command and data in command:
            found.append(process.pid)
    return found


def until(condition: Callable[[], object], timeout_s: float = 15.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


def ends(pid: int) -> bool:
    """Whether a process of ours is gone or only waits for its parent to notice."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def start_elsewhere(project: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", ENSURE, str(project)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_starting_twice_shares_one_server_and_one_keeper(project: Path) -> None:
    first = sandbox.ensure_server(project)
    assert until(lambda: keepers(project))

    second = sandbox.ensure_server(project)
    third = sandbox.ensure_server(project)

    assert first == second == third
    assert first.version == 18
    assert (first.bin_directory / "pg_dump").exists()
    assert len(keepers(project)) == 1


def test_a_running_server_is_found_within_50_ms(project: Path) -> None:
    sandbox.ensure_server(project)
    assert until(lambda: keepers(project))

    durations_s = []
    for _ in range(5):
        begin = time.perf_counter()
        sandbox.ensure_server(project)
        durations_s.append(time.perf_counter() - begin)

    assert min(durations_s) < 0.05


def test_six_processes_at_once_start_one_server(project: Path) -> None:
    processes = [start_elsewhere(project) for _ in range(6)]

    # Also: the server and the keeper hold none of these pipes, or reading would never end.
    outputs = [process.communicate(timeout=60) for process in processes]

    assert [process.returncode for process in processes] == [0] * 6, outputs
    assert len({out for out, _ in outputs}) == 1
    assert until(lambda: len(keepers(project)) == 1)


def test_databases_opened_at_once_by_several_processes_are_seeded_once(target: Target) -> None:
    code = (
        "import sys; from playbook.sandbox import open_target; "
        "from playbook.targets import load_target; "
        "open_target(load_target('sandbox', sys.argv[1]))"
    )
    command = [sys.executable, "-c", code, str(target.alembic_ini)]

    processes = [subprocess.Popen(command) for _ in range(3)]

    assert [process.wait(60) for process in processes] == [0] * 3
    assert query(sandbox.open_target(target), "SELECT count(*) FROM item") == 1000


def test_server_survives_kill_of_the_process_that_started_it(target: Target) -> None:
    code = ENSURE + "import time; time.sleep(60)"
    command = [sys.executable, "-c", code, str(target.project)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        pid = int(starter.stdout.readline())

        starter.kill()
        starter.wait()

    assert sandbox.ensure_server(target.project).pid == pid
    assert query(sandbox.open_target(target), "SELECT 1") == 1


def test_server_comes_back_with_its_data_after_kill_of_the_postmaster(target: Target) -> None:
    opened = sandbox.open_target(target)
    query(
        opened, "WITH gone AS (DELETE FROM item WHERE n > 10 RETURNING 1) SELECT count(*) FROM gone"
    )
    pid = sandbox.ensure_server(target.project).pid

    os.kill(pid, signal.SIGKILL)
    again = sandbox.ensure_server(target.project)

    assert again.pid != pid
    assert query(opened, "SELECT count(*) FROM item") == 10
    assert until(lambda: len(keepers(target.project)) == 1)


def test_backend_that_outlives_a_killed_postmaster_does_not_prevent_the_next_start(
    target: Target,
) -> None:
    opened = sandbox.open_target(target)
    connection = psycopg2.connect(**opened.conninfo, async_=1)
    while connection.poll() != psycopg2.extensions.POLL_OK:
        time.sleep(0.01)
    backend = connection.info.backend_pid
    # Computes without ever waiting, so it does not notice that its server is gone.
    connection.cursor().execute(
        "DO $$ BEGIN FOR i IN 1..2000000000 LOOP PERFORM i; END LOOP; END $$"
    )
    while connection.poll() != psycopg2.extensions.POLL_READ:
        time.sleep(0.01)
    pid = sandbox.ensure_server(target.project).pid

    os.kill(pid, signal.SIGKILL)
    again = sandbox.ensure_server(target.project)

    assert again.pid != pid
    assert ends(backend)
    connection.close()


def test_pid_file_whose_pid_now_belongs_to_another_program_does_not_prevent_the_start(
    project: Path,
) -> None:
    server = sandbox.ensure_server(project)
    stale = (server.directory / "postmaster.pid").read_text().replace(str(server.pid), "{pid}")
    sandbox.stop_server(project)

    (server.directory / "postmaster.pid").write_text(stale.replace("{pid}", str(os.getpid())))
    again = sandbox.ensure_server(project)

    assert again.pid != os.getpid()
    assert not ends(os.getpid())


def test_server_without_its_socket_is_replaced(project: Path) -> None:
    server = sandbox.ensure_server(project)

    shutil.rmtree(server.socket_directory)
    again = sandbox.ensure_server(project)

    assert again.pid != server.pid
    assert ends(server.pid)


def test_server_whose_folder_was_deleted_does_not_prevent_a_new_one(target: Target) -> None:
    server = sandbox.ensure_server(target.project)

    shutil.rmtree(sandbox.sandbox_folder(target.project), ignore_errors=True)
    again = sandbox.ensure_server(target.project)

    assert again.pid != server.pid
    assert until(lambda: ends(server.pid))
    assert query(sandbox.open_target(target), "SELECT count(*) FROM item") == 1000


def test_half_made_data_folders_are_replaced(project: Path) -> None:
    cluster = cluster_of(project)
    sandbox.ensure_server(project)
    sandbox.remove(project)
    for name in ("pg18", "pg18.new-killed"):
        (cluster.folder / name / "base").mkdir(parents=True)
        (cluster.folder / name / "PG_VERSION").write_text("18\n")

    server = sandbox.ensure_server(project)

    assert server.directory == cluster.data
    assert not list(cluster.folder.glob("pg18.new-*"))


def test_reset_gives_back_what_the_seed_made(target: Target) -> None:
    opened = sandbox.open_target(target)
    rows = "SELECT md5(string_agg(item::text, ',' ORDER BY n)) FROM item"
    before = query(opened, rows)
    query(opened, "WITH gone AS (DELETE FROM item RETURNING 1) SELECT count(*) FROM gone")
    lingering = psycopg2.connect(**opened.conninfo)

    begin = time.perf_counter()
    again = sandbox.reset_database(target)
    duration_s = time.perf_counter() - begin

    assert again == opened
    assert query(again, rows) == before
    assert duration_s < 1.0
    with pytest.raises(psycopg2.OperationalError):
        lingering.cursor().execute("SELECT 1")
    lingering.close()


def test_seed_runs_once_for_many_databases_of_a_state(target: Target, project: Path) -> None:
    sandbox.open_target(target)
    seeded = query(_maintenance(target), TEMPLATE_OID)

    other = sandbox.open_target(load_target("sandbox:other", project / "alembic.ini"))
    copy = sandbox.open_target(target.with_conninfo(dbname='odd "name" %s'))

    assert query(_maintenance(target), TEMPLATE_OID) == seeded
    assert query(other, "SELECT count(*) FROM item") == 1000
    assert query(copy, "SELECT count(*) FROM item") == 1000
    assert sandbox.list_databases(project) == ('odd "name" %s', "other", "sandbox")


def test_estimates_are_in_the_template_so_they_are_the_same_in_every_copy(target: Target) -> None:
    opened = sandbox.open_target(target)

    assert query(opened, "SELECT reltuples FROM pg_class WHERE relname = 'item'") == 1000


def test_state_is_given_to_the_seed_and_empty_needs_none(target: Target) -> None:
    head = sandbox.reset_database(target, "head")
    state = query(head, "SELECT DISTINCT state FROM item")

    empty = sandbox.reset_database(target, "empty")

    assert state == "head"
    assert query(empty, "SELECT to_regclass('item') IS NULL")


@pytest.mark.parametrize("changed", ["seeds/data.py", "migrations/versions/001.py"])
def test_changed_seed_or_revision_rebuilds_the_template(target: Target, changed: str) -> None:
    sandbox.open_target(target)
    made = query(_maintenance(target), TEMPLATE_OID)

    path = target.project / changed
    path.write_text((path.read_text() if path.exists() else "") + "\n# another\n")
    sandbox.reset_database(target)

    assert query(_maintenance(target), TEMPLATE_OID) != made


TEMPLATE_OID = "SELECT oid::bigint FROM pg_database WHERE datname = 'template_legacy'"


def _maintenance(target: Target) -> Target:
    return sandbox.open_target(target).with_conninfo(dbname="postgres")


def test_unchanged_seed_keeps_the_template(target: Target) -> None:
    sandbox.open_target(target)
    made = query(_maintenance(target), TEMPLATE_OID)

    sandbox.reset_database(target)

    assert query(_maintenance(target), TEMPLATE_OID) == made


def test_template_takes_no_connections(target: Target) -> None:
    opened = sandbox.open_target(target)

    with pytest.raises(psycopg2.OperationalError):
        psycopg2.connect(**{**opened.conninfo, "dbname": "template_legacy"})


def test_failing_seed_is_one_sentence_and_leaves_the_database_as_it_was(target: Target) -> None:
    opened = sandbox.open_target(target)

    with pytest.raises(SettingsError, match="no such state: broken") as caught:
        sandbox.reset_database(target, "broken")

    assert "first line" not in str(caught.value)
    assert query(opened, "SELECT count(*) FROM item") == 1000
    names = "SELECT count(*) FROM pg_database WHERE datname ~ '^(seeding|template_broken)'"
    assert query(opened, names) == 0


def test_unfinished_seeding_of_a_killed_process_is_cleared(target: Target) -> None:
    server = sandbox.ensure_server(target.project)
    bare = sandbox.open_target(load_target("bare", target.alembic_ini))
    with connect(bare) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE DATABASE seeding_legacy_dead IS_TEMPLATE true")

    opened = sandbox.open_target(target)

    assert Path(opened.conninfo["host"]) == server.socket_directory
    assert query(opened, "SELECT count(*) FROM pg_database WHERE datname ~ '^seeding'") == 0


def test_caller_variables_do_not_lead_to_another_server(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGHOSTADDR", "127.0.0.1")
    monkeypatch.setenv("PGPORT", "1")
    monkeypatch.setenv("PGDATABASE", "elsewhere")

    sandbox.reset_database(target)

    assert sandbox.list_databases(target.project) == ("sandbox",)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="reads Linux's /proc")
def test_server_and_keeper_do_not_carry_the_secrets_of_the_caller(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://me:hunter2@example/db")

    server = sandbox.ensure_server(project)
    assert until(lambda: keepers(project))

    for pid in (server.pid, *keepers(project)):
        assert b"hunter2" not in Path(f"/proc/{pid}/environ").read_bytes()


def test_server_listens_on_no_port_and_sorts_by_code_point_in_utc(target: Target) -> None:
    opened = sandbox.open_target(target)

    with connect(opened) as connection:
        settings = dict(fetch(connection, "SELECT name, setting FROM pg_settings"))
        order = fetch(connection, "SELECT x FROM unnest(ARRAY['b', 'B', 'ä', 'a']) x ORDER BY x")

    assert settings["listen_addresses"] == ""
    assert settings["TimeZone"] == "UTC"
    assert settings["fsync"] == settings["synchronous_commit"] == "on"
    assert [x for (x,) in order] == ["B", "a", "b", "ä"]


def test_long_path_gets_its_socket_in_a_private_temporary_folder(
    base: Path, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLAYBOOK_SANDBOX", str(base / ("d" * 60) / ("e e" * 20)))

    server = sandbox.ensure_server(target.project)
    mode = stat.S_IMODE(server.socket_directory.stat().st_mode)
    count = query(sandbox.open_target(target), "SELECT count(*) FROM item")
    sandbox.remove(target.project)

    assert not server.socket_directory.is_relative_to(base)
    assert mode == 0o700
    assert count == 1000
    assert not server.socket_directory.exists()


def test_socket_folder_that_others_can_enter_is_refused(
    base: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLAYBOOK_SANDBOX", str(base / ("d" * 90)))
    server = sandbox.ensure_server(project)
    sandbox.stop_server(project)
    server.socket_directory.chmod(0o777)

    with pytest.raises(SettingsError, match="open to other users"):
        sandbox.ensure_server(project)

    sandbox.remove(project)


@pytest.mark.skipif(not IS_ROOT, reason="only root can give a folder to somebody else")
def test_socket_folder_of_somebody_else_is_refused(
    base: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLAYBOOK_SANDBOX", str(base / ("d" * 90)))
    server = sandbox.ensure_server(project)
    sandbox.stop_server(project)
    shutil.chown(server.socket_directory, "nobody")

    with pytest.raises(SettingsError, match="not a folder of yours"):
        sandbox.ensure_server(project)

    sandbox.remove(project)


def test_idle_server_stops_and_its_keeper_ends(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLAYBOOK_SANDBOX_IDLE_S", "1")
    server = sandbox.ensure_server(target.project)

    assert until(lambda: ends(server.pid))

    assert until(lambda: not keepers(target.project))
    assert query(sandbox.open_target(target), "SELECT count(*) FROM item") == 1000


def test_server_with_an_open_session_is_not_idle(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLAYBOOK_SANDBOX_IDLE_S", "1")
    opened = sandbox.open_target(target)

    with connect(opened) as connection:
        time.sleep(3)

        assert fetch_value(connection, "SELECT 1") == 1


def test_keeper_ends_when_the_folder_is_deleted(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLAYBOOK_SANDBOX_IDLE_S", "2")
    server = sandbox.ensure_server(project)
    assert until(lambda: keepers(project))

    shutil.rmtree(sandbox.sandbox_folder(project), ignore_errors=True)

    assert until(lambda: not keepers(project))
    psutil.Process(server.pid).send_signal(signal.SIGQUIT)


def test_killed_keeper_is_replaced_at_the_next_use(project: Path) -> None:
    sandbox.ensure_server(project)
    assert until(lambda: keepers(project))
    (keeper,) = keepers(project)

    os.kill(keeper, signal.SIGKILL)
    assert until(lambda: ends(keeper))
    sandbox.ensure_server(project)

    assert until(lambda: keepers(project))
    assert keepers(project) != [keeper]


def test_two_versions_run_side_by_side(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    new = sandbox.open_target(target)
    monkeypatch.setenv("PLAYBOOK_SANDBOX_POSTGRES", "16")

    old = sandbox.open_target(target)

    numbers = [query(opened, "SHOW server_version_num") for opened in (old, new)]
    assert [str(number)[:2] for number in numbers] == ["16", "18"]
    assert sandbox.stop_server(target.project)
    assert not sandbox.stop_server(target.project)


def test_other_kinds_of_target_are_left_alone(project: Path) -> None:
    live = load_target("live", project / "alembic.ini")

    assert sandbox.open_target(live) is live
    with pytest.raises(GuardRefused, match="not a sandbox"):
        sandbox.reset_database(live)
    with pytest.raises(GuardRefused, match="not a sandbox"):
        sandbox.drop_database(live)
    assert not sandbox.sandbox_folder(project).exists()


@pytest.mark.parametrize(
    "name", ["postgres", "template1", "template_legacy", "seeding_x", "x" * 64]
)
def test_names_that_the_server_needs_or_cuts_off_are_refused(target: Target, name: str) -> None:
    with pytest.raises(SettingsError):
        sandbox.open_target(target.with_conninfo(dbname=name))


@pytest.mark.parametrize(
    ("variable", "value"),
    [("PLAYBOOK_SANDBOX_POSTGRES", "17"), ("PLAYBOOK_SANDBOX_IDLE_S", "soon"),
     ("PLAYBOOK_SANDBOX", "/tmp/a$b")],
)  # fmt: skip
def test_variable_that_cannot_be_used_is_one_sentence(
    project: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)

    with pytest.raises(SettingsError, match=variable):
        sandbox.ensure_server(project)


def test_dropped_database_is_gone_and_dropping_it_again_is_safe(target: Target) -> None:
    sandbox.open_target(target)

    sandbox.drop_database(target)
    sandbox.drop_database(target)

    assert sandbox.list_databases(target.project) == ()


def test_remove_leaves_nothing_behind(project: Path) -> None:
    server = sandbox.ensure_server(project)
    assert until(lambda: keepers(project))
    running = [server.pid, *keepers(project)]

    assert sandbox.remove(project)

    assert until(lambda: all(ends(pid) for pid in running))
    assert not list(sandbox.sandbox_folder(project).parent.iterdir())
    assert not sandbox.remove(project)
    assert sandbox.list_databases(project) == ()


def test_command_line_starts_resets_says_and_removes(project: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "playbook.sandbox", *arguments]
        ini = ["--alembic-ini", str(project / "alembic.ini")]
        return subprocess.run([*command, *ini], check=False, capture_output=True, text=True)

    assert "stopped" not in run("start").stdout
    assert run("reset", "sandbox", "--state", "head").returncode == 0
    refused = run("reset", "live")
    psql = subprocess.run(
        [sys.executable, "-m", "playbook.sandbox", "psql", "sandbox",
         "--alembic-ini", str(project / "alembic.ini")],
        check=True, capture_output=True, text=True, input="SELECT count(*) FROM item",
    )  # fmt: skip

    assert "databases: sandbox" in run("status").stdout
    assert (refused.returncode, refused.stdout) == (1, "")
    assert len(refused.stderr.splitlines()) == 1
    assert "1000" in psql.stdout
    assert "Stopped" in run("stop").stdout
    assert "removed" in run("remove").stdout


@pytest.mark.skipif(not IS_ROOT, reason="only root can try as another OS user")
def test_other_os_users_cannot_connect(target: Target) -> None:
    server = sandbox.ensure_server(target.project)
    psql = server.bin_directory / "psql"
    as_nobody = {"user": "nobody", "group": "nogroup", "extra_groups": [], "cwd": "/"}
    if subprocess.run([psql, "--version"], check=False, **as_nobody).returncode:
        pytest.skip("nobody cannot run psql of this virtual environment")

    tried = subprocess.run(
        [psql, "-h", server.socket_directory, "-U", "postgres", "-c", "SELECT 1"],
        check=False, capture_output=True, text=True, **as_nobody,
    )  # fmt: skip

    assert tried.returncode == 2
    assert "Permission denied" in tried.stderr
    for folder in (server.directory, server.socket_directory):
        assert stat.S_IMODE(folder.stat().st_mode) & 0o077 == 0


@pytest.mark.skipif(not IS_ROOT, reason="only root runs the server as another OS user")
def test_programs_in_a_closed_virtual_environment_are_copied(base: Path, project: Path) -> None:
    closed = base / "closed"
    closed.mkdir(mode=0o700)
    wheel = sandbox.client_directory().parent.parent
    (closed / wheel.name).mkdir()
    (closed / wheel.name / "__init__.py").touch()
    for name in (f"{wheel.name}/pginstall18", f"{wheel.name}.libs"):
        if (wheel.parent / name).exists():
            shutil.copytree(wheel.parent / name, closed / name, symlinks=True)
    environment = {**os.environ, "PYTHONPATH": str(closed)}

    done = subprocess.run(
        [sys.executable, "-c", ENSURE, str(project)],
        check=False, env=environment, capture_output=True, text=True,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    program = psutil.Process(int(done.stdout)).exe()
    assert program.startswith(str(sandbox.sandbox_folder(project)))
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


@pytest.mark.skipif(not IS_ROOT, reason="only root runs the server as another OS user")
def test_folder_that_the_server_cannot_reach_is_one_sentence(
    base: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = base / "closed"
    closed.mkdir(mode=0o700)
    monkeypatch.setenv("PLAYBOOK_SANDBOX", str(closed))

    with pytest.raises(SettingsError, match="cannot be reached by the OS user"):
        sandbox.ensure_server(project)

    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


def test_socket_takes_connections_as_soon_as_the_server_is_returned(project: Path) -> None:
    server = sandbox.ensure_server(project)

    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(server.socket_directory / ".s.PGSQL.5432"))
