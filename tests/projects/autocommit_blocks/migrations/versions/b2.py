"""Index them without keeping others out."""

from alembic import op

revision = "b2"
down_revision = "a1"


def upgrade():
    with op.get_context().autocommit_block():
        op.create_index(
            "accounts_email",
            "accounts",
            ["email"],
            postgresql_concurrently=True,
            if_not_exists=True,
        )


def downgrade():
    with op.get_context().autocommit_block():
        op.drop_index("accounts_email", "accounts", postgresql_concurrently=True)
