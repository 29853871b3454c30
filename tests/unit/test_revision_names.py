"""What a new revision may be called."""

from __future__ import annotations

from typing import Any

import pytest

from playbook.errors import SettingsError
from playbook.revision_names import check_id, check_message, next_id, suggest_message

OURS = ["000_baseline", "001_add_auth_fields", "002_add_rag_tables"]


@pytest.mark.parametrize(
    "message",
    [
        "update", "fix", "misc", "changes", "wip", "tags", "update models", "fix_migration",
        "misc changes", "some more updates", "WIP schema", "the new column", "Update the database",
        "a b", "2024", "v 2", "add", "", "   ", "x" * 121, 'say "hello" to tags', "add\ntags",
        "add ${tags}", "new migration 7", "final fix",
    ],
)  # fmt: skip
def test_a_message_that_says_nothing_is_refused_with_a_good_one(message: str) -> None:
    with pytest.raises(SettingsError, match="such as add_users_time_zone"):
        check_message(message)


@pytest.mark.parametrize(
    "message",
    [
        "add_users_time_zone", "Let a document belong to several corpora", "Drop users.nick",
        "fix the orphans of messages", "Füge Zeitzonen hinzu", "index_chunks_by_document",
        "update locale from en to en-US",
    ],
)  # fmt: skip
def test_a_message_that_says_what_changes_is_taken(message: str) -> None:
    check_message(message)


@pytest.mark.parametrize(
    ("known", "message", "expected"),
    [
        (OURS, "add_users_time_zone", "003_add_users_time_zone"),
        (OURS, "Let a document belong to several corpora", "003_let_a_document_belong_to"),
        (OURS, "Füge Zeitzonen hinzu", "003_fuge_zeitzonen_hinzu"),
        (["0001", "0002"], "add_users_time_zone", "0003"),
        (["0009_a", "0010_b"], "add_tags_table", "0011_add_tags_table"),
        (["1a2b3c4d5e6f", "a1b2c3d4e5f6"], "add_tags_table", ""),
        (["123456789012"], "add_tags_table", ""),
        ([], "add_tags_table", ""),
    ],
)
def test_an_id_follows_those_that_there_are(known: list[str], message: str, expected: str) -> None:
    assert next_id(message, known) == expected
    assert len(next_id(message, known)) <= 32


def test_several_new_ids_follow_each_other() -> None:
    ids = [next_id("add_tags_table", OURS, after=number) for number in range(3)]

    assert [name[:3] for name in ids] == ["003", "004", "005"]


@pytest.mark.parametrize(
    "rev_id", ["002_add_rag_tables", "x" * 33, "a-b", "a@b", "head", "ä", "a b"]
)
def test_an_id_that_alembic_cannot_take_is_refused(rev_id: str) -> None:
    with pytest.raises(SettingsError, match="rev_id"):
        check_id(rev_id, OURS)


def _op(kind: str, table: str, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "schema": "", "table": table, **more}


@pytest.mark.parametrize(
    ("operations", "expected"),
    [
        ([_op("AddColumnOp", "users", column={"name": "zone"})], "Add users.zone"),
        (
            [_op("AddColumnOp", "users", column={"name": name}) for name in ("zone", "tier")],
            "Add zone, tier to users",
        ),
        ([_op("CreateTableOp", "tags"), _op("CreateIndexOp", "tags", name="i")],
         "Create the table tags"),
        ([_op("DropColumnOp", "a", column={"name": "x"}), _op("DropTableOp", "b")], "Change a, b"),
        ([_op("CreateUniqueConstraintOp", "users", name="uq")], "Add the constraint uq"),
    ],
)  # fmt: skip
def test_a_suggested_message_is_one_that_would_be_taken(
    operations: list[dict[str, Any]], expected: str
) -> None:
    assert suggest_message(operations) == expected


def test_of_nothing_no_message_is_made() -> None:
    assert suggest_message([]) == ""
