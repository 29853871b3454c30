"""Which privileges SQL asks for, in its order, by PostgreSQL's own parser. Layer 1: pure.

What the SQL makes itself asks for nothing later: its maker owns it. What cannot be told from
text (DO blocks, functions called, all that follows SET ROLE) is left out rather than guessed.
Source: PostgreSQL's documentation of each command and of "Privileges".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from pglast import ast
from pglast.enums import AlterTableType, ConstrType, ObjectType
from pglast.visitors import Visitor

from playbook.locks import MODES
from playbook.statements import parse

__all__ = ["Need", "concurrent_locks", "needs_of"]


class Need(NamedTuple):
    """A privilege on an object.

    ``kind`` is ``relation``, ``type``, ``function``, ``schema``, ``schema of`` (the one a relation
    is in), ``database`` or ``extension``; ``schema`` "" means the search path, and of kind
    ``schema`` the first one there. ``privilege`` is OWNER, DROP (its owner's or its schema
    owner's) or PostgreSQL's own word.
    """

    privilege: str
    kind: str
    schema: str = ""
    name: str = ""


_KINDS = {
    ObjectType.OBJECT_TABLE: "relation",
    ObjectType.OBJECT_INDEX: "relation",
    ObjectType.OBJECT_SEQUENCE: "relation",
    ObjectType.OBJECT_VIEW: "relation",
    ObjectType.OBJECT_MATVIEW: "relation",
    ObjectType.OBJECT_TYPE: "type",
    ObjectType.OBJECT_DOMAIN: "type",
    ObjectType.OBJECT_FUNCTION: "function",
}
_ON_A_TABLE = {ObjectType.OBJECT_TRIGGER, ObjectType.OBJECT_RULE, ObjectType.OBJECT_POLICY}
_DML = {ast.InsertStmt: "INSERT", ast.UpdateStmt: "UPDATE", ast.DeleteStmt: "DELETE"}


def needs_of(text: str) -> list[Need]:
    """Return what SQL asks for, each once, in its order; empty if it cannot be parsed."""
    made: set[tuple[str, str, str]] = set()
    found: dict[Need, None] = {}
    for statement in parse(text):
        if isinstance(statement, ast.VariableSetStmt) and statement.name in ("role", "search_path"):
            break
        for need in _needs(statement):
            if not _is_made(need, made):
                found[need] = None
        made.update(_makes(statement))
    return list(found)


def concurrent_locks(text: str) -> dict[str, str]:
    """Return the mode whose holders a concurrent step waits for, per table, ``schema.table``.

    Building an index CONCURRENTLY waits until nobody holds what conflicts with ShareLock on its
    table, detaching a partition for all who use the parent; both then take weaker locks.
    Source: PostgreSQL's documentation, "Building Indexes Concurrently", and WaitForLockers in
    src/backend/commands/indexcmds.c and tablecmds.c.
    """
    found = {}
    for statement in parse(text):
        relation = getattr(statement, "relation", None)
        mode = _concurrent_mode(statement)
        if mode and isinstance(relation, ast.RangeVar):
            found[f"{relation.schemaname or 'public'}.{relation.relname}"] = mode
    return found


def _concurrent_mode(statement: Any) -> str:
    if isinstance(statement, ast.IndexStmt):
        return "ShareLock" if statement.concurrent else ""
    if isinstance(statement, ast.ReindexStmt):
        options = [option.defname for option in statement.params or ()]
        return "ShareLock" if "concurrently" in options else ""
    if isinstance(statement, ast.AlterTableStmt):
        commands = [c.def_ for c in statement.cmds or () if isinstance(c.def_, ast.PartitionCmd)]
        return MODES[-1] if any(command.concurrent for command in commands) else ""
    return ""


def _is_made(need: Need, made: set[tuple[str, str, str]]) -> bool:
    """Say whether the SQL itself made the object, or the schema it is in."""
    if ("schema", "", need.schema) in made and need.schema:
        return True
    kind = "relation" if need.kind == "schema of" else need.kind
    return any(
        (kind, need.name) == (other, name)
        and (need.schema == schema or not need.schema or not schema)
        for other, schema, name in made
        if name and other != "schema"
    )


def _makes(statement: Any) -> Iterator[tuple[str, str, str]]:
    """Yield what a statement certainly makes: IF NOT EXISTS may leave another's in place."""
    if getattr(statement, "if_not_exists", False):
        return
    if isinstance(statement, ast.CreateSchemaStmt):
        yield "schema", "", statement.schemaname or ""
    for need in _created(statement):
        yield need.kind, need.schema, need.name


def _created(statement: Any) -> Iterator[Need]:
    """Yield the object that a statement creates."""
    relation, type_ = _new_relation(statement), _type_name(statement)
    if relation is not None:
        yield _of("CREATE", relation)
    if type_:
        yield Need("CREATE", "type", *type_)
    if isinstance(statement, ast.CreateFunctionStmt):
        yield Need("CREATE", "function", *_parts(statement.funcname))


def _new_relation(statement: Any) -> Any:
    into: Any = getattr(statement, "into", None)
    if isinstance(statement, ast.CreateStmt):
        return statement.relation
    if isinstance(statement, ast.CreateSeqStmt):
        return statement.sequence
    if isinstance(statement, ast.ViewStmt):
        return statement.view
    return into.rel if isinstance(statement, ast.CreateTableAsStmt) else None


def _type_name(statement: Any) -> tuple[str, str] | None:
    if isinstance(statement, (ast.CreateEnumStmt, ast.CreateRangeStmt)):
        return _parts(statement.typeName)
    if isinstance(statement, ast.CompositeTypeStmt):
        type_: Any = statement.typevar
        return type_.schemaname or "", type_.relname
    return _parts(statement.domainname) if isinstance(statement, ast.CreateDomainStmt) else None


def _needs(statement: Any) -> Iterator[Need]:
    new = _new_relation(statement)
    if new is None or new.relpersistence != "t":  # a temporary one goes to a schema of its own
        yield from (Need("CREATE", "schema", created.schema) for created in _created(statement))
    for kind, answer in _ANSWERS.items():
        if isinstance(statement, kind):
            yield from answer(statement)
    if type(statement) in _DML or isinstance(statement, (ast.SelectStmt, ast.CreateTableAsStmt)):
        yield from _reads(statement)


def _table(statement: Any) -> Iterator[Need]:
    for parent in statement.inhRelations or ():
        yield _of("OWNER", parent)
    yield from _referenced(statement.tableElts or ())


def _alter(statement: Any) -> Iterator[Need]:
    yield _of("OWNER", statement.relation)
    for command in statement.cmds or ():
        definition = command.def_
        if isinstance(definition, ast.PartitionCmd):
            yield _of("OWNER", definition.name)
        elif definition is not None:
            yield from _referenced((definition,))
        if command.subtype == AlterTableType.AT_AddConstraint and _makes_index(definition):
            yield _of("CREATE", statement.relation, kind="schema of")


def _makes_index(constraint: Any) -> bool:
    kinds = (ConstrType.CONSTR_UNIQUE, ConstrType.CONSTR_PRIMARY, ConstrType.CONSTR_EXCLUSION)
    return constraint.contype in kinds


def _referenced(elements: Any) -> Iterator[Need]:
    """Yield REFERENCES for the tables that foreign keys of columns or tables point at."""
    for element in elements:
        constraints = (element, *(getattr(element, "constraints", None) or ()))
        for constraint in constraints:
            if isinstance(constraint, ast.Constraint) and constraint.pktable is not None:
                yield _of("REFERENCES", constraint.pktable)


def _index(statement: Any) -> Iterator[Need]:
    yield _of("OWNER", statement.relation)
    yield _of("CREATE", statement.relation, kind="schema of")


def _drop(statement: Any) -> Iterator[Need]:
    for dropped in statement.objects or ():
        if statement.removeType in _ON_A_TABLE:
            yield Need("OWNER", "relation", *_parts(dropped[:-1]))
        elif statement.removeType == ObjectType.OBJECT_SCHEMA:
            yield Need("OWNER", "schema", dropped.sval)
        elif statement.removeType in _KINDS:
            yield Need("DROP", _KINDS[statement.removeType], *_parts(dropped))


def _rename(statement: Any) -> Iterator[Need]:
    if statement.relation is not None:
        yield _of("OWNER", statement.relation)
    elif statement.renameType == ObjectType.OBJECT_SCHEMA:
        yield Need("OWNER", "schema", statement.subname)
    elif statement.renameType in _KINDS:
        yield Need("OWNER", _KINDS[statement.renameType], *_parts(statement.object))


def _move(statement: Any) -> Iterator[Need]:
    if statement.relation is not None:
        yield _of("OWNER", statement.relation)
    yield Need("CREATE", "schema", statement.newschema)


def _comment(statement: Any) -> Iterator[Need]:
    if statement.objtype == ObjectType.OBJECT_TABLE:
        yield Need("OWNER", "relation", *_parts(statement.object))
    elif statement.objtype == ObjectType.OBJECT_COLUMN:
        yield Need("OWNER", "relation", *_parts(statement.object[:-1]))


def _write(statement: Any) -> Iterator[Need]:
    yield _of(_DML[type(statement)], statement.relation)
    if getattr(statement, "whereClause", None) is not None:
        yield _of("SELECT", statement.relation)


def _reads(statement: Any) -> Iterator[Need]:
    """Yield SELECT for the tables that a query reads, and what it writes inside WITH."""
    tables, inner = [], []

    class Read(Visitor):
        def visit_RangeVar(self, ancestors: Any, node: Any) -> None:
            tables.append(node)

        def visit_CommonTableExpr(self, ancestors: Any, node: Any) -> None:
            inner.append(node)

    Read()(statement)
    writes = [common.ctequery for common in inner if type(common.ctequery) in _DML]
    for write in writes:
        yield from _write(write)
    changed = [write.relation for write in writes] + [_changed(statement)]
    common_names = {common.ctename for common in inner}
    for table in tables:
        is_common = not table.schemaname and table.relname in common_names
        if not is_common and not any(table is relation for relation in changed):
            yield _of("SELECT", table)


def _changed(statement: Any) -> Any:
    return statement.relation if type(statement) in _DML else _new_relation(statement)


_ANSWERS: dict[type, Any] = {
    ast.CreateStmt: _table,
    ast.AlterTableStmt: _alter,
    ast.IndexStmt: _index,
    ast.DropStmt: _drop,
    ast.RenameStmt: _rename,
    ast.AlterObjectSchemaStmt: _move,
    ast.CommentStmt: _comment,
    ast.InsertStmt: _write,
    ast.UpdateStmt: _write,
    ast.DeleteStmt: _write,
    ast.TruncateStmt: lambda s: (_of("TRUNCATE", relation) for relation in s.relations),
    ast.CreateTrigStmt: lambda s: (_of("TRIGGER", s.relation),),
    ast.CreatePolicyStmt: lambda s: (_of("OWNER", s.table),),
    ast.AlterEnumStmt: lambda s: (Need("OWNER", "type", *_parts(s.typeName)),),
    ast.AlterDomainStmt: lambda s: (Need("OWNER", "type", *_parts(s.typeName)),),
    ast.AlterSeqStmt: lambda s: (_of("OWNER", s.sequence),),
    ast.CreateSchemaStmt: lambda s: (Need("CREATE", "database"),),
    ast.CreateExtensionStmt: lambda s: (Need("CREATE", "extension", "", s.extname),),
}
"""Per kind of statement, what it asks for besides CREATE where its object goes."""


def _of(privilege: str, relation: Any, kind: str = "relation") -> Need:
    return Need(privilege, kind, relation.schemaname or "", relation.relname)


def _parts(named: Any) -> tuple[str, str]:
    """Return (schema or "", name) of what the parser gives as a name in parts."""
    parts = getattr(named, "objname", None) or getattr(named, "names", None) or named
    texts = [part.sval for part in parts][-2:]
    return (texts[0], texts[1]) if len(texts) > 1 else ("", texts[0])
