"""A revision's SQL as several revisions."""

from __future__ import annotations

import re

import pytest

from playbook.records import ColumnFact, Hazard, Severity
from playbook.stages import Stage, read_fills, split_revision

COLUMNS = {"public.users": (ColumnFact("id", "bigint", True, True),)}
TIER = "ALTER TABLE users ADD COLUMN tier TEXT NOT NULL"
INDEX = "CREATE INDEX users_name ON users (name)"
ZONE = "ALTER TABLE users ADD COLUMN zone TEXT"
KEY = "ALTER TABLE users ADD CONSTRAINT fk FOREIGN KEY (org_id) REFERENCES orgs (id)"


def _hazard(rule: str, statement: str) -> Hazard:
    return Hazard(
        "a", rule, Severity.STOP, "public.users", 10, "AccessExclusiveLock", "reads", 3.0,
        statement, "", "",
    )  # fmt: skip


def _split(*statements: str, fills: dict[tuple[str, str], str] | None = None) -> list[Stage]:
    rules = {
        TIER: "rows-lack-a-value", INDEX: "require-concurrent-index-creation",
        KEY: "adding-foreign-key-constraint",
    }  # fmt: skip
    hazards = [_hazard(rules[text], text) for text in statements if text in rules]
    sql = f"BEGIN;\n{';'.join(statements)};\nCOMMIT;"
    stages, reason = split_revision(sql, "", hazards, COLUMNS, fills or {("users", "tier"): "'x'"})
    assert not reason
    return stages


def test_a_required_column_comes_in_five_steps() -> None:
    assert [stage.title for stage in _split(TIER)] == [
        "add columns", "fill", "add constraints", "validate", "set not null",
    ]  # fmt: skip


def test_what_need_not_be_apart_stays_together_and_scans_hold_no_strong_lock() -> None:
    stages = _split(ZONE, KEY, TIER)

    assert [len(stage.up) for stage in stages] == [2, 1, 1, 1, 1, 1, 1]
    for stage in stages:
        texts = [part.sql for part in stage.up]
        assert stage.kind != "scan" or all("VALIDATE" in text for text in texts)
        assert stage.kind == "scan" or not any("VALIDATE" in text for text in texts)


def test_what_runs_outside_a_transaction_is_alone_in_its_revision() -> None:
    stages = _split(ZONE, INDEX)

    assert [stage.kind for stage in stages] == ["plain", "alone"]
    assert "autocommit_block" in stages[1].upgrade
    assert "DROP INDEX CONCURRENTLY users_name" in stages[1].downgrade


def test_a_later_statement_on_the_same_table_never_comes_before_an_earlier_one() -> None:
    stages = _split(TIER, "ALTER TABLE users ADD COLUMN after_it TEXT")
    texts = [part.sql for stage in stages for part in stage.up]

    assert "after_it" in texts[-1]


def test_rows_without_a_value_that_is_known_are_asked_for() -> None:
    hazard = _hazard("adding-required-field", TIER)

    stages, reason = split_revision(f"{TIER};", "", [hazard], COLUMNS, {})

    assert stages == []
    assert reason.endswith('-r fill "users.tier = ...".')


def test_nothing_hazardous_is_not_split() -> None:
    assert split_revision(f"{ZONE};", "", [], COLUMNS, {})[1].startswith("No statement")


def test_a_statement_whose_undoing_is_not_known_is_not_split() -> None:
    hazard = _hazard("require-concurrent-index-creation", INDEX)

    stages, reason = split_revision(f"{INDEX}; TRUNCATE users;", "", [hazard], COLUMNS, {})

    assert (stages, "TRUNCATE users" in reason) == ([], True)


def test_colons_of_values_are_no_parameters() -> None:
    code = _split(TIER, fills={("users", "tier"): "'at :five'"})[1].upgrade

    assert r"\:five" in code
    assert "::" not in code or r"\::" not in code


@pytest.mark.parametrize(
    "text", ["tier", "users.tier", "users.tier = ", "tier = 1", "'; DROP x; --"]
)
def test_what_old_rows_get_has_to_be_an_expression_for_a_column(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text.split(";")[0].strip())):
        read_fills(text)


def test_several_columns_may_be_filled() -> None:
    assert read_fills("users.tier = 'free'; app.users.zone = upper(name)") == {
        ("users", "tier"): "'free'", ("users", "zone"): "upper(name)",
    }  # fmt: skip


def test_names_that_sql_quotes_are_quoted_there_too() -> None:
    text = 'app."My users"."5% = ""tier""" = upper(name)'

    assert read_fills(text) == {("My users", '5% = "tier"'): "upper(name)"}


def test_what_is_asked_for_is_written_as_a_shell_and_the_parameter_take_it() -> None:
    text = 'ALTER TABLE "My users" ADD COLUMN "5% tier" TEXT NOT NULL'
    hazard = _hazard("adding-required-field", text)

    _, reason = split_revision(f"{text};", "", [hazard], COLUMNS, {})

    asked = '-r fill \'"My users"."5% tier" = ...\'.'
    assert reason.endswith(asked)
    fills = read_fills(asked.removeprefix("-r fill '").removesuffix("'.").replace("...", "1"))
    stages, reason = split_revision(f"{text};", "", [hazard], COLUMNS, fills)
    assert (len(stages), reason) == (5, "")
