"""A backup's ``manifest.json``: written, read, found, compared with its files. Layer 3: files.

Formats: 2 has counts and fingerprints of each table (``tables``, of all columns together where
``form`` is 4), what the dump needs of a server and how long a restore took; 1 has the counts alone,
and is still read.
"""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from playbook.errors import BackupFailed, PlaybookError
from playbook.records import BackupManifest, Backups, ColumnSnapshot, ServerInfo, TableSnapshot
from playbook.targets import Target

__all__ = [
    "FORMAT_VERSION",
    "MANIFEST",
    "backup_folder",
    "check_files",
    "choose_backup",
    "hash_files",
    "known_backups",
    "list_backups",
    "read_manifest",
    "same_database",
    "write_manifest",
]

FORMAT_VERSION = 2
MANIFEST = "manifest.json"
FIELDS = {1: 18, 2: None}
"""How many of the record's fields each format has, from the first on."""

FileRow = tuple[str, int, str]
"""(relative path, size in bytes, SHA-256)."""


def backup_folder(target: Target, directory: str) -> Path:
    """Return where a target's backups are; a relative folder is the project's."""
    name = "".join(c if c.isalnum() or c in "-_." else "-" for c in target.name)
    return target.project / Path(directory).expanduser() / name


def list_backups(target: Target, directory: str) -> list[BackupManifest]:
    """Return the complete backups of a target, the newest first; unreadable ones are left out."""
    found = []
    for path in backup_folder(target, directory).glob(f"*/{MANIFEST}"):
        if path.parent.name.startswith("."):
            continue  # not complete: it has no name yet
        with suppress(PlaybookError):
            found.append(read_manifest(path.parent))
    return sorted(found, key=lambda manifest: manifest.started_at, reverse=True)


def same_database(backups: list[BackupManifest], server: ServerInfo) -> list[BackupManifest]:
    """Return those of one database; others may have had the same target's name."""
    same = (server.system_identifier, server.database)
    return [b for b in backups if (b.system_identifier, b.database) == same]


def known_backups(target: Target, server: ServerInfo, directory: str) -> Backups:
    """Return the backups of one database with their ages, the newest first."""
    now = datetime.now(UTC)
    found = same_database(list_backups(target, directory), server)
    return Backups(
        tuple((b, (now - datetime.fromisoformat(b.started_at)).total_seconds()) for b in found)
    )


def choose_backup(
    target: Target, server: ServerInfo, chosen: str, *, directory: str, parameter: str
) -> BackupManifest:
    """Return the backup that a runbook's parameter means.

    Args:
        chosen: ``latest`` (of this very database), the name of a backup's folder, or a path.
        directory: where the target's backups are.
        parameter: the parameter's name, for the message.

    Raises:
        BackupFailed: there is none, or its manifest is damaged.
    """
    folder = backup_folder(target, directory)
    if chosen != "latest":
        path = Path(chosen).expanduser()
        elsewhere = path if path.is_absolute() else target.project / path
        return read_manifest(folder / chosen if (folder / chosen).is_dir() else elsewhere)
    found = list_backups(target, directory)
    own = same_database(found, server)
    if not own:
        are = "is one" if len(found) == 1 else f"are {len(found)}"
        others = f" There {are} of other databases or servers." if found else ""
        raise BackupFailed(
            f"No backup of {server.database} on this server is in {folder}.{others}",
            state="Nothing was changed.",
            remedy=f"Name one with -r {parameter} PATH, or take one with `backup`.",
        )
    return own[0]


def read_manifest(directory: Path) -> BackupManifest:
    """Return what a backup's manifest says.

    Raises:
        BackupFailed: there is none, or it is damaged, or of a newer format.
    """
    try:
        record = json.loads((directory / MANIFEST).read_text("utf-8"))
        return _to_manifest(record, directory)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BackupFailed(
            f"{directory / MANIFEST} is not a manifest that can be read ({type(error).__name__}).",
            state="Nothing was changed.",
            remedy="Choose another backup.",
        ) from error


def _to_manifest(record: dict[str, Any], directory: Path) -> BackupManifest:
    names = [item.name for item in fields(BackupManifest) if item.name != "directory"]
    values = {name: record[name] for name in names[: FIELDS[record["format_version"]]]}
    for name in ("files", "rows"):
        values[name] = tuple(tuple(row) for row in record[name])
    for name in {"revisions", "extensions", "roles"} & set(values):
        values[name] = tuple(record[name])
    values["tables"] = tuple(_to_table(table) for table in values.get("tables", ()))
    return BackupManifest(directory=directory, **values)


def _to_table(record: dict[str, Any]) -> TableSnapshot:
    columns = tuple(ColumnSnapshot(**column) for column in record["columns"])
    return TableSnapshot(**(record | {"columns": columns}))


def write_manifest(manifest: BackupManifest, folder: Path) -> None:
    """Write or replace a backup's manifest in one step, flushed to the disk."""
    record = asdict(manifest)
    del record["directory"]
    temporary = folder / f".{MANIFEST}"
    with temporary.open("w", encoding="utf-8") as file:
        file.write(json.dumps(record, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / MANIFEST)


def hash_files(paths: list[Path], folder: Path) -> list[FileRow]:
    """Return size and SHA-256 of files, in their order; read by several threads."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(lambda path: _hash(path, folder), paths))


def _hash(path: Path, folder: Path) -> FileRow:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return path.relative_to(folder).as_posix(), path.stat().st_size, digest


def check_files(manifest: BackupManifest) -> None:
    """Compare every file with the manifest; the first that differs is named.

    Raises:
        BackupFailed: a file is missing, has another size or another SHA-256.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        problems = pool.map(lambda row: _problem(manifest.directory, row), manifest.files)
        found = next((problem for problem in problems if problem), "")
    if found:
        raise BackupFailed(
            f"The backup {manifest.directory.name} is damaged: {found}.",
            state="Nothing was changed.",
            remedy="Do not rely on it: take a new one with `backup`.",
        )


def _problem(folder: Path, row: FileRow) -> str:
    """Return what is wrong with a file, "" if nothing."""
    relative, size, digest = row
    path = folder / relative
    if not path.is_file():
        return f"{relative} is missing"
    if path.stat().st_size != size:
        return f"{relative} has {path.stat().st_size} bytes instead of {size}"
    if _hash(path, folder)[2] != digest:
        return f"{relative} has another SHA-256 than the manifest says"
    return ""
