"""A migration playbook for PostgreSQL databases under Alembic."""
