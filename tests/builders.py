"""What tests build: revision graphs, snapshots, and small complete Alembic projects on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent, indent

from playbook.records import ColumnSnapshot, Revision, RevisionGraph, Snapshot, TableSnapshot
from playbook.targets import Target, load_target

ENV = """
from alembic import context
from sqlalchemy import NullPool, create_engine, text

{before}
config = context.config
SETTINGS = dict({settings})
if context.is_offline_mode():
    context.configure(url=config.get_main_option("sqlalchemy.url"), literal_binds=True, **SETTINGS)
    with context.begin_transaction():
        context.run_migrations()
else:
    with create_engine({url}, poolclass=NullPool, **dict({engine})).connect() as connection:
        context.configure(connection=connection, **SETTINGS)
        with context.begin_transaction():
            context.run_migrations()
"""
URL = 'config.get_main_option("sqlalchemy.url")'
REVISION = '''"""{revision}"""
import sqlalchemy as sa
from alembic import op

revision = {revision!r}
down_revision = {down!r}
branch_labels = {labels!r}
depends_on = {depends!r}


def upgrade():
{upgrade}
'''
DOWNGRADE = """

def downgrade():
{downgrade}
"""


def make_graph(
    text: str, *, current: tuple[str, ...] = (), labels: Mapping[str, str] | None = None
) -> RevisionGraph:
    """Return the graph that an arrow notation draws.

    ``a<-b<-c`` is a chain; chains are parted by spaces, and ``a,b<-m`` is a merge of two.
    """
    parents: dict[str, tuple[str, ...]] = {}
    for chain in text.split():
        below: tuple[str, ...] = ()
        for link in chain.split("<-"):
            names = tuple(link.split(","))
            for name in names:
                parents.setdefault(name, ())
                if below:
                    parents[name] = below
            below = names
    children = [parent for downs in parents.values() for parent in downs]
    revisions = tuple(
        Revision(
            revision=name, down_revisions=downs, depends_on=(),
            branch_labels=(labels[name],) if labels and name in labels else (),
            message=f"make {name}", path=Path(f"{name}.py"), sha256=name * 8,
            is_head=name not in children, is_base=not downs,
            is_branch_point=children.count(name) > 1, is_merge_point=len(downs) > 1,
        )
        for name, downs in parents.items()
    )  # fmt: skip
    return RevisionGraph(
        revisions=revisions,
        heads=tuple(r.revision for r in revisions if r.is_head),
        current=current,
        unknown=tuple(name for name in current if name not in parents),
    )


def make_snapshot(**tables: dict[str, str] | int) -> Snapshot:
    """Return a snapshot of tables: their rows, or a fingerprint for each of their columns."""
    return Snapshot(
        "app",
        "2026-01-01T00:00:00+00:00",
        ("a",),
        tuple(
            TableSnapshot(
                "public",
                name,
                value if isinstance(value, int) else 3,
                ()
                if isinstance(value, int)
                else tuple(
                    ColumnSnapshot(column, "text", False, 3, fingerprint)
                    for column, fingerprint in value.items()
                ),
            )
            for name, value in tables.items()
        ),
    )


@dataclass(frozen=True)
class Script:
    """One revision: its functions' bodies, and what it stands on."""

    upgrade: str = "pass"
    downgrade: str | None = "pass"
    down: str | tuple[str, ...] | None = None
    labels: tuple[str, ...] | None = None
    depends: str | None = None


@dataclass(frozen=True)
class Project:
    """A small complete Alembic project on disk."""

    folder: Path

    @property
    def ini(self) -> Path:
        return self.folder / "alembic.ini"

    def target(self, database: Target) -> Target:
        """Return the project's target for a database that is open already."""
        target = load_target("sandbox", self.ini)
        return target.with_conninfo(**database.conninfo)

    def revision_file(self, revision: str) -> Path:
        return self.folder / "migrations" / "versions" / f"{revision}.py"

    def write(self, revision: str, script: Script) -> None:
        """Write a revision's file."""
        text = REVISION.format(
            revision=revision, down=script.down, labels=script.labels, depends=script.depends,
            upgrade=_body(script.upgrade),
        )  # fmt: skip
        if script.downgrade is not None:
            text += DOWNGRADE.format(downgrade=_body(script.downgrade))
        self.revision_file(revision).write_text(text, "utf-8")

    def write_check(self, revision: str, text: str) -> None:
        """Write a revision's data checks."""
        folder = self.folder / "migrations" / "checks"
        folder.mkdir(exist_ok=True)
        (folder / f"{revision}.sql").write_text(text, "utf-8")


def staging_project(
    folder: Path,
    revisions: Mapping[str, Script],
    *,
    url: str = URL,
    before: str = "",
    settings: str = "",
    engine: str = "",
    env: str = "",
    options: str = "",
    sections: str = "",
) -> Project:
    """Write a complete Alembic project: alembic.ini, env.py and revision files.

    Args:
        folder: where; made.
        revisions: their bodies; one without ``down`` stands on the one before it.
        url: the expression from which env.py takes its URL.
        before: lines at the top of env.py.
        settings: arguments of ``context.configure``.
        engine: arguments of ``create_engine``.
        env: env.py as a whole, instead.
        options: lines of the section ``[playbook]``.
        sections: further text of alembic.ini.
    """
    project = Project(folder)
    (folder / "migrations" / "versions").mkdir(parents=True)
    project.ini.write_text(
        "[alembic]\nscript_location = %(here)s/migrations\npath_separator = os\n"
        f"[playbook]\n{options}\n[playbook:sandbox]\nurl = sandbox\n{sections}\n",
        "utf-8",
    )
    text = env or ENV.format(before=before, settings=settings, url=url, engine=engine)
    (folder / "migrations" / "env.py").write_text(text, "utf-8")
    previous: str | None = None
    for revision, script in revisions.items():
        down = script.down if script.down is not None else previous
        project.write(
            revision,
            Script(script.upgrade, script.downgrade, down or None, script.labels, script.depends),
        )
        previous = revision
    return project


def _body(text: str) -> str:
    return indent(dedent(text).strip() or "pass", "    ")


def execute(*statements: str) -> str:
    """Return the body of a revision that runs some SQL."""
    return "\n".join(f"op.execute({statement!r})" for statement in statements) or "pass"


TABLE = Script(execute("CREATE TABLE a (id int PRIMARY KEY)"), execute("DROP TABLE a"))
SECOND = Script(execute("CREATE TABLE b (id int PRIMARY KEY)"), execute("DROP TABLE b"))
FAILING = Script(execute("CREATE TABLE late (id int)", "SELECT 1 / 0"), "pass")
OWN_PATH = """
from alembic import context
from sqlalchemy import NullPool, create_engine, text
url = context.config.get_main_option("sqlalchemy.url")
with create_engine(url, poolclass=NullPool).connect() as connection:
    connection.execute(text("SET search_path TO app"))
    connection.commit()
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
"""
"""An env.py whose session looks for names in a schema of its choice."""
READS_DATABASE = Script(
    """
    tables = sa.inspect(op.get_bind()).get_table_names()
    if "c" not in tables:
        op.create_table("c", sa.Column("id", sa.Integer), sa.Column("note", sa.Text))
    op.execute("INSERT INTO c SELECT 1, '100%' WHERE 'x' LIKE '%'")
    op.get_bind().execute(
        sa.text("UPDATE c SET note = :note WHERE id = :id"),
        [{"id": 1, "note": "it's 5%"}, {"id": 2, "note": None}],
    )
    """,
    execute("DROP TABLE c"),
)
DUPLICATES = Script(
    execute("CREATE TABLE d (n int)", "INSERT INTO d VALUES (1), (1)"), execute("DROP TABLE d")
)
INVALID_INDEX = Script(
    """
    with op.get_context().autocommit_block():
        op.execute("CREATE UNIQUE INDEX CONCURRENTLY d_n ON d (n)")
    """,
    execute("DROP INDEX d_n"),
)
CONCURRENT_INDEX = Script(
    """
    op.execute("ALTER TABLE a ADD COLUMN x int")
    with op.get_context().autocommit_block():
        op.execute("CREATE INDEX CONCURRENTLY a_x ON a (x)")
    op.execute("ALTER TABLE a ADD COLUMN y int")
    """,
    execute("DROP INDEX a_x", "ALTER TABLE a DROP COLUMN x, DROP COLUMN y"),
)
