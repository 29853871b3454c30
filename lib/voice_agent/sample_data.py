"""Sample data from a fixed seed: the same rows on every machine, at every run.

``python -m voice_agent.sample_data`` fills the empty database that libpq's environment variables
name (PGHOST, PGPORT, PGUSER, PGDATABASE, PGPASSWORD): the legacy tables at ``000_baseline``. With
``--state head`` it goes on to the newest revision, with documents to answer from. ``--state rows``
fills the empty tables of a database that is at head already.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from io import StringIO
from itertools import chain
from pathlib import Path
from random import Random
from typing import Any, TypeVar
from unicodedata import combining, normalize

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, NullPool, create_engine, text
from sqlalchemy.exc import OperationalError

from playbook.errors import CannotConnect, GuardRefused, PlaybookError
from voice_agent import sample_text
from voice_agent.copy_format import copy_text
from voice_agent.tokenizers import DIMENSIONS, EMBEDDING_MODEL, hashed_words

__all__ = ["STATES", "add_legacy_data", "add_rag_data", "build", "main"]

ALEMBIC_INI = Path(__file__).resolve().parents[2] / "alembic.ini"
LIBPQ_URL = "postgresql+psycopg2:///"
"""Says nothing, so that libpq takes everything from the environment."""
LEGACY, RAG = "000_baseline", "002_add_rag_tables"
"""The revisions whose tables the data are made for; later revisions migrate what is there."""
STATES = ("legacy", "head", "rows")

SEED = 20250101
USERS, SESSIONS = 5_000, 12_000
CORPORA, DOCUMENTS = 160, 2_000
START, END = datetime(2025, 1, 2, 8, tzinfo=UTC), datetime(2025, 12, 20, 20, tzinfo=UTC)
RAG_START = datetime(2025, 6, 4, 8, tzinfo=UTC)

Row = tuple[object, ...]
Value = TypeVar("Value")

USER_TABLES = """
SELECT count(*) FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
"""


def build(state: str = "legacy") -> dict[str, int]:
    """Fill the empty database that libpq's environment variables name.

    **Effects**: creates the tables by Alembic and fills them, in one transaction: after a failure
    the database is empty again. Revisions after `RAG` are then applied one by one.

    Args:
        state: ``legacy`` (at 000_baseline), ``head`` (at the newest revision, with documents) or
            ``rows`` (the same rows, in a database whose empty tables are there already: Alembic
            takes them back to 000_baseline first, as the data are of that time).

    Returns:
        The number of rows by table.

    Raises:
        CannotConnect: there is no such server or database.
        GuardRefused: the database already has tables or, for ``rows``, rows.
    """
    engine = create_engine(LIBPQ_URL, poolclass=NullPool)
    try:
        connection = engine.connect()
    except OperationalError as error:
        reason = " ".join(str(error.orig).split()).rstrip(".?")
        raise CannotConnect(
            f"Cannot connect to the database that PGHOST and PGDATABASE name: {reason}.",
            remedy="Set PGHOST, PGPORT, PGUSER and PGDATABASE to an empty database.",
        ) from None
    with connection, connection.begin():
        if state == "rows":
            _require_no_rows(connection)
            command.downgrade(_config(connection), LEGACY)
        else:
            _require_empty(connection)
            _upgrade(LEGACY, connection)
        rows = add_legacy_data(connection)
        if state != "legacy":
            _upgrade(RAG, connection)
            rows |= add_rag_data(connection)
    if state != "legacy":
        _upgrade("head")
    return rows


def _require_empty(connection: Connection) -> None:
    tables = connection.scalar(text(USER_TABLES))
    if tables:
        name = connection.scalar(text("SELECT current_database()"))
        raise GuardRefused(
            f"Sample data go only into an empty database, and {name!r} has {tables} tables.",
            remedy="Create a new database and set PGDATABASE to its name.",
        )


def _require_no_rows(connection: Connection) -> None:
    if connection.scalar(text("SELECT EXISTS (SELECT FROM users)")):
        name = connection.scalar(text("SELECT current_database()"))
        raise GuardRefused(
            f"Sample data go only into empty tables, and {name!r} has users.",
            remedy="Create a new database and set PGDATABASE to its name.",
        )


def _upgrade(revision: str, connection: Connection | None = None) -> None:
    command.upgrade(_config(connection), revision)


def _config(connection: Connection | None) -> Config:
    """Return what makes Alembic run on a connection, inside its transaction, or on its own."""
    config = Config(ALEMBIC_INI)
    config.attributes["configure_logging"] = False
    if connection is None:
        config.set_main_option("sqlalchemy.url", LIBPQ_URL)
    else:
        config.attributes["connection"] = connection
    return config


def add_legacy_data(connection: Connection) -> dict[str, int]:
    """Add users, conversations and messages to empty tables at 000_baseline; commits nothing.

    Returns:
        The number of rows by table.
    """
    random = Random(SEED)
    users = list(_users(random))
    sessions = list(_sessions(random, users))
    return {
        "users": _copy(
            connection,
            "users",
            "username, display_name, locale, preferred_voice, created_at",
            users,
        ),
        "conversation_sessions": _copy(
            connection,
            "conversation_sessions",
            "user_id, channel, language, summary, settings, started_at, ended_at",
            (session for session, _ in sessions),
        ),
        "messages": _copy(
            connection,
            "messages",
            "session_id, position, role, content, audio_ms, created_at",
            chain.from_iterable(messages for _, messages in sessions),
        ),
    }


def add_rag_data(connection: Connection) -> dict[str, int]:
    """Add corpora, documents and chunks to a database that has users; commits nothing.

    The owners are the users with the lowest ids, whoever they are.

    Returns:
        The number of rows by table.

    Raises:
        GuardRefused: there are fewer users than corpora, or there are corpora already.
    """
    owners = connection.scalars(
        text("SELECT user_id::text FROM users ORDER BY id LIMIT :rows"), {"rows": CORPORA}
    ).all()
    if len(owners) < CORPORA or connection.scalar(text("SELECT count(*) FROM rag_corpora")):
        raise GuardRefused(
            f"Sample documents need {CORPORA} users and an empty table rag_corpora.",
            remedy="Run python -m voice_agent.sample_data --state head on an empty database.",
        )
    random = Random(SEED + 1)
    corpora = list(_corpora(random, owners))
    documents = list(_documents(random))
    return {
        "rag_corpora": _copy(
            connection,
            "rag_corpora",
            "user_id, name, description, embedding_model, embedding_dimensions, settings, "
            "created_at, updated_at",
            corpora,
        ),
        "rag_documents": _copy(
            connection,
            "rag_documents",
            "corpus_id, title, source_uri, content, content_sha256, status, attributes, "
            "created_at, indexed_at",
            (document for document, _ in documents),
        ),
        "rag_chunks": _copy(
            connection,
            "rag_chunks",
            "document_id, chunk_index, content, tokens, embedding, created_at",
            chain.from_iterable(chunks for _, chunks in documents),
        ),
    }


# ---- Users, conversations and messages -----------------------------------------------------------


def _users(random: Random) -> Iterator[Row]:
    """Yield the legacy users; about one in ten has something awkward about the name."""
    taken: set[str] = set()
    handles: list[str] = []
    for created_at in sorted(_moment(random, START, END) for _ in range(USERS)):
        first = random.choice(_words(sample_text.FIRST_NAMES))
        last = random.choice(_words(sample_text.LAST_NAMES))
        username = _username(random, first, last, handles)
        while username in taken:
            username = f"{username.strip()}{random.randrange(2, 100)}"
        taken.add(username)
        handles.append(username)
        yield (
            username,
            _display_name(random, first, last),
            _weighted(random, sample_text.LOCALES),
            random.choice(_words(sample_text.VOICES)) if random.random() < 0.6 else None,
            created_at,
        )


def _username(random: Random, first: str, last: str, handles: Sequence[str]) -> str:
    """Return a name to sign in with: mostly tidy, sometimes as people really typed it."""
    luck = random.random()
    if luck < 0.02 and handles:
        return random.choice((str.upper, str.title, str.lower))(random.choice(handles))
    if luck < 0.03 and handles:
        return random.choice((" {}", "{} ")).format(random.choice(handles).strip())
    if luck < 0.05:
        return f"{first} {last}"
    if luck < 0.07:
        return f"{first}.{last}".lower()
    first, last = _ascii(first).lower(), _ascii(last).lower()
    form = random.choice(("{}.{}", "{}.{}", "{}_{}", "{}{}", "{:.1}{}", "{}{:.1}"))
    name = form.format(first, last)
    return name.title() if random.random() < 0.08 else name


def _display_name(random: Random, first: str, last: str) -> str | None:
    """Return what the agent calls the user; one in twelve never said."""
    luck = random.random()
    if luck < 0.08:
        return None
    if luck < 0.20:
        return first
    if luck < 0.22:
        return f"{first}  {last} "
    return f"{first} {last}".upper() if luck < 0.24 else f"{first} {last}"


def _sessions(random: Random, users: Sequence[Row]) -> Iterator[tuple[Row, list[Row]]]:
    """Yield conversations in order of time, each with its messages."""
    visits: list[tuple[datetime, int]] = []
    for _ in range(SESSIONS):
        # Some users call often, most seldom.
        index = int(USERS * random.random() ** 1.7)
        created_at = users[index][-1]
        assert isinstance(created_at, datetime)
        visits.append((_moment(random, created_at, END + timedelta(days=8)), index + 1))
    for session_id, (started_at, user_id) in enumerate(sorted(visits), start=1):
        yield _session(random, session_id, user_id, started_at)


def _session(
    random: Random, session_id: int, user_id: int, started_at: datetime
) -> tuple[Row, list[Row]]:
    language, summary, turns = random.choice(sample_text.DIALOGUES)
    slots = _slots(random)
    channel = _weighted(random, (("phone", 62), ("web", 23), ("app", 15)))
    length = _weighted(random, ((1, 5), (2, 28), (3, 22), (4, 30), (5, 5), (6, 10)))
    messages: list[Row] = []
    now = started_at
    for position, turn in enumerate(turns[:length]):
        content = turn.format_map(slots)
        spoken_ms = 400 + 62 * len(content) if channel == "phone" else None
        role = "assistant" if position % 2 else "user"
        messages.append((session_id, position, role, content, spoken_ms, now))
        now += timedelta(milliseconds=(spoken_ms or 0) + random.randrange(700, 9_000))
    session = (
        user_id,
        channel,
        language,
        summary.format_map(slots) if length > 1 else None,
        json.dumps({"barge_in": channel == "phone", "temperature": random.randrange(2, 9) / 10}),
        started_at,
        now if random.random() < 0.985 else None,
    )
    return session, messages


# ---- Corpora, documents and chunks ---------------------------------------------------------------


def _corpora(random: Random, owners: Sequence[str]) -> Iterator[Row]:
    """Yield corpora; some users have several, each under another name."""
    taken: set[tuple[str, str]] = set()
    while len(taken) < CORPORA:
        owner = owners[int(CORPORA * random.random() ** 1.3)]
        name, description = random.choice(sample_text.CORPORA)
        if (owner, name) in taken:
            continue
        taken.add((owner, name))
        created_at = _moment(random, RAG_START, RAG_START + timedelta(days=30))
        settings = json.dumps({"chunk_words": 60, "top_k": random.choice((4, 6, 8))})
        yield (
            owner,
            name,
            description,
            EMBEDDING_MODEL,
            DIMENSIONS,
            settings,
            created_at,
            created_at + timedelta(hours=random.randrange(1, 900)),
        )


def _documents(random: Random) -> Iterator[tuple[Row, list[Row]]]:
    """Yield documents, each with its chunks; those that are not ready have none."""
    first = RAG_START + timedelta(days=31)
    moments = sorted(_moment(random, first, END) for _ in range(DOCUMENTS))
    for document_id, created_at in enumerate(moments, start=1):
        slots = _slots(random)
        kind = random.choice(_words(sample_text.DOCUMENT_KINDS))
        title = f"{slots['product']}: {kind}, issue {document_id}"
        pieces = [_paragraph(random, slots["product"]) for _ in range(random.randrange(3, 19))]
        content = "\n\n".join([title, *pieces])
        status = _weighted(random, (("ready", 950), ("pending", 35), ("failed", 15)))
        indexed_at = created_at + timedelta(seconds=random.randrange(2, 90))
        document = (
            int(CORPORA * random.random() ** 1.5) + 1,
            title,
            f"file:///documents/{document_id:05d}.txt",
            content,
            hashlib.sha256(content.encode()).hexdigest(),
            status,
            json.dumps({"language": "en", "kind": kind, "words": len(content.split())}),
            created_at,
            indexed_at if status == "ready" else None,
        )
        chunks: list[Row] = []
        if status == "ready":
            chunks = [
                (document_id, index, piece, *_embedding(piece), indexed_at)
                for index, piece in enumerate(pieces)
            ]
        yield document, chunks


def _paragraph(random: Random, product: str) -> str:
    sentences = random.sample(sample_text.SENTENCES, random.randrange(2, 5))
    return " ".join(item.format_map({**_slots(random), "product": product}) for item in sentences)


def _embedding(content: str) -> tuple[str, str]:
    """Return the tokens and the embedding of a text as PostgreSQL arrays.

    Feature hashing: every token adds or takes one in the dimension that its id selects. It needs
    no model, and texts with the same words do come out near to each other.
    """
    tokens = hashed_words(content)
    vector = [0] * DIMENSIONS
    for token in tokens:
        vector[token % DIMENSIONS] += 1 if token // DIMENSIONS % 2 else -1
    length = math.sqrt(sum(value * value for value in vector)) or 1.0
    return (
        "{" + ",".join(map(str, tokens)) + "}",
        "{" + ",".join(f"{value / length:.4f}" for value in vector) + "}",
    )


# ---- Chance and COPY -----------------------------------------------------------------------------


def _moment(random: Random, start: datetime, end: datetime) -> datetime:
    """Return a time between two, in whole milliseconds."""
    span_ms = (end - start) // timedelta(milliseconds=1)
    return start + timedelta(milliseconds=random.randrange(span_ms))


def _weighted(random: Random, choices: Sequence[tuple[Value, int]]) -> Value:
    """Return one of the values; each comes as often as its weight says."""
    values = [value for value, weight in choices for _ in range(weight)]
    return values[random.randrange(len(values))]


def _slots(random: Random) -> dict[str, str]:
    """Return a value for every slot of the sample texts."""
    return {name: random.choice(_words(values)) for name, values in sample_text.SLOTS.items()}


@cache
def _words(values: str) -> tuple[str, ...]:
    return tuple(values.split("|"))


def _ascii(name: str) -> str:
    """Return a name without accents, and without what then still is no ASCII letter."""
    plain = "".join(letter for letter in normalize("NFKD", name) if not combining(letter))
    return plain.translate(str.maketrans("øłŁı", "olLi", "'"))


def _copy(connection: Connection, table: str, columns: str, rows: Iterable[Row]) -> int:
    """Write rows by COPY, numbered from 1 in the column id; return how many they were."""
    buffer = StringIO()
    count = 0
    for count, row in enumerate(rows, start=1):
        buffer.write("\t".join([str(count), *map(copy_text, row)]) + "\n")
    buffer.seek(0)
    cursor: Any = connection.connection.cursor()  # psycopg2's: SQLAlchemy has no COPY
    cursor.copy_expert(f"COPY {table} (id, {columns}) FROM STDIN", buffer)
    cursor.close()
    connection.execute(text(f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), {count})"))
    connection.execute(text(f"ANALYZE {table}"))
    return count


def main(arguments: Sequence[str] | None = None) -> int:
    """Fill the database that libpq's environment names; return 0, or 1 with a sentence."""
    parser = argparse.ArgumentParser(prog="python -m voice_agent.sample_data", description=__doc__)
    parser.add_argument(
        "--state",
        choices=STATES,
        default="legacy",
        help="legacy: tables at 000_baseline (the default); head: newest revision, with documents",
    )
    try:
        rows = build(parser.parse_args(arguments).state)
    except PlaybookError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(", ".join(f"{count} {table}" for table, count in rows.items()) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
