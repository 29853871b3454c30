"""What a revision file declares to change, and what that names."""

from __future__ import annotations

import pytest

from playbook.declarations import is_named, read_declarations
from playbook.statements import tables_written


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("x = 1\n", None),
        ("# playbook: allow update-rows on t because few\n", None),
        ("# playbook: changes nothing\n", ()),
        ("# playbook: changes users.email, users.updated_at because of #1\n",
         ("users.email", "users.updated_at")),
        ("    # playbook:  changes a.users\n# playbook: changes orders\n", ("a.users", "orders")),
    ],
)  # fmt: skip
def test_declarations_are_read_from_comments(text: str, found: tuple[str, ...] | None) -> None:
    assert read_declarations(text) == found


@pytest.mark.parametrize(
    ("declared", "column", "named"),
    [
        ("users.email", "email", True), ("a.users.email", "email", True), ("users", "email", True),
        ("a.users", "email", True), ("users.email", "name", False), ("b.users", "email", False),
        ("email", "email", False), ("users.email", "", True), ("orders", "", False),
    ],
)  # fmt: skip
def test_declaration_names_a_column_or_its_whole_table(
    declared: str, column: str, named: bool
) -> None:
    assert is_named("a.users", column, (declared,)) is named


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE t SET x = 1", "INSERT INTO public.t VALUES (1)", "DELETE FROM ONLY t",
        "WITH w AS (DELETE FROM t RETURNING *) INSERT INTO o SELECT * FROM w", "TRUNCATE o, t",
        "MERGE INTO t USING o ON true WHEN MATCHED THEN DELETE", "COPY t FROM stdin",
        "ALTER TABLE t ALTER COLUMN x TYPE bigint",
    ],
)  # fmt: skip
def test_statement_that_writes_rows_names_its_table(statement: str) -> None:
    assert "public.t" in tables_written(statement)


@pytest.mark.parametrize(
    "statement",
    ["SELECT * FROM t", "INSERT INTO o SELECT * FROM t", "COPY t TO stdout", "DO $$UPDATE t$$",
     "ALTER TABLE t ADD COLUMN y int", "CREATE INDEX ON t (x)", "UPDATE o SET x = 1 FROM t"],
)  # fmt: skip
def test_statement_that_writes_no_row_of_a_table_does_not_name_it(statement: str) -> None:
    assert "public.t" not in tables_written(statement)
