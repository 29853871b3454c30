"""The runbook `preview`: what an upgrade or a rollback would run. Layer 5; writes files only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from playbook.catalog import table_sizes
from playbook.database import connect
from playbook.errors import LockNotAcquired, MigrationFailed, StatementTimeout
from playbook.formats import count
from playbook.hazards import names_of, way_out
from playbook.journal import Run
from playbook.parameters import Common, one_of
from playbook.plan import METHODS, build_plan, reverse_sql, weigh_hazards
from playbook.probes import COUNT_LIMIT
from playbook.records import Banner, Hazards, Loss, Note, Outcome, Plan, RevisionGraph, TableSizes
from playbook.revisions import check_target, direction_of, join
from playbook.salvage import find_loss as count_loss

__all__ = [
    "Parameters",
    "conclude",
    "find_hazards",
    "find_loss",
    "measure_tables",
    "open_run",
    "plan_migration",
    "read_revisions",
    "show_target",
    "write_files",
]


@dataclass(frozen=True)
class Parameters(Common):
    """The parameters of `preview`."""

    target: str = "head"
    method: str = "auto"


def open_run(namespace: Mapping[str, Any]) -> Run[Parameters]:
    """Check the parameters and connect; raises as `playbook.journal.Run.open` does."""
    run = Run.open("preview", Parameters, namespace)
    with run.closing_on_error():
        one_of("method", run.parameters.method, METHODS)
        to = run.parameters.target
        check_target(to, run.graph, direction=direction_of(to, run.graph))
    return run


def show_target(run: Run[Parameters]) -> Banner:
    """Return which database this is."""
    return run.banner("nothing in the database; migration.sql and rollback.sql into a new folder")


def read_revisions(run: Run[Parameters]) -> RevisionGraph:
    """Return all revisions, and which of them the database is at."""
    return run.graph


def plan_migration(run: Run[Parameters]) -> Plan:
    """Return the revisions that would run, with their SQL; up or down, as ``target`` says.

    Raises:
        SettingsError: the target cannot be resolved.
        MigrationFailed: the SQL cannot be had.
    """
    to = run.parameters.target
    plan = build_plan(
        run.target,
        run.alembic,
        run.graph,
        direction=direction_of(to, run.graph),
        to=to,
        method=run.parameters.method,
    )
    return run.keep("plan", plan)


def measure_tables(run: Run[Parameters]) -> TableSizes | Note:
    """Return the size of each existing table that the plan names."""
    plan = run.require("plan", Plan)
    with connect(run.target, read_only=True) as connection:
        sizes = [t for t in table_sizes(connection) if f"{t.schema}.{t.table}" in plan.tables]
    if not sizes:
        return Note("The SQL names no table that exists now.")
    return TableSizes(tuple(sizes))


def find_hazards(run: Run[Parameters]) -> Hazards:
    """Return what in the plan's SQL can block, break or destroy, as the tables are now."""
    plan = run.require("plan", Plan)
    run.forget("loss")
    try:
        loss = run.keep("loss", _count_loss(run, plan, limit=COUNT_LIMIT))
    except (StatementTimeout, LockNotAcquired):
        loss = Loss(())  # `find_loss` takes the time it needs
    return run.keep("hazards", weigh_hazards(run.target, plan, loss=loss))


def find_loss(run: Run[Parameters]) -> Loss:
    """Return what the plan drops that holds data now, as `find_hazards` counted it if it did."""
    plan = run.require("plan", Plan)
    return run.taken("loss", Loss) or _count_loss(run, plan)


def _count_loss(run: Run[Parameters], plan: Plan, limit: str = "") -> Loss:
    return count_loss(
        run.target,
        plan,
        version_table=run.version_table,
        limit=limit,
        path=run.graph.search_path,
    )


def write_files(run: Run[Parameters]) -> Note:
    """Write migration.sql, rollback.sql (for an upgrade) and plan.json into the run's folder."""
    plan = run.require("plan", Plan)
    if plan.is_empty:
        return run.keep("files", Note("There is nothing to run, so no file was written."))
    folder = run.make_folder()
    written = [_write(folder / "migration.sql", plan.sql)]
    if plan.direction == "upgrade":
        written += _write_rollback(run, plan, folder)
    record = json.dumps(asdict(plan), indent=1, default=str)
    written.append(_write(folder / "plan.json", record))
    return run.keep("files", Note(f"Written: {', '.join(path.name for path in written)}."))


def _write_rollback(run: Run[Parameters], plan: Plan, folder: Path) -> list[Path]:
    try:
        sql = reverse_sql(run.alembic, plan)
    except MigrationFailed:
        return []
    return [_write(folder / "rollback.sql", sql)] if sql else []


def _write(path: Path, text: str) -> Path:
    path.write_text(text.rstrip() + "\n", "utf-8")
    return path


def conclude(run: Run[Parameters]) -> Outcome:
    """Return the summary and which runbook comes next."""
    plan = run.require("plan", Plan)
    run.require("files", Note)
    files = tuple(sorted(run.directory.iterdir())) if not plan.is_empty else ()
    summary = (
        f"The database is at {join(plan.from_revisions)}: there is nothing to run."
        if plan.is_empty
        else f"From {join(plan.from_revisions)} to {join(plan.to_revisions)}: "
        f"{count(len(plan.steps), 'revision')}."
    )
    refusal, next_steps = _next(plan, run.taken("hazards", Hazards))
    return run.outcome(
        "succeeded",
        summary + refusal,
        unchanged=("the database",),
        next_steps=next_steps,
        files=files,
    )


def _next(plan: Plan, hazards: Hazards | None) -> tuple[str, tuple[str, ...]]:
    """Return why `upgrade` would refuse a plan, "" if it would not, and what to do next."""
    if plan.is_empty:
        return "", ()
    if plan.direction == "downgrade":
        return "", (f"`rollback` with -r target {plan.target} runs this plan.",)
    if hazards is None or not hazards.stops:
        return "", (f"`upgrade` with -r target {plan.target} runs this plan.",)
    refusal = f" `upgrade` will refuse it: {names_of(hazards.stops)}."
    return refusal, (way_out(hazards.stops, "section 2"), "Then run `preview` again.")
