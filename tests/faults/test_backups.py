"""Damaged, killed, cut off: what a backup says then, and that no half of one is taken for one."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from builders import SECOND, TABLE
from playbook import archive, backup, status, upgrade
from playbook.archive import backup_folder, list_backups, read_manifest, take_backup, verify
from playbook.database import connect, fetch, server_info
from playbook.dump import ClientTools, find_client_tools, has_compression, restore_archive
from playbook.errors import BackupFailed, PlaybookError
from playbook.postgres_files import client_directory
from playbook.records import BackupManifest, Checks, DumpProgress, Retention, ServerInfo
from playbook.targets import Target, load_target
from servers import PrivateServer
from steps import Namespace, go, picture, run_sql

SEED = 20261125
DAMAGES = 100
ROWS = "INSERT INTO big SELECT n, md5(n::text) || md5((-n)::text) FROM generate_series(1, {}) AS n"


def server_of(target: Target) -> ServerInfo:
    with connect(target) as connection:
        return server_info(connection)


def take(target: Target, folder: Path, **options: object) -> BackupManifest:
    return take_backup(target, server_of(target), ("a1",), directory=str(folder), **options)  # type: ignore[arg-type]


@pytest.fixture
def big(fresh_database: Target) -> Target:
    """A database whose dump takes long enough to be disturbed."""
    run_sql(fresh_database, "CREATE TABLE big (n int PRIMARY KEY, x text)", ROWS.format(400_000))
    return fresh_database


# Damage on the disk.


def test_each_of_100_damaged_backups_is_refused_and_its_file_named(
    fresh_database: Target, tmp_path: Path
) -> None:
    run_sql(
        fresh_database,
        "CREATE TABLE big (n int PRIMARY KEY, x text)", ROWS.format(3000),
        "CREATE TABLE other AS SELECT * FROM big", "SELECT lo_from_bytea(0, 'some text')",
    )  # fmt: skip
    sound = take(fresh_database, tmp_path)
    server = server_of(fresh_database)
    chance = random.Random(SEED)
    refused = 0
    for number in range(DAMAGES):
        copy = tmp_path / f"copy-{number}"
        shutil.copytree(sound.directory, copy)
        path = copy / chance.choice(sound.files)[0]
        kind = chance.choice(("flip", "missing", "cut"))
        _damage(path, kind, chance)
        with pytest.raises(BackupFailed) as caught:
            verify(read_manifest(copy), "archive", target=fresh_database, server=server)
        said = caught.value.problem
        refused += f" {path.parent.name}/{path.name} " in said
        assert refused == number + 1, f"seed {SEED}, {kind} {path.name}: {said}"
        shutil.rmtree(copy)

    assert refused == DAMAGES
    assert verify(sound, "archive", target=fresh_database, server=server).verified == "archive"


def _damage(path: Path, kind: str, chance: random.Random) -> None:
    data = bytearray(path.read_bytes())
    if kind == "missing":
        path.unlink()
    elif kind == "cut":
        path.write_bytes(data[: chance.randrange(len(data))])
    else:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        path.write_bytes(data)


def test_archive_that_cannot_be_read_is_refused_although_its_hashes_agree(
    fresh_database: Target, tmp_path: Path
) -> None:
    """As after a fault of memory or disk while it was written: the hash is that of the damage."""
    run_sql(fresh_database, "CREATE TABLE big (n int PRIMARY KEY, x text)", ROWS.format(3000))
    manifest = take(fresh_database, tmp_path)
    path = next((manifest.directory / "dump").glob("*.zst"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)

    with pytest.raises(BackupFailed, match=rf"cannot be read to its end: {path.name} is damaged"):
        archive.read_archive(
            manifest.directory / "dump",
            tools=find_client_tools(server_of(fresh_database).version_num),
        )


# Disturbed while it is made.


def disturbed(target: Target, folder: Path, disturb: Callable[[], object]) -> str:
    """Take a backup, disturb it once it dumps, and return what it said."""
    done = threading.Event()

    def once(_: object) -> None:
        if not done.is_set():
            done.set()
            disturb()

    with pytest.raises(PlaybookError) as caught:
        take(target, folder, on_progress=once, jobs=2)
    assert done.is_set()
    assert list(backup_folder(target, str(folder)).iterdir()) == []
    assert list_backups(target, str(folder)) == []
    return str(caught.value)


def _until(found: Callable[[], object], wait_s: float = 10.0) -> object:
    deadline = time.monotonic() + wait_s
    while not (result := found()):
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.005)
    return result


def test_killed_pg_dump_is_told_and_leaves_nothing(big: Target, tmp_path: Path) -> None:
    def kill() -> None:
        _until(lambda: dumps(psutil.Process().children(recursive=True)))
        dumps(psutil.Process().children(recursive=True))[0].send_signal(signal.SIGKILL)

    def dumps(processes: list[psutil.Process]) -> list[psutil.Process]:
        return [p for p in processes if p.name() == "pg_dump"]

    said = disturbed(big, tmp_path, kill)

    assert said.startswith("pg_dump failed: it was ended by signal 9. No backup was made")


@pytest.mark.parametrize("whose", ["pg_dump", "the snapshot's session"])
def test_lost_connection_is_told_and_leaves_nothing(
    big: Target, tmp_path: Path, whose: str
) -> None:
    holds = whose == "the snapshot's session"
    query = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
        "AND pid <> pg_backend_pid() AND "
    ) + ("state = 'idle in transaction'" if holds else "query LIKE 'COPY %'")

    def cut() -> None:
        with connect(big) as connection:
            _until(lambda: fetch(connection, query))

    said = disturbed(big, tmp_path, cut)

    told = ("was lost: ",) if holds else ("terminating connection", "server closed the connection")
    assert any(words in said for words in told)
    assert "No backup was made and nothing was changed in the database." in said


KERNEL = """
import sys
from pathlib import Path
from playbook.archive import take_backup
from playbook.database import connect, server_info
from playbook.sandbox import open_target
from playbook.targets import load_target

target = open_target(load_target(sys.argv[1]), state="empty")
with connect(target) as connection:
    server = server_info(connection)
take_backup(target, server, (), directory=sys.argv[2], jobs=2,
            on_progress=lambda state: print("dumping", flush=True))
"""


def test_killed_kernel_leaves_nothing_that_is_taken_for_a_backup(
    big: Target, tmp_path: Path
) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", KERNEL, f"sandbox:{big.database}", str(tmp_path)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdout is not None
    assert child.stdout.readline() == "dumping\n"
    _until(lambda: list(tmp_path.glob("*/.*.partial/dump/*.dat")))
    child.kill()
    child.wait()
    child.stdout.close()
    left = list(tmp_path.glob("*/.*.partial"))

    assert left
    assert list_backups(big, str(tmp_path)) == []

    taken = take(big, tmp_path)

    assert list_backups(big, str(tmp_path)) == [taken]
    assert not any(path.exists() for path in left)


@pytest.mark.parametrize("compression", ["auto", "gzip:1"])
def test_full_disk_is_told_and_leaves_nothing(
    big: Target, small_disk: Callable[[str], Path], compression: str
) -> None:
    disk = small_disk("2m")
    with pytest.raises(BackupFailed, match="No space left on device") as caught:
        take(big, disk, compression=compression)

    assert "No backup was made" in str(caught.value)
    assert list(backup_folder(big, str(disk)).iterdir()) == []


# What a database may hold.

ODD = """
CREATE SCHEMA "Größe & Co"; CREATE SCHEMA "select";
CREATE TYPE "select"."Mood" AS ENUM ('sad', 'it''s "ok"', 'froh ☺');
CREATE DOMAIN "select".positive AS int CHECK (VALUE > 0);
CREATE TABLE "Größe & Co"."Ta""ble.with a dot" (
    id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, "from" text, "Mixed Case" numeric(9, 3),
    twice int GENERATED ALWAYS AS (id * 2) STORED, mood "select"."Mood"[], grid int[][],
    doc jsonb, raw bytea, span tstzrange, size "select".positive);
INSERT INTO "Größe & Co"."Ta""ble.with a dot"
    ("from", "Mixed Case", mood, grid, doc, raw, span, size)
SELECT E'tab\\t new\\nline \\\\. ' || n, n / 7.0, ARRAY['froh ☺', 'it''s "ok"']::"select"."Mood"[],
    ARRAY[[n, 1], [2, NULL]], jsonb_build_object('a', n, 'ü', NULL), decode(md5(n::text), 'hex'),
    tstzrange(now(), NULL), n FROM generate_series(1, 500) AS n;
CREATE TABLE "select"."order" (day date NOT NULL, n bigint, x text) PARTITION BY RANGE (day);
CREATE TABLE "select".order_1 PARTITION OF "select"."order"
    FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
CREATE TABLE "select".order_2 PARTITION OF "select"."order" DEFAULT;
INSERT INTO "select"."order"
    SELECT '2026-01-01'::date + n % 60, n, repeat('z', n % 40) FROM generate_series(1, 2000) AS n;
CREATE INDEX "in""dex" ON "select"."order" (n);
CREATE VIEW "select"."view" AS SELECT day, count(*) FROM "select"."order" GROUP BY 1;
CREATE MATERIALIZED VIEW "select".seen AS SELECT * FROM "select"."view";
CREATE TABLE guarded (owner text NOT NULL, secret text);
INSERT INTO guarded VALUES ('a', 'b'), ('c', NULL);
ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON guarded USING (owner = current_user);
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql
    AS $$ BEGIN NEW.n := NEW.n + 1; RETURN NEW; END $$;
CREATE TRIGGER touch BEFORE INSERT ON "select"."order" FOR EACH ROW EXECUTE FUNCTION touch();
SELECT lo_from_bytea(0, decode(repeat('00ff', 300000), 'hex')), lo_from_bytea(0, '');
"""
LARGE_OBJECTS = "SELECT md5(lo_get(oid)) FROM pg_largeobject_metadata ORDER BY 1"
SEEN = 'SELECT * FROM "select".seen ORDER BY 1'


def assert_restored_equal(source: Target, copy: Target, manifest: BackupManifest) -> None:
    tools = find_client_tools(server_of(source).version_num)
    restore_archive(manifest.directory / "dump", copy, tools=tools, jobs=2)
    with connect(source) as old, connect(copy) as new:
        assert fetch(new, LARGE_OBJECTS) == fetch(old, LARGE_OBJECTS)
        assert fetch(new, SEEN) == fetch(old, SEEN)
    assert picture(copy) == picture(source)


@pytest.mark.parametrize("compression", ["auto", "gzip:1", "none"])
@pytest.mark.parametrize("jobs", [1, 2])
def test_odd_database_is_backed_up_and_restored_equal(
    legacy_database: Target, fresh_database: Target, tmp_path: Path, compression: str, jobs: int
) -> None:
    run_sql(legacy_database, ODD)
    manifest = take(legacy_database, tmp_path, compression=compression, jobs=jobs)

    proven = verify(manifest, "restore", target=legacy_database, server=server_of(legacy_database))

    assert proven.verified == "restore"
    assert manifest.large_objects == 2
    assert_restored_equal(legacy_database, fresh_database, manifest)


def test_odd_database_on_another_server_is_backed_up_and_restored_equal(
    other_version: PrivateServer, tmp_path: Path
) -> None:
    with other_version.database() as one, other_version.database() as two:
        source, copy = load_target(other_version.url(one)), load_target(other_version.url(two))
        run_sql(source, ODD)
        manifest = take(source, tmp_path, jobs=2)

        proven = verify(manifest, "restore", target=source, server=server_of(source))

        nearest = max(other_version.major, 15)
        assert proven.pg_dump_version.startswith(("17", "18") if nearest == 17 else str(nearest))
        assert_restored_equal(source, copy, manifest)


@pytest.mark.parametrize(
    ("compression", "suffix"),
    [("auto", ".zst"), ("zstd:3", ".zst"), ("lz4", ".lz4"), ("gzip:1", ".gz"), ("none", "")],
)
def test_client_that_compresses_itself_is_let_to(
    other_version: PrivateServer, tmp_path: Path, compression: str, suffix: str
) -> None:
    tools = find_client_tools(other_version.major * 10000)
    if not (has_compression(tools, "zstd") and has_compression(tools, "lz4")):
        pytest.skip(f"pg_dump {tools.version} was built without zstd and lz4")
    told: list[DumpProgress] = []
    with other_version.database() as one, other_version.database() as two:
        source, copy = load_target(other_version.url(one)), load_target(other_version.url(two))
        run_sql(source, ODD)
        manifest = take(source, tmp_path, compression=compression, on_progress=told.append)

        proven = verify(manifest, "restore", target=source, server=server_of(source))

        assert proven.verified == "restore"
        assert all(state.left_s < 0 for state in told if compression != "none")
        data = {path for path, _, _ in manifest.files if "toc" not in path}
        assert {path.partition(".dat")[2] for path in data} == {suffix}
        # The manifest's own words, and a pg_restore that was built without the method.
        subprocess.run(
            manifest.restore_command.replace("NEW_DATABASE", f"'{other_version.url(two)}'"),
            shell=True, check=True, cwd=manifest.directory,
            env=os.environ | {"PATH": f"{tools.directory}:{os.environ['PATH']}"},
        )  # fmt: skip
        assert picture(copy) == picture(source)
        if suffix == ".zst" and other_version.major >= 17:
            wheel = ClientTools(client_directory(18), 18, "18")
            with other_version.database() as three:
                again = load_target(other_version.url(three))
                restore_archive(manifest.directory / "dump", again, tools=wheel, jobs=2)
                assert picture(again) == picture(source)


def test_writes_during_the_backup_do_not_part_counts_from_rows(big: Target, tmp_path: Path) -> None:
    stop = threading.Event()
    written = 0

    def write() -> None:
        nonlocal written
        with connect(big) as connection, connection.cursor() as cursor:
            while not stop.is_set():
                cursor.execute("DELETE FROM big WHERE n = %s", (written + 1,))
                cursor.execute("UPDATE big SET x = 'late' WHERE n = %s", (400_000 - written,))
                cursor.execute("INSERT INTO big VALUES (%s, 'new')", (500_000 + 2 * written,))
                cursor.execute("INSERT INTO big VALUES (%s, 'new')", (500_001 + 2 * written,))
                written += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        _until(lambda: written > 50)
        before = written
        manifest = take(big, tmp_path, jobs=2)
    finally:
        stop.set()
        writer.join()

    assert written > before
    verify(manifest, "restore", target=big, server=server_of(big))
    assert 400_000 + before <= dict(manifest.rows)["public.big"] <= 400_000 + written + 1


# In the runbooks.


def test_dry_run_says_what_would_go_and_makes_and_removes_nothing(
    small: Callable[..., Namespace],
) -> None:
    namespace = small({"a1": TABLE})
    for _ in range(2):
        go(backup, namespace)
    folder = Path(namespace["alembic_ini"]).parent
    before = sorted(folder.rglob("*"))

    run = go(backup, namespace, keep=1, dry_run=True, before="prune_backups")
    said = go(backup, namespace, keep=1, dry_run=True)

    plan = run.require("retention", Retention)
    assert len(plan.removed) == 1
    assert [why for _, why in plan.kept] == ["the newest that was verified"]
    assert said.summary == "Nothing was dumped or removed: this is a dry run."
    assert sorted(folder.rglob("*")) == before


def test_backup_removes_what_it_showed_and_keeps_what_a_run_stands_on(
    small: Callable[..., Namespace],
) -> None:
    namespace = small({"a1": TABLE, "b2": SECOND})
    go(upgrade, namespace, backup="always")
    for _ in range(2):
        go(backup, namespace)

    run = go(backup, namespace, keep=1, before="prune_backups")
    plan = run.require("retention", Retention)
    backup.prune_backups(run)

    assert [why.split()[0] for _, why in plan.kept] == ["among", "taken"]
    assert [b.directory.exists() for b in plan.removed] == [False, False]
    assert [b.directory.exists() for b, _ in plan.kept] == [True, True]


def test_status_and_upgrade_tell_the_backups_that_there_are(
    small: Callable[..., Namespace],
) -> None:
    namespace = small({"a1": TABLE, "b2": SECOND})
    none = go(status, namespace, before="read_runs").require("preflight", Checks)
    go(backup, namespace, verify="restore")

    with status.open_run(namespace) as run:
        ((taken, age_s),) = status.list_backups(run).items
    with upgrade.open_run(namespace) as run:
        upgrade.plan_upgrade(run)
        some = upgrade.check_preflight(run)

    assert (taken.verified, taken.revisions) == ("restore", ("a1",))
    assert taken.restore_s > 0
    assert 0 < age_s < 60
    details = [f.detail for checks in (none, some) for f in checks.findings if f.code == "backups"]
    assert details[0] == "There is none of this database yet."
    assert details[1].startswith("The newest of 1 backup: ")
    assert details[1].endswith(", at a1, verified (restore).")
