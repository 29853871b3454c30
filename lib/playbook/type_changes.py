"""Whether a change of a column's type rewrites its table. Layer 1: pure.

Source: PostgreSQL's `ATColumnChangeRequiresRewrite` (src/backend/commands/tablecmds.c, 13 to 18)
and ALTER TABLE's notes: nothing is rewritten where the new value is the old one as it stands. That
is so where pg_cast calls the types binary coercible, where the planner's support functions find
that a longer length changes nothing (`varchar_support`, `numeric_support`, `timestamp_support`,
`varbit_support` and their like), and between timestamp and timestamptz in a session whose time
zone is UTC. What is not known here (arrays, domains) is taken to rewrite.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass
from typing import Any

from pglast import ast
from pglast.enums import AlterTableType
from pglast.parser import ParseError
from pglast.stream import RawStream

from playbook.statements import parse_statement

__all__ = ["DataType", "TypeChange", "read_type", "rewrites", "shortens", "type_changes"]

_BY_LENGTH = {"varchar", "varbit"}
_BY_PRECISION = {"time", "timetz", "timestamp", "timestamptz"}
MOST_PRECISE = 6
"""Digits of a second that PostgreSQL keeps: a precision as high cuts nothing off."""
_ZONES = {("timestamp", "timestamptz"), ("timestamptz", "timestamp")}


@dataclass(frozen=True)
class DataType:
    """A type as PostgreSQL's parser names it (``varchar``, ``int4``), with its modifiers."""

    name: str
    modifiers: tuple[int, ...] = ()
    is_array: bool = False


@dataclass(frozen=True)
class TypeChange:
    """One ALTER COLUMN ... TYPE.

    ``is_plain``: its values are cast and nothing else (no USING, or one that only casts).
    ``is_explicit``: by a written cast, which cuts off what is too long instead of failing.
    """

    column: str
    new: DataType
    new_text: str
    is_plain: bool
    is_explicit: bool
    has_collation: bool


def read_type(text: str) -> DataType:
    """Return a type from its text, as format_type() writes it; one that cannot be read by name."""
    try:
        return _data_type(parse_statement(f"SELECT NULL::{text}").targetList[0].val.typeName)
    except ParseError:
        return DataType(text)


def type_changes(statement: Any) -> Iterator[TypeChange]:
    """Return the changes of type in a parsed statement."""
    for command in getattr(statement, "cmds", None) or ():
        if getattr(command, "subtype", None) != AlterTableType.AT_AlterColumnType:
            continue
        definition = command.def_
        using, new = definition.raw_default, _data_type(definition.typeName)
        cast = isinstance(using, ast.TypeCast) and _data_type(using.typeName) == new
        value = using.arg if cast else using
        yield TypeChange(
            column=command.name,
            new=new,
            new_text=RawStream()(definition.typeName),
            is_plain=using is None or _is_column(value, command.name),
            is_explicit=cast,
            has_collation=definition.collClause is not None,
        )


def rewrites(old: DataType, new: DataType, *, casts: Set[tuple[str, str]], is_utc: bool) -> bool:
    """Say whether every row is written anew when a column changes from one type to another.

    Args:
        casts: the pairs that pg_cast calls binary coercible.
        is_utc: the session's time zone is UTC.
    """
    if old == new:
        return False
    if old.is_array or new.is_array:
        return True
    if old.name == new.name:
        return not _keeps(old, new)
    cuts = bool(new.modifiers) and not _is_full_precision(new)
    if (old.name, new.name) in _ZONES:
        return cuts or not is_utc
    return cuts or (old.name, new.name) not in casts


def shortens(old: DataType, new: DataType) -> bool:
    """Say whether text of the old type may be too long for the new one."""
    texts = {"text", "varchar", "bpchar"}
    if old.name not in texts or new.name not in texts or old.is_array or not new.modifiers:
        return False
    return not old.modifiers or old.modifiers[0] > new.modifiers[0]


def _keeps(old: DataType, new: DataType) -> bool:
    """Say whether modifiers of the same type become no narrower."""
    if not new.modifiers or _is_full_precision(new):
        return True
    if not old.modifiers:
        return False
    if old.name == "numeric":
        (before, scale), (after, new_scale) = (_padded(t.modifiers) for t in (old, new))
        return scale == new_scale and after >= before
    return old.name in _BY_LENGTH | _BY_PRECISION and new.modifiers[0] >= old.modifiers[0]


def _padded(modifiers: tuple[int, ...]) -> tuple[int, int]:
    """Return precision and scale; numeric(10) is numeric(10,0)."""
    return modifiers[0], modifiers[1] if len(modifiers) > 1 else 0


def _is_full_precision(new: DataType) -> bool:
    return new.name in _BY_PRECISION and bool(new.modifiers) and new.modifiers[0] >= MOST_PRECISE


def _is_column(node: Any, column: str) -> bool:
    return (
        isinstance(node, ast.ColumnRef)
        and getattr((node.fields or ("",))[-1], "sval", "") == column
    )


def _data_type(node: Any) -> DataType:
    numbers = [getattr(getattr(m, "val", None), "ival", None) for m in node.typmods or ()]
    return DataType(
        node.names[-1].sval,
        tuple(number for number in numbers if number is not None),
        bool(node.arrayBounds),
    )
