"""How rows are shown: sizes, snapshots, comparisons, checks, loss, salvage. Layer 1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from playbook.charts import Block, Cell, Code, Items, Lines, Number, Pill, Table, Text, View
from playbook.formats import bytes_text, count, moment, short_path
from playbook.records import (
    Comparison,
    DataCheckResult,
    DataChecks,
    Difference,
    Drift,
    Integrity,
    Loss,
    Salvage,
    Snapshot,
    TableSizes,
)
from playbook.revisions import join
from playbook.view_parts import DRAWN_ROWS, drawn, nothing, size_cell

__all__ = ["VIEWS", "no_rows"]


def _sizes(sizes: TableSizes) -> View:
    if not sizes.tables:
        return nothing("The database has no tables.")
    largest = max(1, *(table.total_bytes for table in sizes.tables))
    rows = tuple(
        (
            Code(f"{one.schema}.{one.table}"),
            Number("never analysed" if one.estimated_rows < 0 else f"~{one.estimated_rows:,}", 14),
            size_cell(one.table_bytes),
            size_cell(one.index_bytes),
            size_cell(one.total_bytes, one.total_bytes / largest),
        )
        for one in drawn(sizes.tables, lambda table: table.total_bytes)
    )
    total = bytes_text(sum(table.total_bytes for table in sizes.tables))
    return View(
        (
            Text(f"{count(len(sizes.tables), 'table')}, {total} with indexes."),
            Table(("table", "rows (estimate)", "table size", "indexes", "total"), rows),
            *_left_out(len(sizes.tables) - len(rows), "smaller table"),
        )
    )


def _left_out(number: int, what: str, *, where: str = "") -> tuple[Block, ...]:
    """Return the line that says how much is not drawn; nothing if all is."""
    if not number:
        return ()
    return (Text(f"Not drawn: {count(number, what)}{where}.", style="small"),)


def _data_checks(checks: DataChecks) -> View:
    if not checks.results:
        return nothing("There are no data checks at this revision.")
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
        return nothing(f"{comparison.before} and {comparison.after}: no tables to compare.")
    if tables:
        # What lost or changed something is always drawn.
        most = max(DRAWN_ROWS, changed + unknown)
        shown = drawn(tables, lambda one: one.kind not in _HARMLESS, most)
        titles = ("table", "rows before", "rows after", "change", "detail")
        blocks.append(Table(titles, tuple(_difference(one) for one in shown)))
        blocks += _left_out(len(tables) - len(shown), "table", where=" that lost nothing")
    if columns:
        headers = ("table", "column", "values before", "values after", "change", "detail")
        changes = sum(one.kind not in _HARMLESS for one in columns)
        kept = drawn(columns, lambda o: o.kind not in _HARMLESS, max(DRAWN_ROWS, changes))
        rows = tuple(_difference(one, Code(one.column)) for one in kept)
        blocks += [Text("Columns that are not intact", style="heading"), Table(headers, rows)]
        blocks += _left_out(len(columns) - len(kept), "added column")
    else:
        blocks.append(Text("Every column that was compared is intact.", style="small"))
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
    return Number(no_rows(kind) if rows < 0 else count(rows))


def no_rows(kind: str) -> str:
    """Return why there is no number of rows."""
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


def _salvage(salvage: Salvage) -> View:
    if not salvage.files:
        return nothing("Nothing had to be salvaged: the downgrade destroys nothing.")
    rows = tuple(
        (
            Code(one.table),
            ", ".join(one.columns),
            Number(count(one.rows)),
            size_cell(one.size_bytes),
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


def _snapshot(snapshot: Snapshot) -> View:
    if not snapshot.tables:
        return nothing(f"Snapshot of {snapshot.database}: it has no tables.")
    rows = tuple(
        (
            Code(table.name),
            Number("not counted" if table.rows < 0 else count(table.rows)),
            Number(count(len(table.columns))),
        )
        for table in drawn(snapshot.tables, lambda table: table.rows)
    )
    partly = tuple(f"{table.name}: {table.coverage}" for table in snapshot.tables if table.coverage)
    sampled = (Items("Not every row was read", partly),) if partly else ()
    total = count(sum(max(0, table.rows) for table in snapshot.tables), "row")
    return View(
        (
            Text(
                f"Snapshot of {snapshot.database} at {join(snapshot.revisions)}, "
                f"{moment(snapshot.taken_at)}: {count(len(snapshot.tables), 'table')}, {total}."
            ),
            Table(("table", "rows", "columns"), rows),
            *_left_out(len(snapshot.tables) - len(rows), "table", where=" with fewer rows"),
            *sampled,
        )
    )


VIEWS: dict[type, Callable[[Any], View]] = {
    Comparison: _comparison,
    DataChecks: _data_checks,
    Drift: _drift,
    Integrity: _integrity,
    Loss: _loss,
    Salvage: _salvage,
    Snapshot: _snapshot,
    TableSizes: _sizes,
}
