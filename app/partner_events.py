"""What partners hear of their orders by webhooks: one row for each event, in the transaction of the change.

A row says how the order is now, and never who of the staff has changed it.
"""

from datetime import datetime
from typing import Any
from uuid import uuid4

from sqlalchemy import insert

from app.messaging.events import EVENTS, CancelRequested, Event, OrderSnapshot, Quote, RequoteRequested
from app.models.mes import MesOrderColumns, WebhookEvent
from readreplica.sessions import WriteSession

TYPES = tuple(sorted(EVENTS.keys() - {CancelRequested.type, RequoteRequested.type, OrderSnapshot.type}))
"""The events that a partner hears of. The others are the CRM's questions, and the board's."""


async def note_for_partner(
    session: WriteSession, order: MesOrderColumns, event: Event, *, at: datetime
) -> None:
    """Insert what a partner hears of an event of its order; of a customer's order, nothing.

    The caller holds the row lock of the order: so a later event of it has a higher sequence.

    Parameters:
        session: the transaction that changes the order.
        order: as it is after the event.
        event: what has happened.
        at: when, with a time zone.
    """
    if order.partner is None or event.type not in TYPES:
        return
    row = {
        "order_id": order.order_id,
        "event_id": uuid4(),
        "partner": order.partner,
        "type": event.type,
        "data": said_of(order, event),
        "created_at": at,
    }
    await session.execute(insert(WebhookEvent), [row])


def said_of(order: MesOrderColumns, event: Event) -> dict[str, Any]:
    """Return what the event says of the order. Pure."""
    until = event.price_valid_until if isinstance(event, Quote) else None
    return {
        "order_id": str(order.order_id),
        "reference": order.reference,
        "status": order.status.value,
        "summary": order.summary,
        "price": None if order.price is None else f"{order.price:.2f}",
        "currency": "EUR",
        "price_valid_until": None if until is None else until.isoformat(),
        "reason": order.reason,
    }
