"""Tables of another team: a schema of its own, keys of time, ids of two columns, odd names."""

from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import BigInteger, Column, Date, DateTime, Index, Integer, Table, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from partitions import (
    ArchivePolicy,
    Child,
    Link,
    ListPartitions,
    MonthlyRange,
    Retention,
    declare_partitions,
)

MOMENT = DateTime(timezone=True)
RETENTION = Retention(months=12)
PAY = {"schema": "pay"}


class State(StrEnum):
    """Where a payment is."""

    OPEN = "open"
    SETTLED = "settled"
    REFUSED = "refused"


class Base(DeclarativeBase):
    """The team's tables."""


class PaymentColumns:
    """A payment: a tenant's number names it."""

    tenant_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    settled_at: Mapped[datetime | None] = mapped_column(MOMENT)
    note: Mapped[str | None] = mapped_column("No te", Text)


class Payment(PaymentColumns, Base):
    """A live payment."""

    __tablename__ = "payments"
    __table_args__ = (PAY,)

    state: Mapped[str] = mapped_column(Text, primary_key=True)
    created_at: Mapped[datetime] = mapped_column(MOMENT)


class ArchivedPayment(PaymentColumns, Base):
    """A payment that ended, in the month in which it was made."""

    __tablename__ = "payments_archive"
    __table_args__ = (PAY,)

    state: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(MOMENT, primary_key=True)


class EventColumns:
    """What happened to a payment."""

    tenant: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    payment_number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    event: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)


class Event(EventColumns, Base):
    """What happened to a live payment."""

    __tablename__ = "Payment Events"
    __table_args__ = (PAY,)


class ArchivedEvent(EventColumns, Base):
    """What happened to an archived payment, in the payment's month."""

    __tablename__ = "Payment Events.archive"
    __table_args__ = (PAY,)

    created_at: Mapped[datetime] = mapped_column(MOMENT, primary_key=True)


class Hold(Base):
    """Work that is still owed."""

    __tablename__ = "holds"
    __table_args__ = (PAY,)

    tenant_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)


class Visit(Base):
    """A visit, by a timestamp without a time zone."""

    __tablename__ = "visits"

    visit_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    at: Mapped[datetime] = mapped_column(DateTime, primary_key=True)


REPORTS = Table(
    'Say "hi"',
    Base.metadata,
    Column("Day of", Date, primary_key=True),
    Column("id", BigInteger, primary_key=True, autoincrement=False),
)
"""A report of a day."""

PAYMENTS = ListPartitions(
    Payment,
    key=Payment.state,
    groups={"payments_open": {State.OPEN}, "Payments Done": {State.SETTLED, State.REFUSED}},
    row_id=(Payment.tenant_id, Payment.number),
    indexes={
        "payments_open": [
            Index("Open ones", Payment.number.desc(), postgresql_where=Payment.state == "open")
        ],
        "Payments Done": [Index("done_settled_idx", Payment.settled_at)],
    },
)
MONTHS = MonthlyRange(
    ArchivedPayment,
    key=ArchivedPayment.created_at,
    row_id=(ArchivedPayment.tenant_id, ArchivedPayment.number),
    months_ahead=1,
    retention=RETENTION,
)
EVENT_MONTHS = MonthlyRange(ArchivedEvent, key=ArchivedEvent.created_at, months_ahead=1, retention=RETENTION)
VISITS = MonthlyRange(Visit, key=Visit.at, months_ahead=1)
REPORT_MONTHS = MonthlyRange(REPORTS, key=REPORTS.c["Day of"], months_ahead=1)

ARCHIVE = ArchivePolicy(
    live="Payments Done",
    partition_of=Payment,
    archive=ArchivedPayment,
    row_id=(Payment.tenant_id, Payment.number),
    range_key=Payment.created_at,
    finished_at=Payment.settled_at,
    grace=timedelta(days=10),
    children=(Child(Event, archive=ArchivedEvent, key=(Event.tenant, Event.payment_number)),),
    unless_exists=(Link(Hold, key=(Hold.tenant_id, Hold.number)),),
)

POLICIES = (PAYMENTS, MONTHS, EVENT_MONTHS, VISITS, REPORT_MONTHS)
ARCHIVES = (ARCHIVE,)

declare_partitions(Base.metadata, POLICIES, ARCHIVES)
