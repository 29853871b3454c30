"""Many runs at once on one target: one applies, the others say who came first."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from builders import SECOND, TABLE, Project, Script
from playbook import rollback, status, upgrade
from playbook.errors import TargetBusy
from playbook.records import History
from playbook.targets import PROJECT_INI, Target
from steps import WRITING, Namespace, at, go, history, runs

RUNS = 8
NOTEBOOK = PROJECT_INI.parent / "notebooks" / "upgrade.ipynb"
STEPS_OF = """
import sys
sys.path.insert(0, sys.argv[1])
from playbook import upgrade
from steps import go
go(upgrade, {"database": "shared", "alembic_ini": sys.argv[2]})
"""


@pytest.fixture
def shared(
    staging: Callable[..., Project],
    fresh_database: Target,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Namespace:
    """A project at a1 whose revision b2 waits until the test lets it go, for other processes."""
    waits = Script(
        f"{SECOND.upgrade}\nimport os, time\nif not op.get_context().as_sql:\n"
        f"    while not os.path.exists({str(tmp_path / 'go')!r}):\n        time.sleep(0.05)",
        SECOND.downgrade,
    )
    host, name = fresh_database.conninfo["host"], fresh_database.database
    monkeypatch.setenv("SHARED", f"postgresql://postgres@/{name}?host={host}")
    project = staging({"a1": TABLE, "b2": waits}, sections="[playbook:shared]\nurl = env:SHARED\n")
    namespace = {"database": "shared", "alembic_ini": str(project.ini)}
    go(upgrade, namespace, target="a1")
    return namespace


@contextmanager
def started(commands: list[list[str]], folder: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """Start processes together, each with its output in a file; none outlives the block."""
    with ExitStack() as stack:
        processes = []
        for number, command in enumerate(commands):
            output = stack.enter_context((folder / f"{number}.txt").open("w"))
            process = subprocess.Popen(command, text=True, stdout=output, stderr=output)
            stack.callback(process.wait)
            stack.callback(process.kill)
            processes.append(process)
        yield processes


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def papermill(ini: str, folder: Path) -> list[list[str]]:
    return [
        [sys.executable, "-m", "papermill", str(NOTEBOOK), str(folder / f"{number}.ipynb"),
         "-r", "database", "shared", "-r", "alembic_ini", ini, "--no-progress-bar"]
        for number in range(RUNS)
    ]  # fmt: skip


def python(ini: str, folder: Path) -> list[list[str]]:
    tests = str(Path(__file__).resolve().parents[1])
    return [[sys.executable, "-c", STEPS_OF, tests, ini] for _ in range(RUNS)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [papermill, python])
def test_of_eight_runs_at_once_one_applies_and_the_history_shows_all(
    shared: Namespace, fresh_database: Target, tmp_path: Path, kind: Any
) -> None:
    def begun() -> bool:
        return len(runs(shared)) == 1 + RUNS

    with started(kind(shared["alembic_ini"], tmp_path), tmp_path) as processes:
        wait_for(begun, seconds=200)
        (tmp_path / "go").touch()
        codes = [process.wait(timeout=60) for process in processes]

    said = [(tmp_path / f"{number}.txt").read_text() for number in range(RUNS)]
    assert sorted(code != 0 for code in codes) == [False] + [True] * (RUNS - 1), said
    for code, text in zip(codes, said, strict=True):
        if code:
            assert "TargetBusy: " in text
            assert "pid " in text or "in the run 2" in text  # who holds the lock, or came first
    assert at(fresh_database) == ["b2"]
    ended = [row[:2] for row in history(fresh_database)]
    assert sorted(ended) == [("upgrade", "refused")] * (RUNS - 1) + [("upgrade", "succeeded")] * 2
    shown = go(status, shared, before="conclude")
    known = shown.require("runs", History).runs
    assert len(known) == 1 + RUNS
    assert {run.run_id for run in known} == {receipt["run_id"] for receipt in runs(shared)}
    (whole,) = [f for f in shown.require("preflight", object).findings if f.code == "history"]
    assert whole.severity == "OK", whole


@pytest.mark.parametrize("module", [upgrade, rollback])
def test_run_that_finds_its_plan_done_says_by_whom_and_that_nothing_is_left(
    small: Callable[..., Namespace], fresh_database: Target, module: Any
) -> None:
    namespace = small({"a1": TABLE, "b2": SECOND}, to="a1")
    target = "head"
    if module is rollback:
        go(upgrade, namespace)
        target = "a1"

    with pytest.raises(TargetBusy) as caught:
        go(
            module, namespace, target=target,
            meanwhile={WRITING[module]: lambda: go(module, namespace, target=target)},
        )  # fmt: skip

    first, second = runs(namespace)[-2:]
    done, refused = (first, second) if second["outcome"] == "refused" else (second, first)
    assert f"in the run {done['run_id']}, migrated it" in str(caught.value)
    assert "nothing is left to do" in str(caught.value)
    assert (done["outcome"], refused["outcome"]) == ("succeeded", "refused")
    assert sorted(row[1] for row in history(fresh_database))[0] == "refused"
