"""Who changed what between two snapshots, and whether the revisions say so. Layer 4: reads only.

Rows tell the transaction that wrote them (xmin), and a run knows its own transactions. A value
that they changed must be named by a declaration in a revision file or by a statement of the SQL;
what a trigger, a function or a DO block damages beside them is named by neither. Rows written
under a savepoint or outside a revision's transaction have ids of their own: they count as others'.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import psycopg2.errors
from psycopg2.extensions import connection as Connection

from playbook.catalog import stored_in
from playbook.database import connect, fetch
from playbook.declarations import is_named, read_declarations
from playbook.errors import PlaybookError
from playbook.records import Changes, Comparison, Difference, Plan, PlanStep, Snapshot, StepResult
from playbook.snapshot import Reading, count_written_after, count_written_by
from playbook.statements import tables_written
from playbook.targets import Target

__all__ = [
    "CHANGES",
    "count_changes",
    "find_changes",
    "judge",
    "read_changes",
    "undeclared",
    "write_changes",
]

CHANGES = "declared.json"
"""In the folder of a run: what its revisions mean to change."""
COUNT_AT_MOST_S = 600.0
"""How long counting the rows of one table may take where no time budget says less."""
_COUNTED = ("rows changed", "columns changed", "not compared")


def find_changes(target: Target, plan: Plan) -> Changes:
    """Return what a plan's revision files declare to change, and what the SQL of others writes."""
    declared: dict[str, None] = {}
    named: set[str] = set()
    for step in plan.steps:
        says = _declarations(step)
        if says is None:
            named |= tables_written(step.sql)
        else:
            declared |= dict.fromkeys(says)
    with connect(target, read_only=True) as connection:
        written = {*named, *stored_in(connection, sorted(named))}
    return Changes(tuple(declared), tuple(sorted(written)))


def _declarations(step: PlanStep) -> tuple[str, ...] | None:
    try:
        return read_declarations(step.path.read_text("utf-8"))
    except OSError:  # gone since the plan was made; the run itself refuses that
        return None


def write_changes(changes: Changes, folder: Path) -> None:
    """Write what a run means to change beside its receipt."""
    (folder / CHANGES).write_text(json.dumps(asdict(changes), indent=1) + "\n", "utf-8")


def read_changes(folder: Path) -> Changes | None:
    """Return what a run meant to change; None of one that did not write it down.

    Raises:
        PlaybookError: the file is damaged.
    """
    path = folder / CHANGES
    try:
        record = json.loads(path.read_text("utf-8"))
        return Changes(tuple(record["declared"]), tuple(record["written"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PlaybookError(
            f"{path} is not a record of changes that can be read ({type(error).__name__}).",
            state="Nothing was changed.",
            remedy="Choose another receipt with -r against PATH.",
        ) from error


def count_changes(
    target: Target,
    comparison: Comparison,
    before: Snapshot,
    after: Snapshot,
    steps: Sequence[StepResult],
    *,
    limits: Reading,
) -> Comparison:
    """Return a comparison with the rows that were written, and those of them by the run.

    Counted where something differs, on the server of the first snapshot only: elsewhere its
    transaction ids mean nothing. A rewrite writes every row anew, so of a table that the run
    rewrote nobody can say whose values changed: its rows by the run stay unknown.
    """
    tables = {d.table for d in comparison.differences if not d.column and d.kind in _COUNTED}
    if not tables or not before.xid or before.system_identifier != after.system_identifier:
        return comparison
    xids = [xid for step in steps for xid in step.xids]
    rewritten = {name for step in steps for name in step.rewritten}
    deadline = time.monotonic() + limits.budget_s if limits.budget_s else None
    with connect(target, read_only=True) as connection:
        counted = {
            name: _count(connection, name, before.xid, xids, deadline) for name in sorted(tables)
        }
    return replace(
        comparison,
        differences=tuple(_with_counts(d, counted, rewritten) for d in comparison.differences),
    )


def _count(
    connection: Connection, name: str, xid: int, xids: Sequence[int], deadline: float | None
) -> tuple[int, int]:
    """Return the rows written from a transaction id on, and those by some transactions.

    Both -1 if there is no time for it.
    """
    left_s = COUNT_AT_MOST_S if deadline is None else deadline - time.monotonic()
    limit = str(max(1, int(left_s * 1000)))
    fetch(connection, "SELECT set_config('statement_timeout', %s, false)", (limit,))
    try:
        written = count_written_after(connection, (name,), xid - 1)[name]
        return written, count_written_by(connection, (name,), xids)[name]
    except psycopg2.errors.QueryCanceled:
        return -1, -1


def _with_counts(
    one: Difference, counted: dict[str, tuple[int, int]], rewritten: set[str]
) -> Difference:
    if one.table not in counted or one.kind not in (*_COUNTED, "values changed"):
        return one
    written, by_run = counted[one.table]
    if one.table in rewritten:
        why = "; ".join(part for part in (one.detail, "rewritten by the run") if part)
        return replace(one, detail=why, rows_written=written)
    return replace(one, rows_written=written, rows_by_run=by_run)


def judge(comparison: Comparison, changes: Changes | None) -> Comparison:
    """Return a comparison that says of each change whether the run's revisions mean it.

    Args:
        changes: what they mean; None of a run that did not write it down: nothing is judged.
    """
    if changes is None:
        return comparison
    return replace(
        comparison,
        differences=tuple(_judged(d, changes) for d in comparison.differences),
    )


def _judged(one: Difference, changes: Changes) -> Difference:
    """A column is judged by itself; a table where its columns cannot be compared."""
    by_column = one.kind == "values changed"
    by_table = not one.column and one.kind in ("rows changed", "not compared")
    if not (by_column or by_table) or one.rows_by_run < 0:
        return one
    if not one.rows_by_run:
        return replace(one, verdict="by others" if one.rows_written else "")
    meant = is_named(one.table, one.column, changes.declared) or _is_written(one.table, changes)
    return replace(one, verdict="as declared" if meant else "undeclared")


def _is_written(table: str, changes: Changes) -> bool:
    """SQL that names no schema is read as public's, whatever the search path then was."""
    return bool({table, f"public.{table.split('.', 1)[1]}"} & set(changes.written))


def undeclared(comparison: Comparison) -> list[str]:
    """Return each change that no revision means, in words: what, and how many rows."""
    return list(_words(d for d in comparison.differences if d.verdict == "undeclared"))


def _words(found: Iterable[Difference]) -> Iterable[str]:
    for one in found:
        rows = f"{one.rows_by_run:,} row{'s' if one.rows_by_run != 1 else ''}"
        yield f"{one.table}{'.' if one.column else ''}{one.column} ({rows} written by this run)"
