"""Runs a plan, revision by revision, without making the application wait. Layer 4.

Whoever waits in PostgreSQL's lock queue makes every later session wait behind it. So before each
attempt this module looks, without queueing, whether one of the plan's tables is held by a
transaction that is older already than this attempt would wait: it asks only where it will be
served soon. Its waits begin at 25 ms and grow to ``lock_timeout``; only what PostgreSQL rolled back
whole (SQLSTATE 55P03) is tried again, until ``give_up_after``.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from psycopg2 import sql

from playbook.catalog import holders, invalid_indexes
from playbook.database import connect, identifier
from playbook.errors import LockNotAcquired, MigrationFailed
from playbook.migrate import Alembic
from playbook.records import Applied, Blocker, LateRows, Plan, PlanStep, ServerInfo, StepResult
from playbook.statements import indexes_built_concurrently, locks_taken
from playbook.targets import Target
from playbook.watch import watching

__all__ = ["Limits", "apply_plan"]

FIRST_WAIT_S = 0.025
"""The longest that the application may wait behind the first attempt."""
FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 30.0


@dataclass(frozen=True)
class Limits:
    """What a revision may take; seconds.

    Each wait for a lock, and all attempts together; the waits of CONCURRENTLY, which queue before
    nobody; a statement's run (0: no limit), CONCURRENTLY excepted.
    """

    lock_timeout_s: float
    give_up_after_s: float
    concurrently_timeout_s: float = 300.0
    statement_timeout_s: float = 0.0

    def session(self) -> dict[str, str]:
        """Return the settings that are the same for every attempt."""
        settings = {"concurrently_timeout": _milliseconds(self.concurrently_timeout_s)}
        if self.statement_timeout_s:
            settings["statement_timeout"] = _milliseconds(self.statement_timeout_s)
        return settings


def _milliseconds(value_s: float) -> str:
    return f"{max(1, round(1000 * value_s))}ms"  # to PostgreSQL, 0 is no limit


@dataclass
class _Attempts:
    """The attempts at one revision: how long the next may wait, and when to give up."""

    limits: Limits
    number: int = 1
    wait_s: float = FIRST_WAIT_S
    pause_s: float = FIRST_PAUSE_S
    started: float = field(default_factory=time.monotonic)

    @property
    def left_s(self) -> float:
        return self.started + self.limits.give_up_after_s - time.monotonic()

    @property
    def patience_s(self) -> float:
        return min(self.wait_s, self.limits.lock_timeout_s)

    @property
    def lock_timeout(self) -> str:
        return _milliseconds(self.patience_s)

    def pause(self) -> None:
        """Wait, a little longer each time, with jitter so that two runs do not keep step."""
        jitter = random.uniform(0.5, 1.5)
        time.sleep(max(0.0, min(self.pause_s * jitter, self.left_s)))
        self.pause_s = min(2 * self.pause_s, LONGEST_PAUSE_S)

    def next(self) -> None:
        self.number += 1
        self.wait_s = min(2 * self.wait_s, self.limits.lock_timeout_s)


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
            result = _apply(target, alembic, plan, step, current, limits, on_progress, late)
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
    patience = _milliseconds(limits.concurrently_timeout_s)
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
) -> StepResult:
    """Try one revision until it is through or the time for it is over."""
    attempts = _Attempts(limits)
    locks = locks_taken(step.sql, plan.tables)
    while True:
        blockers = _lasting_holders(target, locks, attempts.patience_s)
        if not blockers:
            try:
                with watching(target, lambda: alembic.session_pid, step.revision, on_progress):
                    return alembic.run(
                        step,
                        expected_current=current,
                        session={**limits.session(), "lock_timeout": attempts.lock_timeout},
                        attempts=attempts.number,
                        late_rows=late_rows,
                    )
            except LockNotAcquired:
                blockers = _lasting_holders(target, locks, attempts.patience_s)
        if attempts.left_s <= 0:
            raise _given_up(step, attempts, blockers)
        on_progress(f"{step.revision} waits for {_names(blockers)}; {attempts.left_s:.0f} s left")
        attempts.pause()
        attempts.next()


def _lasting_holders(target: Target, locks: Mapping[str, str], patience_s: float) -> list[Blocker]:
    """Return the sessions that hold what conflicts, and are in their transaction for longer.

    Who has been at it for longer than this attempt would wait is not likely to end within it.
    """
    if not locks:
        return []
    with connect(target, read_only=True) as connection:
        found = holders(connection, locks)
    return [session for session in found if session.transaction_age_s > patience_s]


def _names(blockers: Sequence[Blocker]) -> str:
    return (
        "; ".join(
            f"pid {b.pid} ({b.user}, {b.application or 'no application name'}, {b.state} for "
            f"{b.transaction_age_s:.0f} s, on {', '.join(b.tables)}: {b.query})"
            for b in blockers
        )
        or "a lock that a short transaction holds"
    )


def _given_up(step: PlanStep, attempts: _Attempts, blockers: Sequence[Blocker]) -> LockNotAcquired:
    return LockNotAcquired(
        f"Revision {step.revision} did not get its locks in {attempts.number} attempts over "
        f"{attempts.limits.give_up_after_s:g} s; in its way: {_names(blockers)}.",
        state="PostgreSQL rolled every attempt back.",
        remedy="Wait for those sessions or end them, then run this again.",
        sqlstate="55P03",
    )
