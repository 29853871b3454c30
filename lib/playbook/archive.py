"""Backups on disk: take one and prove one. Layer 4.

A backup is a folder with pg_dump's directory format in ``dump/`` and ``manifest.json`` beside
it. It is made under a name that starts with a dot and renamed when complete, so that an
interrupted one is never taken for a backup; the next backup of the target removes what a killed
one left.
"""

from __future__ import annotations

import errno
import getpass
import os
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import psycopg2.extensions
from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from playbook.archive_toc import names_zstd
from playbook.catalog import table_sizes
from playbook.compression import Compression, parse_compression
from playbook.contents import (
    INHERITS,
    Contents,
    find_difference,
    read_contents,
    read_restored,
    with_fixed_texts,
)
from playbook.database import connect, fetch_value
from playbook.dump import (
    WITHOUT_OWNERS,
    WITHOUT_SUBSCRIPTIONS,
    ClientTools,
    choose_compression,
    client_tools_for,
    compresses_beside,
    dump_database,
    follows_plain_text,
    read_archive,
    restore_archive,
)
from playbook.errors import BackupFailed, DatabaseError, PlaybookError, SettingsError
from playbook.fingerprints import TEXT_FORMS
from playbook.leftovers import (
    hold_database,
    scratch_name,
    sweep_databases,
)
from playbook.manifests import (
    FORMAT_VERSION,
    MANIFEST,
    backup_folder,
    check_files,
    hash_files,
    list_backups,
    read_manifest,
    write_manifest,
)
from playbook.records import BackupManifest, DumpProgress, ServerInfo
from playbook.targets import Target
from playbook.unfinished import unfinished_folder, unmark_folder
from playbook.zstd_frames import SUFFIX

__all__ = [
    "MANIFEST",
    "backup_folder",
    "check_folder",
    "check_jobs",
    "list_backups",
    "prove_by_restore",
    "read_manifest",
    "take_backup",
    "verify",
]

DUMP = "dump"
MOST_JOBS = 32
"""Each job is a session of the server, whose default is 100 for everybody."""
USUAL_JOBS = 4
"""The most that are chosen where nobody says how many."""
SMALL_BYTES = 64 * 1024 * 1024
"""Below this a second connection costs more than it gives."""
LOST_S = 0.5
PLAIN_SHARE = 0.9
"""Bytes of COPY's text per byte of a table with its TOAST, for the time that is left: 0.7 to 1.1
on the benchmark's tables (tests/benchmarks/backups.py)."""
KNOWN_SHARE = 0.05
"""Below this share of the whole no time is told."""
READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
UNLIMITED = {"statement_timeout": "0", "idle_in_transaction_session_timeout": "0"}
"""The session that holds the dump's snapshot waits for the dump's end."""


@dataclass(frozen=True)
class _Request:
    """What `take_backup` was asked for, with its defaults filled in."""

    target: Target
    server: ServerInfo
    revisions: Sequence[str]
    tools: ClientTools
    jobs: int
    compression: Compression
    on_progress: Callable[[int, int], None]


def take_backup(
    target: Target,
    server: ServerInfo,
    revisions: Sequence[str],
    *,
    directory: str,
    jobs: int = 0,
    compression: str = "auto",
    on_progress: Callable[[DumpProgress], None] = lambda state: None,
) -> BackupManifest:
    """Dump a database into a new folder, with the hash of every file; `verify` then proves it.

    **Effects**: one new folder, mode 0700. Reads the database in one snapshot, in which the rows
    of every table are counted and fingerprinted too. After a failure no folder remains; what a
    killed process left of an unfinished one is removed by the next backup.

    Args:
        directory: where backups are kept; a relative one is the project's.
        jobs: parallel connections; 0 chooses by cores, tables and size.
        compression: ``auto``, ``zstd:LEVEL``, ``lz4``, ``gzip:LEVEL`` or ``none``.
        on_progress: called about once a second.

    Raises:
        BackupFailed: no client that fits, or pg_dump failed.
        SettingsError: jobs is out of its range, or the folder cannot be made.
    """
    check_jobs(jobs)
    wanted = parse_compression(compression)
    tools = client_tools_for(server)
    with connect(target, read_only=True) as connection:
        heaps = [table.table_bytes for table in table_sizes(connection)]
    chosen = choose_compression(wanted, tools)
    request = _Request(
        target, server, revisions, tools,
        jobs or _jobs(server, len(heaps)),
        chosen,
        _with_time_left(on_progress, heaps, plain=follows_plain_text(chosen, tools)),
    )  # fmt: skip
    parent = _backups_of(target, directory)
    try:
        with unfinished_folder(parent) as partial:
            manifest = _fill(request, partial)
            write_manifest(manifest, partial)
            unmark_folder(partial)
            final = _rename(partial, parent, revisions)
    except OSError as error:
        raise BackupFailed(
            f"The backup could not be written to {parent}: {error.strerror}.",
            state=NO_BACKUP,
            remedy="Make room or choose another folder with -r directory PATH.",
        ) from error
    except (BackupFailed, DatabaseError) as error:
        raise error if error.state else _without_backup(error) from error
    return replace(manifest, directory=final)


NO_BACKUP = "No backup was made and nothing was changed in the database."


def _without_backup(error: PlaybookError) -> BackupFailed:
    remedy = error.remedy or "Mend the cause and run this again."
    return BackupFailed(error.problem, state=NO_BACKUP, remedy=remedy)


def _with_time_left(
    report: Callable[[DumpProgress], None], heaps: Sequence[int], *, plain: bool
) -> Callable[[int, int], None]:
    """Return what pg_dump's watcher calls: it adds totals and the time that is left.

    Where the client itself compresses, bytes of plain text are not known and no time is told.
    """
    expected = int(sum(heaps) * PLAIN_SHARE) if plain else 0
    begun = time.monotonic()

    def tell(tables: int, size: int) -> None:
        share = min(size / expected, 0.99) if expected else 0.0
        known = share >= KNOWN_SHARE
        left = (time.monotonic() - begun) * (1 - share) / share if known else -1.0
        report(DumpProgress(tables, len(heaps), size, expected, left))

    return tell


def verify(
    manifest: BackupManifest, how: str, *, target: Target, server: ServerInfo
) -> BackupManifest:
    """Prove a backup and note in its manifest how it was proven.

    **Effects**: ``restore`` makes a scratch database on the target's server and drops it. The
    manifest keeps the strongest proof, and how long the restore took; one that is kept read-only
    stays as it is.

    Args:
        how: ``archive`` (every file's SHA-256, and the archive read to its end) or ``restore``
            (also restored into a scratch database, whose rows are counted and fingerprinted).

    Raises:
        BackupFailed: a file is missing or damaged, or counts or values differ; it is named. Or
            there is no room to note the proof.
    """
    check_files(manifest)
    tools = client_tools_for(server)
    read_archive(manifest.directory / DUMP, tools=tools)
    proven = replace(
        manifest,
        verified="restore" if "restore" in (how, manifest.verified) else how,
        verified_at=datetime.now(UTC).isoformat(timespec="seconds"),
        format_version=FORMAT_VERSION,
    )
    if how == "restore":
        proven = replace(proven, restore_s=_check_restore(manifest, target, tools))
    _note_proof(proven)
    return proven


def _note_proof(proven: BackupManifest) -> None:
    """Write a proven backup's manifest anew; where backups are kept read-only it stays as it is.

    Raises:
        BackupFailed: it cannot be written, as for want of room.
    """
    try:
        write_manifest(proven, proven.directory)
    except OSError as error:
        if error.errno in READ_ONLY:
            return
        raise BackupFailed(
            f"The backup {proven.directory.name} was proven, and its manifest cannot say so: "
            f"{error.strerror}.",
            state="Its files are sound, and nothing was changed in the database.",
            remedy="Make room or mend the cause and run this again.",
        ) from error


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


def _jobs(server: ServerInfo, tables: int) -> int:
    if server.size_bytes < SMALL_BYTES:
        return 1
    return max(1, min(os.cpu_count() or 1, USUAL_JOBS, tables))


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


def _fill(request: _Request, folder: Path) -> BackupManifest:
    """Dump and count in one exported snapshot, then hash what was written."""
    started, clock = datetime.now(UTC), time.monotonic()
    contents = _dump(request, folder / DUMP)
    server = request.server
    return BackupManifest(
        format_version=FORMAT_VERSION,
        target=request.target.name,
        database=server.database,
        server_version=server.version,
        system_identifier=server.system_identifier,
        revisions=tuple(request.revisions),
        started_at=started.isoformat(),  # two backups of a second stay in order
        finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
        duration_s=round(time.monotonic() - clock, 3),
        user=getpass.getuser(),
        host=socket.gethostname(),
        compression=str(request.compression),
        jobs=request.jobs,
        pg_dump_version=request.tools.version,
        restore_command=_restore_command(folder / DUMP),
        files=tuple(hash_files(sorted((folder / DUMP).iterdir()), folder)),
        rows=tuple((table.name, table.rows) for table in contents.tables),
        verified="",
        directory=folder,
        tables=contents.tables,
        database_bytes=server.size_bytes,
        large_objects=contents.large_objects,
        extensions=contents.extensions,
        roles=contents.roles,
        form=contents.form,
    )


def _restore_command(dump: Path) -> str:
    """Return what restores the dump with public tools alone, one row after the other.

    Without ``--jobs``, with which a trigger may change rows: `playbook.dump.restore_archive`.
    What pg_dump has compressed itself, a pg_restore that was built alike reads as it is.
    """
    beside = any(dump.glob(f"*{SUFFIX}")) and not names_zstd((dump / "toc.dat").read_bytes())
    first = f"zstd -d {DUMP}/*{SUFFIX} && " if beside else ""
    return f"{first}pg_restore --exit-on-error --dbname=NEW_DATABASE {DUMP}"


def _dump(request: _Request, directory: Path) -> Contents:
    """Dump in an exported snapshot and read in the same one what the dump holds."""
    settings = {**TEXT_FORMS, **UNLIMITED}
    with connect(request.target, read_only=True, autocommit=False, settings=settings) as connection:
        connection.set_session(
            isolation_level=psycopg2.extensions.ISOLATION_LEVEL_REPEATABLE_READ, readonly=True
        )
        dump = partial(
            dump_database,
            directory=directory,
            tools=request.tools,
            jobs=request.jobs,
            compression=request.compression,
            snapshot_id=fetch_value(connection, "SELECT pg_export_snapshot()"),
        )
        passes = compresses_beside(request.compression, request.tools)
        if not passes or fetch_value(connection, INHERITS):
            return _dump_and_read(connection, partial(dump, request.target), request.on_progress)
        try:
            texts = dump(
                with_fixed_texts(request.target, connection), on_progress=request.on_progress
            )
        except BackupFailed:
            # Where the session that holds the snapshot was lost, that is what is to be told.
            fetch_value(connection, "SELECT true")
            raise
        return read_contents(connection, texts)


def _dump_and_read(
    connection: Connection,
    dump: Callable[..., object],
    on_progress: Callable[[int, int], None],
) -> Contents:
    """Dump while the server reads its tables for their fingerprints."""
    with ThreadPoolExecutor(1) as pool:
        contents = pool.submit(read_contents, connection)

        def report(tables: int, size: int) -> None:
            if contents.done():
                contents.result()  # a dump whose rows cannot be counted need not go on
            on_progress(tables, size)

        try:
            dump(on_progress=report)
        except BackupFailed:
            # As above.
            wait([contents], LOST_S)
            if not contents.done():
                _cancel(connection, contents)
                raise
            contents.result()
            raise
        except BaseException:
            _cancel(connection, contents)
            raise
        return contents.result()


def _cancel(connection: Connection, work: Future[Contents]) -> None:
    """End the queries of another thread, one after the other."""
    while not work.done():
        with suppress(psycopg2.Error):
            connection.cancel()
        time.sleep(0.05)


def prove_by_restore(
    manifest: BackupManifest,
    empty: Target,
    *,
    tools: ClientTools,
    extra: Sequence[str] = WITHOUT_OWNERS,
) -> BackupManifest:
    """Restore a backup into an empty database, compare it, and note the proof in its manifest.

    Args:
        extra: further options of pg_restore.

    Raises:
        BackupFailed: a file is missing or damaged, or counts or values differ; it is named.
    """
    check_files(manifest)
    took = _restore_and_compare(manifest, empty, tools, extra)
    proven = replace(
        manifest,
        verified="restore",
        verified_at=datetime.now(UTC).isoformat(timespec="seconds"),
        format_version=FORMAT_VERSION,
        restore_s=took,
    )
    _note_proof(proven)
    return proven


def _check_restore(manifest: BackupManifest, target: Target, tools: ClientTools) -> float:
    """Restore into a scratch database, compare every table, and return pg_restore's seconds."""
    scratch = target.with_conninfo(dbname=scratch_name("verify"))
    name = sql.Identifier(scratch.database)
    with connect(target) as admin, admin.cursor() as cursor:
        sweep_databases(admin)
        hold_database(admin, scratch.database)
        cursor.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(name))
        try:
            extra = (*WITHOUT_OWNERS, *WITHOUT_SUBSCRIPTIONS)
            return _restore_and_compare(manifest, scratch, tools, extra)
        finally:
            cursor.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name))


def _restore_and_compare(
    manifest: BackupManifest, empty: Target, tools: ClientTools, extra: Sequence[str]
) -> float:
    begun = time.monotonic()
    restore_archive(manifest.directory / DUMP, empty, tools=tools, jobs=manifest.jobs, extra=extra)
    took = time.monotonic() - begun
    restored = read_restored(
        empty, manifest.directory / DUMP, form=manifest.form, tools=tools, jobs=manifest.jobs
    )
    if difference := find_difference(manifest, restored):
        raise BackupFailed(
            f"The backup {manifest.directory.name} restores {difference}.",
            state="The scratch database was dropped; nothing else was changed.",
            remedy="Do not rely on it: take a new one with `backup`.",
        )
    return round(took, 3)
