"""What the notebook `onboarding` needs besides the runbooks themselves. Layer 5; sandbox only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from playbook.database import connect
from playbook.errors import GuardRefused, PlaybookError
from playbook.journal import Run
from playbook.parameters import Common, read_parameters
from playbook.present import install_formatters
from playbook.records import Note
from playbook.sandbox import open_target, reset_database
from playbook.targets import Target, load_target

__all__ = [
    "Parameters",
    "build_sandbox",
    "expect_failure",
    "make_stray_table",
    "remove_stray_table",
]

STRAY_TABLE = "rag_corpora"
"""A table that a pending revision of the example will want to create."""


@dataclass(frozen=True)
class Parameters(Common):
    """The parameters of `onboarding`: the common ones."""


def build_sandbox(namespace: Mapping[str, Any]) -> Note:
    """Make the sandbox database anew, as the application left it before Alembic came.

    **Effects**: what was in that sandbox database is gone; nothing else is touched.

    Raises:
        GuardRefused: the target is not a sandbox.
    """
    install_formatters()
    target = _sandbox(namespace)
    previous = namespace.get("run")
    if isinstance(previous, Run):
        previous.abandon()
    reset_database(target, "legacy")
    return Note(f"The sandbox database {target.database!r} is ready, with the legacy tables.")


def make_stray_table(namespace: Mapping[str, Any]) -> Note:
    """Create by hand, past Alembic, a table that a pending revision is going to create."""
    with connect(open_target(_sandbox(namespace))) as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE {STRAY_TABLE} (note text)")
    return Note(f"Somebody created the table {STRAY_TABLE} by hand.")


def remove_stray_table(namespace: Mapping[str, Any]) -> Note:
    """Drop that table again."""
    with connect(open_target(_sandbox(namespace))) as connection, connection.cursor() as cursor:
        cursor.execute(f"DROP TABLE {STRAY_TABLE}")
    return Note(f"The table {STRAY_TABLE} that was made by hand is gone.")


def expect_failure(step: Callable[[Any], Any], run: Run[Any]) -> Note:
    """Take a step that is meant to fail and return the sentence that it stops with.

    Raises:
        GuardRefused: it did not fail.
    """
    try:
        step(run)
    except PlaybookError as error:
        return Note(f"{type(error).__name__}: {error}")
    raise GuardRefused(
        f"{step.__name__} was meant to fail here and did not.",
        state="",
        remedy="Run this notebook from the top.",
    )


def _sandbox(namespace: Mapping[str, Any]) -> Target:
    """Return the target, refusing whatever is not a sandbox."""
    parameters = read_parameters(Parameters, namespace)
    target = load_target(parameters.database, parameters.alembic_ini)
    if target.kind != "sandbox":
        raise GuardRefused(
            f"The tour breaks things on purpose, and the {target.label} is not a sandbox.",
            remedy="Leave out the parameter database.",
        )
    return target
