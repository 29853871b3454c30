"""What both branches stand on."""

import sqlalchemy as sa
from alembic import op

revision = "ba5e"
down_revision = None


def upgrade():
    op.create_table(
        "accounts",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("email", sa.Text, nullable=False),
    )


def downgrade():
    op.drop_table("accounts")
