"""A whole copy of a database, to be written to and dropped again. Layer 4, on archive.

It is made by PostgreSQL from the database itself where nobody is connected to it, from a backup,
which that proves at the same time, or from a fresh dump; beside the database or in the sandbox.
While it is there a session holds it (`playbook.leftovers`); what a killed run leaves, the next one
drops first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from playbook.archive import DUMP, prove_by_restore
from playbook.compression import Compression
from playbook.database import connect, fetch_value, map_driver_errors, server_info
from playbook.database_swap import sessions_on
from playbook.dump import (
    WITHOUT_OWNERS,
    WITHOUT_SUBSCRIPTIONS,
    choose_compression,
    client_tools_for,
    dump_database,
    restore_archive,
)
from playbook.errors import GuardRefused, PrivilegeMissing
from playbook.foreign_servers import let_only_read
from playbook.formats import bytes_text, count
from playbook.leftovers import hold_database, scratch_name, sweep_databases
from playbook.new_database import create, drop, finish, maintenance_target, read_like
from playbook.records import BackupManifest, ServerInfo
from playbook.rehearsals import CopyMade
from playbook.sandbox import ensure_server
from playbook.sandbox_databases import FILE_COPY_FROM_BYTES
from playbook.sandbox_databases import maintenance_target as sandbox_maintenance
from playbook.targets import Target, led_elsewhere
from playbook.unfinished import unfinished_folder

__all__ = ["METHODS", "SANDBOX", "CopyWanted", "make_copy", "way_of_copying"]

METHODS = ("auto", "template", "dump")
SANDBOX = "sandbox"
MAY_KEEP_OWNERS = "SELECT rolsuper FROM pg_roles WHERE rolname = current_user"
WITHOUT_PRIVILEGES = "Owners and privileges were not copied: all belongs to this role."
WITHOUT_SETTINGS = "Settings of the database and of roles in it were not copied."
STRATEGY_SINCE = 150000
"""CREATE DATABASE ... STRATEGY; before, PostgreSQL always copied files."""


@dataclass(frozen=True)
class CopyWanted:
    """What is to be copied, how and where to.

    ``method`` is one of `METHODS` (``auto``: by template where nobody is connected and the target
    is not protected, else by dump); ``backup`` is restored instead if it is given; ``where`` is
    ``sandbox`` or "" for the database's own server; ``folder`` takes the dump meanwhile.
    """

    target: Target
    server: ServerInfo
    method: str
    where: str
    folder: Path
    backup: BackupManifest | None = None
    jobs: int = 1
    run_id: str = ""

    @property
    def elsewhere(self) -> bool:
        """Whether the copy is on another server than the database."""
        return self.where == SANDBOX and self.target.kind != SANDBOX


@contextmanager
def make_copy(
    wanted: CopyWanted, on_progress: Callable[[str], None] = lambda text: None
) -> Iterator[tuple[Target, CopyMade]]:
    """Make the copy, yield it, and drop it at the end, also after a failure or an interrupt.

    **Effects**: a new database, and a folder with a dump where one is needed; neither is left. By
    template, whoever connects to the database meanwhile waits until it is copied.

    Yields:
        The copy as a target that is not protected, and how it was made.

    Raises:
        BackupFailed: the dump or the restore failed, or the backup is damaged.
        GuardRefused: somebody is connected and ``method`` is ``template``, or it is not another
            database than the original.
        DatabaseError: this role may not make a database.
    """
    admin_target, copy = _place(wanted)
    began = time.monotonic()
    with ExitStack() as stack:
        settings = {"idle_session_timeout": "0", "statement_timeout": "0"}
        admin = stack.enter_context(connect(admin_target, settings=settings))
        remarks = [
            f"Dropped {name}, which a killed run had left." for name in sweep_databases(admin)
        ]
        hold_database(admin, copy.database)
        stack.callback(_drop, admin_target, copy.database)
        how, more = _fill(wanted, admin, copy, on_progress)
        with connect(copy) as connection:
            made = server_info(connection)
            _must_differ(wanted, made)
            let_only_read(copy, connection)
        yield (
            copy,
            CopyMade(
                database=copy.database,
                how=how,
                where="the sandbox" if wanted.elsewhere else "the same server",
                source=wanted.backup.directory.name if wanted.backup else wanted.server.database,
                duration_s=round(time.monotonic() - began, 3),
                size_bytes=made.size_bytes,
                remarks=(*remarks, *more),
            ),
        )


def way_of_copying(wanted: CopyWanted) -> tuple[str, str]:
    """Return how a copy would be made as things are now, and why so, in a sentence."""
    if wanted.backup:
        return "from the backup", "It is restored and compared with its manifest."
    if wanted.elsewhere:
        why_not = _why_no_template(wanted, None)
    else:
        with connect(maintenance_target(wanted.target), read_only=True) as admin:
            why_not = _why_no_template(wanted, admin)
    if why_not:
        return "from a fresh dump", f"PostgreSQL does not copy it by template: {why_not}."
    return "by template", "Nobody is connected; who connects meanwhile waits until it is copied."


def _place(wanted: CopyWanted) -> tuple[Target, Target]:
    """Return a target for statements about whole databases, and the copy's."""
    name = scratch_name("rehearse")
    if not wanted.elsewhere:
        copy = replace(wanted.target.with_conninfo(dbname=name), protected=False)
        copy = led_elsewhere(wanted.target, copy, beside=True)
        return maintenance_target(wanted.target), copy
    project = wanted.target.project
    server = ensure_server(project)
    admin = sandbox_maintenance(project, server.socket_directory)
    copy = replace(
        wanted.target, kind=SANDBOX, protected=False, conninfo={**admin.conninfo, "dbname": name}
    )
    return admin, led_elsewhere(wanted.target, copy)


def _drop(admin: Target, name: str) -> None:
    """Drop the copy by a session of its own: the one that holds it may be gone."""
    with connect(admin) as connection:
        drop(connection, name)


def _must_differ(wanted: CopyWanted, made: ServerInfo) -> None:
    """Refuse a copy that is the original.

    Raises:
        GuardRefused: both are the same database of the same server.
    """
    live = (wanted.server.system_identifier, wanted.server.database_oid)
    if (made.system_identifier, made.database_oid) == live:
        raise GuardRefused(
            f"The copy {made.database} and the database {wanted.server.database} are the same.",
            remedy="Look at the service file or the pooler in between: it ignores dbname.",
        )


def _fill(
    wanted: CopyWanted, admin: Connection, copy: Target, on_progress: Callable[[str], None]
) -> tuple[str, tuple[str, ...]]:
    """Make the copy's database with its contents; return how, and remarks."""
    size = bytes_text(wanted.server.size_bytes)
    if wanted.backup:
        on_progress(f"restoring the backup {wanted.backup.directory.name} into {copy.database}")
        return "backup", _restore(wanted, admin, copy, wanted.backup.directory, wanted.backup)
    if why_not := _why_no_template(wanted, admin):
        if wanted.method == "template":
            raise GuardRefused(
                f"{wanted.server.database} cannot be copied by template: {why_not}.",
                remedy="Write -r copy_by dump, which disturbs nobody.",
            )
    else:
        on_progress(f"copying {wanted.server.database} ({size}) to {copy.database}")
        try:
            return "template", _copy_files(wanted, admin, copy)
        except PrivilegeMissing:
            if wanted.method == "template":
                raise
    with unfinished_folder(wanted.folder) as folder:
        on_progress(f"dumping {wanted.server.database} ({size})")
        tools = client_tools_for(wanted.server)
        compression = choose_compression(Compression("zstd", 1), tools)
        dump_database(
            wanted.target, folder / DUMP, tools=tools, jobs=wanted.jobs, compression=compression
        )
        on_progress(f"restoring it into {copy.database}")
        return "dump", _restore(wanted, admin, copy, folder, None)


def _why_no_template(wanted: CopyWanted, admin: Connection | None) -> str:
    """Return why PostgreSQL is not to copy the database's files; "" if it may."""
    if wanted.method == "dump":
        return "a dump was asked for"
    if wanted.elsewhere:
        return "the sandbox is another server"
    if wanted.target.protected:
        return "it is protected, and whoever connects meanwhile would wait"
    sessions = sessions_on(admin, wanted.server.database) if admin else ()
    return f"it has {count(len(sessions), 'session')}" if sessions else ""


def _copy_files(wanted: CopyWanted, admin: Connection, copy: Target) -> tuple[str, ...]:
    """Let PostgreSQL copy the database: its files where that is faster, through the WAL else."""
    statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
        sql.Identifier(copy.database), sql.Identifier(wanted.server.database)
    )
    if wanted.server.version_num >= STRATEGY_SINCE:
        large = wanted.server.size_bytes > FILE_COPY_FROM_BYTES
        statement += sql.SQL(" STRATEGY FILE_COPY" if large else " STRATEGY WAL_LOG")
    with map_driver_errors(copy), admin.cursor() as cursor:
        cursor.execute(statement)
    # A template gives its contents; what it has as a database it does not.
    return finish(admin, copy, copy.database, read_like(admin, wanted.server.database))


def _restore(
    wanted: CopyWanted,
    admin: Connection,
    copy: Target,
    folder: Path,
    backup: BackupManifest | None,
) -> tuple[str, ...]:
    """Restore a dump into a new database, prove it if it is a backup's, and analyse it."""
    tools = client_tools_for(wanted.server)
    owners = not wanted.elsewhere and bool(fetch_value(admin, MAY_KEEP_OWNERS))
    extra = (*WITHOUT_SUBSCRIPTIONS, *(() if owners else WITHOUT_OWNERS))
    like = None if wanted.elsewhere else read_like(admin, wanted.server.database)
    if like:
        create(admin, copy.database, like, run_id=wanted.run_id)
    else:
        _execute(admin, sql.SQL("CREATE DATABASE {} TEMPLATE template0"), copy.database)
    if backup:
        prove_by_restore(backup, copy, tools=tools, extra=extra)
    else:
        restore_archive(folder / DUMP, copy, tools=tools, jobs=wanted.jobs, extra=extra)
    with connect(copy, settings={"lock_timeout": "60s"}) as connection:
        connection.cursor().execute("ANALYZE")
    remarks = finish(admin, copy, copy.database, like) if like else (WITHOUT_SETTINGS,)
    return remarks if owners else (*remarks, WITHOUT_PRIVILEGES)


def _execute(connection: Connection, statement: sql.SQL, name: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement.format(sql.Identifier(name)))
