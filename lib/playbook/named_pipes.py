"""Whether a pg_restore reads an archive's data from named pipes. Layer 1: runs a program.

pg_restore 17.12 refuses whatever is not a regular file, also a link; older ones open what there is.
No version tells which do, as a package may carry the change alone: so the program is tried.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

__all__ = ["takes_pipes"]

_DATA = re.compile(r"^(\d+); \d+ \d+ TABLE DATA .*$", re.MULTILINE)
POLL_S = 0.005
WAIT_S = 20.0


def takes_pipes(pg_restore: str, directory: Path, contents: str) -> bool:
    """Say whether a program reads one table of a dump from a pipe; nothing is restored.

    Args:
        pg_restore: the program's path.
        directory: a dump in pg_dump's directory format whose table of contents names no
            compression that the program lacks.
        contents: what the program's ``--list`` says of it.
    """
    entry = _DATA.search(contents)
    if not entry:
        return False
    with tempfile.TemporaryDirectory(prefix="playbook-pipe-") as name:
        folder = Path(name)
        shutil.copyfile(directory / "toc.dat", folder / "toc.dat")
        (folder / "list").write_text(f"{entry[0]}\n", "utf-8")
        pipe = folder / f"{entry[1]}.dat"
        os.mkfifo(pipe, 0o600)
        command = [pg_restore, f"--use-list={folder / 'list'}", f"--file={os.devnull}", name]
        return _reads(command, pipe)


def _reads(command: list[str], pipe: Path) -> bool:
    """Run a program that is to read a pipe, which ends at once for it."""
    deadline = time.monotonic() + WAIT_S
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet) as child:
        while child.poll() is None:
            with suppress(OSError):  # ENXIO: nobody reads it yet
                os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
            if time.monotonic() > deadline:
                child.kill()
            time.sleep(POLL_S)
    return child.returncode == 0
