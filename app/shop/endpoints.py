"""The Shop's API."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response, UploadFile, status

from app.access.enforce import Access
from app.access.errors import IdempotencyKeyGuessable
from app.kit.caller import Role, current_caller
from app.kit.problem import documented
from app.kit.strict import StrictRoute
from app.schemas import AFTER_TOKEN, IdempotencyKey, OrderIdPath
from app.shop.schemas import ShopOrderDetail, ShopOrderView, StartedOrderView, StartOrder
from app.shop.service import ShopService
from app.stored import StoredOrderView

SHORTEST_SECRET_KEY = 16
"""Of an Idempotency-Key that is all by which a customer is known."""

router = APIRouter(prefix="/v1/orders", tags=["orders"], route_class=StrictRoute)


def _shop(request: Request) -> ShopService:
    shop: ShopService = request.app.state.parts
    return shop


Shop = Annotated[ShopService, Depends(_shop)]


@router.post(
    "",
    status_code=status.HTTP_201_CREATED,
    responses={
        200: {"model": StartedOrderView, "description": "The key has made this order before."},
        **documented(),
    },
)
async def start_order(
    shop: Shop, request: Request, body: StartOrder, key: IdempotencyKey, response: Response
) -> StartedOrderView:
    """Start an order. Who has no credential sends an Idempotency-Key that no one guesses, such as a UUID."""
    started = await shop.start(body, key=_key_of_caller(key))
    if not started.created:
        response.status_code = status.HTTP_200_OK
    access: Access = request.app.state.access
    return StartedOrderView(**dict(started.order), link=access.link_of(int(started.order.order_id)))


@router.post(
    "/{order_id}/again",
    status_code=status.HTTP_201_CREATED,
    responses={
        200: {"model": StartedOrderView, "description": "It was started again before."},
        **documented(404, 409),
    },
)
async def start_again(
    shop: Shop, request: Request, order_id: OrderIdPath, response: Response
) -> StartedOrderView:
    """Start an order that was rejected once more, as a new one for another file; `link` opens it."""
    started = await shop.again(order_id)
    if not started.created:
        response.status_code = status.HTTP_200_OK
    access: Access = request.app.state.access
    return StartedOrderView(**dict(started.order), link=access.link_of(int(started.order.order_id)))


def _key_of_caller(key: str) -> str:
    """Return an idempotency key that finds the caller's order alone: it gives the order's link out."""
    # Who has an order's link is a customer like any other: the link of another order is not his.
    if current_caller().role is not Role.CUSTOMER:
        return key
    if len(key) < SHORTEST_SECRET_KEY:
        raise IdempotencyKeyGuessable(SHORTEST_SECRET_KEY)
    return f"customer {key}"


@router.put("/{order_id}/model", responses=documented(404, 409, 413, 415))
async def upload_model(shop: Shop, order_id: OrderIdPath, file: UploadFile) -> ShopOrderView:
    """Upload the 3D model, an STL, 3MF or OBJ file.

    Until the order is submitted, a new upload replaces the old one.
    """
    return await shop.upload(order_id, file)


@router.post("/{order_id}/submit", responses=documented(404, 409))
async def submit_order(shop: Shop, order_id: OrderIdPath) -> ShopOrderView:
    """Order it: from here the factory works out the price."""
    return await shop.submit(order_id)


@router.get("/{order_id}", responses=documented(404), dependencies=[AFTER_TOKEN])
async def show_order(shop: Shop, order_id: OrderIdPath) -> ShopOrderDetail:
    """Show an order and what has happened to it."""
    return await shop.show(order_id)


@router.get("/{order_id}/stored", responses=documented(404))
async def show_stored(shop: Shop, order_id: OrderIdPath) -> StoredOrderView:
    """Show where an order is kept, and which of its messages are not acknowledged yet."""
    return await shop.stored(order_id)
