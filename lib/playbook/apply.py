"""Runs a plan, revision by revision, without making the application wait. Layer 4.

Each revision is asked for with the patience of `playbook.patience`; only what PostgreSQL rolled
back whole (SQLSTATE 55P03) is tried again, until ``give_up_after``. Indexes that it builds
concurrently are looked at before and after.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from psycopg2 import sql

from playbook.catalog import invalid_indexes
from playbook.database import connect, identifier
from playbook.errors import LockNotAcquired, MigrationFailed
from playbook.migrate import Alembic
from playbook.patience import Attempts, Limits, milliseconds
from playbook.records import Applied, Blocker, LateRows, Plan, PlanStep, ServerInfo, StepResult
from playbook.statements import indexes_built_concurrently, locks_taken
from playbook.targets import Target
from playbook.watch import watching

__all__ = ["apply_plan"]


def apply_plan(
    target: Target,
    server: ServerInfo,
    alembic: Alembic,
    plan: Plan,
    limits: Limits,
    *,
    check_lock: Callable[[], None],
    on_progress: Callable[[str], None],
    on_step: Callable[[StepResult, tuple[str, ...]], None],
    on_note: Callable[[str], None] = lambda text: None,
    late_rows: Mapping[str, Sequence[LateRows]] = MappingProxyType({}),
    measure: bool = False,
) -> Applied:
    """Apply or undo the revisions of a plan, each in its own transaction.

    **Effects**: the revisions'. After a failure the database is at the last revision that was
    committed; the failed one is rolled back, except what it did outside a transaction. An index
    that a revision is to build concurrently, and that an earlier attempt left invalid, is dropped
    first.

    Args:
        check_lock: called before each revision; raises if the advisory lock was lost.
        on_progress: called with a line of text when something is worth showing.
        on_step: called after each revision with its result and the revisions reached.
        on_note: called with what was done besides the revisions.
        late_rows: per revision, what its transaction saves before its own statements.
        measure: as for `playbook.migrate.Alembic.run`.

    Raises:
        LockNotAcquired: no attempt got its locks within the limits; the blockers are named.
        MigrationFailed: a revision failed, env.py did not commit it, or it left an invalid index.
        KeyboardInterrupt: passed on, after the revision under way has been rolled back.
    """
    results: list[StepResult] = []
    current = plan.from_revisions
    for step in plan.steps:
        check_lock()
        try:
            built = indexes_built_concurrently(step.sql)
            known = _sweep(target, built, limits, on_note) if built else set()
            late = late_rows.get(step.revision, ())
            result = _apply(
                target, alembic, plan, step, current, limits, on_progress, late, measure
            )
            current = alembic.current()
        except KeyboardInterrupt:
            alembic.restart(server)
            raise
        if (step.revision in current) != (plan.direction == "upgrade"):
            raise MigrationFailed(
                f"Revision {step.revision} ran, but the version table does not show it: env.py "
                "did not commit (a statement before context.configure opens a transaction of its "
                "own, which Alembic then leaves alone)."
            )
        results.append(result)
        on_step(result, current)
        if built:
            _check_indexes(target, step, known)
    return Applied(plan.direction, plan.from_revisions, current, tuple(results))


def _sweep(
    target: Target, built: Sequence[str], limits: Limits, on_note: Callable[[str], None]
) -> set[str]:
    """Drop the invalid leftovers of indexes that are to be built; return what stays invalid.

    CREATE INDEX CONCURRENTLY IF NOT EXISTS would skip such an index and leave it invalid; without
    IF NOT EXISTS it would fail.
    """
    patience = milliseconds(limits.concurrently_timeout_s)
    settings = {"lock_timeout": patience, "statement_timeout": "0"}
    with connect(target, settings=settings) as connection, connection.cursor() as cursor:
        invalid = {index.index for index in invalid_indexes(connection)}
        for name in sorted(invalid & set(built)):
            cursor.execute(_drop_index(identifier(name)))
            on_note(f"dropped {name}, which an earlier attempt had left invalid")
        return invalid - set(built)


def _drop_index(name: sql.Composable) -> sql.Composable:
    return sql.SQL("DROP INDEX CONCURRENTLY IF EXISTS {}").format(name)


def _check_indexes(target: Target, step: PlanStep, known: set[str]) -> None:
    """Refuse to go on after a revision that left an index invalid.

    Raises:
        MigrationFailed: it did; the index is named.
    """
    with connect(target, read_only=True) as connection:
        invalid = {index.index for index in invalid_indexes(connection)} - known
    if invalid:
        raise MigrationFailed(
            f"Revision {step.revision} left an invalid index: {', '.join(sorted(invalid))}.",
            revision=step.revision,
            transactional=False,
        )


def _apply(
    target: Target,
    alembic: Alembic,
    plan: Plan,
    step: PlanStep,
    current: Sequence[str],
    limits: Limits,
    on_progress: Callable[[str], None],
    late_rows: Sequence[LateRows],
    measure: bool,
) -> StepResult:
    """Try one revision until it is through or the time for it is over."""
    attempts = Attempts(limits)
    locks = locks_taken(step.sql, plan.tables)
    while True:
        blockers = attempts.look(target, locks)
        asked = not blockers
        if asked:
            try:
                with watching(target, lambda: alembic.session_pid, step.revision, on_progress):
                    return alembic.run(
                        step,
                        expected_current=current,
                        session={**limits.session(), "lock_timeout": attempts.lock_timeout},
                        attempts=attempts.number,
                        late_rows=late_rows,
                        measure=measure,
                    )
            except LockNotAcquired:
                blockers = attempts.look(target, locks)
        if attempts.left_s <= 0:
            raise _given_up(step, attempts, blockers)
        if attempts.tells():
            left = f"{attempts.left_s:.0f} s left"
            on_progress(f"{step.revision} waits for {_names(blockers)}; {left}")
        attempts.pause(asked=asked)
        attempts.next(blockers, asked=asked)


def _names(blockers: Sequence[Blocker]) -> str:
    return (
        "; ".join(
            f"pid {b.pid} ({b.user}, {b.application or 'no application name'}, {b.state} for "
            f"{b.transaction_age_s:.0f} s, on {', '.join(b.tables)}: {b.query})"
            for b in blockers
        )
        or "a lock that a short transaction holds"
    )


def _given_up(step: PlanStep, attempts: Attempts, blockers: Sequence[Blocker]) -> LockNotAcquired:
    return LockNotAcquired(
        f"Revision {step.revision} did not get its locks in {attempts.number} attempts over "
        f"{attempts.limits.give_up_after_s:g} s; in its way: {_names(blockers)}.",
        state="PostgreSQL rolled every attempt back.",
        remedy="Wait for those sessions or end them, then run this again.",
        sqlstate="55P03",
    )
