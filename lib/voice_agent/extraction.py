"""The text of a document from its bytes: plain text, Markdown, HTML and PDF. No files, no database.

The libraries do the reading: pypdf, selectolax (lexbor, the HTML5 algorithm of browsers),
markdown-it-py and charset-normalizer. Each is loaded when the first document of its kind comes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

__all__ = ["SUFFIXES", "Extracted", "Unreadable", "extract"]

SUFFIXES: Mapping[str, str] = {
    ".txt": "text/plain",
    ".text": "text/plain",
    ".md": "text/markdown",
    ".markdown": "text/markdown",
    ".htm": "text/html",
    ".html": "text/html",
    ".xhtml": "text/html",
    ".pdf": "application/pdf",
}
"""The media type that a file's name promises."""
SIGNATURES = (
    (b"%PDF-", "a PDF"),
    (b"PK\x03\x04", "a ZIP archive (as .docx, .xlsx and .epub are)"),
    (b"\x1f\x8b", "compressed by gzip"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"GIF8", "a picture"),
    (b"\xd0\xcf\x11\xe0", "an old Office document"),
    (b"\x7fELF", "a program"),
    (b"SQLite format 3", "a SQLite database"),
)
"""How files begin that are often misnamed."""
BOMS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe\0\0", "utf-32"), (b"\0\0\xfe\xff", "utf-32"),
        (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))  # fmt: skip
"""Byte order marks, the longer first where one begins with another."""
MOST_CONTROLS = 0.05
"""The share of control characters above which a file is no text."""
PDF_MARK_WITHIN = 1024
"""Where a PDF's mark may begin at the latest; bytes (as Acrobat allows)."""
LONGEST_TITLE = 300

DAMAGE = (ArithmeticError, AssertionError, AttributeError, LookupError, OSError, RecursionError,
          TypeError, ValueError)  # fmt: skip
"""What pypdf stumbles over in a damaged file, besides its own errors."""

CONTROLS = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
SURROGATES = re.compile(r"[\ud800-\udfff]")
NOT_SHOWN = ["head", "script", "style", "noscript", "template", "svg"]
BLOCKS = (
    "address,article,aside,blockquote,br,dd,div,dt,fieldset,figcaption,figure,footer,form,h1,h2,"
    "h3,h4,h5,h6,header,hr,li,main,nav,ol,option,p,pre,section,table,tr,ul"
)
FRONT_MATTER = re.compile(r"\A---\s*\n.*?\n(?:---|\.\.\.)\s*(?:\n|\Z)", re.DOTALL)


class Unreadable(Exception):
    """A document holds no text that could be read; the text says why, for ``NAME ...``."""


@dataclass(frozen=True)
class Extracted:
    """A document's text."""

    media_type: str
    title: str
    """"" if the document has none."""
    text: str
    remarks: tuple[str, ...] = ()
    """What was left out or replaced."""


def extract(content: bytes, suffix: str) -> Extracted:
    """Return the text of a document.

    Args:
        suffix: the end of its file's name, one of `SUFFIXES`.

    Raises:
        Unreadable: it is empty, encrypted, damaged, of another kind than its name says, or
            without text.
    """
    if not content:
        raise Unreadable("is empty")
    media_type = SUFFIXES[suffix]
    _check_kind(content, suffix, media_type)
    title, text = _READERS[media_type](content)
    text, remarks = _clean(text)
    if not text:
        raise Unreadable(
            "holds no text: its pages may be pictures, which need OCR first"
            if media_type == "application/pdf"
            else "holds no text"
        )
    title = " ".join(_clean(title)[0].split())[:LONGEST_TITLE]
    return Extracted(media_type, title, text, remarks)


def _check_kind(content: bytes, suffix: str, media_type: str) -> None:
    """Refuse a file whose name says another kind than its first bytes."""
    is_pdf = b"%PDF-" in content[:PDF_MARK_WITHIN]
    if media_type == "application/pdf":
        if not is_pdf:
            raise Unreadable("is named as a PDF, and does not begin as one")
        return
    for mark, kind in SIGNATURES:
        if content.startswith(mark):
            raise Unreadable(f"is named {suffix}, and its content is {kind}")


def _clean(text: str) -> tuple[str, tuple[str, ...]]:
    r"""Return a text that PostgreSQL takes, and what was changed.

    PostgreSQL's text holds no NUL, and UTF-8 no half of a surrogate pair.
    """
    remarks = []
    if "\0" in text:
        remarks.append(f"NUL characters left out: {text.count(chr(0))}")
        text = text.replace("\0", "")
    text, halves = SURROGATES.subn("\ufffd", text)
    if halves:
        remarks.append(f"halves of surrogate pairs replaced: {halves}")
    return text.replace("\r\n", "\n").replace("\r", "\n").strip(), tuple(remarks)


# ---- Text ----------------------------------------------------------------------------------------


def _decode(content: bytes) -> str:
    """Return bytes as text: by their byte order mark, as UTF-8, or as charset-normalizer finds.

    Raises:
        Unreadable: it is no text.
    """
    for mark, encoding in BOMS:
        if content.startswith(mark):
            return _decode_as(content[3:] if encoding == "utf-8" else content, encoding)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        text = _guess(content)
    if len(CONTROLS.findall(text)) > MOST_CONTROLS * len(text):
        raise Unreadable("is no text: it is full of control characters")
    return text


def _decode_as(content: bytes, encoding: str) -> str:
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise Unreadable(
            f"begins as {encoding.upper()}, and is none at byte {error.start}"
        ) from None


def _guess(content: bytes) -> str:
    """Return text in an older encoding; one that the document declares is tried first."""
    from charset_normalizer import from_bytes

    best = from_bytes(content).best()
    if best is None:
        raise Unreadable("is no text in an encoding that can be told")
    return str(best)


def _plain(content: bytes) -> tuple[str, str]:
    text = _decode(content)
    return "", text


def _markdown(content: bytes) -> tuple[str, str]:
    """Return the first heading, and the source: its structure is what the splitter goes by."""
    from markdown_it import MarkdownIt

    text = FRONT_MATTER.sub("", _decode(content).replace("\r\n", "\n"), count=1)
    tokens = MarkdownIt().parse(text)
    headings = (
        tokens[number + 1].content
        for number, token in enumerate(tokens)
        if token.type == "heading_open"
    )
    return next(headings, ""), text


def _html(content: bytes) -> tuple[str, str]:
    """Return the title, and what a browser would show, one block a line."""
    from selectolax.lexbor import LexborHTMLParser

    tree = LexborHTMLParser(_decode(content))
    title = tree.css_first("title")
    name = title.text() if title is not None else ""
    tree.strip_tags(NOT_SHOWN)
    for block in tree.css(BLOCKS):
        block.insert_before("\n")
        block.insert_after("\n")
    for cell in tree.css("td,th"):
        cell.insert_after(" ")
    text = tree.body.text() if tree.body is not None else ""
    lines = (" ".join(line.split()) for line in text.split("\n"))
    return name, re.sub(r"\n{3,}", "\n\n", "\n".join(lines))


# ---- PDF -----------------------------------------------------------------------------------------


def _pdf(content: bytes) -> tuple[str, str]:
    """Return the title, and the text of all pages, an empty line between two."""
    from pypdf import PdfReader
    from pypdf.errors import DependencyError, PyPdfError

    try:
        reader = PdfReader(io.BytesIO(content))
        if reader.is_encrypted and not reader.decrypt(""):
            raise Unreadable("is encrypted, and needs a password")
        title = str((reader.metadata and reader.metadata.title) or "")
        return title, "\n\n".join(page.extract_text() for page in reader.pages)
    except DependencyError:  # AES needs a library that is not asked for
        raise Unreadable("is encrypted, by a method that cannot be read here") from None
    except (PyPdfError, *DAMAGE) as error:
        raise Unreadable(f"is a damaged PDF ({type(error).__name__})") from None


_READERS: Mapping[str, Callable[[bytes], tuple[str, str]]] = {
    "text/plain": _plain,
    "text/markdown": _markdown,
    "text/html": _html,
    "application/pdf": _pdf,
}
