"""A database as the tests of the example application use it: its Alembic, its schema as text."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass

import psycopg2
from alembic import command
from alembic.config import Config

from playbook.targets import PROJECT_INI, Target

SCHEMA = """
SELECT format('%%s.%%s %%s %%s', c.relname, a.attname,
              format_type(a.atttypid, a.atttypmod)
              || CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END,
              coalesce(pg_get_expr(d.adbin, d.adrelid), a.attidentity::text)) AS line,
       c.relname, row_number() OVER (PARTITION BY c.oid ORDER BY a.attnum) AS place
FROM pg_class AS c
JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_attrdef AS d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'S', 'v')
  AND c.relname <> %(version_table)s
UNION ALL
SELECT format('%%s: %%s', conname, pg_get_constraintdef(oid)), conname, 0
FROM pg_constraint
WHERE connamespace = 'public'::regnamespace AND conrelid <> to_regclass(%(version_table)s)
UNION ALL
SELECT indexdef, indexname, 0
FROM pg_indexes WHERE schemaname = 'public' AND tablename <> %(version_table)s
UNION ALL
SELECT format('type %%s', typname), typname, 0
FROM pg_type WHERE typnamespace = 'public'::regnamespace AND typtype IN ('d', 'e')
ORDER BY relname, place, line
"""


@dataclass(frozen=True)
class Database:
    """A database on a real server, with what the tests ask of it."""

    target: Target

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a child process whose libpq is to connect here."""
        names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "dbname": "PGDATABASE"}
        own = {names[key]: value for key, value in self.target.conninfo.items() if key in names}
        return {**os.environ, **own, **self.target.libpq_environment()}

    @property
    def url(self) -> str:
        """The URL as the runbooks' parameter ``database`` takes it."""
        return self.target.sqlalchemy_url().replace("+psycopg2", "")

    def config(self) -> Config:
        """Return a Config of the project's Alembic for this database."""
        config = Config(PROJECT_INI)
        config.attributes["configure_logging"] = False
        config.set_main_option("sqlalchemy.url", self.target.sqlalchemy_url().replace("%", "%%"))
        return config

    def upgrade(self, revision: str) -> None:
        command.upgrade(self.config(), revision)

    def downgrade(self, revision: str) -> None:
        command.downgrade(self.config(), revision)

    def connect(self) -> psycopg2.extensions.connection:
        connection = psycopg2.connect(**self.target.conninfo, options="-c timezone=UTC")
        connection.autocommit = True
        return connection

    def fetch(self, query: str, parameters: object = None) -> list[tuple]:
        connection = self.connect()
        try:
            with connection.cursor() as cursor:
                cursor.execute(query, parameters)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def schema(self) -> list[str]:
        """Return columns, constraints, indexes, sequences and types, a line each."""
        return [row[0] for row in self.fetch(SCHEMA, {"version_table": "alembic_version"})]

    def fingerprint(self, table: str, columns: str = "t") -> str:
        """Return a hash of a table's rows in order of their ids."""
        query = f"SELECT md5(string_agg(ROW({columns})::text, '' ORDER BY t.id)) FROM {table} AS t"
        return self.fetch(query)[0][0]

    def run(self, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command in the project's root, with libpq pointed at this database.

        Args:
            arguments: the command.
            given: what it reads from standard input.
        """
        return subprocess.run(
            arguments,
            cwd=PROJECT_INI.parent,
            env=self.environment,
            input=given,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
