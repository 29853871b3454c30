"""The sample data: the same everywhere, refused where tables exist, and safe in migrations."""

from __future__ import annotations

import pytest
from example_database import Database

from voice_agent import sample_data

LEGACY_COLUMNS = "t.id, username, display_name, locale, preferred_voice, created_at"
LEGACY_ROWS = {"users": 5000, "conversation_sessions": 12000, "messages": 39994}
HEAD_ROWS = {**LEGACY_ROWS, "rag_corpora": 160, "rag_documents": 2000, "rag_chunks": 20082}

# They change only when the generator is changed on purpose: then every stored output of a
# notebook that shows fingerprints changes too.
FINGERPRINTS = {
    "users": "346742ee1d37710cce909ebd1881a4ab",
    "conversation_sessions": "0dd8e0dfcba98cbf1d0179ebd383e9f9",
    "messages": "f91dc0b577b0da80fe9261cc995fcb60",
    "rag_corpora": "0cda662fd2f2c4364b00c7eeeddc018d",
    "rag_documents": "0aec2ea94ad2b50380496778d7bdc908",
    "rag_chunks": "9942358c5b82799604d1cf31b922890c",
}


def make(database: Database, *options: str) -> None:
    made = database.run("python", "-m", "voice_agent.sample_data", *options)
    assert (made.returncode, made.stderr) == (0, "")


def count_rows(database: Database, tables: dict[str, int]) -> dict[str, int]:
    return {table: database.fetch(f"SELECT count(*) FROM {table}")[0][0] for table in tables}


def test_legacy_state_is_the_baseline_with_the_known_rows(database: Database) -> None:
    make(database)

    assert database.fetch("SELECT version_num FROM alembic_version") == [("000_baseline",)]
    assert count_rows(database, LEGACY_ROWS) == LEGACY_ROWS


def test_head_state_has_the_same_rows_on_every_machine(database: Database) -> None:
    make(database, "--state", "head")

    assert database.fetch("SELECT version_num FROM alembic_version") == [("002_add_rag_tables",)]
    assert count_rows(database, HEAD_ROWS) == HEAD_ROWS
    assert {table: database.fingerprint(table) for table in HEAD_ROWS} == FINGERPRINTS


def test_new_rows_get_ids_after_the_sample_rows(database: Database) -> None:
    make(database)

    added = database.fetch("INSERT INTO users (username) VALUES ('nina') RETURNING id")

    assert added == [(LEGACY_ROWS["users"] + 1,)]


def test_legacy_users_are_awkward_in_every_expected_way(database: Database) -> None:
    make(database)
    conditions = (
        "display_name IS NULL",
        "username <> btrim(username)",
        "username LIKE '% %'",
        "username ~ '[^[:ascii:]]'",
        "username = upper(username)",
        "lower(btrim(username)) IN (SELECT lower(btrim(username)) FROM users "
        "GROUP BY lower(btrim(username)) HAVING count(*) > 1)",
    )

    for condition in conditions:
        (found,) = database.fetch(f"SELECT count(*) FROM users WHERE {condition}")[0]
        assert found >= 20, condition


def test_upgrade_keeps_legacy_rows_and_fills_the_new_columns(database: Database) -> None:
    make(database)
    before = database.fingerprint("users", LEGACY_COLUMNS)

    database.upgrade("001_add_auth_fields")

    assert database.fingerprint("users", LEGACY_COLUMNS) == before
    assert database.fetch(
        "SELECT count(*), count(DISTINCT user_id), count(DISTINCT lower(email)), "
        "count(*) FILTER (WHERE hashed_password = '!' AND is_active AND NOT is_verified "
        "AND last_login_at IS NULL AND updated_at = created_at) FROM users"
    ) == [(5000, 5000, 5000, 5000)]


def test_backfill_makes_addresses_from_awkward_usernames(database: Database) -> None:
    database.upgrade("000_baseline")
    database.fetch(
        "INSERT INTO users (username) VALUES ('Anna.Berg'), ('anna.berg'), (' anna berg '), "
        "('josé'), ('山田'), ('!'), (repeat('x', 300)), ('anna.berg+2')"
    )

    database.upgrade("001_add_auth_fields")

    assert [row[0] for row in database.fetch("SELECT email FROM users ORDER BY id")] == [
        "anna.berg@legacy.invalid",
        "anna.berg+2@legacy.invalid",
        "anna.berg+3@legacy.invalid",
        "jos@legacy.invalid",
        "user@legacy.invalid",
        "user+6@legacy.invalid",
        f"{'x' * 48}@legacy.invalid",
        "anna.berg.2@legacy.invalid",
    ]


def test_downgrade_and_upgrade_again_give_the_same_users(database: Database) -> None:
    make(database)
    database.upgrade("head")
    before = database.fingerprint("users")

    database.downgrade("000_baseline")
    database.upgrade("head")

    assert database.fingerprint("users") == before


def test_database_with_tables_is_refused_and_left_as_it_is(database: Database) -> None:
    database.fetch("CREATE TABLE precious (id int)")
    before = database.schema()

    refused = database.run("python", "-m", "voice_agent.sample_data")

    assert refused.returncode == 1
    assert refused.stderr.startswith("Sample data go only into an empty database, and ")
    assert "Traceback" not in refused.stderr
    assert database.schema() == before


def test_unreachable_database_is_one_sentence(database: Database) -> None:
    target = database.target.with_conninfo(dbname="no_such_database")

    failed = Database(target).run("python", "-m", "voice_agent.sample_data")

    assert failed.returncode == 1
    assert 'database "no_such_database" does not exist' in failed.stderr
    assert "Traceback" not in failed.stderr


def test_failure_midway_leaves_the_database_empty(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in database.environment.items():
        monkeypatch.setenv(name, value)

    def fail(_connection: object) -> dict[str, int]:
        raise RuntimeError("full disk")

    monkeypatch.setattr(sample_data, "add_rag_data", fail)
    with pytest.raises(RuntimeError, match="full disk"):
        sample_data.build("head")

    assert database.fetch(sample_data.USER_TABLES) == [(0,)]


def test_documents_are_added_only_once(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    make(database, "--state", "head")
    for name, value in database.environment.items():
        monkeypatch.setenv(name, value)

    engine = sample_data.create_engine(sample_data.LIBPQ_URL)
    with engine.connect() as connection, pytest.raises(sample_data.GuardRefused, match="empty"):
        sample_data.add_rag_data(connection)
    engine.dispose()
