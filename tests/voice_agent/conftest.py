"""Fixtures for the tests of the example application."""

from __future__ import annotations

import pytest
from example_database import Database

from playbook.sandbox import client_directory
from playbook.targets import Target


@pytest.fixture
def database(fresh_database: Target) -> Database:
    """An empty database of its own."""
    return Database(fresh_database)


@pytest.fixture(scope="session")
def psql() -> str:
    """The path of psql."""
    return str(client_directory() / "psql")
