"""The folder of the revisions is chosen here, by the kind of database: nothing else tells it."""

from pathlib import Path

from alembic import context
from sqlalchemy import create_engine, pool

URL = context.config.get_main_option("sqlalchemy.url")
KIND = URL.partition("+")[0]
context.script.version_locations = [str(Path(context.script.dir) / "of" / KIND)]

if context.is_offline_mode():
    context.configure(url=URL, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
else:
    with create_engine(URL, poolclass=pool.NullPool).connect() as connection:
        context.configure(connection=connection)
        with context.begin_transaction():
            context.run_migrations()
