"""Whether a change of type rewrites a table is what the server does: its file changes or not."""

from __future__ import annotations

import pytest

from playbook.database import connect, fetch_value
from playbook.known import read_known
from playbook.statements import parse_statement
from playbook.targets import Target, load_target
from playbook.type_changes import read_type, rewrites, type_changes
from servers import PrivateServer

PAIRS = [
    ("varchar(50)", "varchar(100)", False),
    ("varchar(50)", "text", False),
    ("varchar(50)", "varchar", False),
    ("varchar(100)", "varchar(50)", True),
    ("text", "varchar", False),
    ("text", "varchar(50)", True),
    ("char(10)", "char(20)", True),
    ("char(10)", "text", True),
    ("numeric(10,2)", "numeric(12,2)", False),
    ("numeric(10,2)", "numeric", False),
    ("numeric(10,2)", "numeric(12,3)", True),
    ("numeric(10,2)", "numeric(9,2)", True),
    ("numeric", "numeric(12,2)", True),
    ("int", "bigint", True),
    ("int", "oid", False),
    ("bit varying(5)", "bit varying(9)", False),
    ("timestamp(3)", "timestamp(6)", False),
    ("timestamp(6)", "timestamp(3)", True),
    ("time(0)", "time", False),
    ("timestamptz", "timestamptz(3)", True),
    ("interval(3)", "interval", False),
    ("cidr", "inet", False),
    ("inet", "text", True),
    ("jsonb", "text", True),
    ("date", "timestamp", True),
]
ZONED = [
    ("timestamp", "timestamptz"),
    ("timestamptz", "timestamp"),
    ("timestamp(3)", "timestamptz"),
]
CONSERVATIVE = [("varchar(5)[]", "varchar(9)[]"), ("int[]", "bigint[]")]


def is_rewritten(target: Target, old: str, new: str, zone: str = "UTC") -> bool:
    """Change the type on the server and look whether the table got a new file."""
    with connect(target, settings={"TimeZone": zone}) as connection, connection.cursor() as cursor:
        cursor.execute(f"DROP TABLE IF EXISTS t; CREATE TABLE t (id int, c {old})")
        cursor.execute("INSERT INTO t VALUES (1, NULL)")
        before = fetch_value(connection, "SELECT pg_relation_filenode('t')")
        cursor.execute(f"ALTER TABLE t ALTER COLUMN c TYPE {new} USING c::{new}")
        return bool(fetch_value(connection, "SELECT pg_relation_filenode('t')") != before)


def verdict(target: Target, old: str, new: str, zone: str = "UTC") -> bool:
    with connect(target, settings={"TimeZone": zone}) as connection, connection.cursor() as cursor:
        cursor.execute(f"DROP TABLE IF EXISTS t; CREATE TABLE t (id int, c {old})")
        known = read_known(connection)
    (change,) = type_changes(parse_statement(f"ALTER TABLE t ALTER c TYPE {new} USING c::{new}"))
    assert change.is_plain
    current = read_type(known.columns["public.t"][1].type)
    return rewrites(current, change.new, casts=known.casts, is_utc=known.is_utc)


@pytest.mark.parametrize(("old", "new", "rewritten"), PAIRS)
def test_verdict_is_what_the_server_does(
    fresh_database: Target, old: str, new: str, rewritten: bool
) -> None:
    assert is_rewritten(fresh_database, old, new) == rewritten
    assert verdict(fresh_database, old, new) == rewritten


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin"])
@pytest.mark.parametrize(("old", "new"), ZONED)
def test_time_zone_of_the_session_decides_between_timestamps(
    fresh_database: Target, old: str, new: str, zone: str
) -> None:
    assert is_rewritten(fresh_database, old, new, zone) == (zone != "UTC")
    assert verdict(fresh_database, old, new, zone) == (zone != "UTC")


@pytest.mark.parametrize(("old", "new"), CONSERVATIVE)
def test_what_is_not_known_is_taken_to_rewrite(fresh_database: Target, old: str, new: str) -> None:
    assert verdict(fresh_database, old, new)
    assert is_rewritten(fresh_database, old, new)


def test_verdict_holds_on_other_versions(other_version: PrivateServer) -> None:
    with other_version.database() as name:
        target = load_target(other_version.url(name))
        for old, new, rewritten in PAIRS:
            assert is_rewritten(target, old, new) == rewritten, (old, new)
            assert verdict(target, old, new) == rewritten, (old, new)


def test_using_that_computes_is_no_plain_change() -> None:
    sql = "ALTER TABLE t ALTER a TYPE text USING upper(a), ALTER b TYPE text USING b"

    assert [change.is_plain for change in type_changes(parse_statement(sql))] == [False, True]


def test_known_types_are_those_of_the_server(fresh_database: Target) -> None:
    with connect(fresh_database) as connection:
        known = read_known(connection)

    assert {("varchar", "text"), ("text", "varchar"), ("cidr", "inet")} <= known.casts
    assert ("int4", "int8") not in known.casts
