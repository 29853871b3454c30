"""How a rehearsal is shown: the copy, and each revision's ways up, down and up again. Layer 1."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from playbook.charts import Cell, Code, Facts, Lines, Number, Pill, Table, Text, View
from playbook.formats import bytes_text, count, seconds, short_path
from playbook.rehearsals import CopyMade, Passage, Rehearsed, RoundTrip
from playbook.revisions import join
from playbook.view_parts import FIGURE_WIDTH, nothing, size_cell

__all__ = ["VIEWS"]

HEADERS = ("revision", "way", "took", "rows written", "WAL", "growth", "locks and what else")


def _copy(copy: CopyMade) -> View:
    place = f"{'in' if copy.where == 'the sandbox' else 'on'} {copy.where}"
    facts = (
        ("of", short_path(copy.source, 1)),
        ("made", f"{_HOW.get(copy.how, copy.how)}, {place}, in {seconds(copy.duration_s)}"),
        ("size", bytes_text(copy.size_bytes)),
        *(("remark", remark) for remark in copy.remarks),
    )
    return View(
        (Text("The copy", Pill("dropped again", "quiet"), "heading"), Facts(facts)), "quiet"
    )


_HOW = {
    "template": "by template",
    "dump": "from a fresh dump",
    "backup": "from a backup, which that proved",
}


def _trip(trip: RoundTrip) -> View:
    way = f"{join(trip.from_revisions)} -> {join(trip.to_revisions)}, revision by revision"
    if not trip.revisions:
        return nothing(f"At {join(trip.reached)}: nothing was rehearsed.")
    pill = Pill("complete", "good") if trip.is_complete else Pill("stopped", "bad")
    rows = tuple(row for one in trip.revisions for row in _rows(one))
    blocks: list[Any] = [Text(f"Up, down and up again: {way}.", pill)]
    if rows:
        blocks.append(Table(HEADERS, rows))
    begun = [one.revision for one in trip.revisions if not one.up]
    if begun:
        blocks.append(Text(f"{join(begun)} did not go up.", Pill("failed", "bad")))
    blocks.append(
        Text(
            "A lock counts from the statement that took it until its commit. WAL is the whole "
            "server's meanwhile.",
            style="small",
        )
    )
    return View(tuple(blocks))


def _rows(one: Rehearsed) -> Iterator[tuple[Cell, ...]]:
    for word, passage in (("up", one.up), ("down", one.down), ("up again", one.again)):
        if passage:
            yield _row(one.revision, word, passage)


def _row(revision: str, word: str, passage: Passage) -> tuple[Cell, ...]:
    first, *others = [*_locks(passage), *_remarks(passage)]
    return (
        Code(revision),
        word,
        Number(seconds(passage.duration_s), FIGURE_WIDTH),
        Number(count(passage.rows_written)),
        size_cell(passage.wal_bytes),
        size_cell(max(0, passage.grown_bytes)),
        Lines(first, tuple(others)),
    )


def _locks(passage: Passage) -> list[str]:
    found = [f"{lock.mode} on {lock.table} for {seconds(lock.held_s)}" for lock in passage.held]
    return found or ["keeps nobody waiting"]


def _remarks(passage: Passage) -> Iterator[str]:
    """Say what is out of the ordinary."""
    yield from (f"rewrites {table}" for table in passage.rewritten)
    if not passage.transactional:
        yield "leaves its transaction"
    if passage.attempts > 1:
        yield f"{count(passage.attempts, 'attempt')} to get its locks"


VIEWS: dict[type, Callable[[Any], View]] = {
    CopyMade: _copy,
    RoundTrip: _trip,
}
