"""Puts a new revision file into the form that ``make check`` asks for; alembic.ini runs it.

``python -m voice_agent.revision_form FILE PYPROJECT``. Ruff is a tool for development: where it or
its settings are not there the file stays as Alembic wrote it.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

__all__ = ["put_into_form"]

COMMANDS = (
    ("check", "--fix-only"),
    ("format",),
    # What is too long by now is text: SQL that `author` writes, or the message.
    ("check", "--select=E501", "--add-noqa"),
)


def put_into_form(file: str, settings: str) -> None:
    """Fix, format and mark a file by ruff, if it is installed.

    **Effects**: writes the file anew. What ruff cannot mend stays, and ``make check`` names it.

    Args:
        file: the revision.
        settings: the pyproject.toml that holds ruff's, as a draft may lie outside the project.
    """
    if importlib.util.find_spec("ruff") is None or not Path(settings).is_file():
        return
    revision, settings_file = Path(file).absolute(), Path(settings).absolute()
    for command in COMMANDS:
        call = [sys.executable, "-m", "ruff", *command, "--quiet", "--config", settings_file]
        # Ruff takes paths in settings that are named to it from the folder it is started in.
        subprocess.run([*call, revision], cwd=settings_file.parent, check=False)


if __name__ == "__main__":
    put_into_form(*sys.argv[1:])
