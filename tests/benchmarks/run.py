"""Sections of figures, each from one run on one machine: `make bench`.

``python tests/benchmarks/run.py fingerprints`` runs one section only.
"""

from __future__ import annotations

import argparse
import importlib
import sys

SECTIONS = ("commands", "fingerprints", "load", "backups", "ingest", "scale")
"""Modules beside this one; each has a function ``run(rounds)`` that measures and prints."""


def main() -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "sections", nargs="*", help=f"which of {', '.join(SECTIONS)}; all without any"
    )
    parser.add_argument("--rounds", type=int, default=5, help="how often; 5 without it")
    arguments = parser.parse_args()
    if unknown := set(arguments.sections) - set(SECTIONS):
        parser.error(f"no section {', '.join(sorted(unknown))}")
    for name in arguments.sections or SECTIONS:
        print(f"== {name}", flush=True)
        importlib.import_module(name).run(max(1, arguments.rounds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
