"""Tests of hazards: each rule has an example, sizes decide, revision files may excuse."""

from __future__ import annotations

from pathlib import Path

import pytest

from playbook.hazard_rules import RULES
from playbook.hazards import find_hazards, way_out
from playbook.records import ColumnFact, ConstraintFact, Hazard, Known, PlanStep, Severity

SMALL, LARGE = 300, 30_000_000
COLUMNS = (
    ColumnFact("id", "bigint", True, True),
    ColumnFact("a", "integer", False, False),
    ColumnFact("b", "character varying(50)", False, False),
)
CASTS = frozenset({("varchar", "text")})

BAD = {
    "adding-field-with-default": "ALTER TABLE t ADD COLUMN a timestamptz DEFAULT clock_timestamp()",
    "adding-foreign-key-constraint": "ALTER TABLE t ADD CONSTRAINT f FOREIGN KEY (a) "
    "REFERENCES u (id)",
    "adding-not-nullable-field": "ALTER TABLE t ALTER COLUMN a SET NOT NULL",
    "adding-required-field": "ALTER TABLE t ADD COLUMN a bigint NOT NULL",
    "adding-serial-primary-key-field": "ALTER TABLE t ADD PRIMARY KEY (id)",
    "ban-concurrent-index-creation-in-transaction": "BEGIN; CREATE INDEX CONCURRENTLY IF NOT "
    "EXISTS i ON t (a); COMMIT",
    "ban-drop-column": "ALTER TABLE t DROP COLUMN a",
    "ban-drop-table": "DROP TABLE t",
    "ban-truncate-cascade": "TRUNCATE t CASCADE",
    "changing-column-type": "ALTER TABLE t ALTER COLUMN a TYPE bigint",
    "constraint-missing-not-valid": "ALTER TABLE t ADD CONSTRAINT c CHECK (a > 0)",
    "delete-all-rows": "DELETE FROM t",
    "delete-rows": "DELETE FROM t WHERE a = 1",
    "disallowed-unique-constraint": "ALTER TABLE t ADD CONSTRAINT q UNIQUE (a)",
    "renaming-column": "ALTER TABLE t RENAME COLUMN a TO b",
    "renaming-table": "ALTER TABLE t RENAME TO v",
    "require-concurrent-index-creation": "CREATE INDEX i ON t (a)",
    "truncate": "TRUNCATE t",
    "update-all-rows": "UPDATE t SET a = 1",
    "update-rows": "UPDATE t SET a = 1 WHERE a IS NULL",
}

GOOD = (
    "ALTER TABLE t ADD COLUMN a bigint",
    "ALTER TABLE t ADD CONSTRAINT c CHECK (a > 0) NOT VALID",
    "CREATE TABLE n (id bigint PRIMARY KEY, a text NOT NULL UNIQUE)",
    "INSERT INTO t (a) VALUES (1)",
)


def step(tmp_path: Path, sql: str, comment: str = "", revision: str = "r1") -> PlanStep:
    """Return a revision with some SQL and a comment in its file."""
    path = tmp_path / f"{revision}.py"
    path.write_text(f"{comment}\n")
    return PlanStep(revision, "upgrade", (), (revision,), "", path, "", f"{sql};\n")


def found(tmp_path: Path, sql: str, rows: int, comment: str = "") -> dict[str, Hazard]:
    """Return the hazards of some SQL on a table ``t`` of so many rows, by rule."""
    known = Known({"public.t": rows, "public.u": rows}, {"public.t": COLUMNS}, casts=CASTS)
    hazards = find_hazards([step(tmp_path, sql, comment)], known)
    return {hazard.rule: hazard for hazard in hazards.items}


def test_every_rule_has_an_example() -> None:
    assert sorted(BAD) == sorted(RULES)


@pytest.mark.parametrize("rule", sorted(BAD))
def test_each_rule_is_found_on_its_example(tmp_path: Path, rule: str) -> None:
    hazard = found(tmp_path, BAD[rule], LARGE)[rule]

    assert hazard.table == "public.t"
    assert hazard.remedy
    assert hazard.rows == LARGE


@pytest.mark.parametrize("sql", GOOD)
def test_harmless_statements_are_not_found(tmp_path: Path, sql: str) -> None:
    assert found(tmp_path, sql, LARGE) == {}


@pytest.mark.parametrize("rule", ["require-concurrent-index-creation", "changing-column-type"])
def test_same_statement_is_ok_on_a_small_table_and_stop_on_a_large_one(
    tmp_path: Path, rule: str
) -> None:
    assert found(tmp_path, BAD[rule], SMALL)[rule].severity is Severity.OK
    assert found(tmp_path, BAD[rule], LARGE)[rule].severity is Severity.STOP


def test_required_column_stops_on_any_row_and_not_on_an_empty_table(tmp_path: Path) -> None:
    rule = "adding-required-field"

    assert found(tmp_path, BAD[rule], 1)[rule].severity is Severity.STOP
    assert found(tmp_path, BAD[rule], 0)[rule].severity is Severity.OK


def test_tables_that_the_plan_creates_are_harmless(tmp_path: Path) -> None:
    steps = [
        step(tmp_path, "CREATE TABLE t (a int)", revision="r1"),
        step(tmp_path, "CREATE INDEX i ON t (a)", revision="r2"),
    ]

    assert find_hazards(steps, Known({"public.t": LARGE})).items == ()


@pytest.mark.parametrize(
    ("sql", "rules"),
    [
        ("CREATE TABLE IF NOT EXISTS t (a int); CREATE INDEX i ON t (a)",
         ["require-concurrent-index-creation"]),
        ("CREATE TABLE t (a int); CREATE INDEX i ON t (a)", []),
        ("DROP TABLE t; CREATE TABLE t (a int); CREATE INDEX i ON t (a)", ["ban-drop-table"]),
        ("DROP TABLE t; CREATE TABLE IF NOT EXISTS t (a int); CREATE INDEX i ON t (a)",
         ["ban-drop-table"]),
        ("UPDATE t SET a = 1; ALTER TABLE t RENAME TO o; CREATE TABLE t (a int); DELETE FROM t",
         ["update-all-rows", "renaming-table"]),
        ("ALTER TABLE t RENAME TO o; CREATE INDEX i ON o (a)",
         ["renaming-table", "require-concurrent-index-creation"]),
        ("CREATE INDEX i ON t (a); CREATE TABLE t (a int)", ["require-concurrent-index-creation"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("is_split", [False, True])
def test_table_is_new_only_from_its_creation_on(
    tmp_path: Path, sql: str, rules: list[str], is_split: bool
) -> None:
    pieces = sql.split("; ") if is_split else [sql]
    steps = [step(tmp_path, piece, revision=f"r{n}") for n, piece in enumerate(pieces)]

    hazards = find_hazards(steps, Known({"public.t": LARGE}, {"public.t": COLUMNS})).items

    assert [hazard.rule for hazard in hazards] == rules
    assert all(hazard.rows == LARGE for hazard in hazards)


@pytest.mark.parametrize(
    ("sql", "is_found"),
    [
        ("DO $$ BEGIN EXECUTE 'DROP TABLE t'; END $$", True),
        ("CALL fill()", True),
        ("SELECT fill()", True),
        ("SELECT 1 FROM t WHERE a = (SELECT max(fill()) FROM t)", True),
        ("CREATE FUNCTION made() RETURNS int LANGUAGE sql AS 'SELECT 1'; SELECT made()", True),
        ("SELECT steady()", False),
        ("SELECT setval('s', 7), count(*) FROM t", False),
        ("CREATE FUNCTION made() RETURNS int LANGUAGE sql AS 'SELECT 1'", False),
    ],
)
def test_body_of_code_is_said_to_be_unreadable(tmp_path: Path, sql: str, is_found: bool) -> None:
    functions = frozenset({"fill", "steady"})
    known = Known({"public.t": LARGE}, functions=functions, steady=frozenset({"steady"}))

    hazards = find_hazards([step(tmp_path, sql)], known).items

    expected = [("cannot-be-read", Severity.WARN, "")] if is_found else []
    assert [(h.rule, h.severity, h.table) for h in hazards] == expected
    assert all("cannot be told from its text" in hazard.detail for hazard in hazards)


def test_exemption_excuses_a_body_of_code(tmp_path: Path) -> None:
    comment = "# playbook: allow cannot-be-read because it was rehearsed"

    (hazard,) = find_hazards([step(tmp_path, "CALL fill()", comment)], Known({})).items

    assert hazard.allowed_because == "it was rehearsed"


def test_alembics_own_table_is_left_out_and_its_namesake_column_is_not(tmp_path: Path) -> None:
    known = Known({"public.alembic_version": 1, "public.t": LARGE})
    own = "UPDATE alembic_version SET version_num='r1' WHERE alembic_version.version_num = 'r0'"
    gone = "DELETE FROM alembic_version WHERE alembic_version.version_num = 'r1'"
    other = "UPDATE t SET version_num = 2 WHERE version_num = 1"

    hazards = find_hazards([step(tmp_path, f"{own}; {gone}; {other}")], known).items

    assert [(hazard.rule, hazard.table) for hazard in hazards] == [("update-rows", "public.t")]


def hazard_of(rule: str, *, is_certain: bool) -> Hazard:
    return Hazard(
        "r1", rule, Severity.STOP, "public.t", 3, "ShareLock", "writes", 0.0, "", "", "",
        is_certain=is_certain,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("rules", "said", "unsaid"),
    [
        (["rows-lack-a-value"], "add the column nullable", "Mend the rows"),
        (["nulls-break-not-null"], "Mend the rows", "nullable"),
        (["rows-lack-a-value", "rows-break-check"], "Mend the rows", "allow"),
    ],
)
def test_way_out_of_a_certain_failure_is_one_that_can_be_gone(
    rules: list[str], said: str, unsaid: str
) -> None:
    text = way_out([hazard_of(rule, is_certain=True) for rule in rules], "`preview`")

    assert said in text
    assert unsaid not in text
    assert ("nullable" in text) is ("rows-lack-a-value" in rules)
    assert text.endswith("No exemption lifts this.")


def test_way_out_of_what_waits_is_a_rewrite_or_an_exemption() -> None:
    text = way_out([hazard_of("update-all-rows", is_certain=False)], "section 2")

    assert "as section 2 proposes" in text
    assert "# playbook: allow update-all-rows on public.t because ..." in text


def test_lock_taken_earlier_in_the_revision_is_held_through_an_update(tmp_path: Path) -> None:
    sql = "ALTER TABLE t ADD COLUMN a int; UPDATE t SET a = 1"

    assert found(tmp_path, sql, LARGE)["update-all-rows"].blocks == "reads and writes"
    assert found(tmp_path, "UPDATE t SET a = 1", LARGE)["update-all-rows"].blocks == ""


def test_exemption_with_a_reason_lifts_a_stop_and_shows_the_reason(tmp_path: Path) -> None:
    rule = "require-concurrent-index-creation"
    comment = f"# playbook: allow {rule} on t because nobody writes at night"

    hazards = find_hazards([step(tmp_path, BAD[rule], comment)], Known({"public.t": LARGE}))

    assert hazards.items[0].allowed_because == "nobody writes at night"
    assert hazards.stops == ()


@pytest.mark.parametrize(
    "comment",
    [
        "# playbook: allow require-concurrent-index-creation on t because",
        "# playbook: allow require-concurrent-index-creation on u because it is small",
        "# playbook: allow renaming-table because it is not this rule",
    ],
)
def test_exemption_without_reason_or_for_another_thing_lifts_nothing(
    tmp_path: Path, comment: str
) -> None:
    rule = "require-concurrent-index-creation"

    assert find_hazards([step(tmp_path, BAD[rule], comment)], Known({"public.t": LARGE})).stops


def test_type_change_that_rewrites_nothing_weighs_nothing(tmp_path: Path) -> None:
    rule = "changing-column-type"

    wider = found(tmp_path, "ALTER TABLE t ALTER COLUMN b TYPE varchar(100)", LARGE)[rule]
    text = found(tmp_path, "ALTER TABLE t ALTER COLUMN b TYPE text USING b::text", LARGE)[rule]
    computed = found(tmp_path, "ALTER TABLE t ALTER COLUMN b TYPE text USING upper(b)", LARGE)[rule]
    both = "ALTER TABLE t ALTER COLUMN b TYPE text, ALTER COLUMN a TYPE bigint"

    assert (wider.severity, wider.blocked_s) == (Severity.OK, 0)
    assert (text.severity, text.rewrite) == (Severity.OK, "")
    assert computed.severity is Severity.STOP
    assert found(tmp_path, both, LARGE)[rule].severity is Severity.STOP
    assert "integer becomes bigint" in found(tmp_path, both, LARGE)[rule].detail


@pytest.mark.parametrize(
    ("sql", "held", "severity", "words"),
    [
        ("ALTER TABLE t DROP COLUMN a", {("public.t", "a"): 0}, Severity.OK, "holds nothing"),
        ("ALTER TABLE t DROP COLUMN a", {("public.t", "a"): 7}, Severity.WARN, "7 values in a of"),
        ("ALTER TABLE t DROP COLUMN a", {}, Severity.WARN, "old form fails"),
        ("ALTER TABLE t DROP COLUMN new", {}, Severity.OK, "holds nothing"),
        ("DROP TABLE t", {("public.t", ""): 1234}, Severity.WARN, "1,234 rows of public.t"),
        ("DROP TABLE t", {("public.t", ""): 0}, Severity.OK, "holds nothing"),
        ("TRUNCATE t", {("public.t", ""): 1}, Severity.WARN, "1 row of public.t"),
    ],
)  # fmt: skip
def test_what_is_dropped_weighs_what_it_holds(
    tmp_path: Path, sql: str, held: dict[tuple[str, str], int], severity: Severity, words: str
) -> None:
    known = Known({"public.t": LARGE}, {"public.t": COLUMNS}, held=held)

    (hazard,) = find_hazards([step(tmp_path, sql)], known).items

    assert hazard.severity is severity
    assert words in hazard.detail


SET_NOT_NULL = "ALTER TABLE t ALTER COLUMN a SET NOT NULL"


@pytest.mark.parametrize(
    ("before", "definition", "is_valid", "severity"),
    [
        ("", "CHECK ((a IS NOT NULL))", True, Severity.OK),
        ("", "CHECK (((a IS NOT NULL) AND (b IS NOT NULL)))", True, Severity.OK),
        ("", "CHECK ((a IS NOT NULL)) NOT VALID", False, Severity.STOP),
        ("", "CHECK (((a IS NOT NULL) OR (b IS NOT NULL)))", True, Severity.STOP),
        ("", "CHECK ((b IS NOT NULL))", True, Severity.STOP),
        ("ALTER TABLE t VALIDATE CONSTRAINT c;", "CHECK ((a IS NOT NULL)) NOT VALID", False,
         Severity.OK),
        ("ALTER TABLE t DROP CONSTRAINT c;", "CHECK ((a IS NOT NULL))", True, Severity.STOP),
    ],
)  # fmt: skip
def test_not_null_that_a_valid_check_proves_weighs_nothing(
    tmp_path: Path, before: str, definition: str, is_valid: bool, severity: Severity
) -> None:
    fact = ConstraintFact("public.t", "c", definition, is_valid)
    known = Known({"public.t": LARGE}, {"public.t": COLUMNS}, constraints=(fact,))

    steps = [step(tmp_path, before), step(tmp_path, SET_NOT_NULL, revision="r2")]

    assert [h.severity for h in find_hazards(steps, known).items] == [severity]


@pytest.mark.parametrize(
    ("sql", "name"),
    [
        ("CREATE INDEX ix_t ON t (a)", "ix_t"),
        ("ALTER TABLE t ADD CHECK (a > 0)", "t_a_check"),
        ("ALTER TABLE t ADD CONSTRAINT c FOREIGN KEY (a) REFERENCES u", "c"),
        ("ALTER TABLE t DROP COLUMN a, ADD COLUMN c int", "a"),
        (SET_NOT_NULL, "a"),
        ("ALTER TABLE t RENAME COLUMN a TO c", "a"),
        ("UPDATE t SET a = 1, b = ''", "a, b"),
        ("DROP TABLE t", ""),
    ],
)
def test_hazard_names_the_index_constraint_or_column(tmp_path: Path, sql: str, name: str) -> None:
    assert [hazard.object for hazard in found(tmp_path, sql, LARGE).values()] == [name]


def test_only_what_weighs_something_carries_a_rewrite(tmp_path: Path) -> None:
    sql, rule = BAD["require-concurrent-index-creation"], "require-concurrent-index-creation"

    assert "CREATE INDEX CONCURRENTLY i ON t (a);" in found(tmp_path, sql, LARGE)[rule].rewrite
    assert found(tmp_path, sql, SMALL)[rule].rewrite == ""


def test_partitioned_table_gets_no_rewrite_that_the_server_refuses(tmp_path: Path) -> None:
    known = Known({"public.t": LARGE}, partitioned=frozenset({"public.t"}))

    (hazard,) = find_hazards([step(tmp_path, "CREATE INDEX i ON t (a)")], known).items

    assert (hazard.severity, hazard.rewrite) == (Severity.STOP, "")


def test_rule_is_told_of_its_own_statement_where_several_stand_on_a_line(tmp_path: Path) -> None:
    sql = f"UPDATE t SET b = 'öäü文書' WHERE a = 1; {SET_NOT_NULL}; CREATE INDEX i ON u (a)"

    hazards = find_hazards([step(tmp_path, sql)], Known({"public.t": LARGE, "public.u": LARGE}))

    assert [(h.rule, h.statement.split()[0]) for h in hazards.items] == [
        ("update-rows", "UPDATE"),
        ("adding-not-nullable-field", "ALTER"),
        ("require-concurrent-index-creation", "CREATE"),
    ]
