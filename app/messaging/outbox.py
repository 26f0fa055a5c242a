"""The writing side: what an order's change owes to others, in the transaction that makes the change."""

from collections.abc import Collection
from datetime import datetime
from uuid import uuid4

from sqlalchemy import insert

from app.messaging.events import Event
from app.messaging.routing import Service
from app.models.messaging import OutboxRow
from readreplica.sessions import WriteSession


async def publish(
    session: WriteSession,
    outbox: type[OutboxRow],
    *,
    order_id: int,
    event: Event,
    destinations: Collection[Service],
    at: datetime,
) -> None:
    """Owe `event` to each destination; it is sent when, and only if, the session commits.

    The caller holds the row lock of the order (it inserted, changed or locked the row). Pending changes
    are flushed first, so that the lock is taken before the sequence number: of two transactions on one
    order, the later one then gets the higher number.

    Parameters:
        session: the transaction that changes the order.
        outbox: the outbox of the database in which the order lies.
        order_id: the order.
        event: what happened.
        destinations: who is told, see `app.messaging.routing.route`; may be empty.
        at: when it happened, with a time zone.
    """
    await session.flush()
    rows = [
        {
            "order_id": order_id,
            "message_id": uuid4(),
            "destination": destination.value,
            "type": event.type,
            "data": event.model_dump(mode="json"),
            "created_at": at,
        }
        for destination in destinations
    ]
    if rows:
        await session.execute(insert(outbox), rows)
