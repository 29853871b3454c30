"""Tests of rewrites: real names, and nothing in them that the statement was blamed for."""

from __future__ import annotations

from pathlib import Path

import pytest

from playbook.hazards import find_hazards
from playbook.records import ColumnFact, Known, PlanStep, Severity
from playbook.rewrites import rewrite

LARGE = 30_000_000
COLUMNS = (
    ColumnFact("id", "bigint", True, True),
    ColumnFact("a", "integer", True, False),
    ColumnFact("b", "character varying(50)", False, False),
)
CASES = {
    "require-concurrent-index-creation": "CREATE UNIQUE INDEX i ON t USING btree (lower(b) DESC) "
    "INCLUDE (a) WITH (fillfactor=70) WHERE a > 0",
    "adding-foreign-key-constraint": "ALTER TABLE t ADD FOREIGN KEY (a) REFERENCES u ON DELETE "
    "CASCADE",
    "constraint-missing-not-valid": "ALTER TABLE t ADD CHECK (a > 0)",
    "disallowed-unique-constraint": "ALTER TABLE t ADD UNIQUE (a, b)",
    "adding-serial-primary-key-field": "ALTER TABLE t ADD CONSTRAINT pk PRIMARY KEY (b)",
    "adding-not-nullable-field": "ALTER TABLE t ALTER b SET NOT NULL",
    "adding-field-with-default": "ALTER TABLE t ADD u uuid NOT NULL DEFAULT gen_random_uuid()",
    "adding-required-field": "ALTER TABLE t ADD COLUMN u uuid NOT NULL",
    "changing-column-type": "ALTER TABLE t ALTER COLUMN a TYPE bigint",
    "update-all-rows": "UPDATE t SET a = 1",
    "update-rows": "UPDATE t AS x SET a = 1 WHERE a IS NULL OR b = 'it''s'",
    "delete-all-rows": "DELETE FROM t",
    "delete-rows": "DELETE FROM t WHERE a = 1",
    "ban-concurrent-index-creation-in-transaction": "CREATE INDEX CONCURRENTLY i ON t (a)",
}
BLAMELESS = {"ban-drop-column", "renaming-column", "cannot-be-read"}
"""The change-over of a type change does the first two, in a revision of its own, on a column that
nobody uses any more; batches are a DO block."""


def rules_of(tmp_path: Path, sql: str) -> dict[str, Severity]:
    """Return the rules that SQL falls under on a table of many rows, each revision by itself."""
    path = tmp_path / "r.py"
    path.write_text("")
    pieces = [piece for piece in sql.split("-- Revision ") if piece.strip()]
    steps = [
        PlanStep(f"r{n}", "upgrade", (), (), "", path, "", piece.partition("\n")[2] or piece)
        for n, piece in enumerate(pieces)
    ]
    known = Known({"public.t": LARGE, "public.u": LARGE}, {"public.t": COLUMNS})
    return {h.rule: h.severity for h in find_hazards(steps, known).items}


@pytest.mark.parametrize("rule", sorted(CASES))
def test_rewrite_falls_under_no_rule_that_its_statement_fell_under(
    tmp_path: Path, rule: str
) -> None:
    made = rewrite(rule, CASES[rule], COLUMNS)

    left = rules_of(tmp_path, made)

    assert made
    assert {r for r, weight in left.items() if weight is not Severity.OK} <= BLAMELESS


@pytest.mark.parametrize(
    ("rule", "sql", "made"),
    [
        ("require-concurrent-index-creation", "create index I on T (a) where a > 0;",
         "create index CONCURRENTLY I on T (a) where a > 0;"),
        ("require-concurrent-index-creation", "/* why */ CREATE UNIQUE\n INDEX i ON t (a)",
         "/* why */ CREATE UNIQUE\n INDEX CONCURRENTLY i ON t (a);"),
        ("adding-foreign-key-constraint", "ALTER TABLE s.t ADD FOREIGN KEY (a, b) REFERENCES u",
         "ADD CONSTRAINT t_a_b_fkey FOREIGN KEY (a, b) REFERENCES u NOT VALID;"),
        ("disallowed-unique-constraint", 'ALTER TABLE t ADD CONSTRAINT "Q" UNIQUE ("a b") '
         "DEFERRABLE INITIALLY DEFERRED",
         'ADD CONSTRAINT "Q" UNIQUE USING INDEX "Q" DEFERRABLE INITIALLY DEFERRED;'),
        ("disallowed-unique-constraint", "ALTER TABLE t ADD UNIQUE NULLS NOT DISTINCT (a) "
         "INCLUDE (b) WITH (fillfactor=70)",
         "t_a_key ON t (a) INCLUDE (b) NULLS NOT DISTINCT WITH (fillfactor = 70);"),
        ("constraint-missing-not-valid", "ALTER TABLE t VALIDATE CONSTRAINT c",
         "-- In a revision of its own, after the one that adds it NOT VALID:"),
        ("constraint-missing-not-valid", "ALTER TABLE t ADD CONSTRAINT nn NOT NULL a",
         "ADD CONSTRAINT nn NOT NULL a NOT VALID;"),
        ("update-rows", "UPDATE t AS x SET a = 1 WHERE a IS NULL OR b = ''",
         "WHERE (a IS NULL OR b = '') AND x.id >= first_1 AND x.id <= last_1;"),
    ],
)  # fmt: skip
def test_rewrite_has_the_names_and_options_of_its_statement(rule: str, sql: str, made: str) -> None:
    assert made in rewrite(rule, sql, COLUMNS)


def test_parts_that_need_their_own_revision_or_no_transaction_say_so() -> None:
    made = rewrite("disallowed-unique-constraint", "ALTER TABLE t ADD UNIQUE (a)", COLUMNS)

    first, second = [line for line in made.splitlines() if line.startswith("--")]
    assert first.startswith("-- Revision 1 of 2, outside a transaction")
    assert second == "-- Revision 2 of 2:"


@pytest.mark.parametrize(
    ("rule", "sql"),
    [
        ("update-rows", "UPDATE t SET a = u.a FROM u WHERE u.id = t.id"),
        ("update-all-rows", "UPDATE t SET a = (SELECT max(a) FROM t)"),
        ("update-all-rows", "UPDATE t SET id = id + 1"),
        ("update-all-rows", "WITH w AS (SELECT 1) UPDATE t SET a = 1"),
        ("adding-field-with-default", "ALTER TABLE t ADD COLUMN n serial"),
        ("adding-field-with-default", "ALTER TABLE t ADD COLUMN n int GENERATED ALWAYS AS (a) "
         "STORED"),
        ("changing-column-type", "ALTER TABLE t ALTER COLUMN id TYPE numeric"),
        ("constraint-missing-not-valid", "ALTER TABLE t ADD CHECK (a > 0), ADD CHECK (a < 9)"),
        ("ban-drop-table", "DROP TABLE t"),
        ("update-all-rows", "UPDATE t SET"),
    ],
)  # fmt: skip
def test_statement_without_a_true_rewrite_gets_none(rule: str, sql: str) -> None:
    assert rewrite(rule, sql, COLUMNS) == ""


def test_table_without_a_primary_key_is_not_filled_in_batches() -> None:
    assert rewrite("update-all-rows", "UPDATE t SET a = 1", COLUMNS[1:]) == ""
