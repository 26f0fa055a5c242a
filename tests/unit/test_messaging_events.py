"""What stands on the wire, and who is told what."""

from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from app.messaging.errors import MessageMalformed, UnroutedEvent
from app.messaging.events import (
    EVENTS,
    PROGRESS,
    CancelRefused,
    CancelRequested,
    Customer,
    Event,
    Item,
    ItemPrice,
    OrderCancelled,
    OrderRejected,
    OrderReleased,
    OrderSnapshot,
    OrderSubmitted,
    PriceCalculated,
    PriceRenewed,
    PriceSet,
    RequoteRequested,
    SnapshotEntry,
    SnapshotLine,
    StatusChanged,
)
from app.messaging.message import MAX_ORDER_ID, Dispatch, decode, encode, sender_of
from app.messaging.routing import ServiceName, route
from app.models.status import Channel, Status

ATTRIBUTES = ["id", "source", "type", "subject", "time", "data", "attempt"]
AT = datetime(2026, 11, 3, 9, 30, tzinfo=UTC)
RING = Item(
    line_no=1,
    material="gold_18k",
    finish="matte",
    quantity=2,
    model_key="models/ab.stl",
    model_name="ring.stl",
)
SUBMITTED = OrderSubmitted(
    actor="Ana",
    channel=Channel.B2C,
    summary="2 rings",
    customer=Customer(name="Ana", email="ana@example.com"),
    items=(RING,),
    submitted_at=AT,
)
SAMPLES: tuple[Event, ...] = (
    SUBMITTED,
    PriceCalculated(
        actor="pricing", price=Decimal("90.20"), items=(ItemPrice(line_no=1, unit_price=Decimal("45.10")),)
    ),
    OrderRejected(actor="pricing", reason="the model is open"),
    OrderCancelled(actor="Ana", reason="too dear"),
    CancelRequested(actor="Ana", reason="too dear"),
    CancelRefused(reason="metal has been cast", status=Status.MANUFACTURING_STARTED),
    RequoteRequested(actor="Sara"),
    PriceSet(actor="Sara", price=Decimal("390.00"), reason="a faithful customer"),
    PriceRenewed(
        actor="pricing",
        price=Decimal("91.20"),
        items=(ItemPrice(line_no=1, unit_price=Decimal("45.60")),),
        price_valid_until=AT,
        tariff_version="9f2c61d0ab47",
    ),
    OrderReleased(actor="Rosa", reason="the furnace is broken"),
    OrderSnapshot(
        version=3,
        status=Status.PRICE_CALCULATED,
        channel=Channel.B2C,
        summary="2 x ring.stl",
        created_at=AT,
        changed_at=AT,
        price=Decimal("90.20"),
        customer=Customer(name="Ana", email="ana@example.org"),
        lines=(SnapshotLine(line_no=1, material="brass", finish="matte", quantity=2),),
        history=(
            SnapshotEntry(
                event_no=3, status=Status.PRICE_CALCULATED, at=AT, actor="pricing", detail={"a": 1}
            ),
        ),
    ),
    *(event(actor="Rosa") for event in PROGRESS.values()),
)


def dispatch(event: Event) -> Dispatch:
    return Dispatch(
        order_id=2**62,
        message_id=UUID(int=7),
        destination="crm",
        type=event.type,
        time=AT.isoformat(),
        data=event.model_dump_json(),
        attempt=3,
    )


def test_samples_cover_every_event() -> None:
    assert {event.type for event in SAMPLES} == set(EVENTS)


@pytest.mark.parametrize("event", SAMPLES, ids=lambda event: event.type)
def test_an_event_survives_the_wire(event: Event) -> None:
    message = decode(encode(dispatch(event), source="mes_0"))

    assert message.data == event
    assert (message.id, message.source, message.type) == (UUID(int=7), "mes_0", event.type)
    assert (message.subject, message.order_id, message.time, message.attempt) == (str(2**62), 2**62, AT, 3)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"type": "order.melted"}, "order.melted"),
        ({"id": "seven"}, "id"),
        ({"subject": "-5"}, "subject"),
        ({"subject": str(2**63)}, str(2**63)),
        ({"time": "2026-11-03T09:30:00"}, "time"),
        ({"data": "{"}, "data"),
        ({"data": '{"actor": "Ana"}'}, "reason"),
        ({"data": '{"actor": "Ana", "reason": "dear", "colour": "red"}'}, "colour"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_malformed_entry_is_named(change: dict[str, str], named: str) -> None:
    entry = encode(dispatch(CancelRequested(actor="Ana", reason="dear")), source="crm")

    with pytest.raises(MessageMalformed, match=named):
        decode(entry | change)


@given(
    entry=st.dictionaries(st.sampled_from([*ATTRIBUTES, "colour"]), st.text()),
    kept=st.sets(st.sampled_from(ATTRIBUTES)),
)
def test_whatever_stands_on_a_stream_is_a_message_or_malformed(entry: dict[str, str], kept: set[str]) -> None:
    genuine = encode(dispatch(CancelRequested(actor="Ana", reason="dear")), source="crm")
    given_entry = entry | {name: genuine[name] for name in kept}
    with suppress(MessageMalformed):
        assert decode(given_entry).order_id <= MAX_ORDER_ID


@pytest.mark.parametrize(
    ("change", "sender"),
    [
        ({}, ("crm", UUID(int=7))),
        ({"id": "7"}, None),
        ({"id": "x" * 10_000_000}, None),
        ({"source": ""}, None),
        ({"source": "crm\n"}, None),
        ({"source": "crm\\xff"}, None),
        ({"source": "c" * 64}, None),
    ],
)
def test_a_sender_is_a_database_and_an_id(change: dict[str, str], sender: tuple[str, UUID] | None) -> None:
    entry = encode(dispatch(CancelRequested(actor="Ana", reason="dear")), source="crm")

    assert sender_of(entry | change) == sender


@pytest.mark.parametrize("missing", ["id", "source", "type", "subject", "time", "data"])
def test_every_attribute_is_needed(missing: str) -> None:
    entry = encode(dispatch(CancelRequested(actor="Ana", reason="dear")), source="crm")
    del entry[missing]

    with pytest.raises(MessageMalformed):
        decode(entry)


@pytest.mark.parametrize("channel", Channel)
def test_a_submitted_order_names_who_ordered(channel: Channel) -> None:
    unnamed = SUBMITTED.model_dump() | {"channel": channel, "customer": None, "partner": None}

    with pytest.raises(ValidationError, match="names its"):
        OrderSubmitted.model_validate(unnamed)


def told(source: ServiceName, channel: Channel) -> dict[str, set[str]]:
    """List who is told of each event that a service may publish."""
    routes = {}
    for event in SAMPLES:
        try:
            routes[event.type] = {service.value for service in route(source, event, channel)}
        except UnroutedEvent:
            continue
    return routes


def test_the_shop_only_submits() -> None:
    assert told(ServiceName.SHOP, Channel.B2C) == {
        "order.submitted": {"mes", "crm"},
        "order.snapshot": {"board"},
    }
    assert told(ServiceName.SHOP, Channel.B2B) == {}


@pytest.mark.parametrize("channel", Channel)
def test_the_crm_speaks_to_mes_alone(channel: Channel) -> None:
    assert told(ServiceName.CRM, channel) == {
        "order.approved": {"mes"},
        "order.closed": {"mes"},
        "order.cancel_requested": {"mes"},
        "order.requote_requested": {"mes"},
        "order.price_set": {"mes"},
        "order.snapshot": {"board"},
    }


def test_the_shop_hears_of_every_later_status_from_mes() -> None:
    routes = told(ServiceName.MES, Channel.B2C)
    heard = {EVENTS[name] for name, services in routes.items() if "shop" in services}

    later = set(Status) - {Status.INITIATED, Status.FILE_UPLOADED, Status.SUBMITTED}
    assert {event.status for event in heard if issubclass(event, StatusChanged)} == later


def test_the_crm_does_not_hear_back_what_it_decided() -> None:
    for channel in Channel:
        routes = told(ServiceName.MES, channel)
        assert "crm" not in routes["order.approved"] | routes["order.closed"]
        assert {name for name, services in routes.items() if "crm" in services} >= {
            "order.price_calculated",
            "order.rejected",
            "order.cancelled",
            "order.cancel_refused",
            "order.manufacturing_started",
            "order.shipped",
        }


def test_a_partners_order_is_unknown_to_the_shop() -> None:
    routes = told(ServiceName.MES, Channel.B2B)

    assert routes["order.submitted"] == {"crm"}
    assert not any("shop" in services for services in routes.values())


def test_an_unrouted_event_is_refused_by_name() -> None:
    with pytest.raises(UnroutedEvent, match=r"shop may not publish order\.rejected"):
        route(ServiceName.SHOP, OrderRejected(actor="Ana", reason="no"), Channel.B2C)
