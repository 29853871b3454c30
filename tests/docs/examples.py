"""The examples of the guide as real projects: each block's files, on the guide's own tables."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from pages import Block

from builders import Project, Script, staging_project

_FILE = re.compile(r"^# (\w+)\.py$\n", re.MULTILINE)
HEAD = '''"""{revision}"""
import sqlalchemy as sa
from alembic import op

revision = {revision!r}
down_revision = {down!r}

'''
BASE = "001_base"


def examples(blocks: list[Block]) -> dict[str, str]:
    """Return the text of each block that is marked as an example, by its name."""
    marked = [(b.mark.removeprefix("example: "), b.text) for b in blocks if "example: " in b.mark]
    assert len(dict(marked)) == len(marked), "two examples of one name"
    return dict(marked)


def files(text: str) -> Mapping[str, str]:
    """Return the revision files of an example, by their ids, in order."""
    _, *parts = _FILE.split(text)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def project_of(folder: Path, base: str, text: str) -> Project:
    """Write a project whose first revision makes the guide's tables, and then the example's."""
    project = staging_project(folder, {BASE: Script(f"op.execute({base!r})")})
    down = BASE
    for revision, body in files(text).items():
        head = HEAD.format(revision=revision, down=down)
        project.revision_file(revision).write_text(head + body, "utf-8")
        down = revision
    return project
