"""Add a note."""

import sqlalchemy as sa
from alembic import op

revision = "b2"
down_revision = "a1"


def upgrade():
    op.add_column("accounts", sa.Column("note", sa.Text))


def downgrade():
    op.drop_column("accounts", "note")
