"""A document's text from its bytes: what is found, left out, replaced and refused."""

from __future__ import annotations

import gzip

import pytest

from documents import encrypted_pdf, pdf
from voice_agent.extraction import Unreadable, extract

PAGE = """<!DOCTYPE html><html><head><title> Two
 lines </title><style>p { color: red }</style></head><body><nav>Menu</nav><h1>Rates</h1>
<p>All <b>fu</b>el is <i>taxed</i>.<script>track()</script></p><ul><li>one<li>two</ul>
<table><tr><td>left</td><td>right</td></tr></table></body></html>"""


def test_html_gives_its_title_and_what_a_browser_shows_a_block_a_line() -> None:
    found = extract(PAGE.encode(), ".html")

    assert (found.media_type, found.title) == ("text/html", "Two lines")
    assert [line for line in found.text.split("\n") if line] == [
        "Menu", "Rates", "All fuel is taxed.", "one", "two", "left right",
    ]  # fmt: skip


def test_deeply_nested_html_loses_nothing() -> None:
    page = "<body>" + "<div>" * 3000 + "inside" + "</div>" * 3000 + "<p>after</p>"

    assert extract(page.encode(), ".htm").text.split() == ["inside", "after"]


def test_markdown_keeps_its_source_and_takes_the_first_heading_for_a_title() -> None:
    source = "---\ntitle: no\n---\n```sh\n# a comment\n```\n\nThe *rates*\n---------\n\n- one\n"

    found = extract(source.encode(), ".md")

    assert found.title == "The *rates*"
    assert found.text == source.split("---\n", 2)[2].strip()


def test_pdf_gives_its_title_and_the_text_of_every_page() -> None:
    found = extract(pdf("First page\nsecond line", "Last page", title="Rates"), ".pdf")

    assert (found.media_type, found.title) == ("application/pdf", "Rates")
    assert found.text.split() == ["First", "page", "second", "line", "Last", "page"]


@pytest.mark.parametrize(
    "encoded",
    [
        "Größe: 5 €".encode("utf-8-sig"),
        "Größe: 5 €".encode("utf-16"),
        b"\xfe\xff" + "Größe: 5 €".encode("utf-16-be"),
        "Größe: 5 €".encode("utf-32"),
        "Größe: 5 €".encode(),
    ],
)
def test_text_is_decoded_by_its_byte_order_mark(encoded: bytes) -> None:
    assert extract(encoded, ".txt").text == "Größe: 5 €"


def test_text_in_an_older_encoding_is_decoded_as_it_declares() -> None:
    page = '<meta charset="iso-8859-15"><p>Preis: 5 € für Männer und Söhne</p>'

    assert extract(page.encode("iso-8859-15"), ".html").text == "Preis: 5 € für Männer und Söhne"


def test_what_postgresql_refuses_is_left_out_and_told() -> None:
    found = extract(b"one\0two\0 and a good many words more, so that it is text\r\nend", ".txt")

    assert found.text == "onetwo and a good many words more, so that it is text\nend"
    assert found.remarks == ("NUL characters left out: 2",)


@pytest.mark.parametrize(
    ("content", "suffix", "reason"),
    [
        (b"", ".txt", "is empty"),
        (b" \n\t ", ".md", "holds no text"),
        (b"<html><script>only()</script></html>", ".html", "holds no text"),
        (pdf(""), ".pdf", "holds no text: its pages may be pictures, which need OCR first"),
        (encrypted_pdf("secret", password="x"), ".pdf", "is encrypted, and needs a password"),
        (pdf("whole")[:150], ".pdf", "is a damaged PDF"),
        (b"%PDF-1.7\n" + bytes(range(256)) * 40, ".pdf", "is a damaged PDF"),
        (b"<html>404</html>", ".pdf", "is named as a PDF, and does not begin as one"),
        (pdf("x"), ".txt", "is named .txt, and its content is a PDF"),
        (b"PK\x03\x04 word/document.xml", ".md", "is named .md, and its content is a ZIP"),
        (gzip.compress(b"0" * 10**6), ".html", "is named .html, and its content is compressed"),
        (bytes(range(32)) * 100, ".txt", "is no text: it is full of control characters"),
        (b"\xff\xfea", ".txt", "begins as UTF-16, and is none at byte"),
        (b"\xff\xfe\0\0\x41\xff\xff\xff", ".txt", "begins as UTF-32, and is none at byte"),
    ],
)  # fmt: skip
def test_a_document_without_readable_text_is_refused_with_its_reason(
    content: bytes, suffix: str, reason: str
) -> None:
    with pytest.raises(Unreadable) as refused:
        extract(content, suffix)

    assert str(refused.value).startswith(reason)


def test_an_encrypted_pdf_that_anybody_may_open_is_read() -> None:
    assert extract(encrypted_pdf("open to all", password=""), ".pdf").text == "open to all"


def test_every_beginning_of_a_pdf_is_read_or_refused() -> None:
    whole = pdf("one page", "another", title="Cut")
    told = set()
    for length in range(1, len(whole), 7):
        try:
            extract(whole[:length], ".pdf")
        except Unreadable as refused:
            told.add(str(refused).partition(" (")[0])

    assert "is a damaged PDF" in told
