"""The Shop's API."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response, UploadFile, status

from app.kit.problem import documented
from app.kit.strict import StrictRoute
from app.schemas import AFTER_TOKEN, IdempotencyKey, OrderIdPath
from app.shop.schemas import ShopOrderDetail, ShopOrderView, StartOrder
from app.shop.service import ShopService

router = APIRouter(prefix="/v1/orders", tags=["orders"], route_class=StrictRoute)


def _shop(request: Request) -> ShopService:
    shop: ShopService = request.app.state.parts
    return shop


Shop = Annotated[ShopService, Depends(_shop)]


@router.post(
    "",
    status_code=status.HTTP_201_CREATED,
    responses={
        200: {"model": ShopOrderView, "description": "The key has made this order before."},
        **documented(),
    },
)
async def start_order(shop: Shop, body: StartOrder, key: IdempotencyKey, response: Response) -> ShopOrderView:
    """Start an order."""
    started = await shop.start(body, key=key)
    if not started.created:
        response.status_code = status.HTTP_200_OK
    return started.order


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
