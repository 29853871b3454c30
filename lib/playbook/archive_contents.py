"""What a dump needs of the server that takes it, and parts of it. Layer 3, on dump: reads files.

Roles, extensions and partitions are found by PostgreSQL's own parser in the schema that pg_restore
writes as SQL; no database is asked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pglast import ast, parse_sql
from pglast.enums import AlterTableType, RoleSpecType
from pglast.parser import ParseError
from pglast.visitors import Visitor

from playbook.dump import ClientTools, list_archive, read_schema

__all__ = ["Contents", "list_of_tables", "read_contents"]

_ENTRY = re.compile(r"^\d+; (?P<catalogue>\d+) \d+ (?P<entry>.+)$")
_LEFT_OUT = (
    "FK CONSTRAINT ", "MATERIALIZED VIEW DATA ", "BLOB ", "BLOBS ", "BLOB METADATA ",
    "COMMENT LARGE OBJECT", "ACL LARGE OBJECT", "COMMENT - LARGE OBJECT", "ACL - LARGE OBJECT",
    "SECURITY LABEL - LARGE OBJECT",
)  # fmt: skip
"""Entries that stand on the rows of tables which are left out, or on no table at all."""


@dataclass(frozen=True)
class Contents:
    """What a dump stands on.

    ``roles`` are owners and those with privileges, who can be done without; ``needed_roles`` those
    of policies and user mappings, who cannot. ``partitions`` leads from ``schema.partition`` to
    its parent. ``readable`` is False if the schema could not be parsed: all else is then empty.
    """

    roles: frozenset[str] = frozenset()
    needed_roles: frozenset[str] = frozenset()
    extensions: frozenset[str] = frozenset()
    partitions: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    readable: bool = True


class _Finder(Visitor):
    """Collects what `Contents` tells."""

    def __init__(self) -> None:
        super().__init__()
        self.roles: set[str] = set()
        self.needed_roles: set[str] = set()
        self.extensions: set[str] = set()
        self.partitions: dict[str, str] = {}
        self._needed = False

    def visit_RawStmt(self, _ancestors: Any, node: ast.RawStmt) -> None:
        self._needed = isinstance(node.stmt, (ast.CreatePolicyStmt, ast.CreateUserMappingStmt))

    def visit_RoleSpec(self, _ancestors: Any, node: ast.RoleSpec) -> None:
        if node.roletype == RoleSpecType.ROLESPEC_CSTRING and node.rolename:
            (self.needed_roles if self._needed else self.roles).add(node.rolename)

    def visit_CreateExtensionStmt(self, _ancestors: Any, node: ast.CreateExtensionStmt) -> None:
        self.extensions.add(node.extname or "")

    def visit_AlterTableStmt(self, _ancestors: Any, node: ast.AlterTableStmt) -> None:
        for command in node.cmds or ():
            if command.subtype == AlterTableType.AT_AttachPartition:
                self.partitions[_name(command.def_.name)] = _name(node.relation)


def _name(relation: ast.RangeVar | None) -> str:
    return f"{relation.schemaname}.{relation.relname}" if relation else ""


def read_contents(directory: Path, *, tools: ClientTools) -> Contents:
    """Return what a dump stands on.

    Args:
        directory: the dump, in pg_dump's directory format.

    Raises:
        BackupFailed: pg_restore cannot read it.
    """
    finder = _Finder()
    try:
        finder(parse_sql(read_schema(directory, tools=tools)))
    except ParseError:  # of a PostgreSQL newer than the parser
        return Contents(readable=False)
    return Contents(
        frozenset(finder.roles),
        frozenset(finder.needed_roles),
        frozenset(finder.extensions),
        MappingProxyType(finder.partitions),
    )


def list_of_tables(
    directory: Path, contents: Contents, tables: Sequence[str], *, known: Iterable[str],
    tools: ClientTools,
) -> str:  # fmt: skip
    """Return a list for pg_restore's ``--use-list``: the schema, and the rows of some tables.

    Every object is made, so that nothing that the tables stand on is missing, but foreign keys,
    which would look for rows that are left out; materialised views stay empty.

    Args:
        tables: whose rows are wanted, as ``schema.table``; a partitioned one's partitions too.
        known: all tables of the dump.
    """
    every = {*known, *contents.partitions}
    wanted = {name for name in every if _root(name, contents.partitions) in tables}
    prefixes = {f"TABLE DATA {_as_listed(name)} ": name in wanted for name in every}
    lines = list_archive(directory, tools=tools).split("\n")  # other line ends stay in names
    return "".join(f"{line}\n" for line in lines if _stays(line, prefixes))


def _as_listed(name: str) -> str:
    """Return ``schema.table`` as pg_restore lists it: no line ends (sanitize_line)."""
    return name.replace(".", " ", 1).replace("\n", " ").replace("\r", " ")


def _root(name: str, partitions: Mapping[str, str]) -> str:
    while name in partitions:
        name = partitions[name]
    return name


def _stays(line: str, prefixes: Mapping[str, bool]) -> bool:
    match = _ENTRY.match(line)
    if not match or match["entry"].startswith(_LEFT_OUT):
        return not match
    entry = match["entry"]
    # A table of a schema "DATA" reads alike, but is in a catalogue.
    if not entry.startswith("TABLE DATA ") or match["catalogue"] != "0":
        return True
    # The names are not quoted: of two tables "a" and "a b", the longer one is meant.
    found = max((p for p in prefixes if entry.startswith(p)), key=len, default="")
    return prefixes.get(found, False)
