"""An upgrade under load: the application's writers hardly notice it, nor an index build in it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

import pgbench
from playbook.postgres_files import server_account, server_programs
from servers import PrivateServer, private_server

REVISIONS = {"b2": pgbench.ADD_COLUMN, "c3": pgbench.CONCURRENT_INDEX}
VALID = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'accounts_abalance'::regclass"


@pytest.fixture
def server() -> Iterator[PrivateServer]:
    """A PostgreSQL 18 that no other test uses meanwhile."""
    folder = Path(os.environ["PLAYBOOK_SANDBOX"]).parent
    programs = server_programs(folder, 18, server_account())
    with private_server(18, programs, folder) as made:
        yield made


def longest_stall_s(server: PrivateServer, template: str, folder: Path, how: object) -> float:
    """Migrate a copy under load, and return the longest that one of its writers waited."""
    with pgbench.copy_of(server, template) as name:
        namespace = pgbench.project(server, name, folder, REVISIONS)
        load = pgbench.under_load(server, name, folder, partial(how, namespace))  # type: ignore[arg-type]
        with server.connect(name) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT note FROM pgbench_accounts LIMIT 1")
            cursor.execute(VALID)
            assert cursor.fetchall() == [(True,)]
        connection.close()
    return load.longest_s


@pytest.mark.slow
def test_writers_wait_a_tenth_at_most_of_what_plain_alembic_makes_them(
    server: PrivateServer, tmp_path: Path
) -> None:
    with server.database() as template:
        pgbench.fill(server, template, scale=2)

        plain_s = longest_stall_s(server, template, tmp_path / "plain", pgbench.run_alembic)
        own_s = longest_stall_s(server, template, tmp_path / "own", pgbench.run_upgrade)

    assert plain_s > 0.8 * pgbench.OPEN_S
    assert own_s <= plain_s / 10
