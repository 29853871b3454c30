"""What a runbook sends to the server, by the number of revisions and tables: it does not multiply.

Counted are the statements in the server's log, the kernel's and those of Alembic's process. Of
seconds `make bench` tells.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from large import large_project, migrate
from playbook import preview, status, verify
from servers import PrivateServer
from steps import go

STATEMENT = re.compile(r"^.*LOG:  (?:statement|execute [^:]*): ", re.MULTILINE)
NUMBERS = (4, 8, 16)
MOST_BY_TABLE = 3
"""Round trips for each table: its rows, its foreign key and its sequence."""

Count = Callable[[ModuleType, int], int]


@pytest.fixture(scope="module")
def count(talkative_server: PrivateServer, tmp_path_factory: pytest.TempPathFactory) -> Count:
    """Run a runbook on a project of some size, and count its statements."""
    server, log = talkative_server, talkative_server.data.parent / "log"
    folder: Path = tmp_path_factory.mktemp("large")
    places = {}
    for number in NUMBERS:
        project = large_project(folder / f"project{number}", number)
        server.execute(f"CREATE DATABASE head{number}", f"CREATE DATABASE base{number}")
        migrate(project, server.url(f"head{number}"), "upgrade", "head")
        places[number] = project.ini

    def statements(module: ModuleType, number: int) -> int:
        name = f"{'base' if module is preview else 'head'}{number}"
        before = log.stat().st_size
        go(module, {"database": server.url(name), "alembic_ini": str(places[number])})
        with log.open("rb") as file:
            file.seek(before)
            return len(STATEMENT.findall(file.read().decode()))

    return statements


@pytest.mark.parametrize("module", [status, preview], ids=lambda module: module.__name__)
def test_reading_takes_no_statement_more_for_more_revisions_and_tables(
    count: Count, module: ModuleType
) -> None:
    small, large = count(module, NUMBERS[0]), count(module, NUMBERS[-1])

    assert 20 < small < 200
    assert large == small


def test_verifying_takes_as_many_statements_for_each_table(count: Count) -> None:
    a, b, c = (count(verify, number) for number in NUMBERS)

    each = (b - a) // (NUMBERS[1] - NUMBERS[0])
    assert c - b == each * (NUMBERS[2] - NUMBERS[1])
    assert 0 < each <= MOST_BY_TABLE
