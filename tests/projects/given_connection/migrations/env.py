"""A program hands Alembic a connection; without one this does something else altogether."""

from alembic import context

if context.is_offline_mode():
    context.configure(dialect_name="postgresql", literal_binds=True)
else:
    connection = context.config.attributes.get("connection")
    if connection is None:
        raise SystemExit("Use `shop db upgrade`.")
    context.configure(connection=connection)

with context.begin_transaction():
    context.run_migrations()
