"""What the runs tell of each revision, and what they do not prove."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import pytest

from builders import make_graph
from playbook.marks import advice, edited_revisions, mark_revisions
from playbook.records import History, Receipt, RevisionGraph, StepResult

CLOCK = count()


def run(
    begun: str, plan: str, end: str, *, done: str | None = None, runbook: str = "upgrade",
    outcome: str = "succeeded", files: Mapping[str, str] | None = None,
) -> Receipt:  # fmt: skip
    """Return a run over revisions of one letter each.

    Args:
        begun: where it began.
        plan: the revisions of its plan, in order.
        end: where it ended.
        done: those that it got through; all of the plan if it is not given.
        files: contents that differ from the test graph's.
    """
    way = "downgrade" if runbook == "rollback" else "upgrade"
    steps = [
        StepResult(one, way, 0.1, 1, 1, (), (), True) for one in (plan if done is None else done)
    ]
    return Receipt(
        run_id=f"run {next(CLOCK)}", runbook=runbook, target="t", database="d", outcome=outcome,
        started_at=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=next(CLOCK)),
        finished_at=None, who="ana@laptop as app", from_revisions=tuple(begun),
        to_revisions=tuple(end), steps=tuple(steps), backup="",
        revision_files=tuple((one, (files or {}).get(one, one * 8)) for one in plan),
        message="", directory=Path(),
    )  # fmt: skip


def marks(graph: RevisionGraph, *runs: Receipt) -> list[tuple[str, str]]:
    """Return the marks that runs, given with the oldest first, leave on a graph."""
    return list(mark_revisions(graph, History(runs[::-1])).marks)


CHAIN = "a<-b<-c<-d"


@pytest.mark.parametrize("current", ["", "b", "d"])
def test_database_that_only_alembic_has_migrated_has_no_marks(current: str) -> None:
    assert marks(make_graph(CHAIN, current=tuple(current))) == []


def test_runs_that_went_as_planned_leave_no_marks() -> None:
    up, down = run("", "abcd", "d"), run("d", "dc", "b", runbook="rollback")

    assert marks(make_graph(CHAIN, current=("d",)), up) == []
    assert marks(make_graph(CHAIN, current=("b",)), up, down) == []


@pytest.mark.parametrize(
    ("outcome", "mark"),
    [("failed", "failed"), ("rolled back", "failed"), ("interrupted", "interrupted")],
)
def test_pending_revision_at_which_the_last_run_stopped_says_how(outcome: str, mark: str) -> None:
    stopped = run("a", "bcd", "b", done="b", outcome=outcome)

    assert marks(make_graph(CHAIN, current=("b",)), stopped) == [("c", mark)]


def test_revision_that_a_later_run_got_through_is_not_failed_any_more() -> None:
    failed, mended = run("a", "bc", "b", done="b", outcome="failed"), run("b", "c", "c")
    undone = run("c", "c", "b", runbook="rollback")

    assert marks(make_graph(CHAIN, current=("c",)), failed, mended) == []
    assert marks(make_graph(CHAIN, current=("b",)), failed, mended, undone) == []


def test_failed_revision_that_somebody_applied_by_alembic_is_not_failed_any_more() -> None:
    failed = run("a", "b", "a", done="", outcome="failed")

    assert marks(make_graph(CHAIN, current=("b",)), failed) == []


@pytest.mark.parametrize("outcome", ["refused", "succeeded", "running"])
def test_run_that_failed_at_no_revision_marks_none(outcome: str) -> None:
    assert (
        marks(make_graph(CHAIN, current=("a",)), run("a", "b", "a", done="", outcome=outcome)) == []
    )


def test_failed_downgrade_is_no_failed_revision() -> None:
    failed = run("c", "cb", "b", done="c", runbook="rollback", outcome="failed")

    assert marks(make_graph(CHAIN, current=("b",)), failed) == []


def test_file_that_differs_from_the_applied_one_is_edited() -> None:
    graph = make_graph(CHAIN, current=("c",))

    assert marks(graph, run("", "abc", "c", files={"b": "other"})) == [("b", "edited")]


@pytest.mark.parametrize("current", ["a", "c"])
def test_file_that_was_edited_while_it_was_undone_is_not_edited(current: str) -> None:
    """The second case: somebody applied it again by alembic, with the file as it is now."""
    up = run("", "abc", "c", files={"b": "other"})
    down = run("c", "cb", "a", runbook="rollback", files={"b": "other"})

    assert edited_revisions(History((down, up)), make_graph(CHAIN, current=tuple(current))) == []


def test_file_that_was_edited_after_its_run_had_failed_is_not_edited() -> None:
    failed = run("a", "bc", "b", done="b", outcome="failed", files={"c": "other"})

    assert marks(make_graph(CHAIN, current=("c",)), failed) == []


def test_revision_that_was_applied_and_has_no_file_is_missing() -> None:
    graph = make_graph("a<-c", current=("c",))

    assert marks(graph, run("", "abc", "c")) == [("b", "missing")]


def test_revision_of_the_version_table_that_no_file_has_is_missing() -> None:
    graph = make_graph("a<-b", current=("x",))

    assert mark_revisions(graph, History(())).marks == (("x", "missing"),)


@pytest.mark.parametrize(
    "later",
    [
        [run("c", "cb", "a", runbook="rollback")],
        [],  # by alembic
        [run("a", "d", "d")],  # by alembic as well, and then a run began where that had led
        [run("c", "ad", "d", runbook="init")],  # with drop=True
    ],
    ids=["rollback", "alembic", "alembic and a run", "init"],
)
def test_revision_that_was_undone_before_its_file_went_is_not_missing(later: list[Receipt]) -> None:
    at = later[-1].to_revisions if later else ("a",)

    assert marks(make_graph("a<-d", current=at), run("", "abc", "c"), *later) == []


def test_file_that_was_put_in_below_what_a_run_applied_is_out_of_order() -> None:
    graph = make_graph(CHAIN, current=("d",))

    assert marks(graph, run("", "ac", "c"), run("c", "d", "d")) == [("b", "out of order")]


def test_revision_that_alembic_applied_before_a_run_is_not_out_of_order() -> None:
    assert marks(make_graph(CHAIN, current=("d",)), run("", "a", "a"), run("c", "d", "d")) == []


def test_revision_whose_run_was_killed_before_it_told_so_is_not_out_of_order() -> None:
    killed = run("a", "bc", "a", done="", outcome="interrupted")

    assert marks(make_graph(CHAIN, current=("d",)), killed, run("c", "d", "d")) == []


def test_revision_that_was_stepped_over_and_then_run_is_in_order() -> None:
    over, back = run("", "ac", "c"), run("c", "c", "a", runbook="rollback")

    assert marks(make_graph(CHAIN, current=("c",)), over, back, run("a", "bc", "c")) == []


def test_revision_of_another_branch_is_not_out_of_order() -> None:
    graph = make_graph("a<-b a<-c b,c<-m", current=("m",))

    assert marks(graph, run("", "ab", "b"), run("b", "cm", "m")) == []


def test_squashed_revisions_are_missing_and_the_one_for_them_is_not_out_of_order() -> None:
    graph = make_graph("x<-d", current=("d",))

    assert marks(graph, run("", "abcd", "d")) == [
        ("a", "missing"), ("b", "missing"), ("c", "missing"),
    ]  # fmt: skip


def test_each_mark_has_a_sentence_that_names_the_revision_and_what_to_do() -> None:
    graph = make_graph(CHAIN, current=("b",))
    marked = replace(
        graph,
        marks=(("a", "edited"), ("b", "out of order"), ("c", "failed"), ("d", "interrupted"),
               ("z", "missing")),
    )  # fmt: skip

    edited, late, failed, killed, missing = advice(marked)

    assert "a.py was edited" in edited
    assert "Restore the file" in edited
    assert "b was put in below" in late
    assert "Move it to the top" in late
    assert "c is pending" in failed
    assert "Mend the cause" in failed
    assert "d is pending" in killed
    assert "Run `upgrade` again" in killed
    assert "z was applied here, and no file has it. Bring its file back" in missing


def test_missing_revision_of_the_version_table_is_left_to_the_preflight() -> None:
    assert advice(mark_revisions(make_graph("a", current=("x",)), History(()))) == []
