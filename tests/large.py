"""A large project: any number of revisions, each of which makes a table, and the models of all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from textwrap import dedent

from builders import Project, Script, staging_project

__all__ = ["large_project", "migrate"]

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
        before="import models",
        settings='{"target_metadata": models.target}',
        sections=sections,
    )
    text = project.ini.read_text("utf-8")
    path = "prepend_sys_path = %(here)s\npath_separator"
    project.ini.write_text(text.replace("path_separator", path, 1), "utf-8")
    (folder / "models.py").write_text(MODELS.format(tables=number), "utf-8")
    return project


def migrate(project: Project, url: str, *arguments: str) -> None:
    """Run plain ``alembic`` on a database, with the project's own alembic.ini."""
    url = url.replace("://", "+psycopg2://", 1)
    text = project.ini.read_text("utf-8")
    if "sqlalchemy.url" not in text:
        line = f"sqlalchemy.url = {url}\nscript_location"
        project.ini.write_text(text.replace("script_location", line, 1), "utf-8")
    program = Path(sys.executable).with_name("alembic")
    subprocess.run([program, "--config", project.ini, *arguments], check=True, capture_output=True)
