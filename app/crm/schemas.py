"""What the CRM's API takes and shows."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from app.flow.places import PricingPlace
from app.kit.etags import etag_of
from app.models.base import EventRow
from app.models.crm import CrmOrder
from app.schemas import (
    HistoryLine,
    Price,
    QuoteView,
    Reason,
    View,
    WaitingView,
    shown,
    shown_history,
    shown_quote,
)


class CancelOrder(BaseModel):
    """Why an order is to be cancelled."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reason: Reason = Field(examples=["the customer changed her mind"])


class AskFile(BaseModel):
    """What of the file has to be another, for the customer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reason: Reason = Field(examples=["the wall is too thin at the top"])


class SetPrice(BaseModel):
    """What an order is to cost instead, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    price: Price = Field(description="Of the whole order, in euros.", examples=["390.00"])
    reason: Reason = Field(examples=["a faithful customer"])


class CrmCustomerView(View):
    """Who ordered through the Shop."""

    # The name of its schema in the API's description.
    __qualname__ = "CustomerView"
    model_config = ConfigDict(title="CustomerView")

    name: str
    email: str


class CrmOrderView(QuoteView):
    """An order as a seller sees it: B2C orders have a customer, B2B orders a partner."""

    customer: CrmCustomerView | None
    partner: str | None = Field(examples=["atelier-nord"])
    cancel_requested_at: datetime | None = Field(
        description="Since when the order waits for MES to agree that it is called off."
    )
    requote_requested_at: datetime | None = Field(
        description="Since when the order waits for a new price from MES."
    )

    @classmethod
    def of(cls, order: CrmOrder) -> Self:
        """Show an order."""
        return cls(**_fields(order))


def etag_of_order(order: CrmOrderView) -> str:
    """Return the tag of an order: of itself, and not of where it waits, which changes all the time."""
    return etag_of(order.model_dump_json(include=set(CrmOrderView.model_fields)))


class CrmOrderDetail(CrmOrderView):
    """An order with its history; `waiting` is null when the MES was sent all that it gets of it."""

    history: list[HistoryLine]
    pricing: PricingPlace | None = Field(
        default=None, description="Where it stands while it waits for its price; null where that is unknown."
    )
    waiting: WaitingView | None

    @classmethod
    def with_history(
        cls,
        order: CrmOrder,
        events: Iterable[EventRow],
        *,
        pricing: PricingPlace | None,
        waiting: WaitingView | None,
    ) -> Self:
        """Show an order and everything that happened to it."""
        history = shown_history(events, own=(order.partner, order.customer_name))
        return cls(**_fields(order), history=history, pricing=pricing, waiting=waiting)


class CrmOrderPage(View):
    """Orders, newest first."""

    orders: list[CrmOrderView]
    next_cursor: str | None = Field(description="For the next page; null on the last.")


def _fields(order: CrmOrder) -> dict[str, Any]:
    named = order.customer_name is not None and order.customer_email is not None
    return {
        **shown(order),
        **shown_quote(order),
        "customer": CrmCustomerView(name=order.customer_name, email=order.customer_email) if named else None,
        "partner": order.partner,
        "cancel_requested_at": order.cancel_requested_at,
        "requote_requested_at": order.requote_requested_at,
    }
