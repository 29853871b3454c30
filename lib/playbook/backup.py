"""The runbook `backup`: a dump that is proven to be readable. Layer 5; writes files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from playbook import archive
from playbook.catalog import table_sizes
from playbook.database import connect
from playbook.dump import gzip_level
from playbook.errors import PlaybookError, SettingsError
from playbook.journal import Run
from playbook.parameters import Common, one_of
from playbook.preflight import Question, check
from playbook.present import dump_progress
from playbook.records import BackupManifest, Banner, Checks, Note, Outcome, TableSizes

__all__ = [
    "Parameters",
    "check_preflight",
    "conclude",
    "measure_tables",
    "open_run",
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


def open_run(namespace: Mapping[str, Any]) -> Run[Parameters]:
    """Check the parameters and connect; raises as `playbook.journal.Run.open` does."""
    run = Run.open("backup", Parameters, namespace)
    with run.closing_on_error():
        one_of("verify", run.parameters.verify, ("archive", "restore"))
        gzip_level(run.parameters.compression)
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
    return run.banner("a folder of files; the database is only read")


def check_preflight(run: Run[Parameters]) -> Checks:
    """Return what would be in the way of a backup; STOP ends the run.

    Raises:
        GuardRefused: a finding says STOP.
    """
    folder = archive.backup_folder(run.target, run.parameters.directory)
    question = Question(graph=run.graph, backup_folder=folder)
    checks = check(run.target, run.server, question)
    relevant = Checks(tuple(f for f in checks.findings if f.code in BACKUP_FINDINGS))
    return run.keep("preflight", run.must_pass(relevant))


BACKUP_FINDINGS = ("version-table", "pg-dump", "disk-room", "open-transactions")


def measure_tables(run: Run[Parameters]) -> TableSizes:
    """Return what will be dumped."""
    with connect(run.target, read_only=True) as connection:
        return TableSizes(tuple(table_sizes(connection)))


def run_backup(run: Run[Parameters]) -> BackupManifest:
    """Dump the database into a new folder, with a manifest; shows progress.

    Raises:
        BackupFailed: no backup was made.
    """
    run.require("preflight", Checks)
    parameters = run.parameters
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


def verify_backup(run: Run[Parameters]) -> BackupManifest:
    """Prove the backup in the way that the parameter ``verify`` asks for.

    Raises:
        BackupFailed: it is damaged, or its restored rows differ.
    """
    manifest = run.require("backup", BackupManifest)
    try:
        proven = archive.verify(
            manifest, run.parameters.verify, target=run.target, server=run.server
        )
    except PlaybookError as error:
        run.finish("failed", str(error))
        raise
    return run.keep("verified", proven)


def prune_backups(run: Run[Parameters]) -> Note:
    """Remove older backups beyond ``keep``; 0 keeps all."""
    run.require("verified", BackupManifest)
    parameters = run.parameters
    removed = archive.prune(run.target, run.server, parameters.directory, keep=parameters.keep)
    for path in removed:
        run.note(f"removed {path}")
    kept = len(archive.list_backups(run.target, parameters.directory))
    return Note(f"Older backups removed: {len(removed)}. Backups of this target now: {kept}.")


def conclude(run: Run[Parameters]) -> Outcome:
    """Write the outcome to the receipt and return it."""
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
