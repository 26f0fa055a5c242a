"""Who gets which event: one table, as drawn in docs/explanation/architecture.md, section Messages."""

from collections.abc import Mapping
from enum import StrEnum

from app.messaging.errors import UnroutedEvent
from app.messaging.events import (
    CancelRefused,
    CancelRequested,
    Event,
    ManufacturingCompleted,
    ManufacturingStarted,
    OrderApproved,
    OrderCancelled,
    OrderClosed,
    OrderRejected,
    OrderReleased,
    OrderShipped,
    OrderSnapshot,
    OrderSubmitted,
    PackagingStarted,
    PriceCalculated,
    PriceRenewed,
    PriceSet,
    RequoteRequested,
)
from app.models.status import Channel


class ServiceName(StrEnum):
    """A service that sends and receives messages."""

    SHOP = "shop"
    CRM = "crm"
    MES = "mes"
    BOARD = "board"


ORDER_SERVICES: tuple[ServiceName, ...] = (ServiceName.SHOP, ServiceName.CRM, ServiceName.MES)
"""Those that decide about orders. The board decides nothing: it shows what these say of theirs."""

Routes = Mapping[type[Event], tuple[ServiceName, ...]]

_MES_DECIDES: tuple[type[Event], ...] = (
    PriceCalculated,
    PriceRenewed,
    OrderRejected,
    OrderCancelled,
    ManufacturingStarted,
    OrderReleased,
    ManufacturingCompleted,
    PackagingStarted,
    OrderShipped,
)
# MES learned of these from the CRM, so it passes them on to the Shop only.
_CRM_DECIDES: tuple[type[Event], ...] = (OrderApproved, OrderClosed)

_TO_BOARD: Routes = {OrderSnapshot: (ServiceName.BOARD,)}
_FROM_CRM: Routes = {
    **dict.fromkeys((*_CRM_DECIDES, CancelRequested, RequoteRequested, PriceSet), (ServiceName.MES,)),
    **_TO_BOARD,
}

ROUTES: Mapping[tuple[ServiceName, Channel], Routes] = {
    (ServiceName.SHOP, Channel.B2C): {OrderSubmitted: (ServiceName.MES, ServiceName.CRM), **_TO_BOARD},
    (ServiceName.CRM, Channel.B2C): _FROM_CRM,
    (ServiceName.CRM, Channel.B2B): _FROM_CRM,
    (ServiceName.MES, Channel.B2C): {
        **dict.fromkeys(_MES_DECIDES, (ServiceName.CRM, ServiceName.SHOP)),
        **dict.fromkeys(_CRM_DECIDES, (ServiceName.SHOP,)),
        CancelRefused: (ServiceName.CRM,),
        **_TO_BOARD,
    },
    # The Shop has no partner's order, and the CRM gets it from MES.
    (ServiceName.MES, Channel.B2B): {
        OrderSubmitted: (ServiceName.CRM,),
        **dict.fromkeys(_MES_DECIDES, (ServiceName.CRM,)),
        **dict.fromkeys(_CRM_DECIDES, ()),
        CancelRefused: (ServiceName.CRM,),
        **_TO_BOARD,
    },
}


def route(source: ServiceName, event: Event, channel: Channel) -> tuple[ServiceName, ...]:
    """Return who gets `event` when `source` publishes it; there may be no one.

    Raises:
        UnroutedEvent: `source` has no business to publish it.
    """
    try:
        return ROUTES[source, channel][type(event)]
    except KeyError:
        raise UnroutedEvent(source, event.type, channel) from None


def destinations_of(source: ServiceName) -> set[ServiceName]:
    """List the services to which a service sends anything."""
    routes = [routes for (sender, _), routes in ROUTES.items() if sender == source]
    return {destination for each in routes for services in each.values() for destination in services}


def peers_of(service: ServiceName) -> set[ServiceName]:
    """List the services that a service sends to or receives from."""
    return destinations_of(service) | {each for each in ServiceName if service in destinations_of(each)}


def may_send(source: ServiceName, event: Event, destination: ServiceName) -> bool:
    """Return whether `source` may send such an event to `destination`, about an order of any channel."""
    return any(
        destination in routes.get(type(event), ())
        for (sender, _), routes in ROUTES.items()
        if sender == source
    )
