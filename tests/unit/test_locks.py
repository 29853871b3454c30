"""Tests of the lock modes: properties first, then a few of the table's own rows."""

from __future__ import annotations

import pytest

from playbook.locks import CONFLICTS, MODES, blocks, conflicting
from playbook.statements import locks_taken


def test_conflicts_are_symmetric() -> None:
    for one in MODES:
        for other in MODES:
            assert (other in CONFLICTS[one]) == (one in CONFLICTS[other])


def test_a_stronger_mode_never_conflicts_with_fewer_modes() -> None:
    numbers = [len(CONFLICTS[mode]) for mode in MODES]

    assert numbers == sorted(numbers)


@pytest.mark.parametrize(
    ("mode", "waits"),
    [
        ("AccessExclusiveLock", "reads and writes"),
        ("ShareLock", "writes"),
        ("ShareUpdateExclusiveLock", ""),
        ("RowExclusiveLock", ""),
    ],
)
def test_what_a_mode_blocks_is_said_in_words(mode: str, waits: str) -> None:
    assert blocks(mode) == waits


def test_unknown_mode_is_an_error() -> None:
    with pytest.raises(KeyError):
        conflicting("NoSuchLock")


def test_strongest_lock_of_each_table_is_taken_from_the_sql() -> None:
    sql = (
        "CREATE INDEX i ON t (a); ALTER TABLE t ADD COLUMN b int; CREATE INDEX CONCURRENTLY j "
        "ON u (a); CREATE TABLE n (id int REFERENCES r (id));"
    )

    taken = locks_taken(sql, ["public.t", "public.u", "public.r"])

    assert taken == {
        "public.t": "AccessExclusiveLock",
        "public.u": "ShareRowExclusiveLock",
        "public.r": "ShareRowExclusiveLock",
    }


def test_without_sql_the_strongest_lock_is_assumed() -> None:
    assert locks_taken("", ["public.t"]) == {"public.t": "AccessExclusiveLock"}
