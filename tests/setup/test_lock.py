"""requirements.lock: exact, hashed, without addresses, and in step with pyproject.toml."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
PINS = [Requirement(line.rstrip(" \\")) for line in LOCK.splitlines() if re.match(r"\w", line)]


def pins_for(python: str, platform: str) -> dict[str, str]:
    """Return the version of each package that the lock installs there."""
    where = {
        "python_version": python,
        "python_full_version": f"{python}.9",
        "sys_platform": platform,
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
    }
    chosen = [pin for pin in PINS if pin.marker is None or pin.marker.evaluate(where)]
    versions = {canonicalize_name(pin.name): str(pin.specifier)[2:] for pin in chosen}
    assert len(versions) == len(chosen), "the lock pins a package twice for one platform"
    return versions


def test_lock_holds_no_address():
    assert "://" not in LOCK


def test_every_pin_is_exact_and_hashed():
    entries = re.split(r"\n(?=\w)", LOCK[re.search(r"^\w", LOCK, re.MULTILINE).start() :])

    assert len(entries) == len(PINS)
    for entry in entries:
        assert re.match(r"[\w.-]+==[^ ]+ ", entry)
        assert "--hash=sha256:" in entry


@pytest.mark.parametrize("platform", ["linux", "darwin"])
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_lock_satisfies_pyproject(python, platform):
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    asked = [
        *pyproject["project"]["dependencies"],
        *pyproject["project"]["optional-dependencies"]["test"],
        *pyproject["dependency-groups"]["setup"],
    ]

    pins = pins_for(python, platform)

    for requirement in map(Requirement, asked):
        version = pins.get(canonicalize_name(requirement.name))
        assert version, f"{requirement.name} is not in the lock: make lock"
        assert version in requirement.specifier, f"{requirement} but {version} locked: make lock"


def test_lock_leaves_out_the_format_that_slows_every_import():
    assert not {"rfc3987-syntax", "lark"} & {pin.name for pin in PINS}


@pytest.mark.skipif(
    find_spec("rfc3987_syntax") is not None,
    reason="this environment was not made from the lock: it holds rfc3987-syntax",
)
def test_jupyter_checks_its_events_without_the_left_out_format():
    # jupyter-events is what asks for it; a fresh process, as its schemas are read at import.
    program = """
from jupyter_events import EventLogger
from jupyter_events.schema import EventSchema
from jupyter_events.validators import draft7_format_checker, validate_schema
from jupyter_server import DEFAULT_EVENTS_SCHEMA_PATH
schemas = sorted(DEFAULT_EVENTS_SCHEMA_PATH.rglob("*.yaml"))
logger = EventLogger()
for path in schemas:
    logger.register_event_schema(path)
assert len(logger.schemas.schema_ids) >= len(schemas) > 0
assert "uri" in draft7_format_checker.checkers
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
