"""A table's rows as COPY writes them, counted and fingerprinted as they pass. Layer 1: bytes."""

from __future__ import annotations

from dataclasses import dataclass

from xxhash import xxh3_64, xxh3_64_intdigest

__all__ = ["RowReader", "RowTexts"]

END = b"\\.\n\n\n"
"""What pg_dump writes after a table's last row (dumpTableData_copy in pg_dump.c). In a row a
backslash is doubled, so that none reads like it."""
PIECE_BYTES = 256 * 1024
"""How much is split into rows at a time: of the shortest that takes some 10 MB of memory."""


@dataclass(frozen=True)
class RowTexts:
    """How many rows a table's file holds, and a fingerprint of them all.

    It is the sum, modulo 2^64, of the rows' hashes (XXH3, 64 bits). So it changes with any value,
    also if two change places between rows, and not with the order of the rows: that may be another
    one after a restore, as the server fills up pages that have room left.
    """

    rows: int
    fingerprint: int

    def __add__(self, other: RowTexts) -> RowTexts:
        """Return the same of the rows of both."""
        total = self.fingerprint + other.fingerprint
        return RowTexts(self.rows + other.rows, total % 2**64)


class RowReader:
    """Takes in a table's data file as pg_dump writes it, in parts of any size.

    Of a row longer than a part no more than that is kept.
    """

    def __init__(self) -> None:
        self._lines = 0
        self._sum = 0
        self._begun = xxh3_64()
        self._tail = b""

    def add(self, text: memoryview) -> None:
        """Take in the next part."""
        for start in range(0, len(text), PIECE_BYTES):
            self._take(bytes(text[start : start + PIECE_BYTES]))

    def _take(self, piece: bytes) -> None:
        self._tail = (self._tail + piece[-len(END) :])[-len(END) :]
        first, *others = piece.split(b"\n")
        self._begun.update(first)
        if not others:
            return
        last = others.pop()
        self._sum += self._begun.intdigest() + sum(map(xxh3_64_intdigest, others))
        self._lines += 1 + len(others)
        self._begun.reset()
        self._begun.update(last)

    def result(self) -> RowTexts:
        """Return what the whole file came to.

        Raises:
            ValueError: it does not end as pg_dump ends one.
        """
        if self._tail != END:
            raise ValueError("it ends without COPY's end mark")
        marks = END.split(b"\n")[:-1]
        total = self._sum - sum(map(xxh3_64_intdigest, marks))
        return RowTexts(self._lines - len(marks), total % 2**64)
