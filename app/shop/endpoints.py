"""The Shop's API."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response, UploadFile, status

from app.http import AfterToken, IdempotencyKey, OrderIdPath, send_token
from app.problem_docs import documented
from app.shop.schemas import ShopOrderDetail, ShopOrderView, StartOrder
from app.shop.service import ShopService

router = APIRouter(prefix="/v1/orders", tags=["orders"])


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
    written = await shop.start(body, key=key)
    send_token(response, written.token)
    if not written.value.created:
        response.status_code = status.HTTP_200_OK
    return written.value.order


@router.put("/{order_id}/model", responses=documented(404, 409, 413, 415))
async def upload_model(
    shop: Shop, order_id: OrderIdPath, file: UploadFile, response: Response
) -> ShopOrderView:
    """Upload the 3D model, an STL, 3MF or OBJ file.

    Until the order is submitted, a new upload replaces the old one.
    """
    written = await shop.upload(order_id, file)
    send_token(response, written.token)
    return written.value


@router.post("/{order_id}/submit", responses=documented(404, 409))
async def submit_order(shop: Shop, order_id: OrderIdPath, response: Response) -> ShopOrderView:
    """Order it: from here the factory works out the price."""
    written = await shop.submit(order_id)
    send_token(response, written.token)
    return written.value


@router.get("/{order_id}", responses=documented(404))
async def show_order(shop: Shop, order_id: OrderIdPath, after: AfterToken = None) -> ShopOrderDetail:
    """Show an order and what has happened to it."""
    return await shop.show(order_id, after=after)
