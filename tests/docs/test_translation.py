"""The Chinese guide is in step with the English one: structure, code, commands and links."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from pages import GUIDE, TRANSLATION, Section, read_page

CHINESE = re.compile(r"[\u4e00-\u9fff]")
OTHER = {GUIDE.name: TRANSLATION.name, TRANSLATION.name: GUIDE.name}


@pytest.fixture(scope="module")
def translation() -> list[Section]:
    """The Chinese guide's sections."""
    return read_page(TRANSLATION)


def test_headings_are_the_same_in_number_order_level_and_anchor(
    guide: list[Section], translation: list[Section]
) -> None:
    assert [(s.level, s.anchor) for s in translation] == [(s.level, s.anchor) for s in guide]


def test_every_block_of_code_is_the_same(guide: list[Section], translation: list[Section]) -> None:
    for english, chinese in zip(guide, translation, strict=True):
        assert chinese.blocks == english.blocks, english.anchor


def test_code_in_the_text_is_the_same(guide: list[Section], translation: list[Section]) -> None:
    for english, chinese in zip(guide, translation, strict=True):
        assert Counter(chinese.spans) == Counter(english.spans), english.anchor


def test_links_are_the_same(guide: list[Section], translation: list[Section]) -> None:
    for english, chinese in zip(guide, translation, strict=True):
        links = [OTHER.get(link, link) for link in chinese.links]
        assert Counter(links) == Counter(english.links), english.anchor


def test_every_section_is_in_chinese(translation: list[Section]) -> None:
    for section in translation:
        assert CHINESE.search(section.title), section.anchor
        assert CHINESE.search(section.text) or not section.text.strip(), section.anchor


def test_the_english_guide_is_in_english(guide: list[Section]) -> None:
    text = "".join(section.title + section.text for section in guide)

    assert CHINESE.findall(text) == list("中文")
