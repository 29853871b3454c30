"""What in a plan's SQL can block, break or destroy, weighed with the sizes there are. Layer 1.

squawk, the PostgreSQL migration linter, says which statements are hazardous; PostgreSQL's own
parser says which table they mean and finds what squawk does not look for (an UPDATE of all rows).
Sizes decide how much each weighs: the same statement is nothing on three hundred rows and an
outage on thirty million. Runs squawk; knows no database.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from pglast import ast

from playbook.constraints import Proofs, functions_of, read_constraint
from playbook.errors import SettingsError
from playbook.hazard_rules import CANNOT_BE_READ, ROWS_PER_S, RULES, STRONGER_SAME, Rule
from playbook.locks import MODES, blocks
from playbook.records import Hazard, Hazards, Known, PlanStep, Severity
from playbook.rewrites import objects, rewrite
from playbook.statements import (
    Statement,
    is_of_version_table,
    read_statements,
    table_renamed,
    tables_replaced,
)
from playbook.verdicts import judge

__all__ = ["STOP_AFTER_S", "WARN_AFTER_S", "find_hazards", "names_of", "way_out"]

WARN_AFTER_S = 0.3
STOP_AFTER_S = 2.0
"""As long as lock_timeout lets others wait by default."""

LINTED_AT_ONCE = 50
"""Revisions whose SQL squawk reads in one process; to start it takes longer than to read one."""

Finding = tuple[Statement, list[str]]
"""A statement, and the rules that it falls under."""

PARTITIONED_REMEDY = (
    "CREATE INDEX ON ONLY the partitioned table, CREATE INDEX CONCURRENTLY on each partition, then "
    "ALTER INDEX ... ATTACH PARTITION each."
)

LACKING = {"adding-required-field", "rows-lack-a-value"}
"""Rules by which a column is added that rows have no value for."""

_EXEMPTION = re.compile(
    r"^\s*#\s*playbook:\s*allow\s+(?P<rule>[\w-]+)(?:\s+on\s+(?P<table>\S+))?"
    r"\s+because\s+(?P<reason>\S.*?)\s*$",
    re.MULTILINE,
)


def find_hazards(steps: Sequence[PlanStep], known: Known) -> Hazards:
    """Return the hazards of a plan's SQL, in the order of its statements.

    Tables that the plan itself creates are empty and nobody waits for them: left out.

    Args:
        steps: with their SQL.
        known: what is in the database; of tables that are not in its ``rows`` nothing is said.

    Raises:
        SettingsError: squawk cannot be run.
    """
    found: list[Hazard] = []
    proofs = Proofs()
    for fact in known.constraints:
        proofs.add(fact.table, fact.name, read_constraint(fact.definition), valid=fact.is_valid)
    for first in range(0, len(steps), LINTED_AT_ONCE):
        part = steps[first : first + LINTED_AT_ONCE]
        for step, findings in zip(part, _findings([step.sql for step in part]), strict=True):
            hazards, known = _of_step(step, findings, known, proofs)
            found += hazards
    return Hazards(tuple(found))


def names_of(hazards: Iterable[Hazard]) -> str:
    """Return the rules of some hazards with their tables, each once."""
    names = (f"{h.rule} on {h.table}" if h.table else h.rule for h in hazards)
    return ", ".join(dict.fromkeys(names))


def way_out(stops: Sequence[Hazard], place: str) -> str:
    """Return what to do about hazards that forbid an upgrade.

    Rows can be mended where they break a statement, but not where a new column is not there yet.

    Args:
        place: where the hazards are shown.
    """
    certain = [h.rule for h in stops if h.is_certain]
    if not certain:
        worst = max(stops, key=lambda h: h.blocked_s)
        return (
            f"Rewrite them as {place} proposes, or excuse each in its revision file: "
            f"# playbook: allow {worst.rule} on {worst.table} because ..."
        )
    said = []
    if LACKING & set(certain):
        said.append(
            f"Write it in steps as {place} shows: add the column nullable, fill it, then SET NOT "
            "NULL."
        )
    if set(certain) - LACKING:
        said.append(f"Mend the rows first: {place} shows the query that finds them.")
    return " ".join([*said, "No exemption lifts this."])


def _exemptions(path: Path) -> list[tuple[str, str, str]]:
    """Return (rule, table or "", reason) of each exemption in a revision file."""
    text = path.read_text("utf-8")
    return [(m["rule"], m["table"] or "", m["reason"]) for m in _EXEMPTION.finditer(text)]


def _of_step(
    step: PlanStep, findings: Iterable[Finding], known: Known, proofs: Proofs
) -> tuple[list[Hazard], Known]:
    """Return the hazards of a step, and what is known once it has run."""
    exemptions = _exemptions(step.path)
    found: list[Hazard] = []
    held: dict[str, str] = {}  # a lock is kept to the end of the revision's transaction
    for statement, names in findings:
        table = statement.table
        held[table] = max(held.get(table, MODES[0]), statement.lock, key=MODES.index)
        if _cannot_be_read(statement.node, known):
            found.append(_weigh(step, statement, "cannot-be-read", CANNOT_BE_READ, -1, ""))
        elif table in known.rows and not _is_alembics(step, statement):
            for name in names:
                rule = judge(name, statement, known, proofs)
                hazard = _weigh(step, statement, name, rule, known.rows[table], held[table])
                found.append(_with_remedy(hazard, statement, known))
        proofs.follow(table, statement.node)
        known = _after(statement, known)
    return [replace(one, allowed_because=_reason(one, exemptions)) for one in found], known


def _cannot_be_read(node: Any, known: Known) -> bool:
    """Say whether a body of code decides what a statement does: PostgreSQL's own do no harm."""
    if isinstance(node, ast.SelectStmt):
        return bool(functions_of(node) & (known.functions - known.steady))
    return isinstance(node, (ast.DoStmt, ast.CallStmt))


def _is_alembics(step: PlanStep, statement: Statement) -> bool:
    """Say whether a statement is the one by which Alembic notes a step."""
    names = {step.revision, *step.from_revisions, *step.to_revisions}
    text = statement.text
    return is_of_version_table(text, statement.node) and any(f"'{name}'" in text for name in names)


def _after(statement: Statement, known: Known) -> Known:
    """Return what is known of the tables once a statement has run; nothing of a new one."""
    node = statement.node
    if isinstance(node, ast.CreateFunctionStmt):
        return replace(known, functions=known.functions | {(node.funcname or ())[-1].sval})
    if renamed := table_renamed(node):
        rows, columns = (_moved(facts, *renamed) for facts in (known.rows, known.columns))
    elif gone := tables_replaced(node):
        rows, columns = (_without(facts, gone) for facts in (known.rows, known.columns))
    else:
        return known
    return replace(known, rows=rows, columns=columns)


def _moved(facts: Mapping[str, Any], old: str, new: str) -> dict[str, Any]:
    return {new if table == old else table: fact for table, fact in facts.items()}


def _without(facts: Mapping[str, Any], tables: set[str]) -> dict[str, Any]:
    return {table: fact for table, fact in facts.items() if table not in tables}


def _findings(texts: Sequence[str]) -> Iterator[list[Finding]]:
    """Return each statement of each text with the rules it falls under."""
    statements = [read_statements(sql) for sql in texts]
    linted = _run_squawk([_without_new_tables(*one) for one in zip(texts, statements, strict=True)])
    return (list(_of_text(*one)) for one in zip(statements, linted, strict=True))


def _of_text(
    statements: Sequence[Statement], findings: Sequence[tuple[int, str]]
) -> Iterator[Finding]:
    for statement in statements:
        names = [n for place, n in findings if statement.start <= place < statement.stop]
        names = list(dict.fromkeys([*(n for n in names if n in RULES), *statement.writes]))
        hidden = {w for w, stronger in STRONGER_SAME.items() if set(stronger) & set(names)}
        yield statement, [n for n in names if n not in hidden]


def _without_new_tables(sql: str, statements: Sequence[Statement]) -> str:
    """Return SQL with blanks for each CREATE TABLE, and everything else in its place.

    squawk says nothing of a table that the same transaction creates, nor of one that IF NOT EXISTS
    leaves as it is; which are new is known here.
    """
    for one in statements:
        if isinstance(one.node, ast.CreateStmt):
            blank = re.sub(r"\S", " ", sql[one.start : one.stop])
            sql = sql[: one.start] + blank + sql[one.stop :]
    return sql


def _weigh(
    step: PlanStep, statement: Statement, name: str, rule: Rule, rows: int, held: str
) -> Hazard:
    lock = max(rule.lock, held, key=MODES.index) if rule.work != "moment" else rule.lock
    blocked_s = max(rows, 0) / ROWS_PER_S[rule.work]
    order = list(Severity).index
    severity = min(max(_by_time(blocked_s), rule.least, key=order), rule.most, key=order)
    if name == "adding-required-field" and rows:
        severity = Severity.STOP
    return Hazard(
        revision=step.revision,
        rule=name,
        severity=severity,
        table=statement.table,
        rows=rows,
        lock=lock,
        blocks=blocks(lock) if lock else "",
        blocked_s=round(blocked_s, 2),
        statement=statement.text,
        detail=rule.detail,
        remedy=rule.remedy,
        object=objects(name, statement.node),
    )


def _with_remedy(hazard: Hazard, statement: Statement, known: Known) -> Hazard:
    """Return a hazard that weighs something with its statement rewritten."""
    if hazard.severity is Severity.OK:
        return hazard
    if hazard.table in known.partitioned:  # PostgreSQL builds no index of all of it concurrently
        builds = RULES[hazard.rule].work == "index"
        return replace(hazard, remedy=PARTITIONED_REMEDY) if builds else hazard
    columns = known.columns.get(hazard.table, ())
    return replace(hazard, rewrite=rewrite(hazard.rule, statement.text, columns))


def _reason(hazard: Hazard, exemptions: Sequence[tuple[str, str, str]]) -> str:
    names = {"", hazard.table, hazard.table.split(".", 1)[-1]}
    reasons = (r for rule, table, r in exemptions if rule == hazard.rule and table in names)
    return next(reasons, "")


def _by_time(blocked_s: float) -> Severity:
    if blocked_s >= STOP_AFTER_S:
        return Severity.STOP
    return Severity.WARN if blocked_s >= WARN_AFTER_S else Severity.OK


def _run_squawk(texts: Sequence[str]) -> list[list[tuple[int, str]]]:
    """Return (place, rule) of each finding in each text; places are in characters from 0.

    Each text is a file of its own, as squawk takes what is in one file for one transaction.
    """
    beside = str(Path(sys.executable).parent)
    program = shutil.which("squawk", path=beside) or shutil.which("squawk")
    if program is None:
        raise SettingsError(
            "squawk, which looks for hazards in the SQL, is not installed.",
            remedy="Install it: pip install squawk-cli.",
        )
    with tempfile.TemporaryDirectory(prefix="playbook-") as folder:
        files = [Path(folder, f"{number}.sql") for number in range(len(texts))]
        for file, text in zip(files, texts, strict=True):
            file.write_text(text, "utf-8", newline="")
        done = subprocess.run(
            [program, "--reporter", "json", *files],
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
    try:
        items = json.loads(done.stdout)
    except ValueError as error:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise SettingsError(f"squawk could not read the SQL: {last}") from error
    found: dict[str, list[Mapping[str, Any]]] = {file.name: [] for file in files}
    for item in items:
        found[Path(item["file"]).name].append(item)
    return [_places(text, found[file.name]) for file, text in zip(files, texts, strict=True)]


def _places(sql: str, items: Sequence[Mapping[str, Any]]) -> list[tuple[int, str]]:
    """Return (place, rule) of one file's findings; squawk counts a column in bytes."""
    text = sql.encode()
    starts = [0, *accumulate(len(line) + 1 for line in text.split(b"\n"))]
    places = [(starts[item["line"]] + item["column"], item["rule_name"]) for item in items]
    return [(len(text[:place].decode(errors="ignore")), name) for place, name in places]
