"""Add corpora, documents and chunks: what the agent may answer from.

What it does: creates rag_corpora (of a user), rag_documents (of a corpus) and rag_chunks (of a
document), with keys, cascades, unique and check constraints. They begin empty.

Locks: users, SHARE ROW EXCLUSIVE, from the first statement to the commit: reads of users go on,
writes wait. 5 ms at any number of users, as the foreign key of an empty table reads no row.

Undo: drops the three tables, under ACCESS EXCLUSIVE on users for the foreign key's triggers, again
for milliseconds. It loses all corpora, documents, chunks and embeddings.

Revision: 002_add_rag_tables
Revises: 001_add_auth_fields
Created: 2025-06-03
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "002_add_rag_tables"
down_revision: str | tuple[str, ...] | None = "001_add_auth_fields"
branch_labels: str | tuple[str, ...] | None = None
depends_on: str | tuple[str, ...] | None = None


def upgrade() -> None:
    """Create rag_corpora, rag_documents and rag_chunks."""
    create_rag_corpora()
    create_rag_documents()
    create_rag_chunks()


def create_rag_corpora() -> None:
    """Create rag_corpora; a user's go with the user."""
    op.create_table(
        "rag_corpora",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("description", sa.Text()),
        sa.Column("embedding_model", sa.Text(), nullable=False),
        sa.Column("embedding_dimensions", sa.Integer(), nullable=False),
        sa.Column(
            "settings", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False
        ),
        sa.Column(
            "updated_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rag_corpora")),
        sa.UniqueConstraint("user_id", "name", name=op.f("uq_rag_corpora_user_id_name")),
        sa.ForeignKeyConstraint(
            ["user_id"],
            ["users.user_id"],
            name=op.f("fk_rag_corpora_user_id_users"),
            ondelete="CASCADE",
        ),
        sa.CheckConstraint("btrim(name) <> ''", name=op.f("ck_rag_corpora_name_not_blank")),
        sa.CheckConstraint(
            "embedding_dimensions > 0", name=op.f("ck_rag_corpora_embedding_dimensions_positive")
        ),
    )


def create_rag_documents() -> None:
    """Create rag_documents; the same content stands only once in a corpus."""
    op.create_table(
        "rag_documents",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("corpus_id", sa.BigInteger(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("source_uri", sa.Text()),
        sa.Column("media_type", sa.Text(), server_default="text/plain", nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("content_sha256", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), server_default="pending", nullable=False),
        sa.Column(
            "attributes", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False
        ),
        sa.Column("indexed_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rag_documents")),
        sa.UniqueConstraint(
            "corpus_id", "content_sha256", name=op.f("uq_rag_documents_corpus_id_content_sha256")
        ),
        sa.ForeignKeyConstraint(
            ["corpus_id"],
            ["rag_corpora.id"],
            name=op.f("fk_rag_documents_corpus_id_rag_corpora"),
            ondelete="CASCADE",
        ),
        sa.CheckConstraint(
            "content_sha256 ~ '^[0-9a-f]{64}$'",
            name=op.f("ck_rag_documents_content_sha256_hexadecimal"),
        ),
        sa.CheckConstraint(
            "status IN ('pending', 'ready', 'failed')", name=op.f("ck_rag_documents_status_known")
        ),
        sa.CheckConstraint(
            "(status = 'ready') = (indexed_at IS NOT NULL)",
            name=op.f("ck_rag_documents_ready_when_indexed"),
        ),
    )
    op.create_index(
        "ix_rag_documents_not_ready",
        "rag_documents",
        ["created_at"],
        postgresql_where=sa.text("status <> 'ready'"),
    )


def create_rag_chunks() -> None:
    """Create rag_chunks; a document's go with the document."""
    op.create_table(
        "rag_chunks",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("document_id", sa.BigInteger(), nullable=False),
        sa.Column("chunk_index", sa.Integer(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("tokens", postgresql.ARRAY(sa.Integer()), nullable=False),
        sa.Column("embedding", postgresql.ARRAY(sa.REAL())),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rag_chunks")),
        sa.UniqueConstraint(
            "document_id", "chunk_index", name=op.f("uq_rag_chunks_document_id_chunk_index")
        ),
        sa.ForeignKeyConstraint(
            ["document_id"],
            ["rag_documents.id"],
            name=op.f("fk_rag_chunks_document_id_rag_documents"),
            ondelete="CASCADE",
        ),
        sa.CheckConstraint("chunk_index >= 0", name=op.f("ck_rag_chunks_chunk_index_not_negative")),
        sa.CheckConstraint("content <> ''", name=op.f("ck_rag_chunks_content_not_empty")),
    )


def downgrade() -> None:
    """Drop the three tables, those first that refer to the others."""
    op.drop_table("rag_chunks")
    op.drop_table("rag_documents")
    op.drop_table("rag_corpora")
