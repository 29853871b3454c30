"""Tenants of one database, each in a schema of its own with its own version table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from builders import TABLE, Project, Script, execute
from playbook import preview, rollback, status, upgrade, verify
from playbook.database import connect, fetch, fetch_value
from playbook.receipts import known_receipts
from playbook.targets import Target, load_target
from steps import Namespace, go

NAMED = Script(execute("ALTER TABLE a ADD COLUMN x text"), execute("ALTER TABLE a DROP COLUMN x"))
TENANTS = ("one", "Two & Co", 'th"ree')


@pytest.fixture
def tenants(staging: Callable[..., Project], fresh_database: Target) -> Callable[[str], Namespace]:
    name = fresh_database.database
    sections = "".join(
        f"[playbook:{tenant}]\nurl = sandbox:{name}\nschema = {tenant}\n" for tenant in TENANTS
    )
    project = staging({"a1": TABLE, "b2": NAMED}, sections=sections)
    with connect(fresh_database) as connection, connection.cursor() as cursor:
        for tenant in TENANTS:
            cursor.execute('CREATE SCHEMA "{}"'.format(tenant.replace('"', '""')))
    return lambda tenant: {"database": tenant, "alembic_ini": str(project.ini)}


def test_each_tenant_goes_its_own_way_and_leaves_the_others_alone(
    tenants: Callable[[str], Namespace], fresh_database: Target
) -> None:
    for tenant in TENANTS:
        go(upgrade, tenants(tenant))
        where = 'INSERT INTO "{}".a VALUES (1, %s)'.format(tenant.replace('"', '""'))
        with connect(fresh_database) as connection:
            connection.cursor().execute(where, (tenant,))

    with status.open_run(tenants("one")) as run:
        assert [receipt.target for receipt in known_receipts(run.target, run.server, "")] == ["one"]
    go(preview, tenants("Two & Co"), target="-1", method="observed")
    go(rollback, tenants("Two & Co"), target="a1")
    go(verify, tenants("one"))

    assert go(status, tenants("Two & Co")).summary.endswith("1 revision behind head.")
    assert go(status, tenants("one")).summary.endswith("at head.")
    with connect(fresh_database) as connection:
        assert fetch(connection, 'SELECT * FROM "one".a') == [(1, "one")]
        assert fetch(connection, 'SELECT * FROM "th""ree".a') == [(1, 'th"ree')]
        assert fetch(connection, 'SELECT * FROM "Two & Co".a') == [(1,)]
    project = Path(tenants("one")["alembic_ini"]).parent
    (salvaged,) = project.glob("runs/*/salvage/*.csv")
    assert salvaged.read_text() == "id,x\n1,Two & Co\n"


@pytest.mark.parametrize("schema", ["one", "Two & Co", 'th"ree', r"back\slash", "one, public"])
def test_schema_is_the_search_path_of_every_session(
    staging: Callable[..., Project], fresh_database: Target, schema: str
) -> None:
    url = f"sandbox:{fresh_database.database}"
    project = staging({}, sections=f"[playbook:t]\nurl = {url}\nschema = {schema}\n")
    target = fresh_database.with_conninfo(options=load_target("t", project.ini).conninfo["options"])

    with connect(target) as connection:
        shown = fetch_value(connection, "SHOW search_path")

    names = [name.strip().replace('"', '""') for name in schema.split(",")]
    assert shown == ",".join(f'"{name}"' for name in names)
