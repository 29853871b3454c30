"""A large project: any number of revisions, each of which makes a table, and the models of all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

from builders import Project, Script, staging_project
from playbook.targets import Target

__all__ = ["database_url", "large_project", "migrate"]

MODELS = """
import sqlalchemy as sa

TABLES = {tables}
target = sa.MetaData()
for number in range(TABLES):
    before = "t%04d" % max(0, number - 1)
    sa.Table(
        "t%04d" % number,
        target,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("before_id", sa.Integer, sa.ForeignKey(before + ".id"), index=True),
        sa.Column("name", sa.String(80), nullable=False),
        sa.Column("note", sa.Text),
        sa.Column("amount", sa.Numeric(12, 2)),
        sa.Column("made_at", sa.DateTime(timezone=True), server_default=sa.func.now()),
    )
"""
UPGRADE = """
op.create_table(
    "t{number:04}",
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("before_id", sa.Integer, sa.ForeignKey("t{before:04}.id")),
    sa.Column("name", sa.String(80), nullable=False),
    sa.Column("note", sa.Text),
    sa.Column("amount", sa.Numeric(12, 2)),
    sa.Column("made_at", sa.DateTime(timezone=True), server_default=sa.func.now()),
)
op.create_index("ix_t{number:04}_before_id", "t{number:04}", ["before_id"])
op.execute("INSERT INTO t{number:04} (name) SELECT 'row ' || g FROM generate_series(1, 5) AS g")
"""


def large_project(folder: Path, number: int, *, sections: str = "") -> Project:
    """Write a project of as many revisions, in one chain; each makes a table with five rows.

    Every table but the first refers to the one before it. The models agree with head.
    """
    revisions = {
        f"r{n:04}": Script(
            dedent(UPGRADE).format(number=n, before=max(0, n - 1)), f'op.drop_table("t{n:04}")'
        )
        for n in range(number)
    }
    project = staging_project(
        folder,
        revisions,
        before="import sys\nsys.path.insert(0, context.config.config_file_name.rpartition('/')[0])\n"
        "import models",
        settings='{"target_metadata": models.target}',
        sections=sections,
    )
    (folder / "models.py").write_text(MODELS.format(tables=number), "utf-8")
    return project


def database_url(target: Target) -> str:
    """Return the URL of a target without a password, as plain Alembic's alembic.ini takes it."""
    return target.sqlalchemy_url().replace("%", "%%")


def migrate(project: Project, target: Target, *arguments: str) -> None:
    """Run plain ``alembic`` on a database, with the project's own alembic.ini."""
    text = project.ini.read_text("utf-8")
    line = "script_location"
    if "sqlalchemy.url" not in text:
        url = f"sqlalchemy.url = {database_url(target)}\n{line}"
        project.ini.write_text(text.replace(line, url, 1), "utf-8")
    subprocess.run(
        [Path(sys.executable).with_name("alembic"), "--config", project.ini, *arguments],
        env=os.environ | target.libpq_environment(), check=True, capture_output=True,
    )  # fmt: skip
