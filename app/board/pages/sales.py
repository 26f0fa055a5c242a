"""The pages of sellers: what waits for them; and what all of staff look up: a search, a customer's orders."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
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
from app.board.repository import ListedPage
from app.kit.caller import current_caller
from app.kit.strict import StrictRoute
from app.schemas import AFTER_TOKEN
from readreplica.freshness import ANY, PRIMARY

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
    return _found_page(request, found, f"/search?{urlencode({'q': text})}", q=text)


def _found_page(
    request: Request, found: ListedPage, address: str, *, title: str | None = None, q: str = ""
) -> Response:
    """Show a page of orders that were found; `address` is that of the first one."""
    following = found.next_cursor
    return page(
        request,
        "search.html",
        rows=[card_of(each) for each in found.orders],
        next_url=f"{address}&{urlencode({'cursor': following.encode()})}" if following else None,
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
    of = {"email": email} if email else {"partner": partner}
    return _found_page(request, found, f"/history?{urlencode(of)}", title=title)


class ApprovalReport(NamedTuple):
    """What became of many that were approved at once."""

    title: str
    refused: Sequence[Mapping[str, Any]]


@router.get("/sales")
async def sales(request: Request, parts: Parts) -> Response:
    """Show a seller what waits for him."""
    return await _sales(request, parts)


async def _sales(request: Request, parts: Pages, report: ApprovalReport | None = None) -> Response:
    viewer, now = PageReader.of(request), datetime.now(UTC)
    async with parts.orders.read(freshness=ANY if report is None else PRIMARY) as session:
        to_confirm = await repository.to_confirm(session)
        expiring = await repository.expiring(session, before=now + EXPIRES_WITHIN)
        refused = await repository.refused_cancellations(session)
        rejected = await repository.rejected(session, limit=_MOST_REJECTED)
        waiting_long = await repository.waiting_long(session, since=now - WAITS_LONG)
    return page(
        request,
        "sales.html",
        headers={**HEADERS, "X-Part": "sales"},
        to_confirm=[card_of(each) for each in to_confirm.orders],
        more_to_confirm=to_confirm.next_cursor is not None,
        more_expiring=expiring.next_cursor is not None,
        more_refused=refused.next_cursor is not None,
        more_waiting=waiting_long.next_cursor is not None,
        expiring=[card_of(each, ends=each.price_valid_until) for each in expiring.orders],
        refused=[card_of(each) for each in refused.orders],
        rejected=[replace(card_of(each), reason=translated(each.reason, viewer)) for each in rejected.orders],
        more_rejected=rejected.next_cursor is not None,
        waiting_long=[card_of(each) for each in waiting_long.orders],
        report=report,
        tabs=tabs_of(viewer, "/sales"),
    )


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
