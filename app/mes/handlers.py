"""What the MES learns from others: orders from the Shop, decisions and wishes from the CRM."""

from dataclasses import dataclass
from datetime import datetime

from app.clock import Clock
from app.follow import UnexpectedEvent, lock_known
from app.mes import repository
from app.mes.intake import place
from app.messaging.events import (
    CancelRefused,
    CancelRequested,
    OrderApproved,
    OrderCancelled,
    OrderClosed,
    OrderSubmitted,
)
from app.messaging.message import Message
from app.models.mes import MesOrder
from app.models.status import TRANSITIONS, Status
from app.orders import MES, announce, append_event, apply_event
from readreplica.sessions import WriteSession


@dataclass(frozen=True)
class MesHandlers:
    """Does what messages to the MES say; the clock is for what the MES itself decides."""

    now: Clock

    async def handle(self, session: WriteSession, message: Message) -> None:
        """Do what a message says."""
        match message.data:
            case OrderSubmitted() as submitted:
                await place(session, message, submitted)
            case OrderApproved() | OrderClosed() as decided:
                order = await lock_known(session, MES, message)
                await apply_event(session, MES, order, decided, now=message.time)
                await announce(session, MES, order, decided, now=message.time)
            case CancelRequested() as wish:
                await self._answer(session, await lock_known(session, MES, message), wish)
            case _:
                raise UnexpectedEvent(MES.service, message)

    async def _answer(self, session: WriteSession, order: MesOrder, wish: CancelRequested) -> None:
        """Call an order off, unless somebody is already making it."""
        now = self.now()
        if Status.CANCELLED not in TRANSITIONS[order.status]:
            await _refuse(session, order, wish, now)
            return
        cancelled = OrderCancelled(actor=wish.actor, reason=wish.reason)
        await repository.drop_pricing_job(session, order.order_id)
        await apply_event(session, MES, order, cancelled, now=now)
        await announce(session, MES, order, cancelled, now=now)


async def _refuse(session: WriteSession, order: MesOrder, wish: CancelRequested, now: datetime) -> None:
    holder = f", by {order.operator}" if order.operator else ""
    reason = f"it is already {order.status}{holder}"
    detail = {"cancel_refused": reason, "asked_by": wish.actor}
    await append_event(session, MES, order, actor="mes", now=now, detail=detail)
    refused = CancelRefused(reason=reason, status=order.status)
    await announce(session, MES, order, refused, now=now)
