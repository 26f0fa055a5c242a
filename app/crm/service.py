"""What the CRM does: sellers look at orders, approve them, close them and ask to call them off."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

from app.clock import Clock
from app.crm import repository
from app.crm.errors import CancellationPending
from app.crm.schemas import CancelOrder, CrmOrderDetail, CrmOrderPage, CrmOrderView, Decision
from app.messaging.events import CancelRequested, OrderApproved, OrderClosed, StatusChanged
from app.models.crm import CrmOrder
from app.models.status import Status
from app.orders import CRM, announce, append_event, apply_event, is_repeated, lock_order
from readreplica.cluster import Cluster
from readreplica.sessions import WriteSession

Change = Callable[[WriteSession, CrmOrder, datetime], Awaitable[None]]
"""Changes a locked order, at the given moment."""


@dataclass(frozen=True, kw_only=True)
class CrmService:
    """The CRM, with everything that it works with: its database and the clock."""

    orders: Cluster
    now: Clock

    async def approve(self, order_id: int, decision: Decision) -> CrmOrderView:
        """Confirm a price, so that the order can be made; MES is told.

        Asked again by the seller who has confirmed it, this changes nothing.

        Raises:
            UnknownOrder, IllegalTransition, CancellationPending: and nothing is changed.
        """

        async def approve(session: WriteSession, order: CrmOrder, now: datetime) -> None:
            event = OrderApproved(actor=decision.actor)
            if await is_repeated(session, CRM, order, wanted=event.status, actor=event.actor):
                return
            if order.cancel_requested_at is not None:
                raise CancellationPending(order_id, order.cancel_requested_at)
            await _decide(session, order, event, now)

        return await self._change(order_id, approve)

    async def close(self, order_id: int, decision: Decision) -> CrmOrderView:
        """End an order that has been delivered; MES is told.

        Asked again by the seller who has closed it, this changes nothing.

        Raises:
            UnknownOrder, IllegalTransition: and nothing is changed.
        """

        async def close(session: WriteSession, order: CrmOrder, now: datetime) -> None:
            event = OrderClosed(actor=decision.actor)
            if not await is_repeated(session, CRM, order, wanted=event.status, actor=event.actor):
                await _decide(session, order, event, now)

        return await self._change(order_id, close)

    async def cancel(self, order_id: int, wish: CancelOrder) -> CrmOrderView:
        """Ask MES to call an order off. It decides, because an operator may be taking the order right now.

        Asked again while MES has not answered, or after it has agreed, this changes nothing.

        Raises:
            UnknownOrder, IllegalTransition: and nothing is changed.
        """

        async def request(session: WriteSession, order: CrmOrder, now: datetime) -> None:
            detail = {"reason": wish.reason}
            if await is_repeated(
                session, CRM, order, wanted=Status.CANCELLED, actor=wish.actor, detail=detail
            ):
                return
            if order.cancel_requested_at is not None:
                return
            order.cancel_requested_at = now
            requested = {"cancel_requested": wish.reason}
            await append_event(session, CRM, order, actor=wish.actor, now=now, detail=requested)
            event = CancelRequested(actor=wish.actor, reason=wish.reason)
            await announce(session, CRM, order, event, now=now)

        return await self._change(order_id, request)

    async def _change(self, order_id: int, change: Change) -> CrmOrderView:
        async def work(session: WriteSession) -> CrmOrderView:
            order = await lock_order(session, CRM, order_id)
            await change(session, order, self.now())
            return CrmOrderView.of(order)

        return (await self.orders.transact(work)).value

    async def show(self, order_id: int) -> CrmOrderDetail:
        """Read an order with its history.

        Raises:
            UnknownOrder: there is none.
        """
        async with self.orders.read() as session:
            order = await repository.get(session, order_id)
            return CrmOrderDetail.with_history(order, await repository.history(session, order_id))

    async def page(self, *, status: Status | None, limit: int, below: int | None) -> CrmOrderPage:
        """Read a page of orders, newest first.

        Parameters:
            status: only orders of this status.
            limit: the most orders on the page.
            below: the last order's id of the page before.
        """
        async with self.orders.read() as session:
            # One more than asked for tells whether there is another page.
            found = await session.scalars(repository.newest(status=status, below=below).limit(limit + 1))
            orders = [CrmOrderView.of(order) for order in found]
        more = len(orders) > limit
        return CrmOrderPage(orders=orders[:limit], next_cursor=orders[limit - 1].order_id if more else None)


async def _decide(session: WriteSession, order: CrmOrder, event: StatusChanged, now: datetime) -> None:
    await apply_event(session, CRM, order, event, now=now)
    await announce(session, CRM, order, event, now=now)
