"""The guide holds what it says: its commands, its settings, its links; nothing is run here."""

from __future__ import annotations

import ast
import re

import pytest
from command_lines import NOTEBOOKS, commands, problems, settings, spans
from pages import DOCS, GUIDE, ROOT, TRANSLATION, Section, read_page
from troubles import TROUBLES, anchor_of

GUIDES = [GUIDE, TRANSLATION]
INDEX = "commands"
"""The section with the list of Alembic's commands."""


@pytest.fixture(params=GUIDES, ids=lambda path: path.name)
def page(request: pytest.FixtureRequest) -> list[Section]:
    """Each of the pages."""
    return read_page(request.param)


def test_every_command_line_can_be_given_as_it_is_written(page: list[Section]) -> None:
    given = [*commands(page), *spans(page)]

    found = [(" ".join(one.words), text) for one in given for text in problems(one, page)]

    assert len(given) > 80
    assert found == []


def test_jupyterlab_is_told_the_same_parameters_as_papermill(page: list[Section]) -> None:
    told = 0
    for section in page:
        given = {name: value for one in commands([section]) for _, name, value in one.parameters}
        if "JupyterLab" in section.text and given:
            written = {name: ast.literal_eval(text) for name, text in settings(section).items()}
            assert {name: str(value) for name, value in written.items()} == given, section.title
            told += 1
    assert told >= 12


def test_every_runbook_has_its_place_on_the_page(page: list[Section]) -> None:
    run = {one.notebook.stem for one in commands(page) if one.notebook}
    linked = {link.rpartition("/")[2] for section in page for link in section.links}

    for path in NOTEBOOKS.glob("*.ipynb"):
        if path.stem not in {"onboarding", "fleet"}:
            assert path.stem in run
            assert path.name in linked


def test_links_lead_somewhere(page: list[Section]) -> None:
    anchors = {section.anchor for section in page}

    for section in page:
        for link in section.links:
            path, _, anchor = link.partition("#")
            assert not re.match(r"\w+://", link), "a link that nobody checks"
            assert (DOCS / path).resolve().exists(), link
            assert not anchor or path or anchor in anchors, link


def test_every_heading_has_an_anchor_of_its_own(page: list[Section]) -> None:
    anchors = [section.anchor for section in page]

    assert "" not in anchors
    assert len(set(anchors)) == len(anchors)


def test_every_trouble_is_provoked_by_a_test_and_every_provocation_is_on_the_page(
    page: list[Section],
) -> None:
    told = {section.anchor for section in page if any(b.language == "text" for b in section.blocks)}

    assert told == {anchor_of(one) for one in TROUBLES}


def test_lines_fit_where_they_are_read(page: list[Section]) -> None:
    for section in page:
        for block in section.blocks:
            if block.language != "text":  # messages are as long as they are
                assert max(map(len, block.text.splitlines())) <= 110, block.text


def test_no_line_of_the_source_is_of_this_machine() -> None:
    for path in GUIDES:
        assert not re.search(r"/(?:root|home|tmp|work)/", path.read_text("utf-8"))
        assert str(ROOT) not in path.read_text("utf-8")
