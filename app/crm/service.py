"""What the CRM does: sellers look at orders, approve them, close them and ask to call them off."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from sqlalchemy import Select, select

from app.crm.errors import CancellationPending, PriceExpired, PriceRenewalPending
from app.crm.schemas import (
    AskFile,
    CancelOrder,
    CrmOrderDetail,
    CrmOrderPage,
    CrmOrderView,
    SetPrice,
    etag_of_order,
)
from app.database import Work
from app.flow.grants import Allowance
from app.flow.places import Places
from app.kit.clock import Clock
from app.kit.etags import check_seen
from app.messaging.events import CancelRequested, OrderApproved, OrderClosed, PriceSet, RequoteRequested
from app.messaging.outbox import find_waiting
from app.messaging.routing import ServiceName
from app.models.crm import CrmOrder
from app.models.status import IllegalTransition, Status
from app.orders import (
    CRM,
    announce,
    append_event,
    get_order,
    is_repeated,
    lock_order,
    log_change,
    read_history,
    record_event,
)
from app.schemas import WaitingView
from app.stored import StoredOrderView, find_stored
from readreplica.cluster import Cluster
from readreplica.sessions import WriteSession

ASK_AGAIN_AFTER = timedelta(minutes=10)
"""After so long without an answer MES is asked for a new price once more, if a seller asks again."""


@dataclass(frozen=True, kw_only=True)
class CrmService:
    """The CRM, with everything that it works with: its database, the clock, and how fast MES is sent to."""

    orders: Cluster
    places: Places
    now: Clock
    to_mes: Allowance

    async def approve(self, order_id: int, actor: str, *, seen: str | None = None) -> CrmOrderView:
        """Confirm a price, so that the order can be made; MES gets a message.

        Asked again by the seller who has confirmed it, this changes nothing.

        Parameters:
            order_id: the order.
            actor: who confirms.
            seen: the tags of the order as he has read it (`If-Match`); None for whatever it is now.

        Raises:
            UnknownOrder, IllegalTransition, CancellationPending, PriceRenewalPending, PriceExpired,
            ChangedMeanwhile: and nothing is changed.
        """
        return await self._write(partial(self._approve, order_id, actor, seen))

    async def _approve(
        self, order_id: int, actor: str, seen: str | None, session: WriteSession
    ) -> CrmOrderView:
        order = await lock_order(session, CRM, order_id)
        event = OrderApproved(actor=actor)
        if not await is_repeated(session, CRM, order, wanted=event.status, actor=event.actor):
            now = self.now()
            _check_seen(order, seen)
            _refuse_approval(order, now)
            await record_event(session, CRM, order, event, now=now)
        return CrmOrderView.of(order)

    async def requote(self, order_id: int, actor: str, *, seen: str | None = None) -> CrmOrderView:
        """Ask MES for a price by the price list of now, for an order that waits for approval.

        Asked again while MES has not answered, this changes nothing for ten minutes; then MES is asked again.

        Raises:
            UnknownOrder, IllegalTransition, ChangedMeanwhile: and nothing is changed.
        """
        return await self._write(partial(request_quote, order_id, actor=actor, now=self.now(), seen=seen))

    async def set_price(
        self, order_id: int, request: SetPrice, actor: str, *, seen: str | None = None
    ) -> CrmOrderView:
        """Ask MES to set another price than the one that was calculated; until it has, none is approved.

        Asked again while MES has not answered, this changes nothing.

        Raises:
            UnknownOrder, IllegalTransition, CancellationPending, PriceRenewalPending, PriceExpired,
                ChangedMeanwhile: and nothing is changed.
        """
        work = partial(set_price, order_id, request, actor=actor, now=self.now(), seen=seen)
        return await self._write(work)

    async def close(self, order_id: int, actor: str, *, seen: str | None = None) -> CrmOrderView:
        """End an order that has been delivered; MES gets a message.

        Asked again by the seller who has closed it, this changes nothing.

        Raises:
            UnknownOrder, IllegalTransition, ChangedMeanwhile: and nothing is changed.
        """
        return await self._write(partial(self._close, order_id, actor, seen))

    async def _close(
        self, order_id: int, actor: str, seen: str | None, session: WriteSession
    ) -> CrmOrderView:
        order = await lock_order(session, CRM, order_id)
        event = OrderClosed(actor=actor)
        if not await is_repeated(session, CRM, order, wanted=event.status, actor=event.actor):
            _check_seen(order, seen)
            await record_event(session, CRM, order, event, now=self.now())
        return CrmOrderView.of(order)

    async def ask_file(self, order_id: int, request: AskFile, actor: str) -> CrmOrderView:
        """Note that the customer of a rejected order is asked for another file: his page shows it.

        Asked again in the same words, this changes nothing.

        Raises:
            UnknownOrder, IllegalTransition: it was not rejected, and nothing is changed.
        """
        return await self._write(partial(self._ask_file, order_id, request.reason, actor))

    async def _ask_file(self, order_id: int, reason: str, actor: str, session: WriteSession) -> CrmOrderView:
        order = await lock_order(session, CRM, order_id)
        if order.status is not Status.REJECTED:
            raise IllegalTransition(order_id, order.status, Status.FILE_UPLOADED)
        detail = {"file_requested": reason}
        if not await _is_asked_already(session, order, actor, detail):
            action = "order_file_requested"
            await append_event(session, CRM, order, actor=actor, now=self.now(), detail=detail, action=action)
            log_change(session, "order_file_requested", order)
        return CrmOrderView.of(order)

    async def cancel(
        self, order_id: int, request: CancelOrder, actor: str, *, seen: str | None = None
    ) -> CrmOrderView:
        """Ask MES to cancel an order. It decides, because an operator may be taking the order right now.

        Asked again while MES has not answered, or after it has agreed, this changes nothing.

        Raises:
            UnknownOrder, IllegalTransition, ChangedMeanwhile: and nothing is changed.
        """
        ask = partial(self._request_cancellation, order_id, request.reason, actor=actor, seen=seen)
        return await self._write(ask)

    async def _request_cancellation(
        self, order_id: int, reason: str, session: WriteSession, *, actor: str, seen: str | None
    ) -> CrmOrderView:
        order = await lock_order(session, CRM, order_id)
        repeated = await is_repeated(
            session, CRM, order, wanted=Status.CANCELLED, actor=actor, detail={"reason": reason}
        )
        if not repeated and order.cancel_requested_at is None:
            _check_seen(order, seen)
            now = order.cancel_requested_at = self.now()
            detail, action = {"cancel_requested": reason}, "order_cancel_requested"
            await append_event(session, CRM, order, actor=actor, now=now, detail=detail, action=action)
            await announce(session, CRM, order, CancelRequested(actor=actor, reason=reason), now=now)
            log_change(session, "order_cancel_requested", order)
        return CrmOrderView.of(order)

    async def _write(self, work: Work[CrmOrderView]) -> CrmOrderView:
        return (await self.orders.transact(work)).value

    async def stored(self, order_id: int) -> StoredOrderView:
        """Return where an order is kept, and the messages of it that are not acknowledged.

        Raises:
            UnknownOrder: there is none.
        """
        async with self.orders.read() as session:
            return await find_stored(session, CRM, order_id)

    async def show(self, order_id: int) -> CrmOrderDetail:
        """Read an order with its history.

        Raises:
            UnknownOrder: there is none.
        """
        async with self.orders.read() as session:
            order = await get_order(session, CRM, order_id)
            history = await read_history(session, CRM, order_id)
            unsent = await find_waiting(session, CRM.outbox, order_id, ServiceName.MES)
        waiting = WaitingView.of(unsent, per_second=self.to_mes.per_second)
        pricing = await self.places.of(order)
        return CrmOrderDetail.with_history(order, history, pricing=pricing, waiting=waiting)

    async def page(self, *, status: Status | None, limit: int, below: int | None) -> CrmOrderPage:
        """Read a page of orders, newest first.

        Parameters:
            status: only orders of this status.
            limit: the most orders on the page.
            below: the last order's id of the page before.
        """
        async with self.orders.read() as session:
            # One more than asked for: then there is another page.
            found = await session.scalars(_newest(status=status, below=below).limit(limit + 1))
            orders = [CrmOrderView.of(order) for order in found]
        more = len(orders) > limit
        return CrmOrderPage(orders=orders[:limit], next_cursor=orders[limit - 1].order_id if more else None)


def _check_seen(order: CrmOrder, seen: str | None) -> None:
    check_seen(f"order {order.order_id}", etag_of_order(CrmOrderView.of(order)), seen)


def _refuse_approval(order: CrmOrder, now: datetime) -> None:
    """Refuse to confirm a price that is about to change, or not valid any more.

    Raises:
        CancellationPending, PriceRenewalPending, PriceExpired: why.
    """
    if order.cancel_requested_at is not None:
        raise CancellationPending(order.order_id, order.cancel_requested_at)
    if order.requote_requested_at is not None:
        raise PriceRenewalPending(order.order_id, order.requote_requested_at)
    if order.price_valid_until is not None and order.price_valid_until <= now:
        raise PriceExpired(order.order_id, order.price_valid_until)


async def request_quote(
    order_id: int, session: WriteSession, *, actor: str, now: datetime, seen: str | None = None
) -> CrmOrderView:
    """Owe MES the question for a new price, unless it has not answered the last one, of a moment ago.

    It may never: a pricing worker of an older release drops what it does not know.

    Raises:
        UnknownOrder, IllegalTransition, ChangedMeanwhile: and nothing is changed.
    """
    order = await lock_order(session, CRM, order_id)
    if order.status is not Status.PRICE_CALCULATED:
        raise IllegalTransition(order_id, order.status, Status.PRICE_CALCULATED)
    if order.requote_requested_at is None or order.requote_requested_at <= now - ASK_AGAIN_AFTER:
        _check_seen(order, seen)
        order.requote_requested_at = now
        detail, action = {"requote_requested": actor}, "order_requote_requested"
        await append_event(session, CRM, order, actor=actor, now=now, detail=detail, action=action)
        await announce(session, CRM, order, RequoteRequested(actor=actor), now=now)
        log_change(session, "order_requote_requested", order)
    return CrmOrderView.of(order)


async def set_price(
    order_id: int,
    request: SetPrice,
    session: WriteSession,
    *,
    actor: str,
    now: datetime,
    seen: str | None = None,
) -> CrmOrderView:
    """Owe MES the question for a price that a seller has set, with the reason.

    Raises:
        UnknownOrder, IllegalTransition, CancellationPending, PriceRenewalPending, PriceExpired,
            ChangedMeanwhile: and nothing is changed.
    """
    order = await lock_order(session, CRM, order_id)
    if order.status is not Status.PRICE_CALCULATED:
        raise IllegalTransition(order_id, order.status, Status.PRICE_CALCULATED)
    asked = {"price_set": str(request.price), "from": str(order.price), "reason": request.reason}
    is_pending = order.requote_requested_at is not None
    if is_pending and await _is_asked_already(session, order, actor, asked):
        return CrmOrderView.of(order)
    _refuse_approval(order, now)
    _check_seen(order, seen)
    order.requote_requested_at = now
    event = PriceSet(actor=actor, price=request.price, reason=request.reason)
    await append_event(session, CRM, order, actor=actor, now=now, detail=asked, action="order_price_set")
    await announce(session, CRM, order, event, now=now)
    log_change(session, "order_price_set", order)
    return CrmOrderView.of(order)


async def _is_asked_already(
    session: WriteSession, order: CrmOrder, actor: str, asked: dict[str, str]
) -> bool:
    history = await read_history(session, CRM, order.order_id)
    last = max(history, key=lambda line: line.event_no)
    return (last.actor, last.detail) == (actor, asked)


def _newest(*, status: Status | None, below: int | None) -> Select[CrmOrder]:
    """Select orders, newest first: of a status, and those after a page's last one."""
    wanted = select(CrmOrder).order_by(CrmOrder.order_id.desc())
    if status is not None:
        wanted = wanted.where(CrmOrder.status == status)
    if below is not None:
        wanted = wanted.where(CrmOrder.order_id < below)
    return wanted
