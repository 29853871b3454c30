"""zstd files of many frames: whole they read as their text, cut short they are refused by name."""

from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path

import pytest
import zstandard

from playbook.zstd_files import Compressor
from playbook.zstd_frames import FRAME_BYTES, check_frames, frame_compressor, plain_chunks

SEED = 20250101


@pytest.fixture(params=[0, 1, FRAME_BYTES - 1, FRAME_BYTES, 2 * FRAME_BYTES + 5])
def text(request: pytest.FixtureRequest) -> bytes:
    """As many bytes of rows as the parameter says."""
    row = b"%d\tsome words that come again\t\\N\n"
    return b"".join(row % n for n in range(request.param // 30 + 1))[: request.param]


def compressed(folder: Path, text: bytes, *, level: int = 1) -> Path:
    """Return the file that becomes of a large object, by the class that follows a pg_dump."""
    (folder / "blob_1.dat").write_bytes(text)
    compressor = Compressor(folder, level=level, writers=1)
    compressor.finish()
    compressor.stop()
    assert compressor.plain_bytes == len(text)
    return folder / "blob_1.dat.zst"


def frame_ends(data: bytes) -> list[int]:
    """Return where each frame ends."""
    ends = []
    while len(data) > (begun := ends[-1] if ends else 0):
        frame = zstandard.ZstdDecompressor().decompressobj()
        frame.decompress(data[begun:])
        ends.append(len(data) - len(frame.unused_data))
    return ends


@pytest.mark.parametrize("level", [1, 3, -3])
def test_a_file_reads_as_its_text(tmp_path: Path, text: bytes, level: int) -> None:
    packed = compressed(tmp_path, text, level=level)

    assert b"".join(plain_chunks(packed)) == text
    assert check_frames([packed]) == len(text)
    assert len(frame_ends(packed.read_bytes())) == -(-len(text) // FRAME_BYTES) + 1


@pytest.mark.skipif(not shutil.which("zstd"), reason="there is no zstd on this machine")
def test_the_public_tool_reads_a_file_of_many_frames(tmp_path: Path, text: bytes) -> None:
    packed = compressed(tmp_path, text)

    done = subprocess.run(["zstd", "-d", "-c", packed], capture_output=True, check=True)

    assert done.stdout == text


def test_a_file_that_is_cut_anywhere_is_refused_by_name(tmp_path: Path) -> None:
    packed = compressed(tmp_path, random.Random(SEED).randbytes(2 * FRAME_BYTES + 5))
    whole = packed.read_bytes()
    ends = frame_ends(whole)
    inside = random.Random(SEED).sample(range(len(whole)), 6)

    for size in (0, 1, *ends[:-1], *(end + 1 for end in ends[:-1]), len(whole) - 1, *inside):
        packed.write_bytes(whole[:size])
        (tmp_path / "toc.dat").touch()
        with pytest.raises(ValueError, match=r"^blob_1\.dat\.zst (ends too early|is damaged)"):
            check_frames([packed])


def test_files_of_earlier_backups_one_frame_each_are_still_read(tmp_path: Path) -> None:
    stream = zstandard.ZstdCompressor(1, write_checksum=True).compressobj()
    path = tmp_path / "1.dat.zst"
    path.write_bytes(stream.compress(b"a row\n" * 1000) + stream.flush())

    assert b"".join(plain_chunks(path)) == b"a row\n" * 1000


def test_damage_in_a_later_frame_is_found(tmp_path: Path) -> None:
    packed = compressed(tmp_path, b"a row\n" * FRAME_BYTES)
    data = bytearray(packed.read_bytes())
    data[frame_ends(bytes(data))[2] - 2] ^= 1  # of the third frame's checksum
    packed.write_bytes(data)

    with pytest.raises(ValueError, match=r"^blob_1\.dat\.zst is damaged: "):
        check_frames([packed])


def test_level_1_finds_what_lies_further_back_than_zstd_itself_looks_there(tmp_path: Path) -> None:
    far = random.Random(SEED).randbytes(900_000)
    text = far + far

    assert len(frame_compressor(1).compress(text)) < 0.6 * len(text)
    assert len(zstandard.ZstdCompressor(1).compressobj().compress(text)) > 0.9 * len(text)
