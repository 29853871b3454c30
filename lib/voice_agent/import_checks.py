"""What is asked before an import: are there tables, whose corpus is it, may this role write."""

from __future__ import annotations

from typing import Any

from psycopg2.extensions import connection as Connection

from playbook.database import fetch, lock_holder
from playbook.errors import GuardRefused
from playbook.journal import Run
from playbook.records import Finding, Severity
from playbook.revisions import join
from voice_agent.corpora import Corpus, find_corpora, find_owner, lacking_columns
from voice_agent.tokenizers import TOKENIZERS

__all__ = [
    "check_tables",
    "choose_corpus",
    "corpus_finding",
    "other_run_finding",
    "privileges_finding",
]

PRIVILEGES = """
SELECT t.name || ': ' || p.privilege
FROM unnest(ARRAY['rag_corpora', 'rag_documents', 'rag_chunks']) AS t (name),
     unnest(ARRAY['SELECT', 'INSERT', 'DELETE']) AS p (privilege)
WHERE NOT has_table_privilege(to_regclass(t.name), p.privilege)
UNION ALL SELECT 'the database: TEMPORARY'
WHERE NOT has_database_privilege(current_database(), 'TEMPORARY')
ORDER BY 1
"""


def check_tables(run: Run[Any], connection: Connection) -> None:
    """Refuse a database without the tables of documents.

    Raises:
        GuardRefused: it lacks one, or a column.
    """
    lacking = lacking_columns(connection)
    if lacking:
        raise GuardRefused(
            f"The database is at {join(run.graph.current)}, which has no tables for documents yet: "
            f"it lacks {', '.join(lacking[:4])}.",
            remedy="Open upgrade.ipynb and take it to head, then run `ingest` again.",
        )


def choose_corpus(run: Run[Any], connection: Connection) -> Corpus:
    """Return the corpus that the parameters name; one to make if there is none.

    Raises:
        GuardRefused: there are several, it is for an unknown model, or it would have no owner.
    """
    name, owner = run.parameters.corpus, run.parameters.owner
    found = find_corpora(connection, name, owner)
    if len(found) > 1:
        owners = ", ".join(repr(corpus.owner) for corpus in found[:3])
        raise GuardRefused(
            f"Several users have a corpus {name!r}: {owners}{', ...' if len(found) > 3 else ''}.",
            remedy="Say whose is meant by -r owner USERNAME.",
        )
    if found and found[0].model not in TOKENIZERS:
        raise GuardRefused(
            f"The corpus {name!r} is for the embedding model {found[0].model!r}, whose tokenizer "
            "is not here.",
            remedy="Choose another corpus by -r corpus NAME.",
        )
    return found[0] if found else _new_corpus(run, connection)


def _new_corpus(run: Run[Any], connection: Connection) -> Corpus:
    """Return a corpus to make: on a sandbox the first user's, elsewhere only of who is named."""
    name, username = run.parameters.corpus, run.parameters.owner
    if not username and run.target.kind != "sandbox":
        raise GuardRefused(
            f"There is no corpus {name!r} yet, and a new one belongs to a user.",
            remedy="Say to whom by -r owner USERNAME, or name a corpus that there is.",
        )
    owner = find_owner(connection, username)
    if owner is None:
        problem = f"There is no user {username!r}" if username else "There are no users"
        raise GuardRefused(
            f"{problem}, and a corpus belongs to one.",
            remedy="Write -r owner USERNAME as in users.username.",
        )
    return Corpus(0, name, *owner)


def corpus_finding(corpus: Corpus) -> Finding:
    """Say which corpus it is and whose."""
    detail = (
        f"It is there, of {corpus.owner!r}."
        if corpus.id
        else (f"There is none yet: it will be made, for the user {corpus.owner!r}.")
    )
    return Finding(
        "corpus",
        Severity.OK,
        corpus.name,
        f"{detail} Its embedding model is {corpus.model}, whose tokenizer makes the tokens.",
    )


def privileges_finding(connection: Connection) -> Finding:
    """Say whether this role may write documents."""
    lacking = [row[0] for row in fetch(connection, PRIVILEGES)]
    if lacking:
        return Finding(
            "privileges", Severity.STOP, "role", f"It lacks {'; '.join(lacking)}.",
            "Ask the tables' owner for it, or run as a role that has it.",
        )  # fmt: skip
    return Finding("privileges", Severity.OK, "role", "It may write documents and chunks.")


def other_run_finding(connection: Connection) -> Finding:
    """Say whether another run holds the target."""
    holder = lock_holder(connection)
    if holder:
        return Finding(
            "other-run", Severity.STOP, holder, "Another run holds this target.",
            "Wait until it has ended.",
        )  # fmt: skip
    return Finding("other-run", Severity.OK, "advisory lock", "No other run is in progress.")
