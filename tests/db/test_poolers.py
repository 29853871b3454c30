"""PgBouncer in front of the server: recognised, taken in session mode, refused in the others."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg2
import pytest

from builders import SECOND, TABLE, Project
from playbook import backup, rollback, status, upgrade
from playbook.database import connect, fetch_value, is_pooled
from playbook.errors import CannotConnect, GuardRefused
from playbook.targets import load_target
from servers import PrivateServer, free_port
from session import SESSION_FOLDER
from steps import go

PGBOUNCER = "/usr/sbin/pgbouncer"
# "any" lets every client in, as the user that the database's line names.
CONFIGURATION = """
[databases]
* = host=127.0.0.1 port={server} user=pooled password=pw
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
{more}
"""


@pytest.fixture
def database(password_server: PrivateServer) -> Iterator[tuple[PrivateServer, str]]:
    if not Path(PGBOUNCER).exists():
        missing = f"there is no {PGBOUNCER}"
        if os.environ.get("PLAYBOOK_REQUIRE_PGBOUNCER"):
            pytest.fail(missing)
        pytest.skip(missing)
    password_server.execute("CREATE ROLE pooled LOGIN SUPERUSER PASSWORD 'pw'")
    try:
        with password_server.database() as name:
            yield password_server, name
    finally:
        password_server.execute("DROP ROLE pooled")


@contextmanager
def pgbouncer(database: tuple[PrivateServer, str], mode: str, more: str = "") -> Iterator[str]:
    """Run PgBouncer in front of a database's server and yield its URL."""
    server, name = database
    folder = Path(tempfile.mkdtemp(prefix="pgbouncer-", dir=SESSION_FOLDER))
    folder.chmod(0o755)
    port = free_port()
    file = folder / "pgbouncer.ini"
    file.write_text(CONFIGURATION.format(server=server.port, port=port, mode=mode, more=more))
    become = ["-u", "nobody"] if os.geteuid() == 0 else []
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([PGBOUNCER, *become, str(file)], stderr=log)
    try:
        _until_it_listens(port, folder / "log")
        yield f"postgresql://pooled@127.0.0.1:{port}/{name}"
    finally:
        process.terminate()
        process.wait(10)
        shutil.rmtree(folder, ignore_errors=True)


def _until_it_listens(port: int, log: Path) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    pytest.fail(log.read_text())


def test_pool_in_session_mode_serves_every_runbook(
    database: tuple[PrivateServer, str], staging: Callable[..., Project],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    project = staging({"a1": TABLE, "b2": SECOND})
    with pgbouncer(database, "session") as url:
        monkeypatch.setenv("POOLED", url)
        namespace = {"database": "env:POOLED", "alembic_ini": str(project.ini)}

        with go(status, namespace, before="read_runs") as run:
            (finding,) = [f for f in status.check_preflight(run).findings if f.code == "pooler"]
        go(upgrade, namespace)
        go(backup, namespace, jobs=2, verify="restore")
        assert go(rollback, namespace, target="a1").outcome == "succeeded"

    assert finding.subject == "pool in session mode"


@pytest.mark.parametrize(
    ("mode", "more"),
    [("transaction", ""), ("transaction", "server_round_robin = 1"), ("statement", "")],
)
def test_pool_in_another_mode_is_refused_before_anything_is_set_in_its_sessions(
    database: tuple[PrivateServer, str], mode: str, more: str
) -> None:
    with pgbouncer(database, mode, f"{more}\nmin_pool_size = 3") as url:
        target = load_target(url)
        with pytest.raises(GuardRefused, match="pooler in transaction mode .* the application's"):
            with connect(target, read_only=True):
                pass

        for _ in range(6):
            application = psycopg2.connect(url)
            application.autocommit = True
            with application.cursor() as cursor:
                cursor.execute("SELECT current_setting('default_transaction_read_only'), "
                               "current_setting('row_security')")  # fmt: skip
                assert cursor.fetchone() == ("off", "on")
            application.close()


def test_parameter_that_the_pooler_refuses_is_named(database: tuple[PrivateServer, str]) -> None:
    with pgbouncer(database, "session") as url:
        with pytest.raises(CannotConnect, match=r"parameter: options.* ignore_startup_parameters"):
            with connect(load_target(f"{url}?options=-csearch_path%3Dpublic")):
                pass


def test_server_itself_is_not_taken_for_a_pool(password_server: PrivateServer) -> None:
    target = load_target(password_server.url()).with_conninfo(password=password_server.password)
    with connect(target) as connection:
        assert not is_pooled(connection)
        assert fetch_value(connection, "SHOW row_security") == "off"
