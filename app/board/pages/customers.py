"""The pages of customers: an order of theirs, which its link opens and a cookie keeps open.

The link's token stands behind the # of its address, which browsers send to no server: it is in no log. The
page sends it once in a form, and gets a cookie that is good for this order alone.
"""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

from fastapi import APIRouter, Form, Query, Request, UploadFile
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse

from app.access.credentials import LIFETIMES, LONGEST_TOKEN, TokenUse
from app.access.enforce import Access, refuse_cross_site
from app.access.errors import NotAuthenticated
from app.board import repository
from app.board.actions import ActionRefused
from app.board.pages.entry import said_of
from app.board.pages.pieces import LineNumber, ModelVersion, download, pieces_of, shown
from app.board.pages.prices import measured_of, measures_of, said_last, tracking_of
from app.board.pages.reasons import translated
from app.board.pages.rendering import HEADERS, VIEWER_HEADERS, PageReader, is_fragment, page, render
from app.board.pages.rendering import marked as _
from app.board.pages.staff import Pages, Parts, attempt
from app.board.pages.stream import stream_of
from app.board.pages.views import Act, card_of
from app.board.repository import FoundOrder, ListedOrder
from app.files import UnsupportedModelType, model_name, model_suffix
from app.flow.places import PricingPlace
from app.kit.caller import current_caller
from app.kit.strict import StrictRoute
from app.messaging.events import SnapshotLine
from app.models.status import Status
from app.orders import UnknownOrder
from app.schemas import AFTER_TOKEN, OrderIdPath
from readreplica.freshness import ANY, PRIMARY


def cookie_of(order_id: object) -> str:
    """Return the name of the cookie that opens an order."""
    return f"__Host-order-{order_id}"


class LinkRoute(StrictRoute):
    """A route whose caller is the customer of the order in its path, by the cookie of that order."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what answers a request to this route."""
        answer = super().get_route_handler()

        async def by_cookie(request: Request) -> Response:
            link = request.cookies.get(cookie_of(request.path_params.get("order_id")))
            if link is not None and "authorization" not in request.headers:
                refuse_cross_site(request)
                request.scope["headers"].append(
                    (b"authorization", f"Bearer {link}".encode("latin-1", "replace"))
                )
                request = Request(request.scope, request.receive)
            return await answer(request)

        return by_cookie


open_router = APIRouter(include_in_schema=False, route_class=StrictRoute)
router = APIRouter(include_in_schema=False, route_class=LinkRoute, dependencies=[AFTER_TOKEN])

_WAY = (
    (_("Model"), (Status.INITIATED, Status.FILE_UPLOADED)),
    (_("Price"), (Status.SUBMITTED, Status.PRICE_CALCULATED)),
    (_("Confirmed"), (Status.MANUFACTURING_APPROVED,)),
    (
        _("Being made"),
        (Status.MANUFACTURING_STARTED, Status.MANUFACTURING_COMPLETED, Status.PACKAGING),
    ),
    (_("On its way"), (Status.SHIPPED, Status.CLOSED)),
)
_WAITS_FOR: Mapping[Status, str] = {
    Status.INITIATED: _("Upload the model of your piece, and we calculate its price."),
    Status.FILE_UPLOADED: _("Your model is here. Order it, and we calculate its price."),
    Status.SUBMITTED: _("The price is being calculated; it appears here by itself."),
    Status.PRICE_CALCULATED: _("The price is ready: we wait for your word."),
    Status.MANUFACTURING_APPROVED: _("Your piece waits for its maker."),
    Status.MANUFACTURING_STARTED: _("Your piece is being made."),
    Status.MANUFACTURING_COMPLETED: _("Your piece is made, and will be packed."),
    Status.PACKAGING: _("Your piece is being packed."),
    Status.SHIPPED: _("Your piece is on its way to you."),
    Status.CLOSED: _("Your piece has arrived."),
}


class WayStep(NamedTuple):
    """A step of an order as a customer sees it."""

    name: str
    state: str


def way_of(status: Status, viewer: PageReader) -> list[WayStep]:
    """Return how far an order is, in five steps."""
    at = next((step for step, (_name, statuses) in enumerate(_WAY) if status in statuses), len(_WAY))
    if status is Status.CLOSED:
        at = len(_WAY)
    states = ["done" if step < at else "now" if step == at else "" for step in range(len(_WAY))]
    return [WayStep(viewer.gettext(name), state) for (name, _s), state in zip(_WAY, states, strict=True)]


def _acts(order: ListedOrder, viewer: PageReader) -> list[Act]:
    g, acts = viewer.gettext, list[Act]()
    if order.status is Status.FILE_UPLOADED:
        acts.append(Act("submit", g(_("Order it")), "main"))
    if order.status is Status.PRICE_CALCULATED:
        acts.append(Act("approve", g(_("Order it at this price")), "main"))
    may_cancel = order.status in {Status.PRICE_CALCULATED, Status.MANUFACTURING_APPROVED}
    if may_cancel and order.cancel_requested_at is None:
        question = g(_("Cancel this order?"))
        acts.append(Act("cancel", g(_("Cancel the order")), "danger", confirm=question))
    return acts


@open_router.post("/my/{order_id}/open")
async def open_order(
    request: Request,
    order_id: OrderIdPath,
    link: Annotated[str, Form(min_length=1, max_length=LONGEST_TOKEN)],
) -> Response:
    """Take the token of a link, once, and give the cookie of its order."""
    refuse_cross_site(request)
    access: Access = request.app.state.access
    read = access.tokens.read(link) if access.tokens is not None else None
    if read is None or read[0] is not TokenUse.LINK or read[1]["sub"] != str(order_id):
        raise NotAuthenticated
    answer = RedirectResponse(f"/my/{order_id}", 303, headers=dict(HEADERS))
    give_cookie(answer, order_id, link)
    return answer


def give_cookie(answer: Response, order_id: int, link: str) -> None:
    """Open an order for a browser, for as long as its link is good."""
    age = int(LIFETIMES[TokenUse.LINK].total_seconds())
    answer.set_cookie(cookie_of(order_id), link, max_age=age, secure=True, httponly=True, samesite="lax")


@router.get("/my/{order_id}")
async def my_order(request: Request, parts: Parts, order_id: OrderIdPath) -> Response:
    """Show a customer how far his order is, its price and the piece."""
    return await _page(request, parts, order_id)


def _refuse_foreign(order_id: int) -> None:
    if order_id not in (current_caller().order_ids or ()):
        raise UnknownOrder(order_id)


async def _lines(parts: Pages, order_id: int) -> Sequence[SnapshotLine]:
    _refuse_foreign(order_id)
    return await parts.lines(order_id)


async def _found(parts: Pages, order_id: int, *, is_change: bool = False) -> FoundOrder:
    """Read an order of the customer.

    Raises:
        UnknownOrder: it is none of his.
    """
    _refuse_foreign(order_id)
    async with parts.read_live(freshness=PRIMARY if is_change else ANY) as session:
        return await repository.find_order(session, order_id)


async def _page(
    request: Request, parts: Pages, order_id: int, *, refused: Mapping[str, Any] | None = None
) -> Response:
    viewer, after = PageReader.of(request), parts.streams.position()
    found = await _found(parts, order_id, is_change=request.method != "GET")
    order = found.order
    is_refusal = refused is not None and not is_fragment(request)
    waits_for = _WAITS_FOR.get(order.status)
    if order.cancel_requested_at is not None:
        waits_for = _("You have asked to cancel it; the workshop decides whether it still can.")
    return page(
        request,
        "my.html" if not is_fragment(request) else "my_body.html",
        status=409 if is_refusal else 200,
        headers={**VIEWER_HEADERS, "X-Part": "my"},
        o=card_of(order, ends=order.price_valid_until),
        order=order,
        address=f"/my/{order_id}",
        home=f"/my/{order_id}",
        fault=said_of(viewer, refused) if refused else None,
        reason=translated(order.reason, viewer),
        way=way_of(order.status, viewer),
        waits_for=viewer.gettext(waits_for) if waits_for else None,
        pieces=await pieces_of(parts.models, found.lines, order.status),
        facts=_facts(found, viewer),
        actions=_acts(order, viewer),
        place=place_text(await parts.places.read(order_id), viewer) if _is_priced(order) else None,
        asked_for_file=said_last(found.timeline, "file_requested"),
        replaced_by=said_last(found.timeline, "replaced_by"),
        may_upload=order.status in {Status.INITIATED, Status.FILE_UPLOADED},
        # What was refused stays to be read: a page that hears of a change would ask for itself anew.
        stream_url=None if is_refusal else f"/my/{order_id}/stream" + (f"?after={after}" if after else ""),
    )


def _is_priced(order: ListedOrder) -> bool:
    return order.status is Status.SUBMITTED


@router.get("/my/{order_id}/place")
async def my_place(request: Request, parts: Parts, order_id: OrderIdPath) -> Response:
    """Show again where the order stands among those that wait for a price: a part of its page."""
    _refuse_foreign(order_id)
    viewer = PageReader.of(request)
    place = place_text(await parts.places.read(order_id), viewer)
    text = render("place.html", viewer, place=place, address=f"/my/{order_id}")
    return HTMLResponse(text, headers={**HEADERS, "X-Part": "place"})


def place_text(place: PricingPlace | None, viewer: PageReader) -> str:
    """Return how many orders are priced before one, and when its price may be expected, in words."""
    if place is None:
        return viewer.gettext(_("It is in the queue; its place is not known just now."))
    before = (
        viewer.ngettext("%(n)d order is before yours", "%(n)d orders are before yours", place.place)
        if place.place
        else viewer.gettext(_("Yours is next"))
    )
    if place.expected_seconds is None:
        return before
    minutes = max(1, round(place.expected_seconds / 60))
    when = viewer.ngettext("priced in about %(n)d minute", "priced in about %(n)d minutes", minutes)
    return f"{before} · {when}"


def _facts(found: FoundOrder, viewer: PageReader) -> Sequence[tuple[str, str]]:
    g, order = viewer.gettext, found.order
    said = [
        (g(_("Material")), ", ".join(viewer.named(each) for each in order.materials)),
        (g(_("Finish")), ", ".join(viewer.named(each.finish) for each in found.lines)),
        (g(_("Pieces")), str(order.quantity)),
        (g(_("Ordered on")), viewer.moment(order.created_at)),
        (g(_("Shipped on")), viewer.moment(order.shipped_at) if order.shipped_at else ""),
        (g(_("Tracking number")), tracking_of(found.timeline) or ""),
        *measures_of(measured_of(found.timeline).values(), viewer),
    ]
    return [(name, value) for name, value in said if value]


@router.get("/my/{order_id}/stream")
async def my_stream(
    request: Request, parts: Parts, order_id: OrderIdPath, after: Annotated[str, Query(max_length=41)] = ""
) -> StreamingResponse:
    """Send an open page of an order what changes."""
    await _found(parts, order_id)
    return stream_of(parts.streams.order(order_id, after=request.headers.get("last-event-id") or after))


@router.get("/my/{order_id}/model")
async def my_model(parts: Parts, order_id: OrderIdPath) -> Response:
    """Send the customer the file of his model."""
    return await download(parts.models, order_id, await _lines(parts, order_id), line_no=1)


@router.get("/my/{order_id}/picture")
async def my_picture(
    parts: Parts, order_id: OrderIdPath, line: LineNumber = 1, _v: ModelVersion = ""
) -> Response:
    """Send the customer the picture of his piece."""
    return await shown(parts.models, order_id, await _lines(parts, order_id), line_no=line, kind="png")


@router.get("/my/{order_id}/mesh")
async def my_mesh(
    parts: Parts, order_id: OrderIdPath, line: LineNumber = 1, _v: ModelVersion = ""
) -> Response:
    """Send the customer the mesh of his piece, for the view in 3D."""
    return await shown(parts.models, order_id, await _lines(parts, order_id), line_no=line, kind="glb")


@router.post("/my/{order_id}/submit")
async def submit(request: Request, parts: Parts, order_id: OrderIdPath) -> Response:
    """Order what was uploaded."""
    await _found(parts, order_id)
    refused = await attempt(parts.actions.submit(current_caller(), order_id))
    return await _done(request, parts, order_id, refused, "submit")


@router.post("/my/{order_id}/approve")
async def approve(request: Request, parts: Parts, order_id: OrderIdPath) -> Response:
    """Order it at its price: the CRM decides."""
    await _found(parts, order_id)
    refused = await attempt(parts.actions.approve(current_caller(), order_id))
    return await _done(request, parts, order_id, refused, "approve")


@router.post("/my/{order_id}/cancel")
async def cancel(request: Request, parts: Parts, order_id: OrderIdPath) -> Response:
    """Ask to cancel it: the workshop decides."""
    await _found(parts, order_id)
    asked = parts.actions.cancel(current_caller(), order_id, reason="asked for by the customer")
    return await _done(request, parts, order_id, await attempt(asked), "cancel")


@router.post("/my/{order_id}/model")
async def upload(request: Request, parts: Parts, order_id: OrderIdPath, file: UploadFile) -> Response:
    """Take a model of the customer, before he orders or after it was rejected."""
    await _found(parts, order_id)
    name, content = file.filename or "model", await file.read()
    refused = await attempt(parts.actions.upload(current_caller(), order_id, name, content))
    return await _done(request, parts, order_id, refused, "upload")


@router.post("/my/{order_id}/again")
async def upload_again(request: Request, parts: Parts, order_id: OrderIdPath, file: UploadFile) -> Response:
    """Order once more what was rejected, with another file: it is a new order, which this leads to."""
    await _found(parts, order_id)
    name, content = file.filename or "model", await file.read()
    try:
        # Before an order is started for it.
        model_suffix(model_name(name))
    except UnsupportedModelType:
        return await _page(request, parts, order_id, refused={"title": "Unsupported model type"})
    try:
        started = await parts.actions.again(current_caller(), order_id)
        new_id = int(started["order_id"])
        await parts.actions.upload(current_caller(), new_id, name, content)
    except ActionRefused as refused:
        return await _page(request, parts, order_id, refused=refused.facts)
    await parts.known(new_id)
    answer = RedirectResponse(f"/my/{new_id}", 303, headers=dict(HEADERS))
    give_cookie(answer, new_id, str(started["link"]))
    return answer


_SHOWS: Mapping[str, Callable[[ListedOrder], bool]] = {
    "submit": lambda order: order.status is not Status.FILE_UPLOADED,
    "approve": lambda order: order.crm_status is not Status.PRICE_CALCULATED,
    "cancel": lambda order: order.cancel_requested_at is not None or order.status is Status.CANCELLED,
    "upload": lambda order: order.status is not Status.INITIATED,
}


async def _done(
    request: Request, parts: Pages, order_id: int, refused: Mapping[str, Any] | None, what: str
) -> Response:
    if refused is None:
        await parts.settled(order_id, _SHOWS[what])
        if not is_fragment(request):
            return RedirectResponse(f"/my/{order_id}", 303, headers=dict(HEADERS))
    return await _page(request, parts, order_id, refused=refused)
