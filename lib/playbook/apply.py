"""Runs a plan, revision by revision, without making the application wait. Layer 4.

Whoever waits in PostgreSQL's lock queue makes every later session wait behind it: its patience is
the application's stall. So before each attempt this module looks, without queueing, whether one
of the plan's tables is held by a transaction that is older than the wait that is about to be
risked; the waits begin at 25 ms and grow to ``lock_timeout``; and only what PostgreSQL rolled
back whole (SQLSTATE 55P03) is tried again, until ``give_up_after``.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from playbook.catalog import holders
from playbook.database import connect
from playbook.errors import LockNotAcquired, MigrationFailed
from playbook.migrate import Alembic
from playbook.records import Applied, Blocker, Plan, PlanStep, ServerInfo, StepResult
from playbook.statements import locks_taken
from playbook.targets import Target

__all__ = ["Limits", "apply_plan"]

FIRST_WAIT_S = 0.025
"""What nobody notices, and enough for a lock that only short transactions hold."""
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
LOOK_PAUSE_S = 0.5
"""Between two looks; only after a request that was refused, the pauses grow."""


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
    grown: float = field(default_factory=time.monotonic)
    looked: float = field(default_factory=time.monotonic)
    between_looks_s: float = 0.0
    told: float = 0.0
    quiet_s: float = 0.0
    seen: dict[str, float] = field(default_factory=dict)
    """When a transaction was first seen of which this role may not see how old it is."""

    @property
    def left_s(self) -> float:
        return self.started + self.limits.give_up_after_s - time.monotonic()

    @property
    def risked_s(self) -> float:
        return min(self.wait_s, self.limits.lock_timeout_s)

    @property
    def lock_timeout(self) -> str:
        wait_ms = round(1000 * self.risked_s)
        return f"{max(1, wait_ms)}ms"  # to PostgreSQL, 0 is no limit

    def look(self, target: Target, locks: Mapping[str, str]) -> list[Blocker]:
        """Return the sessions whose transactions have lasted longer than the next wait may."""
        now = time.monotonic()
        self.between_looks_s, self.looked = now - self.looked, now
        found = _holders(target, locks)
        if {session.transaction for session in found} - self.seen.keys() - {""}:
            self.see(found)
            time.sleep(self.risked_s)  # whether it stays for as long shows only a second look
            found = _holders(target, locks)
        found = self.see(found)
        return [session for session in found if session.transaction_age_s >= self.risked_s]

    def see(self, found: Sequence[Blocker]) -> list[Blocker]:
        """Return sessions with the age that this run has seen their transactions reach."""
        now = time.monotonic()
        return [
            replace(one, transaction_age_s=now - self.seen.setdefault(one.transaction, now))
            if one.transaction
            else one
            for one in found
        ]

    def tells(self) -> bool:
        """Say whether there is to be a line again; the looks are too many for one each."""
        now = time.monotonic()
        if now - self.told < self.quiet_s:
            return False
        self.told, self.quiet_s = now, min(2 * self.quiet_s or FIRST_PAUSE_S, LONGEST_PAUSE_S)
        return True

    def pause(self, *, asked: bool) -> None:
        """Wait, with jitter so that two runs do not keep step; a look disturbs nobody."""
        longest_s = LONGEST_PAUSE_S if asked else LOOK_PAUSE_S
        jitter = random.uniform(0.5, 1.5)
        time.sleep(max(0.0, min(jitter * min(self.pause_s, longest_s), self.left_s)))

    def next(self, blockers: Sequence[Blocker] = (), *, asked: bool = True) -> None:
        """Have more patience with ever new transactions; one that stays is only waited for."""
        self.number += 1
        ever_new = all(one.transaction_age_s < self.between_looks_s for one in blockers)
        long_enough = time.monotonic() - self.grown > self.pause_s
        if asked or (ever_new and long_enough):
            self.grown = time.monotonic()
            self.wait_s = min(2 * self.wait_s, self.limits.lock_timeout_s)
            self.pause_s = min(2 * self.pause_s, LONGEST_PAUSE_S)


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
) -> Applied:
    """Apply or undo the revisions of a plan, each in its own transaction.

    **Effects**: the revisions'. After a failure the database is at the last revision that was
    committed; the failed one is rolled back, except what it did outside a transaction.

    Args:
        check_lock: called before each revision; raises if the advisory lock was lost.
        on_progress: called with a line of text when something is worth showing.
        on_step: called after each revision with its result and the revisions reached.

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
            result = _apply(target, alembic, plan, step, current, limits, on_progress)
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
) -> StepResult:
    """Try one revision until it is through or the time for it is over."""
    attempts = _Attempts(limits)
    locks = locks_taken(step.sql, plan.tables)
    while True:
        blockers = attempts.look(target, locks)
        asked = not blockers
        if asked:
            try:
                return alembic.run(
                    step,
                    expected_current=current,
                    session={"lock_timeout": attempts.lock_timeout},
                    attempts=attempts.number,
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


def _holders(target: Target, locks: Mapping[str, str]) -> list[Blocker]:
    """Return the sessions that a request for some locks would wait for."""
    if not locks:
        return []
    with connect(target, read_only=True) as connection:
        return holders(connection, locks)


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
