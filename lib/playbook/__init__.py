"""A migration playbook for PostgreSQL databases under Alembic.

Each runbook is a module of the same name as its notebook, loaded when it is first asked for:
``playbook.upgrade`` is what ``notebooks/upgrade.ipynb`` calls.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

__all__ = [
    "author",
    "backup",
    "init",
    "preview",
    "rehearse",
    "repair",
    "restore",
    "rollback",
    "status",
    "tour",
    "upgrade",
    "verify",
]


def __getattr__(name: str) -> ModuleType:
    """Load a runbook's module on first use."""
    if name in __all__:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the surface."""
    return sorted(__all__)
