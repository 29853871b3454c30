r"""How records are shown in a notebook and in a log. Layer 1: no database, no decisions.

A record becomes a `charts.View`, a few blocks of text, tables and SQL, by the one function here
for its type; `playbook.charts` writes a view as HTML or as plain text.

Equal records give equal output, byte for byte. What varies from run to run is written in forms
that a sanitiser can find; in a column of a plain table it is padded to a fixed width on the left,
or stands last and is not padded, so that a longer value moves nothing else:

- durations (`seconds`): ``0.31 s``, ``4.2 min``, ``1.5 h``: `` *\d+\.\d+ (?:s|min|h)\b``
- sizes (`bytes_text`): ``512 bytes``, ``24 kB``, ``1.2 MB``:
  `` *\d+(?:\.\d)? (?:bytes|kB|MB|GB|TB)\b``
- estimated rows: ``~12,345``: `` *~[\d,]+``
- times (`moment`): ``2026-11-23 08:00:00 UTC``: ``\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC``
- lengths of the bars inside HTML tables: ``width:37%``: ``width:\d+%``
- hashes, shortened to 12 digits: ``\b[0-9a-f]{12}\b``
- lines of `progress`: ``^  … .*\n``
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from playbook.charts import (
    BLUE,
    GREY,
    ORANGE,
    RED,
    Bars,
    Block,
    Cell,
    Chart,
    Code,
    Facts,
    Items,
    Lines,
    Node,
    Number,
    Pill,
    Series,
    Sql,
    Table,
    Text,
    View,
    bar_chart,
    view_html,
    view_plain,
)
from playbook.locks import MODES
from playbook.records import (
    Applied,
    BackupManifest,
    Backups,
    Banner,
    Checks,
    Comparison,
    DataCheckResult,
    DataChecks,
    Difference,
    Drift,
    DumpProgress,
    Finding,
    Hazard,
    Hazards,
    History,
    Integrity,
    Loss,
    Note,
    Outcome,
    Plan,
    PlanStep,
    Receipt,
    Restored,
    Retention,
    Revision,
    RevisionGraph,
    Salvage,
    Sessions,
    Severity,
    Snapshot,
    StepResult,
    TableSizes,
    WaysBack,
)
from playbook.revisions import join, lanes, states

__all__ = [
    "bytes_text",
    "count",
    "dump_progress",
    "durations_chart",
    "install_formatters",
    "moment",
    "note",
    "plain",
    "progress",
    "rows_chart",
    "seconds",
    "short_path",
    "show",
    "to_html",
]

CHARTED_TABLES = 25
CHARTED_RUNS = 30

_FIGURE_WIDTH = 10
"""Columns of a plain table kept for a figure that varies."""
_SEVERITIES = {Severity.OK: "good", Severity.WARN: "look", Severity.STOP: "bad"}
_OUTCOMES = {
    "succeeded": "good",
    "failed": "bad",
    "interrupted": "bad",
    "refused": "look",
    "rolled back": "look",
}

# --- Numbers, times, paths


def count(number: int, noun: str = "", plural: str = "") -> str:
    """Return ``12,345`` or, with a noun, ``no rows``, ``1 row``, ``12,345 rows``."""
    if not noun:
        return f"{number:,}"
    nouns = noun if number == 1 else plural or f"{noun}s"
    return f"{number:,} {nouns}" if number else f"no {nouns}"


def seconds(value: float) -> str:
    """Return a duration as ``0.31 s``, ``4.2 min`` or ``1.5 h``."""
    if value < 59.995:
        return f"{value:.2f} s"
    return f"{value / 60:.1f} min" if value < 3597 else f"{value / 3600:.1f} h"


def bytes_text(size: int) -> str:
    """Return a size as ``512 bytes``, ``24 kB`` or ``1.2 MB``: powers of 1024."""
    if size < 1024:
        return f"{size} bytes"
    units = ["kB", "MB", "GB", "TB"]
    value = size / 1024
    while value >= 1023.95 and len(units) > 1:
        value /= 1024
        del units[0]
    return f"{value:.1f}".removesuffix(".0") + f" {units[0]}"


def moment(value: datetime | str) -> str:
    """Return a time as ``2026-11-23 08:00:00 UTC``; text that is no ISO 8601 time as it stands."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return str(value)
    return f"{value.astimezone(UTC) if value.tzinfo else value:%Y-%m-%d %H:%M:%S} UTC"


def short_path(path: Path | str, parts: int = 3) -> str:
    """Return the end of a path, so that no output tells where a home or a checkout is.

    Args:
        path: anything; it need not exist.
        parts: how many parts at most, where the path does not lead through ``runs`` or
            ``backups``: it then begins there.
    """
    named = [part for part in Path(path).parts if part != Path(path).anchor]
    known = [i for i, part in enumerate(named) if part in {"runs", "backups"}]
    return "/".join(named[known[-1] :] if known else named[-parts:])


# --- One function per record


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
        return _nothing("No checks were asked.")
    worst = next(one for one in reversed(Severity) if found[one])
    rows = tuple(_finding(finding) for finding in checks.findings)
    return View(
        (
            Text(f"{count(len(rows), 'check')}: {tally}", Pill(worst.value, _SEVERITIES[worst])),
            Table(("result", "check", "subject", "detail and remedy"), rows),
        )
    )


def _finding(finding: Finding) -> tuple[Cell, ...]:
    why = (finding.why,) if finding.why and finding.severity is not Severity.OK else ()
    remedy = (f"→ {finding.remedy}",) if finding.remedy else ()
    pill = Pill(finding.severity.value, _SEVERITIES[finding.severity])
    return pill, Code(finding.code), finding.subject, Lines(finding.detail, (*why, *remedy))


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


def _sizes(sizes: TableSizes) -> View:
    if not sizes.tables:
        return _nothing("The database has no tables.")
    largest = max(1, *(table.total_bytes for table in sizes.tables))
    rows = tuple(
        (
            Code(f"{one.schema}.{one.table}"),
            Number("never analysed" if one.estimated_rows < 0 else f"~{one.estimated_rows:,}", 14),
            _size(one.table_bytes),
            _size(one.index_bytes),
            _size(one.total_bytes, one.total_bytes / largest),
        )
        for one in sizes.tables
    )
    total = bytes_text(sum(table.total_bytes for table in sizes.tables))
    return View(
        (
            Text(f"{count(len(rows), 'table')}, {total} with indexes."),
            Table(("table", "rows (estimate)", "table size", "indexes", "total"), rows),
        )
    )


def _size(size: int, share: float | None = None) -> Number:
    return Number(bytes_text(size), _FIGURE_WIDTH, share)


def _history(history: History) -> View:
    if not history.runs:
        return _nothing("No runs are known on this target.")
    headers = ("started", "runbook", "outcome", "from -> to", "duration", "who and backup")
    rows = tuple(_run(run) for run in history.runs)
    return View((Text(f"{count(len(rows), 'run')}, the newest first."), Table(headers, rows)))


def _run(run: Receipt) -> tuple[Cell, ...]:
    more = [f"Backup: {short_path(run.backup)}"] if run.backup else []
    more += [run.message] if run.message and run.outcome != "succeeded" else []
    return (
        moment(run.started_at),
        run.runbook,
        _outcome_pill(run.outcome),
        f"{join(run.from_revisions)} -> {join(run.to_revisions)}",
        Number(
            "not ended" if run.finished_at is None else seconds(_duration_s(run)), _FIGURE_WIDTH
        ),
        Lines(run.who, tuple(more)),
    )


def _duration_s(run: Receipt) -> float:
    return (run.finished_at - run.started_at).total_seconds() if run.finished_at else 0.0


def _outcome_pill(outcome: str) -> Pill:
    return Pill(outcome, _OUTCOMES.get(outcome, "quiet"))


def _applied(applied: Applied) -> View:
    way = f"{applied.direction}: {join(applied.from_revisions)} -> {join(applied.to_revisions)}"
    if not applied.steps:
        return View((Text(way), Text("No revision was run.")))
    headers = (
        "revision",
        "direction",
        "duration",
        "attempts",
        "statements",
        "rewritten",
        "in transaction",
        "strongest locks",
    )
    total = seconds(sum(step.duration_s for step in applied.steps))
    return View(
        (
            Text(f"{way}: {count(len(applied.steps), 'revision')} in {total}."),
            Table(headers, tuple(_step(step) for step in applied.steps)),
        )
    )


def _step(step: StepResult) -> tuple[Cell, ...]:
    strongest: dict[str, str] = {}
    for table, mode in step.locks:
        strongest[table] = max(strongest.get(table, mode), mode, key=_strength)
    by_strength = sorted(strongest.items(), key=lambda lock: (-_strength(lock[1]), lock[0]))
    locks = [f"{mode} on {table}" for table, mode in by_strength] or ["none"]
    return (
        Code(step.revision),
        step.direction,
        Number(seconds(step.duration_s), _FIGURE_WIDTH),
        Number(count(step.attempts)),
        Number(count(step.statements)),
        ", ".join(step.rewritten) or "no table",
        "yes" if step.transactional else Pill("no", "look"),
        Lines(locks[0], tuple(locks[1:])),
    )


def _strength(mode: str) -> int:
    known = mode if mode in MODES else "AccessExclusiveLock"
    return MODES.index(known)


def _data_checks(checks: DataChecks) -> View:
    if not checks.results:
        return _nothing("There are no data checks at this revision.")
    failed = len(checks.failed)
    word = Pill(f"{failed} failed", "bad") if failed else Pill("all passed", "good")
    rows = tuple(_data_check(result) for result in checks.results)
    return View(
        (
            Text(f"{count(len(rows), 'data check')}:", word),
            Table(("result", "check", "revision", "failing rows", "rule"), rows),
        )
    )


def _data_check(result: DataCheckResult) -> tuple[Cell, ...]:
    error = [f"could not run: {result.error}"] if result.error else []
    more = (*error, *(f"for example {example}" for example in result.examples))
    return (
        Pill("PASS", "good") if result.passed else Pill("FAIL", "bad"),
        Code(result.name),
        Code(result.revision),
        Number("unknown" if result.error else count(result.failing_rows)),
        Lines(result.description, more),
    )


STATEMENT_LENGTH = 100
"""How much of a hazardous statement is quoted; the plan has it in full."""

_VERDICTS = {"undeclared": "bad", "as declared": "quiet"}
_HARMLESS = {"intact": "good", "added": "quiet", "columns added": "quiet"}
"""Kinds of difference that lose nothing, and how they are shown."""


def _comparison(comparison: Comparison) -> View:
    tables = [one for one in comparison.differences if not one.column]
    columns = [one for one in comparison.differences if one.column]
    kinds = {one.kind for one in comparison.differences}
    unknown = sum(one.kind == "not compared" for one in tables)
    changed = sum(one.kind not in _HARMLESS for one in tables) - unknown
    calm = "all intact" if kinds <= {"intact"} else "only additions"
    word = Pill(calm, "good")
    if changed or unknown:
        words = [f"{count(changed, 'table')} changed or dropped"] * bool(changed)
        words += [f"{count(unknown, 'table')} not compared"] * bool(unknown)
        word = Pill(", ".join(words), "look")
    blocks: list[Block] = [
        Text(f"{comparison.before} and {comparison.after}: {count(len(tables), 'table')}", word)
    ]
    if not comparison.differences:
        return _nothing(f"{comparison.before} and {comparison.after}: no tables to compare.")
    if tables:
        blocks.append(
            Table(
                ("table", "rows before", "rows after", "change", "detail"),
                tuple(_difference(one) for one in tables),
            )
        )
    if columns:
        headers = ("table", "column", "values before", "values after", "change", "detail")
        rows = tuple(_difference(one, Code(one.column)) for one in columns)
        blocks += [Text("Columns that are not intact", style="heading"), Table(headers, rows)]
    else:
        blocks.append(Text("Every column that is on both sides is intact.", style="small"))
    return View(tuple(blocks))


def _difference(one: Difference, *column: Cell) -> tuple[Cell, ...]:
    tone = _HARMLESS.get(one.kind, "look")
    return (
        Code(one.table),
        *column,
        _rows(one.rows_before, one.kind),
        _rows(one.rows_after, one.kind),
        Pill(one.kind, "bad" if one.kind == "dropped" else _VERDICTS.get(one.verdict, tone)),
        _detail(one),
    )


def _rows(rows: int, kind: str) -> Number:
    return Number(_no_rows(kind) if rows < 0 else count(rows))


def _no_rows(kind: str) -> str:
    return "not counted" if kind == "not compared" else "absent"


def _detail(one: Difference) -> str:
    """Return what is known of a difference: of values, who wrote them and whether that is meant."""
    parts = [one.detail]
    if one.rows_written >= 0:
        them = "it" if one.rows_written == 1 else "them"
        by_run = f", {count(one.rows_by_run) if one.rows_by_run else 'none'} of {them} by the run"
        written = f"{count(one.rows_written, 'row')} written since"
        parts.append(written + (by_run if one.rows_written and one.rows_by_run >= 0 else ""))
    return "; ".join(part for part in (*parts, one.verdict) if part)


def _drift(drift: Drift) -> View:
    if drift.unknown:
        return View((Text(f"Drift could not be told: {drift.unknown}", Pill("unknown", "look")),))
    if not drift.lines:
        return View((Text("The models and the database agree.", Pill("no drift", "good")),))
    title = f"The models and the database differ in {count(len(drift.lines), 'point')}:"
    return View((Text(title, Pill("drift", "look")), Items("", drift.lines)))


def _integrity(integrity: Integrity) -> View:
    if integrity == Integrity((), ()):
        sound = (
            "Every constraint is validated and every index is valid; no row lacks the parent that "
            "it refers to, and no sequence is behind its column."
        )
        return View((Text(sound, Pill("sound", "good")),))
    blocks: list[Block] = []
    if integrity.unvalidated:
        rows = tuple(
            (Code(c.table), Code(c.constraint), Code(c.definition)) for c in integrity.unvalidated
        )
        title = count(len(rows), "constraint") + " not validated"
        blocks += [
            Text(title, Pill("WARN", "look"), "heading"),
            Table(("table", "constraint", "definition"), rows),
        ]
    if integrity.invalid:
        rows = tuple((Code(i.table), Code(i.index), Code(i.definition)) for i in integrity.invalid)
        title = count(len(rows), "invalid index", "invalid indexes")
        blocks += [
            Text(title, Pill("WARN", "look"), "heading"),
            Table(("table", "index", "definition"), rows),
        ]
    return View((*blocks, *_references(integrity)))


def _references(integrity: Integrity) -> list[Block]:
    """Return the tables of rows without a parent, of sequences, and of what was not checked."""
    blocks: list[Block] = []
    if integrity.orphans:
        bad = any(item.validated for item in integrity.orphans)
        title = count(len(integrity.orphans), "foreign key") + " with rows that lack their parent"
        blocks += [
            Text(title, Pill("FAIL", "bad") if bad else Pill("WARN", "look"), "heading"),
            Table(("table", "rows", "parent", "foreign key", "validated"), tuple(
                (Code(item.table), Number(count(item.rows)), Code(item.parent),
                 Code(item.constraint), "yes" if item.validated else "no")
                for item in integrity.orphans
            )),
        ]  # fmt: skip
    if integrity.behind:
        title = count(len(integrity.behind), "sequence") + " behind their columns"
        blocks += [
            Text(title, Pill("FAIL", "bad"), "heading"),
            Table(("sequence", "column", "next value", "column has", "remedy"), tuple(
                (Code(item.sequence), Code(f"{item.table}.{item.column}"),
                 Number(str(item.next_value)), Number(str(item.reached)), Code(item.remedy))
                for item in integrity.behind
            )),
        ]  # fmt: skip
    if integrity.unchecked:
        title = count(len(integrity.unchecked), "reference") + " not checked"
        rows = tuple((name, why) for name, why in integrity.unchecked)
        blocks += [
            Text(title, Pill("WARN", "look"), "heading"),
            Table(("foreign key or sequence", "why"), rows),
        ]
    return blocks


def _loss(loss: Loss) -> View:
    untold = Items("Not to be told from the SQL, and in the backup only", loss.untold)
    if not loss.items:
        if not loss.untold:
            return View((Text("Nothing will be destroyed.", Pill("no loss", "good")),))
        title = "Nothing is dropped that is there now."
        return View((Text(title, Pill("look", "look")), untold))
    rows = tuple(
        (
            Code(item.table),
            Code(item.column) if item.column else "the whole table",
            Number(count(item.rows)),
            Number(count(item.written_since) if item.written_since >= 0 else "not known"),
            ", ".join(f"{column} {count(values)}" for column, values in item.values if item.rows),
        )
        for item in loss.items
    )
    return View(
        (
            Text("This will be destroyed:", Pill(count(len(rows), "object"), "bad")),
            Table(
                ("table", "column", "rows or values", "since the upgrade", "values per column"),
                rows,
            ),
            untold,
        )
    )


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


def _salvage(salvage: Salvage) -> View:
    if not salvage.files:
        return _nothing("Nothing had to be salvaged: the downgrade destroys nothing.")
    rows = tuple(
        (
            Code(one.table),
            ", ".join(one.columns),
            Number(count(one.rows)),
            _size(one.size_bytes),
            Code(one.sha256[:12]),
            Code(one.path.name),
        )
        for one in salvage.files
    )
    title = f"{count(len(rows), 'file')} in {short_path(salvage.directory)}"
    return View(
        (
            Text(title, Pill("saved", "good")),
            Table(("table", "columns", "rows", "size", "SHA-256", "file"), rows),
        )
    )


def _manifest(backup: BackupManifest) -> View:
    verified = {
        "archive": Pill("archive verified", "good"),
        "restore": Pill("restore verified", "good"),
    }.get(backup.verified, Pill(backup.verified or "not verified", "look"))
    rows = sum(rows for _, rows in backup.rows)
    folder = short_path(backup.directory) or "the folder of this manifest"
    facts = (
        ("of", f"{backup.target}, database {backup.database} at {join(backup.revisions)}"),
        ("size", f"{bytes_text(backup.size_bytes)} in {count(len(backup.files), 'file')}"),
        ("rows", f"{count(rows)} in {count(len(backup.rows), 'table')}"),
        ("compression", f"{backup.compression}, {count(backup.jobs, 'job')}"),
        ("made", f"{moment(backup.started_at)}, in {seconds(backup.duration_s)}"),
        ("by", f"{backup.user} on {backup.host}"),
        ("server", f"PostgreSQL {backup.server_version}, system {backup.system_identifier}"),
        ("pg_dump", f"{backup.pg_dump_version}, manifest format {backup.format_version}"),
        ("restore", backup.restore_command),
        *_needs(backup),
    )
    return View((Text(f"Backup {folder}", verified, "heading"), Facts(facts)), "quiet")


def _needs(backup: BackupManifest) -> tuple[tuple[str, str], ...]:
    """Return what a dump holds or needs besides tables, and how long a restore took."""
    facts = []
    if backup.restore_s:
        facts.append(("restored", f"into a scratch database, in {seconds(backup.restore_s)}"))
    if backup.large_objects:
        facts.append(("large objects", count(backup.large_objects)))
    if backup.extensions:
        facts.append(("extensions", f"{', '.join(backup.extensions)}; not in the dump"))
    if backup.roles:
        facts.append(("roles", f"{', '.join(backup.roles)}; not in the dump"))
    return tuple(facts)


def _backups(backups: Backups) -> View:
    if not backups.items:
        return _nothing("There is no backup of this database yet: `backup` takes one.")
    rows = tuple(
        (
            Code(backup.directory.name),
            join(backup.revisions),
            backup.verified or "not verified",
            Number(bytes_text(backup.size_bytes)),
            Number(f"{seconds(backup.restore_s)}" if backup.restore_s else "not measured"),
            Number(seconds(age_s)),
        )
        for backup, age_s in backups.items
    )
    title = f"{count(len(rows), 'backup')} of this database, the newest first."
    columns = ("backup", "revision", "verified by", "size", "restore takes", "age")
    return View((Text(title), Table(columns, rows)))


def _retention(plan: Retention) -> View:
    if not plan.removed and not plan.kept:
        return _nothing("There is no backup of this database to keep or remove.")
    rows = tuple(
        (Pill(fate, mood), Code(backup.directory.name), Number(bytes_text(backup.size_bytes)), why)
        for backup, fate, mood, why in (
            *((b, "goes", "look", "") for b in plan.removed),
            *((b, "stays", "good", why) for b, why in plan.kept),
        )
    )
    title = f"Backups that go: {len(plan.removed)}. That stay: {len(plan.kept)}."
    return View((Text(title), Table(("", "backup", "size", "why"), rows)))


def _snapshot(snapshot: Snapshot) -> View:
    if not snapshot.tables:
        return _nothing(f"Snapshot of {snapshot.database}: it has no tables.")
    rows = tuple(
        (
            Code(table.name),
            Number("not counted" if table.rows < 0 else count(table.rows)),
            Number(count(len(table.columns))),
        )
        for table in snapshot.tables
    )
    partly = tuple(f"{table.name}: {table.coverage}" for table in snapshot.tables if table.coverage)
    sampled = (Items("Not every row was read", partly),) if partly else ()
    total = count(sum(max(0, table.rows) for table in snapshot.tables), "row")
    return View(
        (
            Text(
                f"Snapshot of {snapshot.database} at {join(snapshot.revisions)}, "
                f"{moment(snapshot.taken_at)}: {count(len(rows), 'table')}, {total}."
            ),
            Table(("table", "rows", "columns"), rows),
            *sampled,
        )
    )


def _outcome(outcome: Outcome) -> View:
    pill = _outcome_pill(outcome.outcome)
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


def _hazards(hazards: Hazards) -> View:
    if not hazards.items:
        return _nothing("No statement is hazardous: nobody waits, nothing breaks.")
    found = Counter(one.severity for one in hazards.items)
    worst = next(one for one in reversed(Severity) if found[one])
    tally = ", ".join(f"{found[one]} {one.value}" for one in Severity if found[one])
    headers = ("weight", "where", "rows", "held", "what and remedy")
    blocks: list[Block] = [
        Text(
            f"Weighed: {count(len(hazards.items), 'statement')}: {tally}",
            Pill(worst.value, _SEVERITIES[worst]),
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
        Pill(one.severity.value, _SEVERITIES[one.severity]),
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


def _restored(restored: Restored) -> View:
    facts = (
        ("beside", f"{restored.beside}, which was left alone"),
        ("from", f"the backup {short_path(restored.backup, 1)}"),
        ("rows of", ", ".join(restored.tables) or "every table"),
        ("took", f"{seconds(restored.duration_s)}, {count(restored.jobs, 'job')}"),
        *(("remark", remark) for remark in restored.remarks),
    )
    title = f"New database {restored.database}"
    return View((Text(title, Pill("restored", "good"), "heading"), Facts(facts)), "quiet")


def _sessions(found: Sessions) -> View:
    if not found.sessions:
        return _nothing(f"Nobody else is connected to {found.database}.")
    rows = tuple(
        (
            Number(str(one.pid)),
            one.user,
            one.application or "unnamed",
            one.state,
            Number(seconds(one.transaction_age_s), _FIGURE_WIDTH),
        )
        for one in found.sessions
    )
    title = f"{count(len(rows), 'session')} on {found.database}"
    return View(
        (
            Text(title, Pill("in use", "look")),
            Table(("pid", "user", "application", "state", "in transaction for"), rows),
        )
    )


def _note(shown: Note) -> View:
    return _nothing(shown.text)


def _nothing(sentence: str) -> View:
    return View((Text(sentence),))


_VIEWS: dict[type, Callable[[Any], View]] = {
    Applied: _applied,
    BackupManifest: _manifest,
    Backups: _backups,
    Banner: _banner,
    Checks: _checks,
    Comparison: _comparison,
    DataChecks: _data_checks,
    Drift: _drift,
    Hazards: _hazards,
    History: _history,
    Integrity: _integrity,
    Loss: _loss,
    Note: _note,
    Outcome: _outcome,
    Plan: _plan,
    Restored: _restored,
    Retention: _retention,
    RevisionGraph: _graph,
    Salvage: _salvage,
    Sessions: _sessions,
    Snapshot: _snapshot,
    TableSizes: _sizes,
    WaysBack: _ways_back,
}

# --- Notebooks and logs


def to_html(record: object) -> str:
    """Return a record as HTML.

    Raises:
        KeyError: records of its type are only shown within others.
    """
    return view_html(_VIEWS[type(record)](record))


def plain(record: object) -> str:
    """Return a record as plain text, complete.

    Raises:
        KeyError: records of its type are only shown within others.
    """
    return view_plain(_VIEWS[type(record)](record))


def install_formatters() -> None:
    """Make a notebook cell whose last expression is a record show it.

    **Effects**: under IPython, registers one HTML and one plain formatter per record type, again
    if they are registered already; elsewhere none, and IPython is not imported.
    """
    if "IPython" not in sys.modules:
        return
    from IPython import get_ipython

    shell = get_ipython()
    if shell is None:
        return
    formatters = shell.display_formatter.formatters
    for record in _VIEWS:
        formatters["text/html"].for_type(record, to_html)
        formatters["text/plain"].for_type(record, _print_plain)


def _print_plain(record: object, printer: Any, _cycle: bool) -> None:
    printer.text(plain(record))


def show(record: object) -> None:
    """Show a record now, before the cell ends; its plain form where there is no notebook."""
    from IPython.core.getipython import get_ipython
    from IPython.display import display

    if get_ipython() is None:
        note(plain(record))
    else:
        display(record)  # type: ignore[no-untyped-call]


def progress(text: str) -> None:
    """Print a line that tells of work going on, and flush it."""
    print(f"  … {text}", flush=True)  # noqa: T201


def dump_progress(state: DumpProgress) -> None:
    """Print how far a dump has come: tables, bytes, and about how long it still takes."""
    tables = f"{count(state.tables)} of {count(state.all_tables, 'table')} begun"
    whole = f" of about {bytes_text(state.expected_bytes)}" if state.expected_bytes else ""
    left = f", about {seconds(state.left_s)} left" if state.left_s >= 0 else ""
    progress(f"dumping: {tables}, {bytes_text(state.size_bytes)}{whole}{left}")


def note(text: str) -> None:
    """Print a line that belongs to the record of a run."""
    print(text, flush=True)  # noqa: T201


# --- Charts of records


def rows_chart(comparison: Comparison) -> Chart:
    """Return a chart of the rows of each table before and after.

    At most `CHARTED_TABLES` bars: tables whose rows changed come before others, larger before
    smaller; the rest is summed up in a last one.
    """
    tables = sorted((one for one in comparison.differences if not one.column), key=_charted_order)
    title = f"Rows per table: {comparison.before} and {comparison.after}"
    if not tables:
        return Chart(f"{title}\n  no tables to compare", b"")
    shown = tables if len(tables) <= CHARTED_TABLES else tables[: CHARTED_TABLES - 1]
    bars = [
        _row_bars(one.table, (one.rows_before, one.rows_after), _no_rows(one.kind)) for one in shown
    ]
    if rest := tables[len(shown) :]:
        sums = (
            sum(max(0, one.rows_before) for one in rest),
            sum(max(0, one.rows_after) for one in rest),
        )
        bars.append(_row_bars(f"{len(rest):,} other tables", sums))
    series = (Series(comparison.before, GREY), Series(comparison.after, BLUE))
    png = bar_chart("Rows per table", bars, series, axis="rows", tick=_tick)
    return _chart(title, bars, png)


def _charted_order(one: Difference) -> tuple[bool, int, str]:
    return one.rows_before == one.rows_after, -max(one.rows_before, one.rows_after), one.table


def _row_bars(label: str, rows: Sequence[int], missing: str = "absent") -> Bars:
    texts = tuple(missing if one < 0 else f"{one:,}" for one in rows)
    return Bars(label, tuple(None if one < 0 else float(one) for one in rows), texts)


def _tick(rows: float) -> str:
    """Return ``20k``, ``1.5M`` or ``3B``; nothing for a part of a row."""
    if rows != round(rows):
        return ""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if rows >= size:
            return f"{rows / size:g}{unit}"
    return f"{rows:g}"


def durations_chart(history: History) -> Chart:
    """Return a chart of how long each run took, the newest on top, at most `CHARTED_RUNS`."""
    ended = [run for run in history.runs if run.finished_at][:CHARTED_RUNS]
    title = "Duration of runs"
    if not ended:
        return Chart(f"{title}\n  no runs that ended", b"")
    longest = max(_duration_s(run) for run in ended)
    size, unit = 1, "seconds"
    if longest >= 60:
        size, unit = (3600, "hours") if longest >= 3600 else (60, "minutes")
    bars = [_run_bars(run, size) for run in ended]
    series = (Series(title, BLUE),)
    png = bar_chart(title, bars, series, axis=f"duration in {unit}", tick="{:g}".format)
    return _chart(title, bars, png)


def _run_bars(run: Receipt, unit_s: int) -> Bars:
    label = f"{moment(run.started_at)[:16]} {run.runbook}"
    text = f"{seconds(_duration_s(run))}, {run.outcome}"
    return Bars(label, (_duration_s(run) / unit_s,), (text,), (_run_colour(run),))


def _run_colour(run: Receipt) -> str:
    return {"good": BLUE, "look": ORANGE}.get(_OUTCOMES.get(run.outcome, ""), RED)


def _chart(title: str, bars: Sequence[Bars], png: bytes) -> Chart:
    width = max(len(one.label) for one in bars)
    lines = (f"  {one.label:{width}}  {' -> '.join(one.texts)}" for one in bars)
    return Chart("\n".join((title, *lines)), png, 800)
