"""How a new revision is shown: what changes, its file, its data checks. Layer 1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from playbook.charts import (
    Block,
    Cell,
    Facts,
    Items,
    Lines,
    Number,
    Pill,
    Source,
    Sql,
    Table,
    Text,
    View,
)
from playbook.drafts import CheckSkeleton, Draft, DraftSql, ModelChanges, Placed, Tried
from playbook.formats import count, seconds, short_path
from playbook.records import Severity
from playbook.revisions import join
from playbook.view_parts import FIGURE_WIDTH, SEVERITIES, nothing

__all__ = ["VIEWS"]

_COMPARED = {
    "revisions": "a scratch database that the project's revisions have built",
    "target": "the target itself, which was only read",
    "nothing": "nothing: a blank revision was asked for",
}


def _changes(found: ModelChanges) -> View:
    place = _COMPARED.get(found.compared_with, found.compared_with)
    blocks: list[Block] = [Text(f"Compared with {place}.", style="small")]
    if found.changes:
        rows = tuple(
            (Pill("destroys", "bad") if one.destroys else "", one.text) for one in found.changes
        )
        blocks.append(Text(f"The revision would make {count(len(rows), 'change')}."))
        blocks.append(Table(("", "what it does"), rows))
    elif found.compared_with != "nothing":
        blocks.append(Text("Alembic finds no difference between the models and the revisions."))
    if found.unseen:
        unseen = tuple(
            (
                Pill(one.kind, "look"),
                one.subject,
                Lines(one.detail, tuple(one.write.splitlines())),
            )
            for one in found.unseen
        )
        blocks.append(Text("Likely, and not in the revision as Alembic writes it:"))
        blocks.append(Table(("", "where", "what, and what to write instead"), unseen))
    blocks.append(Items("Not looked at:", found.remarks))
    return View(tuple(blocks))


def _draft(draft: Draft) -> View:
    facts = (
        ("message", draft.message),
        ("follows", join(draft.follows)),
        ("belongs in", short_path(draft.destination, 2)),
        ("form", draft.form),
        ("after it", _after(draft)),
    )
    blocks: list[Block] = [
        Text(f"Draft {join(draft.revisions)}", Pill("not in the project", "look"), "heading"),
        Facts(facts),
    ]
    for file in draft.files:
        blocks += [Text(file.path.name, style="heading"), Source(file.text, "python")]
    return View(tuple(blocks))


def _after(draft: Draft) -> str:
    if draft.remaining is None:
        return draft.unknown
    if not draft.remaining:
        return "Alembic finds no difference between the models and the database"
    return f"still different: {'; '.join(draft.remaining)}"


def _sql(found: DraftSql) -> View:
    blocks: list[Block] = [
        Text(f"What would run on the target; SQL found by the method {found.method}.")
    ]
    for revision, text in found.steps:
        blocks += [Text(revision, style="heading"), Sql(text)]
    return View(tuple(blocks))


def _skeleton(found: CheckSkeleton) -> View:
    if not found.text:
        return nothing("No data check follows from what the revision changes.")
    title = f"{count(len(found.names), 'data check')} of {found.revision}, for you to complete"
    return View((Text(title, Pill("skeleton", "look"), "heading"), Source(found.text, "sql")))


def _tried(tried: Tried) -> View:
    if tried.reason:
        return nothing(f"It was not tried on a copy. {tried.reason}")
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (
            one.revision,
            *(Number(seconds(s) if s >= 0 else "not gone", FIGURE_WIDTH) for s in one.took_s),
            Number(count(one.rows_written)),
            ", ".join(one.rewritten) or "no table",
        )
        for one in tried.revisions
    )
    worst = max((one.severity for one in tried.findings), key=_weight, default=Severity.OK)
    blocks: list[Block] = [
        Text(f"Up, down and up again on a copy ({tried.copied}).", Pill(worst, SEVERITIES[worst])),
        Table(("revision", "up", "down", "up again", "rows written", "rewritten"), rows),
    ]
    if tried.findings:
        found = tuple(
            (
                Pill(one.severity, SEVERITIES[one.severity]),
                one.code,
                one.subject,
                Lines(one.detail, (f"→ {one.remedy}",) if one.remedy else ()),
            )
            for one in tried.findings
        )
        blocks.append(Table(("", "what", "where", "detail and remedy"), found))
    else:
        tables = count(tried.tables, "table")
        blocks.append(
            Text(f"Afterwards the schema was the same, and so were the rows of {tables}.")
        )
    if tried.unread:
        blocks.append(Text(tried.unread, style="small"))
    return View(tuple(blocks))


def _weight(severity: Severity) -> int:
    return list(Severity).index(severity)


def _placed(placed: Placed) -> View:
    if not placed.files:
        return nothing(placed.reason)
    files = tuple(short_path(path) for path in placed.files)
    return View((Text(f"Written into the project: {', '.join(files)}.", Pill("written", "good")),))


VIEWS: dict[type, Callable[[Any], View]] = {
    CheckSkeleton: _skeleton,
    Draft: _draft,
    DraftSql: _sql,
    ModelChanges: _changes,
    Placed: _placed,
    Tried: _tried,
}
