"""What the API of partners takes and shows."""

from datetime import datetime
from decimal import Decimal
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

from app.flow.places import PricingPlace
from app.mes import repository
from app.mes.schemas import IntakePlace, ItemView, PartnerOrderView
from app.mes.webhooks import WebhookTarget
from app.messaging.events import OrderSubmitted
from app.models.base import EventRow
from app.models.mes import Intake
from app.models.reference import Finish, Material
from app.models.status import Status
from app.partner_events import TYPES
from app.schemas import OrderIdText, Quantity, Reference, View

MOST_ORDERS = 20
"""How many orders one request may make."""


class PartnersOrder(View):
    """An order as its partner sees it: without names of staff. `price` is null until it is calculated."""

    order_id: OrderIdText
    reference: str | None = Field(description="Your own name of it.", examples=["PO-1017"])
    status: Status = Field(examples=[Status.PRICE_CALCULATED])
    summary: str = Field(examples=["2 x ring.stl, gold_18k, polished"])
    price: Decimal | None = Field(examples=["412.50"])
    currency: Literal["EUR"] = "EUR"
    reason: str | None = Field(description="Why it was rejected or cancelled.")
    created_at: datetime
    changed_at: datetime


class PartnersOrderPage(View):
    """Orders of one partner, newest first."""

    orders: list[PartnersOrder]
    next_cursor: str | None = Field(description="For the next page; null on the last.")


class PartnersHistoryLine(View):
    """A status that the order had, since when, and the price that it got then."""

    status: Status
    at: datetime
    price: Decimal | None = Field(default=None, examples=["412.50"])


class PartnersOrderDetail(PartnersOrder):
    """An order with its lines, its history, until when its price may be approved, and where it waits."""

    price_valid_until: datetime | None = Field(description="Until when its price may be approved.")
    items: list[ItemView]
    history: list[PartnersHistoryLine]
    state: Literal["waiting", "placed"]
    waiting: IntakePlace | None = Field(description="Where it stands while it waits to be placed.")
    pricing: PricingPlace | None = Field(description="Where it stands while it waits for its price.")

    @classmethod
    def of_waiting(cls, row: Intake, shown: PartnerOrderView) -> Self:
        """Show an order that is not placed yet."""
        items = OrderSubmitted.model_validate(row.body).items
        return cls(
            **shown.model_dump(include=set(PartnersOrder.model_fields)),
            price_valid_until=None,
            items=[ItemView(**item.model_dump(exclude={"model_key"}), unit_price=None) for item in items],
            history=[],
            state="waiting",
            waiting=shown.waiting,
            pricing=None,
        )

    @classmethod
    def of(cls, found: repository.Found, *, pricing: PricingPlace | None) -> Self:
        """Show an order, live or archived."""
        events = sorted(found.events, key=lambda event: event.event_no)
        quotes = [quote for event in events if (quote := _quote_in(event))]
        until = quotes[-1].get("price_valid_until") if quotes else None
        return cls(
            **PartnersOrder.model_validate(found.order).model_dump(),
            price_valid_until=until,
            items=[ItemView.model_validate(item) for item in found.items],
            history=[_history_line(event) for event in events],
            state="placed",
            waiting=None,
            pricing=pricing,
        )


def _quote_in(event: EventRow) -> dict[str, Any]:
    """Return the price that a line of the history holds; empty if none."""
    renewed = event.detail.get("price_renewed")
    if isinstance(renewed, dict):
        return renewed
    return event.detail if "price" in event.detail else {}


def _history_line(event: EventRow) -> PartnersHistoryLine:
    return PartnersHistoryLine(status=event.status, at=event.at, price=_quote_in(event).get("price"))


class UploadedModel(View):
    """A model that orders may name for as long as it is kept, which is a day at least."""

    model: str = Field(description="What an order names it by; only yours may.", examples=["AYd2Fq..."])
    name: str = Field(examples=["ring.stl"])
    size_bytes: int = Field(examples=[482_084])


class BatchOrder(BaseModel):
    """One of many orders, with an Idempotency-Key of its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    idempotency_key: str = Field(
        min_length=1, max_length=200, pattern=r"^[\x20-\x7e]+$", examples=["po-1017-1"]
    )
    model: str = Field(min_length=1, max_length=500, pattern=r"^[\x21-\x7e]+$", examples=["AYd2Fq..."])
    material: Material
    finish: Finish
    quantity: Quantity
    reference: Reference | None = Field(default=None, examples=["PO-1017"])


class Batch(BaseModel):
    """Many orders."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    orders: list[BatchOrder] = Field(min_length=1, max_length=MOST_ORDERS)

    @field_validator("orders")
    @classmethod
    def _has_each_key_once(cls, orders: list[BatchOrder]) -> list[BatchOrder]:
        if len({order.idempotency_key for order in orders}) < len(orders):
            raise PydanticCustomError("repeated_key", "each order has an idempotency_key of its own")
        return orders


class BatchResult(View):
    """What became of one order: as if it had come alone."""

    status: int = Field(description="202: taken in; 200: made before; else its problem.", examples=[202])
    order: PartnerOrderView | None = None
    problem: dict[str, Any] | None = None


class BatchResults(View):
    """What became of each order, in the order in which they came."""

    results: list[BatchResult]


class NewWebhook(BaseModel):
    """Where to send events, and which; none are all."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str = Field(min_length=1, max_length=2000, examples=["https://erp.example.com/hooks/orders"])
    events: list[str] = Field(default=[], max_length=len(TYPES), examples=[["order.price_calculated"]])

    @field_validator("events")
    @classmethod
    def _are_known(cls, events: list[str]) -> list[str]:
        if unknown := sorted(set(events) - set(TYPES)):
            raise PydanticCustomError(
                "unknown_event",
                "there is no event {unknown}, but {known}",
                {"unknown": unknown[0][:60], "known": ", ".join(TYPES)},
            )
        return events


class WebhookView(View):
    """An endpoint. `disabled_reason` says why nothing is sent there any more."""

    webhook_id: str = Field(examples=["wh_6sJq0c1Qv0m3n8X1yR2aFw"])
    url: str
    events: list[str] = Field(description="None are all.")
    created_at: datetime
    failing_since: datetime | None = Field(description="Nothing has come through since; null while it does.")
    last_error: str | None
    disabled_at: datetime | None
    disabled_reason: str | None

    @classmethod
    def of(cls, endpoint: WebhookTarget) -> Self:
        """Show an endpoint."""
        return cls(webhook_id=endpoint.endpoint_id, **_fields_of(endpoint))


class MadeWebhook(WebhookView):
    """A new endpoint. Its secret is shown this once."""

    secret: str = Field(
        description="Verifies the signature.", examples=["whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"]
    )

    @classmethod
    def of(cls, endpoint: WebhookTarget) -> Self:
        """Show a new endpoint."""
        return cls(webhook_id=endpoint.endpoint_id, secret=endpoint.secret, **_fields_of(endpoint))


def _fields_of(endpoint: WebhookTarget) -> dict[str, Any]:
    shown = {name: getattr(endpoint, name) for name in WebhookView.model_fields if name != "webhook_id"}
    return {**shown, "events": list(endpoint.events)}


class Webhooks(View):
    """The endpoints of a partner."""

    webhooks: list[WebhookView]


class WebhookTested(View):
    """Whether a test event came through; if it did, the endpoint is enabled."""

    delivered: bool
    status: int | None = Field(description="By which it was answered.", examples=[204])
    error: str | None


class WebhookReplayed(View):
    """How many events are sent again."""

    events: int
    next_since: datetime | None = Field(description="From where to ask again, if there are more.")
