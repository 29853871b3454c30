"""Runs notebooks one after the other by papermill, in one kernel: starting one is the larger part.

    python tests/notebooks/series.py < series.json

The series is a list of {"notebook", "output", "parameters"}. It stops at the first that fails.
"""

from __future__ import annotations

import json
import sys

import papermill
from harness import QUIET_KERNEL
from jupyter_core.utils import run_sync
from nbval.kernel import CURRENT_ENV_KERNEL_NAME
from regenerate import KernelOfThisPython


def main() -> None:
    """Execute what standard input lists."""
    kernel = KernelOfThisPython(kernel_name=CURRENT_ENV_KERNEL_NAME)
    run_sync(kernel.start_kernel)(extra_arguments=[QUIET_KERNEL])
    try:
        for item in json.load(sys.stdin):
            forget(kernel)
            papermill.execute_notebook(
                item["notebook"], item["output"], item["parameters"], km=kernel,
                kernel_name=CURRENT_ENV_KERNEL_NAME, progress_bar=False, execution_timeout=120,
            )  # fmt: skip
    finally:
        run_sync(kernel.shutdown_kernel)(now=True)


def forget(kernel: KernelOfThisPython) -> None:
    """Let the next notebook find nothing of the one before: no name, and no cell in `In`."""
    client = kernel.client()
    client.start_channels()
    try:
        run_sync(client.wait_for_ready)(timeout=60)
        run_sync(client.execute_interactive)("get_ipython().reset()", store_history=False)
    finally:
        client.stop_channels()


if __name__ == "__main__":
    main()
