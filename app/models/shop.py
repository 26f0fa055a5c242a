"""The Shop's view: what the customer started, uploaded and submitted."""

from sqlalchemy import Integer, PrimaryKeyConstraint, Text, UniqueConstraint
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


class ShopBase(DeclarativeBase):
    """Everything in the shop's database."""

    metadata = new_metadata()


class ShopOrder(Quoted, OrderState, ShopBase):
    """An order as its customer sees it."""

    __tablename__ = "orders"

    customer_name: Mapped[str] = mapped_column(Text)
    customer_email: Mapped[str] = mapped_column(Text)
    material: Mapped[str] = mapped_column(Text)
    finish: Mapped[str] = mapped_column(Text)
    quantity: Mapped[int] = mapped_column(Integer)
    model_key: Mapped[str | None] = mapped_column(Text)
    model_name: Mapped[str | None] = mapped_column(Text)
    idempotency_key: Mapped[str] = mapped_column(Text)

    __table_args__ = (
        PrimaryKeyConstraint("order_id"),
        UniqueConstraint("idempotency_key"),
        index_open_orders(),
    )


class ShopOrderEvent(EventRow, ShopBase):
    """The history of a shop order."""

    __tablename__ = "order_events"


class ShopOutbox(OutboxRow, ShopBase):
    """Messages that the shop owes."""


class ShopInbox(InboxRow, ShopBase):
    """Messages that the shop has handled."""


class ShopAuditLine(AuditRow, ShopBase):
    """Who has changed what in this database."""


class ShopAuditSeal(AuditSealRow, ShopBase):
    """The seals of those lines."""
