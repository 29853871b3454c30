"""Steps that several writing runbooks take, recorded in their receipt. Layer 4, on the journal."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from playbook import archive
from playbook.apply import Limits, apply_plan
from playbook.changes import count_changes, find_changes, judge, write_changes
from playbook.errors import GuardRefused, MigrationFailed, PlaybookError, explain
from playbook.journal import Run
from playbook.present import dump_progress, note, progress
from playbook.records import (
    Applied,
    BackupManifest,
    Changes,
    Comparison,
    Integrity,
    Note,
    Plan,
    PlanStep,
    Snapshot,
    StepResult,
)
from playbook.revisions import join
from playbook.snapshot import Reading, holds_rows, reading, write_snapshot
from playbook.verification import broken_references, compare, left_out, looks_at_changes

__all__ = [
    "AFTER",
    "BACKUPS",
    "BEFORE",
    "DEFAULT_LIMITS",
    "check_confirmed",
    "compare_with_before",
    "execute",
    "go_back",
    "limits_of",
    "looks",
    "save_backup",
    "save_before_snapshot",
    "unread",
]

BACKUPS = "backups"
"""Where writing runbooks keep their backups, in the project's folder."""
BEFORE, AFTER = "snapshot-before.json", "snapshot-after.json"
_SAME = ("intact", "not compared")
DEFAULT_LIMITS = Limits(lock_timeout_s=2.0, give_up_after_s=300.0)
"""As the defaults of `upgrade`."""


def check_confirmed(run: Run[Any]) -> None:
    """Refuse to write to a protected target without its typed name, or without a backup.

    Raises:
        GuardRefused: ``confirm`` is not the database's name, or ``backup`` is ``never``.
    """
    if not run.target.protected or run.parameters.dry_run:
        return
    run.must_be_confirmed(run.parameters.confirm)
    if run.parameters.backup == "never":
        raise GuardRefused(
            f"{run.target.name!r} is protected, so `{run.runbook}` needs a fresh backup.",
            remedy="Leave out -r backup never.",
        )


def save_backup(run: Run[Any]) -> BackupManifest:
    """Take a backup that is proven to be readable, with progress, and note it in the receipt.

    Raises:
        BackupFailed: there is none now; nothing was changed.
    """
    run.note("backup begins")
    with run.recording_failure():
        manifest = archive.take_backup(
            run.target,
            run.server,
            run.graph.current,
            directory=BACKUPS,
            on_progress=dump_progress,
        )
    run.note("backup complete", backup=str(manifest.directory))
    return run.keep("backup", manifest)


def save_before_snapshot(run: Run[Any]) -> Snapshot:
    """Count and fingerprint every table, and keep it in the run's folder.

    Beside it goes what the revisions mean to change, for this run's comparison and later ones.
    """
    with run.recording_failure():
        changes = find_changes(run.target, run.require("plan", Plan))
        snapshot = run.snapshot(limits=limits_of(run))
        write_snapshot(snapshot, run.begin() / BEFORE)
        write_changes(changes, run.directory)
    run.keep("changes", changes)
    run.note("snapshot taken")
    return run.keep("before", snapshot)


def compare_with_before(run: Run[Any]) -> Comparison | Note:
    """Return how each table and column differs from before; a note if nothing was run."""
    if run.taken("applied", Note):
        return run.keep("comparison", Note("Nothing was changed, so there is nothing to compare."))
    applied, before = run.require("applied", Applied), run.require("before", Snapshot)
    limits = limits_of(run)
    with run.recording_failure():
        run.refresh()
        after = run.snapshot(limits=limits, like=before)
        write_snapshot(after, run.directory / AFTER)
        run.keep("after", after)
        found = compare(before, after, names=(f"before the {run.runbook}", "after it"))
        found = count_changes(run.target, found, before, after, applied.steps, limits=limits)
    return run.keep("comparison", judge(found, run.taken("changes", Changes)))


def limits_of(run: Run[Any]) -> Reading:
    """Return how much of the data a run's parameters let it read."""
    return reading(run.parameters.sample_above, run.parameters.time_budget)


def looks(run: Run[Any]) -> tuple[str, ...]:
    """Return what a writing runbook's comparison and schema show to be looked at, in sentences."""
    comparison, integrity = run.taken("comparison", Comparison), run.taken("integrity", Integrity)
    found = looks_at_changes(comparison) if comparison else []
    for texts in broken_references(integrity) if integrity else ():
        found += texts
    return tuple(f"Look at it: {text}." for text in found)


def unread(run: Run[Any]) -> str:
    """Return a sentence on tables of which a run did not read every row; "" if it read all."""
    taken = (run.taken("before", Snapshot), run.taken("after", Snapshot))
    return left_out(*(snapshot for snapshot in taken if snapshot))


def execute(
    run: Run[Any],
    plan: Plan,
    check_lock: Callable[[], None],
    limits: Limits = DEFAULT_LIMITS,
) -> Applied:
    """Run a plan and write each revision to the receipt as it is done.

    Raises:
        MigrationFailed: a revision failed or the run was interrupted; the sentence says which,
            why, where the database is now and what to do. ``current`` and ``transactional`` tell
            the same to the caller.
    """
    earlier = run.steps
    done: list[StepResult] = []
    word = {"upgrade": "applied", "downgrade": "undone"}[plan.direction]

    def on_step(result: StepResult, reached: tuple[str, ...]) -> None:
        done.append(result)
        note(f"{result.revision} {word}")
        steps = [*earlier, *done]
        run.note(f"{result.revision} {word}", steps=steps, to_revisions=list(reached))
        run.write_history()

    try:
        return apply_plan(
            run.target,
            run.server,
            run.alembic,
            plan,
            limits,
            check_lock=check_lock,
            on_progress=progress,
            on_step=on_step,
        )
    except (PlaybookError, KeyboardInterrupt) as error:
        raise _failure(run, plan, error, len(done)) from error


def _failure(
    run: Run[Any], plan: Plan, error: PlaybookError | KeyboardInterrupt, done: int
) -> MigrationFailed:
    """Return what is to be said of a plan that failed after some of its revisions."""
    reached = _place(run)
    failed = plan.steps[min(done, len(plan.steps) - 1)].revision
    with suppress(PlaybookError):  # a full disk may be what failed
        run.note(f"{failed} failed", to_revisions=list(reached or ()))
    transactional = getattr(error, "transactional", True) and not run.alembic.left_transaction
    what = f"Revision {failed}" if plan.direction == "upgrade" else f"The downgrade of {failed}"
    if reached is None:
        state = "Where the database is now is not known: it cannot be reached."
        remedy = "Run `status` as soon as it can."
    elif (failed in reached) == (plan.direction == "upgrade"):
        word = "applied" if plan.direction == "upgrade" else "undone"
        state = f"The database is at {join(reached)}: {failed} is {word}; what failed came after."
        remedy = f"Run `status`, then `{run.runbook}` again to go on."
    elif transactional:
        fate = "was not begun" if isinstance(error, GuardRefused) else "was rolled back whole"
        state = f"The database is at {join(reached)}; {failed} {fate}."
        remedy = _ways_out(run, plan, done)
    else:
        state = (
            f"The database is at {join(reached)}, with {failed} half-applied: it had left its "
            "transaction."
        )
        remedy = f"Run `status`, undo what it left, then run `{run.runbook}` again."
    return MigrationFailed(
        f"{what} failed: {explain(error)}",
        state=state,
        remedy=remedy,
        revision=failed,
        statement=getattr(error, "statement", ""),
        sqlstate=getattr(error, "sqlstate", ""),
        current=reached or (),
        transactional=transactional and reached is not None,
    )


def _place(run: Run[Any]) -> tuple[str, ...] | None:
    """Return where the database is, by a new child if the old one is gone; None: unknown."""
    try:
        return run.alembic.current()
    except PlaybookError:
        try:
            run.alembic.restart(run.server)
            return run.alembic.current()
        except PlaybookError:
            return None


def _ways_out(run: Run[Any], plan: Plan, done: int) -> str:
    again = f"Mend the cause and run `{run.runbook}` again"
    start = join(plan.from_revisions)
    if run.runbook == "rollback":
        return f"{again}, or go forward with `upgrade` -r target {start}."
    if not done or not plan.from_revisions:
        return f"{again}."
    return f"{again}, or go back with `rollback` -r target {start}."


def go_back(
    run: Run[Any],
    plan: Plan,
    failure: MigrationFailed,
    check_lock: Callable[[], None],
    limits: Limits,
) -> MigrationFailed:
    """Undo the revisions of a failed upgrade and compare the data with before.

    **Effects**: a backup, for what the application wrote meanwhile, where there are rows; then
    the downgrades of what the upgrade had applied.

    Returns:
        The sentence to stop with: the same failure, and whether the way back was gone.
    """
    reached = failure.current
    back = _reversed(plan, failure)
    try:
        if holds_rows(run.target, except_tables=(run.version_table,)):
            save_backup(run)
        execute(run, back, check_lock, limits)
        run.refresh()
        if sorted(run.graph.current) != sorted(plan.from_revisions):
            raise MigrationFailed(f"The database is at {join(run.graph.current)}.")
    except PlaybookError as error:
        return MigrationFailed(
            failure.problem,
            state=f"Going back failed as well: {error.problem} {error.state}",
            remedy="Look with `status`, then mend the cause and run `upgrade` or `rollback`.",
            revision=failure.revision,
            statement=failure.statement,
            sqlstate=failure.sqlstate,
            current=_place(run) or (),
        )
    run.went_back = True
    before = run.require("before", Snapshot)
    after = run.snapshot(limits=limits_of(run), like=before)
    found = compare(before, after, names=("before", "after going back")).differences
    unknown = dict.fromkeys(one.table for one in found if one.kind == "not compared")
    changed = dict.fromkeys(one.table for one in found if one.kind not in _SAME)
    same = f"It differs in {', '.join(changed)}" if changed else "Its data are as before"
    same += f" (not compared: {', '.join(unknown)})" if unknown else ""
    return MigrationFailed(
        failure.problem,
        state=f"The run went back from {join(reached)} to {join(plan.from_revisions)}. {same}.",
        remedy="Mend the cause and run `upgrade` again.",
        revision=failure.revision,
        statement=failure.statement,
        sqlstate=failure.sqlstate,
        current=plan.from_revisions,
    )


def _reversed(plan: Plan, failure: MigrationFailed) -> Plan:
    """Return the downgrades of a plan's revisions before the failed one, the last one first."""
    ids = [step.revision for step in plan.steps]
    done = plan.steps[: ids.index(failure.revision) + (failure.revision in failure.current)]
    return replace(
        plan,
        direction="downgrade",
        from_revisions=failure.current,
        to_revisions=plan.from_revisions,
        steps=tuple(_undone(step) for step in reversed(done)),
    )


def _undone(step: PlanStep) -> PlanStep:
    return replace(
        step,
        direction="downgrade",
        from_revisions=step.to_revisions,
        to_revisions=step.from_revisions,
        sql="",
    )
