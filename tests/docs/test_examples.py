"""The guide's examples run: each bad one shows its hazard in `preview`, each good one none."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

import alembic.command
import pytest
import sqlalchemy as sa
from alembic.autogenerate import produce_migrations, render_python_code
from alembic.config import Config
from alembic.migration import MigrationContext
from examples import BASE, examples, files, project_of
from pages import GUIDE, read_page
from sqlalchemy.schema import CreateIndex, CreateTable

from builders import Project
from playbook import preview, sandbox, upgrade, verify
from playbook.database import connect, fetch, fetch_value
from playbook.dump import dump_schema, find_client_tools
from playbook.errors import SettingsError, VerifyFailed
from playbook.records import Hazard, Hazards, Severity
from playbook.targets import PROJECT_INI, Target
from steps import Namespace, go

ROWS = """
INSERT INTO users (name, email, phone)
SELECT 'user ' || n, 'u' || n || '@example.com', '+49 ' || n FROM generate_series(1, 2500) AS n;
INSERT INTO orders (user_id, total, note) SELECT n % 2500 + 1, n, 'x' FROM generate_series(1, 3000) AS n;
ANALYZE;
UPDATE pg_class SET reltuples = 30000000 WHERE relname IN ('users', 'orders')
"""  # noqa: E501
EXAMPLES = examples([block for section in read_page(GUIDE) for block in section.blocks])
TABLES = EXAMPLES["base"]
BAD: dict[str, dict[str, Severity]] = {
    "split": {
        "update-all-rows": Severity.STOP,
        "require-concurrent-index-creation": Severity.STOP,
    },
    "rename": {"renaming-column": Severity.WARN},
    "not-null": {"adding-not-nullable-field": Severity.STOP},
    "required": {"rows-lack-a-value": Severity.STOP},
    "default": {"adding-field-with-default": Severity.STOP},
    "index": {"require-concurrent-index-creation": Severity.STOP},
    "foreign-key": {"adding-foreign-key-constraint": Severity.STOP},
    "unique": {"disallowed-unique-constraint": Severity.STOP},
    "enum": {"changing-column-type": Severity.STOP},
    "type": {"changing-column-type": Severity.STOP},
    "autogenerate": {"ban-drop-column": Severity.WARN},
}
"""What `preview` says of each bad example."""
GOOD: dict[str, str] = {
    "split": "SELECT count(*) = 2500 AND bool_and(phone_digits = '49' || id) FROM users",
    "rename": "SELECT count(*) = 2500 AND bool_and(full_name = 'user ' || id) FROM users",
    "not-null": """
        SELECT attnotnull FROM pg_attribute
        WHERE attrelid = 'users'::regclass AND attname = 'email'
    """,
    "required": "SELECT count(*) = 3000 AND bool_and(currency = 'EUR') FROM orders",
    "default": """
        SELECT count(*) = 2500 AND bool_and(public_id IS NULL)
               AND pg_get_expr(adbin, adrelid) = 'gen_random_uuid()'
        FROM users, pg_attrdef JOIN pg_attribute ON attrelid = adrelid AND attnum = adnum
        WHERE adrelid = 'users'::regclass AND attname = 'public_id' GROUP BY adbin, adrelid
    """,
    "index": "SELECT indisvalid FROM pg_index WHERE indexrelid = 'ix_orders_user_id'::regclass",
    "foreign-key": """
        SELECT convalidated FROM pg_constraint WHERE conname = 'fk_orders_user_id_users'
    """,
    "unique": "SELECT contype = 'u' FROM pg_constraint WHERE conname = 'uq_users_email'",
    "enum": "SELECT enum_range(NULL::order_state)::text = '{open,paid,sent}'",
    "type": """
        SELECT atttypid = 'text'::regtype FROM pg_attribute
        WHERE attrelid = 'orders'::regclass AND attname = 'note'
    """,
}
"""A query that is true once each good example has been applied."""
STAYS = {"enum"}
"""Good examples that cannot take everything back, and say so."""


class Applied:
    """An example's project on a database of its own, at the guide's tables with rows in them."""

    def __init__(self, project: Project, target: Target) -> None:
        self.project, self.target = project, target
        self.namespace: Namespace = {
            "database": f"sandbox:{target.database}",
            "alembic_ini": str(project.ini),
        }
        self.config = Config(str(project.ini), stdout=io.StringIO())
        url = target.sqlalchemy_url().replace("%", "%%")
        self.config.set_main_option("sqlalchemy.url", url)
        alembic.command.upgrade(self.config, BASE)
        with connect(target) as connection, connection.cursor() as cursor:
            cursor.execute(ROWS)

    def hazards(self) -> tuple[Hazard, ...]:
        """Return what `preview` says of the example's revisions."""
        return go(preview, self.namespace, before="write_files").require("hazards", Hazards).items

    def schema(self) -> list[str]:
        """Return the schema as pg_dump writes it, whatever the order of columns."""
        text = dump_schema(self.target, tools=find_client_tools(180000))
        return sorted(line.rstrip(",") for line in text.splitlines())


@pytest.fixture
def apply(
    fresh_database: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Applied]:
    """Write an example's project and take a database to the tables that it stands on."""
    shared = sandbox.sandbox_folder(PROJECT_INI.parent)
    monkeypatch.setattr(sandbox, "sandbox_folder", lambda project: shared)
    return lambda name: Applied(
        project_of(tmp_path / "project", TABLES, EXAMPLES[name]), fresh_database
    )


@pytest.mark.parametrize("name", BAD)
def test_bad_example_shows_its_hazard(name: str, apply: Callable[[str], Applied]) -> None:
    found = apply(f"{name} bad").hazards()

    weighed = {one.rule: one.severity for one in found if one.severity is not Severity.OK}
    assert weighed == BAD[name]


@pytest.mark.parametrize("name", GOOD)
def test_good_example_shows_no_hazard_and_goes_up_down_and_up(
    name: str, apply: Callable[[str], Applied]
) -> None:
    made = apply(f"{name} good")
    before = made.schema()

    found = made.hazards()
    alembic.command.upgrade(made.config, "head")
    alembic.command.downgrade(made.config, BASE)
    after = made.schema()
    alembic.command.upgrade(made.config, "head")

    waits = [one for one in found if one.severity is not Severity.OK]
    assert all(one.allowed_because for one in waits)
    assert after == before or name in STAYS
    with connect(made.target) as connection:
        assert fetch_value(connection, GOOD[name]) is True  # type: ignore[arg-type]


def test_every_example_is_one_of_these() -> None:
    named = {f"{name} bad" for name in BAD} | {f"{name} good" for name in GOOD}

    assert named | {"base", "naming", "data check"} == set(EXAMPLES)


def test_split_example_goes_through_the_upgrade_as_the_guide_says(
    apply: Callable[[str], Applied],
) -> None:
    made = apply("split good")

    outcome = go(upgrade, made.namespace, backup="never")

    assert outcome.outcome == "succeeded"
    with connect(made.target) as connection:
        assert fetch_value(connection, GOOD["split"]) is True


def test_old_and_new_code_work_between_expand_and_contract(
    apply: Callable[[str], Applied],
) -> None:
    made = apply("rename good")
    alembic.command.upgrade(made.config, "003_fill_full_name")

    with connect(made.target) as connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO users (name) VALUES ('old code')")
        cursor.execute("INSERT INTO users (full_name) VALUES ('new code')")
        cursor.execute("UPDATE users SET name = 'old again' WHERE id = 1")
        cursor.execute("UPDATE users SET full_name = 'new again' WHERE id = 2")
        rows = fetch(
            connection, "SELECT name, full_name FROM users WHERE id IN (1, 2) OR id > 2500"
        )

    names = {"old code", "new code", "old again", "new again"}
    assert set(rows) == {(name, name) for name in names}


def test_value_of_an_enum_may_be_used_in_the_next_revision(
    apply: Callable[[str], Applied],
) -> None:
    made = apply("enum good")
    alembic.command.upgrade(made.config, "head")

    with connect(made.target) as connection, connection.cursor() as cursor:
        cursor.execute("UPDATE orders SET state = 'sent' WHERE id = 1")
        assert fetch_value(connection, "SELECT state::text FROM orders WHERE id = 1") == "sent"


def test_big_change_of_type_is_written_out_by_preview(apply: Callable[[str], Applied]) -> None:
    (hazard,) = apply("type bad").hazards()

    steps = (
        "ADD COLUMN total_new",
        "CREATE TRIGGER",
        "COMMIT;",
        "RENAME COLUMN total_new TO total",
    )
    places = [hazard.rewrite.index(step) for step in steps]
    assert places == sorted(places)


def test_autogenerate_takes_a_rename_for_another_column_and_preview_counts_what_is_lost(
    apply: Callable[[str], Applied],
) -> None:
    made = apply("autogenerate bad")
    engine = sa.create_engine(made.target.sqlalchemy_url(), poolclass=sa.NullPool)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"include_name": _users_only})
        script = produce_migrations(context, _renamed())

    written = render_python_code(script.upgrade_ops).replace("'", '"')
    (body,) = files(EXAMPLES["autogenerate bad"]).values()
    statements = [line.strip() for line in body.splitlines() if "op." in line]
    assert [line.strip() for line in written.splitlines() if "op." in line] == statements
    (hazard,) = made.hazards()
    assert "2,500 values in phone of public.users will be destroyed." in hazard.detail


def _users_only(name: str | None, kind: str, parents: Any) -> bool:
    return kind != "table" or name == "users"


def _renamed() -> sa.MetaData:
    """Return the models in which `phone` has been renamed to `phone_number`."""
    metadata = sa.MetaData()
    sa.Table(
        "users",
        metadata,
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("email", sa.Text),
        sa.Column("phone_number", sa.Text),
    )
    return metadata


@pytest.mark.parametrize(
    ("message", "is_refused"),
    [
        ("add tags to documents", False), ("index orders by user", False),
        ("update", True), ("fix", True), ("misc", True),
    ],
)  # fmt: skip
def test_messages_are_refused_and_taken_as_the_guide_says(
    message: str, is_refused: bool, apply: Callable[[str], Applied]
) -> None:
    (naming,) = [one for one in read_page(GUIDE) if one.anchor == "naming"]
    made = apply("index good")

    assert message in naming.spans
    with pytest.raises(SettingsError) if is_refused else nullcontext():
        author = import_module("playbook.author")
        author.open_run({**made.namespace, "message": message}).close()


def test_convention_names_every_constraint_and_index() -> None:
    space: dict[str, Any] = {}
    exec(EXAMPLES["naming"], space)
    parent = sa.Table("users", space["metadata"], sa.Column("id", sa.Integer, primary_key=True))
    table = sa.Table(
        "orders",
        space["metadata"],
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("user_id", sa.ForeignKey(parent.c.id), index=True),
        sa.Column("number", sa.Integer, unique=True),
        sa.CheckConstraint("number > 0", name="number_positive"),
    )

    made = str(CreateTable(table)) + "".join(str(CreateIndex(one)) for one in table.indexes)

    for name in ("pk_orders", "fk_orders_user_id_users", "uq_orders_number",
                 "ck_orders_number_positive", "ix_orders_user_id"):  # fmt: skip
        assert name in made


def test_data_check_finds_the_rows_that_break_its_rule(apply: Callable[[str], Applied]) -> None:
    made = apply("split good")
    alembic.command.upgrade(made.config, "head")
    made.project.write_check("003_fill_phone_digits", EXAMPLES["data check"])

    assert go(verify, made.namespace).outcome == "succeeded"
    with connect(made.target) as connection, connection.cursor() as cursor:
        cursor.execute("UPDATE users SET phone_digits = 'none' WHERE id = 7")
    with pytest.raises(VerifyFailed, match="digits_are_digits"):
        go(verify, made.namespace)
