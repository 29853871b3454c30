"""A runbook in a process of its own, to be stopped or killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from playbook.targets import PROJECT_INI
from steps import Namespace

PROGRAM = """
import json, os, sys
sys.path[:0] = json.loads(os.environ["TEST_PATH"])
from importlib import import_module
from playbook import sandbox
shared = sandbox.sandbox_folder
sandbox.sandbox_folder = lambda project: shared(type(project)(os.environ["TEST_PROJECT"]))
from steps import go
go(import_module("playbook." + sys.argv[1]), json.loads(os.environ["TEST_NAMESPACE"]))
"""
Until = Callable[[Callable[[], bool]], object]


@contextmanager
def runbook(
    name: str, namespace: Namespace, *, is_there: Callable[[], bool], until: Until
) -> Iterator[subprocess.Popen[str]]:
    """Run a runbook on the session's sandbox until something is there; it is killed at the end.

    Args:
        name: of the runbook's module.
        until: waits for something to be true, and fails if that takes too long.
    """
    variables = {
        "TEST_PATH": json.dumps([path for path in sys.path if path]),
        "TEST_NAMESPACE": json.dumps(namespace),
        "TEST_PROJECT": str(PROJECT_INI.parent),
    }
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, name], env=os.environ | variables, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        until(lambda: child.poll() is not None or is_there())
        assert child.poll() is None, child.communicate()[0]
        yield child
    finally:
        child.kill()
        child.communicate()
