"""Checks what a notebook was given before anything is touched. Layer 1: pure.

papermill guesses types (``-p target 0001`` is the number 1, ``-p dry_run false`` the text
"false") and only logs names that it does not know. Each runbook declares its parameters as a
frozen dataclass whose defaults equal the notebook's parameters cell; this module compares.
"""

from __future__ import annotations

import ast
import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from playbook.errors import SettingsError

__all__ = ["Common", "injected_names", "one_of", "read_parameters"]

INJECTED = "# Parameters"
"""The first line of the cell that papermill injects."""


LONGEST_TEXT = 2000


@dataclass(frozen=True)
class Common:
    """What every runbook takes."""

    database: str = "sandbox"
    alembic_ini: str = ""
    output_dir: str = ""


P = TypeVar("P", bound=Common)


def read_parameters(declared: type[P], namespace: Mapping[str, Any]) -> P:
    """Return the parameters of a runbook from its notebook's namespace.

    Args:
        declared: the runbook's dataclass of parameters, each with its default.
        namespace: the notebook's ``globals()``; its ``In`` tells what papermill injected.

    Raises:
        SettingsError: an injected name is unknown, or a value has another type than its default.
    """
    known = {item.name: item.default for item in fields(declared)}
    cells = namespace.get("In", ())
    if not isinstance(cells, (list, tuple)):
        raise _unknown("In", list(known))
    for name in injected_names(cells):
        if name not in known:
            raise _unknown(name, list(known))
    values = {name: namespace.get(name, default) for name, default in known.items()}
    for name, value in values.items():
        _check_type(name, value, known[name])
    return declared(**values)


def injected_names(cells: list[str] | tuple[str, ...]) -> list[str]:
    """Return the names that papermill's injected cell assigns, in order; none without one."""
    names: list[str] = []
    for cell in cells:
        if not cell.startswith(INJECTED):
            continue
        for node in ast.parse(cell).body:
            if isinstance(node, ast.Assign):
                names += [item.id for item in node.targets if isinstance(item, ast.Name)]
    return names


def one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse a value that is none of those allowed.

    Raises:
        SettingsError: it is not; the sentence lists them.
    """
    if value not in allowed:
        words = " or ".join(word for word in allowed if word)
        raise SettingsError(f"{name}={value!r} is not known.", remedy=f"Write -r {name} {words}.")


def _unknown(name: str, known: list[str]) -> SettingsError:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean -r {close[0]} ...? " if close else ""
    return SettingsError(
        f"This notebook has no parameter {name!r}.",
        remedy=f"{hint}Its parameters are: {', '.join(known)}.",
    )


def _check_type(name: str, value: Any, default: Any) -> None:
    """Refuse a value of another type than the default's; bool and int are told apart."""
    if type(value) is type(default) or (isinstance(default, float) and type(value) is int):
        if isinstance(value, str):
            _check_text(name, value)
        return
    raise SettingsError(
        f"{name}={value!r} is {_kind(value)}, and it must be {_kind(default)}.",
        remedy=_what_to_write(name, value, default),
    )


def _check_text(name: str, text: str) -> None:
    """Refuse a text that no file system or server can take, or nobody can have meant."""
    problem = ""
    if len(text) > LONGEST_TEXT:
        problem = f"has {len(text)} characters, more than the {LONGEST_TEXT} that it may have"
    elif any(c == "\0" or "\ud800" <= c <= "\udfff" for c in text):
        problem = "holds a character that is no text (a NUL or half of a surrogate pair)"
    if problem:
        raise SettingsError(
            f"The parameter {name} {problem}.", remedy=f"Write -r {name} TEXT without it."
        )


def _kind(value: Any) -> str:
    kinds = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    return kinds.get(type(value), f"a {type(value).__name__}")


def _what_to_write(name: str, value: Any, default: Any) -> str:
    if isinstance(default, str) and isinstance(value, int | float):
        text = "ID" if isinstance(value, float) and not math.isfinite(value) else str(value)
        example = (
            f", or an id with its zeros as they are: -r {name} 0001" if name == "target" else ""
        )
        return f"papermill's -p makes numbers of such text: write -r {name} {text}{example}."
    if isinstance(default, bool):
        return f"Write -p {name} True or -p {name} False."
    if isinstance(default, str):
        return f"Write -r {name} TEXT."
    return f"Write -p {name} VALUE, for instance -p {name} {default!r}."
