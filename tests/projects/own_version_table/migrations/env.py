"""A version table of another name in a schema of its own, which this makes where it is missing."""

from alembic import context
from sqlalchemy import create_engine, pool, text

URL = context.config.get_main_option("sqlalchemy.url")
TABLE = {"version_table": "shop_version", "version_table_schema": "Shop meta"}

if context.is_offline_mode():
    context.configure(url=URL, literal_binds=True, **TABLE)
    with context.begin_transaction():
        context.run_migrations()
else:
    with create_engine(URL, poolclass=pool.NullPool).connect() as connection:
        with connection.begin():
            connection.execute(text('CREATE SCHEMA IF NOT EXISTS "Shop meta"'))
        context.configure(connection=connection, **TABLE)
        with context.begin_transaction():
            context.run_migrations()
