"""What the Shop's API takes and shows."""

from collections.abc import Iterable
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from app.flow.places import PricingPlace
from app.models.base import EventRow
from app.models.reference import Finish, Material
from app.models.shop import ShopOrder
from app.schemas import (
    Email,
    HistoryLine,
    Line,
    QuoteView,
    View,
    WaitingView,
    shown,
    shown_history,
    shown_quote,
)


class CustomerInput(BaseModel):
    """Who orders."""

    # The name of its schema in the API's description.
    __qualname__ = "Customer"
    model_config = ConfigDict(frozen=True, extra="forbid", title="Customer")

    name: Line = Field(examples=["Ada Byron"])
    email: Email


class StartOrder(BaseModel):
    """What a customer chooses before the upload of the model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    customer: CustomerInput
    material: Material
    finish: Finish
    # Strict: true is no quantity of 1.
    quantity: int = Field(strict=True, ge=1, le=1000, examples=[2])


class CustomerView(View):
    """Who ordered, as it was taken then: the rules for what is taken now may be others."""

    name: str = Field(examples=["Ada Byron"])
    email: str = Field(examples=["ada@example.org"])


class ShopOrderView(QuoteView):
    """An order as its customer sees it."""

    customer: CustomerView
    material: Material
    finish: Finish
    quantity: int
    model_name: str | None = Field(examples=["ring.stl"])

    @classmethod
    def of(cls, order: ShopOrder) -> Self:
        """Show an order."""
        return cls(**_fields(order))


class StartedOrderView(ShopOrderView):
    """An order that was started, and the token that opens it for its customer."""

    link: str | None = Field(
        description="Send it as `Authorization: Bearer`: it is good for this order alone, for 90 days; null "
        "where tokens are not signed.",
        examples=["eyJhbGciOiJIUzI1NiIs..."],
    )


class ShopOrderDetail(ShopOrderView):
    """An order with its history; `waiting` is null when the MES was sent all that it gets of it."""

    history: list[HistoryLine]
    pricing: PricingPlace | None = Field(
        default=None, description="Where it stands while it waits for its price; null where that is unknown."
    )
    waiting: WaitingView | None

    @classmethod
    def with_history(
        cls,
        order: ShopOrder,
        events: Iterable[EventRow],
        *,
        pricing: PricingPlace | None,
        waiting: WaitingView | None,
    ) -> Self:
        """Show an order and everything that happened to it."""
        history = shown_history(events, own=(order.customer_name,))
        return cls(**_fields(order), history=history, pricing=pricing, waiting=waiting)


def _fields(order: ShopOrder) -> dict[str, Any]:
    return {
        **shown(order),
        **shown_quote(order),
        "customer": CustomerView(name=order.customer_name, email=order.customer_email),
        "material": order.material,
        "finish": order.finish,
        "quantity": order.quantity,
        "model_name": order.model_name,
    }
