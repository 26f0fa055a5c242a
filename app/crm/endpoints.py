"""The CRM's API."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, status

from app.crm.schemas import CancelOrder, CrmOrderDetail, CrmOrderPage, CrmOrderView
from app.crm.service import CrmService
from app.kit.caller import current_caller
from app.kit.problem import documented
from app.kit.strict import StrictRoute
from app.models.status import Status
from app.schemas import AFTER_TOKEN, OrderId, OrderIdPath, PageLimit

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


@router.get("/{order_id}", responses=documented(404), dependencies=[AFTER_TOKEN])
async def show_order(crm: Crm, order_id: OrderIdPath) -> CrmOrderDetail:
    """Show an order and what has happened to it."""
    return await crm.show(order_id)


@router.post("/{order_id}/approve", responses=documented(404, 409))
async def approve_order(crm: Crm, order_id: OrderIdPath) -> CrmOrderView:
    """Confirm the price with the customer, so that the factory may begin."""
    return await crm.approve(order_id, current_caller().name)


@router.post("/{order_id}/requote", status_code=status.HTTP_202_ACCEPTED, responses=documented(404, 409))
async def requote_order(crm: Crm, order_id: OrderIdPath) -> CrmOrderView:
    """Ask for a new price: the one that was calculated is not valid any more, or the price list has changed.

    Until it is there, `requote_requested_at` says since when, and the order cannot be approved.
    """
    return await crm.requote(order_id, current_caller().name)


@router.post("/{order_id}/close", responses=documented(404, 409))
async def close_order(crm: Crm, order_id: OrderIdPath) -> CrmOrderView:
    """End an order that was delivered."""
    return await crm.close(order_id, current_caller().name)


@router.post("/{order_id}/cancel", status_code=status.HTTP_202_ACCEPTED, responses=documented(404, 409))
async def cancel_order(crm: Crm, order_id: OrderIdPath, body: CancelOrder) -> CrmOrderView:
    """Ask to call an order off.

    The factory decides: the order is CANCELLED, or goes on with `cancel_requested_at` empty again and the
    reason in its history.
    """
    return await crm.cancel(order_id, body, current_caller().name)
