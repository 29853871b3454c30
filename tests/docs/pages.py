"""A page of `docs/` taken apart: headings, anchors, blocks of code, spans of code, links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mistune

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
GUIDE = DOCS / "guide.md"
TRANSLATION = DOCS / "guide.zh.md"

_ANCHOR = re.compile(r'<a id="([\w-]+)"></a>')
_PROSE = {"paragraph", "list", "table", "block_quote"}
_MARK = re.compile(r"<!-- (.+?) -->")


@dataclass(frozen=True)
class Block:
    """A fenced block of code: its language, its text, and the comment right before it."""

    language: str
    text: str
    mark: str = ""


@dataclass(frozen=True)
class Section:
    """What stands under a heading, up to the next one; ``anchor`` is "" for the page's title."""

    level: int
    title: str
    anchor: str
    blocks: tuple[Block, ...]
    spans: tuple[str, ...]
    links: tuple[str, ...]
    text: str


def read_page(path: Path) -> list[Section]:
    """Return a page's sections, in order; the title's is the first."""
    parse = mistune.create_markdown(renderer="ast", plugins=["table"])
    return list(_sections(parse(path.read_text("utf-8"))))


def _sections(tokens: list[dict[str, Any]]) -> Iterator[Section]:
    heading: dict[str, Any] | None = None
    anchor = waiting = ""
    inside: list[dict[str, Any]] = []
    for token in tokens:
        if token["type"] == "heading":
            if heading:
                yield _section(heading, anchor, inside)
            heading, anchor, waiting, inside = token, waiting, "", []
        else:
            found = _ANCHOR.search(token.get("raw", "")) or _ANCHOR.search(_plain(token))
            waiting = found[1] if found else waiting
            inside.append(token)
    assert heading
    yield _section(heading, anchor, inside)


def _section(heading: dict[str, Any], anchor: str, tokens: list[dict[str, Any]]) -> Section:
    every = [one for token in tokens for one in _walk(token)]
    return Section(
        level=heading["attrs"]["level"],
        title=_plain(heading),
        anchor=anchor,
        blocks=tuple(_blocks(tokens)),
        spans=tuple(one["raw"] for one in every if one["type"] == "codespan"),
        links=tuple(one["attrs"]["url"] for one in every if one["type"] == "link"),
        text=_ANCHOR.sub("", "\n".join(_plain(t) for t in tokens if t["type"] in _PROSE)),
    )


def _blocks(tokens: list[dict[str, Any]]) -> Iterator[Block]:
    mark = ""
    for token in tokens:
        if token["type"] == "block_code":
            yield Block(token.get("attrs", {}).get("info", ""), token["raw"], mark)
            mark = ""
        elif token["type"] == "block_html":
            found = _MARK.search(token["raw"])
            mark = found[1] if found else mark
        elif token["type"] != "blank_line":
            yield from _blocks(token.get("children", []))
            mark = ""


def _walk(token: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield token
    for child in token.get("children", []):
        yield from _walk(child)


def _plain(token: dict[str, Any]) -> str:
    return "".join(one.get("raw", "") for one in _walk(token))


def blocks(sections: list[Section], language: str) -> list[Block]:
    """Return all blocks of a language, in order."""
    return [one for section in sections for one in section.blocks if one.language == language]
