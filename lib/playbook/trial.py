"""A draft taken up, down and up again on a copy of the target with its rows. Layer 4.

The copy is made in the sandbox, where it disturbs nobody, and dropped again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from playbook.drafts import Draft, Tried, TriedRevision
from playbook.errors import MigrationFailed, PlaybookError, explain
from playbook.formats import bytes_text
from playbook.records import Finding, ServerInfo
from playbook.rehearsals import Rehearsed, RoundTrip, Trouble
from playbook.round_trip import run_round_trip
from playbook.scratch_copy import SANDBOX, CopyWanted, make_copy
from playbook.targets import Target

__all__ = ["must_have_passed", "try_draft"]

FAILED = ("failed", "unplannable")


def try_draft(
    target: Target,
    server: ServerInfo,
    draft: Draft,
    folder: Path,
    *,
    at_most_bytes: int,
    on_progress: Callable[[str], None],
) -> Tried:
    """Return what a draft did on a copy of the target, up, down and up again.

    **Effects**: a scratch database in the sandbox, and a dump in ``folder`` meanwhile where the
    target is elsewhere; neither is left. The target is only read.

    Args:
        at_most_bytes: a larger database is not copied.
    """
    if server.size_bytes > at_most_bytes:
        size, limit = bytes_text(server.size_bytes), bytes_text(at_most_bytes)
        return Tried(reason=f"The database has {size}, more than the {limit} of test_up_to.")
    wanted = CopyWanted(target, server, method="auto", where=SANDBOX, folder=folder)
    try:
        with make_copy(wanted, on_progress) as (copy, made):
            drafts = str(draft.files[0].path.parent)
            trip = run_round_trip(
                replace(copy, drafts=drafts), draft.revisions[-1], on_progress=on_progress
            )
    except PlaybookError as error:
        return Tried(reason=f"No copy of the target runs in the sandbox: {explain(error)}")
    return _told(trip, f"{made.how}, {made.where}")


def _told(trip: RoundTrip, copied: str) -> Tried:
    return Tried(
        copied=copied,
        tables=trip.tables,
        revisions=tuple(_revision(one) for one in trip.revisions),
        findings=tuple(_finding(one) for one in trip.troubles),
        failures=tuple(
            f"{one.name} ({one.direction}): {one.detail}"
            for one in trip.troubles
            if one.code in FAILED
        ),
        unread=trip.unread,
    )


def _revision(one: Rehearsed) -> TriedRevision:
    passages = (one.up, one.down, one.again)
    first = one.up
    return TriedRevision(
        one.revision,
        tuple(passage.duration_s if passage else -1.0 for passage in passages),
        first.rows_written if first else 0,
        first.rewritten if first else (),
    )


def _finding(one: Trouble) -> Finding:
    return Finding(one.code, one.severity, one.name, one.detail, one.remedy)


def must_have_passed(tried: Tried) -> None:
    """Refuse a draft of which a passage failed.

    Raises:
        MigrationFailed: it did; the sentence says which and why.
    """
    if tried.failures:
        raise MigrationFailed(
            f"The new revision fails on a copy with rows in it: {tried.failures[0]}",
            remedy="Write it so that the rows fit: -p rewrite True with -r fill where a new column "
            "needs values, or complete the draft by hand and move it into the project.",
        )
