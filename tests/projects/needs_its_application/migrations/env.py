"""It relies on what the application's own command does first; plain Alembic cannot run it."""

from alembic import context
from shop import instance
from sqlalchemy import create_engine, pool

if not instance.started:
    raise RuntimeError("no instance of the shop is running")
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
