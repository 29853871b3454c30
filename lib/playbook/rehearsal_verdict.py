"""What a rehearsal means for the real run: OK, WARN or STOP, against what is allowed. Layer 1."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from playbook.formats import bytes_text, count, seconds
from playbook.records import Checks, Finding, Severity
from playbook.rehearsals import Allowed, HeldLock, Rehearsed, RoundTrip, Trouble

__all__ = ["judge_trip"]

SCHEMA = "Columns, types, defaults, constraints, indexes, comments, privileges"
EITHER_WAY = ("failed", "not-transactional", "rewrites")
"""Troubles whose words do not say on which way they were met."""


def judge_trip(trip: RoundTrip, allowed: Allowed, accepted: Sequence[str] = ()) -> Checks:
    """Return a finding for each question a reviewer asks; every trouble is one of them.

    Locks, times and WAL are those of the quicker of a revision's two ways up: the first one reads
    from the disk what nobody had read in the copy before.

    Args:
        accepted: revisions whose way down is known to be wrong: what it shows is a WARN.
    """
    trip = replace(trip, troubles=tuple(_weighed(one, accepted) for one in trip.troubles))
    if not trip.revisions and not trip.troubles:
        nothing = "Nothing was pending, so nothing was rehearsed."
        return Checks((Finding("round-trip", Severity.OK, "plan", nothing),))
    return Checks(
        (
            _complete(trip),
            *_of_kind(trip, ("unplannable", "failed", "irreversible"), ()),
            *_of_kind(trip, ("loses-data",), _same_data(trip)),
            *_of_kind(trip, ("trace",), _same_schema(trip)),
            *_of_kind(trip, ("not-repeatable", "drops-data"), ()),
            *_of_kind(trip, ("not-transactional",), ()),
            *_of_kind(trip, ("rewrites",), _no_rewrite(trip)),
            *_measured(trip, allowed),
        )
    )


def _weighed(trouble: Trouble, accepted: Sequence[str]) -> Trouble:
    known = trouble.direction == "downgrade" and trouble.revision in accepted
    if not known or trouble.severity is not Severity.STOP:
        return trouble
    detail = f"{trouble.detail} It is known, and accepted."
    return replace(trouble, severity=Severity.WARN, detail=detail)


def _complete(trip: RoundTrip) -> Finding:
    wanted = f"{count(len(trip.revisions), 'revision')}"
    through = [one for one in trip.revisions if one.again]
    if trip.is_complete and len(through) == len(trip.revisions):
        return Finding("round-trip", Severity.OK, wanted, "Each went up, down and up again.")
    up = sum(1 for one in trip.revisions if one.up)
    detail = f"{up} went up, {len(through)} of them down and up again."
    severity = Severity.WARN if trip.is_complete else Severity.STOP
    return Finding("round-trip", severity, wanted, detail, "See below what stopped the others.")


def _of_kind(
    trip: RoundTrip, codes: Sequence[str], otherwise: Sequence[Finding]
) -> Iterator[Finding]:
    """Return a finding for each trouble of some kinds, or what is said where there is none."""
    found = [trouble for trouble in trip.troubles if trouble.code in codes]
    yield from map(_finding, found) if found else otherwise


def _finding(trouble: Trouble) -> Finding:
    way = {"upgrade": "Up: ", "downgrade": "Down: "}[trouble.direction]
    detail = f"{way if trouble.code in EITHER_WAY else ''}{trouble.detail}"
    return Finding(trouble.code, trouble.severity, trouble.name, detail, trouble.remedy)


def _went_down(trip: RoundTrip) -> bool:
    return any(one.down for one in trip.revisions)


def _same_data(trip: RoundTrip) -> tuple[Finding, ...]:
    if not _went_down(trip):
        return ()
    severity = Severity.WARN if trip.unread else Severity.OK
    detail = "After up and down every row is as before, by count and fingerprint."
    subject = count(trip.tables, "table")
    return (Finding("same-data", severity, subject, f"{detail} {trip.unread}".rstrip()),)


def _same_schema(trip: RoundTrip) -> tuple[Finding, ...]:
    if not _went_down(trip):
        return ()
    return (
        Finding(
            "same-schema", Severity.OK, "schema", f"{SCHEMA}: after up and down all as before."
        ),
    )


def _no_rewrite(trip: RoundTrip) -> tuple[Finding, ...]:
    if not any(one.up for one in trip.revisions):
        return ()
    return (Finding("rewrites", Severity.OK, "tables", "None is written anew as a whole."),)


def _measured(trip: RoundTrip, allowed: Allowed) -> Iterator[Finding]:
    """Return the figures of the ways up, each against what is allowed."""
    done = [one for one in trip.revisions if one.up]
    if not done:
        return
    yield _lock(done, "reads", "exclusive-lock", "Longest exclusive lock", allowed)
    yield _lock(done, "writes", "write-lock", "Longest lock that keeps writers waiting", allowed)
    slowest = max(done, key=_duration_s)
    yield _against(
        "duration",
        slowest.revision,
        f"Slowest revision: {seconds(_duration_s(slowest))} of {seconds(allowed.revision_s)} "
        f"allowed; all together {seconds(sum(map(_duration_s, done)))}.",
        _duration_s(slowest) > allowed.revision_s,
        "Split it, or run its long part outside of a deployment.",
    )
    most = max(done, key=_wal_bytes)
    yield _against(
        "wal",
        most.revision,
        f"Most WAL: {bytes_text(_wal_bytes(most))} of {bytes_text(allowed.wal_bytes)} allowed; "
        f"the database grew by {bytes_text(max(0, sum(_grown_bytes(one) for one in done)))}.",
        _wal_bytes(most) > allowed.wal_bytes,
        "Standbys fall behind by it: write in batches.",
    )


def _lock(done: Sequence[Rehearsed], what: str, code: str, words: str, allowed: Allowed) -> Finding:
    found = [(_longest(one, what), one.revision) for one in done]
    locks = [(lock, revision) for lock, revision in found if lock]
    if not locks:
        who = {"reads": "readers", "writes": "writers"}[what]
        return Finding(code, Severity.OK, "locks", f"None keeps {who} waiting.")
    lock, revision = max(locks, key=lambda pair: pair[0].held_s)
    severity = Severity.OK if lock.held_s <= allowed.lock_s else Severity.WARN
    if lock.held_s > allowed.lock_stop_s:
        severity = Severity.STOP
    return Finding(
        code,
        severity,
        f"{revision}: {lock.table}",
        f"{words}: {seconds(lock.held_s)} of {seconds(allowed.lock_s)} allowed ({lock.mode}).",
        "" if severity is Severity.OK else "Make the revision smaller: `preview` shows how.",
        "" if severity is Severity.OK else "The application waits for so long.",
    )


def _longest(one: Rehearsed, what: str) -> HeldLock | None:
    """Return the longest lock of the quicker way up that keeps readers, or writers, waiting."""
    ways = [passage for passage in (one.up, one.again) if passage]
    each = [
        max((lock for lock in way.held if what in lock.blocks), key=_held_s, default=None)
        for way in ways
    ]
    return min((lock for lock in each if lock), key=_held_s, default=None)


def _held_s(lock: HeldLock) -> float:
    return lock.held_s


def _duration_s(one: Rehearsed) -> float:
    return min((way.duration_s for way in (one.up, one.again) if way), default=0.0)


def _wal_bytes(one: Rehearsed) -> int:
    return min((way.wal_bytes for way in (one.up, one.again) if way), default=0)


def _grown_bytes(one: Rehearsed) -> int:
    return one.up.grown_bytes if one.up else 0


def _against(code: str, subject: str, detail: str, is_over: bool, remedy: str) -> Finding:
    if is_over:
        return Finding(code, Severity.WARN, subject, detail, remedy)
    return Finding(code, Severity.OK, subject, detail)
