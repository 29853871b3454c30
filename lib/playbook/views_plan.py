"""How revisions and plans are shown: graph, SQL, hazards, what was applied. Layer 1."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import groupby
from typing import Any

from playbook.charts import (
    Block,
    Cell,
    Code,
    Facts,
    Lines,
    Node,
    Number,
    Pill,
    Sql,
    Table,
    Text,
    View,
)
from playbook.formats import count, seconds, short_path
from playbook.locks import MODES
from playbook.records import (
    Applied,
    Hazard,
    Hazards,
    Plan,
    PlanStep,
    Revision,
    RevisionGraph,
    Severity,
    StepResult,
    WaysBack,
)
from playbook.revisions import join, lanes, states
from playbook.view_parts import (
    DRAWN_REVISIONS,
    DRAWN_ROWS,
    DRAWN_STEPS,
    FIGURE_WIDTH,
    SEVERITIES,
    drawn,
    listed,
    nothing,
)

__all__ = ["STATEMENT_LENGTH", "VIEWS"]


def _graph(graph: RevisionGraph) -> View:
    state = states(graph)
    found = Counter([*state.values(), *(mark for _, mark in graph.marks)])
    found["applied"] += found.pop("current", 0)
    words = [f"{found[word]} {word}" for word in ("applied", "pending")]
    words += [f"{found[word]} {word}" for word in _MARKS if found[word]]
    number = len(graph.revisions)
    blocks: list[Block] = [Text(f"{count(number, 'revision')}: {', '.join(words)}.")]
    if number:
        blocks += _rows_of(graph, state)
    if not graph.current:
        blocks.append(Text("You are here: at base, nothing is applied.", Pill("base", "look")))
    for unknown in graph.unknown:
        blocks.append(
            Text(
                f"You are here: at {unknown}, a revision that no file has.", Pill("missing", "bad")
            )
        )
    for revision, mark in graph.marks:
        if revision not in state and revision not in graph.unknown:
            blocks.append(Text(f"{revision} was applied, and no file has it.", Pill(mark, "bad")))
    schema = f"{graph.version_table_schema}." if graph.version_table_schema else ""
    files = f"; files in {short_path(graph.script_directory, 1)}" if graph.script_directory else ""
    blocks.append(Text(f"Version table {schema}{graph.version_table}{files}.", style="small"))
    return View(tuple(blocks))


_MARKS = {
    "failed": "bad",
    "interrupted": "bad",
    "edited": "look",
    "out of order": "look",
    "missing": "bad",
}
"""What the history may tell of a revision, and how it is shown."""


def _rows_of(graph: RevisionGraph, state: Mapping[str, str]) -> list[Block]:
    """Return the graph, the newest on top; of a long one the part about where the database is."""
    lane = lanes(graph)
    marks: dict[str, list[str]] = {}
    for revision, mark in graph.marks:
        marks.setdefault(revision, []).append(mark)
    blocks: list[Block] = []
    newest_first = graph.revisions[::-1]
    for is_drawn, group in groupby(
        zip(newest_first, _near(graph, marks), strict=True), key=lambda pair: pair[1]
    ):
        part = [one for one, _ in group]
        if not is_drawn:
            tally = Counter(
                "pending" if state[o.revision] == "pending" else "applied" for o in part
            )
            words = ", ".join(f"{number} {word}" for word, number in tally.items())
            text = f"Not drawn: {part[0].revision} to {part[-1].revision}: {words}."
            blocks.append(Text(text, style="small"))
            continue
        nodes = tuple(
            Node(
                o.revision, lane[o.revision], state[o.revision], (*o.down_revisions, *o.depends_on)
            )
            for o in part
        )
        rows = tuple(_revision(o, state[o.revision], marks.get(o.revision, ())) for o in part)
        blocks.append(Table(("revision", "state", "names", "message"), rows, graph=nodes))
    return blocks


def _near(graph: RevisionGraph, marks: Collection[str]) -> list[bool]:
    """Return which revisions are drawn, the newest first.

    Always the current ones, the heads and those with a mark; then those nearest to the current
    ones, up to `DRAWN_REVISIONS`.
    """
    newest_first = graph.revisions[::-1]
    here = [i for i, o in enumerate(newest_first) if o.revision in graph.current]
    here = here or [len(newest_first)]
    told = [o.is_head or o.revision in marks or i in here for i, o in enumerate(newest_first)]
    distance = [min(abs(i - place) for place in here) for i in range(len(newest_first))]
    order = sorted(range(len(told)), key=lambda i: (not told[i], distance[i], i))
    kept = set(order[: max(DRAWN_REVISIONS, sum(told))])
    return [i in kept for i in range(len(newest_first))]


def _revision(one: Revision, state: str, marks: Sequence[str]) -> tuple[Cell, ...]:
    text = ", ".join(("◀ you are here" if state == "current" else state, *marks))
    tones = {_MARKS.get(mark, "look") for mark in marks}
    pill = Pill(text, "bad" if "bad" in tones else "look")
    here: Cell = pill if marks or state == "current" else text
    names = ["head", *one.branch_labels] if one.is_head else one.branch_labels
    return Code(one.revision), here, ", ".join(names), one.message


def _plan(plan: Plan) -> View:
    way = f"{plan.direction} to {plan.target}: {join(plan.from_revisions)} -> "
    way += join(plan.to_revisions)
    if plan.is_empty:
        return View((Text(way), Text("Nothing to run: the database is there already.")))
    blocks: list[Block] = [Text(way, Pill(count(len(plan.steps), "step"), "quiet"), "heading")]
    blocks.append(
        Facts(
            (
                ("SQL found by", plan.method),
                ("plan", plan.sha256[:12]),
                ("tables", listed(plan.tables) or "no existing table is named"),
            )
        )
    )
    for number, step in enumerate(plan.steps[:DRAWN_STEPS], 1):
        blocks += _plan_step(number, step)
    if rest := plan.steps[DRAWN_STEPS:]:
        title = f"{count(len(rest), 'further revision')}, whose SQL is in the run's file only"
        ids = [step.revision for step in rest]
        blocks += [Text(title, Pill("not drawn", "look"), "heading"), Text(listed(ids))]
    return View(tuple(blocks))


def _plan_step(number: int, step: PlanStep) -> tuple[Block, ...]:
    title = f"{number}. {step.direction} {step.revision}: {step.message}"
    route = f"{join(step.from_revisions)} -> {join(step.to_revisions)}"
    file = f"{short_path(step.path, 2)}, SHA-256 {step.sha256[:12]}"
    sql: Block = Sql(step.sql) if step.sql.strip() else Text("This revision has no SQL.")
    return Text(title, style="heading"), Text(f"{route}; {file}", style="small"), sql


def _applied(applied: Applied) -> View:
    way = f"{applied.direction}: {join(applied.from_revisions)} -> {join(applied.to_revisions)}"
    if not applied.steps:
        return View((Text(way), Text("No revision was run.")))
    headers = (
        "revision",
        "direction",
        "duration",
        *(("expected",) if applied.expected else ()),
        "attempts",
        "statements",
        "rewritten",
        "in transaction",
        "strongest locks",
    )
    total = seconds(sum(step.duration_s for step in applied.steps))
    expected = dict(applied.expected)
    shown = drawn(applied.steps, lambda step: step.duration_s)
    blocks: list[Block] = [
        Text(f"{way}: {count(len(applied.steps), 'revision')} in {total}."),
        Table(headers, tuple(_step(step, expected) for step in shown)),
    ]
    if rest := len(applied.steps) - len(shown):
        text = f"Not drawn: {count(rest, 'revision')} that took less; the receipt has them all."
        blocks.append(Text(text, style="small"))
    return View(tuple(blocks))


def _step(step: StepResult, expected: Mapping[str, float]) -> tuple[Cell, ...]:
    strongest: dict[str, str] = {}
    for table, mode in step.locks:
        strongest[table] = max(strongest.get(table, mode), mode, key=_strength)
    by_strength = sorted(strongest.items(), key=lambda lock: (-_strength(lock[1]), lock[0]))
    locks = [f"{mode} on {table}" for table, mode in by_strength] or ["none"]
    return (
        Code(step.revision),
        step.direction,
        Number(seconds(step.duration_s), FIGURE_WIDTH),
        *((_expected(expected.get(step.revision)),) if expected else ()),
        Number(count(step.attempts)),
        Number(count(step.statements)),
        ", ".join(step.rewritten) or "no table",
        "yes" if step.transactional else Pill("no", "look"),
        Lines(locks[0], tuple(locks[1:])),
    )


def _expected(took_s: float | None) -> Number:
    return Number("not known" if took_s is None else seconds(took_s), FIGURE_WIDTH)


def _strength(mode: str) -> int:
    known = mode if mode in MODES else "AccessExclusiveLock"
    return MODES.index(known)


STATEMENT_LENGTH = 100
"""How much of a hazardous statement is quoted; the plan has it in full."""


def _ways_back(ways: WaysBack) -> View:
    rows = tuple(
        (
            Pill("advised", "good") if one.way == ways.advised else "",
            one.way,
            one.loses,
            one.takes,
            one.right_when,
        )
        for one in ways.ways
    )
    return View(
        (
            Text(f"Advised: {ways.advised}. {ways.reason}"),
            Table(("", "way", "loses", "takes", "right when"), rows),
        )
    )


def _hazards(hazards: Hazards) -> View:
    if not hazards.items:
        return nothing("No statement is hazardous: locks last for moments, and nothing breaks.")
    found = Counter(one.severity for one in hazards.items)
    worst = next(one for one in reversed(Severity) if found[one])
    tally = ", ".join(f"{found[one]} {one.value}" for one in Severity if found[one])
    headers = ("weight", "where", "rows", "held", "what and remedy")
    blocks: list[Block] = [
        Text(
            f"Weighed: {count(len(hazards.items), 'statement')}: {tally}",
            Pill(worst.value, SEVERITIES[worst]),
        ),
    ]
    heavy = [one for one in hazards.items if one.severity is not Severity.OK]
    order = list(Severity).index
    shown = drawn(hazards.items, lambda h: order(h.severity), max(DRAWN_ROWS, len(heavy)))
    blocks.append(Table(headers, tuple(_hazard(one) for one in shown)))
    if rest := len(hazards.items) - len(shown):
        blocks.append(Text(f"Not drawn: {count(rest, 'harmless statement')}.", style="small"))
    for one in heavy:
        if one.rewrite:
            title = f"{one.revision}, {_subject(one)}"
            blocks += [Text(title, style="heading"), Sql(one.rewrite)]
    return View(tuple(blocks))


def _hazard(one: Hazard) -> tuple[Cell, ...]:
    """Return a row; one that weighs nothing needs no remedy."""
    text = " ".join(one.statement.split())
    text = text if len(text) <= STATEMENT_LENGTH else f"{text[:STATEMENT_LENGTH]}…"
    more = [] if one.severity is Severity.OK else [*_waiting(one), one.detail, f"→ {one.remedy}"]
    more += [f"Allowed: {one.allowed_because}"] if one.allowed_because else []
    return (
        Pill(one.severity.value, SEVERITIES[one.severity]),
        f"{one.revision}: {_subject(one)}",
        Number(_weighed_rows(one)),
        Number(f"~{seconds(one.blocked_s)}" if one.lock else "unknown"),
        Lines(text, tuple(more)),
    )


def _subject(one: Hazard) -> str:
    """Return a hazard's rule, and what it is about; a body of code is about no table."""
    about = " ".join((one.table, one.object)).strip()
    return f"{one.rule} on {about}" if about else one.rule


def _waiting(one: Hazard) -> list[str]:
    """Return what others cannot do meanwhile; of a statement that fails, nothing."""
    if not one.lock or one.is_certain:
        return []
    waits = f"{one.blocks} wait" if one.blocks else "nobody waits"
    return [f"Meanwhile {waits} ({one.lock})."]


def _weighed_rows(one: Hazard) -> str:
    if one.rows < 0:
        return "unknown"
    return count(one.rows) if one.is_certain else f"~{count(one.rows)}"


VIEWS: dict[type, Callable[[Any], View]] = {
    Applied: _applied,
    Hazards: _hazards,
    Plan: _plan,
    RevisionGraph: _graph,
    WaysBack: _ways_back,
}
