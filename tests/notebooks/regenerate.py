"""Executes the notebooks anew and stores their outputs in one form: `make notebooks`.

Each runs headless, in a kernel of this Python, on the state of the sandbox that its metadata
name, in a private copy of the project. What varies from run to run (see `notebooks/nbval.cfg`)
is no reason for a diff: an output that is equal to the stored one but for such values is not
replaced, so `git diff` shows what has changed, and nothing when nothing has.

With ``--check-form`` nothing is executed: it only tells whether the files are in that form.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import nbformat
import traitlets
from harness import (
    CELL_TIMEOUT_S,
    NOTEBOOKS,
    QUIET_KERNEL,
    RUNBOOKS,
    PrivateProject,
    code_cells,
    private_project,
    read_notebook,
    read_sanitizer,
    stored_state,
)
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode
from nbval.kernel import CURRENT_ENV_KERNEL_NAME, NbvalKernelspecManager

KERNELSPEC = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
LANGUAGE_INFO = {
    "codemirror_mode": {"name": "ipython", "version": 3},
    "file_extension": ".py",
    "mimetype": "text/x-python",
    "name": "python",
    "nbconvert_exporter": "python",
    "pygments_lexer": "ipython3",
}
KEPT_NOTEBOOK_METADATA = ("playbook", "title", "authors")
VOLATILE_CELL_METADATA = ("execution", "papermill", "ExecuteTime", "collapsed", "scrolled")
PICTURES = ("image/png", "image/jpeg")


class KernelOfThisPython(AsyncKernelManager):
    """Starts kernels of this interpreter, whatever kernels the machine has installed."""

    @traitlets.default("kernel_spec_manager")
    def _nbval_kernels(self) -> NbvalKernelspecManager:
        return NbvalKernelspecManager()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="a runbook; all without one")
    parser.add_argument("--check-form", action="store_true", help="execute nothing, only look")
    parser.add_argument("--folder", type=Path, default=NOTEBOOKS, help="where the notebooks are")
    options = parser.parse_args(arguments)
    names = [Path(name).stem for name in options.names]
    paths = [options.folder / f"{name}.ipynb" for name in names or RUNBOOKS]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        parser.error(f"there is no {missing[0]}; there are {', '.join(RUNBOOKS)}")
    return _check_form(paths) if options.check_form else _regenerate(paths)


def _check_form(paths: Iterable[Path]) -> int:
    problems = [f"{path.name}: {problem}" for path in paths for problem in form_problems(path)]
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        print("Write `make notebooks` to put them right.", file=sys.stderr)
    return bool(problems)


def form_problems(path: Path) -> list[str]:
    """Return what is not as `regenerate` would write it; an empty list means that all is."""
    text = path.read_text("utf-8")
    notebook = read_notebook(path)
    cells = code_cells(notebook)
    problems = [] if text == written(normal_form(notebook)) else ["it is not in its stored form"]
    counts = [cell.execution_count for cell in cells]
    if counts != list(range(1, len(cells) + 1)):
        problems.append(f"its execution counts are {counts}, not 1 to {len(cells)}")
    tagged = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    if tagged != cells[:1]:
        problems.append("its first code cell, and only that, must have the tag `parameters`")
    return problems


def _regenerate(paths: Sequence[Path]) -> int:
    with private_project() as project:
        for path in paths:
            begun = time.monotonic()
            try:
                changed = regenerate(path, project)
            except CellExecutionError as error:
                print(f"{path.stem} failed, and is left as it was:\n{error}", file=sys.stderr)
                return 1
            word = "changed" if changed else "unchanged"
            print(f"{path.stem:12} {word:10} {time.monotonic() - begun:5.1f} s", flush=True)
    return 0


def regenerate(path: Path, project: PrivateProject) -> bool:
    """Execute one notebook and write it in its form; return whether the file has changed."""
    before = path.read_text("utf-8")
    stored = nbformat.reads(before, as_version=4)
    project.reset(stored_state(stored))
    executed = execute(nbformat.reads(before, as_version=4), project)
    after = written(keep_equal_outputs(normal_form(executed), stored, read_sanitizer()))
    if after != before:
        path.write_text(after, "utf-8")
    return after != before


def execute(notebook: NotebookNode, project: PrivateProject) -> NotebookNode:
    """Run every cell in a fresh kernel of this Python, as Jupyter does; stops at an error."""
    client = NotebookClient(
        notebook,
        kernel_manager_class=KernelOfThisPython,
        kernel_name=CURRENT_ENV_KERNEL_NAME,
        extra_arguments=[QUIET_KERNEL],
        timeout=CELL_TIMEOUT_S,
        coalesce_streams=True,
        record_timing=False,
        resources={"metadata": {"path": str(NOTEBOOKS)}},
    )
    with project.entered():
        client.execute()
    return notebook


def normal_form(notebook: NotebookNode) -> NotebookNode:
    """Drop what says nothing about the result: timings, kernel versions, the viewer's state."""
    metadata = notebook.metadata
    kept = {key: metadata[key] for key in KEPT_NOTEBOOK_METADATA if key in metadata}
    kept |= {"kernelspec": KERNELSPEC, "language_info": LANGUAGE_INFO}
    notebook.metadata = nbformat.from_dict(kept)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for cell in notebook.cells:
        for key in VOLATILE_CELL_METADATA:
            cell.metadata.pop(key, None)
    return notebook


def keep_equal_outputs(
    executed: NotebookNode, stored: NotebookNode, patterns: Sequence[tuple[str, str]]
) -> NotebookNode:
    """Put stored outputs back where the new ones differ from them in varying values only."""
    known = {cell.id: cell for cell in code_cells(stored)}
    for cell in code_cells(executed):
        old = known[cell.id].outputs if cell.id in known else []
        if len(old) != len(cell.outputs):
            continue
        cell.outputs = [
            was if _comparable(was, patterns) == _comparable(now, patterns) else now
            for was, now in zip(old, cell.outputs, strict=True)
        ]
    return executed


def _comparable(value: Any, patterns: Sequence[tuple[str, str]]) -> Any:
    """Return an output as nbval compares it: text sanitised; of a picture only that it is there.

    The metadata of a picture (its size) are keyed by the same types, and left out with it.
    """
    if isinstance(value, dict):
        return {
            key: "a picture" if key in PICTURES else _comparable(part, patterns)
            for key, part in value.items()
        }
    if isinstance(value, list):
        return [_comparable(part, patterns) for part in value]
    if isinstance(value, str):
        for pattern, replacement in patterns:
            value = re.sub(pattern, replacement, value)
    return value


def written(notebook: NotebookNode) -> str:
    """Return a notebook's text: sorted keys, one space of indent, a newline at the end."""
    nbformat.validate(notebook)
    return nbformat.writes(notebook).rstrip("\n") + "\n"


if __name__ == "__main__":
    sys.exit(main())
