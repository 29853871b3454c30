"""How revisions and plans are shown: graph, SQL, hazards, what was applied. Layer 1."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
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
from playbook.view_parts import FIGURE_WIDTH, SEVERITIES, nothing

__all__ = ["STATEMENT_LENGTH", "VIEWS"]


def _graph(graph: RevisionGraph) -> View:
    state, lane = states(graph), lanes(graph)
    newest_first = graph.revisions[::-1]
    nodes = tuple(
        Node(
            one.revision,
            lane[one.revision],
            state[one.revision],
            (*one.down_revisions, *one.depends_on),
        )
        for one in newest_first
    )
    marks = [(revision, mark) for revision, mark in graph.marks if revision in state]
    rows = tuple(
        _revision(one, state[one.revision], [mark for name, mark in marks if name == one.revision])
        for one in newest_first
    )
    found = Counter([*state.values(), *(mark for _, mark in graph.marks)])
    found["applied"] += found.pop("current", 0)
    words = [f"{found[word]} {word}" for word in ("applied", "pending")]
    words += [f"{found[word]} {word}" for word in _MARKS if found[word]]
    blocks: list[Block] = [Text(f"{count(len(rows), 'revision')}: {', '.join(words)}.")]
    if rows:
        blocks.append(Table(("revision", "state", "names", "message"), rows, graph=nodes))
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
                ("tables", ", ".join(plan.tables) or "no existing table is named"),
            )
        )
    )
    for number, step in enumerate(plan.steps, 1):
        blocks += _plan_step(number, step)
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
    return View(
        (
            Text(f"{way}: {count(len(applied.steps), 'revision')} in {total}."),
            Table(headers, tuple(_step(step, expected) for step in applied.steps)),
        )
    )


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
        return nothing("No statement is hazardous: nobody waits, nothing breaks.")
    found = Counter(one.severity for one in hazards.items)
    worst = next(one for one in reversed(Severity) if found[one])
    tally = ", ".join(f"{found[one]} {one.value}" for one in Severity if found[one])
    headers = ("weight", "where", "rows", "held", "what and remedy")
    blocks: list[Block] = [
        Text(
            f"Weighed: {count(len(hazards.items), 'statement')}: {tally}",
            Pill(worst.value, SEVERITIES[worst]),
        ),
        Table(headers, tuple(_hazard(one) for one in hazards.items)),
    ]
    for one in hazards.items:
        if one.rewrite and one.severity is not Severity.OK:
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
