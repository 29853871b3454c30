"""The runbook `verify`: are the data and the schema what they must be. Layer 5; reads only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from playbook.changes import count_changes, judge, read_changes, undeclared, with_sent
from playbook.charts import Chart
from playbook.errors import SettingsError, VerifyFailed
from playbook.journal import Run
from playbook.parameters import Common
from playbook.present import show
from playbook.receipts import known_receipts, read_receipt
from playbook.record_charts import rows_chart
from playbook.records import (
    Banner,
    Comparison,
    DataChecks,
    Drift,
    Integrity,
    Note,
    Outcome,
    Receipt,
    RevisionGraph,
    Snapshot,
)
from playbook.revisions import join
from playbook.snapshot import Reading, read_snapshot, reading
from playbook.verification import (
    broken_references,
    compare,
    find_integrity,
    left_out,
    looks_at_changes,
    run_checks,
)
from playbook.verification import (
    find_drift as compare_with_models,
)

__all__ = [
    "Parameters",
    "check_data",
    "check_schema",
    "compare_data",
    "conclude",
    "find_drift",
    "open_run",
    "read_revisions",
    "show_chart",
    "show_target",
    "take_snapshot_now",
]


@dataclass(frozen=True)
class Parameters(Common):
    """The parameters of `verify`."""

    against: str = "latest"
    sample_above: str = ""
    time_budget: str = ""


def open_run(namespace: Mapping[str, Any]) -> Run[Parameters]:
    """Check the parameters and connect; raises as `playbook.journal.Run.open` does."""
    run = Run.open("verify", Parameters, namespace)
    with run.closing_on_error():
        _limits(run)
        receipt = _receipt(run)
        run.keep("receipt", receipt or Note("No run with a snapshot is known for this database."))
    return run


def _receipt(run: Run[Parameters]) -> Receipt | None:
    """Return the receipt to compare with; None if ``latest`` finds none."""
    against = run.parameters.against
    if against != "latest":
        receipt = read_receipt(run.resolve_path(against))
        if not (receipt.directory / BEFORE).is_file():
            raise SettingsError(
                f"The run {receipt.run_id} has no {BEFORE} to compare with.",
                remedy="Write -r against latest, or the folder of an `upgrade` or a `rollback`.",
            )
        return receipt
    receipts = known_receipts(run.target, run.server, run.parameters.output_dir)
    return next((r for r in receipts if (r.directory / BEFORE).is_file()), None)


BEFORE = "snapshot-before.json"


def show_target(run: Run[Parameters]) -> Banner:
    """Return which database this is."""
    return run.banner("nothing")


def read_revisions(run: Run[Parameters]) -> RevisionGraph:
    """Return all revisions, and which of them the database is at."""
    return run.keep("revisions", run.refresh())


def take_snapshot_now(run: Run[Parameters]) -> Snapshot:
    """Count and fingerprint every table as it is now."""
    receipt = run.taken("receipt", Receipt)
    before = read_snapshot(receipt.directory / BEFORE) if receipt else None
    if before:
        run.keep("before", before)
    return run.keep("now", run.snapshot(limits=_limits(run), like=before))


def _limits(run: Run[Parameters]) -> Reading:
    return reading(run.parameters.sample_above, run.parameters.time_budget)


def compare_data(run: Run[Parameters]) -> Comparison | Note:
    """Return how each table and column differs from before the run that is compared with.

    What that run's own transactions changed is held against what its revisions declare.
    """
    now = run.require("now", Snapshot)
    receipt = run.require("receipt", object)
    if not isinstance(receipt, Receipt):
        return run.keep("comparison", run.require("receipt", Note))
    before = run.require("before", Snapshot)
    found = compare(before, now, names=(f"before the {receipt.runbook}", "now"))
    limits = _limits(run)
    found = count_changes(run.target, found, before, now, receipt.steps, limits=limits)
    meant = with_sent(run.target, read_changes(receipt.directory), receipt.steps)
    return run.keep("comparison", judge(found, meant))


def show_chart(run: Run[Parameters]) -> Chart:
    """Return the rows of each table before and now, as one chart."""
    comparison = run.require("comparison", object)
    if isinstance(comparison, Comparison):
        return rows_chart(comparison)
    now = run.require("now", Snapshot)
    return rows_chart(compare(now, now, names=("now", "now")))


def check_data(run: Run[Parameters]) -> DataChecks:
    """Run the data checks of every applied revision; rows that break one fail the runbook."""
    return run.keep("data", run_checks(run.target, run.graph))


def check_schema(run: Run[Parameters]) -> Integrity:
    """Return constraints, indexes, references and sequences that are unfinished or broken."""
    return run.keep("integrity", find_integrity(run.target, limits=_limits(run)))


def find_drift(run: Run[Parameters]) -> Drift:
    """Return how the models differ from the database."""
    return run.keep("drift", compare_with_models(run.alembic, run.graph))


def conclude(run: Run[Parameters]) -> Outcome:
    """Return the verdict.

    Raises:
        VerifyFailed: rows break a data check or lack their parent, an index is not valid, a
            sequence is behind its column, or the run that is compared with changed values that
            its revisions do not declare; each is named.
    """
    data = run.require("data", DataChecks)
    integrity = run.require("integrity", Integrity)
    drift = run.require("drift", Drift)
    problems = [f"{c.name} ({c.error or f'{c.failing_rows} rows'})" for c in data.failed]
    problems += [f"index {item.index} is not valid" for item in integrity.invalid]
    broken, looks = broken_references(integrity)
    problems += broken
    comparison = run.taken("comparison", Comparison)
    if comparison:
        problems += [f"changed and not declared: {name}" for name in undeclared(comparison)]
        looks += looks_at_changes(comparison)
    looks += [f"constraint {item.constraint} is not validated" for item in integrity.unvalidated]
    looks += [f"the models differ: {line}" for line in drift.lines]
    at = join(run.graph.current)
    unread = left_out(run.require("now", Snapshot))
    if problems:
        outcome = run.outcome("failed", f"At {at}: {'; '.join(problems)}.{unread}")
        show(outcome)
        raise VerifyFailed(
            f"Verification failed at {at}: {'; '.join(problems)}.",
            state="Nothing was changed: this runbook only reads.",
            remedy="Correct the rows, or go back with `rollback`.",
        )
    complete = not integrity.orphans and not integrity.unchecked
    sound = ", no row lacks its parent and no sequence is behind" if complete else ""
    return run.outcome(
        "succeeded",
        f"At {at}: {len(data.results)} data checks passed, all indexes are valid{sound}.{unread}",
        unchanged=("everything: this runbook only reads",),
        next_steps=tuple(f"Look at it: {line}." for line in looks) or ("Nothing is left to do.",),
    )
