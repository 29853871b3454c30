"""Rehearsals that are kept, and what they say of a plan that is to run. Layer 3: files.

A rehearsal leaves ``rehearsal.json`` beside its receipt. It counts for a plan of the same hash on
the same database: `upgrade` then knows how long each revision may take.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

from playbook.formats import moment, seconds
from playbook.receipts import known_receipts
from playbook.records import Applied, Checks, Finding, Plan, ServerInfo, Severity
from playbook.rehearsals import CopyMade, Rehearsal, RoundTrip
from playbook.targets import Target

__all__ = [
    "FILE",
    "RUNBOOK",
    "find_rehearsal",
    "known_rehearsals",
    "judge_rehearsal",
    "last_rehearsal",
    "with_expected",
    "with_rehearsal",
    "write_rehearsal",
]

RUNBOOK = "rehearse"
FILE = "rehearsal.json"
WHY = "How long it takes, what it locks and whether it can be undone is then only estimated."


def write_rehearsal(folder: Path, trip: RoundTrip, copy: CopyMade, checks: Checks) -> Rehearsal:
    """Write what a rehearsal has shown into its run's folder; return what is kept of it."""
    stops = [finding for finding in checks.stops if finding.code != "round-trip"]
    rehearsal = Rehearsal(
        run_id=folder.name,
        finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
        passed=not checks.stops,
        plan_sha256=trip.plan_sha256,
        to_revisions=trip.to_revisions,
        expected_s=trip.expected_s,
        problems=tuple(f"{one.subject} ({one.code})" for one in stops),
    )
    record = asdict(rehearsal) | {"copy": asdict(copy), "trip": asdict(trip)}
    (folder / FILE).write_text(json.dumps(record, indent=1, default=str) + "\n", "utf-8")
    return rehearsal


def known_rehearsals(target: Target, server: ServerInfo, output_dir: str) -> list[Rehearsal]:
    """Return the rehearsals of this very database, the newest first, without unreadable ones."""
    receipts = known_receipts(target, server, output_dir)
    found = [_read(one.directory / FILE) for one in receipts if one.runbook == RUNBOOK]
    return [rehearsal for rehearsal in found if rehearsal]


def _read(path: Path) -> Rehearsal | None:
    """Return a rehearsal; None of a run that was stopped before it had one, or a damaged file."""
    try:
        record = json.loads(path.read_text("utf-8"))
        return Rehearsal(
            record["run_id"],
            record["finished_at"],
            record["passed"],
            record["plan_sha256"],
            tuple(record["to_revisions"]),
            tuple((revision, float(took_s)) for revision, took_s in record["expected_s"]),
            tuple(record["problems"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def last_rehearsal(target: Target, server: ServerInfo, output_dir: str) -> list[str]:
    """Return a sentence on the last rehearsal of a database; none where there was none."""
    known = known_rehearsals(target, server, output_dir)[:1]
    return [
        f"The last rehearsal, of {moment(one.finished_at)}, led to {', '.join(one.to_revisions)} "
        + (
            f"and passed: expected {seconds(sum(took for _, took in one.expected_s))}."
            if one.passed
            else f"and did not pass: {', '.join(one.problems)}."
        )
        for one in known
    ]


def find_rehearsal(known: Sequence[Rehearsal], plan: Plan) -> Rehearsal | None:
    """Return the newest rehearsal of a plan; None if there is none."""
    return next((one for one in known if one.plan_sha256 == plan.sha256), None)


def judge_rehearsal(known: Sequence[Rehearsal], plan: Plan, *, protected: bool) -> Finding | None:
    """Return what the rehearsals say of a plan; None where nobody has to be told anything.

    Args:
        known: the newest first.
        protected: whether the plan's target is; a rehearsal is missed there alone.
    """
    if plan.is_empty or not (known or protected):
        return None
    if not known:
        return Finding(
            "rehearsal", Severity.WARN, "plan", "It was never rehearsed.",
            "`rehearse` runs it on a copy first.", WHY,
        )  # fmt: skip
    found = find_rehearsal(known, plan)
    if found is None:
        last = known[0]
        return Finding(
            "rehearsal", Severity.WARN, last.run_id,
            f"The last rehearsal, of {moment(last.finished_at)}, was of another plan.",
            "Run `rehearse` again.", WHY,
        )  # fmt: skip
    when = f"ehearsed on {moment(found.finished_at)}"
    if not found.passed:
        return Finding(
            "rehearsal", Severity.WARN, found.run_id,
            f"R{when}, and it did not pass: {', '.join(found.problems)}.",
            "Mend it and run `rehearse` again.", "What happened on the copy will happen here.",
        )  # fmt: skip
    each = ", ".join(f"{revision} {seconds(took)}" for revision, took in found.expected_s)
    total = seconds(sum(took for _, took in found.expected_s))
    return Finding("rehearsal", Severity.OK, "plan", f"R{when}: expected {total} ({each}).")


def with_rehearsal(
    checks: Checks, known: Sequence[Rehearsal], plan: Plan, target: Target
) -> Checks:
    """Return a preflight's findings with what the rehearsals say of the plan."""
    found = judge_rehearsal(known, plan, protected=target.protected)
    return Checks((*checks.findings, found)) if found else checks


def with_expected(applied: Applied, known: Sequence[Rehearsal], plan: Plan) -> Applied:
    """Return what was applied with how long the newest rehearsal of the plan says that it takes."""
    found = find_rehearsal(known, plan)
    return replace(applied, expected=found.expected_s) if found else applied
