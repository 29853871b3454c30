"""zstd files of many frames, each of which is compressed in one go. Layer 1: files.

A data file is a row of ordinary frames with checksums, `FRAME_BYTES` of plain text each, and an
empty frame at the end: without it the file was cut short, even if between two frames. ``zstd -d``
reads them as one. Compressed in one go a frame needs no copy of its text and no second look-up for
what lies before a buffer's turn, as a stream does.

Source of the choice: 2 GB of a dump's plain text (tests/benchmarks/backups.py), one thread, seconds
of processor time: a stream at zstd's level 1 3.5 (329 MB), level 2 3.0 (204 MB), level 3 3.8
(176 MB), -1 2.8 (509 MB); this 2.3 (183 MB). Frames of 1 MB 2.7 (234 MB), of 16 MB 2.2 (174 MB). On
programs' source, documents and random rows the larger table alone, in a stream, made it as fast as
level 1 or up to a seventh slower.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from pathlib import Path

import zstandard

from playbook.archive_toc import HEAD_BYTES as TOC_HEAD_BYTES
from playbook.archive_toc import names_zstd

__all__ = ["FRAME_BYTES", "SUFFIX", "check_frames", "frame_compressor", "plain_chunks", "write_all"]

SUFFIX = ".zst"
FRAME_BYTES = 4 << 20
FASTEST = 1
HASH_LOG = 16
"""At level 1: a table of 2^16 entries (256 KB, within the second cache) instead of 2^14."""
WINDOW_LOG = 22
"""At level 1: a whole frame."""
READ_BYTES = 8 * 1024
"""Of a compressed file at a time: of zeros, in a single frame, that is 100 MB of plain text."""
HEAD_BYTES = 18
"""The most that a frame's header takes (RFC 8878, section 3.1.1.1)."""


def frame_compressor(level: int) -> zstandard.ZstdCompressor:
    """Return what compresses a frame by ``compress``; level 1 with a larger table (see above).

    Args:
        level: zstd's, -7 to 19.
    """
    sizes = {"window_log": WINDOW_LOG, "hash_log": HASH_LOG} if level == FASTEST else {}
    parameters = zstandard.ZstdCompressionParameters.from_level(
        level, source_size=FRAME_BYTES, write_checksum=True, write_content_size=True, **sizes
    )
    return zstandard.ZstdCompressor(compression_params=parameters)


def plain_chunks(path: Path) -> Iterator[bytes]:
    """Yield the plain text of a zstd file, about `READ_BYTES` of the file at a time.

    A last frame of unknown size is complete too: such are those of pg_dump itself and of earlier
    backups, one a file.

    Raises:
        ValueError: the file is damaged or ends too early.
    """
    size, frame = -1, None
    try:
        with path.open("rb", buffering=FRAME_BYTES) as packed:
            data = packed.read(READ_BYTES)
            while data:
                if len(data) < HEAD_BYTES:
                    data += packed.read(READ_BYTES)
                size = zstandard.frame_content_size(data)
                frame = zstandard.ZstdDecompressor().decompressobj()
                while data and not frame.eof:
                    yield frame.decompress(data)
                    data = frame.unused_data or packed.read(READ_BYTES)
    except zstandard.ZstdError as error:
        raise ValueError(f"{path.name} is damaged: {error}") from error
    is_complete = frame.eof and size <= 0 if frame else _is_empty_object(path)
    if not is_complete:
        raise ValueError(f"{path.name} ends too early")


def _is_empty_object(path: Path) -> bool:
    """Say whether a file is empty as it should be.

    Where pg_dump has zstd itself, it writes no frame for a large object without content.
    """
    with path.with_name("toc.dat").open("rb") as toc:
        return names_zstd(toc.read(TOC_HEAD_BYTES))


def check_frames(paths: Iterable[Path]) -> int:
    """Decompress zstd files to their ends, several at a time, and return the size of their text.

    Raises:
        OSError: a file cannot be read.
        ValueError: a file is damaged or ends too early; it is named.
    """
    # The largest first: of one file the text can be read by one thread only.
    largest_first = sorted(paths, key=lambda path: -path.stat().st_size)
    with ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="unzstd") as pool:
        return sum(pool.map(_plain_size, largest_first))


def _plain_size(path: Path) -> int:
    return sum(len(chunk) for chunk in plain_chunks(path))


def write_all(out: FileIO, data: bytes) -> None:
    """Write bytes to a file or pipe that has no buffer of its own, all of them."""
    view = memoryview(data)
    while view:
        view = view[out.write(view) :]
