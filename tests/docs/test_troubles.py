"""Every message that the guide quotes is really said, and what it says to do really helps."""

from __future__ import annotations

import pytest
from pages import Section
from troubles import TROUBLES, Place, Provocation, anchor_of

GAP = "..."
"""What stands in a quoted message for words that differ from case to case."""


def is_said(quoted: str, said: str) -> bool:
    """Say whether some line holds the parts of a quoted one, in their order."""
    for line in said.splitlines():
        place = 0
        for part in quoted.split(GAP):
            place = line.find(part.strip(), place)
            if place < 0:
                break
            place += len(part.strip())
        else:
            return True
    return False


@pytest.mark.parametrize("provoke", TROUBLES, ids=anchor_of)
def test_message_is_said_as_quoted_and_its_remedy_helps(
    provoke: Provocation, place: Place, guide: list[Section]
) -> None:
    (section,) = [one for one in guide if one.anchor == anchor_of(provoke)]
    (quoted,) = section.blocks
    remedy = provoke(place)

    said = next(remedy)

    for line in quoted.text.splitlines():
        assert is_said(line, said), f"the guide: {line}\nwas said: {said}"
    with pytest.raises(StopIteration):
        next(remedy)


@pytest.mark.parametrize(
    ("quoted", "is_there"),
    [("a ... c", True), ("b c", True), ("c ... a", False), ("a c", False), ("a ... d", False)],
)
def test_gap_stands_for_words_and_nothing_else(quoted: str, is_there: bool) -> None:
    assert is_said(quoted, "first\na b c\nlast") is is_there
