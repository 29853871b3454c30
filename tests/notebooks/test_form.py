"""What every notebook looks like, before anything is run."""

from __future__ import annotations

import ast
import dataclasses
import re
from importlib import import_module
from pathlib import Path

import papermill
import pytest
from harness import (
    BACKED_UP,
    BEHIND,
    BROKEN,
    CHANGED,
    MODULES,
    NOTEBOOKS,
    RUNBOOKS,
    code_cells,
    plain_outputs,
    read_notebook,
)
from nbformat import NotebookNode
from regenerate import form_problems

MOST_LINES = 8
STATES = {"legacy", "head", "empty", BACKED_UP, BEHIND, BROKEN, CHANGED}
HEADINGS = ("Parameters", "Target", "Preflight", "Outcome")
FORBIDDEN = (
    ast.FunctionDef,
    ast.AsyncFunctionDef,
    ast.ClassDef,
    ast.Lambda,
    ast.Try,
    ast.For,
    ast.While,
    ast.With,
    ast.ListComp,
    ast.DictComp,
    ast.SetComp,
    ast.GeneratorExp,
)
SQL = re.compile(
    r"\b(SELECT\s.+\sFROM|INSERT\s+INTO|UPDATE\s.+\sSET|DELETE\s+FROM|CREATE\s+TABLE"
    r"|ALTER\s+TABLE|DROP\s+TABLE)\b",
    re.IGNORECASE | re.DOTALL,
)
LINK = re.compile(r"\[[^\]]+\]\(([^)#]+)(?:#[^)]*)?\)")


@pytest.fixture(params=RUNBOOKS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def path(name: str) -> Path:
    return NOTEBOOKS / f"{name}.ipynb"


@pytest.fixture
def notebook(path: Path) -> NotebookNode:
    return read_notebook(path)


def _markdown(notebook: NotebookNode) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]


def _tree(cell: NotebookNode) -> ast.Module:
    return ast.parse(cell.source)


def test_every_notebook_is_known_to_these_tests() -> None:
    assert sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")) == sorted(RUNBOOKS)


def test_a_notebook_is_in_its_stored_form_with_every_execution_count(path: Path) -> None:
    assert form_problems(path) == []


def test_a_notebook_names_the_state_that_its_outputs_were_made_on(notebook: NotebookNode) -> None:
    assert notebook.metadata.playbook.sandbox in STATES


def test_every_cell_has_an_id_of_its_own(notebook: NotebookNode) -> None:
    ids = [cell.id for cell in notebook.cells]

    assert len(set(ids)) == len(ids)


def test_a_notebook_begins_with_what_it_is_and_what_it_changes(notebook: NotebookNode) -> None:
    first = _markdown(notebook)[0]

    assert first.startswith("# ")
    assert "**Changes:**" in first


def test_headings_make_the_skeleton_in_its_order(notebook: NotebookNode) -> None:
    found = [
        line.removeprefix("## ")
        for text in _markdown(notebook)
        for line in text.splitlines()
        if line.startswith("## ")
    ]
    steps = [heading for heading in found if heading not in HEADINGS]

    assert [heading for heading in found if heading in HEADINGS] == list(HEADINGS)
    assert found == ["Parameters", "Target", "Preflight", *steps, "Outcome"]
    assert [step.split(". ")[0] for step in steps] == [str(n + 1) for n in range(len(steps))]


def test_every_heading_is_followed_by_prose(notebook: NotebookNode) -> None:
    for text in _markdown(notebook):
        lines = [line for line in text.splitlines() if line]
        assert not lines[-1].startswith("#"), text


def test_parameters_are_those_that_the_runbook_declares(name: str, notebook: NotebookNode) -> None:
    module = MODULES.get(name, f"playbook.{name}")
    declared = dataclasses.fields(import_module(module).Parameters)
    lines = _tree(code_cells(notebook)[0]).body
    assert all(isinstance(line, ast.AnnAssign) for line in lines)
    written = [
        (line.target.id, ast.unparse(line.annotation), ast.literal_eval(line.value))
        for line in lines
    ]

    common = ["database", "alembic_ini", "output_dir"]
    own = [item for item in declared if item.name not in common]
    first, *others = [item for item in declared if item.name in common]
    expected = [(item.name, item.type, item.default) for item in (first, *own, *others)]
    assert written == expected


def test_papermill_reads_help_for_every_parameter(path: Path, notebook: NotebookNode) -> None:
    names = [line.target.id for line in _tree(code_cells(notebook)[0]).body]

    found = papermill.inspect_notebook(str(path))

    assert list(found) == names
    for parameter in found.values():
        assert parameter["inferred_type_name"] in {"str", "int", "float", "bool"}
        assert len(parameter["help"]) > 10


def test_the_prose_tells_of_every_parameter(notebook: NotebookNode) -> None:
    names = [line.target.id for line in _tree(code_cells(notebook)[0]).body]
    text = next(text for text in _markdown(notebook) if text.startswith("## Parameters"))

    assert re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE) == names


def test_code_cells_are_thin(notebook: NotebookNode) -> None:
    for cell in code_cells(notebook)[1:]:
        assert len(cell.source.splitlines()) <= MOST_LINES, cell.source


def test_code_cells_define_nothing_and_hold_no_control_flow(notebook: NotebookNode) -> None:
    for cell in code_cells(notebook):
        nodes = [node for node in ast.walk(_tree(cell)) if isinstance(node, FORBIDDEN)]
        assert not nodes, cell.source


def test_code_cells_hold_no_sql(notebook: NotebookNode) -> None:
    for cell in code_cells(notebook):
        assert not SQL.search(cell.source), cell.source


def test_no_stored_output_is_an_error(notebook: NotebookNode) -> None:
    kinds = {output.output_type for cell in code_cells(notebook) for output in cell.outputs}

    assert "error" not in kinds
    assert "Traceback" not in plain_outputs(notebook)


def test_stored_outputs_tell_nothing_of_the_machine_that_made_them(notebook: NotebookNode) -> None:
    text = plain_outputs(notebook)

    assert "/home/" not in text
    assert "/tmp/" not in text


def test_links_lead_somewhere(path: Path, notebook: NotebookNode) -> None:
    links = [link for text in _markdown(notebook) for link in LINK.findall(text)]
    local = [link for link in links if "://" not in link]

    assert local
    assert [link for link in local if not (path.parent / link).exists()] == []


def test_a_notebook_ends_with_its_outcome(notebook: NotebookNode) -> None:
    last = notebook.cells[-1]

    assert last.cell_type == "code"
    assert last.source.rstrip().endswith("conclude(run)")
    assert last.outputs[-1].data["text/plain"].splitlines()[0].endswith("[succeeded]")
