"""A revision's SQL as several revisions, none of which makes others wait for long. Layer 1: pure.

Each hazardous statement is replaced by its rewrite's parts (see `playbook.rewrites`). Parts that
have to be apart come into revisions of their own; the rest stays together, in its order.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pglast import ast
from pglast.enums import AlterTableType
from pglast.parser import ParseError
from pglast.stream import RawStream

from playbook.batches import in_batches
from playbook.constraints import constraint_name, quoted
from playbook.records import ColumnFact, Hazard, Severity
from playbook.rewrites import Part, parts_of
from playbook.statements import is_of_version_table, parse_statement, parse_statements, tables_in

__all__ = ["Stage", "has_parts", "is_fill", "read_fills", "split_revision"]

Fills = Mapping[tuple[str, str], str]
"""What old rows get in a new column, as SQL, by table (without its schema) and column."""
_NAME = r'(?:\w+|"(?:[^"]|"")+")'
_NEEDS_FILL = re.compile(
    rf"^-- UPDATE (?P<table>{_NAME}(?:\.{_NAME})?) SET (?P<column>{_NAME}) = \.\.\."
)
_FILL = re.compile(
    rf"^(?:{_NAME}\.)?(?P<table>{_NAME})\.(?P<column>{_NAME})\s*=\s*(?P<value>\S.*)", re.DOTALL
)
_TITLES = (
    (r"^DO\b|^UPDATE\b", "fill"),
    (r"^CREATE (?:UNIQUE )?INDEX\b", "build the index"),
    (r"\bVALIDATE CONSTRAINT\b", "validate"),
    (r"\bSET NOT NULL\b", "set not null"),
    (r"\bADD (?:CONSTRAINT|FOREIGN KEY|CHECK)\b", "add constraints"),
    (r"\bADD COLUMN\b", "add columns"),
)
"""How a step begins, and what it is called."""


@dataclass(frozen=True)
class Fill(Part):
    """What gives old rows a value, and what takes it away again."""

    undo: Part = Part("")


@dataclass
class Stage:
    """One revision: SQL to apply in its order, and SQL that undoes it in its order."""

    kind: str
    """``plain``, ``scan`` (VALIDATE, which may take long) or ``alone`` (outside a transaction)."""
    up: list[Part] = field(default_factory=list)
    down: list[Part] = field(default_factory=list)

    @property
    def title(self) -> str:
        """What it begins with, in a few words."""
        first = self.up[0].sql if self.up else ""
        found = (title for pattern, title in _TITLES if re.search(pattern, first, re.IGNORECASE))
        return next(found, "change the tables")

    @property
    def upgrade(self) -> str:
        """The body of its upgrade function."""
        return _code(self.up)

    @property
    def downgrade(self) -> str:
        """The body of its downgrade function."""
        return _code(self.down)


def split_revision(
    up: str,
    down: str,
    hazards: Sequence[Hazard],
    columns: Mapping[str, Sequence[ColumnFact]],
    fills: Fills,
) -> tuple[list[Stage], str]:
    """Return the stages of a revision, or none and the reason.

    Args:
        up: its SQL.
        down: the SQL of its downgrade, "" where that is not known.
        hazards: what was found in ``up``.
        columns: of each table, by ``schema.table``, as they are before.
        fills: what old rows get in new columns that must not be null.
    """
    forward, backward = _own(up), _own(down)[::-1]
    undone = dict(enumerate(backward)) if len(backward) == len(forward) else {}
    builder = _Builder()
    changed = False
    for number, (text, node) in enumerate(forward):
        parts = _parts(text, hazards, columns, fills)
        if isinstance(parts, str):
            return [], parts
        changed |= bool(parts)
        known = undone.get(number)
        problem = builder.add(text, node, parts, known[0] if known and not parts else "")
        if problem:
            return [], problem
    if not changed:
        return [], "No statement has a safer form that is known."
    return builder.stages, ""


def is_fill(column: str) -> bool:
    """Say whether a text names what `read_fills` takes: ``table.column = expression``."""
    return bool(_FILL.match(column.strip()))


def read_fills(text: str) -> dict[tuple[str, str], str]:
    """Return what ``table.column = expression; ...`` says.

    Raises:
        ValueError: it cannot be read; its text names the part.
    """
    found = {}
    for part in filter(None, (one.strip() for one in text.split(";"))):
        read = _FILL.match(part)
        if not read or not _is_expression(read["value"]):
            raise ValueError(part)
        found[_unquoted(read["table"]), _unquoted(read["column"])] = read["value"]
    return found


def _unquoted(name: str) -> str:
    return name[1:-1].replace('""', '"') if name[0] == '"' else name


def _is_expression(text: str) -> bool:
    try:
        statement = parse_statement(f"SELECT ({text})")
    except ParseError:
        return False
    return len(statement.targetList) == 1


def _own(sql: str) -> list[tuple[str, Any]]:
    """Return the statements that are not Alembic's own."""
    return [
        (text, node)
        for text, node in parse_statements(sql)
        if node is not None
        and not isinstance(node, ast.TransactionStmt)
        and not is_of_version_table(text, node)
    ]


def has_parts(hazard: Hazard) -> bool:
    """Say whether a hazard's statement has a form in steps, whatever else its rewrite shows."""
    return hazard.severity is not Severity.OK and bool(parts_of(_rule(hazard), hazard.statement))


def _rule(hazard: Hazard) -> str:
    """Return the rule whose rewrite helps: rows that lack a value were counted for another one."""
    return "adding-required-field" if hazard.rule == "rows-lack-a-value" else hazard.rule


def _parts(
    text: str,
    hazards: Sequence[Hazard],
    columns: Mapping[str, Sequence[ColumnFact]],
    fills: Fills,
) -> list[Part] | str:
    """Return the parts of a statement's rewrite, none if it may stay, or why it cannot be had."""
    found = [h for h in hazards if h.statement == text and h.severity is not Severity.OK]
    for hazard in sorted(found, key=lambda h: -list(Severity).index(h.severity)):
        facts = columns.get(hazard.table, ())
        parts = parts_of(_rule(hazard), text, facts)
        if parts:
            return _filled(parts, fills, facts)
    return []


def _filled(parts: Sequence[Part], fills: Fills, facts: Sequence[ColumnFact]) -> list[Part] | str:
    """Return the parts with what old rows get in place of its comment, or why that is not known."""
    made: list[Part] = []
    for part in parts:
        needed = _NEEDS_FILL.match(part.sql)
        if not needed:
            made.append(part)
            continue
        table, column = re.findall(_NAME, needed["table"])[-1], needed["column"]
        value = fills.get((_unquoted(table), _unquoted(column)), "")
        if not value:
            asked = f"{table}.{column} = ..."
            mark = "'" if '"' in asked else '"'  # as a shell takes it
            return (
                f"What the rows of {table} get in {column} is not known: write "
                f"-r fill {mark}{asked}{mark}."
            )
        made.append(_fill(needed["table"], column, value, facts))
    return made


def _fill(table: str, column: str, value: str, facts: Sequence[ColumnFact]) -> Part:
    to = _batches(f"UPDATE {table} SET {column} = {value} WHERE {column} IS NULL", facts)
    back = _batches(f"UPDATE {table} SET {column} = NULL WHERE {column} IS NOT NULL", facts)
    return Fill(to.sql, to.is_plain, back)


def _batches(statement: str, facts: Sequence[ColumnFact]) -> Part:
    batches = in_batches(parse_statement(statement), facts)
    return Part(batches, is_plain=False) if batches else Part(f"{statement};")


class _Builder:
    """Puts parts into stages, each as early as what it stands on allows."""

    def __init__(self) -> None:
        self.stages: list[Stage] = []
        self._last: dict[str, int] = {}
        """The last stage that names a table."""
        self._made: dict[str, str] = {}
        """The text that made a constraint or an index, by its name."""
        self._unproven: dict[str, str] = {}
        """The text that adds a constraint in the state before its VALIDATE."""

    def add(self, text: str, node: Any, parts: Sequence[Part], known_undo: str) -> str:
        """Add a statement; return why that cannot be, "" if it can."""
        tables = tables_in(text)
        earliest = max((self._last.get(table, 0) for table in tables), default=0)
        for part in parts or [Part(f"{text.rstrip(';')};", _is_plain(node))]:
            undo = self._undo(part, known_undo)
            if undo is None:
                return f"How to undo it in steps is not known: {' '.join(part.sql.split())[:100]}"
            place = self._place(_kind(part), earliest)
            self.stages[place].up.append(part)
            self.stages[place].down[:0] = undo
            earliest = place + 1
        for table in tables:
            self._last[table] = earliest - 1
        return ""

    def _place(self, kind: str, earliest: int) -> int:
        if kind != "alone":
            for number in range(earliest, len(self.stages)):
                if self.stages[number].kind == kind:
                    return number
        self.stages.append(Stage(kind))
        return len(self.stages) - 1

    def _undo(self, part: Part, known: str) -> list[Part] | None:
        """Return what undoes a part, in its order; None if that is not known."""
        if isinstance(part, Fill):
            return [part.undo]
        if known:
            return [Part(f"{known.rstrip(';')};")]
        found: list[Part] = []
        for text, node in parse_statements(part.sql):
            undo = self._undo_one(text, node)
            if undo is None:
                return None
            found[:0] = undo
        return found

    def _undo_one(self, text: str, node: Any) -> list[Part] | None:
        if isinstance(node, ast.CreateStmt):
            return [Part(f"DROP TABLE {_name(node.relation)};")]
        if isinstance(node, ast.IndexStmt):
            self._made[str(node.idxname)] = text
            table: Any = node.relation
            index = quoted(*(name for name in (table.schemaname, node.idxname) if name))
            return [
                Part(
                    f"DROP INDEX {'CONCURRENTLY ' * bool(node.concurrent)}{index};",
                    not node.concurrent,
                )
            ]
        if not isinstance(node, ast.AlterTableStmt):
            return None
        found: list[Part] = []
        of: Any = node.relation
        for command in node.cmds or ():
            undo = self._undo_command(_name(of), of.relname, command)
            if undo is None:
                return None
            found[:0] = undo
        return found

    def _undo_command(self, of: str, table: str, command: Any) -> list[Part] | None:
        kind, alter = command.subtype, f"ALTER TABLE {of}"
        if kind == AlterTableType.AT_AddColumn:
            return [Part(f"{alter} DROP COLUMN {quoted(command.def_.colname)};")]
        if kind == AlterTableType.AT_SetNotNull:
            return [Part(f"{alter} ALTER COLUMN {quoted(command.name)} DROP NOT NULL;")]
        if kind == AlterTableType.AT_ValidateConstraint and command.name in self._unproven:
            drop = f"{alter} DROP CONSTRAINT {quoted(command.name)};"
            return [Part(f"{drop}\n{self._unproven[command.name]}")]
        if kind == AlterTableType.AT_ColumnDefault and command.def_ is not None:
            return []  # of a column that the same revisions add
        if kind == AlterTableType.AT_AddConstraint:
            name = constraint_name(table, command.def_)
            index = self._made.get(command.def_.indexname or "")
            self._unproven[name] = f"{alter} ADD {RawStream()(command.def_)};"
            self._made[name] = _valid(alter, command.def_)
            dropped = Part(f"{alter} DROP CONSTRAINT {quoted(name)};")
            return [dropped, Part(f"{index};", is_plain=False)] if index else [dropped]
        if kind == AlterTableType.AT_DropConstraint and command.name in self._made:
            return [Part(self._made[command.name])]
        return None


def _valid(alter: str, constraint: Any) -> str:
    """Return the statement that adds a constraint in the state that VALIDATE brings it to."""
    constraint.skip_validation, constraint.initially_valid = False, True
    return f"{alter} ADD {RawStream()(constraint)};"


def _name(table: Any) -> str:
    return quoted(*(name for name in (table.schemaname, table.relname) if name))


def _is_plain(node: Any) -> bool:
    return not getattr(node, "concurrent", False)


def _kind(part: Part) -> str:
    if not part.is_plain:
        return "alone"
    return "scan" if "VALIDATE CONSTRAINT" in part.sql else "plain"


def _code(parts: Sequence[Part]) -> str:
    """Return Python that runs some SQL by Alembic's ``op``; "" for nothing."""
    return "\n".join(line for part in parts for line in _lines(part))


def _lines(part: Part) -> Iterator[str]:
    call: Callable[[str], list[str]] = lambda indent: [  # noqa: E731
        f"{indent}op.execute(",
        f'{indent}    r"""',
        *(f"{indent}    {line}".rstrip() for line in _literal(part.sql).split("\n")),
        f'{indent}    """',
        f"{indent})",
    ]
    if part.is_plain:
        yield from call("")
        return
    yield "with op.get_context().autocommit_block():"
    yield from call("    ")


def _literal(sql: str) -> str:
    """Return SQL as SQLAlchemy's text() reads it: a colon before a word would be a parameter."""
    return re.sub(r"(?<![:\w\\]):(?=\w)", r"\\:", sql)
