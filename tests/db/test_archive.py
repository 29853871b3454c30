"""Backups: complete or absent, and every kind of damage is found and named."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from playbook import archive
from playbook.archive import (
    backup_folder,
    list_backups,
    prune,
    read_manifest,
    take_backup,
    verify,
)
from playbook.database import connect, server_info
from playbook.errors import BackupFailed, SettingsError
from playbook.records import BackupManifest, ServerInfo
from playbook.sandbox import list_databases
from playbook.targets import Target


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
    assert manifest.verified == "archive"
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

    monkeypatch.setattr(archive, "read_archive", stop)
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


def mark(manifest: BackupManifest, started_at: str, verified: str) -> Path:
    path = manifest.directory / "manifest.json"
    record = json.loads(path.read_text()) | {"started_at": started_at, "verified": verified}
    path.write_text(json.dumps(record))
    return manifest.directory


def test_pruning_keeps_the_newest_and_always_the_newest_verified_one(
    small: Target, tmp_path: Path
) -> None:
    oldest, verified, newer, newest = (
        mark(take(small, tmp_path), f"2026-01-0{n}T00:00:00+00:00", "archive" if n < 3 else "")
        for n in (1, 2, 3, 4)
    )

    assert prune(small, server_of(small), str(tmp_path), keep=0) == []
    assert set(prune(small, server_of(small), str(tmp_path), keep=1)) == {oldest, newer}
    assert {m.directory for m in list_backups(small, str(tmp_path))} == {verified, newest}
    assert prune(small, server_of(small), str(tmp_path), keep=1) == []
