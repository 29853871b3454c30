"""What a database's schema is made of, and how two differ: frozen dataclasses. Layer 0."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["COLUMN_ORDER", "Schema", "SchemaDifference", "SchemaObject"]

COLUMN_ORDER = "column order"
"""The kind of difference that only says that a table's columns stand in another order."""


@dataclass(frozen=True)
class SchemaObject:
    """One object of a schema in canonical text, without oids.

    ``kind`` is what it is (``table``, ``column``, ``constraint``, ``index``, ``comment``,
    ``privilege`` ...), ``name`` its name with its schema, and with its table where it has one;
    ``parent`` is the name of the object that it is a part of, or "".
    """

    kind: str
    name: str
    definition: str
    parent: str = ""


@dataclass(frozen=True)
class Schema:
    """All objects of a database, sorted by kind and name, and the columns of each table in order.

    Equal schemas are equal records, the order of columns included.
    """

    objects: tuple[SchemaObject, ...]
    columns: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether nobody has made anything in it: the schema ``public`` is always there."""
        return all("public" in (one.name, one.parent) for one in self.objects)


@dataclass(frozen=True)
class SchemaDifference:
    """One object that differs: ``before`` or ``after`` is "" where there is none.

    Of a table that only one side has, its columns, constraints and so on are not told apart.
    """

    kind: str
    object: str
    before: str
    after: str

    @property
    def change(self) -> str:
        """``added``, ``dropped`` or ``changed``."""
        if not self.before:
            return "added"
        return "changed" if self.after else "dropped"
