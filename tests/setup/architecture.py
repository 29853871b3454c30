"""The table of modules in ARCHITECTURE.md, made from their docstrings: run this to renew it.

Each module of the playbook says its concern and its layer in the first line of its docstring, as
``Concern. Layer 3: what it may touch.``; files that are run by themselves say no layer.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "ARCHITECTURE.md"
BEGIN, END = "<!-- modules: begin -->\n", "<!-- modules: end -->\n"
LAYERS = {
    "5": "5, one module per notebook: what its cells call",
    "4": "4, what runbooks share: plans, runs, backups, comparisons",
    "3": "3, the only doors to Alembic, to pg_dump and to the catalogs",
    "2": "2, connections and the embedded PostgreSQL",
    "1": "1, pure: text, order, drawing; parameters and files, no database",
    "0": "0, errors, records and data; they import nothing of the playbook but each other",
    "": "Run as files: they import nothing of the playbook",
}


def concern(path: Path) -> tuple[str, str]:
    """Return a module's layer and its concern, by its docstring."""
    text = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    first = " ".join(text.partition("\n\n")[0].split())
    layer = re.search(r"\bLayer (\d)", text)
    return layer[1] if layer else "", re.split(r"\.? Layer \d", first)[0].rstrip(".")


def modules() -> str:
    """Return the tables, the highest layer first."""
    paths = sorted((ROOT / "lib" / "playbook").glob("*.py"))
    known = {path.stem: concern(path) for path in paths if path.stem != "__init__"}
    blocks = []
    for layer, title in LAYERS.items():
        rows = [f"| `{name}` | {what} |" for name, (of, what) in known.items() if of == layer]
        blocks.append("\n".join((f"### {title}", "", "| module | concern |", "|---|---|", *rows)))
    return "\n\n".join(blocks) + "\n"


def renewed() -> str:
    """Return the page with its tables as they ought to be."""
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    return f"{before}{BEGIN}\n{modules()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(renewed(), "utf-8")
