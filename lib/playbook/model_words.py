"""A new revision's operations in words, and those that look like a rename. Layer 1: pure.

The operations are what `drafting.describe` makes of Alembic's: a mapping with ``kind``, ``schema``,
``table`` and what its kind needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from playbook.drafts import ModelChange, Unseen

__all__ = ["find_renames", "qualified", "tell_changes"]

Operation = Mapping[str, Any]


def qualified(op: Operation) -> str:
    """Return an operation's table, with its schema where that is named."""
    return f"{op['schema']}.{op['table']}" if op["schema"] else str(op["table"])


def tell_changes(operations: Sequence[Operation]) -> tuple[ModelChange, ...]:
    """Return one line for each operation, in their order."""
    return tuple(
        ModelChange(
            _WORDS.get(op["kind"], _other)(op), op["kind"] in {"DropTableOp", "DropColumnOp"}
        )
        for op in operations
    )


def _column(column: Mapping[str, Any]) -> str:
    parts = [str(column["type"]).lower(), "null" if column["nullable"] else "not null"]
    if column.get("default"):
        parts.append(_default(column["default"]))
    return ", ".join(part for part in parts if part)


def _default(text: str) -> str:
    return text if text.startswith(("identity", "computed")) else f"default {text}"


def _add_column(op: Operation) -> str:
    return f"adds column {qualified(op)}.{op['column']['name']}, {_column(op['column'])}"


def _drop_column(op: Operation) -> str:
    column = op["column"]
    kind = f", {column['type'].lower()}" if column["type"] else ""
    return f"drops column {qualified(op)}.{column['name']}{kind}, and what it holds"


def _alter_column(op: Operation) -> str:
    parts = []
    if "new_name" in op:
        parts.append(f"is renamed to {op['new_name']}")
    if "type" in op:
        was = f"from {op['old_type'].lower()} " if op["old_type"] else ""
        parts.append(f"changes its type {was}to {op['type'].lower()}")
    if "nullable" in op:
        parts.append("becomes nullable" if op["nullable"] else "becomes not null")
    if "default" in op:
        was = f" (was {op['old_default']})" if op["old_default"] else ""
        new = op["default"]
        parts.append(f"gets the default {new}{was}" if new else f"loses its default{was}")
    if "comment" in op:
        parts.append(
            f"gets the comment {op['comment']!r}" if op["comment"] else "loses its comment"
        )
    return f"column {qualified(op)}.{op['name']} {' and '.join(parts) or 'changes'}"


def _create_table(op: Operation) -> str:
    columns = "; ".join(f"{c['name']} {_column(c)}" for c in op["columns"])
    return f"creates table {qualified(op)}: {columns}"


def _drop_table(op: Operation) -> str:
    return f"drops table {qualified(op)}, and every row in it"


def _create_index(op: Operation) -> str:
    unique = "unique index" if op["unique"] else "index"
    where = f" where {op['where']}" if op["where"] else ""
    return f"creates {unique} {op['name']} on {qualified(op)} ({_list(op)}){where}"


def _list(op: Operation) -> str:
    return ", ".join(op["columns"])


def _drop_index(op: Operation) -> str:
    return f"drops index {op['name']} of {qualified(op)}"


def _unique(op: Operation) -> str:
    return f"makes ({_list(op)}) of {qualified(op)} unique{_called(op)}"


def _primary_key(op: Operation) -> str:
    return f"makes ({_list(op)}) the primary key of {qualified(op)}{_called(op)}"


def _foreign_key(op: Operation) -> str:
    parent = f"{op['parent']} ({', '.join(op['parent_columns'])})"
    then = f", on delete {op['ondelete'].lower()}" if op["ondelete"] else ""
    return f"lets ({_list(op)}) of {qualified(op)} refer to {parent}{then}{_called(op)}"


def _called(op: Operation) -> str:
    return f": constraint {op['name']}" if op["name"] else ""


def _drop_constraint(op: Operation) -> str:
    kind = {"foreignkey": "foreign key", "unique": "unique constraint", "check": "check"}
    name = kind.get(op["type"], op["type"] or "constraint")
    return f"drops {name} {op['name']} of {qualified(op)}"


def _table_comment(op: Operation) -> str:
    return f"table {qualified(op)} gets the comment {op['comment']!r}"


def _drop_table_comment(op: Operation) -> str:
    return f"table {qualified(op)} loses its comment"


def _execute(op: Operation) -> str:
    return f"runs {' '.join(op['sql'].split())}"


def _other(op: Operation) -> str:
    of = f" on {qualified(op)}" if op["table"] else ""
    return f"runs the project's own operation {op['kind']}{of}"


_WORDS: dict[str, Callable[[Operation], str]] = {
    "AddColumnOp": _add_column,
    "AlterColumnOp": _alter_column,
    "CreateForeignKeyOp": _foreign_key,
    "CreateIndexOp": _create_index,
    "CreatePrimaryKeyOp": _primary_key,
    "CreateTableCommentOp": _table_comment,
    "CreateTableOp": _create_table,
    "CreateUniqueConstraintOp": _unique,
    "DropColumnOp": _drop_column,
    "DropConstraintOp": _drop_constraint,
    "DropIndexOp": _drop_index,
    "DropTableCommentOp": _drop_table_comment,
    "DropTableOp": _drop_table,
    "ExecuteSQLOp": _execute,
}


def find_renames(operations: Sequence[Operation]) -> tuple[Unseen, ...]:
    """Return what is dropped and added in the same form, and so is likely renamed."""
    return (*_renamed_tables(operations), *_renamed_columns(operations))


def _renamed_tables(operations: Sequence[Operation]) -> list[Unseen]:
    found = []
    new = [op for op in operations if op["kind"] == "CreateTableOp"]
    for old in (op for op in operations if op["kind"] == "DropTableOp"):
        match = next((op for op in new if _form(op) == _form(old)), None)
        if match is None:
            continue
        new.remove(match)
        schema = f", schema={old['schema']!r}" if old["schema"] else ""
        found.append(
            Unseen(
                "rename",
                f"{qualified(old)} -> {qualified(match)}",
                "The table that goes and the one that comes have the same columns: likely renamed. "
                "As it stands, every row is lost.",
                f'op.rename_table("{old["table"]}", "{match["table"]}"{schema})',
            )
        )
    return found


def _form(op: Operation) -> tuple[str, list[tuple[str, str]]]:
    return op["schema"], sorted((c["name"], c["type"]) for c in op["columns"])


def _renamed_columns(operations: Sequence[Operation]) -> list[Unseen]:
    found = []
    new = [op for op in operations if op["kind"] == "AddColumnOp"]
    for old in (op for op in operations if op["kind"] == "DropColumnOp"):
        match = next((op for op in new if _is_same_column(old, op)), None)
        if match is None:
            continue
        new.remove(match)
        was, now = old["column"]["name"], match["column"]["name"]
        schema = f', schema="{old["schema"]}"' if old["schema"] else ""
        found.append(
            Unseen(
                "rename",
                f"{qualified(old)}.{was} -> {now}",
                "The column that goes and the one that comes have the same type: likely renamed. "
                "As it stands, what it holds is lost.",
                f'op.alter_column("{old["table"]}", "{was}", new_column_name="{now}"{schema})',
            )
        )
    return found


def _is_same_column(old: Operation, new: Operation) -> bool:
    same = (old["schema"], old["table"]) == (new["schema"], new["table"])
    return same and old["column"]["type"] == new["column"]["type"]
