"""How backups and restored databases are shown. Layer 1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from playbook.charts import Code, Facts, Number, Pill, Table, Text, View
from playbook.formats import bytes_text, count, moment, seconds, short_path
from playbook.records import BackupManifest, Backups, Restored, Retention, Sessions
from playbook.revisions import join
from playbook.view_parts import FIGURE_WIDTH, nothing

__all__ = ["VIEWS"]


def _manifest(backup: BackupManifest) -> View:
    verified = {
        "archive": Pill("archive verified", "good"),
        "restore": Pill("restore verified", "good"),
    }.get(backup.verified, Pill(backup.verified or "not verified", "look"))
    rows = sum(rows for _, rows in backup.rows)
    folder = short_path(backup.directory) or "the folder of this manifest"
    facts = (
        ("of", f"{backup.target}, database {backup.database} at {join(backup.revisions)}"),
        ("size", f"{bytes_text(backup.size_bytes)} in {count(len(backup.files), 'file')}"),
        ("rows", f"{count(rows)} in {count(len(backup.rows), 'table')}"),
        ("compression", f"{backup.compression}, {count(backup.jobs, 'job')}"),
        ("made", f"{moment(backup.started_at)}, in {seconds(backup.duration_s)}"),
        ("by", f"{backup.user} on {backup.host}"),
        ("server", f"PostgreSQL {backup.server_version}, system {backup.system_identifier}"),
        ("pg_dump", f"{backup.pg_dump_version}, manifest format {backup.format_version}"),
        ("restore", backup.restore_command),
        *_needs(backup),
    )
    return View((Text(f"Backup {folder}", verified, "heading"), Facts(facts)), "quiet")


def _needs(backup: BackupManifest) -> tuple[tuple[str, str], ...]:
    """Return what a dump holds or needs besides tables, and how long a restore took."""
    facts = []
    if backup.restore_s:
        facts.append(("restored", f"into a scratch database, in {seconds(backup.restore_s)}"))
    if backup.large_objects:
        facts.append(("large objects", count(backup.large_objects)))
    if backup.extensions:
        facts.append(("extensions", f"{', '.join(backup.extensions)}; not in the dump"))
    if backup.roles:
        facts.append(("roles", f"{', '.join(backup.roles)}; not in the dump"))
    return tuple(facts)


def _backups(backups: Backups) -> View:
    if not backups.items:
        return nothing("There is no backup of this database yet: `backup` takes one.")
    rows = tuple(
        (
            Code(backup.directory.name),
            join(backup.revisions),
            backup.verified or "not verified",
            Number(bytes_text(backup.size_bytes)),
            Number(f"{seconds(backup.restore_s)}" if backup.restore_s else "not measured"),
            Number(seconds(age_s)),
        )
        for backup, age_s in backups.items
    )
    title = f"{count(len(rows), 'backup')} of this database, the newest first."
    columns = ("backup", "revision", "verified by", "size", "restore takes", "age")
    return View((Text(title), Table(columns, rows)))


def _retention(plan: Retention) -> View:
    if not plan.removed and not plan.kept:
        return nothing("There is no backup of this database to keep or remove.")
    rows = tuple(
        (Pill(fate, mood), Code(backup.directory.name), Number(bytes_text(backup.size_bytes)), why)
        for backup, fate, mood, why in (
            *((b, "goes", "look", "") for b in plan.removed),
            *((b, "stays", "good", why) for b, why in plan.kept),
        )
    )
    title = f"Backups that go: {len(plan.removed)}. That stay: {len(plan.kept)}."
    return View((Text(title), Table(("", "backup", "size", "why"), rows)))


def _restored(restored: Restored) -> View:
    facts = (
        ("beside", f"{restored.beside}, which was left alone"),
        ("from", f"the backup {short_path(restored.backup, 1)}"),
        ("rows of", ", ".join(restored.tables) or "every table"),
        ("took", f"{seconds(restored.duration_s)}, {count(restored.jobs, 'job')}"),
        *(("remark", remark) for remark in restored.remarks),
    )
    title = f"New database {restored.database}"
    return View((Text(title, Pill("restored", "good"), "heading"), Facts(facts)), "quiet")


def _sessions(found: Sessions) -> View:
    if not found.sessions:
        return nothing(f"Nobody else is connected to {found.database}.")
    rows = tuple(
        (
            Number(str(one.pid)),
            one.user,
            one.application or "unnamed",
            one.state,
            Number(seconds(one.transaction_age_s), FIGURE_WIDTH),
        )
        for one in found.sessions
    )
    title = f"{count(len(rows), 'session')} on {found.database}"
    return View(
        (
            Text(title, Pill("in use", "look")),
            Table(("pid", "user", "application", "state", "in transaction for"), rows),
        )
    )


VIEWS: dict[type, Callable[[Any], View]] = {
    BackupManifest: _manifest,
    Backups: _backups,
    Restored: _restored,
    Retention: _retention,
    Sessions: _sessions,
}
