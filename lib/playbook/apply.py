"""Runs a plan, revision by revision, without making the application wait. Layer 4.

Whoever waits in PostgreSQL's lock queue makes every later session wait behind it. So before each
attempt this module looks, without queueing, whether an old transaction holds one of the plan's
tables; its own waits begin at 100 ms and grow to ``lock_timeout``; and only what PostgreSQL
rolled back whole (SQLSTATE 55P03) is tried again, until ``give_up_after``.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from playbook.catalog import holders
from playbook.database import connect
from playbook.errors import LockNotAcquired, MigrationFailed
from playbook.migrate import Alembic
from playbook.records import Applied, Blocker, LateRows, Plan, PlanStep, ServerInfo, StepResult
from playbook.statements import locks_taken
from playbook.targets import Target

__all__ = ["Limits", "apply_plan"]

FIRST_WAIT_S = 0.1
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
SETTLED_S = 1.0
"""A transaction that is older is looked at as one that may stay; younger ones pass by."""


@dataclass(frozen=True)
class Limits:
    """How long a revision may wait for locks: each wait, and all attempts together; seconds."""

    lock_timeout_s: float
    give_up_after_s: float


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
    def lock_timeout(self) -> str:
        wait_ms = round(1000 * min(self.wait_s, self.limits.lock_timeout_s))
        return f"{max(1, wait_ms)}ms"  # to PostgreSQL, 0 is no limit

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
    late_rows: Mapping[str, Sequence[LateRows]] = MappingProxyType({}),
) -> Applied:
    """Apply or undo the revisions of a plan, each in its own transaction.

    **Effects**: the revisions'. After a failure the database is at the last revision that was
    committed; the failed one is rolled back, except what it did outside a transaction.

    Args:
        check_lock: called before each revision; raises if the advisory lock was lost.
        on_progress: called with a line of text when something is worth showing.
        on_step: called after each revision with its result and the revisions reached.
        late_rows: per revision, what its transaction saves before its own statements.

    Raises:
        LockNotAcquired: no attempt got its locks within the limits; the blockers are named.
        MigrationFailed: a revision failed, or env.py did not commit it.
        KeyboardInterrupt: passed on, after the revision under way has been rolled back.
    """
    results: list[StepResult] = []
    current = plan.from_revisions
    for step in plan.steps:
        check_lock()
        try:
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
    return Applied(plan.direction, plan.from_revisions, current, tuple(results))


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
        blockers = _settled_holders(target, locks)
        if not blockers:
            try:
                return alembic.run(
                    step,
                    expected_current=current,
                    session={"lock_timeout": attempts.lock_timeout},
                    attempts=attempts.number,
                    late_rows=late_rows,
                )
            except LockNotAcquired:
                blockers = _settled_holders(target, locks)
        if attempts.left_s <= 0:
            raise _given_up(step, attempts, blockers)
        on_progress(f"{step.revision} waits for {_names(blockers)}; {attempts.left_s:.0f} s left")
        attempts.pause()
        attempts.next()


def _settled_holders(target: Target, locks: Mapping[str, str]) -> list[Blocker]:
    """Return the sessions that would keep a lock request waiting for longer than a moment."""
    if not locks:
        return []
    with connect(target, read_only=True) as connection:
        found = holders(connection, locks)
    return [session for session in found if session.transaction_age_s > SETTLED_S]


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
