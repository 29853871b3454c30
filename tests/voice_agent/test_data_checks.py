"""The data checks in migrations/checks: well-formed, true of the sample data, and able to fail."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest
from example_database import Database

from playbook.targets import PROJECT_INI

CHECKS = PROJECT_INI.parent / "migrations" / "checks"
VERSIONS = CHECKS.parent / "versions"
HEADER = re.compile(r"^-- name: *(\w+)\n((?:-- .*\n)+)", re.MULTILINE)

# For each check, SQL that breaks its rule. Foreign keys are off (session_replication_role), and
# constraints that forbid the breakage are dropped, as for a restore that went wrong.
BREAK = {
    "sessions_have_a_user": "DELETE FROM users WHERE id = 1; "
    "UPDATE conversation_sessions SET user_id = 0 WHERE id = 7",
    "messages_have_a_session": "UPDATE messages SET session_id = 0 WHERE id = 7",
    "messages_are_numbered_without_gaps": "DELETE FROM messages WHERE id = "
    "(SELECT min(id) FROM messages WHERE position = 0 AND session_id IN "
    "(SELECT session_id FROM messages WHERE position = 1))",
    "messages_are_in_order_of_time": "UPDATE messages SET created_at = '2020-01-01' "
    "WHERE id = (SELECT min(id) FROM messages WHERE position = 1)",
    "users_have_an_email": "UPDATE users SET email = 'anna at example' WHERE id = 3",
    "emails_are_unique_in_any_case": "DROP INDEX uq_users_lower_email; "
    "UPDATE users SET email = (SELECT upper(email) FROM users WHERE id = 4) WHERE id = 5",
    "users_have_their_own_user_id": "ALTER TABLE users DROP CONSTRAINT uq_users_user_id CASCADE; "
    "UPDATE users SET user_id = (SELECT user_id FROM users WHERE id = 4) WHERE id = 5",
    "passwords_are_hashed_or_locked": "UPDATE users SET hashed_password = 'hunter2' WHERE id = 3",
    "users_changed_after_their_creation": "UPDATE users SET last_login_at = '2020-01-01' "
    "WHERE id = 3",
    "rag_rows_have_a_parent": "DELETE FROM rag_documents WHERE id = 3",
    "content_hashes_are_right": "UPDATE rag_documents SET content = content || '.' WHERE id = 3",
    "chunks_are_numbered_without_gaps": "DELETE FROM rag_chunks WHERE chunk_index = 1",
    "ready_documents_can_be_searched": "UPDATE rag_chunks SET embedding = NULL WHERE id = 3",
    "embeddings_have_the_length_of_their_corpus": "UPDATE rag_chunks SET embedding = '{1,2}' "
    "WHERE id = 3",
}


@dataclass(frozen=True)
class Check:
    revision: str
    name: str
    description: str
    query: str


def read_checks() -> list[Check]:
    checks = []
    for path in sorted(CHECKS.glob("*.sql")):
        pieces = HEADER.split(path.read_text("utf-8"))[1:]
        for name, comment, query in zip(pieces[::3], pieces[1::3], pieces[2::3], strict=True):
            description = " ".join(line[3:] for line in comment.splitlines())
            checks.append(Check(path.stem, name, description, query.strip()))
    return checks


def test_every_revision_has_one_to_five_checks_with_names_of_their_own() -> None:
    checks = read_checks()

    for revision in (path.stem for path in VERSIONS.glob("*.py")):
        assert 1 <= len([check for check in checks if check.revision == revision]) <= 5
    assert len({check.name for check in checks}) == len(checks)


@pytest.mark.parametrize("check", read_checks(), ids=lambda check: check.name)
def test_check_is_a_described_single_query_in_a_fixed_order(check: Check) -> None:
    assert check.description.endswith(".")
    assert check.query.startswith("SELECT")
    assert check.query.count(";") == 1
    assert check.query.endswith(";")
    assert "ORDER BY" in check.query


def test_checks_hold_for_legacy_data_at_every_revision(database: Database) -> None:
    assert database.run("python", "-m", "voice_agent.sample_data").returncode == 0

    checks: list[Check] = []
    for revision in sorted({check.revision for check in read_checks()}):
        database.upgrade(revision)
        checks += [check for check in read_checks() if check.revision == revision]
        assert {check.name: database.fetch(check.query) for check in checks} == {
            check.name: [] for check in checks
        }


def test_checks_hold_at_head_and_each_fails_when_its_rule_is_broken(database: Database) -> None:
    made = database.run("python", "-m", "voice_agent.sample_data", "--state", "head")
    assert made.returncode == 0
    checks = read_checks()
    assert sorted(BREAK) == sorted(check.name for check in checks)

    connection = database.connect()
    connection.autocommit = False
    with connection.cursor() as cursor:
        for check in checks:
            cursor.execute(check.query)
            assert cursor.fetchall() == [], check.name
            cursor.execute("SET LOCAL session_replication_role = replica")
            cursor.execute(BREAK[check.name])
            cursor.execute(check.query)
            assert cursor.fetchall() != [], check.name
            connection.rollback()
    connection.close()
