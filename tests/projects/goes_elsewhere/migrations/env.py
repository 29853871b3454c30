"""Without its own variable it takes another database, and writes there at once."""

import os

from alembic import context
from sqlalchemy import create_engine, pool, text

URL = os.environ.get("ELSEWHERE", "sqlite://")

with create_engine(URL, poolclass=pool.NullPool).connect() as connection:
    with connection.begin():
        connection.execute(text("CREATE TABLE written_elsewhere (id int)"))
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
