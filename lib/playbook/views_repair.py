"""How a version table, its diagnosis and its remedies are shown. Layer 1."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from playbook.charts import Block, Code, Facts, Items, Lines, Number, Pill, Sql, Table, Text, View
from playbook.formats import count, seconds
from playbook.records import Severity
from playbook.repairs import (
    Diagnosis,
    Mended,
    Remedies,
    Remedy,
    RevisionMatch,
    SchemaMatches,
    VersionTable,
)
from playbook.revisions import join
from playbook.schema_objects import SchemaDifference
from playbook.view_parts import SEVERITIES, nothing

__all__ = ["VIEWS"]

SHOWN_DIFFERENCES = 40
"""More of a match are counted, not listed."""
SHOWN_DEFINITION = 160
_WORDS = {
    "added": ("not in the revision", "look"),
    "dropped": ("missing here", "bad"),
    "changed": ("different", "look"),
}


def _version_table(table: VersionTable) -> View:
    state = Pill("there", "good") if table.exists else Pill("not there", "look")
    facts = [("rows", _rows(table.rows))] if table.exists else []
    if table.exists:
        columns = [
            f"{name} {type_}{' NOT NULL' if not_null else ''}"
            for name, type_, not_null in table.columns
        ]
        facts += [("columns", ", ".join(columns)), ("primary key", table.key or "none")]
    facts += [("another one", f"{name}: {_rows(rows)}") for name, rows in table.others]
    blocks: list[Block] = [Text(f"Version table {table.name}", state, "heading")]
    return View((*blocks, Facts(tuple(facts))) if facts else tuple(blocks), "quiet")


def _rows(rows: tuple[str | None, ...]) -> str:
    return ", ".join("NULL" if row is None else row or "''" for row in rows) or "none"


def _matches(found: SchemaMatches) -> View:
    if not found.matches:
        return nothing(" ".join(found.remarks) or "Nothing was compared.")
    rows = tuple(
        (
            Pill("equal", "good") if one.is_equal else Pill("differs", "quiet"),
            Code(join(one.revisions)),
            Number(str(len(one.differences))),
            _how_many(one),
        )
        for one in found.matches
    )
    said = count(len(rows), "place")
    blocks: list[Block] = [
        Text(f"The schema against {said} in the history, each built in {found.where}"),
        Table(("", "revision", "differences", "which"), rows),
    ]
    nearest = None if found.equal else found.nearest()
    if nearest:
        blocks += _differences(nearest)
    if found.foreign:
        blocks.append(Items("Of no revision, and not counted", found.foreign))
    blocks += [Text(remark) for remark in found.remarks]
    return View(tuple(blocks))


def _how_many(one: RevisionMatch) -> str:
    kinds = Counter(f"{_WORDS[d.change][0]}: {d.kind}" for d in one.differences)
    texts = [f"{kind} ({number})" for kind, number in sorted(kinds.items())]
    if one.lesser:
        kinds = Counter(d.kind for d in one.lesser)
        lesser = ", ".join(f"{kind} ({number})" for kind, number in sorted(kinds.items()))
        texts.append(f"besides, not counted: {lesser}")
    return "; ".join(texts) or "nothing"


def _differences(match: RevisionMatch) -> list[Block]:
    rows = tuple(_difference(d) for d in match.differences[:SHOWN_DIFFERENCES])
    more = len(match.differences) - len(rows)
    blocks: list[Block] = [
        Text(f"The nearest is {join(match.revisions)}. How the database differs from it:"),
        Table(("", "what", "object", "in the revision -> here"), rows),
    ]
    return [*blocks, Text(f"And {more} more.")] if more else blocks


def _difference(one: SchemaDifference) -> tuple[Pill, str, Code, str]:
    word, tone = _WORDS[one.change]
    texts = [_short(text) or "absent" for text in (one.before, one.after)]
    return Pill(word, tone), one.kind, Code(one.object), " -> ".join(texts)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN_DEFINITION else f"{line[:SHOWN_DEFINITION]}..."


def _diagnosis(diagnosis: Diagnosis) -> View:
    found = Counter(finding.severity for finding in diagnosis.findings)
    worst = next(one for one in reversed(Severity) if found[one])
    tally = ", ".join(f"{found[one]} {one.value}" for one in Severity if found[one])
    rows = tuple(
        (
            Pill(one.severity.value, SEVERITIES[one.severity]),
            Code(one.code),
            one.subject,
            Lines(one.detail, (*filter(None, (one.why, one.remedy and f"→ {one.remedy}")),)),
        )
        for one in diagnosis.findings
    )
    columns = ("result", "trouble", "subject", "detail, why it matters, and what to do")
    title = Text(f"Diagnosis: {tally}", Pill(worst.value, SEVERITIES[worst]))
    return View((title, Table(columns, rows)), SEVERITIES[worst])


def _remedies(remedies: Remedies) -> View:
    if not remedies.items:
        return nothing("There is no remedy to apply: nothing needs one, or somebody must decide.")
    blocks: list[Block] = [
        Text(f"{count(len(remedies.items), 'remedy', 'remedies')} to choose from")
    ]
    for one in remedies.items:
        blocks += _remedy(one, one.name == remedies.chosen)
    if not remedies.chosen:
        blocks.append(Text("None is applied. To apply one: -r apply NAME."))
    return View(tuple(blocks))


def _remedy(remedy: Remedy, is_chosen: bool) -> list[Block]:
    pill = Pill("to be applied", "look") if is_chosen else Pill("offered", "quiet")
    blocks: list[Block] = [Text(f"{remedy.name}: {remedy.title}", pill, "heading")]
    if remedy.file:
        return [*blocks, Text(f"The file {remedy.file.name}:"), Sql(remedy.text)]
    how = "in one transaction" if remedy.in_transaction else "each statement commits by itself"
    blocks += [Text(f"Its effect, {how}:"), Sql("\n".join(remedy.statements))]
    if remedy.undo:
        return [*blocks, Text("The way back:"), Sql("\n".join(remedy.undo))]
    return [*blocks, Text("There is nothing to come back to: what it replaces is of no use.")]


def _mended(mended: Mended) -> View:
    facts = [("remedy", mended.remedy), ("took", seconds(mended.duration_s))]
    facts += [("wrote", mended.file)] if mended.file else []
    blocks: list[Block] = [
        Text(mended.title, Pill("applied", "good"), "heading"),
        Facts(tuple(facts)),
    ]
    if mended.statements:
        blocks += [Text("What was run:"), Sql("\n".join(mended.statements))]
    if mended.undo:
        blocks += [Text("The way back:"), Sql("\n".join(mended.undo))]
    return View(tuple(blocks), "quiet")


VIEWS: dict[type, Callable[[Any], View]] = {
    Diagnosis: _diagnosis,
    Mended: _mended,
    Remedies: _remedies,
    SchemaMatches: _matches,
    VersionTable: _version_table,
}
