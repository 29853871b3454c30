"""The models against the database, where a column is numbered by a sequence."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from builders import Project, Script, execute
from playbook import init, status
from playbook.records import Drift
from playbook.targets import Target
from steps import go

MODELS = """
import sqlalchemy as sa

target = sa.MetaData()
sa.Table("plain", target, sa.Column("id", sa.Integer, primary_key=True))
sa.Table("Mixed Case", target, sa.Column("Id", sa.BigInteger, primary_key=True))
sa.Table("far", target, sa.Column("id", sa.Integer, primary_key=True), schema="Other Place")
sa.Table("shares", target, sa.Column("id", sa.Integer, primary_key=True, autoincrement=False))
"""
MADE = Script(
    execute(
        "CREATE TABLE plain (id serial PRIMARY KEY)",
        'CREATE TABLE "Mixed Case" ("Id" bigserial PRIMARY KEY)',
        'CREATE SCHEMA "Other Place"',
        'CREATE TABLE "Other Place".far (id serial PRIMARY KEY)',
        "CREATE SEQUENCE shared",
        "CREATE TABLE shares (id int PRIMARY KEY{})",
    )
)


@pytest.mark.parametrize(
    ("default", "said"),
    [
        ("", []),
        (" DEFAULT nextval('shared')", ["modify default shares id"]),
        # Alembic goes by the name of the column that owns it, whichever table that is of.
        (" DEFAULT nextval('plain_id_seq')", []),
    ],
    ids=["no default", "a sequence of its own", "a serial's sequence"],
)
def test_only_a_default_that_serial_did_not_make_is_drift(
    default: str, said: list[str], staging: Callable[..., Project], fresh_database: Target
) -> None:
    project = staging(
        {"a1": Script(MADE.upgrade.replace("{}", default.replace("'", "\\'")))},
        before=MODELS,
        settings='{"target_metadata": target, "include_schemas": True, '
        '"compare_server_default": True, "include_name": lambda name, kind, parents: '
        'kind != "schema" or name in (None, "Other Place")}',
    )
    namespace = {
        "database": f"sandbox:{fresh_database.database}",
        "alembic_ini": str(project.ini),
    }
    go(init, namespace)

    run = go(status, namespace, before="measure_tables")

    drift = run.taken("drift", Drift)
    assert not drift.unknown
    assert [" ".join(line.split()[:4]) for line in drift.lines] == said
