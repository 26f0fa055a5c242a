"""The CRM's API."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response, status

from app.crm.schemas import CancelOrder, CrmOrderDetail, CrmOrderPage, CrmOrderView, Decision
from app.crm.service import CrmService
from app.database import Written
from app.http import AfterToken, OrderId, OrderIdPath, PageLimit, send_token
from app.models.status import Status
from app.problem_docs import documented

router = APIRouter(prefix="/v1/orders", tags=["orders"])


def _crm(request: Request) -> CrmService:
    crm: CrmService = request.app.state.parts
    return crm


Crm = Annotated[CrmService, Depends(_crm)]


@router.get("", responses=documented())
async def list_orders(
    crm: Crm,
    wanted: Annotated[Status | None, Query(alias="status", description="Only orders of this status.")] = None,
    limit: PageLimit = 50,
    cursor: Annotated[OrderId | None, Query(description="`next_cursor` of the page before.")] = None,
    after: AfterToken = None,
) -> CrmOrderPage:
    """List orders, newest first."""
    return await crm.page(status=wanted, limit=limit, below=cursor, after=after)


@router.get("/{order_id}", responses=documented(404))
async def show_order(crm: Crm, order_id: OrderIdPath, after: AfterToken = None) -> CrmOrderDetail:
    """Show an order and what has happened to it."""
    return await crm.show(order_id, after=after)


@router.post("/{order_id}/approve", responses=documented(404, 409))
async def approve_order(crm: Crm, order_id: OrderIdPath, body: Decision, response: Response) -> CrmOrderView:
    """Confirm the price with the customer, so that the factory may begin."""
    return _sent(response, await crm.approve(order_id, body))


@router.post("/{order_id}/close", responses=documented(404, 409))
async def close_order(crm: Crm, order_id: OrderIdPath, body: Decision, response: Response) -> CrmOrderView:
    """End an order that was delivered."""
    return _sent(response, await crm.close(order_id, body))


@router.post("/{order_id}/cancel", status_code=status.HTTP_202_ACCEPTED, responses=documented(404, 409))
async def cancel_order(
    crm: Crm, order_id: OrderIdPath, body: CancelOrder, response: Response
) -> CrmOrderView:
    """Ask to call an order off.

    The factory decides: the order is CANCELLED, or goes on with `cancel_requested_at` empty again and the
    reason in its history.
    """
    return _sent(response, await crm.cancel(order_id, body))


def _sent(response: Response, written: Written[CrmOrderView]) -> CrmOrderView:
    send_token(response, written.token)
    return written.value
