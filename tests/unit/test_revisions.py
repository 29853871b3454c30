"""What can be told from the graph of revisions alone."""

from __future__ import annotations

import pytest

from builders import make_graph
from playbook.errors import SettingsError
from playbook.revisions import (
    after,
    applied,
    at_head,
    check_target,
    direction_of,
    join,
    lanes,
    pending,
    states,
)

CHAIN = "a<-b<-c"
DIAMOND = "a<-b<-b2 a<-c b2,c<-m"


def names(revisions: object) -> list[str]:
    return [r.revision for r in revisions]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "current", "done", "waiting"),
    [
        (CHAIN, (), "", "abc"),
        (CHAIN, ("b",), "ab", "c"),
        (CHAIN, ("c",), "abc", ""),
        ("a<-b a<-c", ("b",), "ab", "c"),
        ("a<-b a<-c", ("b", "c"), "abc", ""),
        (CHAIN, ("gone",), "", "abc"),
    ],
)
def test_applied_and_pending_are_the_two_halves_of_the_graph(
    text: str, current: tuple[str, ...], done: str, waiting: str
) -> None:
    graph = make_graph(text, current=current)

    assert sorted(applied(graph)) == list(done)
    assert names(pending(graph)) == list(waiting)


@pytest.mark.parametrize("text", [CHAIN, DIAMOND, "a<-b c<-d"])
def test_every_revision_has_one_state_and_those_without_a_child_are_at_head(text: str) -> None:
    empty = make_graph(text)
    full = make_graph(text, current=empty.heads)

    assert set(states(empty).values()) == {"pending"}
    assert not at_head(empty)
    assert at_head(full)
    assert {name for name, state in states(full).items() if state == "current"} == set(full.heads)


def test_unknown_revision_is_not_at_head() -> None:
    assert not at_head(make_graph(CHAIN, current=("c", "gone")))


@pytest.mark.parametrize(
    ("text", "current", "steps", "direction", "reached"),
    [
        (CHAIN, (), "ab", "upgrade", ("b",)),
        (CHAIN, ("a",), "bc", "upgrade", ("c",)),
        (CHAIN, ("c",), "cb", "downgrade", ("a",)),
        (CHAIN, ("a",), "a", "downgrade", ()),
        ("a<-b a<-c", ("b",), "c", "upgrade", ("b", "c")),
        ("a<-b a<-c b,c<-m", ("m",), "m", "downgrade", ("b", "c")),
        ("a<-b a<-c b,c<-m", ("b", "c"), "m", "upgrade", ("m",)),
    ],
)
def test_place_after_some_steps_is_told_from_the_graph(
    text: str, current: tuple[str, ...], steps: str, direction: str, reached: tuple[str, ...]
) -> None:
    assert after(make_graph(text), current, list(steps), direction) == reached


def test_chain_is_drawn_in_one_lane_and_a_branch_in_two() -> None:
    assert set(lanes(make_graph(CHAIN)).values()) == {0}

    drawn = lanes(make_graph("a<-b a<-c b,c<-m"))

    assert drawn["b"] != drawn["c"]
    assert drawn["m"] in (drawn["b"], drawn["c"])
    assert max(drawn.values()) == 1


@pytest.mark.parametrize("target", ["head", "heads", "+2", "c", "b", "aa+1", "x@head", "x", "aaa1"])
def test_targets_that_an_upgrade_takes(target: str) -> None:
    graph = make_graph("aaa1<-b<-c", labels={"c": "x"})

    check_target(target, graph, direction="upgrade")


@pytest.mark.parametrize("target", ["-1", "base", "aaa1", "c-1"])
def test_targets_that_a_rollback_takes(target: str) -> None:
    check_target(target, make_graph("aaa1<-b<-c"), direction="downgrade")


@pytest.mark.parametrize(
    ("target", "direction", "problem"),
    [
        ("base", "upgrade", "target='base' is no upgrade. Nothing was changed. That is what "
         "`rollback` is for."),
        ("-1", "upgrade", "target='-1' is no upgrade."),
        ("head", "downgrade", "target='head' is no downgrade. Nothing was changed. That is what "
         "`upgrade` is for."),
        ("+1", "downgrade", "target='+1' is no downgrade."),
        ("nope", "upgrade", "target='nope' matches no revision. Nothing was changed. Write -r "
         "target with head, heads, base, +1, -1 or one of: aa1, aa2, b."),
        ("aa", "upgrade", "target='aa' matches several revisions."),
        ("x@head", "upgrade", "There is no branch 'x'."),
        ("+4", "upgrade", "target='+4' is no number of steps here: 3 are pending."),
        ("+0", "upgrade", "target='+0' is no number of steps here"),
        ("-0", "downgrade", "target='-0' is no number of steps here"),
        ("", "upgrade", "target='' is not a revision."),
        ("a b", "upgrade", "target='a b' is not a revision."),
        ("b; DROP TABLE x", "upgrade", "is not a revision."),
    ],
)  # fmt: skip
def test_target_that_cannot_be_meant_is_one_sentence(
    target: str, direction: str, problem: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        check_target(target, make_graph("aa1<-aa2<-b"), direction=direction)

    assert problem in str(caught.value)


def test_more_steps_back_than_are_applied_are_refused() -> None:
    graph = make_graph(CHAIN, current=("b",))

    check_target("-2", graph, direction="downgrade")
    with pytest.raises(SettingsError, match="2 are applied"):
        check_target("-3", graph, direction="downgrade")


@pytest.mark.parametrize(
    ("target", "direction"),
    [("head", "upgrade"), ("c", "upgrade"), ("b", "upgrade"), ("a", "downgrade"),
     ("base", "downgrade"), ("-1", "downgrade"), ("+1", "upgrade"), ("zz", "upgrade")],
)  # fmt: skip
def test_direction_is_back_only_for_what_lies_behind(target: str, direction: str) -> None:
    assert direction_of(target, make_graph(CHAIN, current=("b",))) == direction


def test_no_revisions_are_called_base() -> None:
    assert join(()) == "base"
    assert join(("a", "b")) == "a, b"
