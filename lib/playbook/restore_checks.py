"""Questions asked before a restore: OK, WARN or STOP. Layer 4, on preflight: reads only.

They are about the server that takes the new database, about what the dump stands on, and about
what a swap would meet. Also: which tool archives this server's WAL, since going back to a moment
between two dumps is that tool's work.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString

from psycopg2.extensions import connection as Connection

from playbook.archive_contents import Contents
from playbook.database import connect, fetch, fetch_value, lock_holder
from playbook.database_swap import logical_slots, sessions_on
from playbook.dump import ClientTools
from playbook.formats import count, moment
from playbook.new_database import unfinished
from playbook.preflight import Question, check
from playbook.records import BackupManifest, Checks, Finding, Receipt, ServerInfo, Severity
from playbook.revisions import join
from playbook.targets import Target

__all__ = [
    "MAY_CREATE",
    "MISSING_EXTENSIONS",
    "Place",
    "Wanted",
    "archiving",
    "check_restore",
    "describe_archiving",
    "find_create_database",
    "keeps_owners",
]

GENERAL = ("server", "last-run", "pooler")
"""What `playbook.preflight` asks of any database that matters here too."""
ARCHIVERS = {
    "pgbackrest": "pgBackRest", "wal-g": "WAL-G", "wal-e": "WAL-E", "barman": "Barman",
    "pg_probackup": "pg_probackup", "pghoard": "pghoard",
}  # fmt: skip

MISSING_ROLES = """
SELECT w.name FROM unnest(%s::text[]) AS w (name)
WHERE NOT EXISTS (SELECT FROM pg_roles AS r WHERE r.rolname = w.name) ORDER BY w.name
"""
FOREIGN_ROLES = """
SELECT rolname::text FROM pg_roles
WHERE rolname = ANY (%s::text[]) AND NOT pg_has_role(oid, 'MEMBER') ORDER BY rolname
"""
MISSING_EXTENSIONS = """
SELECT w.name FROM unnest(%s::text[]) AS w (name)
WHERE NOT EXISTS (SELECT FROM pg_available_extensions AS e WHERE e.name = w.name) ORDER BY w.name
"""
MAY_CREATE = "SELECT rolsuper OR rolcreatedb FROM pg_roles WHERE rolname = current_user"
MAY_RENAME = """
SELECT (r.rolsuper OR r.rolcreatedb) AND pg_has_role(d.datdba, 'MEMBER')
FROM pg_roles AS r, pg_database AS d WHERE r.rolname = current_user AND d.datname = %s
"""
ARCHIVE_SETTINGS = """
SELECT name, setting FROM pg_settings
WHERE name IN ('archive_mode', 'archive_command', 'archive_library') ORDER BY name
"""
ARCHIVED = "SELECT last_archived_time, last_failed_time FROM pg_stat_archiver"


@dataclass(frozen=True)
class Place:
    """Where a backup is restored: beside ``target``, on its server."""

    target: Target
    maintenance: Target
    """Another database of the same server, for statements about whole databases."""
    server: ServerInfo


@dataclass(frozen=True)
class Wanted:
    """What is to be restored, and how."""

    manifest: BackupManifest
    contents: Contents
    tools: ClientTools
    origin: ServerInfo
    """The database whose backups were looked through."""
    swap: bool
    end_sessions: bool


def check_restore(
    place: Place, wanted: Wanted, *, question: Question, receipts: Collection[Receipt]
) -> Checks:
    """Ask everything; the live database is only read."""
    general = check(place.target, place.server, question).findings
    with connect(place.maintenance, read_only=True) as connection:
        findings = [
            *(f for f in general if f.code in GENERAL),
            _backup(place, wanted),
            find_create_database(connection),
            _extensions(connection, wanted.contents),
            _roles(connection, wanted.contents),
            _unfinished(connection, {r.run_id: r.outcome for r in receipts}),
            archiving(connection),
        ]
        if wanted.swap:
            findings += [
                _may_rename(connection, place.server.database),
                _sessions(connection, place.server.database, wanted.end_sessions),
                _slots(connection, place.server.database),
                _other_run(place.target),
            ]
    return Checks(tuple(findings))


def _backup(place: Place, wanted: Wanted) -> Finding:
    manifest, server = wanted.manifest, place.server
    name = manifest.directory.name
    strange = []
    if manifest.database != server.database:
        strange.append(f"of the database {manifest.database}, not of {server.database}")
    if manifest.system_identifier != server.system_identifier:
        strange.append(f"of another server (system {manifest.system_identifier})")
    newer = int(manifest.server_version.split(".")[0]) > server.version_num // 10000
    if newer:
        strange.append(f"of PostgreSQL {manifest.server_version}, newer than this server")
    when = f"made {moment(manifest.started_at)}, at {join(manifest.revisions)}"
    if strange:
        detail = f"It is {' and '.join(strange)}; {when}."
        return Finding("backup", Severity.WARN, name, detail, "Be sure that it is the one you mean")
    return Finding("backup", Severity.OK, name, f"It is of this database, {when}.")


def find_create_database(connection: Connection) -> Finding:
    """Stop if this role may not make a database."""
    if fetch_value(connection, MAY_CREATE):
        return Finding("create-database", Severity.OK, "role", "It may make a database.")
    return Finding(
        "create-database",
        Severity.STOP,
        "role",
        "It may not make a database.",
        "ALTER ROLE ... CREATEDB, or run as a role that has it.",
    )


def _extensions(connection: Connection, contents: Contents) -> Finding:
    missing = _names(connection, MISSING_EXTENSIONS, contents.extensions)
    if missing:
        return Finding(
            "extensions",
            Severity.STOP,
            ", ".join(missing),
            "The backup needs them, and the server does not have their files.",
            "Install them on the server.",
        )
    if not contents.readable:
        return Finding(
            "extensions",
            Severity.WARN,
            "schema",
            "The backup's schema is of a PostgreSQL newer than the parser here: which roles and "
            "extensions it needs is not known.",
            "If one is missing, the restore fails and says which; nothing else is touched.",
        )
    needed = ", ".join(sorted(contents.extensions))
    detail = f"The server has what the backup needs: {needed}." if needed else "It needs none."
    return Finding("extensions", Severity.OK, "extensions", detail)


def _roles(connection: Connection, contents: Contents) -> Finding:
    needed = _names(connection, MISSING_ROLES, contents.needed_roles)
    if needed:
        return Finding(
            "roles",
            Severity.STOP,
            ", ".join(needed),
            "Policies in the backup are for these roles, and the server lacks them.",
            "CREATE ROLE them first; they need no login.",
        )
    missing = _names(connection, MISSING_ROLES, contents.roles)
    foreign = _names(connection, FOREIGN_ROLES, contents.roles)
    if not missing and not foreign:
        return Finding("roles", Severity.OK, "roles", "Owners and privileges can be restored.")
    why = "The server lacks them" if missing else "This role is no member of them"
    return Finding(
        "roles",
        Severity.WARN,
        ", ".join(missing or foreign),
        f"{why}, so that all will belong to this role and no privileges will be restored.",
        "CREATE ROLE them first." if missing else "Run as a superuser, or as a member of them.",
    )


def keeps_owners(place: Place, contents: Contents) -> bool:
    """Say whether owners and privileges can be restored as they were."""
    with connect(place.maintenance, read_only=True) as connection:
        missing = _names(connection, MISSING_ROLES, contents.roles)
        return not missing and not _names(connection, FOREIGN_ROLES, contents.roles)


def _names(connection: Connection, query: LiteralString, names: Collection[str]) -> list[str]:
    return [row[0] for row in fetch(connection, query, (sorted(names),))]


def _unfinished(connection: Connection, outcomes: Mapping[str, str]) -> Finding:
    left = [(name, run) for name, run in unfinished(connection) if outcomes.get(run) != "running"]
    if not left:
        return Finding("half-restored", Severity.OK, "databases", "None is left half restored.")
    known = [name for name, run in left if outcomes.get(run) == "interrupted"]
    remedy = "What this folder's own interrupted runs left is dropped by the next restore. "
    return Finding(
        "half-restored",
        Severity.WARN,
        ", ".join(name for name, _ in left),
        f"Half restored by {join([run for _, run in left])}, which is not known to be running.",
        (remedy if known else "") + "DROP DATABASE what nobody works on any more.",
    )


def archiving(connection: Connection) -> Finding:
    """Name the WAL archiving of a server: what can go back to a moment between two dumps."""
    settings: dict[str, str] = dict(fetch(connection, ARCHIVE_SETTINGS))
    last, failed = fetch(connection, ARCHIVED)[0]
    return describe_archiving(settings, last, failed)


def describe_archiving(
    settings: Mapping[str, str], last: datetime | None, failed: datetime | None
) -> Finding:
    """Return what the settings and the last attempts of archiving mean.

    The command itself is never shown: it may hold secrets.
    """
    if settings.get("archive_mode", "off") == "off":
        return Finding(
            "wal-archiving",
            Severity.OK,
            "archive_mode is off",
            "No WAL is archived, so this server goes back to backups only, not to moments between.",
        )
    text = f"{settings.get('archive_library', '')} {settings.get('archive_command', '')}"
    text = text.replace("(disabled)", "").strip()
    when = f"last archived {moment(last)}" if last else "nothing was archived yet"
    fails = failed is not None and (last is None or failed > last)
    if fails or not text:
        why = "its last attempt failed" if fails else "no command or library is set"
        return Finding(
            "wal-archiving",
            Severity.WARN,
            _tool(text),
            f"archive_mode is on, but {why}; {when}.",
            "Mend it: without it there is no way back to a moment between two backups.",
        )
    return Finding(
        "wal-archiving",
        Severity.OK,
        _tool(text),
        f"WAL is archived; {when}. To go back to a moment between two backups, use that tool.",
    )


def _tool(text: str) -> str:
    known = next((tool for word, tool in ARCHIVERS.items() if word in text.lower()), "")
    return known or ("a command or library of its own" if text else "archive_mode")


def _may_rename(connection: Connection, database: str) -> Finding:
    if fetch_value(connection, MAY_RENAME, (database,)):
        return Finding("rename-database", Severity.OK, database, "This role may rename it.")
    return Finding(
        "rename-database",
        Severity.STOP,
        database,
        "This role may not rename it: that takes its owner, with CREATEDB.",
        "Run as its owner or a superuser, or leave out swap.",
    )


def _sessions(connection: Connection, database: str, end_sessions: bool) -> Finding:
    found = sessions_on(connection, database)
    if not found:
        return Finding("sessions", Severity.OK, database, "Nobody else is connected.")
    who = ", ".join(f"{s.user} in {s.application or 'an unnamed application'}" for s in found)
    detail = f"{count(len(found), 'session')}: {who}."
    if end_sessions:
        remedy = "They will be ended when the databases change their names."
        return Finding("sessions", Severity.WARN, database, detail, remedy)
    remedy = "Stop the application, or write -p end_sessions True."
    return Finding("sessions", Severity.STOP, database, detail, remedy)


def _slots(connection: Connection, database: str) -> Finding:
    slots = logical_slots(connection, database)
    if not slots:
        return Finding("slots", Severity.OK, database, "No logical replication slot is on it.")
    return Finding(
        "slots",
        Severity.WARN,
        ", ".join(slots),
        "These logical replication slots stay with the database that is kept.",
        "Set replication up anew on the restored one; drop them, or the server keeps its WAL.",
    )


def _other_run(target: Target) -> Finding:
    with connect(target, read_only=True) as connection:
        holder = lock_holder(connection)
    if holder:
        remedy = "Wait until it has ended."
        return Finding("other-run", Severity.STOP, holder, "Another run holds this target.", remedy)
    return Finding("other-run", Severity.OK, "advisory lock", "No other run is in progress.")
