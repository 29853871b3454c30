"""Connections and the advisory lock: each failure is one sentence with its remedy."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest

from playbook import database
from playbook.database import advisory_lock, connect, end_session, fetch, fetch_value, server_info
from playbook.errors import (
    CannotConnect,
    DatabaseError,
    GuardRefused,
    LockNotAcquired,
    PrivilegeMissing,
    StatementTimeout,
)
from playbook.targets import PROJECT_INI, Target, load_target
from servers import PASSWORD, PrivateServer

HOLD = """
import sys, time
from playbook.database import advisory_lock
from playbook.targets import Target
from pathlib import Path
conninfo = dict(pair.split("=", 1) for pair in sys.argv[1:])
with advisory_lock(Target("x", "url", Path("alembic.ini"), conninfo), wait_s=0):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(scope="module")
def refusing(password_server: PrivateServer) -> Iterator[PrivateServer]:
    """The password server with roles and a database that refuse a login in each way."""
    password_server.execute(
        f"CREATE ROLE reader LOGIN PASSWORD '{PASSWORD}'",
        f"CREATE ROLE sealed NOLOGIN PASSWORD '{PASSWORD}'",
        f"CREATE ROLE crowded LOGIN CONNECTION LIMIT 0 PASSWORD '{PASSWORD}'",
        "CREATE DATABASE closed",
        "REVOKE CONNECT ON DATABASE closed FROM PUBLIC",
    )
    yield password_server
    password_server.execute(
        "DROP DATABASE closed", "DROP ROLE reader", "DROP ROLE sealed", "DROP ROLE crowded"
    )


def url_target(url: str, password: str = PASSWORD) -> Target:
    target = load_target(url)
    return target.with_conninfo(password=password) if password else target


@pytest.mark.parametrize(
    ("database_name", "user", "password", "said", "remedy"),
    [
        ("nope", "reader", PASSWORD, 'database "nope" does not exist', "Create it"),
        ("postgres", "reader", "wrong", "password authentication failed", "Correct the password"),
        ("postgres", "nobody", PASSWORD, "password authentication failed", "Correct the password"),
        ("postgres", "reader", "", "no password supplied", "Correct the password"),
        ("closed", "reader", PASSWORD, 'permission denied for database "closed"', "GRANT CONNECT"),
        ("postgres", "sealed", PASSWORD, "is not permitted to log in", "LOGIN attribute"),
        ("postgres", "crowded", PASSWORD, "too many connections", "connections are taken"),
    ],
)  # fmt: skip
def test_refused_login_is_one_sentence_with_the_server_s_words_and_the_remedy(
    refusing: PrivateServer, database_name: str, user: str, password: str, said: str, remedy: str
) -> None:
    target = url_target(refusing.url(database_name, user), password)

    with pytest.raises(CannotConnect) as caught, connect(target):
        pass

    assert said in str(caught.value)
    assert remedy in caught.value.remedy
    assert caught.value.state == "Nothing was changed."
    assert PASSWORD not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_server_that_is_down_is_told_from_one_that_refuses() -> None:
    with (
        pytest.raises(CannotConnect) as caught,
        connect(load_target("postgresql://me@127.0.0.1:1/app")),
    ):
        pass

    assert caught.value.remedy.startswith("Check that the server runs")


def test_role_that_does_not_exist_is_not_taken_for_a_missing_database(
    fresh_database: Target,
) -> None:
    with (
        pytest.raises(CannotConnect) as caught,
        connect(fresh_database.with_conninfo(user="nobody")),
    ):
        pass

    assert 'role "nobody" does not exist' in str(caught.value)
    assert "user" in caught.value.remedy


def test_unknown_service_names_the_service_file() -> None:
    with pytest.raises(CannotConnect) as caught, connect(load_target("service:nope")):
        pass

    assert "pg_service.conf" in caught.value.remedy


@pytest.mark.parametrize(
    ("statement", "kind", "sqlstate"),
    [
        ("SELECT 1 / 0", DatabaseError, "22012"),
        ("SET statement_timeout = '10ms'; SELECT pg_sleep(5)", StatementTimeout, "57014"),
        ("SET ROLE pg_read_all_data; CREATE SCHEMA x", PrivilegeMissing, "42501"),
    ],
)
def test_error_of_the_server_is_ours_by_its_sqlstate(
    fresh_database: Target, statement: str, kind: type[DatabaseError], sqlstate: str
) -> None:
    with pytest.raises(kind) as caught, connect(fresh_database) as connection:
        fetch(connection, statement)

    assert caught.value.sqlstate == sqlstate
    assert sqlstate in str(caught.value)


def test_lock_that_is_not_granted_in_time_is_ours(fresh_database: Target) -> None:
    with connect(fresh_database, autocommit=False) as holder:
        holder.cursor().execute("CREATE TABLE t ()")
        holder.commit()
        holder.cursor().execute("LOCK TABLE t")

        with (
            pytest.raises(LockNotAcquired),
            connect(fresh_database, settings={"lock_timeout": "20ms"}) as waiting,
        ):
            fetch(waiting, "SELECT FROM t")


def test_read_only_session_cannot_write(fresh_database: Target) -> None:
    with (
        pytest.raises(DatabaseError, match="read-only"),
        connect(fresh_database, read_only=True) as connection,
    ):
        connection.cursor().execute("CREATE TABLE t ()")


def test_lost_connection_is_told(fresh_database: Target) -> None:
    end_own_session = "SELECT pg_terminate_backend(pg_backend_pid())"

    with pytest.raises(DatabaseError) as caught, connect(fresh_database) as connection:
        fetch(connection, end_own_session)

    assert "terminating connection" in str(caught.value) or "was lost" in str(caught.value)


def test_server_says_who_it_is(fresh_database: Target) -> None:
    with connect(fresh_database) as connection:
        info = server_info(connection)

    assert info.database == fresh_database.database
    assert info.version.split(".")[0] == str(info.version_num // 10000) == "18"
    assert info.user == "postgres"
    assert info.size_bytes > 1_000_000
    assert not info.in_recovery


def test_second_run_is_refused_with_the_name_of_the_holder(fresh_database: Target) -> None:
    with (
        advisory_lock(fresh_database),
        pytest.raises(GuardRefused) as caught,
        advisory_lock(fresh_database, wait_s=0),
    ):
        pass

    assert "'postgres' in 'migration-playbook', pid " in str(caught.value)
    assert "since 20" in str(caught.value)
    assert "Nothing was changed." in str(caught.value)


def test_lock_is_of_one_database_and_free_again_after_the_block(
    fresh_database: Target, legacy_database: Target
) -> None:
    with advisory_lock(fresh_database, wait_s=0), advisory_lock(legacy_database, wait_s=0):
        pass
    with advisory_lock(fresh_database, wait_s=0):
        pass


def test_waiting_run_goes_on_as_soon_as_the_lock_is_free(
    fresh_database: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database.random, "uniform", lambda low, high: 0.01)
    with connect(fresh_database) as holder:
        fetch(holder, "SELECT pg_advisory_lock(%s)", (database.LOCK_KEY,))
        fetch(holder, "SELECT set_config('idle_session_timeout', '300ms', false)")

        with advisory_lock(fresh_database, wait_s=5):
            pass
        holder.close()


def test_killed_holder_frees_the_lock(fresh_database: Target) -> None:
    pairs = [f"{key}={value}" for key, value in fresh_database.conninfo.items()]
    with subprocess.Popen([sys.executable, "-c", HOLD, *pairs], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        with pytest.raises(GuardRefused), advisory_lock(fresh_database, wait_s=0):
            pass

        os.kill(child.pid, signal.SIGKILL)

    with advisory_lock(fresh_database, wait_s=5):
        pass


def test_idle_session_timeout_of_the_server_does_not_end_the_holder(fresh_database: Target) -> None:
    name = psycopg2.extensions.quote_ident
    with connect(fresh_database) as connection:
        quoted = name(fresh_database.database, connection)
        fetch(connection, "SELECT 1")
        connection.cursor().execute(f"ALTER DATABASE {quoted} SET idle_session_timeout = '100ms'")
    with advisory_lock(fresh_database):
        time.sleep(0.3)

        with pytest.raises(GuardRefused), advisory_lock(fresh_database, wait_s=0):
            pass


def test_holder_of_another_role_is_named_though_its_times_are_hidden(
    refusing: PrivateServer,
) -> None:
    reader = url_target(refusing.url("postgres", "reader"))
    with (
        advisory_lock(url_target(refusing.url())),
        pytest.raises(GuardRefused) as caught,
        advisory_lock(reader, wait_s=0),
    ):
        pass

    assert "'postgres' in 'migration-playbook', pid " in str(caught.value)


def test_only_sessions_of_the_playbook_are_ended(fresh_database: Target) -> None:
    with (
        connect(fresh_database) as ours,
        connect(fresh_database.with_conninfo(application_name="app")) as theirs,
    ):
        end_session(fresh_database, ours.info.backend_pid)
        end_session(fresh_database, theirs.info.backend_pid)

        with pytest.raises(psycopg2.OperationalError):
            ours.cursor().execute("SELECT 1")
        assert fetch_value(theirs, "SELECT 1") == 1


def test_project_ini_is_this_checkout_s() -> None:
    assert (PROJECT_INI.parent / "lib" / "playbook") == Path(database.__file__).parent
