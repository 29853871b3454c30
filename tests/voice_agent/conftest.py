"""Fixtures for the tests of the example application."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest
from example_database import Database

from playbook.sandbox import client_directory, drop_database, open_target
from playbook.targets import Target, load_target


@pytest.fixture
def fresh_database() -> Iterator[Target]:
    """An empty database of a random name on the sandbox server, dropped afterwards."""
    target = load_target(f"sandbox:test_{secrets.token_hex(6)}")
    try:
        yield open_target(target, state="empty")
    finally:
        drop_database(target)


@pytest.fixture
def database(fresh_database: Target) -> Database:
    """An empty database of its own."""
    return Database(fresh_database)


@pytest.fixture(scope="session")
def psql() -> str:
    """The path of psql."""
    return str(client_directory() / "psql")
