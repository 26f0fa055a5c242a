"""The Shop's SQL."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert

from app.models.shop import ShopOrder, ShopOrderEvent
from app.models.status import Channel, Status
from app.orders import UnknownOrder
from app.shop.schemas import StartOrder
from app.views import summarise
from readreplica.sessions import AnySession, ReadSession, WriteSession


async def insert_once(
    session: WriteSession, request: StartOrder, *, order_id: int, key: str, now: datetime
) -> bool:
    """Insert a new order; False if the key has made one already.

    Should another transaction be inserting with this key right now, this waits until that one has ended.
    """
    row = {
        "order_id": order_id,
        "status": Status.INITIATED,
        "channel": Channel.B2C,
        "summary": summarise(
            quantity=request.quantity, model_name="model", material=request.material, finish=request.finish
        ),
        "customer_name": request.customer.name,
        "customer_email": request.customer.email,
        "material": request.material.value,
        "finish": request.finish.value,
        "quantity": request.quantity,
        "idempotency_key": key,
        "version": 1,
        "created_at": now,
        "changed_at": now,
    }
    written = await session.execute(
        insert(ShopOrder)
        .values(row)
        .on_conflict_do_nothing(index_elements=[ShopOrder.idempotency_key])
        .returning(ShopOrder.order_id)
    )
    return written.first() is not None


async def get_by_key(session: AnySession, key: str) -> ShopOrder:
    """Find the order that an idempotency key has made."""
    return (await session.scalars(select(ShopOrder).where(ShopOrder.idempotency_key == key))).one()


async def get(session: AnySession, order_id: int) -> ShopOrder:
    """Find an order by its id.

    Raises:
        UnknownOrder: there is none.
    """
    order = await session.get(ShopOrder, order_id)
    if order is None:
        raise UnknownOrder(order_id)
    return order


async def history(session: ReadSession, order_id: int) -> Sequence[ShopOrderEvent]:
    """Read what happened to an order."""
    return (await session.scalars(select(ShopOrderEvent).where(ShopOrderEvent.order_id == order_id))).all()
