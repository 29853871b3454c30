"""After a failure the best way out is told by what failed, and the others stand behind it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from playbook.records import BackupManifest
from playbook.ways_out import MEND, MOMENT, Failure, ways_out

PLAIN = Failure("upgrade", "", ("a1",), done=0, backup=None)
BACKUP = BackupManifest(
    1, "t", "d", "18.4", "7", ("a1",), "2026-11-23T07:59:00+00:00", "", 42.4, "u", "h", "none", 1,
    "18.4", "", (), (), "archive", Path("backups/t/20261123T075900Z-a1"),
)  # fmt: skip


@pytest.mark.parametrize("sqlstate", [*MOMENT, "08006"])
def test_bad_moment_asks_only_for_another_run(sqlstate: str) -> None:
    (way,) = ways_out(replace(PLAIN, sqlstate=sqlstate))

    assert way.startswith("nothing is wrong with the revision, ")
    assert way.endswith(": run `upgrade` again")


def test_lost_connection_needs_no_sqlstate() -> None:
    assert "the connection was lost" in ways_out(replace(PLAIN, is_alive=False))[0]


@pytest.mark.parametrize(
    ("sqlstate", "said"),
    [
        ("23505", "correct them"), ("22012", "correct them"), ("42601", "mend its file"),
        ("42P07", "there already"), ("42P01", "not there"),
        ("42501", "have it granted"), ("53100", "make some"), ("25001", "in a transaction"),
        ("0A000", "cannot do it"), ("54011", "split"), ("XX000", "mend what the sentence names"),
        ("", "mend what the sentence names"),
    ],
)  # fmt: skip
def test_fault_is_named_by_its_class_and_then_it_is_run_again(sqlstate: str, said: str) -> None:
    (way,) = ways_out(replace(PLAIN, sqlstate=sqlstate))

    assert said in way
    assert way.endswith("then run `upgrade` again")


def test_every_class_is_one_of_postgresql() -> None:
    assert all(len(name) == 2 for name in MEND)
    assert all(len(name) == 5 for name in MOMENT)
    assert not {name[:2] for name in MOMENT} & {"22", "23", "42"}


def test_own_limit_and_somebody_else_are_told_apart() -> None:
    cancelled = replace(PLAIN, sqlstate="57014")

    assert "somebody cancelled it" in ways_out(cancelled)[0]
    limited = ways_out(replace(cancelled, statement_timeout="2s"))[0]
    assert "longer than statement_timeout=2s" in limited


def test_way_back_and_backup_are_offered_where_something_was_done() -> None:
    failed = replace(PLAIN, sqlstate="23505", backup=BACKUP)

    assert len(ways_out(failed)) == 1
    assert ways_out(replace(failed, done=2))[1:] == [
        "go back with `rollback` -r target a1",
        "restore the backup 20261123T075900Z-a1 (about 42 s, as long as it took), which loses "
        "what came since",
    ]
    assert len(ways_out(replace(failed, done=2, began_at=()))) == 2


@pytest.mark.parametrize(
    ("measured", "said"),
    [(7.3, "(7 s, measured when it was proven by a restore)"), (0.4, "(a second or two)")],
)
def test_measured_restore_is_told_instead_of_an_estimate(measured: float, said: str) -> None:
    backup = replace(BACKUP, restore_s=measured)

    assert said in ways_out(replace(PLAIN, sqlstate="23505", done=1, backup=backup))[-1]


def test_rollback_that_failed_can_go_forward() -> None:
    assert ways_out(replace(PLAIN, runbook="rollback", began_at=("b2", "c3")))[1] == (
        "go forward with `upgrade` -r target b2, c3"
    )


def test_stopped_run_goes_on_when_it_is_run_again() -> None:
    assert ways_out(replace(PLAIN, was_stopped=True)) == ["to go on, run `upgrade` again"]
