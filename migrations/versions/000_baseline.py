"""Create the tables that the application used to create by itself.

What it does: creates users, conversation_sessions and messages, as releases before Alembic did
with ``create_all()``. A database that has them already is stamped, not upgraded:
``alembic stamp 000_baseline``.

Locks: only the tables that it creates. Nobody else can see them, so nothing waits. Milliseconds,
at any size of the rest of the database.

Undo: drops the three tables. It loses all users, conversations and messages.

Revision: 000_baseline
Revises:
Created: 2025-01-07
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "000_baseline"
down_revision: str | tuple[str, ...] | None = None
branch_labels: str | tuple[str, ...] | None = None
depends_on: str | tuple[str, ...] | None = None


def upgrade() -> None:
    """Create users, conversation_sessions and messages."""
    create_users()
    create_conversation_sessions()
    create_messages()


def create_users() -> None:
    """Create users, without what signing in needs."""
    op.create_table(
        "users",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("username", sa.Text(), nullable=False),
        sa.Column("display_name", sa.Text()),
        sa.Column("locale", sa.Text(), server_default="en-US", nullable=False),
        sa.Column("preferred_voice", sa.Text()),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
        sa.UniqueConstraint("username", name=op.f("uq_users_username")),
        sa.CheckConstraint("btrim(username) <> ''", name=op.f("ck_users_username_not_blank")),
    )


def create_conversation_sessions() -> None:
    """Create conversation_sessions; a user's go with the user."""
    op.create_table(
        "conversation_sessions",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("language", sa.Text(), nullable=False),
        sa.Column("summary", sa.Text()),
        sa.Column(
            "settings", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column(
            "started_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False
        ),
        sa.Column("ended_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_conversation_sessions")),
        sa.ForeignKeyConstraint(
            ["user_id"],
            ["users.id"],
            name=op.f("fk_conversation_sessions_user_id_users"),
            ondelete="CASCADE",
        ),
        sa.CheckConstraint(
            "channel IN ('phone', 'web', 'app')",
            name=op.f("ck_conversation_sessions_channel_known"),
        ),
        sa.CheckConstraint(
            "ended_at >= started_at", name=op.f("ck_conversation_sessions_ends_after_start")
        ),
    )
    op.create_index(
        "ix_conversation_sessions_user_id_started_at",
        "conversation_sessions",
        ["user_id", "started_at"],
    )


def create_messages() -> None:
    """Create messages; a conversation's go with the conversation."""
    op.create_table(
        "messages",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("session_id", sa.BigInteger(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("audio_ms", sa.Integer()),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_messages")),
        sa.UniqueConstraint("session_id", "position", name=op.f("uq_messages_session_id_position")),
        sa.ForeignKeyConstraint(
            ["session_id"],
            ["conversation_sessions.id"],
            name=op.f("fk_messages_session_id_conversation_sessions"),
            ondelete="CASCADE",
        ),
        sa.CheckConstraint("position >= 0", name=op.f("ck_messages_position_not_negative")),
        sa.CheckConstraint(
            "role IN ('system', 'user', 'assistant', 'tool')", name=op.f("ck_messages_role_known")
        ),
        sa.CheckConstraint("audio_ms >= 0", name=op.f("ck_messages_audio_ms_not_negative")),
    )


def downgrade() -> None:
    """Drop the three tables, those first that refer to the others."""
    op.drop_table("messages")
    op.drop_table("conversation_sessions")
    op.drop_table("users")
