"""Revisions that cannot be undone: one without a downgrade, one that raises."""

from alembic import context
from sqlalchemy import create_engine, pool

URL = context.config.get_main_option("sqlalchemy.url")

if context.is_offline_mode():
    context.configure(url=URL, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
else:
    with create_engine(URL, poolclass=pool.NullPool).connect() as connection:
        context.configure(connection=connection)
        with context.begin_transaction():
            context.run_migrations()
