"""A hazardous statement written anew with its own names, ready to copy. Layer 1: pure.

Each rewrite ends in the same schema as the statement, and holds no lock for as long as rows are
read or written. Where its parts must be in revisions of their own, or outside a transaction,
comments say so. A statement for which no rewrite is true gets none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pglast import ast, parse_sql
from pglast.enums import AlterTableType, ConstrType
from pglast.parser import ParseError
from pglast.stream import RawStream
from pglast.visitors import Visitor

from playbook.batches import in_batches
from playbook.constraints import constraint_name, object_name, quoted
from playbook.records import ColumnFact
from playbook.statements import parse_statement

__all__ = ["Part", "objects", "parts_of", "rewrite"]

_STABLE = {"now", "transaction_timestamp", "statement_timestamp"}
_SERIAL = {"smallserial", "serial", "bigserial", "serial2", "serial4", "serial8"}
_ADDED_NAME = re.compile(r"ADD CONSTRAINT (\S+)")
"""Of two unnamed constraints of one kind, PostgreSQL numbers the second: no name to be told."""
_CONSTRAINT_RULES = {
    "adding-foreign-key-constraint": ConstrType.CONSTR_FOREIGN,
    "constraint-missing-not-valid": ConstrType.CONSTR_CHECK,
    "disallowed-unique-constraint": ConstrType.CONSTR_UNIQUE,
    "adding-serial-primary-key-field": ConstrType.CONSTR_PRIMARY,
}
_COMMAND_RULES = {
    "adding-not-nullable-field": AlterTableType.AT_SetNotNull,
    "ban-drop-column": AlterTableType.AT_DropColumn,
    "changing-column-type": AlterTableType.AT_AlterColumnType,
}
_INDEX_RULES = {"require-concurrent-index-creation", "ban-concurrent-index-creation-in-transaction"}
_ROW_RULES = {"update-all-rows", "update-rows", "delete-all-rows", "delete-rows"}


@dataclass(frozen=True)
class Part:
    """SQL that stands in a revision of its own; ``is_plain`` False: outside a transaction."""

    sql: str
    is_plain: bool = True


def rewrite(rule: str, text: str, columns: Sequence[ColumnFact] = ()) -> str:
    """Return what to write instead of a statement that falls under a rule, "" if nothing is true.

    Args:
        columns: those of the statement's table, where they are known.
    """
    return _compose(parts_of(rule, text, columns))


def parts_of(rule: str, text: str, columns: Sequence[ColumnFact] = ()) -> list[Part]:
    """Return the same as `rewrite`, each part for a revision of its own; none if none is true."""
    try:
        statement = parse_statement(text)
        parts = list(_parts(rule, statement, text, columns))
        parse_sql("\n".join(part.sql for part in parts))
    except ParseError:
        return []
    names = [name for part in parts for name in _ADDED_NAME.findall(part.sql)]
    return parts if len(names) == len(set(names)) else []


def objects(rule: str, statement: Any) -> str:
    """Return the indexes, constraints or columns that a parsed statement is about under a rule."""
    if isinstance(statement, ast.IndexStmt):
        return statement.idxname or ""
    if isinstance(statement, ast.RenameStmt):
        return statement.subname or ""
    if isinstance(statement, ast.UpdateStmt):
        return ", ".join(target.name for target in statement.targetList or () if target.name)
    commands = [c for c in getattr(statement, "cmds", None) or () if _falls_under(rule, c)]
    table = statement.relation.relname if commands else ""
    return ", ".join(dict.fromkeys(_object(table, command) for command in commands))


def _object(table: str, command: Any) -> str:
    if command.subtype == AlterTableType.AT_AddColumn:
        return str(command.def_.colname)
    if command.subtype == AlterTableType.AT_AddConstraint:
        return constraint_name(table, command.def_)
    return command.name or ""


def _falls_under(rule: str, command: Any) -> bool:
    """Say whether a command of ALTER TABLE is what a rule means."""
    if command.subtype == _COMMAND_RULES.get(rule):
        return True
    if command.subtype == AlterTableType.AT_AddConstraint:
        kinds = {_CONSTRAINT_RULES.get(rule)}
        if rule == "constraint-missing-not-valid":
            kinds |= {ConstrType.CONSTR_EXCLUSION, ConstrType.CONSTR_NOTNULL}
        return command.def_.contype in kinds
    if command.subtype == AlterTableType.AT_ValidateConstraint:
        return rule == "constraint-missing-not-valid"
    if command.subtype != AlterTableType.AT_AddColumn:
        return False
    given = {c.contype: c for c in command.def_.constraints or ()}
    if rule == "adding-required-field":
        return ConstrType.CONSTR_NOTNULL in given and ConstrType.CONSTR_DEFAULT not in given
    if rule == "adding-field-with-default":
        default = given.get(ConstrType.CONSTR_DEFAULT)
        return default is None or not _is_constant(default.raw_expr)
    return _CONSTRAINT_RULES.get(rule) in given


def _is_constant(node: Any) -> bool:
    """Say whether a default has one value for all old rows, so that none is written anew."""
    if isinstance(node, ast.TypeCast):
        return _is_constant(node.arg)
    if isinstance(node, ast.FuncCall):
        return (node.funcname or ("",))[-1].sval in _STABLE
    if isinstance(node, ast.A_ArrayExpr):
        return all(_is_constant(element) for element in node.elements or ())
    return isinstance(node, (ast.A_Const, ast.SQLValueFunction))


def _compose(parts: Sequence[Part]) -> str:
    """Return the parts under comments that tell them apart."""
    texts = []
    for number, part in enumerate(parts, 1):
        words = [f"Revision {number} of {len(parts)}"] if len(parts) > 1 else []
        if not part.is_plain:
            words.append("outside a transaction (with op.get_context().autocommit_block())")
        title = ", ".join(words)
        texts.append(f"-- {title[:1].upper()}{title[1:]}:\n{part.sql}" if title else part.sql)
    return "\n".join(texts)


def _parts(
    rule: str, statement: Any, text: str, columns: Sequence[ColumnFact]
) -> Iterator[Part] | list[Part]:
    if isinstance(statement, ast.IndexStmt) and rule in _INDEX_RULES:
        return _index(text)
    if isinstance(statement, (ast.UpdateStmt, ast.DeleteStmt)) and rule in _ROW_RULES:
        filled = in_batches(statement, columns)
        return [Part(filled, is_plain=False)] if filled else []
    if isinstance(statement, ast.AlterTableStmt) and rule != "ban-drop-column":
        return _alter(rule, statement, columns)
    return []


def _index(text: str) -> list[Part]:
    """Return the statement as it was written, with CONCURRENTLY."""
    plain = re.compile(
        r"\A((?:\s*/\*.*?\*/)*\s*create\s+(?:unique\s+)?index)(?!\s+concurrently)", re.I | re.S
    )
    made = plain.sub(r"\1 CONCURRENTLY", text.strip().rstrip(";"))
    return [Part(f"{made};", is_plain=False)] if parse_statement(made).concurrent else []


def _alter(rule: str, statement: Any, columns: Sequence[ColumnFact]) -> list[Part]:
    """Return the commands of ALTER TABLE in their order, those that fall under a rule anew."""
    if not any(_falls_under(rule, command) for command in statement.cmds):
        return []
    parts: list[Part] = []
    for command in statement.cmds:
        if not _falls_under(rule, command):
            statement.cmds = (command,)
            parts.append(Part(f"{RawStream()(statement)};"))
            continue
        made = list(_command(statement.relation, command, columns))
        if not made:
            return []
        parts += made
    return parts


def _command(table: Any, command: Any, columns: Sequence[ColumnFact]) -> Iterator[Part]:
    if command.subtype == AlterTableType.AT_AddConstraint:
        return _constraint(table, command.def_, columns)
    if command.subtype == AlterTableType.AT_SetNotNull:
        return _set_not_null(table, command.name)
    if command.subtype == AlterTableType.AT_ValidateConstraint:
        return _validate(table, command.name)
    if command.subtype == AlterTableType.AT_AlterColumnType:
        return _change_type(table, command, columns)
    return _add_column(table, command, columns)


def _constraint(table: Any, constraint: Any, columns: Sequence[ColumnFact]) -> Iterator[Part]:
    rewriter: dict[Any, Callable[..., Iterator[Part]]] = {
        ConstrType.CONSTR_CHECK: _not_valid,
        ConstrType.CONSTR_FOREIGN: _not_valid,
        ConstrType.CONSTR_NOTNULL: _not_valid,
        ConstrType.CONSTR_UNIQUE: _using_index,
        ConstrType.CONSTR_PRIMARY: _using_index,
    }
    make = rewriter.get(constraint.contype)
    return make(table, constraint, columns) if make else iter(())


def _not_valid(table: Any, constraint: Any, columns: Sequence[ColumnFact]) -> Iterator[Part]:
    """Write a CHECK or a foreign key: new rows are checked at once, old ones without a lock."""
    name = constraint_name(table.relname, constraint)
    constraint.conname = name
    constraint.skip_validation, constraint.initially_valid = True, False
    yield Part(f"ALTER TABLE {RawStream()(table)} ADD {RawStream()(constraint)};")
    yield Part(f"ALTER TABLE {RawStream()(table)} VALIDATE CONSTRAINT {quoted(name)};")


def _validate(table: Any, name: str) -> Iterator[Part]:
    """Write VALIDATE that stands beside what adds the constraint: the lock of that is kept."""
    yield Part(
        "-- In a revision of its own, after the one that adds it NOT VALID:\n"
        f"ALTER TABLE {RawStream()(table)} VALIDATE CONSTRAINT {quoted(name)};"
    )


def _using_index(table: Any, constraint: Any, columns: Sequence[ColumnFact]) -> Iterator[Part]:
    """Write UNIQUE or PRIMARY KEY: the index is built beside the writers, then taken over."""
    if constraint.indexname or getattr(constraint, "without_overlaps", False):
        return
    filled = {column.name for column in columns if column.not_null}
    if constraint.contype == ConstrType.CONSTR_PRIMARY:
        for key in constraint.keys:
            if key.sval not in filled:
                yield from _set_not_null(table, key.sval)
    name = quoted(constraint_name(table.relname, constraint))
    keys, including = (
        ", ".join(quoted(key.sval) for key in names or ())
        for names in (constraint.keys, constraint.including)
    )
    index = f"CREATE UNIQUE INDEX CONCURRENTLY {name} ON {_plain_name(table)} ({keys})"
    index += f" INCLUDE ({including})" if including else ""
    index += " NULLS NOT DISTINCT" if getattr(constraint, "nulls_not_distinct", False) else ""
    options = [
        f"{option.defname} = {RawStream()(option.arg)}" for option in constraint.options or ()
    ]
    index += f" WITH ({', '.join(options)})" if options else ""
    index += f" TABLESPACE {quoted(constraint.indexspace)}" if constraint.indexspace else ""
    yield Part(f"{index};", is_plain=False)
    kind = "PRIMARY KEY" if constraint.contype == ConstrType.CONSTR_PRIMARY else "UNIQUE"
    later = " DEFERRABLE" if constraint.deferrable else ""
    later += " INITIALLY DEFERRED" if constraint.initdeferred else ""
    yield Part(
        f"ALTER TABLE {_plain_name(table)} ADD CONSTRAINT {name} {kind} USING INDEX {name}{later};"
    )


def _plain_name(table: Any) -> str:
    """Return the table's name without ONLY and alias."""
    return quoted(*(name for name in (table.schemaname, table.relname) if name))


def _set_not_null(table: Any, column: str) -> Iterator[Part]:
    """Write SET NOT NULL: a valid CHECK proves it, so that it scans nothing (PostgreSQL 12 on)."""
    name, of = quoted(object_name(table.relname, column, "filled")), RawStream()(table)
    yield Part(
        f"ALTER TABLE {of} ADD CONSTRAINT {name} CHECK ({quoted(column)} IS NOT NULL) NOT VALID;"
    )
    yield Part(f"ALTER TABLE {of} VALIDATE CONSTRAINT {name};")
    yield Part(
        f"ALTER TABLE {of} ALTER COLUMN {quoted(column)} SET NOT NULL;\n"
        f"ALTER TABLE {of} DROP CONSTRAINT {name};"
    )


def _add_column(table: Any, command: Any, columns: Sequence[ColumnFact]) -> Iterator[Part]:
    """Write ADD COLUMN: bare first, then its default, its values, and what holds for them."""
    definition, of = command.def_, RawStream()(table)
    given = definition.constraints or ()
    kinds = {constraint.contype for constraint in given}
    known = {*_CONSTRAINT_RULES.values(), ConstrType.CONSTR_NOTNULL, ConstrType.CONSTR_DEFAULT}
    if definition.typeName.names[-1].sval in _SERIAL or not kinds <= known:
        return
    default = next((c for c in given if c.contype == ConstrType.CONSTR_DEFAULT), None)
    is_filled = default is not None and _is_constant(default.raw_expr)
    inline = {ConstrType.CONSTR_DEFAULT, ConstrType.CONSTR_NOTNULL} if is_filled else set()
    definition.constraints = tuple(c for c in given if c.contype in inline) or None
    late = RawStream()(default.raw_expr) if default is not None and not is_filled else ""
    made = _bare_column(table, command, late, columns)
    if not made:
        return
    yield from made
    column = quoted(definition.colname)
    if ConstrType.CONSTR_NOTNULL in kinds and not is_filled:
        if default is None:
            yield Part(f"-- UPDATE {of} SET {column} = ... WHERE {column} IS NULL; in batches")
        yield from _set_not_null(table, definition.colname)
    for constraint in given:
        if constraint.contype in _CONSTRAINT_RULES.values():
            yield from _constraint(table, _of_table(constraint, definition.colname), columns)


def _bare_column(
    table: Any, command: Any, late_default: str, columns: Sequence[ColumnFact]
) -> list[Part]:
    """Write a column that costs no row; a default that does is set after it and filled in."""
    of, column = RawStream()(table), quoted(command.def_.colname)
    if_not = "IF NOT EXISTS " if command.missing_ok else ""
    add = f"ALTER TABLE {of} ADD COLUMN {if_not}{RawStream()(command.def_)};"
    if not late_default:
        return [Part(add)]
    fill = f"UPDATE {of} SET {column} = {late_default} WHERE {column} IS NULL"
    filled = in_batches(parse_statement(fill), columns)
    add += f"\nALTER TABLE {of} ALTER COLUMN {column} SET DEFAULT {late_default};"
    return [Part(add), Part(filled, is_plain=False)] if filled else []


def _of_table(constraint: Any, column: str) -> Any:
    """Return a column's constraint as one of the table."""
    names = (ast.String(sval=column),)
    if constraint.contype == ConstrType.CONSTR_FOREIGN:
        constraint.fk_attrs = names
    elif constraint.contype != ConstrType.CONSTR_CHECK:
        constraint.keys = names
    return constraint


def _change_type(table: Any, command: Any, columns: Sequence[ColumnFact]) -> Iterator[Part]:
    """Write a change of type: a new column, kept equal by a trigger, filled, then changed over."""
    facts = {column.name: column for column in columns}
    old = facts.get(command.name)
    if old is None or old.is_key:
        return
    of, column = _plain_name(table), quoted(command.name)
    new, was = quoted(f"{command.name}_new"), quoted(f"{command.name}_old")
    keeper = quoted(object_name(table.relname, command.name, "new"))
    definition = command.def_
    value = RawStream()(definition.raw_default) if definition.raw_default else column
    collation = f" {RawStream()(definition.collClause)}" if definition.collClause else ""
    fill = in_batches(parse_statement(f"UPDATE {of} SET {new} = {value}"), columns)
    if not fill:
        return
    yield Part(
        f"ALTER TABLE {of} ADD COLUMN {new} {RawStream()(definition.typeName)}{collation};\n"
        f"CREATE FUNCTION {keeper}() RETURNS trigger LANGUAGE plpgsql AS\n"
        f"$$ BEGIN NEW.{new} := {_of_new_row(value, set(facts))}; RETURN NEW; END $$;\n"
        f"CREATE TRIGGER {keeper} BEFORE INSERT OR UPDATE ON {of}\n"
        f"FOR EACH ROW EXECUTE FUNCTION {keeper}();"
    )
    yield Part(fill, is_plain=False)
    if old.not_null:
        yield from _set_not_null(table, f"{command.name}_new")
    yield Part(
        f"-- Before this, make the default, indexes and constraints of {column} for {new}.\n"
        f"DROP TRIGGER {keeper} ON {of};\nDROP FUNCTION {keeper}();\n"
        f"ALTER TABLE {of} RENAME COLUMN {column} TO {was};\n"
        f"ALTER TABLE {of} RENAME COLUMN {new} TO {column};"
    )
    yield Part(f"ALTER TABLE {of} DROP COLUMN {was};")


def _of_new_row(expression: str, columns: set[str]) -> str:
    """Return an expression over a table's columns as a trigger writes it, over NEW."""

    class Columns(Visitor):
        def visit_ColumnRef(self, ancestors: Any, node: Any) -> None:
            if isinstance(node.fields[-1], ast.String) and node.fields[-1].sval in columns:
                node.fields = (ast.String(sval="new"), node.fields[-1])

    parsed = parse_statement(f"SELECT {expression}").targetList[0]
    Columns()(parsed)
    return str(RawStream()(parsed.val))
