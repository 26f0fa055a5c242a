"""What the services send each other: one class for each type of event, and nothing else is shared."""

from collections.abc import Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from app.models.status import Channel, Status

Money = Annotated[Decimal, Field(ge=0, max_digits=12, decimal_places=2)]


class Frozen(BaseModel):
    """Immutable, and strict about unknown fields: a misspelt one is an error and not a lost value."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Event(Frozen):
    """Something that happened to one order. `type` is its name on the wire."""

    type: ClassVar[str]


class StatusChanged(Event):
    """The order reached `status`, by the hand of `actor`; a follower needs no more than these two."""

    status: ClassVar[Status]
    actor: str


class Customer(Frozen):
    """Who ordered through the Shop."""

    name: str
    email: str


class Item(Frozen):
    """A line of an order, as it is to be made."""

    line_no: int
    material: str
    finish: str
    quantity: int
    model_key: str
    model_name: str


class OrderSubmitted(StatusChanged):
    """The customer (B2C) or the partner (B2B) ordered: all that the other services need to know."""

    type: ClassVar[str] = "order.submitted"
    status: ClassVar[Status] = Status.SUBMITTED

    channel: Channel
    summary: str
    customer: Customer | None = None
    partner: str | None = None
    items: Annotated[tuple[Item, ...], Field(min_length=1)]
    submitted_at: AwareDatetime

    @model_validator(mode="after")
    def _names_who_ordered(self) -> Self:
        named = self.customer if self.channel is Channel.B2C else self.partner
        if named is None:
            needed = "customer" if self.channel is Channel.B2C else "partner"
            raise ValueError(f"a {self.channel} order names its {needed}")
        return self


class ItemPrice(Frozen):
    """The price of one piece of a line, in euros."""

    line_no: int
    unit_price: Money


class Quote(Frozen):
    """A price: `price` is the whole order's, in euros. It may be approved until `price_valid_until`.

    `tariff_version` names the rates that are in it, and no others: it stays as it is when the price of
    another metal changes. A release that knows neither refuses a message with them: nulls are left out.
    """

    price: Money
    items: tuple[ItemPrice, ...]
    price_valid_until: AwareDatetime | None = None
    tariff_version: str | None = None

    @model_serializer(mode="wrap")
    def _leave_out_nulls(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in dump(self).items() if value is not None}


class PriceCalculated(Quote, StatusChanged):
    """Every model was measured, and the order has a price."""

    type: ClassVar[str] = "order.price_calculated"
    status: ClassVar[Status] = Status.PRICE_CALCULATED


class PriceRenewed(Quote, Event):
    """An order that had a price, and is not approved yet, has one by the price list of now."""

    type: ClassVar[str] = "order.price_renewed"

    actor: str


class OrderRejected(StatusChanged):
    """It cannot be made; `reason` is written for the customer."""

    type: ClassVar[str] = "order.rejected"
    status: ClassVar[Status] = Status.REJECTED

    reason: str


class OrderReleased(StatusChanged):
    """The order was put back by its operator, or for him: it waits for another one to take it."""

    type: ClassVar[str] = "order.released"
    status: ClassVar[Status] = Status.MANUFACTURING_APPROVED

    reason: str


class OrderCancelled(StatusChanged):
    """Its cancellation was requested, and MES agreed."""

    type: ClassVar[str] = "order.cancelled"
    status: ClassVar[Status] = Status.CANCELLED

    reason: str


class ProgressEvent(StatusChanged):
    """A step of the order about which there is no more to say than who took it."""


class OrderApproved(ProgressEvent):
    """The seller confirmed the price with the customer."""

    type: ClassVar[str] = "order.approved"
    status: ClassVar[Status] = Status.MANUFACTURING_APPROVED


class ManufacturingStarted(ProgressEvent):
    """An operator (`actor`) took the order."""

    type: ClassVar[str] = "order.manufacturing_started"
    status: ClassVar[Status] = Status.MANUFACTURING_STARTED


class ManufacturingCompleted(ProgressEvent):
    """The pieces are made."""

    type: ClassVar[str] = "order.manufacturing_completed"
    status: ClassVar[Status] = Status.MANUFACTURING_COMPLETED


class PackagingStarted(ProgressEvent):
    """The pieces are being packed."""

    type: ClassVar[str] = "order.packaging"
    status: ClassVar[Status] = Status.PACKAGING


class OrderShipped(ProgressEvent):
    """The parcel was handed to the carrier."""

    type: ClassVar[str] = "order.shipped"
    status: ClassVar[Status] = Status.SHIPPED

    tracking: str | None = None
    """The carrier's number of the parcel. Left out if there is none: an older release refuses it."""

    @model_serializer(mode="wrap")
    def _leave_out_nulls(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in dump(self).items() if value is not None}


class OrderClosed(ProgressEvent):
    """The carrier delivered, or a seller closed it by hand."""

    type: ClassVar[str] = "order.closed"
    status: ClassVar[Status] = Status.CLOSED


class CancelRequested(Event):
    """The customer or a seller wants to cancel it; MES decides."""

    type: ClassVar[str] = "order.cancel_requested"

    actor: str
    reason: str


class CancelRefused(Event):
    """MES did not cancel it, because it was already in `status`."""

    type: ClassVar[str] = "order.cancel_refused"

    reason: str
    status: Status


class RequoteRequested(Event):
    """A seller wants a new price for an order; MES calculates it, and measures nothing that it knows."""

    type: ClassVar[str] = "order.requote_requested"

    actor: str


class PriceSet(Event):
    """A seller wants another price for an order than the one that was calculated; MES sets it, and says so.

    MES answers by `order.price_renewed`, as it does to `order.requote_requested`: it alone says what an order
    costs, so that of two prices that cross all services end with the same.
    """

    type: ClassVar[str] = "order.price_set"

    actor: str
    price: Money
    reason: str


class SnapshotEntry(Frozen):
    """A line of an order's history, as the service has it that says so."""

    event_no: int
    status: Status
    at: AwareDatetime
    actor: str
    detail: dict[str, Any] = Field(default_factory=dict)


class SnapshotLine(Frozen):
    """A line of an order; of a draft there may be no model yet, and no price before it was calculated."""

    line_no: int
    material: str
    finish: str
    quantity: int
    model_key: str | None = None
    model_name: str | None = None
    unit_price: Money | None = None


class OrderSnapshot(Event):
    """All that one service knows of an order at one moment, for those who show orders.

    `version` is the number of the last line of its history there: of two snapshots by one service the one
    with the higher version is the newer, in whatever order they come. `history` has the lines that were
    appended with this version. What a service does not know is left out.
    """

    type: ClassVar[str] = "order.snapshot"

    version: int = Field(ge=1)
    status: Status
    channel: Channel
    summary: str
    created_at: AwareDatetime
    changed_at: AwareDatetime
    price: Money | None = None
    price_valid_until: AwareDatetime | None = None
    tariff_version: str | None = None
    reason: str | None = None
    customer: Customer | None = None
    partner: str | None = None
    reference: str | None = None
    operator: str | None = None
    cancel_requested_at: AwareDatetime | None = None
    requote_requested_at: AwareDatetime | None = None
    lines: tuple[SnapshotLine, ...] = ()
    history: tuple[SnapshotEntry, ...] = ()

    @model_serializer(mode="wrap")
    def _leave_out_nulls(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in dump(self).items() if value is not None}


_PROGRESS: tuple[type[ProgressEvent], ...] = (
    OrderApproved,
    ManufacturingStarted,
    ManufacturingCompleted,
    PackagingStarted,
    OrderShipped,
    OrderClosed,
)
_DETAILED: tuple[type[Event], ...] = (
    OrderSubmitted,
    PriceCalculated,
    OrderRejected,
    OrderCancelled,
    CancelRequested,
    CancelRefused,
    RequoteRequested,
    PriceSet,
    PriceRenewed,
    OrderReleased,
    OrderSnapshot,
)

EVENTS: Mapping[str, type[Event]] = MappingProxyType({event.type: event for event in _DETAILED + _PROGRESS})
"""Every event by its name on the wire."""

PROGRESS: Mapping[Status, type[ProgressEvent]] = MappingProxyType(
    {event.status: event for event in _PROGRESS}
)
"""The event of each status that carries only its actor: `PROGRESS[Status.SHIPPED](actor="Rosa")`."""
