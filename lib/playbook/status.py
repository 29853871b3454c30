"""The runbook `status`: where a database is. Layer 5; reads only."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from playbook.catalog import table_sizes
from playbook.charts import Chart
from playbook.database import connect, lock_holder
from playbook.execution import BACKUPS
from playbook.formats import count
from playbook.history import check_history
from playbook.journal import Run
from playbook.manifests import known_backups
from playbook.marks import advice, edited_revisions, mark_revisions
from playbook.parameters import Common
from playbook.preflight import Question, check
from playbook.receipts import known_receipts
from playbook.record_charts import durations_chart
from playbook.records import (
    Backups,
    Banner,
    Checks,
    Drift,
    History,
    Outcome,
    Receipt,
    RevisionGraph,
    Severity,
    TableSizes,
)
from playbook.rehearsed import last_rehearsal
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
    """Return all revisions, which of them the database is at, and what the runs tell of them."""
    known, free = _known_runs(run)
    ended = [_ended(one) if free else one for one in known.runs]
    return run.keep("revisions", mark_revisions(run.refresh(), History(tuple(ended))))


def _ended(receipt: Receipt) -> Receipt:
    """Return a run as interrupted if it says that it is running, though nobody holds the lock."""
    stale = receipt.outcome == "running"
    return replace(receipt, outcome="interrupted") if stale else receipt


def check_preflight(run: Run[Parameters]) -> Checks:
    """Return what would be in the way of a change now, and whether the history is whole."""
    receipts = known_receipts(run.target, run.server, run.parameters.output_dir)
    known, _ = _known_runs(run)
    question = Question(
        graph=run.graph,
        edited=edited_revisions(known, run.graph),
        receipts=receipts,
        backups=known_backups(run.target, run.server, BACKUPS),
    )
    checks = check(run.target, run.server, question)
    whole = check_history(run.target, receipts)
    return run.keep("preflight", Checks((*checks.findings, whole)))


def read_runs(run: Run[Parameters]) -> History:
    """Return the writing runs on this database: its history table, and receipts it lacks."""
    known, free = _known_runs(run)
    return run.keep("runs", History(tuple(_doubted(one) if free else one for one in known.runs)))


def _known_runs(run: Run[Parameters]) -> tuple[History, bool]:
    """Return all runs, the newest first, and whether nobody holds the lock."""
    with connect(run.target, read_only=True) as connection:
        free = not lock_holder(connection)
    return run.known_runs(), free


def _doubted(receipt: Receipt) -> Receipt:
    """Return a run that says it is running, where this cannot be seen, with what can be told."""
    here = receipt.host == socket.gethostname() and receipt.directory.is_absolute()
    if receipt.outcome != "running" or here:  # a receipt of this host is believed by its process
        return receipt
    where = f"on {receipt.host}" if receipt.host else "where it ran"
    message = f"Still at work {where}, or killed there: no session holds the lock."
    return replace(receipt, message=message)


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
    # Of each edited file the marks tell more.
    findings = [one for one in checks.findings if one.code != "revision-files"]
    lines = [
        f"{finding.severity}: {finding.subject}: {finding.detail} {finding.remedy}"
        for finding in findings
        if finding.severity is not Severity.OK
    ]
    lines += advice(run.require("revisions", RevisionGraph))
    if waiting:
        lines += last_rehearsal(run.target, run.server, run.parameters.output_dir)
        lines.append("Read what is pending with `preview`, then run `upgrade`.")
    else:
        lines.append("Nothing is pending; `verify` looks at the data.")
    return lines
