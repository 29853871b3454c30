"""What the history tells of each revision that the graph alone does not. Layer 1: pure.

Pending and applied are told by the version table; failed, interrupted, edited, out of order and
missing by the runs that are known. What others did (plain ``alembic``) leaves no run behind, so
a mark needs a run that proves it, and what somebody else may have undone proves nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from playbook.records import History, Receipt, RevisionGraph
from playbook.revisions import applied, pending

__all__ = ["advice", "edited_revisions", "mark_revisions"]

_ENDS = {"failed": "failed", "rolled back": "failed", "interrupted": "interrupted"}
"""Outcomes of a run that did not reach its target, and what that makes of the revision."""


def mark_revisions(graph: RevisionGraph, history: History) -> RevisionGraph:
    """Return the graph with the marks that the history gives its revisions, in upgrade order."""
    edited, late = edited_revisions(history, graph), _out_of_order(history, graph)
    stopped = _stopped(history)
    marks = [(r.revision, stopped[r.revision]) for r in pending(graph) if r.revision in stopped]
    marks += [(revision, "edited") for revision in edited]
    marks += [(revision, "out of order") for revision in late]
    order = [one.revision for one in graph.revisions]
    marks.sort(key=lambda mark: order.index(mark[0]))
    marks += [(revision, "missing") for revision in _missing(history, graph)]
    return replace(graph, marks=tuple(marks))


def advice(graph: RevisionGraph) -> list[str]:
    """Return a sentence with its remedy for each mark.

    What the version table itself names and no file has is the preflight's to tell.
    """
    told = {(revision, "missing") for revision in graph.unknown}
    return [_advice(graph, *mark) for mark in graph.marks if mark not in told]


def _advice(graph: RevisionGraph, revision: str, mark: str) -> str:
    if mark == "failed":
        return (
            f"{revision} is pending: the last run that tried it failed. Mend the cause, which "
            "that run names, then run `upgrade` again."
        )
    if mark == "interrupted":
        return (
            f"{revision} is pending: the run that tried it was stopped or killed. Run `upgrade` "
            "again."
        )
    if mark == "edited":
        file = graph.revision(revision).path.name
        return (
            f"{file} was edited after {revision} had been applied. Restore the file, and put the "
            "change into a new revision."
        )
    if mark == "out of order":
        return (
            f"{revision} was put in below revisions that were applied already: `upgrade` will "
            "never run it here. Move it to the top (its down_revision becomes the head, its "
            "successor's what it was); if its changes are in the database, leave it."
        )
    return (
        f"{revision} was applied here, and no file has it. Bring its file back (`repair` "
        "looks for it under another name); if it was squashed into another one, leave it."
    )


def edited_revisions(history: History, graph: RevisionGraph) -> list[str]:
    """Return applied revisions whose file is not the one that was applied, in upgrade order.

    One whose run failed was never applied: its file is there to be mended.
    """
    known, here = _applied_files(history, graph), applied(graph)
    return [
        r.revision
        for r in graph.revisions
        if r.revision in here and known.get(r.revision, r.sha256) != r.sha256
    ]


def _missing(history: History, graph: RevisionGraph) -> list[str]:
    """Return what is applied here and no file has: told by the version table, or by the runs."""
    files = {one.revision for one in graph.revisions}
    gone = [revision for revision in _applied_files(history, graph) if revision not in files]
    return list(dict.fromkeys((*graph.unknown, *gone)))


def _applied_files(history: History, graph: RevisionGraph) -> dict[str, str]:
    """Return the SHA-256 of each file that runs have applied and that, by them, still is.

    Where a run, or the database now, is not at the place where the run before had left it,
    somebody else migrated meanwhile. Only what that place stands on is then still known.
    """
    known: dict[str, str] = {}
    place: Sequence[str] = ()
    for run in _migrations(history):
        known = {} if run.runbook == "init" else _still(known, graph, place, run.from_revisions)
        files = dict(run.revision_files)
        for step in run.steps:
            known.pop(step.revision, None)
            if step.direction == "upgrade" and step.revision in files:
                known[step.revision] = files[step.revision]
        place = run.to_revisions
    return _still(known, graph, place, graph.current)


def _still(
    known: dict[str, str], graph: RevisionGraph, left_at: Sequence[str], found_at: Sequence[str]
) -> dict[str, str]:
    if set(left_at) == set(found_at):
        return known
    below = _below(graph, found_at)
    return {revision: sha256 for revision, sha256 in known.items() if revision in below}


def _below(graph: RevisionGraph, revisions: Sequence[str]) -> frozenset[str]:
    """Return some revisions and all that they stand on."""
    return applied(replace(graph, current=tuple(revisions)))


def _migrations(history: History) -> list[Receipt]:
    """Return the runs that began to change the version table, the oldest first."""
    return [run for run in reversed(history.runs) if run.steps or run.revision_files]


def _stopped(history: History) -> dict[str, str]:
    """Return how the last run that tried a revision ended, where it did not get through it."""
    found: dict[str, str] = {}
    for run in _migrations(history):
        for step in run.steps:
            found.pop(step.revision, None)
        done = {step.revision for step in run.steps if step.direction == "upgrade"}
        tried = [name for name, _ in run.revision_files if name not in done]
        if tried and run.outcome in _ENDS and run.runbook != "rollback":
            found[tried[0]] = _ENDS[run.outcome]
    return found


def _out_of_order(history: History, graph: RevisionGraph) -> list[str]:
    """Return revisions below the database that a run stepped over, in upgrade order.

    When the run applied a revision above it, it was neither below where the run began nor in
    its plan: its file was not there, or stood elsewhere. A run over revisions whose files are
    gone proves nothing: they may have been squashed.
    """
    files = {one.revision for one in graph.revisions}
    late: set[str] = set()
    for run in _migrations(history):
        stepped = [step.revision for step in run.steps if step.direction == "upgrade"]
        began = () if run.runbook == "init" else run.from_revisions
        if files.issuperset((*stepped, *began)):
            planned = {name for name, _ in run.revision_files}
            below = _below(graph, began)
            late = (late & below) | (_below(graph, stepped) - below - planned)
        late -= {step.revision for step in run.steps}
    return [r.revision for r in graph.revisions if r.revision in late & applied(graph)]
