"""UPDATE and DELETE a batch of rows at a time, by primary key. Layer 1: pure.

A block that commits after each batch (PostgreSQL 11 on): no row stays locked for longer than its
batch takes, and vacuum may take dead rows away meanwhile. It begins each batch after the last key
of the one before, so it reads the table once, whatever the condition means.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pglast.stream import RawStream
from pglast.visitors import Visitor

from playbook.constraints import quoted
from playbook.records import ColumnFact
from playbook.statements import parse_statement

__all__ = ["BATCH_ROWS", "in_batches"]

BATCH_ROWS = 1000
"""As pgroll, gh-ost and GitLab fill: each batch well under a second."""

_BLOCK = """\
DO $$
DECLARE
{declarations}
BEGIN
  SELECT {keys} INTO {firsts} FROM {table} ORDER BY {keys} LIMIT 1;
  WHILE FOUND LOOP
    SELECT {keys} INTO {lasts} FROM (
      SELECT {keys} FROM {table} WHERE {row} >= {first} ORDER BY {keys} LIMIT {size}
    ) AS batch ORDER BY {descending} LIMIT 1;
    {statement};
    COMMIT;
    SELECT {keys} INTO {firsts} FROM {table} WHERE {row} > {last} ORDER BY {keys} LIMIT 1;
  END LOOP;
END
$$;"""


def in_batches(statement: Any, columns: Sequence[ColumnFact]) -> str:
    """Return a parsed UPDATE or DELETE as a block that goes by batches.

    Returns:
        "" where that would not be the same: there is no primary key or it is what is changed, or
        other rows decide what becomes of one (FROM, USING, WITH, a query within).
    """
    keys = [column.name for column in columns if column.is_key]
    if not keys or _sees_other_rows(statement) or set(keys) & _written(statement):
        return ""
    table = statement.relation
    of = quoted(*(name for name in (table.schemaname, table.relname) if name))
    names = [quoted(key) for key in keys]
    firsts = [f"first_{number}" for number in range(1, len(keys) + 1)]
    lasts = [f"last_{number}" for number in range(1, len(keys) + 1)]
    called = quoted(table.alias.aliasname if table.alias else table.relname)
    qualified = _row([f"{called}.{name}" for name in names])
    bounds = f"{qualified} >= {_row(firsts)} AND {qualified} <= {_row(lasts)}"
    _narrow(statement, bounds)
    return _BLOCK.format(
        declarations="\n".join(
            f"  {variable} {of}.{name}%TYPE;"
            for variables in (firsts, lasts)
            for variable, name in zip(variables, names, strict=True)
        ),
        keys=", ".join(names),
        firsts=", ".join(firsts),
        lasts=", ".join(lasts),
        row=_row(names),
        first=_row(firsts),
        last=_row(lasts),
        descending=", ".join(f"{name} DESC" for name in names),
        table=of,
        size=BATCH_ROWS,
        statement=RawStream()(statement),
    )


def _row(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"({', '.join(names)})"


def _narrow(statement: Any, bounds: str) -> None:
    """Add a condition to a statement's own."""
    where = statement.whereClause
    both = f"({RawStream()(where)}) AND {bounds}" if where else bounds
    statement.whereClause = parse_statement(f"SELECT WHERE {both}").whereClause


def _written(statement: Any) -> set[str]:
    return {target.name for target in getattr(statement, "targetList", None) or ()}


def _sees_other_rows(statement: Any) -> bool:
    if statement.withClause or getattr(statement, "fromClause", None):
        return True
    if getattr(statement, "usingClause", None):
        return True
    found: list[Any] = []

    class Queries(Visitor):
        def visit_SubLink(self, ancestors: Any, node: Any) -> None:
            found.append(node)

    Queries()(statement)
    return bool(found)
