"""Order, ranges and heads of revisions. Layer 1: pure; no database, no files.

Alembic itself resolves targets (see `playbook.migrate`); this module answers what can be told
from the graph alone, and checks the form of a target before anything is started.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from playbook.errors import SettingsError
from playbook.records import PlanStep, Revision, RevisionGraph

__all__ = [
    "after",
    "applied",
    "at_head",
    "check_target",
    "direction_of",
    "join",
    "lanes",
    "pending",
    "split_target",
    "states",
    "undone",
]

_FORM = re.compile(r"^(?:[\w.-]+@)?(?:[\w.-]+)?(?:[+-]\d+)?$")
SYMBOLS = ("head", "heads", "base")


def join(revisions: Sequence[str]) -> str:
    """Return revisions as shown to people: ``base`` for none."""
    return ", ".join(revisions) or "base"


def applied(graph: RevisionGraph) -> frozenset[str]:
    """Return the current revisions and all that they stand on."""
    parents = {r.revision: (*r.down_revisions, *r.depends_on) for r in graph.revisions}
    found: set[str] = set()
    waiting = [revision for revision in graph.current if revision in parents]
    while waiting:
        revision = waiting.pop()
        if revision not in found:
            found.add(revision)
            waiting.extend(parents.get(revision, ()))
    return frozenset(found)


def after(
    graph: RevisionGraph, current: Sequence[str], steps: Sequence[str], direction: str
) -> tuple[str, ...]:
    """Return the heads of what is applied once some revisions were applied or undone."""
    done = set(applied(replace(graph, current=tuple(current))))
    done = done | set(steps) if direction == "upgrade" else done - set(steps)
    # A dependency leaves the version table like a parent, though it is of another branch.
    stood_on = {
        parent
        for r in graph.revisions
        if r.revision in done
        for parent in (*r.down_revisions, *r.depends_on)
    }
    return tuple(r.revision for r in graph.revisions if r.revision in done - stood_on)


def pending(graph: RevisionGraph) -> tuple[Revision, ...]:
    """Return what is not applied yet, in upgrade order."""
    done = applied(graph)
    return tuple(r for r in graph.revisions if r.revision not in done)


def at_head(graph: RevisionGraph) -> bool:
    """Say whether the database stands at all heads and nowhere else."""
    return bool(graph.current) and not pending(graph) and not graph.unknown


def states(graph: RevisionGraph) -> dict[str, str]:
    """Return ``applied``, ``current`` or ``pending`` for each revision, in upgrade order."""
    done = applied(graph)
    return {
        r.revision: "current"
        if r.revision in graph.current
        else ("applied" if r.revision in done else "pending")
        for r in graph.revisions
    }


def lanes(graph: RevisionGraph) -> dict[str, int]:
    """Return the column in which each revision is drawn, counted from 0.

    A revision takes over the column of its first parent; further children of a parent open new
    columns, and a merge frees those of its other parents.
    """
    columns: dict[str, int] = {}
    tips: dict[int, str] = {}
    for item in graph.revisions:
        free = [c for c, tip in sorted(tips.items()) if tip in item.down_revisions]
        column = free[0] if free else next(c for c in range(len(tips) + 1) if c not in tips)
        for merged in free[1:]:
            del tips[merged]
        columns[item.revision] = column
        tips[column] = item.revision
    return columns


def split_target(target: str) -> tuple[str, ...]:
    """Return the targets that one text names: several stand with commas between them."""
    return tuple(part.strip() for part in target.split(","))


def check_target(target: str, graph: RevisionGraph, *, direction: str) -> None:
    """Refuse a target that cannot be meant, before Alembic is asked.

    Args:
        target: ``head``, ``heads``, ``base``, ``+N``, ``-N``, a revision id or a prefix of one,
            ``branch@head``, a revision followed by ``+N`` or ``-N``, or several of these with
            commas between them, in the order in which they are to be reached.
        direction: ``upgrade`` or ``downgrade``.

    Raises:
        SettingsError: it has none of these forms, matches no revision or several, or points the
            other way.
    """
    for one in split_target(target):
        _check_one(one, graph, direction)


def _check_one(target: str, graph: RevisionGraph, direction: str) -> None:
    """Refuse one target; see `check_target`."""
    wrong_way = {
        "upgrade": target == "base" or target.startswith("-"),
        "downgrade": target in {"head", "heads"} or target.startswith("+"),
    }[direction]
    if wrong_way:
        other = {"upgrade": "rollback", "downgrade": "upgrade"}[direction]
        raise SettingsError(
            f"target={target!r} is no {direction}.", remedy=f"That is what `{other}` is for."
        )
    if direction == "downgrade" and re.fullmatch(r"-\d+", target) and len(graph.current) > 1:
        ways = " or ".join(f"{revision}@{target}" for revision in sorted(graph.current))
        raise SettingsError(
            f"target={target!r} does not say which branch goes back: the database is not at one "
            f"revision, it is at {join(sorted(graph.current))}.",
            remedy=f"Write -r target {ways}.",
        )
    _check_steps(target, graph)
    if not target or not _FORM.match(target):
        raise SettingsError(f"target={target!r} is not a revision.", remedy=_what_exists(graph))
    name = re.sub(r"(?<=[\w.@])[+-]\d+$|^[+-]\d+$", "", target.rpartition("@")[2])
    label = target.rpartition("@")[0]
    ids = [r.revision for r in graph.revisions]
    labels = {label for r in graph.revisions for label in r.branch_labels}
    if label and label not in labels and label not in ids:
        raise SettingsError(f"There is no branch {label!r}.", remedy=_what_exists(graph))
    if not name or name in SYMBOLS or name in ids or name in labels:
        return
    matches = [revision for revision in ids if revision.startswith(name)]
    if len(matches) != 1:
        problem = "matches several revisions" if matches else "matches no revision"
        raise SettingsError(f"target={target!r} {problem}.", remedy=_what_exists(graph))


def _check_steps(target: str, graph: RevisionGraph) -> None:
    """Refuse a number of steps that is zero, or more than there are revisions that way."""
    steps = re.fullmatch(r"([+-])(\d+)", target)
    if not steps:
        return
    there = len(pending(graph)) if steps[1] == "+" else len(applied(graph))
    word = {"+": "pending", "-": "applied"}[steps[1]]
    # Where there are none, a runbook says so by itself.
    if not int(steps[2]) or 0 < there < int(steps[2]):
        raise SettingsError(
            f"target={target!r} is no number of steps here: {there} "
            f"{'is' if there == 1 else 'are'} {word}.",
            remedy=_what_exists(graph),
        )


def _what_exists(graph: RevisionGraph) -> str:
    shown = [r.revision for r in graph.revisions][-12:]
    more = "... " if len(graph.revisions) > len(shown) else ""
    return f"Write -r target with head, heads, base, +1, -1 or one of: {more}{', '.join(shown)}."


def direction_of(target: str, graph: RevisionGraph) -> str:
    """Return ``downgrade`` if a target lies behind the database, else ``upgrade``."""
    if target == "base" or target.startswith("-"):
        return "downgrade"
    ids = [r.revision for r in graph.revisions]
    matches = [target] if target in ids else [i for i in ids if i.startswith(target)]
    behind = applied(graph) - set(graph.current)
    return "downgrade" if len(matches) == 1 and matches[0] in behind else "upgrade"


def undone(step: PlanStep) -> PlanStep:
    """Return the downgrade that takes an upgrade's step back; its SQL is not known yet."""
    return replace(
        step,
        direction="downgrade",
        from_revisions=step.to_revisions,
        to_revisions=step.from_revisions,
        sql="",
    )
