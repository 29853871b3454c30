"""Add what signing in needs: a public id, an e-mail address, a password hash and account states.

What it does: adds seven columns to users, fills them for the users that exist, and only then makes
them NOT NULL and unique. A legacy user gets a public id made from the row's id, so that every copy
of the database gets the same; an address at a domain that never receives mail, made from the
username; and a locked password, so that signing in begins with setting one.

Locks: users, ACCESS EXCLUSIVE, from the first statement to the commit: reads and writes of users
wait. The UPDATE writes every row anew (the table needs about twice its space until it is vacuumed),
four scans set NOT NULL, three indexes are built: 0.05 s for 5,000 users, 13 s for a million. Beyond
some 100,000 users split it: columns first, the UPDATE in batches, the indexes by CONCURRENTLY.

Undo: drops the seven columns and their indexes. It loses addresses, password hashes, account states
and times of the last login; running the upgrade again gives placeholders, not what users entered.

Revision: 001_add_auth_fields
Revises: 000_baseline
Created: 2025-03-18
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "001_add_auth_fields"
down_revision: str | tuple[str, ...] | None = "000_baseline"
branch_labels: str | tuple[str, ...] | None = None
depends_on: str | tuple[str, ...] | None = None

# Usernames differ by case, blanks and accents where addresses may not. All that is not a plain
# letter or digit becomes a dot; of those that then are equal, each but the oldest gets "+id",
# which no other can have, as a plus never comes from a username. lower() in the collation "C"
# gives the same on every server. The domain .invalid is reserved by RFC 2606: no mail leaves.
BACKFILL = """
UPDATE users
SET user_id = md5('voice_agent.users:' || users.id)::uuid,
    email = placeholder.local_part
            || CASE WHEN placeholder.occurrence > 1 THEN '+' || users.id ELSE '' END
            || '@legacy.invalid',
    hashed_password = '!',
    updated_at = users.created_at
FROM (
    SELECT id, local_part, row_number() OVER (PARTITION BY local_part ORDER BY id) AS occurrence
    FROM (
        SELECT id, coalesce(
            nullif(btrim(left(
                regexp_replace(lower(username COLLATE "C"), '[^a-z0-9]+', '.', 'g'), 48
            ), '.'), ''), 'user') AS local_part
        FROM users
    ) AS name
) AS placeholder
WHERE placeholder.id = users.id
"""


def upgrade() -> None:
    """Add the columns, fill them, then make them mandatory and unique."""
    add_columns()
    op.execute(BACKFILL)
    constrain_columns()


def add_columns() -> None:
    """Add the columns; none rewrites the table, since every default is a constant."""
    op.add_column("users", sa.Column("user_id", sa.Uuid()))
    op.add_column("users", sa.Column("email", sa.Text()))
    op.add_column("users", sa.Column("hashed_password", sa.Text()))
    op.add_column(
        "users", sa.Column("is_active", sa.Boolean(), server_default=sa.true(), nullable=False)
    )
    op.add_column(
        "users", sa.Column("is_verified", sa.Boolean(), server_default=sa.false(), nullable=False)
    )
    op.add_column("users", sa.Column("last_login_at", sa.DateTime(timezone=True)))
    op.add_column("users", sa.Column("updated_at", sa.DateTime(timezone=True)))


def constrain_columns() -> None:
    """Set defaults for new users, NOT NULL, and the unique and other indexes."""
    op.alter_column("users", "user_id", server_default=sa.func.gen_random_uuid(), nullable=False)
    op.alter_column("users", "email", nullable=False)
    op.alter_column("users", "hashed_password", nullable=False)
    op.alter_column("users", "updated_at", server_default=sa.func.now(), nullable=False)
    op.create_unique_constraint(op.f("uq_users_user_id"), "users", ["user_id"])
    op.create_index("uq_users_lower_email", "users", [sa.text("lower(email)")], unique=True)
    op.create_index("ix_users_last_login_at", "users", ["last_login_at"])


def downgrade() -> None:
    """Drop the indexes and the columns."""
    op.drop_index("ix_users_last_login_at", table_name="users")
    op.drop_index("uq_users_lower_email", table_name="users")
    op.drop_constraint(op.f("uq_users_user_id"), "users", type_="unique")
    for column in (
        "updated_at",
        "last_login_at",
        "is_verified",
        "is_active",
        "hashed_password",
        "email",
        "user_id",
    ):
        op.drop_column("users", column)
