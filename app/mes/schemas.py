"""What the MES's API takes and shows."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic.config import JsonDict
from pydantic_core import PydanticCustomError

from app.flow.places import PricingPlace
from app.kit.caller import Role
from app.kit.etags import etag_of
from app.messaging.events import OrderSubmitted
from app.models.base import EventRow
from app.models.mes import Intake, MesOrderColumns, MesOrderItemColumns
from app.models.reference import Finish, Material
from app.models.status import HOT, Status
from app.schemas import (
    HistoryLine,
    Line,
    OrderIdText,
    OrderView,
    Reason,
    Tracking,
    View,
    hides_staff,
    shown,
    shown_history,
)

LISTED = tuple(s for s in Status if s in HOT - {Status.INITIATED, Status.FILE_UPLOADED})
"""The statuses in which an order waits for somebody, in the MES; each has an index of its own."""

SET_BY_OPERATORS = (
    Status.MANUFACTURING_COMPLETED,
    Status.PACKAGING,
    Status.SHIPPED,
    Status.REJECTED,
)


def _one_of(allowed: Sequence[Status], why: str) -> AfterValidator:
    def check(status: Status) -> Status:
        if status not in allowed:
            raise PydanticCustomError(
                "status_not_allowed",
                "{status} is not possible here, but {allowed}: {why}",
                {"status": status.value, "allowed": ", ".join(allowed), "why": why},
            )
        return status

    return AfterValidator(check)


def _enumerated(allowed: Sequence[Status]) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "enum": list(allowed)})


ListedStatus = Annotated[
    Status,
    _one_of(LISTED, "the list holds orders that wait for somebody; one that has ended is found by its id"),
    _enumerated(LISTED),
]
"""A status whose orders the MES lists. Finished orders are the many, and no operator works on them."""

OperatorStatus = Annotated[
    Status,
    _one_of(SET_BY_OPERATORS, "the other changes are not an operator's"),
    _enumerated(SET_BY_OPERATORS),
]

_REASON_WITH_REJECTION: JsonDict = {
    "if": {"properties": {"to": {"const": Status.REJECTED}}},
    "then": {"properties": {"reason": {"type": "string"}}, "required": ["reason"]},
    "else": {"properties": {"reason": {"type": "null"}}},
    "allOf": [
        {
            "if": {"properties": {"to": {"const": Status.SHIPPED}}},
            "else": {"properties": {"tracking": {"type": "null"}}},
        }
    ],
}


class AdvanceOrder(BaseModel):
    """How far an operator is; a rejection needs a reason that the customer understands."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=_REASON_WITH_REJECTION)

    to: OperatorStatus = Field(examples=[Status.MANUFACTURING_COMPLETED])
    reason: Reason | None = Field(default=None, examples=[None])
    tracking: Tracking | None = Field(
        default=None, description="The carrier's number of the parcel; with SHIPPED alone.", examples=[None]
    )

    @model_validator(mode="after")
    def _tracking_goes_with_shipping(self) -> Self:
        if self.tracking is not None and self.to is not Status.SHIPPED:
            raise PydanticCustomError(
                "tracking", "a tracking number goes with SHIPPED, and with nothing else"
            )
        return self

    @model_validator(mode="after")
    def _reason_goes_with_rejection(self) -> Self:
        if (self.reason is None) == (self.to is Status.REJECTED):
            raise PydanticCustomError(
                "reason", "a reason goes with REJECTED, which needs one, and with nothing else"
            )
        return self


class ReleaseOrder(BaseModel):
    """Why an order that was taken is put back."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reason: Reason = Field(examples=["the furnace is broken"])


class HandOverOrder(BaseModel):
    """Who gets an order that was taken."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    to: Line = Field(description="The operator's name.", examples=["Olga"])


class PartnerOrder(BaseModel):
    """What a partner orders, beside the model's file."""

    model_config = ConfigDict(frozen=True)

    partner: str
    material: Material
    finish: Finish
    quantity: int
    reference: str | None = None


def _shown_operator(name: str | None) -> str | None:
    return Role.OPERATOR.value if name is not None and hides_staff() else name


class MesOrderView(OrderView):
    """An order as an operator sees it. `operator` has taken it: to partners a role; `partner` is for B2B."""

    partner: str | None = Field(examples=["atelier-nord"])
    operator: Annotated[str | None, AfterValidator(_shown_operator)] = Field(examples=["Rosa"])


def etag_of_order(order: MesOrderView) -> str:
    """Return the tag of an order: of itself, and not of where it waits, which changes all the time."""
    return etag_of(order.model_dump_json(include=set(MesOrderView.model_fields)))


class IntakePlace(View):
    """An order that was taken in and is not placed yet: others are before it."""

    place: int = Field(
        description="How many are before it on its shard; 1000 are 1000 or more.", examples=[3]
    )
    expected_seconds: int | None = Field(
        description="When it is likely to be placed; null where that is not known, as while it is paused.",
        examples=[2],
    )
    since: datetime


class PartnerOrderView(MesOrderView):
    """A partner's order: "waiting" until it is placed, and shown from the first moment under its id."""

    reference: str | None = Field(description="The partner's own name of it.", examples=["PO-1017"])
    state: Literal["waiting", "placed"]
    waiting: IntakePlace | None = Field(description="Where it stands while it waits; null once it is placed.")


class MesOrderPage(View):
    """Orders of one status, newest first."""

    orders: list[MesOrderView]
    next_cursor: str | None = Field(description="For the next page; null on the last.")


class ItemView(View):
    """A line of an order; the price is for one piece."""

    line_no: int
    material: str
    finish: str
    quantity: int
    model_name: str
    unit_price: Decimal | None = Field(examples=["206.25"])


def _unpriced(submitted: OrderSubmitted) -> list[ItemView]:
    """Return the lines of an order that is not placed yet."""
    return [ItemView(**item.model_dump(exclude={"model_key"}), unit_price=None) for item in submitted.items]


class MesOrderDetail(MesOrderView):
    """An order with its lines and its history."""

    reference: str | None = Field(default=None, description="The partner's own name of it.")
    items: list[ItemView]
    history: list[HistoryLine]
    waiting: IntakePlace | None = Field(
        default=None, description="Where a partner's order stands that is not placed yet; null once it is."
    )
    pricing: PricingPlace | None = Field(
        default=None, description="Where it stands while it waits for its price; null where that is unknown."
    )

    @classmethod
    def of_waiting(cls, order: PartnerOrderView, submitted: OrderSubmitted) -> Self:
        """Show a partner's order that is not placed yet."""
        return cls(**order.model_dump(exclude={"state"}), items=_unpriced(submitted), history=[])

    @classmethod
    def of(
        cls,
        order: MesOrderColumns,
        items: Iterable[MesOrderItemColumns],
        events: Iterable[EventRow],
        *,
        pricing: PricingPlace | None,
    ) -> Self:
        """Show an order, live or archived, and everything that belongs to it."""
        return cls(
            **shown(order),
            partner=order.partner,
            operator=order.operator,
            reference=order.reference,
            items=[ItemView.model_validate(item) for item in items],
            history=shown_history(events, own=(order.partner,)),
            pricing=pricing,
        )


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
        submitted = OrderSubmitted.model_validate(row.body)
        return cls(
            **shown.model_dump(include=set(PartnersOrder.model_fields)),
            price_valid_until=None,
            items=_unpriced(submitted),
            history=[],
            state="waiting",
            waiting=shown.waiting,
            pricing=None,
        )

    @classmethod
    def of(
        cls,
        order: MesOrderColumns,
        items: Iterable[MesOrderItemColumns],
        events: Iterable[EventRow],
        *,
        pricing: PricingPlace | None,
    ) -> Self:
        """Show an order, live or archived."""
        lines = sorted(events, key=lambda event: event.event_no)
        quotes = [quote for event in lines if (quote := _quote_in(event))]
        until = quotes[-1].get("price_valid_until") if quotes else None
        return cls(
            **PartnersOrder.model_validate(order).model_dump(),
            price_valid_until=until,
            items=[ItemView.model_validate(item) for item in items],
            history=[_history_line(event) for event in lines],
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
