"""The command lines of the guide: taken apart, and checked without running anything."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import papermill
from alembic.config import CommandLine
from pages import DOCS, ROOT, Section
from papermill.cli import _resolve_type

NOTEBOOKS = ROOT / "notebooks"
STARTS = ("alembic", "make", "papermill", "python")
"""The programs whose command lines are checked also where they stand in the text."""
SHOWN_AS_WRONG = {"-p target 0002"}
"""What the guide names as what not to write."""
SANDBOX_COMMANDS = ("start", "stop", "status", "reset", "psql", "remove")
_SETTING = re.compile(r"^(\w+) = (.+)$")


@dataclass(frozen=True)
class Command:
    """A command line, and the section that it stands in."""

    text: str
    section: Section

    @property
    def words(self) -> tuple[str, ...]:
        """Its words; what the shell would put in is left as it is."""
        return tuple(shlex.split(self.text))

    @property
    def notebook(self) -> Path | None:
        """The notebook that a papermill command runs."""
        named = [word for word in self.words if word.endswith(".ipynb")]
        return ROOT / named[0] if self.words[0] == "papermill" and named else None

    @property
    def parameters(self) -> list[tuple[str, str, str]]:
        """The parameters of a papermill command: how, name, value."""
        words = self.words
        return [
            (word, words[place + 1], words[place + 2])
            for place, word in enumerate(words)
            if word in {"-r", "-p"}
        ]


def commands(page: list[Section]) -> list[Command]:
    """Return the command lines of a page's blocks, in order."""
    return [
        Command(line.strip(), section)
        for section in page
        for block in section.blocks
        if block.language == "sh"
        for line in block.text.replace("\\\n", " ").splitlines()
        if line.strip()
    ]


def spans(page: list[Section]) -> list[Command]:
    """Return the command lines, and the parameters alone, that stand in a page's text."""
    found = []
    for section in page:
        for span in section.spans:
            is_program = span.split()[0] in STARTS and " " in span and not _SETTING.match(span)
            if (is_program or span.startswith(("-r ", "-p "))) and span not in SHOWN_AS_WRONG:
                found.append(Command(span, section))
    return found


def settings(section: Section) -> dict[str, str]:
    """Return what a section says to set in JupyterLab, as Python writes it."""
    return {m[1]: m[2] for span in section.spans if (m := _SETTING.match(span))}


@cache
def declared(notebook: Path) -> dict[str, str]:
    """Return the type of each parameter that a notebook declares; none if there is none."""
    if not notebook.is_file():
        return {}
    found = papermill.inspect_notebook(str(notebook))
    return {name: str(one["inferred_type_name"]) for name, one in found.items()}


def problems(command: Command, page: list[Section]) -> Iterator[str]:
    """Return what is wrong with a command, in sentences."""
    words = command.words
    if words[0] in {"-r", "-p"}:
        yield from _of_parameters(command, _notebooks_near(command.section, page))
    elif words[0] == "papermill":
        yield from _of_papermill(command)
    elif words[0] == "alembic":
        yield from _of_alembic(words[1:])
    elif words[0] == "make":
        yield from (
            ()
            if re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.M)
            else (f"no target {words[1]}",)
        )
    elif words[:3] == ("python", "-m", "playbook.sandbox"):
        yield from () if words[3] in SANDBOX_COMMANDS else (f"no command {words[3]}",)
    elif words not in {(".", ".venv/bin/activate")} and words[0] != "export":
        yield f"nobody checks a command like {words[0]!r}"


def _of_alembic(arguments: tuple[str, ...]) -> Iterator[str]:
    try:
        options = CommandLine().parser.parse_args(arguments)
    except SystemExit:
        yield f"alembic does not take {arguments}"
    else:
        yield from () if hasattr(options, "cmd") else ("no command of alembic's",)


def _of_papermill(command: Command) -> Iterator[str]:
    notebook = command.notebook
    if notebook is None or not notebook.is_file():
        yield f"there is no such notebook: {notebook}"
        return
    rest = [word for word in command.words[1:] if not word.startswith("-")]
    if "--help-notebook" not in command.words and (len(rest) < 2 or rest[1] != "out.ipynb"):
        yield "it names no output"
    yield from _of_parameters(command, [notebook])


def _of_parameters(command: Command, notebooks: list[Path]) -> Iterator[str]:
    for how, name, value in command.parameters:
        kinds = {declared(one)[name] for one in notebooks if name in declared(one)}
        if not kinds:
            yield f"{name} is declared by none of {[one.name for one in notebooks]}"
        for kind in kinds:
            if (kind == "str") != (how == "-r"):
                yield f"{name} is {kind}, and it is given by {how}"
            if kind != "str" and type(_resolve_type(value)).__name__ != kind:
                yield f"{name} is {kind}, and {value} is not"


def _notebooks_near(section: Section, page: list[Section]) -> list[Path]:
    """Return the notebooks that a section's commands run or its links name; all if none."""
    own = [one.notebook for one in commands([section]) if one.notebook]
    linked = [DOCS / link for link in section.links if link.endswith(".ipynb")]
    return [*own, *(path.resolve() for path in linked)] or sorted(NOTEBOOKS.glob("*.ipynb"))
