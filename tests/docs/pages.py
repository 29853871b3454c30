"""A page of `docs/` taken apart: headings, anchors, blocks of code, spans of code, links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
GUIDE = DOCS / "guide.md"
TRANSLATION = DOCS / "guide.zh.md"

_ANCHOR = re.compile(r'<a id="([\w-]+)"></a>')
_PROSE = {"paragraph", "bullet_list", "ordered_list", "table"}
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
    parser = MarkdownIt("commonmark").enable("table")
    return list(_sections(SyntaxTreeNode(parser.parse(path.read_text("utf-8"))).children))


def _sections(nodes: list[SyntaxTreeNode]) -> Iterator[Section]:
    heading: SyntaxTreeNode | None = None
    anchor = waiting = ""
    inside: list[SyntaxTreeNode] = []
    for node in nodes:
        if node.type == "heading":
            if heading:
                yield _section(heading, anchor, inside)
            heading, anchor, waiting, inside = node, waiting, "", []
        elif found := _ANCHOR.fullmatch(_plain(node).strip()):
            waiting = found[1]
        else:
            inside.append(node)
    assert heading
    yield _section(heading, anchor, inside)


def _section(heading: SyntaxTreeNode, anchor: str, nodes: list[SyntaxTreeNode]) -> Section:
    every = [one for node in nodes for one in node.walk()]
    return Section(
        level=int(heading.tag[1:]),
        title=_plain(heading),
        anchor=anchor,
        blocks=tuple(_blocks(nodes)),
        spans=tuple(one.content for one in every if one.type == "code_inline"),
        links=tuple(str(one.attrs["href"]) for one in every if one.type == "link"),
        text="\n".join(_plain(node) for node in nodes if node.type in _PROSE),
    )


def _blocks(nodes: list[SyntaxTreeNode]) -> Iterator[Block]:
    mark = ""
    for node in nodes:
        if node.type == "fence":
            yield Block(node.info, node.content, mark)
        elif node.type != "html_block":
            yield from _blocks(node.children)
        found = _MARK.search(node.content) if node.type == "html_block" else None
        mark = found[1] if found else ""


def _plain(node: SyntaxTreeNode) -> str:
    return "".join(one.content for one in node.walk() if not one.children and one.token)


def blocks(sections: list[Section], language: str) -> list[Block]:
    """Return all blocks of a language, in order."""
    return [one for section in sections for one in section.blocks if one.language == language]
