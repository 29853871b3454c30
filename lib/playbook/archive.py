"""Backups on disk: take one, list them, prove one. Layer 4.

A backup is a folder with pg_dump's directory format in ``dump/`` and ``manifest.json`` beside
it. It is made under a name that starts with a dot and renamed when complete, so that an
interrupted one is never taken for a backup.
"""

from __future__ import annotations

import errno
import getpass
import hashlib
import json
import os
import shutil
import socket
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime
from pathlib import Path

import psycopg2.extensions
from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from playbook.catalog import table_names
from playbook.database import connect, fetch_value
from playbook.dump import (
    ClientTools,
    Progress,
    dump_database,
    find_client_tools,
    gzip_level,
    read_archive,
    restore_archive,
)
from playbook.errors import BackupFailed, PlaybookError, SettingsError
from playbook.leftovers import (
    hold_database,
    scratch_name,
    sweep_databases,
    unfinished_folder,
    unmark_folder,
)
from playbook.records import BackupManifest, ServerInfo
from playbook.snapshot import count_rows
from playbook.targets import Target

__all__ = [
    "backup_folder",
    "check_folder",
    "check_jobs",
    "list_backups",
    "prune",
    "read_manifest",
    "take_backup",
    "verify",
]

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
DUMP = "dump"
MOST_JOBS = 32
"""Each job is a session of the server, whose default is 100 for everybody."""
SMALL_BYTES = 64 * 1024 * 1024
"""Below this a second connection costs more than it gives."""


def backup_folder(target: Target, directory: str) -> Path:
    """Return where a target's backups are; a relative folder is the project's."""
    name = "".join(c if c.isalnum() or c in "-_." else "-" for c in target.name)
    return target.project / Path(directory).expanduser() / name


def list_backups(target: Target, directory: str) -> list[BackupManifest]:
    """Return the complete backups of a target, the newest first; unreadable ones are left out."""
    found = []
    for path in backup_folder(target, directory).glob(f"*/{MANIFEST}"):
        if path.parent.name.startswith("."):  # not finished, though its manifest may be there
            continue
        with suppress(PlaybookError):
            found.append(read_manifest(path.parent))
    return sorted(found, key=lambda manifest: manifest.started_at, reverse=True)


def read_manifest(directory: Path) -> BackupManifest:
    """Return what a backup's manifest says.

    Raises:
        BackupFailed: there is none, or it is damaged.
    """
    try:
        record = json.loads((directory / MANIFEST).read_text("utf-8"))
        known = {item.name for item in fields(BackupManifest)} - {"directory"}
        known_format = {FORMAT_VERSION: BackupManifest}[record["format_version"]]
        for name in ("files", "rows"):
            record[name] = tuple(tuple(row) for row in record[name])
        record["revisions"] = tuple(record["revisions"])
        return known_format(directory=directory, **{k: record[k] for k in known})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BackupFailed(
            f"{directory / MANIFEST} is not a manifest that can be read ({type(error).__name__}).",
            state="Nothing was changed.",
            remedy="Choose another backup.",
        ) from error


def take_backup(
    target: Target,
    server: ServerInfo,
    revisions: Sequence[str],
    *,
    directory: str,
    jobs: int = 0,
    compression: str = "auto",
    on_progress: Progress = lambda tables, size: None,
) -> BackupManifest:
    """Dump a database into a new folder and prove that every file can be read to its end.

    **Effects**: one new folder, mode 0700. Reads the database in one snapshot, in which the rows
    of every table are counted too. After a failure no folder remains; what a killed process left
    of an unfinished one is removed by the next backup.

    Args:
        directory: where backups are kept; a relative one is the project's.
        jobs: parallel connections; 0 chooses by cores and size.
        compression: ``auto``, ``none`` or ``gzip:LEVEL``.
        on_progress: called with (tables begun, bytes so far) about once a second.

    Raises:
        BackupFailed: no client that fits, pg_dump failed, or the archive cannot be read.
        SettingsError: jobs is out of its range, or the folder cannot be made.
    """
    check_jobs(jobs)
    level = gzip_level(compression)
    tools = find_client_tools(server.version_num)
    parent = _backups_of(target, directory)
    try:
        with unfinished_folder(parent) as partial:
            manifest = _fill(
                target, server, revisions, partial, tools, jobs or _jobs(server), level, on_progress
            )
            _write_manifest(manifest, partial)
            unmark_folder(partial)
            final = _rename(partial, parent, revisions)
    except OSError as error:
        raise BackupFailed(
            f"The backup could not be written to {parent}: {error.strerror}.",
            state="No backup was made and nothing was changed in the database.",
            remedy="Make room or choose another folder with -r directory PATH.",
        ) from error
    return replace(manifest, directory=final)


def verify(
    manifest: BackupManifest, how: str, *, target: Target, server: ServerInfo
) -> BackupManifest:
    """Prove a backup and note in its manifest how it was proven.

    **Effects**: ``restore`` makes a scratch database on the target's server and drops it.

    Args:
        how: ``archive`` (every file's SHA-256, and the archive read to its end) or ``restore``
            (also restored into a scratch database, whose rows are counted).

    Raises:
        BackupFailed: a file is missing or damaged, or the counts differ; it is named.
    """
    _check_files(manifest)
    tools = find_client_tools(server.version_num)
    read_archive(manifest.directory / DUMP, tools=tools)
    if how == "restore":
        _check_restore(manifest, target, tools)
    proven = replace(manifest, verified=how)
    _write_manifest(proven, manifest.directory)
    return proven


def prune(target: Target, server: ServerInfo, directory: str, *, keep: int) -> list[Path]:
    """Remove all but the ``keep`` newest backups of a database and return what was removed.

    The newest verified one always stays, and 0 keeps everything. Backups of another database or
    server under the same target's name are none of its business.
    """
    same = (server.system_identifier, server.database)
    backups = [
        b for b in list_backups(target, directory) if (b.system_identifier, b.database) == same
    ]
    verified = next((b.directory for b in backups if b.verified), None)
    old = [b.directory for b in backups[keep:] if b.directory != verified] if keep else []
    for path in old:
        shutil.rmtree(path)
    return old


def check_jobs(jobs: int) -> None:
    """Refuse a number of connections that is negative or would take all that the server has.

    Raises:
        SettingsError: it is not from 0 to `MOST_JOBS`.
    """
    if not 0 <= jobs <= MOST_JOBS:
        raise SettingsError(
            f"jobs={jobs} is not a number from 0 to {MOST_JOBS}.",
            remedy="Write -p jobs 0 to let the playbook choose, or a number of cores.",
        )


def check_folder(target: Target, directory: str) -> None:
    """Refuse a folder for backups that cannot be made; makes nothing.

    Raises:
        SettingsError: the name is empty, a file is in its way, or it may not be written to.
    """
    if not directory.strip():
        raise SettingsError(
            "The parameter directory is empty.", remedy="Write -r directory PATH; backups is usual."
        )
    folder = backup_folder(target, directory)
    existing = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not existing.is_dir():
        problem = f"{existing} is no folder"
    elif not os.access(existing, os.W_OK | os.X_OK):
        problem = f"{existing} may not be written to"
    else:
        return
    raise SettingsError(
        f"The folder {folder} cannot be made: {problem}.",
        remedy="Choose another one with -r directory PATH.",
    )


def _jobs(server: ServerInfo) -> int:
    return 1 if server.size_bytes < SMALL_BYTES else min(os.cpu_count() or 1, 4)


def _backups_of(target: Target, directory: str) -> Path:
    """Make the folder of a target's backups and return it."""
    parent = backup_folder(target, directory)
    try:
        parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise SettingsError(
            f"The folder {parent} cannot be made: {error.strerror}.",
            remedy="Choose another one with -r directory PATH.",
        ) from error
    return parent


def _rename(partial: Path, parent: Path, revisions: Sequence[str]) -> Path:
    """Give a complete backup its name; a folder with files in it is never replaced."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    name = f"{stamp}-{'+'.join(revisions) or 'base'}"
    for suffix in ("", *(f"-{number}" for number in range(2, 1000))):
        final = parent / f"{name}{suffix}"
        try:
            partial.rename(final)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            continue
        return final
    raise BackupFailed(f"{parent} is full of backups of this second.", remedy="Run this again.")


def _fill(
    target: Target,
    server: ServerInfo,
    revisions: Sequence[str],
    folder: Path,
    tools: ClientTools,
    jobs: int,
    level: int,
    on_progress: Progress,
) -> BackupManifest:
    """Dump and count in one exported snapshot, then read the archive back."""
    started, clock = datetime.now(UTC), time.monotonic()
    with connect(target, read_only=True, autocommit=False) as connection:
        connection.set_session(
            isolation_level=psycopg2.extensions.ISOLATION_LEVEL_REPEATABLE_READ, readonly=True
        )
        snapshot_id = fetch_value(connection, "SELECT pg_export_snapshot()")
        with ThreadPoolExecutor(1) as pool:
            rows = pool.submit(_count, connection)
            dump_database(
                target,
                folder / DUMP,
                tools=tools,
                jobs=jobs,
                level=level,
                snapshot_id=snapshot_id,
                on_progress=on_progress,
            )
            counts = rows.result()
    read_archive(folder / DUMP, tools=tools)
    return BackupManifest(
        format_version=FORMAT_VERSION,
        target=target.name,
        database=server.database,
        server_version=server.version,
        system_identifier=server.system_identifier,
        revisions=tuple(revisions),
        started_at=started.isoformat(),  # two backups of a second stay in order
        finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
        duration_s=round(time.monotonic() - clock, 3),
        user=getpass.getuser(),
        host=socket.gethostname(),
        compression=f"gzip:{level}" if level else "none",
        jobs=jobs,
        pg_dump_version=tools.version,
        restore_command=f"pg_restore --jobs={jobs} --exit-on-error --dbname=NEW_DATABASE {DUMP}",
        files=tuple(_hash(path, folder) for path in sorted((folder / DUMP).iterdir())),
        rows=tuple(sorted(counts.items())),
        verified="archive",
        directory=folder,
    )


def _count(connection: Connection) -> dict[str, int]:
    return count_rows(connection, table_names(connection))


def _hash(path: Path, folder: Path) -> tuple[str, int, str]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return path.relative_to(folder).as_posix(), path.stat().st_size, digest


def _write_manifest(manifest: BackupManifest, folder: Path) -> None:
    record = asdict(manifest)
    del record["directory"]
    temporary = folder / f".{MANIFEST}"
    with temporary.open("w", encoding="utf-8") as file:
        file.write(json.dumps(record, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / MANIFEST)


def _check_files(manifest: BackupManifest) -> None:
    """Compare every file with the manifest; the first that differs is named."""
    for relative, size, digest in manifest.files:
        path = manifest.directory / relative
        if not path.is_file():
            problem = "is missing"
        elif path.stat().st_size != size:
            problem = f"has {path.stat().st_size} bytes instead of {size}"
        elif _hash(path, manifest.directory)[2] != digest:
            problem = "has another SHA-256 than the manifest says"
        else:
            continue
        raise BackupFailed(
            f"The backup {manifest.directory.name} is damaged: {relative} {problem}.",
            state="Nothing was changed.",
            remedy="Do not rely on it: take a new one with `backup`.",
        )


def _check_restore(manifest: BackupManifest, target: Target, tools: ClientTools) -> None:
    """Restore into a scratch database and compare the rows of every table."""
    scratch = target.with_conninfo(dbname=scratch_name("verify"))
    name = sql.Identifier(scratch.database)
    with connect(target) as admin, admin.cursor() as cursor:
        sweep_databases(admin)
        hold_database(admin, scratch.database)
        cursor.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(name))
        try:
            restore_archive(manifest.directory / DUMP, scratch, tools=tools, jobs=manifest.jobs)
            with connect(scratch, read_only=True) as connection:
                restored = _count(connection)
        finally:
            cursor.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name))
    for table, rows in manifest.rows:
        if restored.get(table) != rows:
            raise BackupFailed(
                f"The backup {manifest.directory.name} restores {restored.get(table, 'no')} rows "
                f"of {table}; its manifest says {rows}.",
                state="The scratch database was dropped; nothing else was changed.",
                remedy="Do not rely on it: take a new one with `backup`.",
            )
