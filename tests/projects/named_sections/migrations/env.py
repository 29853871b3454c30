"""One of several projects in one ini file, told by `alembic -x` where to go and for whom."""

from alembic import context
from sqlalchemy import create_engine, pool

given = context.get_x_argument(as_dictionary=True)
URL, VERSIONS = given["url"], "version_of_" + given["tenant"]

if context.is_offline_mode():
    context.configure(url=URL, literal_binds=True, version_table=VERSIONS)
    with context.begin_transaction():
        context.run_migrations()
else:
    with create_engine(URL, poolclass=pool.NullPool).connect() as connection:
        context.configure(connection=connection, version_table=VERSIONS)
        with context.begin_transaction():
            context.run_migrations()
