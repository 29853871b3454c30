"""Settings for `pytest --nbval` on these notebooks, from whichever folder it is typed.

The notebooks run as they stand, on the state of the sandbox that their metadata name, in a
private copy of the project: the order does not matter, and nothing is left in the checkout.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "notebooks"))

from harness import CELL_TIMEOUT_S, SANITIZER, PrivateProject, private_project, stored_state

NBVAL_DEFAULT_TIMEOUT_S = 2000
PROJECT = pytest.StashKey[PrivateProject]()
LAST_FILE = pytest.StashKey[pytest.Collector]()


def pytest_configure(config: pytest.Config) -> None:
    """Give nbval its options, where the command line does not."""
    option = config.option
    if not option.nbval_kernel_name:
        option.nbval_current_env = True
    option.nbval_sanitize_with = option.nbval_sanitize_with or str(SANITIZER)
    if option.nbval_cell_timeout == NBVAL_DEFAULT_TIMEOUT_S:
        option.nbval_cell_timeout = CELL_TIMEOUT_S


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before a notebook's first cell, make its database anew: its kernel is about to start."""
    notebook = item.parent
    if item.config.stash.get(LAST_FILE, None) is notebook or not hasattr(notebook, "nb"):
        return
    _project(item.config).reset(stored_state(notebook.nb))
    item.config.stash[LAST_FILE] = notebook


def _project(config: pytest.Config) -> PrivateProject:
    """Return the session's copy of the project, made on first use and removed at the end."""
    if PROJECT not in config.stash:
        stack = ExitStack()
        config.add_cleanup(stack.close)
        config.stash[PROJECT] = stack.enter_context(private_project())
        stack.enter_context(config.stash[PROJECT].entered())
    return config.stash[PROJECT]
