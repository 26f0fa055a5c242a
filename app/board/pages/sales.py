"""The pages of sellers: what waits for them; and what all of staff look up: a search, a customer's orders."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import partial
from typing import Annotated, Any, NamedTuple
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Query, Request
from starlette.responses import RedirectResponse, Response

from app.board import repository
from app.board.pages.entry import said_of
from app.board.pages.reasons import translated
from app.board.pages.rendering import HEADERS, PageReader, page
from app.board.pages.rendering import marked as _
from app.board.pages.staff import ListCursor, Pages, Parts, attempt, cursor_of
from app.board.pages.views import card_of, tabs_of
from app.board.repository import Cursor, ListedPage
from app.kit.caller import current_caller
from app.kit.strict import StrictRoute
from app.schemas import AFTER_TOKEN
from readreplica.freshness import ANY, PRIMARY
from readreplica.sessions import AnySession

router = APIRouter(include_in_schema=False, route_class=StrictRoute, dependencies=[AFTER_TOKEN])

EXPIRES_WITHIN = timedelta(days=3)
WAITS_LONG = timedelta(days=2)
_MOST_APPROVED = 100
_MOST_REJECTED = 10


@router.get("/search")
async def search(
    request: Request,
    parts: Parts,
    q: Annotated[str, Query(max_length=100)] = "",
    cursor: ListCursor = None,
) -> Response:
    """Find orders by id, customer, partner or text; an id that is one leads to its page."""
    text = " ".join(q.split())
    async with parts.orders.read() as session:
        found = await repository.search(session, text, cursor=cursor_of(cursor))
    if len(found.orders) == 1 and text == str(found.orders[0].order_id):
        return RedirectResponse(f"/orders/{text}", 303, headers=dict(HEADERS))
    return _found_page(request, found, q=text)


def _found_page(request: Request, found: ListedPage, *, title: str | None = None, q: str = "") -> Response:
    """Show a page of orders that were found; the next one has its address with another cursor."""
    next_url = None
    if found.next_cursor is not None:
        query = urlencode({**request.query_params, "cursor": found.next_cursor.encode()})
        next_url = f"{request.url.path}?{query}"
    return page(
        request,
        "search.html",
        rows=[card_of(each) for each in found.orders],
        next_url=next_url,
        title=title,
        q=q,
        tabs=tabs_of(PageReader.of(request), request.url.path),
    )


@router.get("/history")
async def history(
    request: Request,
    parts: Parts,
    email: Annotated[str | None, Query(max_length=254)] = None,
    partner: Annotated[str | None, Query(max_length=200)] = None,
    cursor: ListCursor = None,
) -> Response:
    """Show all orders of a customer or a partner, the newest first."""
    if (who := email or partner) is None:
        return RedirectResponse("/search", 303, headers=dict(HEADERS))
    async with parts.orders.read() as session:
        found = await repository.customer_history(
            session, email=email or None, partner=partner, cursor=cursor_of(cursor)
        )
    title = PageReader.of(request).gettext(_("All orders of %(name)s"), name=who)
    return _found_page(request, found, title=title)


class SalesPart(StrEnum):
    """A part of what waits for a seller."""

    CONFIRM = "confirm"
    EXPIRING = "expiring"
    REFUSED = "refused"
    REJECTED = "rejected"
    WAITING = "waiting"


_TITLES = {
    SalesPart.CONFIRM: _("To confirm with the customer"),
    SalesPart.EXPIRING: _("Quotes that end soon"),
    SalesPart.REFUSED: _("Cancellations that were refused"),
    SalesPart.REJECTED: _("Rejected, and not ordered again"),
    SalesPart.WAITING: _("Waiting too long"),
}


async def _read_part(
    session: AnySession, part: SalesPart, *, limit: int = repository.PAGE, cursor: Cursor | None = None
) -> ListedPage:
    now = datetime.now(UTC)
    reads: Mapping[SalesPart, Callable[..., Awaitable[ListedPage]]] = {
        SalesPart.CONFIRM: repository.to_confirm,
        SalesPart.EXPIRING: partial(repository.expiring, before=now + EXPIRES_WITHIN),
        SalesPart.REFUSED: repository.refused_cancellations,
        SalesPart.REJECTED: repository.rejected,
        SalesPart.WAITING: partial(repository.waiting_long, since=now - WAITS_LONG),
    }
    return await reads[part](session, limit=limit, cursor=cursor)


class ApprovalReport(NamedTuple):
    """What became of many that were approved at once."""

    title: str
    refused: Sequence[Mapping[str, Any]]


@router.get("/sales")
async def sales(request: Request, parts: Parts) -> Response:
    """Show a seller what waits for him."""
    return await _sales(request, parts)


async def _sales(request: Request, parts: Pages, report: ApprovalReport | None = None) -> Response:
    viewer = PageReader.of(request)
    async with parts.orders.read(freshness=ANY if report is None else PRIMARY) as session:
        found = {
            part: await _read_part(
                session, part, limit=_MOST_REJECTED if part is SalesPart.REJECTED else repository.PAGE
            )
            for part in SalesPart
        }
    expiring, rejected = found[SalesPart.EXPIRING].orders, found[SalesPart.REJECTED].orders
    return page(
        request,
        "sales.html",
        headers={**HEADERS, "X-Part": "sales"},
        to_confirm=[card_of(each) for each in found[SalesPart.CONFIRM].orders],
        expiring=[card_of(each, ends=each.price_valid_until) for each in expiring],
        refused=[card_of(each) for each in found[SalesPart.REFUSED].orders],
        rejected=[replace(card_of(each), reason=translated(each.reason, viewer)) for each in rejected],
        waiting_long=[card_of(each) for each in found[SalesPart.WAITING].orders],
        more={part.value for part, listed in found.items() if listed.next_cursor is not None},
        titles={part.value: viewer.gettext(title) for part, title in _TITLES.items()},
        report=report,
        tabs=tabs_of(viewer, "/sales"),
    )


@router.get("/sales/{part}")
async def sales_part(request: Request, parts: Parts, part: SalesPart, cursor: ListCursor = None) -> Response:
    """Show all orders of one part of `/sales`, a page at a time."""
    async with parts.orders.read() as session:
        found = await _read_part(session, part, cursor=cursor_of(cursor))
    title = PageReader.of(request).gettext(_TITLES[part])
    return _found_page(request, found, title=title)


@router.post("/sales/approve")
async def approve_many(
    request: Request, parts: Parts, order_id: Annotated[list[str], Form(max_length=_MOST_APPROVED)]
) -> Response:
    """Confirm many orders, one after another, and say what became of each."""
    viewer, refused, done = PageReader.of(request), [], 0
    for each in dict.fromkeys(order_id):
        if not each.isdecimal():
            continue
        problem = await attempt(parts.actions.approve(current_caller(), int(each)))
        if problem is None:
            done += 1
        else:
            refused.append({"order_id": each, "why": said_of(viewer, problem)})
    title = viewer.ngettext("%(n)d order was approved", "%(n)d orders were approved", done)
    return await _sales(request, parts, ApprovalReport(title, refused))
