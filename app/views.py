"""What of an order every API shows in the same way."""

from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from app.models.base import EventRow, OrderState
from app.models.status import Channel, Status

OrderIdText = Annotated[str, BeforeValidator(str), Field(examples=["379218445107200001"])]


class View(BaseModel):
    """Something that is shown; read from objects by the names of their attributes."""

    model_config = ConfigDict(frozen=True, from_attributes=True)


class OrderView(View):
    """An order. `price` is for the whole order, and null until it is calculated."""

    order_id: OrderIdText
    status: Status = Field(examples=[Status.PRICE_CALCULATED])
    channel: Channel
    summary: str = Field(examples=["2 x ring.stl, gold_18k, polished"])
    price: Decimal | None = Field(examples=["412.50"])
    currency: Literal["EUR"] = "EUR"
    reason: str | None = Field(description="Why it was rejected or cancelled.")
    created_at: datetime
    changed_at: datetime


class HistoryLine(View):
    """A change of an order: what it became, when, and by whom."""

    status: Status
    at: datetime
    actor: str = Field(examples=["Rosa"])
    detail: dict[str, Any] = Field(examples=[{}])


def shown(order: OrderState) -> dict[str, Any]:
    """Return the fields of an `OrderView` for a view that adds its own."""
    return {name: getattr(order, name) for name in OrderView.model_fields if name != "currency"}


def shown_history(events: Iterable[EventRow]) -> list[HistoryLine]:
    """Return an order's history, oldest first."""
    return [HistoryLine.model_validate(event) for event in sorted(events, key=lambda event: event.event_no)]


def summarise(*, quantity: int, model_name: str, material: str, finish: str) -> str:
    """Say in one line what is ordered, for lists."""
    return f"{quantity} x {model_name}, {material}, {finish}"
