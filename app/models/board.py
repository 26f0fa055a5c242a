"""The board's view: every order as its services say it is, for those who read lists of them.

Nothing is decided here, and nothing is known here that a service does not know: `mesctl board rebuild`
makes all of it again from their databases.
"""

from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    DateTime,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, TSVECTOR
from sqlalchemy.orm import DeclarativeBase, Mapped, declared_attr, mapped_column

from app.models.base import CHANNEL, MONEY, STATUS, EventRow, InboxRow, new_metadata
from app.models.status import DONE, HOT, Channel, Status
from partitions import ListPartitions, declare_partitions
from partitions.policy import Policy


class BoardBase(DeclarativeBase):
    """Everything in the board's database."""

    metadata = new_metadata()


class BoardOrder(BoardBase):
    """An order as the lists show it: one row, made of what its services have said.

    `status` is the MES's, once it has the order; `crm_status` and `shop_status` are what these show.
    `changed_at` is since when it has its status. `shipped_at` and `cancel_refused_at` are of its history, and
    so is `replaced_by`: the order that its customer has started for it, after it was rejected.
    """

    __tablename__ = "orders"

    order_id: Mapped[int] = mapped_column(BigInteger, autoincrement=False)
    status: Mapped[Status] = mapped_column(STATUS)
    channel: Mapped[Channel] = mapped_column(CHANNEL)
    summary: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    changed_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    shop_status: Mapped[Status | None] = mapped_column(STATUS)
    crm_status: Mapped[Status | None] = mapped_column(STATUS)
    mes_status: Mapped[Status | None] = mapped_column(STATUS)
    price: Mapped[Decimal | None] = mapped_column(MONEY)
    price_valid_until: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    tariff_version: Mapped[str | None] = mapped_column(Text)
    reason: Mapped[str | None] = mapped_column(Text)
    customer_name: Mapped[str | None] = mapped_column(Text)
    customer_email: Mapped[str | None] = mapped_column(Text)
    partner: Mapped[str | None] = mapped_column(Text)
    reference: Mapped[str | None] = mapped_column(Text)
    operator: Mapped[str | None] = mapped_column(Text)
    materials: Mapped[list[str]] = mapped_column(ARRAY(Text))
    quantity: Mapped[int] = mapped_column(Integer)
    cancel_requested_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    requote_requested_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    cancel_refused_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    shipped_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    replaced_by: Mapped[int | None] = mapped_column(BigInteger)
    words: Mapped[str] = mapped_column(TSVECTOR)

    @declared_attr.directive
    def __mapper_args__(cls) -> dict[str, Any]:  # noqa: N805 (SQLAlchemy's signature)
        return {"primary_key": [cls.order_id]}

    @declared_attr.directive
    def __table_args__(cls) -> tuple[Any, ...]:  # noqa: N805 (SQLAlchemy's signature)
        return (
            PrimaryKeyConstraint("order_id", "status"),
            {"postgresql_partition_by": "LIST (status)"},
        )


class BoardSource(BoardBase):
    """The newest snapshot of an order by one service, without its history: the order's row is made of it."""

    __tablename__ = "order_sources"

    order_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    source: Mapped[str] = mapped_column(Text, primary_key=True)
    version: Mapped[int] = mapped_column(Integer)
    snapshot: Mapped[dict[str, Any]] = mapped_column(JSONB)


class BoardHistory(EventRow, BoardBase):
    """A line of an order's history in one of the services."""

    __tablename__ = "order_history"

    source: Mapped[str] = mapped_column(Text, primary_key=True)

    @declared_attr.directive
    def __table_args__(cls) -> tuple[Any, ...]:  # noqa: N805 (SQLAlchemy's signature)
        return (PrimaryKeyConstraint("order_id", "source", "event_no"),)


class BoardInbox(InboxRow, BoardBase):
    """Snapshots that the board has handled."""


class BoardNotice(BoardBase):
    """Something that a customer is to be written: a row for a line of a history, until it is sent."""

    __tablename__ = "notices"

    order_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    source: Mapped[str] = mapped_column(Text, primary_key=True)
    event_no: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    kind: Mapped[str] = mapped_column(Text)
    at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    attempts: Mapped[int] = mapped_column(Integer)
    next_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))

    __table_args__ = (Index("notices_next_idx", next_at),)


class BoardRebuild(BoardBase):
    """How far a rebuild is in a database of the services: it goes on there after a stop."""

    __tablename__ = "rebuilds"

    database: Mapped[str] = mapped_column(Text, primary_key=True)
    table: Mapped[str] = mapped_column("table_name", Text, primary_key=True)
    after_order_id: Mapped[int] = mapped_column(BigInteger)
    orders: Mapped[int] = mapped_column(BigInteger)
    begun_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    changed_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    ended_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


def _waiting_orders() -> Iterator[Index]:
    """Return the indexes of the lists of orders that wait, each by since when (see `app.models.mes`)."""
    for status in Status:
        if status in HOT:
            predicate = text(f"status = '{status}'::text")
            columns = (BoardOrder.changed_at, BoardOrder.order_id)
            yield Index(f"orders_hot_{status.lower()}_idx", *columns, postgresql_where=predicate)


def _found_by(table: str) -> Iterator[Index]:
    """Return the indexes by which an order is found wherever it is."""
    by_id, order = BoardOrder.order_id.desc(), BoardOrder
    yield Index(f"{table}_words_idx", order.words, postgresql_using="gin")
    for name in ("customer_email", "partner"):
        predicate = text(f"{name} IS NOT NULL")
        yield Index(f"{table}_{name}_idx", getattr(order, name), by_id, postgresql_where=predicate)
    shipped = text("shipped_at IS NOT NULL")
    yield Index(
        f"{table}_pay_idx",
        order.operator,
        order.shipped_at,
        # What an operator has earned in a month is read off the index alone.
        postgresql_include=["price"],
        postgresql_where=shipped,
    )


ORDERS = ListPartitions(
    BoardOrder,
    key=BoardOrder.status,
    groups={"orders_hot": HOT, "orders_done": DONE},
    row_id=BoardOrder.order_id,
    indexes={
        "orders_hot": [
            *_waiting_orders(),
            *_found_by("orders_hot"),
            Index("orders_hot_waiting_idx", BoardOrder.changed_at, BoardOrder.order_id),
            Index(
                "orders_hot_operator_idx",
                BoardOrder.operator,
                BoardOrder.changed_at,
                BoardOrder.order_id,
                postgresql_where=text("operator IS NOT NULL"),
            ),
            Index(
                "orders_hot_expiring_idx",
                BoardOrder.price_valid_until,
                BoardOrder.order_id,
                postgresql_where=text("status = 'PRICE_CALCULATED'::text"),
            ),
            Index(
                "orders_hot_cancel_refused_idx",
                BoardOrder.cancel_refused_at,
                BoardOrder.order_id,
                postgresql_where=text("cancel_refused_at IS NOT NULL"),
            ),
        ],
        "orders_done": [
            *_found_by("orders_done"),
            Index(
                "orders_done_rejected_idx",
                BoardOrder.changed_at,
                BoardOrder.order_id,
                postgresql_where=text("status = 'REJECTED'::text AND replaced_by IS NULL"),
            ),
        ],
    },
)
"""Orders that wait for somebody, apart from those that have ended."""

declare_partitions(BoardBase.metadata, [ORDERS])

POLICIES: tuple[Policy, ...] = (ORDERS,)
"""How the board's tables are partitioned."""
