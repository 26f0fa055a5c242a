"""Where a service keeps an order, and what it still has to do for it: for staff who look into a delay."""

from datetime import datetime

from pydantic import Field
from sqlalchemy import func, literal_column, select
from sqlalchemy.dialects.postgresql import REGCLASS

from app.messaging.routing import ServiceName
from app.orders import AnyOrder, OrderModels, UnknownOrder
from app.schemas import OrderIdText, View
from readreplica.sessions import AnySession

MOST_MESSAGES = 50


class OwedMessageView(View):
    """A message of the order that was not acknowledged yet."""

    to: ServiceName = Field(examples=["crm"])
    type: str = Field(examples=["order.shipped"])
    since: datetime
    attempts: int
    set_aside: str | None = Field(description="Why it is sent no more; null while it is.")


class StoredJobView(View):
    """The order's pricing job."""

    since: datetime
    attempts: int
    held_by: str | None = Field(description="The worker that prices it now.")


class StoredOrderView(View):
    """Where an order is, and what is owed for it."""

    order_id: OrderIdText
    database: str = Field(examples=["mes_0"])
    partition: str = Field(examples=["orders_hot"])
    messages: list[OwedMessageView]
    job: StoredJobView | None = None


async def find_stored(session: AnySession, models: OrderModels[AnyOrder], order_id: int) -> StoredOrderView:
    """Return where a database has an order, and its unsent messages, by two statements.

    Raises:
        UnknownOrder: it has none of this id in this table.
    """
    order, row = models.order, models.outbox
    partition = literal_column("tableoid").cast(REGCLASS).cast(row.type.type)
    place = select(func.current_database(), partition).where(order.order_id == order_id)
    found = (await session.execute(place.select_from(order))).first()
    if found is None:
        raise UnknownOrder(order_id)
    owed = (
        select(row.destination, row.type, row.created_at, row.attempts, row.set_aside_reason)
        .where(row.order_id == order_id)
        .order_by(row.sequence)
        .limit(MOST_MESSAGES)
    )
    names = tuple(OwedMessageView.model_fields)
    messages = [
        OwedMessageView(**dict(zip(names, message, strict=True))) for message in await session.execute(owed)
    ]
    return StoredOrderView(order_id=str(order_id), database=found[0], partition=found[1], messages=messages)
