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
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

from playbook.constraints import Proofs, read_constraint
from playbook.errors import SettingsError
from playbook.hazard_rules import ROWS_PER_S, RULES, STRONGER_SAME, Rule
from playbook.locks import MODES, blocks
from playbook.records import Hazard, Hazards, Known, PlanStep, Severity
from playbook.rewrites import objects, rewrite
from playbook.statements import Statement, created_tables, read_statements
from playbook.verdicts import judge

__all__ = ["STOP_AFTER_S", "WARN_AFTER_S", "find_hazards"]

WARN_AFTER_S = 0.3
STOP_AFTER_S = 2.0
"""As long as lock_timeout lets others wait by default."""

PARTITIONED_REMEDY = (
    "CREATE INDEX ON ONLY the partitioned table, CREATE INDEX CONCURRENTLY on each partition, then "
    "ALTER INDEX ... ATTACH PARTITION each."
)

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
    new: set[str] = set()
    proofs = Proofs()
    for fact in known.constraints:
        proofs.add(fact.table, fact.name, read_constraint(fact.definition), valid=fact.is_valid)
    for step in steps:
        new |= created_tables(step.sql)
        rows = {t: n for t, n in known.rows.items() if t not in new}
        found += _of_step(step, replace(known, rows=rows), proofs)
    return Hazards(tuple(found))


def _exemptions(path: Path) -> list[tuple[str, str, str]]:
    """Return (rule, table or "", reason) of each exemption in a revision file."""
    text = path.read_text("utf-8")
    return [(m["rule"], m["table"] or "", m["reason"]) for m in _EXEMPTION.finditer(text)]


def _of_step(step: PlanStep, known: Known, proofs: Proofs) -> Iterator[Hazard]:
    exemptions = _exemptions(step.path)
    held: dict[str, str] = {}  # a lock is kept to the end of the revision's transaction
    for statement, names in _findings(step.sql):
        table = statement.table
        held[table] = max(held.get(table, MODES[0]), statement.lock, key=MODES.index)
        for name in names:
            if table in known.rows:
                rule = judge(name, statement, known, proofs)
                found = _weigh(step, statement, name, rule, known.rows[table], held[table])
                found = _with_remedy(found, statement, known)
                yield replace(found, allowed_because=_reason(found, exemptions))
        proofs.follow(table, statement.node)


def _findings(sql: str) -> Iterator[tuple[Statement, list[str]]]:
    """Return each statement with the rules it falls under."""
    findings = _run_squawk(sql)
    for statement in read_statements(sql):
        names = [n for place, n in findings if statement.start <= place < statement.stop]
        names = list(dict.fromkeys([*(n for n in names if n in RULES), *statement.writes]))
        hidden = {w for w, stronger in STRONGER_SAME.items() if set(stronger) & set(names)}
        yield statement, [n for n in names if n not in hidden]


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
        blocks=blocks(lock),
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


def _run_squawk(sql: str) -> list[tuple[int, str]]:
    """Return (place, rule) of each finding; places are counted in characters from 0."""
    beside = str(Path(sys.executable).parent)
    program = shutil.which("squawk", path=beside) or shutil.which("squawk")
    if program is None:
        raise SettingsError(
            "squawk, which looks for hazards in the SQL, is not installed.",
            remedy="Install it: pip install squawk-cli.",
        )
    done = subprocess.run(
        [program, "--reporter", "json", "--stdin-filepath", "plan.sql"],
        input=sql,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    try:
        found = json.loads(done.stdout)
    except ValueError as error:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise SettingsError(f"squawk could not read the SQL: {last}") from error
    lines = sql.encode().split(b"\n")
    starts = [0, *accumulate(len(line) + 1 for line in lines)]
    # squawk counts a column in bytes.
    places = [(starts[item["line"]] + item["column"], item["rule_name"]) for item in found]
    return [(len(sql.encode()[:place].decode(errors="ignore")), name) for place, name in places]
