"""The messages that the CRM handles: new orders from Shop (B2C) and MES (B2B), and their progress."""

from collections.abc import Iterable
from decimal import Decimal

from app.following import follow, lock_known
from app.messaging.events import CancelRefused, OrderSubmitted, PriceRenewed
from app.messaging.message import Message
from app.models.base import EventRow
from app.models.crm import CrmOrder
from app.orders import CRM, add_order, append_event, log_change, read_history
from readreplica.sessions import WriteSession


async def handle(session: WriteSession, message: Message) -> None:
    """Apply a message to the order that it is about."""
    match message.data:
        case OrderSubmitted() as submitted:
            await _learn(session, message, submitted)
        case CancelRefused() as refused:
            await _reopen(session, message, refused)
        case PriceRenewed() as renewed:
            order = await lock_known(session, CRM, message)
            if not awaits_another(await read_history(session, CRM, message.order_id), renewed.price):
                order.requote_requested_at = None
            await follow(session, CRM, message)
        case _:
            await follow(session, CRM, message)


async def _learn(session: WriteSession, message: Message, submitted: OrderSubmitted) -> None:
    customer = submitted.customer
    order = CrmOrder(
        order_id=message.order_id,
        status=submitted.status,
        channel=submitted.channel,
        summary=submitted.summary,
        customer_name=customer.name if customer else None,
        customer_email=customer.email if customer else None,
        partner=submitted.partner,
    )
    await add_order(session, CRM, order, actor=submitted.actor, now=message.time)


async def _reopen(session: WriteSession, message: Message, refused: CancelRefused) -> None:
    """Go on with an order that MES will not cancel."""
    order = await lock_known(session, CRM, message)
    order.cancel_requested_at = None
    detail, action = {"cancel_refused": refused.reason}, "order_cancel_refused"
    await append_event(session, CRM, order, actor="mes", now=message.time, detail=detail, action=action)
    log_change(session, "order_cancel_refused", order)


def awaits_another(history: Iterable[EventRow], price: Decimal) -> bool:
    """Return whether a seller has set another price, which MES has not said yet. Pure.

    The answer to a question of before, which crosses it, ends the wait for no price that was set.
    """
    wanted: Decimal | None = None
    for line in sorted(history, key=lambda line: line.event_no):
        if (renewed := line.detail.get("price_renewed")) is not None:
            wanted = None if Decimal(renewed["price"]) == wanted else wanted
        elif "price_set" in line.detail:
            wanted = Decimal(line.detail["price_set"])
        elif "requote_requested" in line.detail:
            # What was set was never answered: a price by the price list is good again.
            wanted = None
    return wanted is not None and wanted != price
