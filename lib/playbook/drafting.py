"""Compares a project's models with a database and writes a revision file from that.

A part of `runner.py`, which loads it by its path on first use, in the same process and under the
same conditions: Alembic and SQLAlchemy, nothing of the playbook. All of it is Alembic's own
machinery (autogenerate, env.py's ``process_revision_directives``, the project's script.py.mako,
its post-write hooks); here it is only driven, and its operations are described as plain data.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import sqlalchemy
from alembic import autogenerate, util
from alembic.autogenerate.api import AutogenContext
from alembic.operations import ops

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from alembic.runtime.migration import MigrationContext


def compare(runner: Any, request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the operations of a new revision; it is kept for `write`, and nothing is written.

    Without ``autogenerate`` env.py runs only where the project's ``revision_environment`` says
    so, as under ``alembic revision``.
    """
    arguments = dict(
        {"sql": False, "splice": False, "version_path": None, "depends_on": None},
        **{key: request[key] for key in ("message", "autogenerate", "head")},
        branch_label=request["branch_label"] or None,
        rev_id=request["rev_id"] or None,
    )
    context = autogenerate.RevisionContext(runner.config, runner.script, arguments)
    found: dict[str, Any] = {"tables": [], "dialect": None}

    def look(heads: tuple[str, ...], migration_context: MigrationContext) -> list[Any]:
        if arguments["autogenerate"]:
            context.run_autogenerate(heads, migration_context)
            found["tables"] = compared_tables(AutogenContext(migration_context))
        else:
            context.run_no_autogenerate(heads, migration_context)
        found["dialect"] = migration_context.dialect
        return []

    if arguments["autogenerate"] or option(runner.config, "revision_environment"):
        runner.observer.reset({"default_transaction_read_only": "on"})
        runner.run_env(
            look, dont_mutate=True, template_args=context.template_args, revision_context=context
        )
    runner.revision_context = context
    scripts = context.generated_revisions
    return {
        "revisions": [script.rev_id for script in scripts],
        "operations": [
            record
            for script in scripts
            for container in script.upgrade_ops_list
            for record in describe_all(container.ops, found["dialect"])
        ],
        "tables": found["tables"],
        "destination": destination(runner.script, request["head"]),
    }


def write(runner: Any, request: Mapping[str, Any]) -> list[dict[str, str]]:
    """Write what `compare` found into a folder that is one of the version locations by then."""
    runner.add_versions(request["folder"])
    for script in runner.revision_context.generated_revisions:
        script.version_path = request["folder"]
    made = [script for script in runner.revision_context.generate_scripts() if script is not None]
    return [{"revision": script.revision, "path": script.path} for script in made]


def write_steps(runner: Any, request: Mapping[str, Any]) -> list[dict[str, str]]:
    """Write revisions that follow each other, whose functions' bodies are given as Python."""
    runner.add_versions(request["folder"])
    made, head, label = [], request["head"], request["branch_label"] or None
    for step in request["steps"]:
        script = runner.script.generate_revision(
            step["rev_id"] or util.rev_id(),
            step["message"],
            refresh=True,
            head=head,
            splice=False,
            branch_labels=label,
            version_path=request["folder"],
            depends_on=None,
            config=runner.config,
            imports="",
            upgrades=indented(step["upgrade"]),
            downgrades=indented(step["downgrade"]),
        )
        made.append({"revision": script.revision, "path": script.path})
        head, label = script.revision, None
    return made


def indented(code: str) -> str:
    """Return lines as Alembic's renderer hands them to a template: all but the first indented."""
    return "\n".join(" " * 4 + line if line else line for line in code.split("\n")).strip()


def create_models(runner: Any, request: Mapping[str, Any]) -> dict[str, Any]:
    """Make the models' tables in an empty scratch database, by SQLAlchemy's own create_all()."""

    def make(heads: tuple[str, ...], migration_context: MigrationContext) -> list[Any]:
        compared = {tuple(key) for key in compared_tables(AutogenContext(migration_context))}
        connection: Any = migration_context.connection
        with connection.engine.begin() as own:  # Alembic's own transaction may be anybody's
            for metadata in util.to_list(migration_context.opts["target_metadata"]):
                tables = [t for t in metadata.sorted_tables if (t.schema or "", t.name) in compared]
                for schema in sorted({t.schema for t in tables if t.schema}):
                    quoted = own.dialect.identifier_preparer.quote(schema)
                    own.execute(sqlalchemy.text("CREATE SCHEMA IF NOT EXISTS %s" % quoted))
                metadata.create_all(own, tables=tables)
        return []

    runner.observer.reset({"default_transaction_read_only": "off"})
    runner.run_env(make, dont_mutate=True)
    return {}


def option(config: Any, name: str) -> bool:
    """Return a truth value of the project's configuration, also where pyproject.toml has it."""
    read = getattr(config, "get_alembic_option", config.get_main_option)
    return bool(util.asbool(read(name)))


def destination(script: Any, head: str) -> str:
    """Return the folder in which Alembic would put a revision that follows a head."""
    with script._catch_revision_errors(
        multiple_heads="There are several heads, and none of them is named"
    ):
        found = [one for one in script.get_revisions(head) if one is not None]
    if found:
        return os.path.dirname(os.path.abspath(str(found[0].path)))
    locations = [str(location) for location in script._version_locations]
    if len(locations) > 1:
        raise util.CommandError("several version_locations, and no revision to follow")
    return os.path.abspath(locations[0])


def compared_tables(context: Any) -> list[list[str]]:
    """Return (schema, name) of the models' tables that env.py's filters leave in."""
    found = []
    for table in context.sorted_tables:
        parents = {"schema_name": table.schema}
        if context.run_name_filters(table.name, "table", parents) and context.run_object_filters(
            table, table.name, "table", False, None
        ):
            found.append([table.schema or "", table.name])
    return found


def describe_all(operations: Iterable[Any], dialect: Any) -> Iterator[dict[str, Any]]:
    """Describe operations in their order; those on one table are grouped by Alembic."""
    for operation in operations:
        if isinstance(operation, ops.ModifyTableOps):
            yield from describe_all(operation.ops, dialect)
        else:
            yield describe(operation, dialect)


def describe(operation: Any, dialect: Any) -> dict[str, Any]:
    """Return one operation as data; of a kind that is not known, its name."""
    kind = type(operation).__name__
    table = getattr(operation, "table_name", None) or getattr(operation, "source_table", None)
    record = {
        "kind": kind,
        "schema": getattr(operation, "schema", None) or source_schema(operation) or "",
        "table": str(table or ""),
    }
    more = DESCRIBED.get(kind)
    return dict(record, **more(operation, dialect)) if more else record


def source_schema(operation: Any) -> str | None:
    """Return the schema of a foreign key's own table."""
    found: str | None = (getattr(operation, "kw", None) or {}).get("source_schema")
    return found


def add_column(operation: Any, dialect: Any) -> dict[str, Any]:
    """Describe a column that comes."""
    return {"column": column(operation.column, dialect)}


def drop_column(operation: Any, dialect: Any) -> dict[str, Any]:
    """Describe a column that goes, as the database has it."""
    reverse = getattr(operation, "_reverse", None)
    known = getattr(reverse, "column", None)
    if known is None:
        return {"column": {"name": operation.column_name, "type": "", "nullable": True}}
    return {"column": column(known, dialect)}


def alter_column(operation: Any, dialect: Any) -> dict[str, Any]:
    """Describe what changes of a column: only what is told to change is there."""
    record: dict[str, Any] = {"name": operation.column_name}
    if operation.modify_name is not None:
        record["new_name"] = operation.modify_name
    if operation.modify_type is not None:
        record["type"] = type_text(operation.modify_type, dialect)
        record["old_type"] = type_text(operation.existing_type, dialect)
    if operation.modify_nullable is not None:
        record["nullable"] = bool(operation.modify_nullable)
    if operation.modify_server_default is not False:
        record["default"] = default_text(operation.modify_server_default, dialect)
        record["old_default"] = default_text(operation.existing_server_default, dialect)
    if operation.modify_comment is not False:
        record["comment"] = operation.modify_comment or ""
    return record


def create_table(operation: Any, dialect: Any) -> dict[str, Any]:
    """Describe a table that comes: its columns and constraints."""
    return {"columns": columns_of(operation, dialect), "constraints": constraints_of(operation)}


def drop_table(operation: Any, dialect: Any) -> dict[str, Any]:
    """Describe a table that goes, as the database has it."""
    reverse = getattr(operation, "_reverse", None)
    return {"columns": columns_of(reverse, dialect) if reverse is not None else []}


def create_index(operation: Any, dialect: Any) -> dict[str, Any]:
    """Describe an index."""
    return {
        "name": str(operation.index_name or ""),
        "columns": [
            str(item.name) if isinstance(item, sqlalchemy.Column) else expression(item, dialect)
            for item in operation.columns
        ],
        "unique": bool(operation.unique),
        "where": expression(operation.kw.get("postgresql_where"), dialect),
    }


def named(operation: Any, dialect: Any) -> dict[str, Any]:
    """Describe what goes by its name."""
    name = getattr(operation, "index_name", None) or getattr(operation, "constraint_name", None)
    return {"name": str(name or ""), "type": str(getattr(operation, "constraint_type", "") or "")}


def key(operation: Any, dialect: Any) -> dict[str, Any]:
    """Describe a UNIQUE or PRIMARY KEY constraint."""
    return {
        "name": str(operation.constraint_name or ""),
        "columns": [str(item) for item in operation.columns],
    }


def foreign_key(operation: Any, dialect: Any) -> dict[str, Any]:
    """Describe a foreign key."""
    return {
        "name": str(operation.constraint_name or ""),
        "columns": [str(item) for item in operation.local_cols],
        "parent": dotted(operation.kw.get("referent_schema"), operation.referent_table),
        "parent_columns": [str(item) for item in operation.remote_cols],
        "ondelete": str(operation.kw.get("ondelete") or ""),
    }


def comment(operation: Any, dialect: Any) -> dict[str, Any]:
    """Describe a table's comment."""
    return {"comment": getattr(operation, "comment", "") or ""}


def execute(operation: Any, dialect: Any) -> dict[str, Any]:
    """Describe SQL that env.py's own directives added."""
    return {"sql": str(operation.sqltext)}


DESCRIBED = {
    "AddColumnOp": add_column,
    "AlterColumnOp": alter_column,
    "CreateForeignKeyOp": foreign_key,
    "CreateIndexOp": create_index,
    "CreatePrimaryKeyOp": key,
    "CreateTableCommentOp": comment,
    "CreateTableOp": create_table,
    "CreateUniqueConstraintOp": key,
    "DropColumnOp": drop_column,
    "DropConstraintOp": named,
    "DropIndexOp": named,
    "DropTableOp": drop_table,
    "ExecuteSQLOp": execute,
}


def columns_of(operation: Any, dialect: Any) -> list[dict[str, Any]]:
    """Describe the columns of a table."""
    return [
        column(item, dialect) for item in operation.columns if isinstance(item, sqlalchemy.Column)
    ]


def constraints_of(operation: Any) -> list[dict[str, Any]]:
    """Describe the constraints of a table that comes; of a primary key the columns say it."""
    found = []
    for item in operation.columns:
        if isinstance(item, sqlalchemy.ForeignKeyConstraint):
            elements = list(item.elements)
            found.append(
                {
                    "kind": "foreign key",
                    "columns": list(item.column_keys),
                    "parent": elements[0].target_fullname.rpartition(".")[0],
                    "parent_columns": [e.target_fullname.rpartition(".")[2] for e in elements],
                }
            )
        elif isinstance(item, sqlalchemy.UniqueConstraint):
            columns = list(item.columns) or list(getattr(item, "_pending_colargs", ()))
            found.append(
                {"kind": "unique", "columns": [str(getattr(c, "name", c)) for c in columns]}
            )
        elif isinstance(item, sqlalchemy.PrimaryKeyConstraint):
            columns = list(item.columns) or list(getattr(item, "_pending_colargs", ()))
            found.append(
                {"kind": "primary key", "columns": [str(getattr(c, "name", c)) for c in columns]}
            )
        elif isinstance(item, sqlalchemy.CheckConstraint):
            found.append({"kind": "check", "columns": [], "text": str(item.sqltext)})
    return sorted(found, key=str)  # the table keeps them in a set


def column(item: Any, dialect: Any) -> dict[str, Any]:
    """Describe a column."""
    return {
        "name": str(item.name),
        "type": type_text(item.type, dialect),
        "nullable": bool(item.nullable),
        "default": default_text(item.server_default, dialect),
        "value": client_value(item, dialect),
    }


def type_text(type_: Any, dialect: Any) -> str:
    """Return a type as SQL writes it, or as Python does where it has no such form."""
    if type_ is None:
        return ""
    try:
        return str(type_.compile(dialect=dialect))
    except Exception:  # of a project's own type anything may come
        return repr(type_)


def default_text(default: Any, dialect: Any) -> str:
    """Return a server default as SQL writes it; "" for none."""
    if default is None or default is False:
        return ""
    if isinstance(default, sqlalchemy.Identity):
        return "identity"
    if isinstance(default, sqlalchemy.Computed):
        return "computed (%s)" % expression(default.sqltext, dialect)
    inner = getattr(default, "arg", default)
    if isinstance(inner, str):
        return "'%s'" % inner.replace("'", "''")
    return expression(inner, dialect)


def client_value(item: Any, dialect: Any) -> str:
    """Return, as SQL, the one value that the models give new rows in Python; "" for none."""
    default = item.default
    if default is None or not getattr(default, "is_scalar", False):
        return ""
    return expression(sqlalchemy.literal(default.arg, item.type), dialect)


def expression(item: Any, dialect: Any) -> str:
    """Return a SQL expression as text, with its values in place where that can be had."""
    if item is None or isinstance(item, str):
        return item or ""
    try:
        compiled = item.compile(dialect=dialect, compile_kwargs={"literal_binds": True})
    except Exception:  # a value that has no literal form, or an object of the project's own
        return str(getattr(item, "name", item))
    return str(compiled).replace("%%", "%")


def dotted(schema: str | None, table: str) -> str:
    """Return ``schema.table``, or the table alone."""
    return "%s.%s" % (schema, table) if schema else str(table)
