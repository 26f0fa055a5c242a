"""The Shop's SQL."""

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert

from app.models.shop import ShopOrder
from app.models.status import Channel, Status
from app.schemas import summarise
from app.shop.schemas import StartOrder
from readreplica.sessions import AnySession, WriteSession


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
