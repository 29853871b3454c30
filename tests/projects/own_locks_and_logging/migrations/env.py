"""Its own advisory lock, its own timeouts, its own logging in JSON, and talk on standard output."""

import json
import logging
import sys

from alembic import context
from sqlalchemy import create_engine, pool, text


class Json(logging.Formatter):
    def format(self, record):
        return json.dumps({"event": "result", "message": record.getMessage()})


handler = logging.StreamHandler(sys.stdout)
handler.setFormatter(Json())
logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
print("migrating the shop ...")

URL = context.config.get_main_option("sqlalchemy.url")

if context.is_offline_mode():
    context.configure(url=URL, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
else:
    with create_engine(URL, poolclass=pool.NullPool).connect() as connection:
        with connection.begin():
            connection.execute(text("SET lock_timeout = '1h'"))
            connection.execute(text("SET statement_timeout = '10min'"))
            connection.execute(text("SELECT pg_advisory_lock(4711)"))
        context.configure(connection=connection)
        with context.begin_transaction():
            context.run_migrations()
