"""Column types and mixins that the services' models share; each service has a metadata of its own."""

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, Generic, TypeVar
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BigInteger,
    DateTime,
    Dialect,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    Text,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, declared_attr, mapped_column
from sqlalchemy.types import TypeDecorator

from app.models.status import HOT, Channel, Status

NAMING = {
    "ix": "%(table_name)s_%(column_0_N_name)s_idx",
    "uq": "%(table_name)s_%(column_0_N_name)s_key",
    "ck": "%(table_name)s_%(constraint_name)s_check",
    "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
    "pk": "%(table_name)s_pkey",
}
"""PostgreSQL's own default names, so that hand-written DDL and the models agree."""


def new_metadata() -> MetaData:
    """Make the metadata of one migration tree, with PostgreSQL's names for constraints."""
    return MetaData(naming_convention=NAMING)


E = TypeVar("E", bound=StrEnum)


class EnumText(TypeDecorator[E], Generic[E]):
    """A StrEnum kept as TEXT: a new status is then data, and never an ALTER TYPE on a live system."""

    impl = Text
    cache_ok = True

    def __init__(self, enum: type[E]) -> None:
        super().__init__()
        self.enum = enum

    def process_bind_param(self, value: E | None, dialect: Dialect) -> str | None:  # noqa: ARG002 (SQLAlchemy's signature)
        """Refuse a value that the enum does not hold before it reaches the database."""
        return None if value is None else self.enum(value).value

    def process_result_value(self, value: Any | None, dialect: Dialect) -> E | None:  # noqa: ARG002 (SQLAlchemy's signature)
        """Return the enum's member."""
        return None if value is None else self.enum(value)


STATUS = EnumText(Status)
CHANNEL = EnumText(Channel)
MONEY = Numeric(12, 2)


class Timestamps:
    """When the row was made, and when its status last changed."""

    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    changed_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())


class OrderState(Timestamps):
    """What every service knows of an order, whatever else it keeps of its own.

    PostgreSQL wants the partition key in the table's primary key, `(order_id, status)`; to the mapper the
    identity is `order_id` alone, so that `session.get_one(Order, order_id)` reads as it should.
    `version` is SQLAlchemy's optimistic lock and refuses a lost update.
    """

    order_id: Mapped[int] = mapped_column(BigInteger, autoincrement=False)
    status: Mapped[Status] = mapped_column(STATUS)
    channel: Mapped[Channel] = mapped_column(CHANNEL)
    summary: Mapped[str] = mapped_column(Text)
    price: Mapped[Decimal | None] = mapped_column(MONEY)
    reason: Mapped[str | None] = mapped_column(Text)
    version: Mapped[int] = mapped_column(Integer)

    @declared_attr.directive
    def __mapper_args__(cls) -> dict[str, Any]:  # noqa: N805 (SQLAlchemy's signature)
        return {"primary_key": [cls.order_id], "version_id_col": cls.version}


class Quoted:
    """Until when an order's price may be approved, and by which rates it was made; both null without a price.

    The same two are null of what was priced before quotes had an end.
    """

    price_valid_until: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    tariff_version: Mapped[str | None] = mapped_column(Text)


def index_open_orders() -> Index:
    """Return the index by which open orders are counted, however many have ended."""
    statuses = ", ".join(f"'{status}'" for status in sorted(HOT))
    return Index("orders_open_idx", "status", "changed_at", postgresql_where=text(f"status IN ({statuses})"))


class EventRow:
    """One line of an order's history; only ever appended."""

    order_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    event_no: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    status: Mapped[Status] = mapped_column(STATUS)
    at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    actor: Mapped[str] = mapped_column(Text)
    detail: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default="{}")


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
    traceparent: Mapped[str | None] = mapped_column(Text)

    @declared_attr.directive
    def __table_args__(cls) -> tuple[Index | dict[str, Any], ...]:  # noqa: N805 (SQLAlchemy's signature)
        return (
            # The relay asks for the oldest message of each order and destination,
            Index(None, "destination", "order_id", "sequence"),
            # and for those that came after the ones that it knows.
            Index(None, "destination", "sequence", postgresql_where=text("set_aside_at IS NULL")),
            Index(None, "message_id"),
            # Room for the version that a sending makes: on its own page it changes no index.
            {"postgresql_with": {"fillfactor": 50}},
        )


class InboxRow:
    """A message that was handled, written in the handler's own transaction: once, whatever Redis repeats."""

    __tablename__ = "inbox"

    order_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    message_id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    source: Mapped[str] = mapped_column(Text)
    type: Mapped[str] = mapped_column(Text)
    received_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())


class AuditRow:
    """Who has changed what, from where and by which key: appended in the transaction of the change.

    A line belongs to the database that wrote it, and to no key: it stays where it is when orders move.
    `xid` is the transaction's, by which it is known when no line can come before another any more.
    """

    __tablename__ = "audit_log"

    xid: Mapped[int] = mapped_column(
        BigInteger,
        primary_key=True,
        autoincrement=False,
        server_default=text("(pg_current_xact_id()::text)::bigint"),
    )
    line_no: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=text("clock_timestamp()"))
    action: Mapped[str] = mapped_column(Text)
    order_id: Mapped[int | None] = mapped_column(BigInteger)
    caller: Mapped[str] = mapped_column(Text)
    role: Mapped[str] = mapped_column(Text)
    door: Mapped[str | None] = mapped_column(Text)
    identity_id: Mapped[int | None] = mapped_column(BigInteger)
    credential: Mapped[str | None] = mapped_column(Text)
    address: Mapped[str | None] = mapped_column(Text)
    trace_id: Mapped[str | None] = mapped_column(Text)
    facts: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default="{}")

    @declared_attr.directive
    def __table_args__(cls) -> tuple[Index, ...]:  # noqa: N805 (SQLAlchemy's signature)
        return (Index(None, "order_id"),)


class AuditSealRow:
    """Digests of the lines of transactions from `from_xid` to below `below_xid`, with the seal before."""

    __tablename__ = "audit_seals"

    seal_no: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    from_xid: Mapped[int] = mapped_column(BigInteger)
    below_xid: Mapped[int] = mapped_column(BigInteger)
    line_nos: Mapped[list[int]] = mapped_column(ARRAY(BigInteger))
    line_digests: Mapped[bytes] = mapped_column(LargeBinary)
    previous: Mapped[bytes] = mapped_column(LargeBinary)
    digest: Mapped[bytes] = mapped_column(LargeBinary)
    sealed_by: Mapped[str] = mapped_column(Text)
    sealed_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=text("clock_timestamp()")
    )
