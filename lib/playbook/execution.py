"""Steps that several writing runbooks take, recorded in their receipt. Layer 4, on the journal."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from playbook import archive
from playbook.apply import apply_plan
from playbook.changes import count_changes, find_changes, judge, with_sent, write_changes
from playbook.errors import GuardRefused, MigrationFailed, PlaybookError
from playbook.failures import WORDS, find_place, is_through, tell_failure
from playbook.journal import Run
from playbook.patience import Limits
from playbook.present import dump_progress, note, progress
from playbook.records import (
    Applied,
    BackupManifest,
    Changes,
    Comparison,
    Integrity,
    LateRows,
    Note,
    Plan,
    PlanStep,
    Snapshot,
    StepResult,
)
from playbook.revisions import join, undone
from playbook.snapshot import Reading, holds_rows, reading, write_snapshot
from playbook.statements import commits_midway
from playbook.targets import parse_duration_s
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
    "reading_of",
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
LOCK_TIMEOUT = "2s"
"""The parameter's default, in whose place that of the target's section stands."""


def limits_of(run: Run[Any]) -> Limits:
    """Return the limits that a runbook's parameters set.

    Raises:
        SettingsError: one of them is no duration.
    """
    given = run.parameters
    longest = given.lock_timeout if given.lock_timeout != LOCK_TIMEOUT else run.target.lock_timeout
    statement = given.statement_timeout
    return Limits(
        lock_timeout_s=parse_duration_s(longest, name="lock_timeout"),
        give_up_after_s=parse_duration_s(given.give_up_after, name="give_up_after"),
        concurrently_timeout_s=parse_duration_s(
            given.concurrently_timeout, name="concurrently_timeout"
        ),
        statement_timeout_s=parse_duration_s(statement, name="statement_timeout")
        if statement
        else 0.0,
    )


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
        BackupFailed: there is none that is proven; nothing was changed in the database.
    """
    run.note("backup begins")
    with run.recording_failure():
        taken = archive.take_backup(
            run.target,
            run.server,
            run.graph.current,
            directory=BACKUPS,
            on_progress=dump_progress,
        )
        manifest = archive.verify(taken, "archive", target=run.target, server=run.server)
    run.note("backup complete", backup=str(manifest.directory))
    return run.keep("backup", manifest)


def save_before_snapshot(run: Run[Any]) -> Snapshot:
    """Count and fingerprint every table, and keep it in the run's folder.

    Beside it goes what the revisions mean to change, for this run's comparison and later ones.
    """
    with run.recording_failure():
        changes = find_changes(run.target, run.require("plan", Plan))
        snapshot = run.snapshot(limits=reading_of(run))
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
    limits = reading_of(run)
    with run.recording_failure():
        run.refresh()
        after = run.snapshot(limits=limits, like=before)
        write_snapshot(after, run.directory / AFTER)
        run.keep("after", after)
        found = compare(before, after, names=(f"before the {run.runbook}", "after it"))
        found = count_changes(run.target, found, before, after, applied.steps, limits=limits)
        meant = with_sent(run.target, run.taken("changes", Changes), applied.steps)
    return run.keep("comparison", judge(found, meant))


def reading_of(run: Run[Any]) -> Reading:
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
    late_rows: Mapping[str, Sequence[LateRows]] = MappingProxyType({}),
) -> Applied:
    """Run a plan and write each revision to the receipt as it is done.

    Args:
        late_rows: per revision, what its transaction saves before its own statements.

    Raises:
        MigrationFailed: a revision failed; the sentence says which, why, where the database is now
            and which way out is best. ``current`` and ``transactional`` tell the same to the
            caller.
        MigrationStopped: an interrupt or a SIGTERM stopped it; the sentence says the same.
    """
    earlier = run.steps
    done: list[StepResult] = []
    word = WORDS[plan.direction]
    began = time.monotonic()
    first = plan.steps[0].revision
    goal = list(plan.to_revisions)
    run.note(f"{first} begins", goal=goal, direction=plan.direction, **_under_way(plan, 0))

    def on_step(result: StepResult, reached: tuple[str, ...]) -> None:
        nonlocal began
        began = time.monotonic()
        done.append(result)
        note(f"{result.revision} {word}")
        steps = [*earlier, *done]
        run.note(
            f"{result.revision} {word}",
            steps=steps,
            to_revisions=list(reached),
            **_under_way(plan, len(done)),
        )
        run.write_history()

    def on_note(text: str) -> None:
        note(f"{text[:1].upper()}{text[1:]}.")
        run.note(text)

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
            on_note=on_note,
            late_rows=late_rows,
        )
    except (PlaybookError, KeyboardInterrupt) as error:
        failed = plan.steps[min(len(done), len(plan.steps) - 1)]
        reached = find_place(run)
        if len(done) < len(plan.steps) and is_through(failed, reached):
            done.append(_unseen(run, failed, time.monotonic() - began))
        failure = tell_failure(run, plan, error, failed, reached, limits)
        with suppress(PlaybookError):  # a full disk may be what failed
            known = _known(reached, failure.transactional)
            run.note(f"{failed.revision} failed", steps=[*earlier, *done], **known)
        raise failure from error


def _known(reached: tuple[str, ...] | None, transactional: bool) -> dict[str, Any]:
    """Return what a failure changes in the receipt; where the place is not known, nothing."""
    if reached is None:
        return {}
    return {"to_revisions": list(reached), "leaves_transaction": not transactional}


def _under_way(plan: Plan, done: int) -> dict[str, Any]:
    """Return what a receipt says of the revision that comes next, before it is begun."""
    if done == len(plan.steps):
        return {"under_way": "", "leaves_transaction": False}
    step = plan.steps[done]
    # Without its SQL nobody can tell before it runs.
    return {
        "under_way": step.revision,
        "leaves_transaction": not step.sql or commits_midway(step.sql),
    }


def _unseen(run: Run[Any], step: PlanStep, duration_s: float) -> StepResult:
    """Return what is known of a step that was committed although its process then failed."""
    return StepResult(
        revision=step.revision,
        direction=step.direction,
        duration_s=duration_s,
        attempts=1,
        statements=0,
        locks=(),
        rewritten=(),
        transactional=not run.alembic.committed.left_transaction,
    )


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
            current=find_place(run) or (),
        )
    run.went_back = True
    before = run.require("before", Snapshot)
    after = run.snapshot(limits=reading_of(run), like=before)
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
        steps=tuple(undone(step) for step in reversed(done)),
    )
