"""Which backups of a database stay and which go. Layer 4: removes folders, in one function."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from playbook.errors import BackupFailed
from playbook.manifests import list_backups, same_database
from playbook.records import BackupManifest, Receipt, Retention, ServerInfo
from playbook.targets import Target

__all__ = ["REFERRED_DAYS", "plan_retention", "remove_backups"]

REFERRED_DAYS = 30
"""For how long a run's receipt keeps the run's backup: the way back from a change that is younger
than a month stays open, whatever ``keep`` says."""


def plan_retention(
    target: Target,
    server: ServerInfo,
    directory: str,
    *,
    keep: int,
    receipts: Sequence[Receipt] = (),
    to_come: int = 0,
) -> Retention:
    """Return which backups of a database would go, and why the others stay. Reads only.

    The ``keep`` newest stay; so do the newest that was verified, the newest that was proven by a
    restore, and those that a run younger than `REFERRED_DAYS` took before it wrote, or restored.
    0 keeps all. Backups of another database or server under the same target's name are none of
    its business.

    Args:
        receipts: of this database's runs; those of `backup` itself do not count.
        to_come: backups that are still to be made and will be among the newest.
    """
    backups = same_database(list_backups(target, directory), server)
    reasons = _reasons(backups, keep, receipts, to_come)
    return Retention(
        keep,
        tuple(b for b in backups if b.directory not in reasons),
        tuple((b, reasons[b.directory]) for b in backups if b.directory in reasons),
    )


def _reasons(
    backups: Sequence[BackupManifest], keep: int, receipts: Sequence[Receipt], to_come: int
) -> dict[Path, str]:
    """Return why each backup stays, the first reason that holds."""
    if not keep:
        return {b.directory: "keep=0 keeps all" for b in backups}
    reasons = {b.directory: f"among the {keep} newest" for b in backups[: max(0, keep - to_come)]}
    referred = _referred(receipts)
    for backup in backups:
        if run := referred.get(backup.directory.resolve()):
            reasons.setdefault(backup.directory, run)
    for proof in ("restore", "archive"):
        for backup in [b for b in backups if proof in (b.verified, "archive") and b.verified][:1]:
            words = "proven by a restore" if proof == "restore" else "verified"
            reasons.setdefault(backup.directory, f"the newest that was {words}")
    return reasons


def _referred(receipts: Sequence[Receipt]) -> dict[Path, str]:
    """Return the backups of recent runs, with what the run did with it."""
    oldest = datetime.now(UTC) - timedelta(days=REFERRED_DAYS)
    return {
        Path(receipt.backup).resolve(): f"{_did(receipt)} by {receipt.run_id}"
        for receipt in receipts
        if receipt.backup and receipt.runbook != "backup" and receipt.started_at >= oldest
    }


def _did(receipt: Receipt) -> str:
    return "restored" if receipt.runbook == "restore" else "taken"


def remove_backups(plan: Retention) -> list[Path]:
    """Remove what a plan says and return it.

    **Effects**: each folder first loses its name, so that one half removed is no backup any more.

    Raises:
        BackupFailed: a folder could not be removed; it is named.
    """
    for backup in plan.removed:
        hidden = backup.directory.with_name(f".{backup.directory.name}.removed")
        try:
            backup.directory.rename(hidden)
            shutil.rmtree(hidden)
        except OSError as error:
            raise BackupFailed(
                f"The backup {backup.directory} could not be removed: {error.strerror}.",
                state="The newer ones are as they were.",
                remedy="Look at the folder's rights, or remove it by hand.",
            ) from error
    return [backup.directory for backup in plan.removed]
