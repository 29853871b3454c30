"""Findings about room: for the backup here, for rewritten tables on the server. Layer 3: reads."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from psycopg2.extensions import connection as Connection

from playbook.catalog import table_sizes
from playbook.database import fetch
from playbook.dump import client_tools_for
from playbook.errors import BackupFailed
from playbook.formats import bytes_text
from playbook.records import Finding, ServerInfo, Severity

__all__ = ["backup_room", "copy_room", "find_client", "folder_room", "server_room"]


def find_client(server: ServerInfo) -> Finding:
    """Stop if no pg_dump here serves the server."""
    try:
        tools = client_tools_for(server)
    except BackupFailed as error:
        return Finding("pg-dump", Severity.STOP, "pg_dump", error.problem, error.remedy)
    return Finding(
        "pg-dump", Severity.OK, f"pg_dump {tools.version}", "It serves this server's version."
    )


def backup_room(server: ServerInfo, folder: Path) -> Finding:
    """Stop if the backup would not fit even when it compresses to half of the database.

    What zstd has not taken up yet lies there as plain text, for a moment: all of it at the worst,
    which is seldom more than the database. Then the backup fails, and says so.
    """
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    room = (
        f"{free // 2**20} MB are free for the backup of a {server.size_bytes // 2**20} MB database"
    )
    remedy = "Make room, or choose another folder for backups."
    if free < server.size_bytes / 2:
        return Finding("disk-room", Severity.STOP, existing.name, f"{room}.", remedy)
    if free < server.size_bytes:
        detail = f"{room}: enough for what stays, perhaps not for the plain text on its way there."
        return Finding("disk-room", Severity.WARN, existing.name, detail, remedy)
    return Finding("disk-room", Severity.OK, "backup", "There is room for it.")


def server_room(connection: Connection, server: ServerInfo, tables: Sequence[str]) -> Finding:
    """Warn if the plan's tables would not fit once more, or if that cannot be told from here."""
    free = _free_on_server(connection, server)
    if free is None:
        return Finding(
            "server-room",
            Severity.WARN,
            "server",
            "How much room its disk has cannot be told from here.",
            "Look there (`df` on data_directory), or in the provider's console.",
        )
    needed = sum(
        t.total_bytes for t in table_sizes(connection) if f"{t.schema}.{t.table}" in tables
    )
    if free < needed:
        return Finding(
            "server-room",
            Severity.WARN,
            "server",
            f"{bytes_text(free)} are free; the plan's tables take {bytes_text(needed)}.",
            "Make room before a table is rewritten.",
        )
    return Finding("server-room", Severity.OK, "server", "The plan's tables fit once more.")


def copy_room(connection: Connection, server: ServerInfo, needed: int) -> Finding:
    """Stop if a copy of so many bytes does not fit on the server's disk."""
    free = _free_on_server(connection, server)
    if free is None:
        return Finding(
            "copy-room",
            Severity.WARN,
            "server",
            f"The copy needs about {bytes_text(needed)}; how much room the server's disk has "
            "cannot be told from here.",
            "Look there (`df` on data_directory), or in the provider's console.",
            "A server whose disk is full stops.",
        )
    return _room_for_copy(free, needed, "server")


def folder_room(folder: Path, needed: int, *, subject: str) -> Finding:
    """Stop if a copy of so many bytes does not fit on the disk of a folder here."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return _room_for_copy(shutil.disk_usage(existing).free, needed, subject)


def _room_for_copy(free: int, needed: int, subject: str) -> Finding:
    if free < needed:
        return Finding(
            "copy-room",
            Severity.STOP,
            subject,
            f"{bytes_text(free)} are free; the copy needs about {bytes_text(needed)}.",
            "Make room, or rehearse elsewhere with -r where sandbox.",
            "A disk that is full stops the server.",
        )
    return Finding("copy-room", Severity.OK, subject, "There is room for the copy.")


def _free_on_server(connection: Connection, server: ServerInfo) -> int | None:
    """Return the free bytes where the server keeps its data; None if that is not this machine.

    A folder of that name may be another server's: pg_control begins with the system identifier.
    """
    query = "SELECT setting FROM pg_settings WHERE name = 'data_directory'"
    rows = fetch(connection, query)  # empty for a role without pg_read_all_settings
    if not rows:
        return None
    folder = Path(rows[0][0])
    try:
        with (folder / "global" / "pg_control").open("rb") as control:
            found = int.from_bytes(control.read(8), sys.byteorder)
        free = shutil.disk_usage(folder).free
    except OSError:
        return None
    return free if str(found) == server.system_identifier else None
