"""What the board's pages read: each list is one statement, off an index, and one page of it.

A status stands in the SQL as a literal, or PostgreSQL uses the partial index of that status by no statement.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import groupby
from typing import Any, NamedTuple, Self

from sqlalchemy import ARRAY, ColumnElement, Select, Text, cast, func, literal, select, tuple_
from sqlalchemy.dialects.postgresql import TSQUERY

from app.board.projection import search_words
from app.kit.errors import AppError
from app.messaging.events import OrderSnapshot, SnapshotLine
from app.messaging.routing import ServiceName
from app.models.base import STATUS
from app.models.board import BoardHistory, BoardOrder, BoardSource
from app.models.status import HOT, Channel, Status
from app.orders import UnknownOrder
from readreplica.cluster import Cluster
from readreplica.freshness import PRIMARY
from readreplica.sessions import AnySession

PAGE = 50
WORKED_ON = (Status.MANUFACTURING_STARTED, Status.MANUFACTURING_COMPLETED, Status.PACKAGING)
"""The statuses in which an order is some operator's work."""


class ListCursorMalformed(AppError):
    """A cursor is none that a page has given."""

    def __init__(self) -> None:
        super().__init__("the cursor is not good: begin with the first page")


class Cursor(NamedTuple):
    """Behind which order a page begins: by a time and the order's id, or by the id alone."""

    at: datetime | None
    order_id: int

    def encode(self) -> str:
        """Write it for a link."""
        return f"{self.at.isoformat() if self.at else ''}~{self.order_id}"

    @classmethod
    def decode(cls, text: str) -> Self:
        """Read what `encode` has written.

        Raises:
            ListCursorMalformed: it is not that.
        """
        at, _, order_id = text.partition("~")
        try:
            found = cls(datetime.fromisoformat(at) if at else None, int(order_id))
        except ValueError:
            raise ListCursorMalformed from None
        if not 0 <= found.order_id < 2**63 or (found.at is not None and found.at.tzinfo is None):
            raise ListCursorMalformed
        return found


class ListedOrder(NamedTuple):
    """An order as a list shows it."""

    order_id: int
    status: Status
    channel: Channel
    summary: str
    created_at: datetime
    changed_at: datetime
    shop_status: Status | None
    crm_status: Status | None
    mes_status: Status | None
    price: Decimal | None
    price_valid_until: datetime | None
    tariff_version: str | None
    reason: str | None
    customer_name: str | None
    customer_email: str | None
    partner: str | None
    reference: str | None
    operator: str | None
    materials: Sequence[str]
    quantity: int
    cancel_requested_at: datetime | None
    requote_requested_at: datetime | None
    cancel_refused_at: datetime | None
    shipped_at: datetime | None
    replaced_by: int | None


_COLUMNS = tuple(getattr(BoardOrder, name) for name in ListedOrder._fields)


@dataclass(frozen=True)
class ListedPage:
    """Orders, and behind which of them the next page begins; None on the last."""

    orders: Sequence[ListedOrder]
    next_cursor: Cursor | None


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Which orders of a list are shown; without any of these, all.

    Parameters:
        materials: one of these.
        price_from: in euros, at least.
        price_to: in euros, at most.
        channel: how it came in.
        partner: whose it is, by the whole name.
        waits_since: has had its status since then, or longer.
        text: has all of these words, or words that begin so.
    """

    materials: Sequence[str] = ()
    price_from: Decimal | None = None
    price_to: Decimal | None = None
    channel: Channel | None = None
    partner: str | None = None
    waits_since: datetime | None = None
    text: str = ""

    def conditions(self) -> list[ColumnElement[bool]]:
        """Return them as SQL."""
        order, found = BoardOrder, list[ColumnElement[bool]]()
        if self.materials:
            found.append(
                order.materials.op("&&", is_comparison=True)(cast(list(self.materials), ARRAY(Text)))
            )
        if self.price_from is not None:
            found.append(order.price >= self.price_from)
        if self.price_to is not None:
            found.append(order.price <= self.price_to)
        if self.channel is not None:
            found.append(order.channel == self.channel)
        if self.partner is not None:
            found.append(order.partner == self.partner)
        if self.waits_since is not None:
            found.append(order.changed_at <= self.waits_since)
        if self.text.strip():
            found.append(_has_words(self.text))
        return found


ALL = Filters()


def _has_words(text: str) -> ColumnElement[bool]:
    """Return the condition that an order has words that begin as those of a text."""
    # Each is a lexeme as it stands: what is quoted goes through no parser.
    query = " & ".join(f"'{word}':*" for word in search_words(text))
    return BoardOrder.words.op("@@", is_comparison=True)(cast(literal(query), TSQUERY))


def _is(status: Status) -> ColumnElement[bool]:
    return BoardOrder.status == literal(status, STATUS, literal_execute=True)


def _is_hot() -> ColumnElement[bool]:
    hot = [status for status in Status if status in HOT]
    return BoardOrder.status.in_([literal(status, STATUS, literal_execute=True) for status in hot])


async def new_orders(
    session: AnySession,
    filters: Filters = ALL,
    *,
    limit: int = PAGE,
    cursor: Cursor | None = None,
    newest_first: bool = False,
) -> ListedPage:
    """Read a page of the orders that wait for an operator: the longest waiting first, or the newest."""
    waiting = [_is(Status.MANUFACTURING_APPROVED), *filters.conditions()]
    return await _page(session, waiting, BoardOrder.changed_at, limit, cursor, descends=newest_first)


async def orders_in(
    session: AnySession,
    status: Status,
    filters: Filters = ALL,
    *,
    limit: int = PAGE,
    cursor: Cursor | None = None,
) -> ListedPage:
    """Read a page of the orders of one status that is no end, those first that have had it longest."""
    return await _page(session, [_is(status), *filters.conditions()], BoardOrder.changed_at, limit, cursor)


async def my_orders(session: AnySession, operator: str, *, limit: int = 200) -> Sequence[ListedOrder]:
    """Read what an operator has taken and not shipped, the oldest first."""
    mine = _is_hot(), BoardOrder.operator == operator, BoardOrder.status.in_(WORKED_ON)
    return (await _page(session, mine, BoardOrder.changed_at, limit, None)).orders


async def to_confirm(
    session: AnySession, filters: Filters = ALL, *, limit: int = PAGE, cursor: Cursor | None = None
) -> ListedPage:
    """Read a page of the orders whose price no one has approved, those first that have waited longest."""
    waiting = [
        _is(Status.PRICE_CALCULATED),
        BoardOrder.crm_status == Status.PRICE_CALCULATED,
        BoardOrder.cancel_requested_at.is_(None),
        *filters.conditions(),
    ]
    return await _page(session, waiting, BoardOrder.changed_at, limit, cursor)


async def expiring(
    session: AnySession, *, before: datetime, limit: int = PAGE, cursor: Cursor | None = None
) -> ListedPage:
    """Read a page of the orders whose price can be approved until `before` at most, or no more."""
    found = _is(Status.PRICE_CALCULATED), BoardOrder.price_valid_until <= before
    return await _page(session, found, BoardOrder.price_valid_until, limit, cursor)


async def refused_cancellations(
    session: AnySession, *, limit: int = PAGE, cursor: Cursor | None = None
) -> ListedPage:
    """Read a page of the orders that MES would not cancel, and that have not ended since."""
    found = _is_hot(), BoardOrder.cancel_refused_at.is_not(None), BoardOrder.cancel_requested_at.is_(None)
    return await _page(session, found, BoardOrder.cancel_refused_at, limit, cursor)


async def rejected(session: AnySession, *, limit: int = PAGE, cursor: Cursor | None = None) -> ListedPage:
    """Read a page of the orders that were rejected last and that their customers have not started again."""
    found = _is(Status.REJECTED), BoardOrder.replaced_by.is_(None)
    return await _page(session, found, BoardOrder.changed_at, limit, cursor, descends=True)


async def waiting_long(
    session: AnySession, *, since: datetime, limit: int = PAGE, cursor: Cursor | None = None
) -> ListedPage:
    """Read a page of the orders that have had their status since then, or longer, and are not at an end."""
    return await _page(
        session, (_is_hot(), BoardOrder.changed_at <= since), BoardOrder.changed_at, limit, cursor
    )


async def search(
    session: AnySession, text: str, *, limit: int = PAGE, cursor: Cursor | None = None
) -> ListedPage:
    """Read a page of the orders that have words that begin as those of a text, the newest first.

    An order's id is one of its words, and so are those of its customer, its partner and its models.
    """
    if not search_words(text):
        return ListedPage((), None)
    return await _newest(session, [_has_words(text)], limit, cursor)


async def customer_history(
    session: AnySession,
    *,
    email: str | None = None,
    partner: str | None = None,
    limit: int = PAGE,
    cursor: Cursor | None = None,
) -> ListedPage:
    """Read a page of all orders of a customer or a partner, the newest first."""
    of = BoardOrder.partner == partner if email is None else BoardOrder.customer_email == email
    return await _newest(session, [of], limit, cursor)


async def _newest(
    session: AnySession, conditions: Sequence[ColumnElement[bool]], limit: int, cursor: Cursor | None
) -> ListedPage:
    query = select(*_COLUMNS).where(*conditions)
    if cursor is not None:
        query = query.where(BoardOrder.order_id < cursor.order_id)
    rows = await _read(session, query.order_by(BoardOrder.order_id.desc()), limit)
    return ListedPage(rows[:limit], Cursor(None, rows[limit - 1].order_id) if len(rows) > limit else None)


async def _page(
    session: AnySession,
    conditions: Sequence[ColumnElement[bool]],
    by: Any,
    limit: int,
    cursor: Cursor | None,
    *,
    descends: bool = False,
) -> ListedPage:
    query = select(*_COLUMNS).where(*conditions)
    place = (by, BoardOrder.order_id)
    query = query.order_by(*(column.desc() if descends else column for column in place))
    if cursor is not None:
        here, behind = tuple_(*place), tuple_(cursor.at, cursor.order_id)
        query = query.where(here < behind if descends else here > behind)
    rows = await _read(session, query, limit)
    last = rows[limit - 1] if len(rows) > limit else None
    return ListedPage(rows[:limit], Cursor(getattr(last, by.key), last.order_id) if last else None)


async def _read(session: AnySession, query: Select[Any], limit: int) -> list[ListedOrder]:
    """Read one row more than a page has: then there is another one."""
    return [ListedOrder._make(row) for row in await session.execute(query.limit(limit + 1))]


class Pay(NamedTuple):
    """How many orders an operator has shipped in a time, and what they cost together."""

    orders: int
    total: Decimal


async def pay(session: AnySession, operator: str, *, begin: datetime, end: datetime) -> Pay:
    """Count what an operator has shipped from `begin` until before `end`."""
    order = BoardOrder
    query = select(func.count(), func.coalesce(func.sum(order.price), 0)).where(
        order.operator == operator,
        order.shipped_at.is_not(None),
        order.shipped_at >= begin,
        order.shipped_at < end,
    )
    return Pay._make((await session.execute(query)).one())


class TimelineEntry(NamedTuple):
    """Something that happened to an order.

    `services` are those that have it in their histories, the one that decided it first where it is known;
    `status` is what the order had from then on. `waited` is how long it had the status before, where this
    has changed it.
    """

    at: datetime
    status: Status
    actor: str
    detail: Mapping[str, Any]
    services: Sequence[ServiceName]
    waited: timedelta | None


class FoundOrder(NamedTuple):
    """An order with all that is known of it."""

    order: ListedOrder
    sources: Mapping[ServiceName, OrderSnapshot]
    lines: Sequence[SnapshotLine]
    timeline: Sequence[TimelineEntry]


async def get_order(session: AnySession, order_id: int) -> ListedOrder:
    """Read an order as lists show it.

    Raises:
        UnknownOrder: no service has said anything of it.
    """
    row = (await session.execute(select(*_COLUMNS).where(BoardOrder.order_id == order_id))).first()
    if row is None:
        raise UnknownOrder(order_id)
    return ListedOrder._make(row)


async def find_order(session: AnySession, order_id: int) -> FoundOrder:
    """Read an order, live or ended, in three statements.

    Raises:
        UnknownOrder: no service has said anything of it.
    """
    order = await get_order(session, order_id)
    sources = select(BoardSource.source, BoardSource.snapshot).where(BoardSource.order_id == order_id)
    said = _said(await session.execute(sources))
    history = await session.scalars(select(BoardHistory).where(BoardHistory.order_id == order_id))
    return FoundOrder(order, said, _lines_of(said), timeline(history.all()))


async def find_lines(session: AnySession, order_id: int) -> Sequence[SnapshotLine]:
    """Read the lines of an order alone; none if it is not known."""
    sources = select(BoardSource.source, BoardSource.snapshot).where(BoardSource.order_id == order_id)
    return _lines_of(_said(await session.execute(sources)))


def _said(rows: Iterable[Any]) -> Mapping[ServiceName, OrderSnapshot]:
    return {ServiceName(source): OrderSnapshot.model_validate(snapshot) for source, snapshot in rows}


def _lines_of(said: Mapping[ServiceName, OrderSnapshot]) -> Sequence[SnapshotLine]:
    by_rank = (ServiceName.MES, ServiceName.CRM, ServiceName.SHOP)
    return next((said[each].lines for each in by_rank if each in said and said[each].lines), ())


def timeline(history: Sequence[BoardHistory]) -> list[TimelineEntry]:
    """Merge the histories of all services: a change that several follow is one entry."""

    def same(line: BoardHistory) -> tuple[Any, ...]:
        # Who follows an event has its time, its actor and its status, and need not have all of its facts.
        return line.at, list(Status).index(line.status), line.actor

    entries: list[TimelineEntry] = []
    since: datetime | None = None
    status: Status | None = None
    for (at, _, actor), group in groupby(sorted(history, key=same), key=same):
        lines = sorted(group, key=lambda line: _RANK[ServiceName(line.source)])
        first = lines[0]
        services = tuple(dict.fromkeys(ServiceName(line.source) for line in lines))
        detail = {name: value for line in reversed(lines) for name, value in line.detail.items()}
        waited = at - since if since is not None and first.status is not status else None
        entries.append(TimelineEntry(at, first.status, actor, detail, services, waited))
        if first.status is not status:
            since, status = at, first.status
    return entries


_RANK = {ServiceName.MES: 0, ServiceName.CRM: 1, ServiceName.SHOP: 2}


async def wait_until_shown(
    orders: Cluster, source: ServiceName, answer: Mapping[str, Any], *, seconds: float = 1.0
) -> bool:
    """Wait until the board has what a service has just answered about an order; False if that takes too long.

    Who has done something then sees it in the lists that he reads next. It is looked for on the primary: read
    the lists there too, with `freshness=PRIMARY`.

    Parameters:
        orders: the board's database.
        source: the service.
        answer: the order as the service shows it.
        seconds: how long it may take.
    """
    query = select(BoardSource.snapshot).where(
        BoardSource.order_id == int(answer["order_id"]), BoardSource.source == source.value
    )
    try:
        async with asyncio.timeout(seconds):
            while True:
                async with orders.read(freshness=PRIMARY) as session:
                    found = await session.scalar(query)
                if found is not None and is_shown(OrderSnapshot.model_validate(found), answer):
                    return True
                await asyncio.sleep(_LOOK_SECONDS)
    except TimeoutError:
        return False


def is_shown(snapshot: OrderSnapshot, answer: Mapping[str, Any]) -> bool:
    """Return whether a snapshot is as new as an answer of its service, or newer. Pure."""
    answered = datetime.fromisoformat(answer["changed_at"])
    if snapshot.changed_at != answered:
        return snapshot.changed_at > answered
    known = snapshot.model_dump(mode="json")
    return all(known.get(name) == answer[name] for name in _ANSWERED if name in answer)


_ANSWERED = ("operator", "cancel_requested_at", "requote_requested_at", "price_valid_until")
_LOOK_SECONDS = 0.03
