"""No alembic.ini at all: the configuration stands in pyproject.toml."""

from alembic import context
from sqlalchemy import create_engine, pool

config = context.config
assert config.config_file_name is None
assert config.get_alembic_option("script_location")
URL = config.get_main_option("sqlalchemy.url")

if context.is_offline_mode():
    context.configure(url=URL, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
else:
    with create_engine(URL, poolclass=pool.NullPool).connect() as connection:
        context.configure(connection=connection)
        with context.begin_transaction():
            context.run_migrations()
