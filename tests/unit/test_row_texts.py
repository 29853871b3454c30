"""Fingerprints of rows as COPY writes them: of values and their rows, of nothing else."""

from __future__ import annotations

import random
import tracemalloc

import pytest

from playbook.row_texts import END, PIECE_BYTES, RowReader, RowTexts

SEED = 20250101
ROWS = [b"%d\tname %d\t%d" % (n, n * 7 % 5, n * 13 % 11) for n in range(300)]


def read(text: bytes, *, parts: int = 1) -> RowTexts:
    """Return what a file comes to that is read in so many parts."""
    cuts = sorted(random.Random(SEED).choices(range(len(text) + 1), k=parts - 1))
    reader = RowReader()
    for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        reader.add(memoryview(text)[begin:end])
    return reader.result()


def file_of(rows: list[bytes]) -> bytes:
    return b"".join(row + b"\n" for row in rows) + END


@pytest.mark.parametrize("rows", [[], [b""], [b"", b""], [b"\\N"], ROWS, [b"x" * PIECE_BYTES] * 3])
def test_parts_of_any_size_come_to_the_same(rows: list[bytes]) -> None:
    text = file_of(rows)
    whole = read(text)

    assert whole.rows == len(rows)
    for parts in (2, 3, 7, min(len(text), 5000)):
        assert read(text, parts=parts) == whole


def test_the_order_of_rows_does_not_matter_but_each_value_s_place_does() -> None:
    shuffled = random.Random(SEED).sample(ROWS, len(ROWS))
    swapped = [*ROWS]
    swapped[0], swapped[1] = b"0\tname 0\t2", b"1\tname 2\t0"
    changed = [*ROWS[:-1], ROWS[-1] + b"0"]
    doubled, halved = [*ROWS, ROWS[5], ROWS[5]], [*ROWS, ROWS[6], ROWS[6]]

    found = [read(file_of(rows)) for rows in (ROWS, swapped, changed, doubled, halved)]
    assert read(file_of(shuffled)) == found[0]
    assert len({(texts.rows, texts.fingerprint) for texts in found}) == 5


def test_partitions_add_up_to_their_table() -> None:
    both = read(file_of(ROWS[:100])) + read(file_of(ROWS[100:]))

    assert both == read(file_of(ROWS))
    assert both + RowTexts(0, 0) == both


@pytest.mark.parametrize("text", [b"", b"1\ta\n", b"1\ta\n\\.\n", b"1\ta\n\\.\n\n", END + b"1\n"])
def test_a_file_without_its_end_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match="without COPY's end mark"):
        read(text)


def test_a_row_of_any_length_takes_no_memory() -> None:
    part = memoryview(bytes(16 * PIECE_BYTES))
    reader = RowReader()
    tracemalloc.start()
    for _ in range(16):
        reader.add(part)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    reader.add(memoryview(b"\n" + END))

    assert reader.result().rows == 1
    assert peak < 4 * PIECE_BYTES
