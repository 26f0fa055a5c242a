"""The events by which an open page stays as things are.

An event is read and rendered once for all who see it alike: 500 boards in two languages cost two renderings.
"""

import asyncio
import json
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from fastapi.sse import format_sse_event
from starlette.responses import StreamingResponse

from app.board.live import PAUSE, LiveChanges, LiveEvent
from app.board.pages.rendering import HEADERS, PageReader, render
from app.board.pages.rendering import marked as _
from app.board.pages.views import Card, card_of, fits
from app.board.repository import WORKED_ON, Filters, ListedOrder
from app.kit.caller import Role
from app.models.status import Status
from readreplica.token import CausalToken

BEAT_SECONDS = 5.0
"""How often a page hears something: a longer silence is a proxy's that keeps all to itself."""
STREAM_SECONDS = 600.0
"""How long a stream lasts; then the page asks for another, and who it is is looked at again."""
_HEADERS: Mapping[str, str] = {
    **HEADERS,
    "X-Accel-Buffering": "no",
    "Cache-Control": "no-store, no-transform",
}
_KEPT = 500


_GONE: Mapping[Status, str] = {
    Status.CANCELLED: _("Cancelled"),
    Status.REJECTED: _("Cannot be made"),
}


def may_take(viewer: PageReader) -> bool:
    """Return whether who looks takes orders."""
    return viewer.caller is not None and viewer.caller.role in {Role.OPERATOR, Role.ADMIN}


def row_html(card: Card, viewer: PageReader, *, why: str | None = None, is_mine: bool = False) -> str:
    """Render a row of the list; `why` stands where the button was."""
    return render("row.html", viewer, o=card, why=why, is_mine=is_mine).strip()


def why_gone(order: ListedOrder, viewer: PageReader) -> str:
    """Return why an order waits for no operator any more."""
    if order.operator is not None:
        return viewer.gettext(_("Taken by %(operator)s"), operator=order.operator)
    return viewer.gettext(_GONE.get(order.status, _("It waits no more")))


class Feed:
    """Keeps what the last changes were, read and rendered, for all streams of this process."""

    def __init__(self, read: Callable[[LiveEvent], Awaitable[ListedOrder | None]]) -> None:
        """Make one.

        Parameters:
            read: returns the order of an event, at least as new as that.
        """
        self._read = read
        self._orders: OrderedDict[str, asyncio.Future[ListedOrder | None]] = OrderedDict()
        self._rows: OrderedDict[tuple[str, str, str | None, bool], str] = OrderedDict()

    async def order(self, change: LiveEvent) -> ListedOrder | None:
        """Return the order that has changed."""
        found = self._orders.get(change.event_id)
        if found is None:
            found = asyncio.ensure_future(self._read(change))
            _keep(self._orders, change.event_id, found)
        try:
            # One page that is closed meanwhile must not end the reading of the others.
            return await asyncio.shield(found)
        except Exception:
            # Who comes again behind the same event would have the same error for ever.
            if self._orders.get(change.event_id) is found:
                del self._orders[change.event_id]
            raise

    def row(self, change: LiveEvent, order: ListedOrder, viewer: PageReader) -> str:
        """Return the row of an order that waits."""
        key = (change.event_id, viewer.language, viewer.zone_name, may_take(viewer))
        found = self._rows.get(key)
        if found is None:
            found = row_html(card_of(order), viewer)
            _keep(self._rows, key, found)
        return found


def _keep(kept: OrderedDict[Any, Any], key: Any, value: Any) -> None:
    kept[key] = value
    if len(kept) > _KEPT:
        kept.popitem(last=False)


def stream_of(events: AsyncIterator[bytes]) -> StreamingResponse:
    """Answer with events."""
    return StreamingResponse(events, media_type="text/event-stream", headers=dict(_HEADERS))


def _event(name: str, data: Any, *, event_id: str | None = None) -> bytes:
    return format_sse_event(event=name, data_str=json.dumps(data, ensure_ascii=False), id=event_id)


@dataclass(frozen=True)
class Streams:
    """Makes the streams of this process's pages."""

    live: LiveChanges
    feed: Feed
    beat_seconds: float = field(default=BEAT_SECONDS)

    def position(self) -> str:
        """Return the last event that this process knows; what is read with `token` from now on is as new."""
        return self.live.position

    def token(self) -> CausalToken:
        """Return what a page is read with that begins behind `position`."""
        return self.live.token

    async def board(self, viewer: PageReader, *, filters: Filters, after: str) -> AsyncGenerator[bytes, None]:
        """Yield the events of an operator's board.

        Parameters:
            viewer: who looks at it.
            filters: which of the orders that wait are in his list.
            after: the last event that he has.
        """
        async with aclosing(self._changes(after)) as changes:
            async for change in changes:
                if isinstance(change, bytes):
                    yield change
                elif (order := await self.feed.order(change)) is not None:
                    said = self._message(change, order, viewer, filters)
                    yield _event("row", said, event_id=change.event_id)

    def _message(
        self, change: LiveEvent, order: ListedOrder, viewer: PageReader, filters: Filters
    ) -> dict[str, Any]:
        waits = order.status is Status.MANUFACTURING_APPROVED and fits(order, filters)
        is_mine = viewer.caller is not None and order.operator == viewer.caller.name
        return {
            "id": str(order.order_id),
            "html": self.feed.row(change, order, viewer) if waits else None,
            "why": None if waits else why_gone(order, viewer),
            "job": order.status if is_mine and order.status in WORKED_ON else None,
        }

    async def order(self, order_id: int, *, after: str) -> AsyncGenerator[bytes, None]:
        """Yield the events of one order's page."""
        async with aclosing(self._changes(after)) as changes:
            async for change in changes:
                if isinstance(change, bytes):
                    yield change
                elif change.order_id == order_id:
                    yield _event("order", str(order_id), event_id=change.event_id)

    async def _changes(self, after: str) -> AsyncGenerator[LiveEvent | bytes, None]:
        """Yield what happens, and between it what says that the stream is alive."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + STREAM_SECONDS
        async with self.live.subscribe(after, pause_seconds=self.beat_seconds) as events:
            yield _event("beat", 0)
            async for event in events:
                if event is PAUSE:
                    yield _event("beat", 0)
                elif event.is_reload:
                    yield _event("reload", 0, event_id=event.event_id)
                else:
                    yield event
                if loop.time() > ends:
                    return
