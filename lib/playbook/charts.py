"""Drawing: blocks of text, tables and SQL, a graph of revisions, bar charts. Layer 1.

Imports nothing of the playbook and knows no records: `playbook.present` says what is drawn. A
`View` is written as HTML or as plain text; both have the same facts. Pygments and matplotlib are
imported when they are needed; of matplotlib only its `Figure`, so that no backend is chosen for
anyone.
"""

from __future__ import annotations

import base64
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from html import escape
from io import BytesIO
from typing import TYPE_CHECKING, Any
from unicodedata import combining, east_asian_width

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pygments.formatters import HtmlFormatter

__all__ = [
    "BLUE",
    "GREY",
    "ORANGE",
    "RED",
    "Bars",
    "Block",
    "Cell",
    "Chart",
    "Code",
    "Edge",
    "Facts",
    "Items",
    "Lines",
    "Node",
    "Number",
    "Pill",
    "Series",
    "Source",
    "Sql",
    "Table",
    "Text",
    "View",
    "bar_chart",
    "edges",
    "graph_svg",
    "graph_text",
    "view_html",
    "view_plain",
]

OPEN_SQL_LINES = 120
"""SQL longer than this is folded at first."""
SCROLLED_ROWS = 40
"""A table with more rows than this scrolls in a box."""
ROW_PX = 28
TWO_LINES = ";white-space:normal;line-height:1.05;min-width:260px"
LANE_PX = 18
BLUE, ORANGE, GREY, RED = "#0072B2", "#E69F00", "#9AA5B1", "#D55E00"
"""Okabe and Ito's colours: told apart with every kind of colour vision."""

_LOG_ABOVE = 300.0
"""Bars are on a log scale when the largest is more than this many times the smallest."""
_DPI = 160
_SHORT_TEXT = 28
_LONG_WORD = 44

# --- The graph of revisions


@dataclass(frozen=True)
class Node:
    """One revision of a graph: its column and what stands below it."""

    name: str
    lane: int
    state: str
    """``applied``, ``current`` or ``pending``."""
    parents: tuple[str, ...]


@dataclass(frozen=True)
class Edge:
    """A line from a child's row down to its parent's, through one lane."""

    child_row: int
    parent_row: int
    child_lane: int
    lane: int
    parent_lane: int


def edges(nodes: Sequence[Node]) -> list[Edge]:
    """Return the lines between nodes, drawn so that none runs through a dot that is not its own.

    Args:
        nodes: the newest first; a parent stands below its children.
    """
    rows = {node.name: row for row, node in enumerate(nodes)}
    spare = max((node.lane for node in nodes), default=0) + 1
    found = []
    for row, node in enumerate(nodes):
        for parent in node.parents:
            if (below := rows.get(parent, -1)) > row:
                taken = {between.lane for between in nodes[row + 1 : below]}
                wanted = (node.lane, nodes[below].lane)
                lane = next((lane for lane in wanted if lane not in taken), spare)
                found.append(Edge(row, below, node.lane, lane, nodes[below].lane))
    return found


def graph_svg(nodes: Sequence[Node]) -> list[str]:
    """Return one SVG per node, each as high as a row, which join into a graph when stacked."""
    lines = edges(nodes)
    lanes = 1 + max([node.lane for node in nodes] + [edge.lane for edge in lines], default=0)
    at = _by_row(lines, len(nodes))
    return [_row_svg(row, node, at[row], lanes) for row, node in enumerate(nodes)]


def _by_row(lines: Sequence[Edge], rows: int) -> list[list[Edge]]:
    """Return for each row the edges that begin in it, cross it or end in it."""
    found: list[list[Edge]] = [[] for _ in range(rows)]
    for edge in lines:
        for row in range(edge.child_row, edge.parent_row + 1):
            found[row].append(edge)
    return found


def _row_svg(row: int, node: Node, lines: Sequence[Edge], lanes: int) -> str:
    middle, width = ROW_PX // 2, lanes * LANE_PX + 6
    paths = []
    for edge in lines:
        start, lane, end = (_x(n) for n in (edge.child_lane, edge.lane, edge.parent_lane))
        if edge.child_row == row:
            paths.append(f"M{start} {middle}Q{lane} {middle} {lane} {ROW_PX}")
        elif edge.child_row < row < edge.parent_row:
            paths.append(f"M{lane} 0V{ROW_PX}")
        elif edge.parent_row == row:
            paths.append(f"M{lane} 0Q{lane} {middle} {end} {middle}")
    colour = {"pending": GREY, "current": ORANGE}.get(node.state, BLUE)
    dot = f'<circle cx="{_x(node.lane)}" cy="{middle}" r="5" stroke="{colour}" stroke-width="2.5"'
    fill = "var(--jp-layout-color0, #fff)" if node.state == "pending" else colour
    ring = f'<circle cx="{_x(node.lane)}" cy="{middle}" r="9" fill="none" stroke="{colour}"/>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{width}" height="{ROW_PX}" '
        f'style="display:block;max-width:none"><title>{escape(node.state)}</title>'
        f'<path d="{"".join(paths)}" fill="none" stroke="{GREY}" stroke-width="2"/>'
        f'{dot} style="fill:{fill}"/>{ring if node.state == "current" else ""}</svg>'
    )


def _x(lane: int) -> int:
    return lane * LANE_PX + LANE_PX // 2 + 3


def graph_text(nodes: Sequence[Node]) -> Iterator[tuple[str, int | None]]:
    """Yield the graph in ASCII, as ``git log --graph`` draws it.

    Yields:
        (characters, row of the node, or None for a line between two rows). ``*`` is applied,
        ``@`` where the database is, ``o`` pending.
    """
    at = _by_row(edges(nodes), len(nodes))
    for row, node in enumerate(nodes):
        lines = at[row]
        passing = {edge.lane: "|" for edge in lines if edge.child_row < row < edge.parent_row}
        mark = {"pending": "o", "current": "@"}.get(node.state, "*")
        yield (
            _characters({2 * lane: char for lane, char in {**passing, node.lane: mark}.items()}),
            row,
        )
        crossing = [edge for edge in lines if edge.child_row <= row < edge.parent_row]
        leaving = [(e.child_lane if e.child_row == row else e.lane, e.lane) for e in crossing]
        ending = [(e.lane, e.parent_lane if e.parent_row == row + 1 else e.lane) for e in crossing]
        for moves in (leaving, ending):
            if any(start != end for start, end in moves):
                yield _characters(_slants(moves)), None


def _slants(moves: Sequence[tuple[int, int]]) -> dict[int, str]:
    """Return {column: character} of a line on which some edges change lanes."""
    drawn: dict[int, str] = {}
    for start, end in moves:
        drawn |= dict.fromkeys(range(2 * min(start, end) + 1, 2 * max(start, end)), "_")
    for start, end in moves:
        if start == end:
            drawn[2 * start] = "|"
        else:
            drawn[2 * max(start, end) - 1] = "\\" if start < end else "/"
    return drawn


def _characters(drawn: dict[int, str]) -> str:
    return "".join(drawn.get(column, " ") for column in range(max(drawn) + 1))


# --- What a view is made of


@dataclass(frozen=True)
class Pill:
    """A word on a colour: ``good``, ``look``, ``bad`` or ``quiet``."""

    text: str
    tone: str


@dataclass(frozen=True)
class Number:
    """A figure, set to the right; ``width`` keeps a plain column's width where it varies."""

    text: str
    width: int = 0
    share: float | None = None
    """Length of a small bar before it, 0 to 1."""


@dataclass(frozen=True)
class Code:
    """A name or an id, in a fixed-width face."""

    text: str


@dataclass(frozen=True)
class Lines:
    """A cell of several lines: the first, and what belongs to it. Only in the last column."""

    first: str
    rest: tuple[str, ...]


Cell = str | Pill | Number | Code | Lines


@dataclass(frozen=True)
class Text:
    """A paragraph; ``style`` is ``""``, ``title``, ``heading`` or ``small``."""

    text: str
    pill: Pill | None = None
    style: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of cells under headers. ``graph``: nodes drawn beside the rows, one each."""

    headers: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    graph: tuple[Node, ...] = ()


@dataclass(frozen=True)
class Facts:
    """Names and their values."""

    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Items:
    """A list of sentences under a title, if it has one; left out when empty."""

    title: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Sql:
    """SQL under a line that folds and unfolds it."""

    text: str


@dataclass(frozen=True)
class Source:
    """A file's text under a line that folds and unfolds it; ``language`` is python or sql."""

    text: str
    language: str


Block = Text | Table | Facts | Items | Sql | Source


@dataclass(frozen=True)
class View:
    """What is shown of a record; ``tone`` puts it on a card of that colour."""

    blocks: tuple[Block, ...]
    tone: str = ""


# --- A view as HTML: inline styles only, no script, JupyterLab's colours where it gives them

_LINE = "var(--jp-border-color2, rgba(128,128,128,.35))"
_TONES = {
    "good": ("#1b7a3d", "#ffffff", "rgba(27,122,61,.09)"),
    "look": ("#f2b32a", "#1f1500", "rgba(242,179,42,.12)"),
    "bad": ("#c02626", "#ffffff", "rgba(192,38,38,.09)"),
    "quiet": ("#5d6975", "#ffffff", "rgba(128,128,128,.08)"),
}
_TEXT_STYLES = {
    "": "margin:4px 0",
    "title": "margin:2px 0 6px;font-size:20px;font-weight:600;line-height:1.3",
    "heading": "margin:14px 0 4px;font-size:14px;font-weight:600",
    "small": "margin:8px 0 2px;font-size:11px;opacity:.8",
}
_MONO = "font-family:var(--jp-code-font-family, ui-monospace, Menlo, Consolas, monospace)"


def view_html(view: View) -> str:
    """Return a view as HTML."""
    body = "".join(_BLOCK_HTML[type(block)](block) for block in view.blocks)
    style = "font-size:13px;line-height:1.5;max-width:1100px;margin:4px 0"
    if view.tone:
        edge, _, ground = _TONES[view.tone]
        style += (
            f";padding:10px 16px;border:1px solid {_LINE};border-left:6px solid {edge};"
            f"border-radius:6px;background-color:{ground}"
        )
    # MathJax would set what stands between two dollars of a text as mathematics.
    return f'<div style="{style}">{body.replace("$", "<span>$</span>")}</div>'


def _text_html(block: Text) -> str:
    pill = f" {_pill(block.pill)}" if block.pill else ""
    return f'<div style="{_TEXT_STYLES[block.style]}">{_prose(block.text)}{pill}</div>'


def _facts_html(block: Facts) -> str:
    name = "padding:1px 18px 1px 0;border:none;opacity:.75;text-align:left;vertical-align:top"
    value = "padding:1px 0;border:none;text-align:left;overflow-wrap:anywhere"
    rows = "".join(
        f'<tr style="background:none"><td style="{name};white-space:nowrap">{_safe(key)}</td>'
        f'<td style="{value}">{_safe(text)}</td></tr>'
        for key, text in block.pairs
    )
    style = "border-collapse:collapse;border:none;margin:4px 0;table-layout:auto;font-size:13px"
    return f'<table style="{style}"><tbody>{rows}</tbody></table>'


def _items_html(block: Items) -> str:
    if not block.lines:
        return ""
    lines = "".join(f'<li style="margin:1px 0">{_prose(line)}</li>' for line in block.lines)
    title = f'<div style="margin:8px 0 2px;font-weight:600">{_safe(block.title)}</div>'
    items = f'<ul style="margin:0;padding-left:20px">{lines}</ul>'
    return f"{title if block.title else ''}{items}"


def _table_html(block: Table) -> str:
    drawn = graph_svg(block.graph) if block.graph else [""] * len(block.rows)
    right = {i for row in block.rows for i, cell in enumerate(row) if isinstance(cell, Number)}
    head = '<th style="border:none;padding:0"></th>' if block.graph else ""
    for index, header in enumerate(block.headers):
        side = "right" if index in right else "left"
        head += (
            f'<th style="text-align:{side};padding:5px 10px;font-weight:600;white-space:nowrap;'
            f'border:none;border-bottom:2px solid {_LINE}">{_safe(header)}</th>'
        )
    body = "".join(_row_html(row, svg) for row, svg in zip(block.rows, drawn, strict=True))
    box = "overflow-x:auto;margin:4px 0"
    if len(block.rows) > SCROLLED_ROWS:
        box = f"overflow:auto;max-height:480px;margin:4px 0;border:1px solid {_LINE}"
    return (
        f'<div style="{box}"><table style="border-collapse:collapse;border:none;margin:0;'
        'table-layout:auto;font-size:13px">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _row_html(row: Sequence[Cell], svg: str) -> str:
    line = "" if svg else f"border-bottom:1px solid {_LINE};"
    height = f"height:{ROW_PX}px;padding:0 10px;white-space:nowrap" if svg else "padding:5px 10px"
    cells = f'<td style="border:none;padding:0;height:{ROW_PX}px">{svg}</td>' if svg else ""
    place = "middle" if svg else "top"
    for number, cell in enumerate(row, 1):
        side = "right;white-space:nowrap" if isinstance(cell, Number) else "left"
        # Two lines are as high as the graph's row, so that its edges still meet.
        wrap = TWO_LINES if svg and number == len(row) else _wrap(cell)
        style = f"border:none;{line}{height};text-align:{side};vertical-align:{place}{wrap}"
        cells += f'<td style="{style}">{_cell_html(cell)}</td>'
    return f'<tr style="background:none">{cells}</tr>'


def _wrap(cell: Cell) -> str:
    """Return the style that keeps short texts on one line and breaks words too long for any."""
    text = cell.first if isinstance(cell, Lines) else cell if isinstance(cell, str) else cell.text
    every = " ".join((text, *cell.rest)) if isinstance(cell, Lines) else text
    if max((len(word) for word in every.split()), default=0) > _LONG_WORD:
        return ";overflow-wrap:anywhere;min-width:220px"
    if isinstance(cell, Lines) and cell.rest:
        return ";min-width:260px"
    return ";white-space:nowrap" if len(text) <= _SHORT_TEXT and not isinstance(cell, Lines) else ""


def _cell_html(cell: Cell) -> str:
    match cell:
        case Pill():
            return _pill(cell)
        case Code():
            return f'<span style="{_MONO};font-size:12px">{_safe(cell.text)}</span>'
        case Number():
            return _safe(cell.text) if cell.share is None else _bar(cell.share, cell.text)
        case Lines():
            more = "".join(f'<div style="opacity:.8">{_prose(line)}</div>' for line in cell.rest)
            return f"{_prose(cell.first)}{more}"
        case str():
            return _safe(cell)


def _pill(pill: Pill) -> str:
    ground, ink, _ = _TONES[pill.tone]
    return (
        f'<span style="display:inline-block;padding:1px 8px;border-radius:9px;font-size:11px;'
        f"font-weight:600;line-height:1.5;white-space:nowrap;vertical-align:middle;"
        f'background-color:{ground};color:{ink}">{_safe(pill.text)}</span>'
    )


def _bar(share: float, text: str) -> str:
    return (
        '<span style="display:inline-block;width:80px;height:8px;'
        'border-radius:2px;background-color:rgba(128,128,128,.18)">'
        f'<span style="display:block;height:8px;border-radius:2px;width:{share:.0%};'
        f'background-color:{BLUE}"></span></span>'
        f'<span style="display:inline-block;min-width:76px">{_safe(text)}</span>'
    )


def _sql_html(block: Sql) -> str:
    return _source_html(Source(block.text, "sql"))


def _source_html(block: Source) -> str:
    from pygments import highlight
    from pygments.lexers.python import PythonLexer
    from pygments.lexers.sql import PostgresLexer

    lines = block.text.count("\n") + 1
    kind, name = {"sql": (PostgresLexer, "SQL"), "python": (PythonLexer, "Python")}[block.language]
    lexer = kind(stripnl=False, ensurenl=False)
    code = highlight(block.text, lexer, _sql_formatter()).rstrip("\n")
    return (
        f'<details{" open" if lines <= OPEN_SQL_LINES else ""} style="margin:4px 0 10px">'
        f'<summary style="cursor:pointer;opacity:.8">{name}, {lines:,} line{"s" * (lines > 1)}'
        "</summary>"
        f'<pre style="margin:4px 0;padding:8px 12px;overflow-x:auto;border-radius:4px;'
        f"border:1px solid {_LINE};background-color:rgba(128,128,128,.07);white-space:pre;"
        f'font-size:12px;line-height:1.45;{_MONO}">{code}</pre></details>'
    )


@cache
def _sql_formatter() -> HtmlFormatter[str]:
    """Return a formatter with JupyterLab's editor colours, or dark ones where it has none."""
    from pygments.formatters import HtmlFormatter
    from pygments.style import Style
    from pygments.token import Comment, Keyword, Name, Number, Operator, String

    class EditorColours(Style):
        styles = {
            Comment: "italic var(--jp-mirror-editor-comment-color,#408080)",
            Keyword: "bold var(--jp-mirror-editor-keyword-color,#008000)",
            Name.Builtin: "var(--jp-mirror-editor-builtin-color,#008000)",
            Number: "var(--jp-mirror-editor-number-color,#666666)",
            Operator: "var(--jp-mirror-editor-operator-color,#aa22ff)",
            String: "var(--jp-mirror-editor-string-color,#ba2121)",
            String.Name: "noinherit",
        }

    return HtmlFormatter(style=EditorColours, noclasses=True, nowrap=True)


def _prose(text: str) -> str:
    """Return a sentence as HTML, with what stands between backticks as code."""
    return re.sub(r"`([^`<>]+)`", r"<code>\1</code>", _safe(text))


def _safe(text: str) -> str:
    return escape(_printable(text))


def _printable(text: str) -> str:
    r"""Return the text on one line, with what does not print written as ``\n``, ``\u202e``."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


# --- A view as plain text


def view_plain(view: View) -> str:
    """Return a view as plain text, with everything that its HTML has."""
    lines = (line for block in view.blocks for line in _BLOCK_PLAIN[type(block)](block))
    return "\n".join(line.rstrip() for line in lines).strip("\n")


def _text_plain(block: Text) -> Iterator[str]:
    if block.style in {"heading", "small"}:
        yield ""
    yield _printable(block.text) + (f"  [{_printable(block.pill.text)}]" if block.pill else "")


def _facts_plain(block: Facts) -> Iterator[str]:
    width = max((len(key) for key, _ in block.pairs), default=0)
    for key, text in block.pairs:
        yield f"  {key:{width}}  {_printable(text)}"


def _items_plain(block: Items) -> Iterator[str]:
    if block.lines and block.title:
        yield f"{block.title}:"
    for line in block.lines:
        yield f"  - {_printable(line)}"


def _table_plain(block: Table) -> Iterator[str]:
    """Yield the header, a rule under its words (not the columns: widths vary) and the rows."""
    texts = [block.headers, *([_cell_plain(cell) for cell in row] for row in block.rows)]
    columns = len(block.headers)
    right = {
        i: cell.width
        for row in block.rows
        for i, cell in enumerate(row)
        if isinstance(cell, Number)
    }
    widths = [
        max(right.get(i, 0), *(_columns_of(text[i]) for text in texts)) for i in range(columns)
    ]
    drawn = list(graph_text(block.graph)) or [("", row) for row in range(len(block.rows))]
    margin = max((len(graph) for graph, _ in drawn), default=0)
    before = 2 + (margin + 2 if margin else 0)

    def line(cells: Sequence[str]) -> str:
        padded = (
            (" " * (widths[i] - _columns_of(cell)) + cell)
            if i in right
            else cell + " " * (widths[i] - _columns_of(cell))
            for i, cell in enumerate(cells)
        )
        return "  ".join(padded)

    yield " " * before + line(block.headers)
    yield " " * before + line(["-" * len(header) for header in block.headers])
    for graph, row in drawn:
        cells = "" if row is None else line(texts[row + 1])
        yield f"  {graph:{margin}}  {cells}" if margin else f"  {cells}"
        last = None if row is None else block.rows[row][-1]
        for more in last.rest if isinstance(last, Lines) else ():
            yield f"      {_printable(more)}"


def _cell_plain(cell: Cell) -> str:
    return _printable(
        cell if isinstance(cell, str) else cell.first if isinstance(cell, Lines) else cell.text
    )


def _columns_of(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    return sum(0 if combining(c) else 2 if east_asian_width(c) in "WF" else 1 for c in text)


def _sql_plain(block: Sql | Source) -> Iterator[str]:
    yield from block.text.split("\n")


_BLOCK_HTML: dict[type, Callable[[Any], str]] = {
    Facts: _facts_html,
    Items: _items_html,
    Source: _source_html,
    Sql: _sql_html,
    Table: _table_html,
    Text: _text_html,
}
_BLOCK_PLAIN: dict[type, Callable[[Any], Iterator[str]]] = {
    Facts: _facts_plain,
    Items: _items_plain,
    Source: _sql_plain,
    Sql: _sql_plain,
    Table: _table_plain,
    Text: _text_plain,
}


# --- Bar charts


@dataclass(frozen=True)
class Series:
    """One colour of bars: its name in the legend and its colour."""

    name: str
    colour: str


@dataclass(frozen=True)
class Bars:
    """The bars of one label, one per series; None where there is nothing to measure.

    ``colours`` replaces those of the series, where given.
    """

    label: str
    values: tuple[float | None, ...]
    texts: tuple[str, ...]
    colours: tuple[str, ...] = ()


@dataclass(frozen=True)
class Chart:
    """A drawn chart: shown as PNG where pictures can be shown, else as the text with its facts."""

    text: str
    png: bytes = field(repr=False)
    width_px: int = 0

    def _repr_mimebundle_(
        self, include: object = None, exclude: object = None
    ) -> tuple[dict[str, str], dict[str, dict[str, int]]]:
        """Return (data, metadata) as IPython's display protocol wants them."""
        if not self.png:
            return {"text/plain": self.text}, {}
        data = {"image/png": base64.b64encode(self.png).decode("ascii"), "text/plain": self.text}
        return data, {"image/png": {"width": self.width_px}}


def bar_chart(
    title: str,
    rows: Sequence[Bars],
    series: Sequence[Series],
    *,
    axis: str,
    tick: Callable[[float], str],
) -> bytes:
    """Return a PNG of horizontal bars, the first row on top.

    Args:
        title: what is shown, without units.
        rows: one element per label; at least one.
        series: one element per value of a row; a legend is drawn from two on.
        axis: the quantity and its unit.
        tick: writes a number of the axis.
    """
    from matplotlib import rc_context

    with rc_context({"font.family": ["DejaVu Sans"], "font.size": 9}), warnings.catch_warnings():
        # A name in a script that the font lacks shows boxes; the chart's text has it in full.
        warnings.filterwarnings("ignore", message=r"Glyph \d+", category=UserWarning)
        return _png(title, rows, series, axis=axis, tick=tick)


def _png(
    title: str,
    rows: Sequence[Bars],
    series: Sequence[Series],
    *,
    axis: str,
    tick: Callable[[float], str],
) -> bytes:
    from matplotlib.figure import Figure

    height = 1.3 + len(rows) * (0.12 + 0.17 * len(series))
    figure = Figure(figsize=(8, height), dpi=_DPI, facecolor="white", layout="constrained")
    axes = figure.subplots()
    for index, one in enumerate(series):
        _draw_series(axes, rows, index, one, count=len(series))
    axes.set_yticks(range(len(rows)), [_shown(row.label) for row in rows])
    axes.set_ylim(len(rows) - 0.45, -0.55)
    _scale(axes, rows, axis, tick)
    axes.set_title(
        _shown(title), loc="left", fontweight="bold", fontsize=11, pad=10 + 14 * (len(series) > 1)
    )
    if len(series) > 1:
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=len(series),
            frameon=False,
            borderaxespad=0,
            borderpad=0.2,
            handlelength=1.2,
        )
    stream = BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def _draw_series(
    axes: Axes, rows: Sequence[Bars], index: int, series: Series, *, count: int
) -> None:
    thick = 0.8 / count
    places = [row + (index - (count - 1) / 2) * thick for row in range(len(rows))]
    widths = [row.values[index] or 0 for row in rows]
    colours = [row.colours[index] if row.colours else series.colour for row in rows]
    axes.barh(places, widths, height=thick * 0.9, color=colours, label=_shown(series.name))
    for place, width, row in zip(places, widths, rows, strict=True):
        axes.annotate(
            _shown(row.texts[index]),
            (width, place),
            xytext=(4, 0),
            fontsize=8,
            textcoords="offset points",
            va="center",
            color="#333333",
        )


def _scale(axes: Axes, rows: Sequence[Bars], axis: str, tick: Callable[[float], str]) -> None:
    """Set the axis of values: from zero, or a log scale where one bar would hide the others."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    values = sorted(value for row in rows for value in row.values if value)
    low, high = (values[0], values[-1]) if values else (1.0, 1.0)
    if high / low > _LOG_ABOVE:
        axes.set_xscale("symlog", linthresh=low, linscale=0.5)
        axes.set_xlim(0, high * (high / low) ** 0.18)
        axes.xaxis.set_major_locator(LogLocator(numticks=6))
        axis += " (logarithmic scale)"
    else:
        axes.set_xlim(0, high * 1.25)
    axes.set_xlabel(axis)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
    axes.grid(axis="x", color="#e3e6ea", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)


def _shown(text: str) -> str:
    """Return a label of bearable length in which matplotlib sees no formula."""
    short = text if len(text) <= 42 else f"{text[:20]}…{text[-21:]}"
    return short.replace("$", r"\$")
