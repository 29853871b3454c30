"""The tables of the voice agent, as SQLAlchemy models at the newest revision.

Alembic compares these models with a database (``alembic check``, ``revision --autogenerate``).
What it does not compare, namely check constraints, is held equal by a test.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    REAL,
    BigInteger,
    CheckConstraint,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    MetaData,
    Text,
    UniqueConstraint,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

__all__ = [
    "Base",
    "ConversationSession",
    "Message",
    "RagChunk",
    "RagCorpus",
    "RagDocument",
    "User",
]

NAMING_CONVENTION = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
"""Every constraint has a name that is known in advance, so that a later revision can drop it."""


class Base(DeclarativeBase):
    """The base of all models; maps Python's types to those that PostgreSQL stores best."""

    metadata = MetaData(naming_convention=NAMING_CONVENTION)
    type_annotation_map = {
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB,
        list[int]: ARRAY(Integer),
        list[float]: ARRAY(REAL),
        str: Text,
        UUID: Uuid,
    }


class User(Base):
    """A person who talks to the agent and, since ``001_add_auth_fields``, can sign in."""

    __tablename__ = "users"
    __table_args__ = (
        UniqueConstraint("username"),
        UniqueConstraint("user_id"),
        CheckConstraint("btrim(username) <> ''", name="username_not_blank"),
        Index("uq_users_lower_email", text("lower(email)"), unique=True),
        Index("ix_users_last_login_at", "last_login_at"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    username: Mapped[str]
    display_name: Mapped[str | None]
    locale: Mapped[str] = mapped_column(server_default="en-US")
    preferred_voice: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    user_id: Mapped[UUID] = mapped_column(server_default=func.gen_random_uuid())
    """The public key: what leaves the application, where `id` stays inside."""
    email: Mapped[str]
    hashed_password: Mapped[str]
    """A password hash, or ``!``, which no hash equals: the user must set a password first."""
    is_active: Mapped[bool] = mapped_column(server_default=text("true"))
    is_verified: Mapped[bool] = mapped_column(server_default=text("false"))
    last_login_at: Mapped[datetime | None]
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now(), onupdate=func.now())

    sessions: Mapped[list[ConversationSession]] = relationship(
        back_populates="user", cascade="all, delete-orphan", passive_deletes=True
    )
    corpora: Mapped[list[RagCorpus]] = relationship(
        back_populates="user", cascade="all, delete-orphan", passive_deletes=True
    )


class ConversationSession(Base):
    """One conversation of a user with the agent."""

    __tablename__ = "conversation_sessions"
    __table_args__ = (
        CheckConstraint("channel IN ('phone', 'web', 'app')", name="channel_known"),
        CheckConstraint("ended_at >= started_at", name="ends_after_start"),
        Index("ix_conversation_sessions_user_id_started_at", "user_id", "started_at"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    channel: Mapped[str]
    language: Mapped[str]
    summary: Mapped[str | None]
    settings: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())
    ended_at: Mapped[datetime | None]

    user: Mapped[User] = relationship(back_populates="sessions")
    messages: Mapped[list[Message]] = relationship(
        back_populates="session",
        cascade="all, delete-orphan",
        order_by="Message.position",
        passive_deletes=True,
    )


class Message(Base):
    """What one side said in a conversation."""

    __tablename__ = "messages"
    __table_args__ = (
        # Its index begins with session_id, so the foreign key needs no index of its own.
        UniqueConstraint("session_id", "position"),
        CheckConstraint("position >= 0", name="position_not_negative"),
        CheckConstraint("role IN ('system', 'user', 'assistant', 'tool')", name="role_known"),
        CheckConstraint("audio_ms >= 0", name="audio_ms_not_negative"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    session_id: Mapped[int] = mapped_column(
        ForeignKey("conversation_sessions.id", ondelete="CASCADE")
    )
    position: Mapped[int]
    """Counts from 0 within the conversation, without gaps."""
    role: Mapped[str]
    content: Mapped[str]
    audio_ms: Mapped[int | None]
    """How long it took to say, in milliseconds; NULL for what was typed or not spoken."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())

    session: Mapped[ConversationSession] = relationship(back_populates="messages")


class RagCorpus(Base):
    """A user's collection of documents that the agent may answer from."""

    __tablename__ = "rag_corpora"
    __table_args__ = (
        # Its index begins with user_id, so the foreign key needs no index of its own.
        UniqueConstraint("user_id", "name"),
        CheckConstraint("btrim(name) <> ''", name="name_not_blank"),
        CheckConstraint("embedding_dimensions > 0", name="embedding_dimensions_positive"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.user_id", ondelete="CASCADE"))
    name: Mapped[str]
    description: Mapped[str | None]
    embedding_model: Mapped[str]
    embedding_dimensions: Mapped[int]
    settings: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now(), onupdate=func.now())

    user: Mapped[User] = relationship(back_populates="corpora")
    documents: Mapped[list[RagDocument]] = relationship(
        back_populates="corpus", cascade="all, delete-orphan", passive_deletes=True
    )


class RagDocument(Base):
    """One document of a corpus, with its whole text."""

    __tablename__ = "rag_documents"
    __table_args__ = (
        # Its index begins with corpus_id, so the foreign key needs no index of its own.
        UniqueConstraint("corpus_id", "content_sha256"),
        CheckConstraint("content_sha256 ~ '^[0-9a-f]{64}$'", name="content_sha256_hexadecimal"),
        CheckConstraint("status IN ('pending', 'ready', 'failed')", name="status_known"),
        CheckConstraint("(status = 'ready') = (indexed_at IS NOT NULL)", name="ready_when_indexed"),
        Index(
            "ix_rag_documents_not_ready",
            "created_at",
            postgresql_where=text("status <> 'ready'"),
        ),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    corpus_id: Mapped[int] = mapped_column(ForeignKey("rag_corpora.id", ondelete="CASCADE"))
    title: Mapped[str]
    source_uri: Mapped[str | None]
    media_type: Mapped[str] = mapped_column(server_default="text/plain")
    content: Mapped[str]
    content_sha256: Mapped[str]
    """The SHA-256 of `content` in UTF-8, in lower-case hexadecimal."""
    status: Mapped[str] = mapped_column(server_default="pending")
    attributes: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    indexed_at: Mapped[datetime | None]

    corpus: Mapped[RagCorpus] = relationship(back_populates="documents")
    chunks: Mapped[list[RagChunk]] = relationship(
        back_populates="document",
        cascade="all, delete-orphan",
        order_by="RagChunk.chunk_index",
        passive_deletes=True,
    )


class RagChunk(Base):
    """A piece of a document, as long as the embedding model takes at once."""

    __tablename__ = "rag_chunks"
    __table_args__ = (
        # Its index begins with document_id, so the foreign key needs no index of its own.
        UniqueConstraint("document_id", "chunk_index"),
        CheckConstraint("chunk_index >= 0", name="chunk_index_not_negative"),
        CheckConstraint("content <> ''", name="content_not_empty"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    document_id: Mapped[int] = mapped_column(ForeignKey("rag_documents.id", ondelete="CASCADE"))
    chunk_index: Mapped[int]
    """Counts from 0 within the document, without gaps."""
    content: Mapped[str]
    tokens: Mapped[list[int]]
    """The tokenizer's ids of `content`, in order."""
    embedding: Mapped[list[float] | None]
    """NULL until it is computed; otherwise as long as the corpus's `embedding_dimensions`."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())

    document: Mapped[RagDocument] = relationship(back_populates="chunks")
