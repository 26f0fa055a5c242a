"""What the MES learns from others: orders from the Shop, decisions and wishes from the CRM."""

from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from app.clock import Clock
from app.follow import UnexpectedEvent, lock_known
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
)
from app.messaging.message import Message
from app.models.mes import MesOrderColumns
from app.models.status import TRANSITIONS, Status
from app.orders import MES, MES_ARCHIVE, OrderModels, announce, append_event, apply_event
from readreplica.sessions import WriteSession

AnyMesOrder = TypeVar("AnyMesOrder", bound=MesOrderColumns)


@dataclass(frozen=True)
class MesHandlers:
    """Does what messages to the MES say; the clock is for what the MES itself decides."""

    now: Clock

    async def handle(self, session: WriteSession, message: Message) -> None:
        """Do what a message says."""
        match message.data:
            case OrderSubmitted() as submitted:
                await place(session, message, submitted)
            case OrderApproved() | OrderClosed() | CancelRequested():
                await self._obey(session, message)
            case _:
                raise UnexpectedEvent(MES.service, message)

    async def _obey(self, session: WriteSession, message: Message) -> None:
        """Do what the CRM wants with an order, live or archived."""
        try:
            await self._decide(session, MES, message)
        except NotYet:
            # It may have been archived since the CRM said so; if not, this raises NotYet again.
            await self._decide(session, MES_ARCHIVE, message)

    async def _decide(
        self, session: WriteSession, models: OrderModels[AnyMesOrder], message: Message
    ) -> None:
        order = await lock_known(session, models, message)
        match message.data:
            case CancelRequested() as wish:
                await self._answer(session, models, order, wish)
            case OrderApproved() | OrderClosed() as decided:
                await apply_event(session, models, order, decided, now=message.time)
                await announce(session, models, order, decided, now=message.time)

    async def _answer(
        self,
        session: WriteSession,
        models: OrderModels[AnyMesOrder],
        order: AnyMesOrder,
        wish: CancelRequested,
    ) -> None:
        """Call an order off, unless somebody is already making it."""
        now = self.now()
        if Status.CANCELLED not in TRANSITIONS[order.status]:
            await _refuse(session, models, order, wish, now)
            return
        cancelled = OrderCancelled(actor=wish.actor, reason=wish.reason)
        await repository.drop_pricing_job(session, order.order_id)
        await apply_event(session, models, order, cancelled, now=now)
        await announce(session, models, order, cancelled, now=now)


async def _refuse(
    session: WriteSession,
    models: OrderModels[AnyMesOrder],
    order: AnyMesOrder,
    wish: CancelRequested,
    now: datetime,
) -> None:
    holder = f", by {order.operator}" if order.operator else ""
    reason = f"it is already {order.status}{holder}"
    detail = {"cancel_refused": reason, "asked_by": wish.actor}
    await append_event(session, models, order, actor="mes", now=now, detail=detail)
    refused = CancelRefused(reason=reason, status=order.status)
    await announce(session, models, order, refused, now=now)
