"""The messages that the CRM handles: new orders from Shop (B2C) and MES (B2B), and their progress."""

from app.following import follow, lock_known
from app.messaging.events import CancelRefused, OrderSubmitted, PriceRenewed
from app.messaging.message import Message
from app.models.crm import CrmOrder
from app.orders import CRM, add_order, append_event, log_change
from readreplica.sessions import WriteSession


async def handle(session: WriteSession, message: Message) -> None:
    """Apply a message to the order that it is about."""
    match message.data:
        case OrderSubmitted() as submitted:
            await _learn(session, message, submitted)
        case CancelRefused() as refused:
            await _reopen(session, message, refused)
        case PriceRenewed():
            (await lock_known(session, CRM, message)).requote_requested_at = None
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
