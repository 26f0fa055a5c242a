"""The pages of staff: the operator's board, and an order with what may be done with it."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Form, Query, Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response, StreamingResponse

from app.board import repository
from app.board.actions import ActionRefused, Actions
from app.board.pages.entry import said_of
from app.board.pages.filters import ChosenFilters, amount_of
from app.board.pages.pieces import (
    LineNumber,
    ModelVersion,
    PictureSize,
    Thumbnails,
    download,
    pieces_of,
    shown,
    thumbnail_answer,
)
from app.board.pages.prices import measured_of, measures_of, parts_of, set_by_hand
from app.board.pages.reasons import translated
from app.board.pages.rendering import HEADERS, VIEWER_HEADERS, PageReader, is_fragment, page, render
from app.board.pages.rendering import marked as _
from app.board.pages.stream import Streams, row_html, stream_of
from app.board.pages.views import (
    acts_for,
    card_of,
    facts_of,
    job_of,
    life_of,
    tabs_of,
)
from app.board.repository import Cursor, ListCursorMalformed, ListedOrder
from app.files import ModelStore
from app.flow.places import Places
from app.kit.caller import Caller, Role, current_caller
from app.kit.strict import StrictRoute
from app.messaging.events import SnapshotLine
from app.models.reference import Material
from app.models.status import Status
from app.schemas import AFTER_TOKEN, OrderIdPath
from readreplica.cluster import Cluster
from readreplica.freshness import ANY, PRIMARY, Freshness
from readreplica.sessions import ReadSession

router = APIRouter(include_in_schema=False, route_class=StrictRoute, dependencies=[AFTER_TOKEN])

PAGE = 50
_SETTLES_SECONDS, _LOOK_SECONDS = 2.0, 0.02


@dataclass(frozen=True, kw_only=True)
class Pages:
    """What the pages work with: the board's database, the services that decide, and what happens."""

    orders: Cluster
    actions: Actions
    streams: Streams
    models: ModelStore
    thumbnails: Thumbnails
    places: Places

    async def lines(self, order_id: int) -> Sequence[SnapshotLine]:
        """Read what an order is of; nothing if there is none."""
        async with self.orders.read() as session:
            return await repository.find_lines(session, order_id)

    def read_live(self, *, freshness: Freshness = ANY) -> ReadSession:
        """Make a session for a page that stays live: it sees all that its stream will not send."""
        return self.orders.read(after=self.streams.token(), freshness=freshness)

    async def settled(self, order_id: int, shows: Callable[[ListedOrder], bool]) -> ListedOrder:
        """Wait until the board shows what a service has just done, for a moment at most; return the order.

        Raises:
            UnknownOrder: there is none.
        """
        ends = asyncio.get_running_loop().time() + _SETTLES_SECONDS
        while True:
            async with self.orders.read(freshness=PRIMARY, autocommit=True) as session:
                found = await repository.get_order(session, order_id)
            if shows(found) or asyncio.get_running_loop().time() > ends:
                return found
            await asyncio.sleep(_LOOK_SECONDS)

    async def known(self, order_id: int) -> None:
        """Wait until the board has heard of an order that was started just now, for a moment at most."""
        ends = asyncio.get_running_loop().time() + _SETTLES_SECONDS
        while not await self._lines_now(order_id) and asyncio.get_running_loop().time() < ends:  # noqa: ASYNC110
            # It is another process that writes it.
            await asyncio.sleep(_LOOK_SECONDS)

    async def _lines_now(self, order_id: int) -> Sequence[SnapshotLine]:
        async with self.orders.read(freshness=PRIMARY, autocommit=True) as session:
            return await repository.find_lines(session, order_id)


def _pages(request: Request) -> Pages:
    pages: Pages = request.app.state.parts.pages
    return pages


Parts = Annotated[Pages, Depends(_pages)]
ListCursor = Annotated[str | None, Query(max_length=100)]


@router.get("/")
async def board(
    request: Request,
    parts: Parts,
    chosen: ChosenFilters,
    cursor: ListCursor = None,
) -> Response:
    """Show an operator what waits, and what is in his hands."""
    caller = current_caller()
    if caller.role is Role.SELLER:
        return RedirectResponse("/sales", 303, headers=dict(HEADERS))
    viewer, now = PageReader.of(request), datetime.now(UTC)
    # Before the list is read: what happens meanwhile is sent once more.
    after = parts.streams.position()
    filters, is_good = chosen.filters(now)
    async with parts.read_live() as session:
        found = await repository.new_orders(
            session, filters, limit=PAGE, cursor=cursor_of(cursor), newest_first=not chosen.is_longest_first
        )
        mine = {} if is_fragment(request) else await _mine(session, caller, viewer, now)
    query, following = chosen.query(), found.next_cursor
    return page(
        request,
        "board.html" if not is_fragment(request) else "list.html",
        rows=[card_of(order) for order in found.orders],
        next_url=f"/?{chosen.query(cursor=following.encode())}" if following else None,
        stream_url=f"/stream?{chosen.query(after=after)}" if after else f"/stream?{query}",
        changes_url=f"/changes?{query}",
        materials=list(Material),
        filters=chosen,
        is_filtered=chosen.is_any,
        fault=None if is_good else viewer.gettext(_("A price is a number, such as 250.50: it is left out.")),
        tabs=tabs_of(viewer, "/"),
        **mine,
    )


def cursor_of(text: str | None) -> Cursor | None:
    """Read where a page begins; the first page for what is no place."""
    try:
        return Cursor.decode(text) if text else None
    except ListCursorMalformed:
        return None


async def _mine(session: ReadSession, caller: Caller, viewer: PageReader, now: datetime) -> Mapping[str, Any]:
    """Read what is an operator's own."""
    begin = now.astimezone(viewer.zone).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    work = await repository.my_orders(session, caller.name)
    pay = await repository.pay(session, caller.name, begin=begin, end=now + timedelta(days=1))
    return {"work": [job_of(order, viewer) for order in work], "pay": pay}


@router.get("/work")
async def work(request: Request, parts: Parts) -> Response:
    """Show what is in the operator's hands: a part of the board."""
    return await _work(request, parts)


async def _work(request: Request, parts: Pages, fault: str | None = None) -> Response:
    text = await _work_html(PageReader.of(request), parts, fault)
    return HTMLResponse(text, headers={**HEADERS, "X-Part": "work", **({"X-Refused": "1"} if fault else {})})


async def _work_html(viewer: PageReader, parts: Pages, fault: str | None = None) -> str:
    async with parts.orders.read(freshness=PRIMARY) as session:
        found = await repository.my_orders(session, current_caller().name)
    return render("work.html", viewer, work=[job_of(each, viewer) for each in found], work_fault=fault)


@router.get("/stream")
async def stream(
    request: Request,
    parts: Parts,
    chosen: ChosenFilters,
    after: Annotated[str, Query(max_length=41)] = "",
) -> StreamingResponse:
    """Send an open board what changes."""
    filters, _is_good = chosen.filters(datetime.now(UTC))
    last = request.headers.get("last-event-id") or after
    return stream_of(parts.streams.board(PageReader.of(request), filters=filters, after=last))


@router.get("/changes")
async def changes(request: Request, parts: Parts, chosen: ChosenFilters) -> JSONResponse:
    """Return the first page of the list as rows, for a board that hears no events."""
    viewer = PageReader.of(request)
    filters, _is_good = chosen.filters(datetime.now(UTC))
    async with parts.read_live() as session:
        found = await repository.new_orders(
            session, filters, limit=PAGE, newest_first=not chosen.is_longest_first
        )
    rows = [{"id": str(order.order_id), "html": row_html(card_of(order), viewer)} for order in found.orders]
    last = card_of(found.orders[-1]).at_ms if found.next_cursor else None
    return JSONResponse({"orders": rows, "last": last}, headers=dict(HEADERS))


@router.post("/orders/{order_id}/take")
async def take(request: Request, parts: Parts, order_id: OrderIdPath) -> Response:
    """Take an order; if another was faster, the row says who."""
    refused = await attempt(parts.actions.take(current_caller(), order_id))
    if not is_fragment(request):
        return _back("/" if refused is None else f"/orders/{order_id}")
    if request.headers.get("hx-target", "").endswith("#order"):
        return await _order_page(request, parts, order_id, refused=refused)
    viewer, caller = PageReader.of(request), current_caller()
    order = await parts.settled(order_id, lambda each: refused is not None or each.operator == caller.name)
    why = said_of(viewer, refused) if refused else viewer.gettext(_("Yours now"))
    row = row_html(card_of(order), viewer, why=why, is_mine=refused is None)
    own = f'<hx-partial hx-target="#work" hx-swap="outerHTML">{await _work_html(viewer, parts)}</hx-partial>'
    return HTMLResponse(row + own, headers={**HEADERS, "X-Part": "row"})


async def attempt(asked: Awaitable[object]) -> Mapping[str, Any] | None:
    """Do something; return the problem of what refuses it."""
    try:
        await asked
    except ActionRefused as refused:
        return refused.facts
    return None


def _back(to: str) -> Response:
    """Send a browser without scripts to where the result is seen."""
    return RedirectResponse(to, 303, headers=dict(HEADERS))


@router.post("/orders/{order_id}/advance")
async def advance(  # noqa: PLR0917 (FastAPI calls it by name)
    request: Request,
    parts: Parts,
    order_id: OrderIdPath,
    to: Annotated[Status, Form()],
    reason: Annotated[str | None, Form(max_length=1000)] = None,
    tracking: Annotated[str | None, Form(max_length=64)] = None,
) -> Response:
    """Record the next step of an order, or that it cannot be made."""
    return await _done(
        request,
        parts,
        order_id,
        parts.actions.advance(current_caller(), order_id, to=to, reason=reason, tracking=tracking or None),
        lambda each: each.status is to,
    )


@router.post("/orders/{order_id}/release")
async def release(
    request: Request,
    parts: Parts,
    order_id: OrderIdPath,
    reason: Annotated[str, Form(min_length=1, max_length=1000)],
) -> Response:
    """Put an order back, for any operator to take."""
    asked = parts.actions.release(current_caller(), order_id, reason=reason)
    return await _done(request, parts, order_id, asked, lambda each: each.operator is None)


@router.post("/orders/{order_id}/hand-over")
async def hand_over(
    request: Request,
    parts: Parts,
    order_id: OrderIdPath,
    to: Annotated[str, Form(min_length=1, max_length=200)],
) -> Response:
    """Hand an order over to another operator."""
    return await _done(
        request,
        parts,
        order_id,
        parts.actions.hand_over(current_caller(), order_id, to=to),
        lambda each: each.operator == to,
    )


@router.post("/orders/{order_id}/approve")
async def approve(request: Request, parts: Parts, order_id: OrderIdPath) -> Response:
    """Confirm the price of an order."""
    return await _done(
        request,
        parts,
        order_id,
        parts.actions.approve(current_caller(), order_id),
        lambda each: each.crm_status is Status.MANUFACTURING_APPROVED,
    )


@router.post("/orders/{order_id}/requote")
async def requote(request: Request, parts: Parts, order_id: OrderIdPath) -> Response:
    """Ask for a new price."""
    return await _done(
        request,
        parts,
        order_id,
        parts.actions.requote(current_caller(), order_id),
        lambda each: each.requote_requested_at is not None,
    )


@router.post("/orders/{order_id}/price")
async def set_price(
    request: Request,
    parts: Parts,
    order_id: OrderIdPath,
    price: Annotated[str, Form(min_length=1, max_length=15)],
    reason: Annotated[str, Form(min_length=1, max_length=1000)],
) -> Response:
    """Set another price than the one that was calculated."""
    try:
        amount = amount_of(price)
    except ValueError:
        return await _order_page(request, parts, order_id, refused={"title": "Not a price", "status": 422})
    assert amount is not None
    asked = parts.actions.set_price(current_caller(), order_id, price=amount, reason=reason)
    return await _done(request, parts, order_id, asked, lambda each: each.price == amount)


@router.post("/orders/{order_id}/ask-file")
async def ask_file(
    request: Request,
    parts: Parts,
    order_id: OrderIdPath,
    reason: Annotated[str, Form(min_length=1, max_length=1000)],
) -> Response:
    """Ask the customer of a rejected order for another file."""
    asked = parts.actions.ask_file(current_caller(), order_id, reason=reason)
    return await _done(request, parts, order_id, asked, lambda _each: True)


@router.post("/orders/{order_id}/close")
async def close(request: Request, parts: Parts, order_id: OrderIdPath) -> Response:
    """End an order that was delivered."""
    return await _done(
        request,
        parts,
        order_id,
        parts.actions.close(current_caller(), order_id),
        lambda each: each.crm_status is Status.CLOSED,
    )


@router.post("/orders/{order_id}/cancel")
async def cancel(
    request: Request,
    parts: Parts,
    order_id: OrderIdPath,
    reason: Annotated[str, Form(min_length=1, max_length=1000)],
) -> Response:
    """Ask the workshop to cancel an order."""
    return await _done(
        request,
        parts,
        order_id,
        parts.actions.cancel(current_caller(), order_id, reason=reason),
        lambda each: each.cancel_requested_at is not None,
    )


async def _done(
    request: Request,
    parts: Pages,
    order_id: int,
    asked: Awaitable[object],
    shows: Callable[[ListedOrder], bool],
) -> Response:
    """Do something with an order, and answer with the part of the page from which it was asked.

    Parameters:
        request: as it came.
        parts: what the pages work with.
        order_id: of the order.
        asked: what is done.
        shows: whether the board's row shows that it was done.
    """
    refused = await attempt(asked)
    if refused is None:
        await parts.settled(order_id, shows)
        if not is_fragment(request):
            return _back(f"/orders/{order_id}")
    if request.headers.get("hx-target", "").endswith("#work"):
        return await _work(request, parts, said_of(PageReader.of(request), refused) if refused else None)
    return await _order_page(request, parts, order_id, refused=refused)


@router.get("/orders/{order_id}")
async def order(request: Request, parts: Parts, order_id: OrderIdPath) -> Response:
    """Show an order: what has happened to it, its price, the piece."""
    return await _order_page(request, parts, order_id)


async def _order_page(
    request: Request, parts: Pages, order_id: int, *, refused: Mapping[str, Any] | None = None
) -> Response:
    viewer, after = PageReader.of(request), parts.streams.position()
    is_change = request.method != "GET"
    async with parts.read_live(freshness=PRIMARY if is_change else ANY) as session:
        found = await repository.find_order(session, order_id)
    listed, measured = found.order, measured_of(found.timeline)
    return page(
        request,
        "order.html" if not is_fragment(request) else "order_body.html",
        status=409 if refused and not is_fragment(request) else 200,
        headers={**VIEWER_HEADERS, "X-Part": "order", **({"X-Refused": "1"} if refused else {})},
        o=card_of(listed, ends=listed.price_valid_until),
        order=listed,
        lines=found.lines,
        fault=said_of(viewer, refused) if refused else None,
        reason=translated(listed.reason, viewer),
        actions=acts_for(listed, viewer),
        life=life_of(found.timeline, viewer, datetime.now(UTC)),
        history_url=_history_url(listed),
        pieces=await pieces_of(parts.models, found.lines, listed.status),
        address=f"/orders/{order_id}",
        set_by_hand=set_by_hand(found.timeline),
        measures=measures_of(measured.values(), viewer),
        price_parts={line.line_no: parts_of(measured.get(line.line_no), viewer) for line in found.lines},
        facts=facts_of(found, viewer),
        stream_url=f"/orders/{order_id}/stream" + (f"?after={after}" if after else ""),
        tabs=tabs_of(viewer, request.url.path),
    )


def _history_url(order: ListedOrder) -> str | None:
    """Return where all orders of the same customer or partner are."""
    if order.partner is not None:
        return f"/history?{urlencode({'partner': order.partner})}"
    return f"/history?{urlencode({'email': order.customer_email})}" if order.customer_email else None


@router.get("/orders/{order_id}/stream")
async def order_stream(
    request: Request,
    parts: Parts,
    order_id: OrderIdPath,
    after: Annotated[str, Query(max_length=41)] = "",
) -> StreamingResponse:
    """Send an open page of an order what changes."""
    return stream_of(parts.streams.order(order_id, after=request.headers.get("last-event-id") or after))


@router.get("/orders/{order_id}/model")
async def model(parts: Parts, order_id: OrderIdPath, line: LineNumber = 1) -> Response:
    """Send the file of an order's model."""
    return await download(parts.models, order_id, await parts.lines(order_id), line_no=line)


@router.get("/orders/{order_id}/picture")
async def picture(
    parts: Parts,
    order_id: OrderIdPath,
    line: LineNumber = 1,
    _v: ModelVersion = "",
    size: Annotated[PictureSize | None, Query()] = None,
) -> Response:
    """Send the picture of a piece; a small one for a list, of the first piece that there is."""
    if size is not None:
        return thumbnail_answer(parts.thumbnails.kept(order_id) or await _thumbnail(parts, order_id))
    return await shown(parts.models, order_id, await parts.lines(order_id), line_no=line, kind="png")


async def _thumbnail(parts: Pages, order_id: int) -> bytes | None:
    keys = (line.model_key for line in await parts.lines(order_id))
    key = next((key for key in keys if key is not None), None)
    return None if key is None else await parts.thumbnails.make(order_id, key)


@router.get("/orders/{order_id}/mesh")
async def mesh(parts: Parts, order_id: OrderIdPath, line: LineNumber = 1, _v: ModelVersion = "") -> Response:
    """Send the mesh of a piece, for the view in 3D."""
    return await shown(parts.models, order_id, await parts.lines(order_id), line_no=line, kind="glb")
