"""SIGTERM does what an interrupt does: the work under way is ended in order. Layer 0.

Jupyter and schedulers end a kernel by SIGTERM before they kill it. Python would leave at once,
without rolling anything back or writing down how far it had come.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["sigterm_as_interrupt"]


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Raise KeyboardInterrupt in the block when this process gets a SIGTERM.

    Elsewhere than in the main thread, where Python runs its signal handlers, nothing is changed.

    Raises:
        KeyboardInterrupt: there was a SIGTERM, or an interrupt as usual.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        # None: a handler that was not installed from Python cannot be put back from Python.
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
