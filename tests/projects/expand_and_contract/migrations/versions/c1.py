"""Drop the old column."""

import sqlalchemy as sa
from alembic import op

revision = "c1"
down_revision = "ba5e"
branch_labels = ("contract",)
depends_on = "e1"


def upgrade():
    op.drop_column("accounts", "email")


def downgrade():
    op.add_column("accounts", sa.Column("email", sa.Text))
