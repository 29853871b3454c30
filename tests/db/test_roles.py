"""Roles that are no superuser: what they own is enough, or what they lack is named before."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from builders import SECOND, TABLE, Project, Script, execute
from playbook import backup, preview, restore, rollback, status, upgrade, verify
from playbook.archive import take_backup
from playbook.database import connect, server_info
from playbook.errors import BackupFailed, GuardRefused
from playbook.privileges import find_dump_rights, find_hidden_sessions
from playbook.records import Finding
from playbook.targets import Target
from steps import Namespace, go, history

FILLS = Script(
    execute("ALTER TABLE a ADD COLUMN x text", "INSERT INTO a VALUES (1, 'one')"),
    execute("ALTER TABLE a DROP COLUMN x"),
)


@dataclass(frozen=True)
class Role:
    """A role that owns a schema of its name, and may do nothing else in the database."""

    name: str
    target: Target
    owner: Target

    def grant(self, *statements: str) -> None:
        """Run statements as the superuser; ``{}`` stands for the role."""
        with connect(self.owner) as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement.replace("{}", self.name))


@pytest.fixture
def role(fresh_database: Target) -> Iterator[Role]:
    name = f"app_{secrets.token_hex(4)}"
    made = Role(name, fresh_database.with_conninfo(user=name), fresh_database)
    made.grant("CREATE ROLE {} LOGIN", "REVOKE CREATE ON SCHEMA public FROM public",
               "CREATE SCHEMA {} AUTHORIZATION {}")  # fmt: skip
    yield made
    made.grant("DROP OWNED BY {} CASCADE", "DROP ROLE {}")


@pytest.fixture
def namespace(
    role: Role, staging: Callable[..., Project], monkeypatch: pytest.MonkeyPatch
) -> Namespace:
    project = staging({"a1": TABLE, "b2": FILLS, "c3": SECOND})
    monkeypatch.setenv("APP", role.target.sqlalchemy_url())
    return {"database": "env:APP", "alembic_ini": str(project.ini)}


def test_whole_round_of_a_role_that_owns_only_its_schema(role: Role, namespace: Namespace) -> None:
    role.grant("CREATE TABLE others (id int)", "ALTER ROLE {} CREATEDB")
    new = f"new_{secrets.token_hex(4)}"

    go(status, namespace)
    go(upgrade, namespace, target="b2")
    with pytest.raises(GuardRefused, match=r"table public\.others: SELECT: This role may not read"):
        go(backup, namespace)
    go(upgrade, namespace, backup="never")
    go(verify, namespace)
    go(preview, namespace, target="-1", method="observed")
    go(rollback, namespace, target="a1", backup="never")
    role.grant("GRANT SELECT ON others TO {}")
    go(backup, namespace, verify="restore")
    try:
        assert go(restore, namespace, into=new).outcome == "succeeded"
    finally:
        role.grant(f"DROP DATABASE IF EXISTS {new} WITH (FORCE)")

    project = Path(namespace["alembic_ini"]).parent
    (salvaged,) = project.glob(f"runs/*/salvage/{role.name}.a.csv")
    assert salvaged.read_text() == "id,x\n1,one\n"


def test_history_is_kept_by_a_role_that_may_make_its_schema(
    role: Role, namespace: Namespace
) -> None:
    go(upgrade, namespace, target="a1", backup="never")  # told, and receipts only
    role.grant("GRANT CREATE ON DATABASE " + role.owner.database + " TO {}")

    go(upgrade, namespace, target="b2", backup="never")

    assert history(role.owner) == [("upgrade", "succeeded", ["b2"])]


def test_proof_by_restore_asks_for_createdb_before_the_dump(
    role: Role, namespace: Namespace
) -> None:
    with pytest.raises(GuardRefused, match=r"may not make a database\. ALTER ROLE"):
        go(backup, namespace, verify="restore")

    assert not list(Path(namespace["alembic_ini"]).parent.glob("backups/*/*"))


@pytest.mark.parametrize(
    ("made", "named"),
    [
        ("CREATE TABLE t (id int)", "table public.t: SELECT"),
        ('CREATE TABLE "T 1" (id int); GRANT SELECT (id) ON "T 1" TO {}',
         "table public.T 1: SELECT"),
        ("CREATE SEQUENCE s", "sequence public.s: SELECT"),
        ("CREATE SCHEMA x; CREATE TABLE x.t (id int); GRANT SELECT ON x.t TO {}",
         "schema x: USAGE"),
        ("CREATE TABLE t (id int) PARTITION BY LIST (id); GRANT SELECT ON t TO {};"
         "CREATE TABLE p PARTITION OF t DEFAULT", "table public.p: SELECT"),
        ("CREATE TABLE t (id int); GRANT SELECT ON t TO {};"
         "ALTER TABLE t ENABLE ROW LEVEL SECURITY", "table public.t: BYPASSRLS"),
        ("SELECT lo_from_bytea(7, 'x')", "large object 7: owner is "),
    ],
)  # fmt: skip
def test_what_pg_dump_would_fail_at_is_named_before(
    role: Role, tmp_path: Path, made: str, named: str
) -> None:
    role.grant(made)

    (finding,) = _dump_rights(role.target)

    assert finding.subject.startswith(named)
    with pytest.raises(BackupFailed):
        _take(role.target, tmp_path)


def test_role_that_may_read_everything_dumps_everything(role: Role, tmp_path: Path) -> None:
    role.grant(
        "CREATE TABLE t (id serial)", "GRANT pg_read_all_data TO {}", "CREATE EXTENSION vector",
        "SELECT lo_from_bytea(7, 'x')", "GRANT SELECT ON LARGE OBJECT 7 TO {}",
    )  # fmt: skip

    assert _dump_rights(role.target) == ()
    _take(role.target, tmp_path)


def test_sessions_of_which_a_role_sees_nothing_are_told(role: Role) -> None:
    with connect(role.owner) as other, connect(role.target, read_only=True) as connection:
        (finding,) = find_hidden_sessions(connection)
        assert finding.subject == "1 session"

        other.cursor().execute(f"GRANT pg_monitor TO {role.name}")
        assert find_hidden_sessions(connection) == ()


def _dump_rights(target: Target) -> tuple[Finding, ...]:
    with connect(target, read_only=True) as connection:
        return find_dump_rights(connection)


def _take(target: Target, folder: Path) -> None:
    with connect(target) as connection:
        server = server_info(connection)
    take_backup(target, server, (), directory=str(folder))
