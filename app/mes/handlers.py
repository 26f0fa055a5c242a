"""The messages that the MES handles: orders from the Shop, decisions and requests from the CRM."""

from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from app.flow.turns import enqueue, sender_of_order
from app.following import UnexpectedEvent, lock_known, standing_quote
from app.kit.clock import Clock
from app.kit.telemetry import traceparent_of
from app.mes import repository
from app.mes.intake import place
from app.messaging.errors import NotYet
from app.messaging.events import (
    CancelRefused,
    CancelRequested,
    OrderApproved,
    OrderCancelled,
    OrderClosed,
    OrderSubmitted,
    PriceRenewed,
    PriceSet,
    RequoteRequested,
)
from app.messaging.message import Message
from app.models.mes import MesOrderColumns, PricingJob
from app.models.status import TRANSITIONS, Status
from app.orders import (
    MES,
    MES_ARCHIVE,
    OrderModels,
    announce,
    append_event,
    log_change,
    record_event,
    renew_price,
)
from readreplica.sessions import WriteSession

AnyMesOrder = TypeVar("AnyMesOrder", bound=MesOrderColumns)


@dataclass(frozen=True)
class MesHandlers:
    """Does what messages to the MES say; the clock is for what the MES itself decides."""

    now: Clock

    async def handle(self, session: WriteSession, message: Message) -> None:
        """Apply a message to the order that it is about."""
        match message.data:
            case OrderSubmitted() as submitted:
                await place(session, message, submitted)
            case OrderApproved() | OrderClosed() | CancelRequested() | RequoteRequested() | PriceSet():
                await self._apply(session, message)
            case _:
                raise UnexpectedEvent(MES.service, message)

    async def _apply(self, session: WriteSession, message: Message) -> None:
        """Apply a decision or a request of the CRM to an order, live or archived."""
        try:
            await self._apply_to(session, MES, message)
        except NotYet:
            # It may have been archived since the CRM said so; if not, this raises NotYet again.
            await self._apply_to(session, MES_ARCHIVE, message)

    async def _apply_to(
        self, session: WriteSession, models: OrderModels[AnyMesOrder], message: Message
    ) -> None:
        order = await lock_known(session, models, message)
        match message.data:
            case CancelRequested() as request:
                await self._answer(session, models, order, request)
            case RequoteRequested() as request:
                await _requote(session, models, order, request, message.time)
            case PriceSet() as wanted:
                await _set_price(session, models, order, wanted, message.time)
            case OrderApproved() | OrderClosed() as decided:
                await record_event(session, models, order, decided, now=message.time)

    async def _answer(
        self,
        session: WriteSession,
        models: OrderModels[AnyMesOrder],
        order: AnyMesOrder,
        request: CancelRequested,
    ) -> None:
        """Cancel an order, unless it is already being made."""
        now = self.now()
        if Status.CANCELLED not in TRANSITIONS[order.status]:
            await _refuse(session, models, order, request, now)
            return
        cancelled = OrderCancelled(actor=request.actor, reason=request.reason)
        await repository.drop_pricing_job(session, order.order_id)
        await record_event(session, models, order, cancelled, now=now)


async def _requote(
    session: WriteSession,
    models: OrderModels[AnyMesOrder],
    order: AnyMesOrder,
    request: RequoteRequested,
    now: datetime,
) -> None:
    """Have an order priced anew. One that waits for approval no longer has ended: the CRM hears of that."""
    if order.status is not Status.PRICE_CALCULATED:
        return
    detail, action = {"requote_requested": request.actor}, "order_requote_requested"
    await append_event(session, models, order, actor=request.actor, now=now, detail=detail, action=action)
    if not await repository.has_pricing_job(session, order.order_id):
        sender = sender_of_order(order.order_id, order.partner)
        await enqueue(
            session, PricingJob(order_id=order.order_id, sender=sender, traceparent=traceparent_of())
        )


async def _set_price(
    session: WriteSession,
    models: OrderModels[AnyMesOrder],
    order: AnyMesOrder,
    wanted: PriceSet,
    now: datetime,
) -> None:
    """Set the price that a seller wants, and say so to all; only while it waits for approval."""
    if order.status is not Status.PRICE_CALCULATED:
        return
    # What is being calculated would come later, and be another price again.
    await repository.drop_pricing_job(session, order.order_id)
    standing = await standing_quote(session, order.order_id, actor=wanted.actor)
    how = {"price_set": str(wanted.price), "from": str(order.price), "reason": wanted.reason}
    renewed = PriceRenewed(**{**standing, "price": wanted.price})
    await renew_price(session, models, order, renewed, now=now, how=how)
    await announce(session, models, order, renewed, now=now)


async def _refuse(
    session: WriteSession,
    models: OrderModels[AnyMesOrder],
    order: AnyMesOrder,
    request: CancelRequested,
    now: datetime,
) -> None:
    holder = f", by {order.operator}" if order.operator else ""
    reason = f"it is already {order.status}{holder}"
    detail = {"cancel_refused": reason, "asked_by": request.actor}
    action = "order_cancel_refused"
    await append_event(session, models, order, actor="mes", now=now, detail=detail, action=action)
    refused = CancelRefused(reason=reason, status=order.status)
    await announce(session, models, order, refused, now=now)
    log_change(session, "order_cancel_refused", order)
