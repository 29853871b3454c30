"""Environments of other projects: their own Python, Alembic and SQLAlchemy, as old or new as asked.

They are made by uv on first use and kept outside of the checkout, so that a session pays for them
once and the next one on the same machine not at all.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

FOLDER = Path(tempfile.gettempdir()) / f"playbook-test-environments-{os.getuid()}"


@dataclass(frozen=True)
class Environment:
    """What is in one; the first of the Pythons that this machine has is taken."""

    name: str
    pythons: tuple[str, ...]
    requirements: tuple[str, ...]


OLDEST = Environment(
    "oldest",
    ("3.8", "3.9", "3.10", "3.11"),
    ("alembic==1.8.1", "sqlalchemy==1.4.54", "psycopg2-binary==2.9.10", "asyncpg==0.30.0"),
)
MIDDLE = Environment(
    "middle",
    ("3.10", "3.11"),
    (
        "alembic==1.13.3",
        "sqlalchemy[asyncio]==2.0.40",
        "psycopg[binary]==3.2.13",
        "asyncpg==0.30.0",
    ),
)
NEWEST = Environment(
    "newest",
    ("3.13", "3.12", "3.11"),
    (
        "alembic==1.20.1",
        "sqlalchemy[asyncio]==2.1.9",
        "psycopg2-binary==2.9.13",
        "psycopg[binary]==3.3.9",
        "asyncpg==0.32.0",
        "flask-migrate==4.1.0",
    ),
)
PUBLIC = Environment(
    "public",
    ("3.12", "3.11"),
    ("optuna==5.0.0", "mlflow-skinny==3.17.2", "alembic==1.20.1", "sqlalchemy==2.1.9",
     "psycopg2-binary==2.9.13"),
)  # fmt: skip


def python_of(environment: Environment) -> Path:
    """Return an environment's interpreter; where it cannot be had, skip the test (in CI, fail)."""
    path, problem = _make(environment)
    if problem:
        if os.environ.get("CI") == "true":
            pytest.fail(problem)
        pytest.skip(problem)
    return path


def packages_of(environment: Environment) -> Path:
    """Return the folder of an environment's packages."""
    return next((python_of(environment).parent.parent / "lib").glob("python3*/site-packages"))


@functools.cache
def _make(environment: Environment) -> tuple[Path, str]:
    """Return the interpreter, and what was in the way of it."""
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    base = next(filter(None, map(_interpreter, environment.pythons)), "")
    if not uv or not base:
        return Path(), "There is no uv here." if base else f"No Python of {environment.pythons}."
    key = hashlib.sha256(repr((environment, base)).encode()).hexdigest()[:12]
    folder = FOLDER / f"{environment.name}-{key}"
    FOLDER.mkdir(mode=0o711, exist_ok=True)
    with (FOLDER / f"{folder.name}.lock").open("w") as lock:  # other workers want it, too
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            problem = _install(uv, base, folder, environment.requirements)
            if problem:
                return Path(), problem
            (folder / "complete").touch()
    return folder / "bin" / "python", ""


def _install(uv: str, base: str, folder: Path, requirements: tuple[str, ...]) -> str:
    """Make an environment anew; return what went wrong."""
    shutil.rmtree(folder, ignore_errors=True)
    quiet = {"UV_PYTHON_DOWNLOADS": "never", "UV_HTTP_TIMEOUT": "60", **_as_pip(base)}
    python = str(folder / "bin" / "python")
    for command in (
        [uv, "venv", "--no-config", "--python", base, str(folder)],
        [
            uv,
            "pip",
            "install",
            "--no-build",
            "--python",
            python,
            *requirements,
        ],
    ):
        done = subprocess.run(
            command, env=quiet | os.environ, capture_output=True, text=True, check=False
        )
        if done.returncode:
            return f"{folder.name} cannot be made: {done.stderr[-600:]}"
    return ""


def _as_pip(base: str) -> dict[str, str]:
    """Return what makes uv ask the index that pip asks, and trust the system's certificates.

    uv reads no pip.conf (in-env.sh does the same for the set-up).
    """
    ask = [base, "-m", "pip", "config", "get", "global.index-url"]
    done = subprocess.run(ask, capture_output=True, text=True, check=False)
    index = os.environ.get("PIP_INDEX_URL", "") or done.stdout.strip()
    return {"UV_SYSTEM_CERTS": "1"} | ({"UV_DEFAULT_INDEX": index} if index else {})


def _interpreter(version: str) -> str:
    """Return an interpreter of a version that works; "" where this machine has none."""
    major, minor = sys.version_info[:2]
    own = sys.base_prefix if f"{major}.{minor}" == version else ""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [
        shutil.which(f"python{version}"),
        own and f"{own}/bin/python{version}",
        *map(str, sorted(pyenv.glob(f"{version}.*/bin/python"), reverse=True)),
    ]
    return next((path for path in candidates if path and _works(path)), "")


def _works(python: str) -> bool:
    """Say whether an interpreter can be started: pyenv's stand-ins may lead nowhere."""
    done = subprocess.run([python, "-c", "import venv"], capture_output=True, check=False)
    return done.returncode == 0
