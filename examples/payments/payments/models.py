"""The tables: a payment and its history, live and archived."""

from datetime import datetime
from enum import StrEnum

from sqlalchemy import BigInteger, DateTime, Integer, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sharding import shard_key

MOMENT = DateTime(timezone=True)


class State(StrEnum):
    """Where a payment is."""

    OPEN = "open"
    DONE = "done"


class Base(DeclarativeBase):
    """Everything in a shard."""


class OfTenant:
    """A row of a tenant. All rows of one tenant are on one shard."""

    __table_args__ = ({"info": shard_key("tenant_id")},)

    # The first columns of every primary key: rows are looked up by them.
    payment_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False, sort_order=-2)
    tenant_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False, sort_order=-1)


class PaymentColumns(OfTenant):
    """What a payment has, wherever it is kept."""

    cents: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(MOMENT)
    finished_at: Mapped[datetime | None] = mapped_column(MOMENT)


class EventColumns(OfTenant):
    """What happened to a payment."""

    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    words: Mapped[str] = mapped_column(Text)


class Payment(PaymentColumns, Base):
    """A payment that is open, or was a short time ago."""

    __tablename__ = "payments"

    state: Mapped[str] = mapped_column(Text, primary_key=True)


class PaymentEvent(EventColumns, Base):
    """The history of a live payment."""

    __tablename__ = "payment_events"


class PaymentArchive(PaymentColumns, Base):
    """A payment that was finished long ago."""

    __tablename__ = "payments_archive"

    created_at: Mapped[datetime] = mapped_column(MOMENT, primary_key=True)


class PaymentEventArchive(EventColumns, Base):
    """The history of an archived payment, in the month of its payment."""

    __tablename__ = "payment_events_archive"

    created_at: Mapped[datetime] = mapped_column(MOMENT, primary_key=True)
