"""What a revision file says that it means to change. Layer 1: pure, text only.

A line ``# playbook: changes users.email, orders because ...`` names columns and whole tables;
``# playbook: changes nothing`` says that no value that is there before may be another one after.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["is_named", "read_declarations"]

_LINE = re.compile(
    r"^\s*#\s*playbook:\s*changes\s+(?P<objects>\S.*?)(?:\s+because\b.*)?\s*$", re.MULTILINE
)
NOTHING = "nothing"


def read_declarations(text: str) -> tuple[str, ...] | None:
    """Return what a revision file declares to change, in its order; None if it declares nothing.

    Returns:
        ``table``, ``table.column``, ``schema.table`` or ``schema.table.column``, as written;
        empty for ``changes nothing``.
    """
    lines = [match["objects"] for match in _LINE.finditer(text)]
    if not lines:
        return None
    names = [name.strip() for line in lines for name in line.split(",")]
    return tuple(name for name in dict.fromkeys(names) if name and name != NOTHING)


def is_named(table: str, column: str, declared: Sequence[str]) -> bool:
    """Say whether a declaration names a column or its table.

    Args:
        table: ``schema.table``.
        column: "" asks whether it names the table or any column of it.
    """
    bare = table.split(".", 1)[1]
    tables = {table, bare}
    if not column:
        return any(name in tables or name.rpartition(".")[0] in tables for name in declared)
    return bool({*tables, *(f"{name}.{column}" for name in tables)} & set(declared))
