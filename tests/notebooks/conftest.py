"""What these tests share: a private copy of the project, and the papermill command."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import NOTEBOOKS, PrivateProject, private_project

PROTECTED = (
    "\n[playbook:guarded]\nurl = sandbox\nseed = voice_agent.sample_data\nprotected = true\n"
)
COMMAND_TIMEOUT_S = 120

Papermill = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def project() -> Iterator[PrivateProject]:
    """A copy of the project with a server of its own; `guarded` is its sandbox, protected."""
    with private_project() as made:
        with made.alembic_ini.open("a", encoding="utf-8") as file:
            file.write(PROTECTED)
        yield made


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Where the executed notebook goes."""
    return tmp_path / "out.ipynb"


@pytest.fixture
def papermill(project: PrivateProject, output: Path) -> Papermill:
    """Run a notebook by the real command, from `/`, into `output`."""
    command = Path(sys.executable).with_name("papermill")

    def run(
        name: str, *arguments: str, variables: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [command, NOTEBOOKS / f"{name}.ipynb", output, "--no-progress-bar", *arguments],
            cwd="/", env={**project.environment, **(variables or {})}, capture_output=True,
            text=True, check=False, timeout=COMMAND_TIMEOUT_S,
        )  # fmt: skip

    return run
