"""Add the new column."""

import sqlalchemy as sa
from alembic import op

revision = "e1"
down_revision = "ba5e"
branch_labels = ("expand",)


def upgrade():
    op.add_column("accounts", sa.Column("address", sa.Text))


def downgrade():
    op.drop_column("accounts", "address")
