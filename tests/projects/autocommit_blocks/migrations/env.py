"""A transaction per revision, and steps outside of any."""

from alembic import context
from sqlalchemy import create_engine, pool

URL = context.config.get_main_option("sqlalchemy.url")
SETTINGS = {"transaction_per_migration": True}

if context.is_offline_mode():
    context.configure(url=URL, literal_binds=True, **SETTINGS)
    with context.begin_transaction():
        context.run_migrations()
else:
    with create_engine(URL, poolclass=pool.NullPool).connect() as connection:
        context.configure(connection=connection, **SETTINGS)
        with context.begin_transaction():
            context.run_migrations()
