"""What a rehearsal's figures and troubles weigh, against what is allowed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from playbook.records import Finding, Severity
from playbook.rehearsal_verdict import judge_trip
from playbook.rehearsals import Allowed, HeldLock, Passage, Rehearsed, RoundTrip, Trouble

PASSAGE = Passage("upgrade", 0.1, 1, 3, (), (), (), 8192, 4096, True)
ONE = Rehearsed("r2", "second", "0" * 64, PASSAGE, replace(PASSAGE, direction="downgrade"), PASSAGE)
TRIP = RoundTrip("f" * 64, "head", ("r1",), ("r2",), ("r2",), (ONE,), (), 4)


def judged(trip: RoundTrip, code: str) -> Finding:
    return next(one for one in judge_trip(trip, Allowed()).findings if one.code == code)


def holding(*held: float, mode: str = "AccessExclusiveLock") -> RoundTrip:
    """Return a trip whose ways up held a lock for so many seconds each."""
    ways = [replace(PASSAGE, held=(HeldLock("a.b", mode, seconds),)) for seconds in held]
    return replace(TRIP, revisions=(replace(ONE, up=ways[0], again=ways[-1]),))


@pytest.mark.parametrize(
    ("held_s", "severity"), [(0.04, Severity.OK), (0.5, Severity.WARN), (2.5, Severity.STOP)]
)
def test_the_longest_exclusive_lock_is_told_with_what_is_allowed(
    held_s: float, severity: Severity
) -> None:
    found = judged(holding(held_s), "exclusive-lock")

    assert found.severity is severity
    assert f"Longest exclusive lock: {held_s:.2f} s of 0.30 s allowed" in found.detail
    assert found.subject == "r2: a.b"


def test_a_lock_of_the_quicker_way_up_counts() -> None:
    assert judged(holding(0.5, 0.1), "exclusive-lock").severity is Severity.OK


def test_a_lock_that_only_writers_wait_for_is_no_exclusive_one() -> None:
    trip = holding(2.5, mode="ShareLock")

    assert judged(trip, "exclusive-lock").detail == "None keeps readers waiting."
    assert judged(trip, "write-lock").severity is Severity.STOP


def test_a_way_down_that_locks_does_not_count_for_the_way_up() -> None:
    down = replace(PASSAGE, held=(HeldLock("a.b", "AccessExclusiveLock", 9.0),))

    trip = replace(TRIP, revisions=(replace(ONE, down=down),))

    assert judged(trip, "exclusive-lock").severity is Severity.OK


def test_time_and_wal_beyond_what_is_allowed_are_warned_of() -> None:
    slow = replace(PASSAGE, duration_s=200.0, wal_bytes=300 * 1024**2)
    trip = replace(TRIP, revisions=(replace(ONE, up=slow, again=slow),))

    assert judged(trip, "duration").severity is Severity.WARN
    assert judged(trip, "wal").severity is Severity.WARN
    assert "300 MB of 256 MB allowed" in judged(trip, "wal").detail
    assert judged(TRIP, "duration").severity is Severity.OK


def test_each_trouble_is_a_finding_with_its_revision_and_object() -> None:
    lost = Trouble("loses-data", Severity.STOP, "r2", "downgrade", "a.b.c", "It is gone.", "Mend.")

    checks = judge_trip(replace(TRIP, troubles=(lost,)), Allowed())

    assert [(one.code, one.subject) for one in checks.stops] == [("loses-data", "r2: a.b.c")]
    assert not [one for one in checks.findings if one.code == "same-data"]


def test_a_way_down_that_is_accepted_weighs_less_and_a_way_up_does_not() -> None:
    down = Trouble("trace", Severity.STOP, "r2", "downgrade", "a.b.c", "It is another.")
    up = Trouble("failed", Severity.STOP, "r2", "upgrade", "", "It failed.")

    checks = judge_trip(replace(TRIP, troubles=(down, up)), Allowed(), accepted=("r2",))

    assert [one.code for one in checks.stops] == ["failed"]
    (trace,) = [one for one in checks.findings if one.code == "trace"]
    assert trace.detail == "It is another. It is known, and accepted."
    assert judge_trip(replace(TRIP, troubles=(down,)), Allowed(), accepted=("r3",)).stops


def test_a_trip_that_was_stopped_does_not_pass() -> None:
    begun = Rehearsed("r3", "third", "0" * 64)

    trip = replace(TRIP, to_revisions=("r3",), revisions=(ONE, begun))

    assert judged(trip, "round-trip").severity is Severity.STOP


def test_what_was_not_compared_is_said() -> None:
    found = judged(replace(TRIP, unread="Not compared whole: a.b."), "same-data")

    assert (found.severity, "a.b" in found.detail) == (Severity.WARN, True)


def test_a_trip_of_nothing_passes() -> None:
    nothing = RoundTrip("f" * 64, "head", ("r2",), ("r2",), ("r2",), (), ())

    assert judge_trip(nothing, Allowed()).stops == ()
