"""What the tests of the guide share."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
from pages import GUIDE, ROOT, Section, read_page
from troubles import Place

from playbook.targets import Target
from steps import Namespace

# For the private copy of the project, which the notebooks' tests have.
sys.path.append(str(ROOT / "tests" / "notebooks"))


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
