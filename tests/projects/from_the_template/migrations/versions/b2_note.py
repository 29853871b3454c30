"""Add a note, and rows with values of their own."""

import sqlalchemy as sa
from alembic import op

revision = "b2"
down_revision = "a1"


def upgrade():
    op.add_column("accounts", sa.Column("note", sa.Text))
    op.get_bind().execute(
        sa.text("INSERT INTO accounts (id, email, note) VALUES (:id, :email, :note)"),
        [
            {"id": 1, "email": "it's@example.org", "note": "100%"},
            {"id": 2, "email": "b", "note": None},
        ],
    )


def downgrade():
    op.execute("DELETE FROM accounts WHERE id < 3")
    op.drop_column("accounts", "note")
