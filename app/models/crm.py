"""The CRM's view: who ordered, what the seller decided, and how far the factory is."""

from datetime import datetime

from sqlalchemy import DateTime, PrimaryKeyConstraint, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from app.models.base import (
    AuditRow,
    AuditSealRow,
    EventRow,
    InboxRow,
    OrderState,
    OutboxRow,
    Quoted,
    index_open_orders,
    new_metadata,
)


class CrmBase(DeclarativeBase):
    """Everything in the CRM's database."""

    metadata = new_metadata()


class CrmOrder(Quoted, OrderState, CrmBase):
    """An order as a seller sees it. `customer_*` are for B2C, `partner` is for B2B."""

    __tablename__ = "orders"

    customer_name: Mapped[str | None] = mapped_column(Text)
    customer_email: Mapped[str | None] = mapped_column(Text)
    partner: Mapped[str | None] = mapped_column(Text)
    cancel_requested_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    requote_requested_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))

    __table_args__ = (PrimaryKeyConstraint("order_id"), index_open_orders())


class CrmOrderEvent(EventRow, CrmBase):
    """The history of a CRM order."""

    __tablename__ = "order_events"


class CrmOutbox(OutboxRow, CrmBase):
    """Messages that the CRM owes."""


class CrmInbox(InboxRow, CrmBase):
    """Messages that the CRM has handled."""


class CrmAuditLine(AuditRow, CrmBase):
    """Who has changed what in this database."""


class CrmAuditSeal(AuditSealRow, CrmBase):
    """The seals of those lines."""
