"""How long a run waits for locks, and when it asks at all. Layer 3: reads only.

Whoever waits in PostgreSQL's lock queue makes every later session wait behind it: its patience is
the application's stall. So before each attempt a run looks, without queueing, whether one of the
plan's tables is held by a transaction that is older than the wait that is about to be risked. The
waits begin at 25 ms and grow to ``lock_timeout``; a transaction that stays is only waited for.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from playbook.catalog import holders
from playbook.database import connect
from playbook.records import Blocker
from playbook.targets import Target

__all__ = ["Attempts", "Limits", "milliseconds"]

FIRST_WAIT_S = 0.025
"""What nobody notices, and enough for a lock that only short transactions hold."""
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
LOOK_PAUSE_S = 0.5
"""Between two looks; only after a request that was refused, the pauses grow."""


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
        settings = {"concurrently_timeout": milliseconds(self.concurrently_timeout_s)}
        if self.statement_timeout_s:
            settings["statement_timeout"] = milliseconds(self.statement_timeout_s)
        return settings


def milliseconds(value_s: float) -> str:
    """Return a timeout as PostgreSQL takes it; never 0, which would be no limit."""
    return f"{max(1, round(1000 * value_s))}ms"


@dataclass
class Attempts:
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
        """Seconds until the run gives up."""
        return self.started + self.limits.give_up_after_s - time.monotonic()

    @property
    def risked_s(self) -> float:
        """How long the next attempt may wait; seconds."""
        return min(self.wait_s, self.limits.lock_timeout_s)

    @property
    def lock_timeout(self) -> str:
        """The same as PostgreSQL takes it."""
        return milliseconds(self.risked_s)

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


def _holders(target: Target, locks: Mapping[str, str]) -> list[Blocker]:
    """Return the sessions that a request for some locks would wait for."""
    if not locks:
        return []
    with connect(target, read_only=True) as connection:
        return holders(connection, locks)
