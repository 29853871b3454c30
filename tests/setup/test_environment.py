"""environment.yml and pyproject.toml ask for the same packages in the same ranges."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]

CONDA_NAMES = {
    "matplotlib": "matplotlib-base",
    "psycopg2-binary": "psycopg2",
    "xxhash": "python-xxhash",
}
"""Names that differ: conda-forge's psycopg2 is compiled, its matplotlib-base brings no GUI."""

CONDA_ONLY = {"pip", "postgresql", "python"}

Ranges = dict[str, frozenset[str]]


def parse(requirement: str) -> tuple[str, frozenset[str]]:
    """Return the name and the range, as a set of bounds, of ``name>=1,<2`` or ``name >=1,<2``."""
    match = re.fullmatch(r"([A-Za-z0-9._-]+)\s*([<>=!~].*)?", requirement.strip())
    assert match, f"not a plain requirement: {requirement!r}"
    bounds = (match[2] or "").replace(" ", "").split(",")
    return match[1].lower(), frozenset(bound for bound in bounds if bound)


def asked_of_pip(pyproject: dict) -> Ranges:
    project = pyproject["project"]
    extras = project["optional-dependencies"].values()
    return dict(map(parse, [*project["dependencies"], *(one for extra in extras for one in extra)]))


def asked_of_conda(environment: dict) -> tuple[Ranges, Ranges]:
    """Return what comes from conda-forge and what from the pip section."""
    entries = environment["dependencies"]
    from_conda = dict(parse(entry) for entry in entries if isinstance(entry, str))
    pip_lines = [line for entry in entries if isinstance(entry, dict) for line in entry["pip"]]
    return from_conda, dict(parse(line) for line in pip_lines if not line.startswith("-"))


def differences(pyproject: dict, environment: dict) -> list[str]:
    """Return one sentence for each package that the two files do not ask for alike."""
    from_conda, from_pip = asked_of_conda(environment)
    pip_name = {conda: pip for pip, conda in CONDA_NAMES.items()}
    there = {pip_name.get(name, name): bounds for name, bounds in from_conda.items()} | from_pip
    here = asked_of_pip(pyproject)
    here["python"] = frozenset(pyproject["project"]["requires-python"].split(","))
    found = [
        f"{name} is in {first} only"
        for first, one, other in (
            ("pyproject.toml", here, there),
            ("environment.yml", there, here),
        )
        for name in sorted(one.keys() - other.keys() - CONDA_ONLY)
    ]
    found += [
        f"{name}: {','.join(sorted(here[name]))} in pyproject.toml, "
        f"{','.join(sorted(there[name]))} in environment.yml"
        for name in sorted(here.keys() & there.keys())
        if here[name] != there[name]
    ]
    return found + [f"{name} comes from conda and pip" for name in from_conda if name in from_pip]


@pytest.fixture
def pyproject() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture
def environment() -> dict:
    return yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))


def test_conda_and_pip_ask_for_the_same_packages_and_ranges(pyproject, environment):
    assert differences(pyproject, environment) == []


def test_conda_environment_holds_python_the_client_tools_and_this_checkout(environment):
    from_conda, _ = asked_of_conda(environment)
    pip_lines = environment["dependencies"][-1]["pip"]

    assert from_conda.keys() >= CONDA_ONLY
    assert environment["channels"] == ["conda-forge"]
    assert "-e ." in pip_lines


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("alembic >=1.16,<2", "alembic >=1.15,<2", "alembic: <2,>=1.16 in pyproject.toml"),
        ("python >=3.11,<3.14", "python >=3.10,<3.14", "python: <3.14,>=3.11 in pyproject.toml"),
        ("- psycopg2 >=2.9.10,<3", "- psycopg2 >=2.9,<3", "psycopg2-binary: <3,>=2.9.10"),
        ("  - nbval >=0.11,<1\n", "", "nbval is in pyproject.toml only"),
        ("  - nbval >=", "  - dask\n  - nbval >=", "dask is in environment.yml only"),
        ("- pglast>=7,<9", "- pglast>=7,<8", "pglast: <9,>=7 in pyproject.toml"),
    ],
)
def test_a_drift_between_the_files_is_reported(pyproject, old, new, complaint):
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    assert old in text

    found = differences(pyproject, yaml.safe_load(text.replace(old, new)))

    assert len(found) == 1
    assert found[0].startswith(complaint)


def test_every_range_of_a_runtime_package_ends_at_a_major_version(pyproject):
    for requirement in pyproject["project"]["dependencies"]:
        assert "<" in requirement, f"{requirement} has no upper bound"
