"""What the views of several records have in common. Layer 1."""

from __future__ import annotations

from playbook.charts import Number, Text, View
from playbook.formats import bytes_text
from playbook.records import Severity

__all__ = ["FIGURE_WIDTH", "SEVERITIES", "nothing", "size_cell"]

FIGURE_WIDTH = 10
"""Columns of a plain table kept for a figure that varies."""
SEVERITIES = {Severity.OK: "good", Severity.WARN: "look", Severity.STOP: "bad"}


def size_cell(size: int, share: float | None = None) -> Number:
    """Return a size as a cell of a fixed width, with a bar of the length ``share``, 0 to 1."""
    return Number(bytes_text(size), FIGURE_WIDTH, share)


def nothing(sentence: str) -> View:
    """Return a view of one sentence, where there is nothing to list."""
    return View((Text(sentence),))
