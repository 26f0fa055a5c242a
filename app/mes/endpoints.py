"""The MES's API: partners order here, and operators work here."""

from dataclasses import dataclass
from typing import Annotated, TypeVar
from urllib.parse import quote

from fastapi import APIRouter, Depends, Form, Path, Query, Request, Response, UploadFile, status

from app.kit.caller import Role, current_caller
from app.kit.problem import documented
from app.kit.strict import StrictRoute
from app.mes.errors import UnknownOperator
from app.mes.intake import PartnerIntake
from app.mes.public import PublicApi
from app.mes.public import router as public_router
from app.mes.quotes import router as quotes_router
from app.mes.schemas import (
    AdvanceOrder,
    HandOverOrder,
    ListedStatus,
    MesOrderDetail,
    MesOrderPage,
    MesOrderView,
    PartnerOrder,
    PartnerOrderView,
    ReleaseOrder,
    etag_of_order,
)
from app.mes.service import MesService
from app.models.reference import Finish, Material
from app.models.status import Status
from app.schemas import (
    AFTER_TOKEN,
    IdempotencyKey,
    IfMatch,
    Line,
    OrderIdPath,
    PageCursor,
    PageLimit,
    Quantity,
    Reference,
)
from app.stored import StoredOrderView

AnyOrder = TypeVar("AnyOrder", bound=MesOrderView)

router = APIRouter(prefix="/v1", route_class=StrictRoute)


@dataclass(frozen=True)
class Services:
    """What the endpoints work with."""

    operators: MesService
    partners: PartnerIntake
    public: PublicApi


def _parts(request: Request) -> Services:
    parts: Services = request.app.state.parts
    return parts


Parts = Annotated[Services, Depends(_parts)]


def _partner_order(
    partner: Annotated[Line, Path(description="The partner's name.", examples=["atelier-nord"])],
    material: Annotated[Material, Form()],
    finish: Annotated[Finish, Form()],
    quantity: Annotated[Quantity, Form()],
    reference: Annotated[
        Reference | None, Form(description="Your own name of it; several orders may have the same.")
    ] = None,
) -> PartnerOrder:
    return PartnerOrder(
        partner=partner, material=material, finish=finish, quantity=quantity, reference=reference
    )


@router.post(
    "/partners/{partner}/orders",
    tags=["partners"],
    status_code=status.HTTP_202_ACCEPTED,
    responses={
        202: {"description": "It is safe, and will be placed; `Location` is where it can be followed."},
        200: {"model": PartnerOrderView, "description": "The key has made this order before."},
        **documented(413, 415, 429),
    },
)
async def submit_order(
    parts: Parts,
    order: Annotated[PartnerOrder, Depends(_partner_order)],
    file: UploadFile,
    key: IdempotencyKey,
    response: Response,
) -> PartnerOrderView:
    """Order from a 3D model, an STL, 3MF or OBJ file. It waits for its turn, and its id shows it at once."""
    taken = await parts.partners.submit(order, file, key=key)
    if not taken.created:
        response.status_code = status.HTTP_200_OK
    response.headers["Location"] = f"/v1/partners/{quote(order.partner)}/orders/{taken.order.order_id}"
    return taken.order


@router.get("/orders", tags=["operators"], responses=documented(), dependencies=[AFTER_TOKEN])
async def list_orders(
    parts: Parts,
    wanted: Annotated[
        ListedStatus, Query(alias="status", description="One in which an order waits for somebody.")
    ] = Status.MANUFACTURING_APPROVED,
    limit: PageLimit = 50,
    cursor: PageCursor = None,
) -> MesOrderPage:
    """List the orders of one status, newest first."""
    return await parts.operators.page(wanted, limit=limit, cursor=cursor)


def _tagged(response: Response, order: AnyOrder) -> AnyOrder:
    """Return an order, and its tag in a header."""
    response.headers["ETag"] = etag_of_order(order)
    return order


@router.get("/orders/{order_id}", tags=["operators"], responses=documented(404), dependencies=[AFTER_TOKEN])
async def show_order(parts: Parts, order_id: OrderIdPath, response: Response) -> MesOrderDetail:
    """Show an order, its lines and what has happened to it, however old it is.

    Its `ETag` is for `If-Match`, where it is changed.
    """
    return _tagged(response, await parts.operators.show(order_id))


@router.get("/orders/{order_id}/stored", tags=["operators"], responses=documented(404))
async def show_stored(parts: Parts, order_id: OrderIdPath) -> StoredOrderView:
    """Show where an order is kept, its messages that are not acknowledged yet, and its pricing job."""
    return await parts.operators.stored(order_id)


@router.post("/orders/{order_id}/take", tags=["operators"], responses=documented(404, 409, 412))
async def take_order(
    parts: Parts, order_id: OrderIdPath, response: Response, seen: IfMatch = None
) -> MesOrderView:
    """Take an approved order. If another operator was faster, the answer names who has it and since when."""
    return _tagged(response, await parts.operators.take(order_id, current_caller().name, seen=seen))


@router.post("/orders/{order_id}/advance", tags=["operators"], responses=documented(404, 409, 412))
async def advance_order(
    parts: Parts, order_id: OrderIdPath, body: AdvanceOrder, response: Response, seen: IfMatch = None
) -> MesOrderView:
    """Record how far the order is: only the operator who has taken it can."""
    return _tagged(response, await parts.operators.advance(order_id, body, current_caller().name, seen=seen))


@router.post("/orders/{order_id}/release", tags=["operators"], responses=documented(404, 409, 412))
async def release_order(
    parts: Parts, order_id: OrderIdPath, body: ReleaseOrder, response: Response, seen: IfMatch = None
) -> MesOrderView:
    """Put back an order that was taken: the operator who has it can, and an admin for him."""
    caller = current_caller()
    for_another = caller.role is Role.ADMIN
    return _tagged(
        response,
        await parts.operators.release(order_id, body, caller.name, for_another=for_another, seen=seen),
    )


@router.post("/orders/{order_id}/hand-over", tags=["operators"], responses=documented(404, 409, 412, 422))
async def hand_over_order(
    parts: Parts,
    request: Request,
    order_id: OrderIdPath,
    body: HandOverOrder,
    *,
    response: Response,
    seen: IfMatch = None,
) -> MesOrderView:
    """Hand an order that was taken over to another operator: the one who has it can, and an admin for him."""
    caller, access = current_caller(), request.app.state.access
    found = access.registry.named(body.to)
    if found is None or found.role is not Role.OPERATOR:
        raise UnknownOperator(body.to)
    for_another = caller.role is Role.ADMIN
    return _tagged(
        response,
        await parts.operators.hand_over(order_id, body.to, caller.name, for_another=for_another, seen=seen),
    )


# As they are: a route that is included by a prefix does not know its whole path, by which it is let in.
router.routes.extend([*public_router.routes, *quotes_router.routes])
