"""What the MES does for operators: the list of orders, taking one, advancing it, looking at it."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from app.database import Work
from app.flow.places import Places
from app.kit.clock import Clock
from app.kit.etags import check_seen
from app.mes import repository
from app.mes.errors import NotTheHolder, TakenByAnother
from app.mes.hot_list import HotLists
from app.mes.intake import IntakeState, shown_waiting
from app.mes.schemas import (
    LISTED,
    SET_BY_OPERATORS,
    AdvanceOrder,
    MesOrderDetail,
    MesOrderPage,
    MesOrderView,
    ReleaseOrder,
    etag_of_order,
)
from app.messaging.events import (
    PROGRESS,
    ManufacturingStarted,
    OrderRejected,
    OrderReleased,
    OrderShipped,
    OrderSubmitted,
    StatusChanged,
)
from app.models.base import EventRow
from app.models.mes import Intake, MesOrder, PricingJob
from app.models.status import IllegalTransition, Status, check_release
from app.orders import (
    MES,
    MES_ARCHIVE,
    UnknownOrder,
    append_event,
    is_repeated,
    is_visible,
    log_change,
    read_history,
    record_event,
    shipping_detail,
)
from app.stored import StoredJobView, StoredOrderView, find_stored
from readreplica.freshness import ANY, PRIMARY, Freshness
from readreplica.sessions import WriteSession
from readreplica.token import CausalToken
from sharding.scatter import CursorKeys
from sharding.sessions import ShardedSessions

_OPERATORS = tuple(
    status
    for status in LISTED
    if status in {*SET_BY_OPERATORS, Status.MANUFACTURING_APPROVED, Status.MANUFACTURING_STARTED}
)

WORKED_ON = frozenset({Status.MANUFACTURING_STARTED, Status.MANUFACTURING_COMPLETED, Status.PACKAGING})
"""The statuses in which an order is an operator's work."""

HANDED_OVER = "handed_over"

HOT_LIMIT = 50
"""The length of the pages that are kept: that of a list which is asked for without a limit."""


@dataclass(frozen=True, kw_only=True)
class MesService:
    """The operators' side of the MES, with everything that it works with: the shards and the clock."""

    sessions: ShardedSessions
    now: Clock
    intake: IntakeState
    places: Places
    cursor_keys: CursorKeys | None = None
    """What signs page cursors; None for a key that only this process has."""

    lists: HotLists | None = None
    """Where first pages are kept; None has the shards read for each."""

    async def page(self, status: Status, *, limit: int, cursor: str | None) -> MesOrderPage:
        """Read a page of the orders of one status over all shards, newest first.

        Parameters:
            status: one that `schemas.LISTED` holds.
            limit: the most orders on the page.
            cursor: `next_cursor` of the page before.
        """
        # A cursor of another process is good for those alone that share its keys.
        if self.lists is not None and self.cursor_keys and cursor is None and limit == HOT_LIMIT:
            fill = partial(self._read_page, status, limit=limit, cursor=None, freshness=PRIMARY)
            kept = await self.lists.page(status, lambda after: fill(after=after))
            if kept is not None:
                return kept
        return await self._read_page(status, limit=limit, cursor=cursor)

    async def _read_page(
        self,
        status: Status,
        *,
        limit: int,
        cursor: str | None,
        after: CausalToken | None = None,
        freshness: Freshness = ANY,
    ) -> MesOrderPage:
        rows, following = await repository.read_page(
            self.sessions,
            repository.newest(status),
            limit=limit,
            cursor=cursor,
            after=after,
            freshness=freshness,
            keys=self.cursor_keys,
        )
        return MesOrderPage(orders=list(map(MesOrderView.model_validate, rows)), next_cursor=following)

    async def show(self, order_id: int) -> MesOrderDetail:
        """Read an order, live or archived, with its lines and its history.

        Raises:
            UnknownOrder: there is none.
        """
        async with self.sessions.read(order_id) as session:
            # The intake first: what is placed between the two statements is found by the second.
            waiting = await session.get(Intake, order_id)
            if waiting is not None and is_visible(waiting):
                shown = await shown_waiting(session, waiting, self.intake)
                return MesOrderDetail.of_waiting(shown, OrderSubmitted.model_validate(waiting.body))
            found = await repository.find_all(session, order_id)
        pricing = await self.places.of(found.order)
        return MesOrderDetail.of(found.order, found.items, found.events, pricing=pricing)

    async def stored(self, order_id: int) -> StoredOrderView:
        """Return where an order is kept, live or archived, its messages that are owed, and its pricing job.

        Raises:
            UnknownOrder: there is none.
        """
        async with self.sessions.read(order_id) as session:
            try:
                found = await find_stored(session, MES, order_id)
            except UnknownOrder:
                return await find_stored(session, MES_ARCHIVE, order_id)
            job = await session.get(PricingJob, order_id)
        if job is None:
            return found
        held = StoredJobView(since=job.created_at, attempts=job.attempts, held_by=job.leased_by)
        return found.model_copy(update={"job": held})

    async def take(self, order_id: int, operator: str, *, seen: str | None = None) -> MesOrderView:
        """Assign an approved order to an operator: to one, however many ask at once.

        Asked again by the operator who has it, this changes nothing.

        Parameters:
            order_id: the order.
            operator: who asks.
            seen: the tags of the order as he has read it (`If-Match`); None for whatever it is now.

        Raises:
            TakenByAnother: it names who has it, and since when.
            UnknownOrder, IllegalTransition, ChangedMeanwhile: and nothing is changed.
        """
        return await self._write(order_id, partial(self._take, order_id, operator, seen))

    async def _take(
        self, order_id: int, operator: str, seen: str | None, session: WriteSession
    ) -> MesOrderView:
        order = await repository.lock(session, order_id, wanted=Status.MANUFACTURING_STARTED)
        if order.operator is None:
            _check_seen(order, seen)
            order.operator = operator
            event = ManufacturingStarted(actor=operator)
            await record_event(session, MES, order, event, now=self.now())
        elif order.operator != operator:
            since = held_since(await read_history(session, MES, order_id))
            raise TakenByAnother(order_id, order.operator, since or order.changed_at)
        return MesOrderView.model_validate(order)

    async def advance(
        self, order_id: int, step: AdvanceOrder, operator: str, *, seen: str | None = None
    ) -> MesOrderView:
        """Record how far the operator who holds an order is with it.

        Asked again by the one who has recorded it, this changes nothing.

        Raises:
            NotTheHolder: this operator has not taken it.
            UnknownOrder, IllegalTransition, ChangedMeanwhile: and nothing is changed.
        """
        return await self._write(order_id, partial(self._advance, order_id, step, operator, seen))

    async def _advance(
        self, order_id: int, step: AdvanceOrder, operator: str, seen: str | None, session: WriteSession
    ) -> MesOrderView:
        order = await repository.lock(session, order_id, wanted=step.to)
        detail = {"reason": step.reason} if step.reason is not None else shipping_detail(step.tracking)
        if not await is_repeated(session, MES, order, wanted=step.to, actor=operator, detail=detail):
            if order.operator != operator:
                raise NotTheHolder(order_id, operator, order.operator)
            _check_seen(order, seen)
            await record_event(session, MES, order, _event(step, operator), now=self.now())
        return MesOrderView.model_validate(order)

    async def release(
        self,
        order_id: int,
        request: ReleaseOrder,
        operator: str,
        *,
        for_another: bool,
        seen: str | None = None,
    ) -> MesOrderView:
        """Put back an order that was taken and is not made yet: it waits for another operator.

        Asked again by the one who has put it back, this changes nothing.

        Parameters:
            order_id: the order.
            request: why.
            operator: who asks.
            for_another: whether he may put back what another has taken.
            seen: as for `take`.

        Raises:
            NotTheHolder: he may not.
            UnknownOrder, IllegalTransition, ChangedMeanwhile: and nothing is changed.
        """
        work = partial(self._release, order_id, request.reason, operator, for_another=for_another, seen=seen)
        return await self._write(order_id, work)

    async def _release(
        self,
        order_id: int,
        reason: str,
        operator: str,
        session: WriteSession,
        *,
        for_another: bool,
        seen: str | None,
    ) -> MesOrderView:
        order = await repository.lock(session, order_id, wanted=Status.MANUFACTURING_APPROVED)
        if order.operator is None and await self._is_released(session, order_id, operator, reason):
            return MesOrderView.model_validate(order)
        check_release(order_id, order.status, Status.MANUFACTURING_APPROVED)
        if order.operator != operator and not for_another:
            raise NotTheHolder(order_id, operator, order.operator, wanted="put back")
        _check_seen(order, seen)
        event = OrderReleased(actor=operator, reason=reason)
        await record_event(session, MES, order, event, now=self.now())
        return MesOrderView.model_validate(order)

    async def _is_released(self, session: WriteSession, order_id: int, operator: str, reason: str) -> bool:
        history = await read_history(session, MES, order_id)
        last = max(history, key=lambda line: line.event_no, default=None)
        return last is not None and (last.actor, last.detail) == (operator, {"released": reason})

    async def hand_over(
        self, order_id: int, to: str, operator: str, *, for_another: bool, seen: str | None = None
    ) -> MesOrderView:
        """Hand an order that was taken over to another operator, who goes on with it.

        Asked again, this changes nothing.

        Parameters:
            order_id: the order.
            to: who gets it; the caller has looked that there is such an operator.
            operator: who asks.
            for_another: whether he may hand over what another has taken.
            seen: as for `take`.

        Raises:
            NotTheHolder: he may not.
            UnknownOrder, IllegalTransition, ChangedMeanwhile: and nothing is changed.
        """
        work = partial(self._hand_over, order_id, to, operator, for_another=for_another, seen=seen)
        return await self._write(order_id, work)

    async def _hand_over(
        self,
        order_id: int,
        to: str,
        operator: str,
        session: WriteSession,
        *,
        for_another: bool,
        seen: str | None,
    ) -> MesOrderView:
        order = await repository.lock(session, order_id, wanted=Status.MANUFACTURING_STARTED)
        if order.status not in WORKED_ON:
            raise IllegalTransition(order_id, order.status, Status.MANUFACTURING_STARTED)
        if order.operator == to:
            return MesOrderView.model_validate(order)
        if order.operator != operator and not for_another:
            raise NotTheHolder(order_id, operator, order.operator, wanted="hand over")
        _check_seen(order, seen)
        detail = {HANDED_OVER: {"from": order.operator, "to": to}}
        order.operator = to
        await append_event(session, MES, order, actor=operator, now=self.now(), detail=detail)
        log_change(session, "order_handed_over", order)
        return MesOrderView.model_validate(order)

    async def _write(self, order_id: int, work: Work[MesOrderView]) -> MesOrderView:
        view = (await self.sessions.transact(order_id, work)).value
        if self.lists is not None:
            # Those that an operator's step takes an order from, or brings it to.
            await self.lists.changed(*_OPERATORS)
        return view


def _check_seen(order: MesOrder, seen: str | None) -> None:
    check_seen(f"order {order.order_id}", etag_of_order(MesOrderView.model_validate(order)), seen)


def held_since(history: Iterable[EventRow]) -> datetime | None:
    """Return since when an order's operator has it: he took it, or was given it."""
    since, status = None, None
    for line in sorted(history, key=lambda line: line.event_no):
        is_taken = line.status is Status.MANUFACTURING_STARTED and line.status is not status
        if is_taken or HANDED_OVER in line.detail:
            since = line.at
        status = line.status
    return since


def _event(step: AdvanceOrder, operator: str) -> StatusChanged:
    if step.reason is not None:
        return OrderRejected(actor=operator, reason=step.reason)
    if step.tracking is not None:
        return OrderShipped(actor=operator, tracking=step.tracking)
    return PROGRESS[step.to](actor=operator)
