"""Takes a runbook's steps in a process of its own, as its notebook would; for tests that kill it.

`python drive.py RUNBOOK PARAMETERS`, the parameters as JSON; it exits with 1 and the sentence where
a step fails.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import playbook
from playbook import execution
from playbook.errors import PlaybookError
from steps import go

execution.PATIENCE_S = 3.0

if __name__ == "__main__":
    try:
        go(getattr(playbook, sys.argv[1]), json.loads(sys.argv[2]))
    except PlaybookError as error:
        sys.exit(f"{type(error).__name__}: {error}")
