"""Runs a program that must not outlive its caller: `python leash.py NICE PROGRAM ARGUMENT...`.

The caller holds the other end of standard input. When that closes, be it that the caller was
killed, the program is told to end. NICE is how far it steps back for others (nice(2)). Started by
`playbook.dump`, as a file; imports nothing of ours.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from typing import Any, NoReturn


def main() -> NoReturn:
    """Run the program, and end as it did."""
    # Ctrl-C in a terminal reaches the program as well, which ends by it.
    signal.signal(signal.SIGINT, do_nothing)
    os.nice(int(sys.argv[1]))
    child = subprocess.Popen(sys.argv[2:], stdin=subprocess.DEVNULL)
    threading.Thread(target=follow, args=(child,), daemon=True).start()
    code = child.wait()
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def follow(child: subprocess.Popen[bytes]) -> None:
    """End the program when nobody holds the other end of standard input any more."""
    while os.read(0, 4096):
        pass
    child.terminate()


def do_nothing(number: int, frame: Any) -> None:
    """Take a signal."""


if __name__ == "__main__":
    main()
