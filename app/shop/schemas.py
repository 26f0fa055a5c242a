"""What the Shop's API takes and shows."""

from collections.abc import Iterable
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from app.http import Line
from app.materials import Finish, Material
from app.models.shop import ShopOrder, ShopOrderEvent
from app.views import HistoryLine, OrderView, shown, shown_history

Email = Annotated[
    str,
    # Only the shape: whether it exists is known when the first letter arrives.
    StringConstraints(
        strip_whitespace=True, max_length=254, pattern=r"^[^@\s\x00]+@[^@\s\x00]+\.[^@\s\x00]+$"
    ),
    Field(examples=["ada@example.org"]),
]


class Customer(BaseModel):
    """Who orders."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Line = Field(examples=["Ada Byron"])
    email: Email


class StartOrder(BaseModel):
    """What a customer chooses before the upload of the model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    customer: Customer
    material: Material
    finish: Finish
    # Strict: true is no quantity of 1.
    quantity: int = Field(strict=True, ge=1, le=1000, examples=[2])


class ShopOrderView(OrderView):
    """An order as its customer sees it."""

    customer: Customer
    material: Material
    finish: Finish
    quantity: int
    model_name: str | None = Field(examples=["ring.stl"])

    @classmethod
    def of(cls, order: ShopOrder) -> Self:
        """Show an order."""
        return cls(**_fields(order))


class ShopOrderDetail(ShopOrderView):
    """An order with its history."""

    history: list[HistoryLine]

    @classmethod
    def with_history(cls, order: ShopOrder, events: Iterable[ShopOrderEvent]) -> Self:
        """Show an order and everything that happened to it."""
        return cls(**_fields(order), history=shown_history(events))


def _fields(order: ShopOrder) -> dict[str, Any]:
    return {
        **shown(order),
        "customer": Customer(name=order.customer_name, email=order.customer_email),
        "material": order.material,
        "finish": order.finish,
        "quantity": order.quantity,
        "model_name": order.model_name,
    }
