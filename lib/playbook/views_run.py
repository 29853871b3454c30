"""How a run is shown: its target, checks, history and outcome. Layer 1."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from playbook.charts import Block, Cell, Code, Facts, Items, Lines, Number, Pill, Table, Text, View
from playbook.formats import count, moment, seconds, short_path
from playbook.records import Banner, Checks, Finding, History, Note, Outcome, Receipt, Severity
from playbook.revisions import join
from playbook.view_parts import FIGURE_WIDTH, SEVERITIES, nothing

__all__ = ["VIEWS", "duration_s", "outcome_pill"]

_OUTCOMES = {
    "succeeded": "good",
    "failed": "bad",
    "interrupted": "bad",
    "refused": "look",
    "rolled back": "look",
}


def _banner(banner: Banner) -> View:
    tone, word = ("look", "UNPROTECTED")
    if banner.kind == "sandbox":
        tone, word = "good", "SANDBOX"
    if banner.protected:
        tone, word = "bad", "PROTECTED"
    where = join(banner.current)
    pending = count(banner.pending, "revision") + " pending"
    facts = (
        ("runbook", banner.runbook),
        ("database", banner.label),
        ("may change", banner.writes),
        ("server", f"PostgreSQL {banner.server_version}"),
        ("user", banner.user),
        ("revision", f"{where} -> {join(banner.heads)} ({pending})"),
    )
    return View((Text(banner.target, Pill(word, tone), "title"), Facts(facts)), tone)


def _checks(checks: Checks) -> View:
    found = Counter(finding.severity for finding in checks.findings)
    tally = ", ".join(f"{found[one]} {one.value}" for one in Severity if found[one])
    if not found:
        return nothing("No checks were asked.")
    worst = next(one for one in reversed(Severity) if found[one])
    rows = tuple(_finding(finding) for finding in checks.findings)
    return View(
        (
            Text(f"{count(len(rows), 'check')}: {tally}", Pill(worst.value, SEVERITIES[worst])),
            Table(("result", "check", "subject", "detail and remedy"), rows),
        )
    )


def _finding(finding: Finding) -> tuple[Cell, ...]:
    why = (finding.why,) if finding.why and finding.severity is not Severity.OK else ()
    remedy = (f"→ {finding.remedy}",) if finding.remedy else ()
    pill = Pill(finding.severity.value, SEVERITIES[finding.severity])
    return pill, Code(finding.code), finding.subject, Lines(finding.detail, (*why, *remedy))


def _history(history: History) -> View:
    if not history.runs:
        return nothing("No runs are known on this target.")
    headers = ("started", "runbook", "outcome", "from -> to", "duration", "who and backup")
    rows = tuple(_run(run) for run in history.runs)
    return View((Text(f"{count(len(rows), 'run')}, the newest first."), Table(headers, rows)))


def _run(run: Receipt) -> tuple[Cell, ...]:
    more = [f"Backup: {short_path(run.backup)}"] if run.backup else []
    more += [run.message] if run.message and run.outcome != "succeeded" else []
    return (
        moment(run.started_at),
        run.runbook,
        outcome_pill(run.outcome),
        f"{join(run.from_revisions)} -> {join(run.to_revisions)}",
        Number("not ended" if run.finished_at is None else seconds(duration_s(run)), FIGURE_WIDTH),
        Lines(run.who, tuple(more)),
    )


def duration_s(run: Receipt) -> float:
    """Return how long a run took in seconds; 0 for one that has not ended."""
    return (run.finished_at - run.started_at).total_seconds() if run.finished_at else 0.0


def outcome_pill(outcome: str) -> Pill:
    """Return an outcome in its colour."""
    return Pill(outcome, _OUTCOMES.get(outcome, "quiet"))


def _outcome(outcome: Outcome) -> View:
    pill = outcome_pill(outcome.outcome)
    versions = " · ".join(f"{software} {version}" for software, version in outcome.versions)
    blocks: list[Block] = [
        Text(outcome.runbook, pill, "title"),
        Text(outcome.summary),
        Items("Changed", outcome.changed or ("nothing",)),
        Items("Not changed", outcome.unchanged),
        Items("Next", outcome.next_steps),
        Items("Files", tuple(short_path(file) for file in outcome.files)),
    ]
    if versions:
        blocks.append(Text(versions, style="small"))
    return View(tuple(blocks), pill.tone)


def _note(shown: Note) -> View:
    return nothing(shown.text)


VIEWS: dict[type, Callable[[Any], View]] = {
    Banner: _banner,
    Checks: _checks,
    History: _history,
    Note: _note,
    Outcome: _outcome,
}
