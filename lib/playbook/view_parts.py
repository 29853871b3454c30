"""What the views of several records have in common. Layer 1."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from playbook.charts import Number, Text, View
from playbook.formats import bytes_text
from playbook.records import Severity

__all__ = [
    "DRAWN_REVISIONS",
    "DRAWN_ROWS",
    "DRAWN_STEPS",
    "FIGURE_WIDTH",
    "SEVERITIES",
    "drawn",
    "listed",
    "nothing",
    "size_cell",
]

T = TypeVar("T")

FIGURE_WIDTH = 10
"""Columns of a plain table kept for a figure that varies."""
DRAWN_ROWS = 200
"""Rows of a table that are drawn; a page with a thousand of each kind opens slowly, unread."""
DRAWN_REVISIONS = 100
DRAWN_STEPS = 50
"""Revisions whose SQL a plan shows."""
LISTED = 20
SEVERITIES = {Severity.OK: "good", Severity.WARN: "look", Severity.STOP: "bad"}


def size_cell(size: int, share: float | None = None) -> Number:
    """Return a size as a cell of a fixed width, with a bar of the length ``share``, 0 to 1."""
    return Number(bytes_text(size), FIGURE_WIDTH, share)


def nothing(sentence: str) -> View:
    """Return a view of one sentence, where there is nothing to list."""
    return View((Text(sentence),))


def drawn(items: Sequence[T], weight: Callable[[T], float], most: int = DRAWN_ROWS) -> list[T]:
    """Return what is drawn of many items: those that weigh most, in the order they were in."""
    heaviest = sorted(range(len(items)), key=lambda i: -weight(items[i]))[:most]
    return [items[i] for i in sorted(heaviest)]


def listed(names: Sequence[str]) -> str:
    """Return some names in one line, and how many more there are."""
    if len(names) <= LISTED:
        return ", ".join(names)
    return f"{', '.join(names[:LISTED])} and {len(names) - LISTED:,} more"
