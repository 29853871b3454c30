"""The ways to be rid of an upgrade, with what each one loses and takes here. Layer 4: reads only.

A downgrade takes out of use what the upgrade made; a restored backup takes back everything that was
written since; a new revision loses nothing and takes as long as it takes to write. Which of them is
right is the engineer's to decide; the facts to decide by are gathered here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from playbook.archive import list_backups
from playbook.catalog import table_names, unreadable_tables
from playbook.database import connect
from playbook.errors import StatementTimeout
from playbook.formats import count, moment, seconds, short_path
from playbook.records import (
    BackupManifest,
    Loss,
    Plan,
    Receipt,
    ServerInfo,
    WayBack,
    WaysBack,
)
from playbook.revisions import join
from playbook.snapshot import count_written_after
from playbook.targets import Target

__all__ = [
    "Facts",
    "applied_in",
    "downgrade_time",
    "failure_of",
    "newest_backup",
    "rows_since",
    "weigh_ways",
]

COUNT_LIMIT = "30s"
"""statement_timeout of counting the rows that were written since."""


@dataclass(frozen=True)
class Facts:
    """What the ways are weighed by.

    ``backup`` is the newest one of the place that the plan leads to; ``rows_since`` the rows
    written in any table since the upgrade, -1 if that is not known; ``downgrade_s`` how long the
    same downgrades took when last done here, 0 if they never were; ``failed`` why the upgrade
    failed after it had applied them, "" if it did not.
    """

    loss: Loss
    backup: BackupManifest | None
    rows_since: int
    downgrade_s: float
    failed: str = ""


def applied_in(receipts: Sequence[Receipt], plan: Plan) -> dict[str, int]:
    """Return the last transaction of the run that applied each revision, where that is known.

    What the same run wrote later, nobody has typed in: it counts as the upgrade's own.

    Args:
        receipts: runs on this very database, the newest first.
    """
    wanted = {step.revision for step in plan.steps}
    found: dict[str, int] = {}
    for receipt in receipts:
        own = [step for step in receipt.steps if step.direction == "upgrade" and step.xids]
        for step in own:
            if step.revision in wanted:
                found.setdefault(step.revision, own[-1].xids[-1])
    return found


def failure_of(receipts: Sequence[Receipt], plan: Plan) -> str:
    """Return why the run that applied a plan's revisions failed when all was applied; "" if not.

    Args:
        receipts: runs on this very database, the newest first.
    """
    wanted = {step.revision for step in plan.steps}
    for receipt in receipts:
        done = {step.revision for step in receipt.steps if step.direction == "upgrade"}
        if done & wanted:
            through = receipt.goal is not None and set(receipt.goal) == set(receipt.to_revisions)
            return receipt.message if through and receipt.outcome == "failed" else ""
    return ""


def downgrade_time(receipts: Sequence[Receipt], plan: Plan) -> float:
    """Return the seconds that a plan's downgrades took when each was last done; 0: some never were.

    Args:
        receipts: runs on this very database, the newest first.
    """
    took: dict[str, float] = {}
    for receipt in receipts:
        for step in reversed(receipt.steps):
            if step.direction == "downgrade":
                took.setdefault(step.revision, step.duration_s)
    known = [took.get(step.revision, 0.0) for step in plan.steps]
    return sum(known) if all(known) else 0.0


def newest_backup(
    target: Target, server: ServerInfo, plan: Plan, directory: str
) -> BackupManifest | None:
    """Return the newest backup of this database at the place that a plan leads to, if any."""
    place = (server.system_identifier, server.database, sorted(plan.to_revisions))
    for backup in list_backups(target, directory):
        if (backup.system_identifier, backup.database, sorted(backup.revisions)) == place:
            return backup
    return None


def rows_since(target: Target, xids: Mapping[str, int], plan: Plan, version_table: str) -> int:
    """Return the rows written since the first of a plan's revisions was applied.

    In any table that this role may read.

    Returns:
        -1 if there is none, some revision's transaction is not known, or counting took longer than
        `COUNT_LIMIT`.
    """
    if not plan.steps or any(step.revision not in xids for step in plan.steps):
        return -1
    try:
        with connect(
            target, read_only=True, settings={"statement_timeout": COUNT_LIMIT}
        ) as connection:
            left_out = {version_table, *unreadable_tables(connection)}
            names = [name for name in table_names(connection) if name not in left_out]
            return sum(count_written_after(connection, names, min(xids.values())).values())
    except StatementTimeout:
        return -1


def weigh_ways(plan: Plan, facts: Facts) -> WaysBack:
    """Return the three ways with what each loses and takes, and which one the facts speak for."""
    advised, reason = _advice(facts)
    return WaysBack((_downgrade(plan, facts), _restore(plan, facts), _forward()), advised, reason)


def _advice(facts: Facts) -> tuple[str, str]:
    loss = facts.loss
    if facts.failed and facts.backup:
        return (
            "restore",
            f"The upgrade failed after it had applied this: {facts.failed} A downgrade brings no "
            "value back that was overwritten.",
        )
    held = [item for item in loss.items if item.rows]
    late = sum(item.written_since for item in held if item.written_since > 0)
    if not held:
        untold = f" Not to be told from the SQL: {join(loss.untold)}." if loss.untold else ""
        return "downgrade", f"It drops nothing that holds rows.{untold}"
    if late:
        return (
            "fix forward",
            f"{count(late, 'row or value', 'rows or values')} came since the upgrade: a downgrade "
            "takes them out of use, and nothing reads the salvage until it is loaded back.",
        )
    if any(item.written_since < 0 for item in held):
        return (
            "fix forward",
            "When the rows that would be destroyed were written is not known: the upgrade was not "
            "run by the playbook on this server. Choose the downgrade if nobody uses them yet.",
        )
    return "downgrade", "All that it destroys was made by the upgrade itself, and is saved first."


def _downgrade(plan: Plan, facts: Facts) -> WayBack:
    tables = [item for item in facts.loss.items if not item.column and item.rows]
    columns = [item for item in facts.loss.items if item.column and item.rows]
    parts = []
    if tables:
        rows = count(sum(item.rows for item in tables), "row")
        parts.append(f"{rows} in {count(len(tables), 'table')}")
    if columns:
        values = count(sum(item.rows for item in columns), "value")
        parts.append(f"{values} in {count(len(columns), 'column')}")
    late = sum(item.written_since for item in (*tables, *columns) if item.written_since > 0)
    since = f", {count(late)} of them written since the upgrade" if late else ""
    took = f"{seconds(facts.downgrade_s)} when last done here" if facts.downgrade_s else ""
    return WayBack(
        "downgrade",
        f"{' and '.join(parts)}{since}; saved as CSV first" if parts else "nothing",
        took or f"{count(len(plan.steps), 'transaction')}, never done here yet",
        "the code that needs the upgrade is not in use, or is taken back as well",
    )


def _restore(plan: Plan, facts: Facts) -> WayBack:
    right_when = "the data themselves are damaged, or the downgrade fails"
    if facts.backup is None:
        return WayBack(
            "restore", f"not possible: no backup at {join(plan.to_revisions)} is known", "",
            right_when,
        )  # fmt: skip
    since = (
        f" ({count(facts.rows_since, 'row')} since the upgrade)" if facts.rows_since >= 0 else ""
    )
    return WayBack(
        "restore",
        f"all that was written in any table since {moment(facts.backup.started_at)}{since}",
        f"{_restore_time(facts.backup)}: {short_path(facts.backup.directory, 1)}",
        right_when,
    )


def _restore_time(backup: BackupManifest) -> str:
    if backup.restore_s:
        return f"{seconds(backup.restore_s)} when it was proven by a restore"
    return f"about {seconds(backup.duration_s)}, as long as the backup took"


def _forward() -> WayBack:
    return WayBack(
        "fix forward",
        "nothing",
        "writing, reviewing and rehearsing a new revision",
        "people or code already use what the upgrade made",
    )
