"""Backups: complete or absent, and every kind of damage is found and named."""

from __future__ import annotations

import fcntl
import json
import stat
import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from playbook import archive
from playbook.archive import (
    backup_folder,
    list_backups,
    read_manifest,
    take_backup,
    verify,
)
from playbook.database import connect, fetch_value, server_info
from playbook.errors import BackupFailed, SettingsError
from playbook.fingerprints import ROW_TEXTS
from playbook.records import BackupManifest, DumpProgress, Receipt, ServerInfo
from playbook.retention import plan_retention, remove_backups
from playbook.sandbox import list_databases
from playbook.snapshot import take_snapshot
from playbook.targets import Target, load_target
from servers import PrivateServer
from steps import run_sql


@pytest.fixture
def small(fresh_database: Target) -> Target:
    with connect(fresh_database) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id int PRIMARY KEY, x text)")
        cursor.execute("INSERT INTO t SELECT n, repeat('x', 20) FROM generate_series(1, 500) AS n")
        cursor.execute('CREATE TABLE "Odd Name" (y int)')
    return fresh_database


def server_of(target: Target) -> ServerInfo:
    with connect(target) as connection:
        return server_info(connection)


def take(target: Target, folder: Path, **options: object) -> BackupManifest:
    return take_backup(target, server_of(target), ("a1",), directory=str(folder), **options)  # type: ignore[arg-type]


def test_backup_says_what_it_holds_and_is_closed_to_others(small: Target, tmp_path: Path) -> None:
    manifest = take(small, tmp_path)

    assert dict(manifest.rows) == {"public.Odd Name": 0, "public.t": 500}
    assert manifest.revisions == ("a1",)
    assert manifest.verified == ""
    assert manifest.format_version == 2
    odd, t = manifest.tables
    assert (odd.name, odd.rows, t.name, t.rows) == ("public.Odd Name", 0, "public.t", 500)
    assert manifest.compression == "zstd:1"
    assert "zstd -d dump/*.zst && pg_restore" in manifest.restore_command
    assert manifest.restore_s == 0.0
    assert manifest.database_bytes > 0
    assert manifest.size_bytes == sum(
        p.stat().st_size for p in (manifest.directory / "dump").iterdir()
    )
    assert stat.S_IMODE(manifest.directory.stat().st_mode) == 0o700
    assert manifest.directory.parent == backup_folder(small, str(tmp_path))
    assert read_manifest(manifest.directory) == manifest
    assert list_backups(small, str(tmp_path)) == [manifest]


def test_two_backups_of_one_second_do_not_meet(small: Target, tmp_path: Path) -> None:
    first, second = take(small, tmp_path), take(small, tmp_path, jobs=2, compression="none")

    assert first.directory != second.directory
    assert second.compression == "none"
    assert {m.directory for m in list_backups(small, str(tmp_path))} == {
        first.directory, second.directory,
    }  # fmt: skip


def test_rows_are_counted_in_the_dump_s_own_snapshot(
    small: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = archive.dump_database

    def dump_later(target: Target, *arguments: object, **options: object) -> None:
        with connect(target) as connection:
            connection.cursor().execute("DELETE FROM t")
        real(target, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(archive, "dump_database", dump_later)
    manifest = take(small, tmp_path)

    assert dict(manifest.rows)["public.t"] == 500
    verify(manifest, "restore", target=small, server=server_of(small))


def test_backup_that_is_kept_read_only_is_proven_and_stays_as_it_is(
    small: Target, small_disk: Callable[[str], Path]
) -> None:
    disk = small_disk("8m")
    manifest = take(small, disk)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)

    proven = verify(manifest, "restore", target=small, server=server_of(small))

    assert proven.verified == "restore"
    assert read_manifest(manifest.directory) == manifest


def test_full_disk_keeps_a_proof_from_being_noted_and_the_sentence_says_so(
    small: Target, small_disk: Callable[[str], Path]
) -> None:
    disk = small_disk("8m")
    manifest = take(small, disk)
    with suppress(OSError), (disk / "all").open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass

    with pytest.raises(BackupFailed, match=r"was proven, .*: No space left on device\. Its files"):
        verify(manifest, "archive", target=small, server=server_of(small))

    assert read_manifest(manifest.directory) == manifest


def largest(manifest: BackupManifest) -> Path:
    return max((manifest.directory / "dump").glob("*.dat*"), key=lambda path: path.stat().st_size)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:]),
         "has another SHA-256 than the manifest says"),
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-7]), "bytes instead of"),
    ],
    ids=["byte flipped", "missing", "cut short"],
)  # fmt: skip
def test_damage_is_found_and_the_file_named(
    small: Target, tmp_path: Path, damage: object, said: str
) -> None:
    manifest = take(small, tmp_path)
    path = largest(manifest)
    damage(path)  # type: ignore[operator]

    with pytest.raises(BackupFailed) as caught:
        verify(manifest, "archive", target=small, server=server_of(small))

    assert f"is damaged: dump/{path.name} " in str(caught.value)
    assert said in str(caught.value)
    assert "Do not rely on it" in caught.value.remedy


def test_restore_proves_a_backup_and_leaves_no_database(small: Target, tmp_path: Path) -> None:
    before = list_databases(small.project)
    proven = verify(take(small, tmp_path), "restore", target=small, server=server_of(small))

    assert proven.verified == "restore"
    assert read_manifest(proven.directory).verified == "restore"
    assert list_databases(small.project) == before


def test_restored_rows_that_are_not_the_manifest_s_are_told(small: Target, tmp_path: Path) -> None:
    manifest = take(small, tmp_path)
    wrong = replace(manifest, rows=(("public.t", 501),))
    before = list_databases(small.project)

    with pytest.raises(
        BackupFailed, match=r"restores 500 rows of public\.t; its manifest says 501"
    ):
        verify(wrong, "restore", target=small, server=server_of(small))

    assert list_databases(small.project) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, BackupFailed("no")])
def test_interrupted_backup_leaves_no_folder(
    small: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def stop(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(archive, "hash_files", stop)
    with pytest.raises(type(error) if isinstance(error, Exception) else KeyboardInterrupt):
        take(small, tmp_path)

    assert list(backup_folder(small, str(tmp_path)).iterdir()) == []
    assert list_backups(small, str(tmp_path)) == []


def test_folder_that_cannot_be_made_is_one_sentence(small: Target, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(SettingsError, match=r"cannot be made: Not a directory"):
        take(small, tmp_path / "file")
    with pytest.raises(SettingsError, match="jobs=-1 is not a number from 0 to 32"):
        take(small, tmp_path, jobs=-1)


@pytest.mark.parametrize("text", [None, "", "{}", '{"format_version": 99}', "[]"])
def test_folder_without_a_manifest_is_no_backup(
    small: Target, tmp_path: Path, text: str | None
) -> None:
    folder = backup_folder(small, str(tmp_path)) / "x"
    folder.mkdir(parents=True)
    if text is not None:
        (folder / "manifest.json").write_text(text)

    with pytest.raises(BackupFailed, match="is not a manifest that can be read"):
        read_manifest(folder)
    assert list_backups(small, str(tmp_path)) == []


def test_manifest_of_format_1_is_still_read_and_proven(small: Target, tmp_path: Path) -> None:
    manifest = take(small, tmp_path)
    path = manifest.directory / "manifest.json"
    record = json.loads(path.read_text())
    new = ("tables", "database_bytes", "restore_s", "verified_at", "large_objects", "extensions",
           "roles", "form")  # fmt: skip
    path.write_text(
        json.dumps({k: v for k, v in record.items() if k not in new} | {"format_version": 1})
    )

    old = read_manifest(manifest.directory)
    proven = verify(old, "restore", target=small, server=server_of(small))

    assert (old.format_version, old.tables, old.rows) == (1, (), manifest.rows)
    assert proven.restore_s > 0
    assert read_manifest(manifest.directory) == proven


@pytest.mark.parametrize(("compression", "told"), [("zstd:1", r"\*"), ("gzip", "x")])
def test_restored_values_that_are_not_the_manifest_s_are_told(
    small: Target, tmp_path: Path, compression: str, told: str
) -> None:
    manifest = take(small, tmp_path, compression=compression)
    run_sql(small, "UPDATE t SET x = 'y' WHERE id = 77")
    wrong = replace(manifest, tables=take(small, tmp_path, compression=compression).tables)

    with pytest.raises(BackupFailed, match=rf"restores other values of public\.t\.{told} than its"):
        verify(wrong, "restore", target=small, server=server_of(small))


def test_values_of_another_form_of_fingerprints_are_not_compared_but_rows_are(
    small: Target, tmp_path: Path
) -> None:
    manifest = take(small, tmp_path, compression="gzip")
    assert manifest.form == take_snapshot(small, ()).form
    assert manifest.tables == take_snapshot(small, ()).tables
    with connect(small) as connection:
        connection.cursor().execute("UPDATE t SET x = 'y' WHERE id = 77")
    other = replace(manifest, tables=take_snapshot(small, ()).tables, form=manifest.form + 1)
    rows = tuple((name, count + 1) for name, count in manifest.rows)

    assert verify(other, "restore", target=small, server=server_of(small)).verified == "restore"
    with pytest.raises(BackupFailed, match="its manifest says 1"):
        verify(replace(other, rows=rows), "restore", target=small, server=server_of(small))


PARTED = """
CREATE TABLE parted (id int, part text) PARTITION BY LIST (part);
CREATE TABLE parted_a PARTITION OF parted FOR VALUES IN ('a') PARTITION BY RANGE (id);
CREATE TABLE parted_a_1 PARTITION OF parted_a FOR VALUES FROM (0) TO (100);
CREATE TABLE parted_rest (part text, id int);
ALTER TABLE parted ATTACH PARTITION parted_rest DEFAULT;
CREATE TABLE no_columns ();
CREATE TABLE odd (id int, at timestamptz, more text);
INSERT INTO odd VALUES (1, now(), E'two\nlines \\. and a tab\t'), (2, NULL, E'\\.'), (3, now(), '');
INSERT INTO parted SELECT n, chr(97 + n % 2) FROM generate_series(1, 20) AS n;
INSERT INTO no_columns DEFAULT VALUES; INSERT INTO no_columns DEFAULT VALUES
"""


def test_rows_of_a_table_are_those_that_a_select_finds(
    fresh_database: Target, tmp_path: Path
) -> None:
    run_sql(fresh_database, PARTED)

    manifest = take(fresh_database, tmp_path, jobs=2)

    found = {table.table: table.rows for table in manifest.tables}
    assert found == {"no_columns": 2, "odd": 3, "parted": 20}
    assert manifest.form == ROW_TEXTS
    assert all(table.columns for table in manifest.tables)
    verify(manifest, "restore", target=fresh_database, server=server_of(fresh_database))


ELSEWHERE = """
CREATE EXTENSION file_fdw; CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;
CREATE TABLE days (n int) PARTITION BY RANGE (n);
CREATE TABLE here PARTITION OF days FOR VALUES FROM (0) TO (10);
CREATE FOREIGN TABLE there PARTITION OF days FOR VALUES FROM (10) TO (20)
    SERVER files OPTIONS (program 'echo 11; echo 12');
INSERT INTO days SELECT generate_series(1, 3)
"""


def test_rows_that_are_not_in_the_dump_are_only_counted(
    other_version: PrivateServer, tmp_path: Path
) -> None:
    with other_version.database() as name:
        target = load_target(other_version.url(name))
        with connect(target) as connection:
            query = "SELECT count(*) FROM pg_available_extensions WHERE name = 'file_fdw'"
            if not fetch_value(connection, query):
                pytest.skip("this server has no file_fdw")
        run_sql(target, ELSEWHERE)

        (days,) = take(target, tmp_path).tables

    assert (days.rows, days.columns) == (5, ())
    assert days.coverage == "rows counted, values not compared"


@pytest.mark.parametrize(
    ("setting", "encoding"),
    [("TimeZone = 'Asia/Tokyo'", "UTF8"), ("bytea_output = 'escape'", "UTF8"),
     ("DateStyle = 'German'", "LATIN1"), ("quote_all_identifiers = on", "UTF8")],
)  # fmt: skip
def test_restored_texts_are_equal_whatever_a_database_s_settings_and_encoding(
    durable_server: PrivateServer, tmp_path: Path, setting: str, encoding: str
) -> None:
    create = f"TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'"
    with durable_server.database(options=create) as name:
        durable_server.execute(
            f'ALTER DATABASE "{name}" SET {setting}',
            "CREATE TABLE t (at timestamptz, d date, name text, raw bytea, n interval, r regtype)",
            "INSERT INTO t VALUES (now(), now(), 'Gr\u00fc\u00dfe', '\\x00ff41', '1 mon 2 s', 't')",
            database=name,
        )
        target = load_target(durable_server.url(name))

        manifest = take(target, tmp_path)
        proven = verify(manifest, "restore", target=target, server=server_of(target))

    assert (proven.form, proven.verified) == (ROW_TEXTS, "restore")


def test_restored_texts_are_equal_whatever_the_settings_of_who_compares(
    small: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_sql(small, "ALTER TABLE t ADD raw bytea DEFAULT 'raw'")
    manifest = take(small, tmp_path)
    monkeypatch.setenv("PGOPTIONS", "-c bytea_output=escape")

    proven = verify(manifest, "restore", target=small, server=server_of(small))

    assert (proven.form, proven.verified) == (ROW_TEXTS, "restore")


HEIRS = """
CREATE TABLE base (a int, b text); CREATE TABLE heir (own int) INHERITS (base);
CREATE TABLE alone (b text, a int); ALTER TABLE alone INHERIT base;
ALTER TABLE base ADD COLUMN later int;
INSERT INTO heir VALUES (1, 'b', 2, 3); INSERT INTO alone VALUES ('b', 1)
"""


def test_heirs_whose_columns_a_restore_may_put_into_another_order_are_read_by_the_server(
    fresh_database: Target, tmp_path: Path
) -> None:
    run_sql(fresh_database, HEIRS)

    manifest = take(fresh_database, tmp_path)

    assert manifest.tables == take_snapshot(fresh_database, ()).tables
    verify(manifest, "restore", target=fresh_database, server=server_of(fresh_database))


def test_restore_time_is_kept_and_a_later_weaker_proof_does_not_hide_it(
    small: Target, tmp_path: Path
) -> None:
    proven = verify(take(small, tmp_path), "restore", target=small, server=server_of(small))
    again = verify(proven, "archive", target=small, server=server_of(small))

    assert 0 < proven.restore_s < 60
    assert (again.verified, again.restore_s) == ("restore", proven.restore_s)
    assert read_manifest(again.directory) == again


def test_what_the_dump_needs_of_a_server_is_listed(small: Target, tmp_path: Path) -> None:
    role = f"reader_{small.database}"
    with connect(small) as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE ROLE {role}; GRANT SELECT ON t TO {role}; CREATE EXTENSION vector")
        cursor.execute("SELECT lo_from_bytea(0, 'x'), lo_from_bytea(0, 'y')")
    try:
        manifest = take(small, tmp_path)
        verify(manifest, "restore", target=small, server=server_of(small))
    finally:
        with connect(small) as connection:
            connection.cursor().execute(f"DROP OWNED BY {role}; DROP ROLE {role}")

    assert manifest.roles == (role,)
    assert [name.split()[0] for name in manifest.extensions] == ["vector"]
    assert manifest.large_objects == 2


def test_progress_tells_tables_bytes_and_the_time_left() -> None:
    told: list[DumpProgress] = []
    tell = archive._with_time_left(told.append, [600, 400], plain=True)
    tell(0, 0)
    tell(1, 450)
    tell(2, 900)

    assert [(one.tables, one.all_tables, one.expected_bytes) for one in told] == [
        (0, 2, 900), (1, 2, 900), (2, 2, 900),
    ]  # fmt: skip
    assert told[0].left_s == -1.0
    assert 0 <= told[2].left_s <= told[1].left_s


def test_what_a_killed_backup_left_is_removed_and_one_in_progress_is_not(
    small: Target, tmp_path: Path
) -> None:
    parent = backup_folder(small, str(tmp_path))
    dead, alive = parent / ".dead.partial", parent / ".alive.partial"
    for folder in (dead, alive):
        folder.mkdir(parents=True)
        (folder / ".lock").touch()
    with (alive / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        take(small, tmp_path)

    assert not dead.exists()
    assert alive.exists()


def mark(manifest: BackupManifest, started_at: str, verified: str) -> Path:
    path = manifest.directory / "manifest.json"
    record = json.loads(path.read_text()) | {"started_at": started_at, "verified": verified}
    path.write_text(json.dumps(record))
    return manifest.directory


def prune(
    target: Target, folder: Path, keep: int, receipts: tuple[Receipt, ...] = ()
) -> list[Path]:
    plan = plan_retention(target, server_of(target), str(folder), keep=keep, receipts=receipts)
    return remove_backups(plan)


def test_pruning_keeps_the_newest_and_always_the_newest_verified_one(
    small: Target, tmp_path: Path
) -> None:
    oldest, verified, newer, newest = (
        mark(take(small, tmp_path), f"2026-01-0{n}T00:00:00+00:00", "archive" if n < 3 else "")
        for n in (1, 2, 3, 4)
    )

    assert prune(small, tmp_path, 0) == []
    assert set(prune(small, tmp_path, 1)) == {oldest, newer}
    assert {m.directory for m in list_backups(small, str(tmp_path))} == {verified, newest}
    assert prune(small, tmp_path, 1) == []
    assert [path for path in newest.parent.iterdir() if path.name.startswith(".")] == []


def test_pruning_never_takes_the_newest_proven_by_a_restore(small: Target, tmp_path: Path) -> None:
    proofs = ("restore", "restore", "archive", "archive")
    oldest, proven, old, newest = (
        mark(take(small, tmp_path), f"2026-01-0{n}T00:00:00+00:00", proof)
        for n, proof in enumerate(proofs, 1)
    )

    assert set(prune(small, tmp_path, 1)) == {oldest, old}
    assert {m.directory for m in list_backups(small, str(tmp_path))} == {proven, newest}


def receipt(backup: Path, runbook: str, age_days: float) -> Receipt:
    begun = datetime.now(UTC) - timedelta(days=age_days)
    return Receipt(
        f"run-{age_days}", runbook, "t", "d", "succeeded", begun, begun, "me", (), (), (),
        str(backup), (), "", backup,
    )  # fmt: skip


def test_pruning_keeps_what_a_run_of_the_last_month_took_before_it_wrote_or_restored(
    small: Target, tmp_path: Path
) -> None:
    upgraded, restored, long_ago, by_hand, newest = (
        mark(take(small, tmp_path), f"2026-01-0{n}T00:00:00+00:00", "archive") for n in range(1, 6)
    )
    receipts = (
        receipt(upgraded, "upgrade", 29), receipt(long_ago, "upgrade", 31),
        receipt(by_hand, "backup", 1), receipt(restored, "restore", 2),
    )  # fmt: skip
    plan = plan_retention(small, server_of(small), str(tmp_path), keep=1, receipts=receipts)

    assert [(b.directory, why) for b, why in plan.kept] == [
        (newest, "among the 1 newest"), (restored, "restored by run-2"),
        (upgraded, "taken by run-29"),
    ]  # fmt: skip
    assert {b.directory for b in plan.removed} == {long_ago, by_hand}
    assert len(list_backups(small, str(tmp_path))) == 5  # a plan removes nothing


def test_dry_run_counts_the_backup_that_would_be_made(small: Target, tmp_path: Path) -> None:
    old, newest = (
        mark(take(small, tmp_path), f"2026-01-0{n}T00:00:00+00:00", "archive") for n in (1, 2)
    )
    plan = plan_retention(small, server_of(small), str(tmp_path), keep=1, to_come=1)

    assert [b.directory for b in plan.removed] == [old]
    assert [why for _, why in plan.kept] == ["the newest that was verified"]
    assert newest.exists()
