"""Charts of records. Layer 1."""

from __future__ import annotations

from collections.abc import Sequence

from playbook.charts import BLUE, GREY, ORANGE, RED, Bars, Chart, Series, bar_chart
from playbook.formats import moment, seconds
from playbook.records import Comparison, Difference, History, Receipt
from playbook.views_data import no_rows
from playbook.views_run import duration_s, outcome_pill

__all__ = ["CHARTED_RUNS", "CHARTED_TABLES", "durations_chart", "rows_chart"]

CHARTED_TABLES = 25
CHARTED_RUNS = 30


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
        _row_bars(one.table, (one.rows_before, one.rows_after), no_rows(one.kind)) for one in shown
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
    longest = max(duration_s(run) for run in ended)
    size, unit = 1, "seconds"
    if longest >= 60:
        size, unit = (3600, "hours") if longest >= 3600 else (60, "minutes")
    bars = [_run_bars(run, size) for run in ended]
    series = (Series(title, BLUE),)
    png = bar_chart(title, bars, series, axis=f"duration in {unit}", tick="{:g}".format)
    return _chart(title, bars, png)


def _run_bars(run: Receipt, unit_s: int) -> Bars:
    label = f"{moment(run.started_at)[:16]} {run.runbook}"
    text = f"{seconds(duration_s(run))}, {run.outcome}"
    return Bars(label, (duration_s(run) / unit_s,), (text,), (_run_colour(run),))


def _run_colour(run: Receipt) -> str:
    return {"good": BLUE, "look": ORANGE}.get(outcome_pill(run.outcome).tone, RED)


def _chart(title: str, bars: Sequence[Bars], png: bytes) -> Chart:
    width = max(len(one.label) for one in bars)
    lines = (f"  {one.label:{width}}  {' -> '.join(one.texts)}" for one in bars)
    return Chart("\n".join((title, *lines)), png, 800)
