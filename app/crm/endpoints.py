"""The CRM's API."""

from typing import Annotated, TypeVar

from fastapi import APIRouter, Depends, Query, Request, Response, status

from app.crm.schemas import (
    AskFile,
    CancelOrder,
    CrmOrderDetail,
    CrmOrderPage,
    CrmOrderView,
    SetPrice,
    etag_of_order,
)
from app.crm.service import CrmService
from app.kit.caller import current_caller
from app.kit.problem import documented
from app.kit.strict import StrictRoute
from app.models.status import Status
from app.schemas import AFTER_TOKEN, IfMatch, OrderId, OrderIdPath, PageLimit
from app.stored import StoredOrderView

AnyOrder = TypeVar("AnyOrder", bound=CrmOrderView)

router = APIRouter(prefix="/v1/orders", tags=["orders"], route_class=StrictRoute)


def _crm(request: Request) -> CrmService:
    crm: CrmService = request.app.state.parts
    return crm


Crm = Annotated[CrmService, Depends(_crm)]


@router.get("", responses=documented(), dependencies=[AFTER_TOKEN])
async def list_orders(
    crm: Crm,
    wanted: Annotated[Status | None, Query(alias="status", description="Only orders of this status.")] = None,
    limit: PageLimit = 50,
    cursor: Annotated[OrderId | None, Query(description="`next_cursor` of the page before.")] = None,
) -> CrmOrderPage:
    """List orders, newest first."""
    return await crm.page(status=wanted, limit=limit, below=cursor)


def _tagged(response: Response, order: AnyOrder) -> AnyOrder:
    """Return an order, and its tag in a header."""
    response.headers["ETag"] = etag_of_order(order)
    return order


@router.get("/{order_id}", responses=documented(404), dependencies=[AFTER_TOKEN])
async def show_order(crm: Crm, order_id: OrderIdPath, response: Response) -> CrmOrderDetail:
    """Show an order and what has happened to it. Its `ETag` is for `If-Match`, where it is changed."""
    return _tagged(response, await crm.show(order_id))


@router.post("/{order_id}/approve", responses=documented(404, 409, 412))
async def approve_order(
    crm: Crm, order_id: OrderIdPath, response: Response, seen: IfMatch = None
) -> CrmOrderView:
    """Confirm the price with the customer, so that the factory may begin."""
    return _tagged(response, await crm.approve(order_id, current_caller().name, seen=seen))


@router.post("/{order_id}/requote", status_code=status.HTTP_202_ACCEPTED, responses=documented(404, 409, 412))
async def requote_order(
    crm: Crm, order_id: OrderIdPath, response: Response, seen: IfMatch = None
) -> CrmOrderView:
    """Ask for a new price: the one that was calculated is not valid any more, or the price list has changed.

    Until it is there, `requote_requested_at` says since when, and the order cannot be approved.
    """
    return _tagged(response, await crm.requote(order_id, current_caller().name, seen=seen))


@router.post("/{order_id}/price", status_code=status.HTTP_202_ACCEPTED, responses=documented(404, 409, 412))
async def set_price(
    crm: Crm, order_id: OrderIdPath, body: SetPrice, response: Response, seen: IfMatch = None
) -> CrmOrderView:
    """Set another price than the one that was calculated, before it is approved.

    Until the factory has set it, `requote_requested_at` says since when it was asked for, and the order
    cannot be approved. The reason is in the order's history, and is not shown to the customer.
    """
    return _tagged(response, await crm.set_price(order_id, body, current_caller().name, seen=seen))


@router.post("/{order_id}/ask-file", responses=documented(404, 409))
async def ask_file(crm: Crm, order_id: OrderIdPath, body: AskFile, response: Response) -> CrmOrderView:
    """Ask the customer of a rejected order for another file: he orders again with it, by the order's page."""
    return _tagged(response, await crm.ask_file(order_id, body, current_caller().name))


@router.post("/{order_id}/close", responses=documented(404, 409, 412))
async def close_order(
    crm: Crm, order_id: OrderIdPath, response: Response, seen: IfMatch = None
) -> CrmOrderView:
    """End an order that was delivered."""
    return _tagged(response, await crm.close(order_id, current_caller().name, seen=seen))


@router.post("/{order_id}/cancel", status_code=status.HTTP_202_ACCEPTED, responses=documented(404, 409, 412))
async def cancel_order(
    crm: Crm, order_id: OrderIdPath, body: CancelOrder, response: Response, seen: IfMatch = None
) -> CrmOrderView:
    """Ask to call an order off.

    The factory decides: the order is CANCELLED, or goes on with `cancel_requested_at` empty again and the
    reason in its history.
    """
    return _tagged(response, await crm.cancel(order_id, body, current_caller().name, seen=seen))


@router.get("/{order_id}/stored", responses=documented(404))
async def show_stored(crm: Crm, order_id: OrderIdPath) -> StoredOrderView:
    """Show where an order is kept, and which of its messages are not acknowledged yet."""
    return await crm.stored(order_id)
