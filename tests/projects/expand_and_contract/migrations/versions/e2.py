"""Add another one."""

import sqlalchemy as sa
from alembic import op

revision = "e2"
down_revision = "e1"


def upgrade():
    op.add_column("accounts", sa.Column("phone", sa.Text))


def downgrade():
    op.drop_column("accounts", "phone")
