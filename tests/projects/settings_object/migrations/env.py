"""A settings object of the application overwrites what the ini file says."""

from alembic import context
from shop.settings import settings
from sqlalchemy import create_engine, pool

if context.is_offline_mode():
    context.configure(url=settings.url, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
else:
    with create_engine(settings.url, poolclass=pool.NullPool).connect() as connection:
        context.configure(connection=connection)
        with context.begin_transaction():
            context.run_migrations()
