"""What killed runs have left: the next one removes it, and nothing that somebody still makes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import zstandard

from builders import READS_DATABASE, Script
from playbook import preview
from playbook.archive import list_backups, take_backup
from playbook.compression import parse_compression
from playbook.database import connect, fetch_value, server_info
from playbook.dump import dump_database, find_client_tools
from playbook.leftovers import hold_database, sweep_databases
from playbook.sandbox import list_databases
from playbook.targets import Target
from playbook.unfinished import LOCK, PARTIAL, unfinished_folder
from playbook.zstd_feeder import Feeder
from steps import Namespace, go

HOLDS = """
import sys, time
from pathlib import Path
from playbook.unfinished import unfinished_folder
with unfinished_folder(Path(sys.argv[1])) as folder:
    print(folder, flush=True)
    time.sleep(60)
"""
DUMPS = """
import sys
from pathlib import Path
from playbook.compression import parse_compression
from playbook.dump import dump_database, find_client_tools
from playbook.targets import load_target
target = load_target("sandbox").with_conninfo(**eval(sys.argv[1]))
tools, compression = find_client_tools(180000), parse_compression("none")
dump_database(target, Path(sys.argv[2]), tools=tools, jobs=1, compression=compression)
"""
RESTORES = """
import sys
from pathlib import Path
from playbook.dump import find_client_tools, restore_archive
from playbook.targets import load_target
target = load_target("sandbox").with_conninfo(**eval(sys.argv[1]))
restore_archive(Path(sys.argv[2]), target, tools=find_client_tools(180000), jobs=2)
"""
WAITS = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND wait_event_type = 'Lock'"


@contextmanager
def python(code: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run some code in a process of its own, and kill it at the end."""
    command = [sys.executable, "-c", code, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_unfinished_folder_of_a_killed_process_is_removed_by_the_next(tmp_path: Path) -> None:
    with python(HOLDS, str(tmp_path)) as process:
        assert process.stdout
        left = Path(process.stdout.readline().strip())
        with unfinished_folder(tmp_path) as second:
            assert left.is_dir(), "its maker is at work"
            assert second != left
        process.send_signal(signal.SIGKILL)
        process.wait()

        with unfinished_folder(tmp_path) as third:
            assert list(tmp_path.iterdir()) == [third]


FEEDS = """
import sys, time
from pathlib import Path
from playbook.zstd_feeder import Feeder
with Feeder(Path(sys.argv[1])) as feeder:
    print(feeder.directory, flush=True)
    time.sleep(60)
"""


def test_text_that_a_killed_restore_left_in_the_temporary_folder_is_removed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dump, temporary = tmp_path / "dump", tmp_path / "tmp"
    dump.mkdir()
    temporary.mkdir()
    frames = zstandard.compress(b"a row\n") + zstandard.compress(b"")
    (dump / "1.dat.zst").write_bytes(frames)
    (temporary / ".others.partial").mkdir()
    (temporary / ".others.partial" / ".lock").touch()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)
    with python(FEEDS, str(dump)) as process:
        assert process.stdout
        left = Path(process.stdout.readline().strip())
        assert (left / "1.dat").read_bytes() == b"a row\n"
        assert left.stat().st_mode & 0o777 == 0o700
        process.send_signal(signal.SIGKILL)
        process.wait()

    with Feeder(dump) as feeder:
        assert {path.name for path in temporary.iterdir()} == {
            feeder.directory.name, ".others.partial",
        }  # fmt: skip
    assert [path.name for path in temporary.iterdir()] == [".others.partial"]


def test_unfinished_folder_without_a_lock_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".someone.partial").mkdir()

    with unfinished_folder(tmp_path):
        pass

    assert [path.name for path in tmp_path.iterdir()] == [".someone.partial"]


def test_unfinished_backup_is_no_backup_although_its_manifest_is_written(
    legacy_database: Target, tmp_path: Path
) -> None:
    with connect(legacy_database) as connection:
        server = server_info(connection)
    taken = take_backup(legacy_database, server, (), directory=str(tmp_path))
    assert {path.name for path in taken.directory.iterdir()} == {"dump", "manifest.json"}

    taken.directory.rename(taken.directory.with_name(".x.partial"))

    assert list_backups(legacy_database, str(tmp_path)) == []


def test_scratch_database_of_a_killed_run_is_dropped_by_the_next_that_makes_one(
    small: Callable[..., Namespace], fresh_database: Target
) -> None:
    namespace = small({"a1": Script(), "b2": READS_DATABASE}, to="")
    with connect(fresh_database) as connection, connection.cursor() as cursor:
        for name in ("playbook_scratch_00000001", "playbook_verify_fffffffe"):
            cursor.execute(f"CREATE DATABASE {name}")
        hold_database(connection, "playbook_verify_fffffffe")
        go(preview, namespace)
        held = list_databases(fresh_database.project)
    with connect(fresh_database) as connection:
        sweep_databases(connection)

    assert [name for name in held if name.startswith("playbook_")] == ["playbook_verify_fffffffe"]
    assert not any(n.startswith("playbook_") for n in list_databases(fresh_database.project))


def test_scratch_database_with_a_session_is_left_alone(fresh_database: Target) -> None:
    name = "playbook_scratch_0000002a"
    with connect(fresh_database) as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name}")
        with connect(fresh_database.with_conninfo(dbname=name)) as used:
            sweep_databases(connection)
            assert fetch_value(used, "SELECT 1") == 1
        deadline = time.monotonic() + 10
        while name in list_databases(fresh_database.project) and time.monotonic() < deadline:
            sweep_databases(connection)  # until the server has ended that session

    assert name not in list_databases(fresh_database.project)


def test_pg_dump_ends_when_its_caller_is_killed(legacy_database: Target, tmp_path: Path) -> None:
    with connect(legacy_database, autocommit=False) as connection, connection.cursor() as cursor:
        cursor.execute("LOCK TABLE users")
        with python(DUMPS, repr(dict(legacy_database.conninfo)), str(tmp_path / "d")) as process:
            deadline = time.monotonic() + 20
            while not fetch_value(connection, WAITS, (legacy_database.database,)):
                assert time.monotonic() < deadline
                cursor.execute("SELECT pg_stat_clear_snapshot()")
            relatives = psutil.Process(process.pid).children(recursive=True)
            process.kill()

            assert any("pg_dump" in relative.name() for relative in relatives)
            assert psutil.wait_procs(relatives, timeout=5)[1] == []


def test_pg_restore_ends_when_its_caller_is_killed(
    legacy_database: Target, fresh_database: Target, tmp_path: Path
) -> None:
    dump_database(
        legacy_database, tmp_path / "d", tools=find_client_tools(180000), jobs=1,
        compression=parse_compression("zstd"),
    )  # fmt: skip
    with connect(fresh_database, autocommit=False) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE users ()")  # pg_restore waits for the end of this transaction
        with python(RESTORES, repr(dict(fresh_database.conninfo)), str(tmp_path / "d")) as process:
            deadline = time.monotonic() + 20
            while not fetch_value(connection, WAITS, (fresh_database.database,)):
                assert time.monotonic() < deadline
                cursor.execute("SELECT pg_stat_clear_snapshot()")
            relatives = psutil.Process(process.pid).children(recursive=True)
            process.kill()

            assert any("pg_restore" in relative.name() for relative in relatives)
            assert psutil.wait_procs(relatives, timeout=5)[1] == []


def test_pipe_in_the_place_of_a_lock_stops_nobody(tmp_path: Path) -> None:
    """In a folder such as /tmp anybody can put one."""
    strange = tmp_path / f".strange{PARTIAL}"
    strange.mkdir()
    os.mkfifo(strange / LOCK)

    def make() -> None:
        with unfinished_folder(tmp_path):
            pass

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    thread.join(timeout=5)
    assert not thread.is_alive()
