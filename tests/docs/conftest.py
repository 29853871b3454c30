"""What the tests of the guide share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pages import GUIDE, Section, read_page
from troubles import Place

from playbook.targets import Target
from steps import Namespace


@pytest.fixture(scope="session")
def guide() -> list[Section]:
    """The guide's sections."""
    return read_page(GUIDE)


@pytest.fixture
def place(
    small: Callable[..., Namespace],
    fresh_database: Target,
    monkeypatch: pytest.MonkeyPatch,
) -> Place:
    """Where a trouble is made."""
    return Place(small, fresh_database, monkeypatch)
