"""Questions asked before a copy is made: OK, WARN or STOP. Layer 4: reads only."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg2.extensions import connection as Connection

from playbook.catalog import installed_extensions, table_sizes
from playbook.database import connect, fetch, server_info
from playbook.dump import client_tools_for
from playbook.errors import BackupFailed, GuardRefused
from playbook.foreign_servers import foreign_wrappers
from playbook.formats import moment
from playbook.new_database import maintenance_target
from playbook.preflight import Question, check
from playbook.records import Checks, Finding, ServerInfo, Severity
from playbook.restore_checks import MAY_CREATE, MISSING_EXTENSIONS, Place
from playbook.restore_steps import check_tools
from playbook.revisions import join
from playbook.room import copy_room, folder_room
from playbook.sandbox import ensure_server, sandbox_folder
from playbook.sandbox_databases import maintenance_target as sandbox_maintenance
from playbook.scratch_copy import CopyWanted, way_of_copying

__all__ = ["check_rehearsal"]

GENERAL = ("server", "version-table", "heads", "pooler")
"""What `playbook.preflight` asks of any database that matters here too."""


def check_rehearsal(wanted: CopyWanted, question: Question, tables: Sequence[str]) -> Checks:
    """Ask what would be in the way of the copy.

    Args:
        question: what `playbook.preflight.check` is asked.
        tables: those that the plan names: a rewrite needs room for them once more.
    """
    general = check(wanted.target, wanted.server, question).findings
    with connect(wanted.target, read_only=True) as live:
        sizes = {f"{t.schema}.{t.table}": t.total_bytes for t in table_sizes(live)}
        again = sum(sizes.get(name, 0) for name in tables)
        extensions = wanted.backup.extensions if wanted.backup else installed_extensions(live)
        base = wanted.backup.database_bytes if wanted.backup else wanted.server.size_bytes
        needed = (base or wanted.server.size_bytes) + again
        findings = [f for f in general if f.code in GENERAL]
        findings += _place(wanted, live, needed, list(extensions))
        findings += _foreign(foreign_wrappers(live))
    return Checks((*findings, _copy(wanted)))


def _place(
    wanted: CopyWanted, live: Connection, needed: int, extensions: list[str]
) -> list[Finding]:
    """Return what is to be said of the server that takes the copy."""
    if not wanted.elsewhere:
        with connect(maintenance_target(wanted.target), read_only=True) as admin:
            may_create = bool(fetch(admin, MAY_CREATE)[0][0])
            return [
                _may_create(may_create),
                copy_room(live, wanted.server, needed),
                *_backup(wanted, wanted.server),
            ]
    project = wanted.target.project
    server = ensure_server(project)
    target = sandbox_maintenance(project, server.socket_directory)
    with connect(target, read_only=True) as admin:
        there = server_info(admin)
        missing = [row[0] for row in fetch(admin, MISSING_EXTENSIONS, (sorted(extensions),))]
    return [
        _version(wanted.server, there),
        _extensions(missing),
        folder_room(sandbox_folder(project), needed, subject="sandbox"),
        *_backup(wanted, there),
    ]


def _may_create(may: bool) -> Finding:
    if may:
        return Finding("create-database", Severity.OK, "role", "It may make a database.")
    return Finding(
        "create-database", Severity.STOP, "role", "It may not make a database.",
        "ALTER ROLE ... CREATEDB, or rehearse in the sandbox: -r where sandbox.",
    )  # fmt: skip


def _foreign(wrappers: Sequence[str]) -> list[Finding]:
    """Warn of foreign tables that the copy cannot keep from writing."""
    if not wrappers:
        return []
    return [
        Finding(
            "foreign-tables", Severity.WARN, ", ".join(wrappers),
            "The copy's foreign tables lie where the database's do.",
            "Go on only if the plan's revisions write nothing to them.",
            "What a revision writes to them on the copy arrives there.",
        )
    ]  # fmt: skip


def _version(live: ServerInfo, sandbox: ServerInfo) -> Finding:
    """Stop where the sandbox is older than the server, warn where it is newer."""
    ours, theirs = sandbox.version_num // 10000, live.version_num // 10000
    subject = f"PostgreSQL {sandbox.version}"
    if ours < theirs:
        return Finding(
            "sandbox-version", Severity.STOP, subject,
            f"The sandbox is older than the server, which is PostgreSQL {live.version}.",
            "Rehearse beside the database: leave out -r where sandbox.",
        )  # fmt: skip
    if ours > theirs:
        return Finding(
            "sandbox-version", Severity.WARN, subject,
            f"The sandbox is newer than the server, which is PostgreSQL {live.version}.",
            "Rehearse beside the database, too, before it is a protected one's turn.",
            "Locks and rewrites differ between versions.",
        )  # fmt: skip
    return Finding("sandbox-version", Severity.OK, subject, "The sandbox is as the server.")


def _extensions(missing: Sequence[str]) -> Finding:
    if missing:
        return Finding(
            "extensions", Severity.STOP, ", ".join(missing),
            "The database uses them, and the sandbox does not have their files.",
            "Rehearse beside the database: leave out -r where sandbox.",
        )  # fmt: skip
    return Finding("extensions", Severity.OK, "extensions", "The sandbox has all that are used.")


def _backup(wanted: CopyWanted, there: ServerInfo) -> list[Finding]:
    """Stop where a backup cannot be restored there; tell of which moment and revision it is."""
    manifest = wanted.backup
    if manifest is None:
        return []
    name = manifest.directory.name
    try:
        check_tools(manifest, client_tools_for(there), _at(wanted, there))
    except (BackupFailed, GuardRefused) as error:
        return [Finding("backup", Severity.STOP, name, error.problem, error.remedy)]
    when = f"It was made {moment(manifest.started_at)}, at {join(manifest.revisions)}"
    strange = (manifest.system_identifier, manifest.database) != (
        wanted.server.system_identifier, wanted.server.database,
    )  # fmt: skip
    if strange:
        whose = f"of the database {manifest.database} on system {manifest.system_identifier}"
        remedy = "Be sure that it is the one you mean."
        return [Finding("backup", Severity.WARN, name, f"{when}, {whose}.", remedy)]
    return [Finding("backup", Severity.OK, name, f"{when}; the rehearsal proves it.")]


def _at(wanted: CopyWanted, there: ServerInfo) -> Place:
    return Place(wanted.target, wanted.target, there)


def _copy(wanted: CopyWanted) -> Finding:
    how, why = way_of_copying(wanted)
    return Finding("copy", Severity.OK, how, why)
