r"""How records are shown in a notebook and in a log. Layer 1: no database, no decisions.

A record becomes a `charts.View`, a few blocks of text, tables and SQL, by the one function for
its type in the modules `views_*`; `playbook.charts` writes a view as HTML or as plain text.

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
from typing import Any

from playbook import (
    views_author,
    views_backup,
    views_data,
    views_documents,
    views_plan,
    views_rehearsal,
    views_repair,
    views_run,
)
from playbook.charts import view_html, view_plain
from playbook.formats import bytes_text, count, seconds
from playbook.records import DumpProgress

__all__ = ["dump_progress", "install_formatters", "note", "plain", "progress", "show", "to_html"]

_VIEWS = (
    views_run.VIEWS
    | views_plan.VIEWS
    | views_data.VIEWS
    | views_backup.VIEWS
    | views_documents.VIEWS
    | views_rehearsal.VIEWS
    | views_author.VIEWS
    | views_repair.VIEWS
)


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
