"""The runbook `status`: where a database is. Layer 5; reads only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from playbook.catalog import table_sizes
from playbook.charts import Chart
from playbook.database import connect
from playbook.execution import BACKUPS
from playbook.history import edited_revisions, read_history
from playbook.journal import Run
from playbook.manifests import known_backups
from playbook.parameters import Common
from playbook.preflight import Question, check
from playbook.present import count, durations_chart
from playbook.receipts import known_receipts
from playbook.records import (
    Backups,
    Banner,
    Checks,
    Drift,
    History,
    Outcome,
    RevisionGraph,
    Severity,
    TableSizes,
)
from playbook.revisions import at_head, join, pending
from playbook.verification import find_drift as compare_with_models

__all__ = [
    "Parameters",
    "check_preflight",
    "conclude",
    "find_drift",
    "list_backups",
    "measure_tables",
    "open_run",
    "read_revisions",
    "read_runs",
    "show_durations",
    "show_target",
]


@dataclass(frozen=True)
class Parameters(Common):
    """The parameters of `status`: the common ones."""


def open_run(namespace: Mapping[str, Any]) -> Run[Parameters]:
    """Check the parameters and connect; raises as `playbook.journal.Run.open` does."""
    return Run.open("status", Parameters, namespace)


def show_target(run: Run[Parameters]) -> Banner:
    """Return which database this is."""
    return run.banner("nothing")


def read_revisions(run: Run[Parameters]) -> RevisionGraph:
    """Return all revisions, and which of them the database is at."""
    return run.keep("revisions", run.refresh())


def check_preflight(run: Run[Parameters]) -> Checks:
    """Return what would be in the way of a change now."""
    with connect(run.target, read_only=True) as connection:
        history = read_history(connection)
    question = Question(
        graph=run.graph,
        edited=edited_revisions(history, run.graph),
        receipts=known_receipts(run.target, run.server, run.parameters.output_dir),
        backups=known_backups(run.target, run.server, BACKUPS),
    )
    return run.keep("preflight", check(run.target, run.server, question))


def read_runs(run: Run[Parameters]) -> History:
    """Return the writing runs on this database: its history table, and receipts it lacks."""
    with connect(run.target, read_only=True) as connection:
        history = read_history(connection)
    receipts = known_receipts(run.target, run.server, run.parameters.output_dir)
    on_disk = {receipt.run_id: receipt for receipt in receipts}
    merged = {receipt.run_id: receipt for receipt in history.runs} | on_disk
    newest_first = sorted(merged.values(), key=lambda r: (r.started_at, r.run_id), reverse=True)
    return run.keep("runs", History(tuple(newest_first)))


def list_backups(run: Run[Parameters]) -> Backups:
    """Return the backups of this very database: how old, at which revision, verified how."""
    return known_backups(run.target, run.server, BACKUPS)


def show_durations(run: Run[Parameters]) -> Chart:
    """Return how long each run took, as one chart; its text says so where there are none."""
    return durations_chart(run.require("runs", History))


def find_drift(run: Run[Parameters]) -> Drift:
    """Return how the models differ from the database."""
    return run.keep("drift", compare_with_models(run.alembic, run.graph))


def measure_tables(run: Run[Parameters]) -> TableSizes:
    """Return the size of each table and of its indexes."""
    with connect(run.target, read_only=True) as connection:
        return TableSizes(tuple(table_sizes(connection)))


def conclude(run: Run[Parameters]) -> Outcome:
    """Return the summary and which runbook comes next."""
    graph = run.require("revisions", RevisionGraph)
    waiting = len(pending(graph))
    place = "at head" if at_head(graph) else f"{count(waiting, 'revision')} behind head"
    return run.outcome(
        "succeeded",
        f"The database is at {join(graph.current)}, {place}.",
        unchanged=("everything: this runbook only reads",),
        next_steps=tuple(_advice(run, waiting)),
    )


def _advice(run: Run[Parameters], waiting: int) -> list[str]:
    checks = run.require("preflight", Checks)
    lines = [
        f"{finding.severity}: {finding.detail} {finding.remedy}"
        for finding in checks.findings
        if finding.severity is not Severity.OK
    ]
    if waiting:
        lines.append("Read what is pending with `preview`, then run `upgrade`.")
    else:
        lines.append("Nothing is pending; `verify` looks at the data.")
    return lines
