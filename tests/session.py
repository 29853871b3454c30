"""The folder of a session of tests: for its servers, sandboxes and small disks."""

from __future__ import annotations

import tempfile
from pathlib import Path

SESSION_FOLDER = Path(tempfile.mkdtemp(prefix="playbook-tests-", dir="/tmp")).resolve()
SESSION_FOLDER.chmod(0o711)
