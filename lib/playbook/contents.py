"""What a backup holds, read from a database and compared with its manifest. Layer 4: reads only."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg2.extensions import connection as Connection

from playbook.catalog import count_large_objects, installed_extensions, needed_roles
from playbook.fingerprints import form_of
from playbook.records import BackupManifest, ColumnSnapshot, TableSnapshot
from playbook.snapshot import read_tables

__all__ = ["Contents", "find_difference", "read_contents"]


@dataclass(frozen=True)
class Contents:
    """What was read in one transaction."""

    tables: tuple[TableSnapshot, ...]
    form: int
    """How their fingerprints were made."""
    large_objects: int
    extensions: tuple[str, ...]
    roles: tuple[str, ...]


def read_contents(connection: Connection) -> Contents:
    """Return what a database holds, as its session's transaction sees it.

    Args:
        connection: with the settings `playbook.fingerprints.TEXT_FORMS`.
    """
    return Contents(
        read_tables(connection),
        form_of(connection.server_version),
        count_large_objects(connection),
        tuple(installed_extensions(connection)),
        tuple(needed_roles(connection)),
    )


def find_difference(manifest: BackupManifest, restored: Contents) -> str:
    """Return the first thing in which a restored database is not what the manifest says, or "".

    Values are compared where both have fingerprints of one form, rows always.
    """
    found = {table.name: table for table in restored.tables}
    for name, rows in manifest.rows:
        have = found[name].rows if name in found else "no"
        if have != rows:
            return f"{have} rows of {name}; its manifest says {rows}"
    for table in manifest.tables if manifest.form == restored.form else ():
        columns = zip(table.columns, found[table.name].columns, strict=False)
        for column in [old for old, new in columns if _values(old) != _values(new)]:
            return f"other values of {table.name}.{column.column} than its manifest says"
    if manifest.tables and restored.large_objects != manifest.large_objects:
        count = manifest.large_objects
        return f"{restored.large_objects} large objects; its manifest says {count}"
    return ""


def _values(column: ColumnSnapshot) -> tuple[str, str, int, str]:
    return column.column, column.type, column.non_null_rows, column.fingerprint
