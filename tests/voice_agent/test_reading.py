"""Files read in worker processes: limits of time, size and memory, and folders that are odd."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from voice_agent import folder as listing
from voice_agent import reading
from voice_agent.folder import walk
from voice_agent.reading import Document, Job, Limits, Read, Skipped, Splitting, Unchanged
from voice_agent.tokenizers import EMBEDDING_MODEL, hashed_words

SPLITTING = Splitting(200, 80, EMBEDDING_MODEL)
LIMITS = Limits(1 << 20, 20.0, 1)
SLOW = "<body>" + "<div>" * 100_000 + "x"
"""Takes a parser minutes: closing each of its elements walks up all others."""


def read(*paths: Path, limits: Limits = LIMITS) -> list[Read]:
    return list(reading.read_all((Job(str(path), 1) for path in paths), SPLITTING, limits))


def reasons(found: list[Read]) -> dict[str, str]:
    return {Path(one.path).name: one.reason for one in found if isinstance(one, Skipped)}


def names(entries: Iterator[listing.Entry]) -> list[tuple[str, str]]:
    return [(Path(entry.path).name, entry.problem) for entry in entries]


@contextmanager
def as_nobody() -> Iterator[None]:
    """Have no more rights than anybody: root may read whatever it likes."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


def test_a_folder_is_listed_in_the_same_order_everywhere(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.md", "a/b/c.html", "c.PDF", ".hidden/x.txt", "B.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")

    found = [os.path.relpath(entry.path, tmp_path) for entry in walk(tmp_path)]

    assert found == ["B.txt", "a/b/c.html", "a/z.md", "b.txt", "c.PDF"]


def test_links_pipes_and_other_kinds_are_told_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "gone.txt").symlink_to("nowhere")
    (tmp_path / "outside.txt").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "table.xlsx").write_bytes(b"PK")
    (tmp_path / "folder.txt").mkdir()

    assert names(walk(tmp_path)) == [
        ("gone.txt", "is a symbolic link, and links are not followed"),
        ("loop", "is a symbolic link, and links are not followed"),
        ("outside.txt", "is a symbolic link, and links are not followed"),
        ("pipe.txt", "is no regular file"),
        ("table.xlsx", "is of a kind that is not imported"),
    ]


def test_what_may_not_be_read_is_told() -> None:
    # Not below tmp_path, which nobody but its owner may enter.
    made = Path(tempfile.mkdtemp())
    made.chmod(0o755)
    (made / "closed").mkdir(mode=0o700)
    (made / "secret.txt").write_text("x")
    (made / "secret.txt").chmod(0 if os.geteuid() else 0o600)
    if os.geteuid():
        (made / "closed").chmod(0)

    with as_nobody():
        listed = names(walk(made))
        found = reading.read_file(Job(str(made / "secret.txt"), 1), SPLITTING, LIMITS)

    (made / "closed").chmod(0o700)
    shutil.rmtree(made)
    assert listed[0] == ("closed", "is a folder that cannot be read: permission denied")
    assert found == Skipped(str(made / "secret.txt"), 1, "cannot be read: permission denied")


def test_chunks_are_numbered_within_their_size_and_tokenized(tmp_path: Path) -> None:
    text = "\n\n".join(f"Paragraph {n} has a\ttab, a \\ and some more words." for n in range(40))
    (tmp_path / "long.txt").write_text(text)

    (found,) = read(tmp_path / "long.txt")

    assert isinstance(found, Document)
    rows = [chunk.decode().split("\t") for chunk in found.chunks]
    texts = [row[1].replace(r"\t", "\t").replace(r"\n", "\n").replace(r"\\", "\\") for row in rows]
    assert [row[0] for row in rows] == [str(n) for n in range(len(rows))]
    assert all(0 < len(one) <= SPLITTING.size for one in texts)
    assert all(f"Paragraph {n} " in " ".join(texts) for n in range(40))
    assert rows[0][2] == "{" + ",".join(map(str, hashed_words(texts[0]))) + "}"
    # The end of a chunk is repeated at the beginning of the next one.
    assert sum(map(len, texts)) > len(text)


def test_order_is_that_of_the_jobs_and_an_unchanged_file_is_not_read_again(tmp_path: Path) -> None:
    paths = [tmp_path / f"{n}.txt" for n in range(30)]
    for path in paths:
        path.write_text(f"text of {path.name}")
    first = read(*paths)
    known = {one.path: (one.file_sha256,) for one in first if isinstance(one, Document)}

    jobs = (Job(str(path), 1, known[str(path)]) for path in paths)
    again = list(reading.read_all(jobs, SPLITTING, LIMITS))

    assert [Path(one.path) for one in first] == paths
    assert [type(one) for one in again] == [Unchanged] * 30


def test_a_hostile_file_costs_only_itself(tmp_path: Path) -> None:
    (tmp_path / "1.txt").write_text("before")
    (tmp_path / "2-slow.html").write_text(SLOW)
    (tmp_path / "3-large.txt").write_text("x" * ((1 << 20) + 1))
    (tmp_path / "4.txt").write_text("after")
    paths = sorted(tmp_path.iterdir())

    begun = time.monotonic()
    found = read(*paths, tmp_path / "5-gone.txt", limits=Limits(1 << 20, 2.0, 1))

    assert reasons(found) == {
        "2-slow.html": "takes longer than the 2 s that a file may take",
        "3-large.txt": "is larger than 1 MB",
        "5-gone.txt": "is gone since the folder was listed",
    }
    assert [type(one) for one in found].count(Document) == 2
    assert time.monotonic() - begun < 30


def test_a_worker_that_is_killed_costs_only_its_file(tmp_path: Path) -> None:
    (tmp_path / "1.html").write_text(SLOW)
    (tmp_path / "2.txt").write_text("after")

    with ThreadPoolExecutor(1) as pool:
        kill = pool.submit(lambda: _busy_worker(psutil.Process()).kill())
        found = read(*sorted(tmp_path.iterdir()), limits=Limits(1 << 20, 100.0, 1))
        kill.result()

    assert reasons(found) == {"1.html": "ends the process that reads it (by SIGKILL)"}
    assert isinstance(found[1], Document)


def _busy_worker(parent: psutil.Process) -> psutil.Process:
    """Wait for a worker that is reading, and return it."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for child in parent.children():
            if "spawn_main" in " ".join(child.cmdline()) and child.cpu_times().user > 0.7:
                return child
        time.sleep(0.05)
    raise AssertionError("no worker is reading")


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of memory holds on Linux only")
def test_a_file_that_needs_too_much_memory_is_told(tmp_path: Path) -> None:
    (tmp_path / "bomb.txt").write_text("text " * 10_000)
    # In a process of its own: a limit cannot be raised again.
    program = """
import resource, sys
from voice_agent.reading import Job, Limits, Splitting, read_file
import voice_agent.reading as reading
def bomb(content, suffix): return bytearray(8 << 30)
reading.extract = bomb
resource.setrlimit(resource.RLIMIT_AS, (reading.WORKER_BYTES, reading.WORKER_BYTES))
print(read_file(Job(sys.argv[1], 1), Splitting(200, 0, "x"), Limits(1 << 20, 5.0, 1)).reason)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "bomb.txt"], capture_output=True, text=True,
        check=True, timeout=60,
    )  # fmt: skip

    assert done.stdout.strip() == "needs more memory than a file may take"


def test_workers_end_with_the_process_that_began_them(tmp_path: Path) -> None:
    (tmp_path / "slow.html").write_text(SLOW)
    program = """
import sys
from voice_agent.reading import Job, Limits, Splitting, read_all
if __name__ == "__main__":
    jobs = [Job(path, 1) for path in sys.argv[1:]]
    list(read_all(jobs, Splitting(200, 0, "feature-hashing-16"), Limits(1 << 30, 200.0, 2)))
"""
    (tmp_path / "reader.py").write_text(program)
    reader = subprocess.Popen([sys.executable, tmp_path / "reader.py", tmp_path / "slow.html"])
    parent = psutil.Process(reader.pid)
    _busy_worker(parent)

    children = parent.children()
    os.kill(reader.pid, signal.SIGKILL)
    reader.wait()

    gone, alive = psutil.wait_procs(children, timeout=20)
    assert alive == []
    assert len(gone) >= 2


def test_100_000_files_in_one_folder_are_listed_in_little_memory(tmp_path: Path) -> None:
    count = int(os.environ.get("PLAYBOOK_INGEST_FILES", "5000"))
    for number in range(count):
        (tmp_path / f"{number:06d}.txt").touch()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    found = sum(1 for _ in walk(tmp_path))

    grown_bytes = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert found == count
    assert grown_bytes < 20_000_000 + 300 * count
