"""Every error is a sentence with its state and remedy, and shows no traceback in a notebook."""

from __future__ import annotations

import pytest

from playbook import errors
from playbook.errors import GuardRefused, MigrationFailed, PlaybookError, SettingsError

ALL = [getattr(errors, name) for name in errors.__all__ if name[0].isupper()]


@pytest.mark.parametrize("kind", ALL)
def test_message_is_problem_state_and_remedy_in_this_order(kind: type[PlaybookError]) -> None:
    error = kind("It broke.", state="All is as it was.", remedy="Mend it.")

    assert str(error) == "It broke. All is as it was. Mend it."
    assert error._render_traceback_() == [f"{kind.__name__}: {error}"]


@pytest.mark.parametrize("kind", [SettingsError, GuardRefused])
def test_refusals_say_by_themselves_that_nothing_was_changed(kind: type[PlaybookError]) -> None:
    assert str(kind("No.")) == "No. Nothing was changed."


def test_picture_of_the_tree_names_every_error_and_its_base() -> None:
    lines = {line.split()[-1] if line.split() else "" for line in (errors.__doc__ or "").split()}

    assert {kind.__name__ for kind in ALL} <= lines
    assert all(issubclass(kind, PlaybookError) for kind in ALL)


def test_failed_migration_carries_where_and_why() -> None:
    error = MigrationFailed(
        "No.", revision="b", statement="SELECT 1", sqlstate="22012", current=["a"]
    )

    assert (error.revision, error.statement, error.sqlstate) == ("b", "SELECT 1", "22012")
    assert error.current == ("a",)
    assert error.transactional
