"""The runbook `backup`: a dump that is proven to be readable. Layer 5; writes files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from playbook import archive
from playbook.catalog import table_sizes
from playbook.compression import parse_compression
from playbook.database import connect
from playbook.errors import PlaybookError, SettingsError
from playbook.journal import Run
from playbook.parameters import Common, one_of
from playbook.preflight import Question, check
from playbook.present import dump_progress
from playbook.receipts import known_receipts
from playbook.records import (
    BackupManifest,
    Banner,
    Checks,
    Note,
    Outcome,
    Retention,
    TableSizes,
)
from playbook.restore_checks import find_create_database
from playbook.retention import plan_retention as choose_backups
from playbook.retention import remove_backups

__all__ = [
    "Parameters",
    "check_preflight",
    "conclude",
    "measure_tables",
    "open_run",
    "plan_retention",
    "prune_backups",
    "run_backup",
    "show_target",
    "verify_backup",
]


@dataclass(frozen=True)
class Parameters(Common):
    """The parameters of `backup`."""

    directory: str = "backups"
    jobs: int = 0
    compression: str = "auto"
    verify: str = "archive"
    keep: int = 0
    dry_run: bool = False


def open_run(namespace: Mapping[str, Any]) -> Run[Parameters]:
    """Check the parameters and connect; raises as `playbook.journal.Run.open` does."""
    run = Run.open("backup", Parameters, namespace)
    with run.closing_on_error():
        one_of("verify", run.parameters.verify, ("archive", "restore"))
        parse_compression(run.parameters.compression)
        archive.check_jobs(run.parameters.jobs)
        archive.check_folder(run.target, run.parameters.directory)
        if run.parameters.keep < 0:
            raise SettingsError(
                f"keep={run.parameters.keep} is below 0.",
                remedy="Write -p keep 0 to keep all backups, or a number of them.",
            )
    return run


def show_target(run: Run[Parameters]) -> Banner:
    """Return which database this is."""
    if run.parameters.dry_run:
        return run.banner("nothing (dry run)")
    return run.banner("a folder of files; the database is only read")


def check_preflight(run: Run[Parameters]) -> Checks:
    """Return what would be in the way of a backup; STOP ends the run.

    Raises:
        GuardRefused: a finding says STOP.
    """
    folder = archive.backup_folder(run.target, run.parameters.directory)
    question = Question(graph=run.graph, backup_folder=folder)
    checks = check(run.target, run.server, question)
    found = [f for f in checks.findings if f.code in BACKUP_FINDINGS]
    if run.parameters.verify == "restore":
        with connect(run.target, read_only=True) as connection:
            found.append(find_create_database(connection))
    relevant = Checks(tuple(found))
    return run.keep("preflight", run.must_pass(relevant))


BACKUP_FINDINGS = (
    "version-table", "pg-dump", "disk-room", "open-transactions", "backup-privileges",
    "schema-names",
)  # fmt: skip


def measure_tables(run: Run[Parameters]) -> TableSizes:
    """Return what will be dumped."""
    with connect(run.target, read_only=True) as connection:
        return TableSizes(tuple(table_sizes(connection)))


def run_backup(run: Run[Parameters]) -> BackupManifest | Note:
    """Dump the database into a new folder, with a manifest; shows progress.

    Raises:
        BackupFailed: no backup was made.
    """
    run.require("preflight", Checks)
    parameters = run.parameters
    if parameters.dry_run:
        return run.keep("backup", Note("No backup was taken: this is a dry run."))
    run.note("backup begins")
    try:
        manifest = archive.take_backup(
            run.target,
            run.server,
            run.graph.current,
            directory=parameters.directory,
            jobs=parameters.jobs,
            compression=parameters.compression,
            on_progress=dump_progress,
        )
    except (PlaybookError, KeyboardInterrupt) as error:
        run.finish("failed", str(error) or "interrupted")
        raise
    run.note("backup complete", backup=str(manifest.directory))
    return run.keep("backup", manifest)


def verify_backup(run: Run[Parameters]) -> BackupManifest | Note:
    """Prove the backup in the way that the parameter ``verify`` asks for.

    Raises:
        BackupFailed: it is damaged, or its restored rows or values differ.
    """
    run.require("backup", object)
    if run.parameters.dry_run:
        return run.keep("verified", Note("Nothing was verified: this is a dry run."))
    manifest = run.require("backup", BackupManifest)
    try:
        proven = archive.verify(
            manifest, run.parameters.verify, target=run.target, server=run.server
        )
    except PlaybookError as error:
        run.finish("failed", str(error))
        raise
    return run.keep("verified", proven)


def plan_retention(run: Run[Parameters]) -> Retention:
    """Return which backups of this database go, and why the others stay; removes nothing."""
    run.require("verified", object)
    parameters = run.parameters
    plan = choose_backups(
        run.target,
        run.server,
        parameters.directory,
        keep=parameters.keep,
        receipts=known_receipts(run.target, run.server, parameters.output_dir),
        to_come=int(parameters.dry_run),
    )
    return run.keep("retention", plan)


def prune_backups(run: Run[Parameters]) -> Note:
    """Remove the backups that the retention names; 0 keeps all.

    Raises:
        BackupFailed: a folder could not be removed.
    """
    run.require("verified", object)
    parameters = run.parameters
    plan = run.taken("retention", Retention) or plan_retention(run)
    if parameters.dry_run:
        return Note(f"Nothing was removed: this is a dry run. Would go: {len(plan.removed)}.")
    for path in remove_backups(plan):
        run.note(f"removed {path}")
    kept = len(archive.list_backups(run.target, parameters.directory))
    return Note(f"Older backups removed: {len(plan.removed)}. Backups of this target now: {kept}.")


def conclude(run: Run[Parameters]) -> Outcome:
    """Write the outcome to the receipt and return it."""
    run.require("verified", object)
    if run.parameters.dry_run:
        return run.outcome(
            "succeeded",
            "Nothing was dumped or removed: this is a dry run.",
            unchanged=("everything",),
            next_steps=("Run it without dry_run.",),
        )
    manifest = run.require("verified", BackupManifest)
    message = f"{manifest.database} was dumped and proven ({manifest.verified})."
    run.finish("succeeded", message)
    return run.outcome(
        "succeeded",
        message,
        changed=("a new folder of files",),
        unchanged=("the database",),
        next_steps=("`preview` shows what is pending; `upgrade` applies it.",),
        files=(manifest.directory / archive.MANIFEST,),
    )
