"""Outbox and inbox: the two tables that stand in every service's database (every shard, for MES)."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, DateTime, Identity, Index, Integer, Text, Uuid, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, declared_attr, mapped_column


class OutboxRow:
    """A message to one destination; it is deleted only when that destination has acknowledged it.

    `sequence` orders the messages of one order: the writer holds the order's row lock while it takes
    one, so a later message of the same order cannot get a lower number. Between orders it means nothing.
    """

    __tablename__ = "outbox"

    order_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    sequence: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    message_id: Mapped[UUID] = mapped_column(Uuid)
    destination: Mapped[str] = mapped_column(Text)
    type: Mapped[str] = mapped_column(Text)
    data: Mapped[dict[str, Any]] = mapped_column(JSONB)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    attempts: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    next_attempt_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    set_aside_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    set_aside_reason: Mapped[str | None] = mapped_column(Text)

    @declared_attr.directive
    def __table_args__(cls) -> tuple[Index, ...]:  # noqa: N805 (SQLAlchemy's signature)
        # The relay asks for the oldest message of each order and destination.
        return (Index(None, "destination", "order_id", "sequence"), Index(None, "message_id"))


class InboxRow:
    """A message that was handled, written in the handler's own transaction: once, whatever Redis repeats."""

    __tablename__ = "inbox"

    order_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    message_id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    source: Mapped[str] = mapped_column(Text)
    type: Mapped[str] = mapped_column(Text)
    received_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
