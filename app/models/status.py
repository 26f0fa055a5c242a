"""The order's statuses, their groups, and the one transition table of every service."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class Status(StrEnum):
    """Where an order is. The value is what stands in the database and in JSON."""

    INITIATED = "INITIATED"
    FILE_UPLOADED = "FILE_UPLOADED"
    SUBMITTED = "SUBMITTED"
    PRICE_CALCULATED = "PRICE_CALCULATED"
    MANUFACTURING_APPROVED = "MANUFACTURING_APPROVED"
    MANUFACTURING_STARTED = "MANUFACTURING_STARTED"
    MANUFACTURING_COMPLETED = "MANUFACTURING_COMPLETED"
    PACKAGING = "PACKAGING"
    SHIPPED = "SHIPPED"
    CLOSED = "CLOSED"
    CANCELLED = "CANCELLED"
    REJECTED = "REJECTED"


class Channel(StrEnum):
    """How the order came in: a customer through the Shop, or a partner through the MES API."""

    B2C = "B2C"
    B2B = "B2B"


TRANSITIONS: Mapping[Status, frozenset[Status]] = MappingProxyType(
    {
        Status.INITIATED: frozenset({Status.FILE_UPLOADED, Status.CANCELLED}),
        Status.FILE_UPLOADED: frozenset({Status.SUBMITTED, Status.CANCELLED}),
        Status.SUBMITTED: frozenset({Status.PRICE_CALCULATED, Status.REJECTED, Status.CANCELLED}),
        Status.PRICE_CALCULATED: frozenset(
            {Status.MANUFACTURING_APPROVED, Status.REJECTED, Status.CANCELLED}
        ),
        Status.MANUFACTURING_APPROVED: frozenset(
            {Status.MANUFACTURING_STARTED, Status.REJECTED, Status.CANCELLED}
        ),
        # Metal has been cast: from here the order is made or found impossible, but not cancelled.
        Status.MANUFACTURING_STARTED: frozenset({Status.MANUFACTURING_COMPLETED, Status.REJECTED}),
        Status.MANUFACTURING_COMPLETED: frozenset({Status.PACKAGING}),
        Status.PACKAGING: frozenset({Status.SHIPPED}),
        Status.SHIPPED: frozenset({Status.CLOSED}),
        Status.CLOSED: frozenset(),
        Status.CANCELLED: frozenset(),
        Status.REJECTED: frozenset(),
    }
)

RELEASES: Mapping[Status, Status] = MappingProxyType(
    {Status.MANUFACTURING_STARTED: Status.MANUFACTURING_APPROVED}
)
"""The only step back, and its own event makes it: an operator puts back what he has taken. It is no
transition, or a seller could approve again what is being made."""

DONE: frozenset[Status] = frozenset(status for status, following in TRANSITIONS.items() if not following)
HOT: frozenset[Status] = frozenset(TRANSITIONS) - DONE


class IllegalTransition(ValueError):
    """The order cannot go from its status to the wanted one."""

    def __init__(self, order_id: int, current: Status, wanted: Status) -> None:
        self.order_id = order_id
        self.current = current
        self.wanted = wanted
        allowed = ", ".join(status for status in Status if status in TRANSITIONS[current])
        following = f"from there it can go to {allowed}" if allowed else "that is its end"
        super().__init__(f"order {order_id} is {current} and cannot become {wanted}: {following}")


def check_transition(order_id: int, current: Status, wanted: Status) -> None:
    """Refuse a change of status that the table does not hold.

    Raises:
        IllegalTransition: `wanted` does not follow `current`.
    """
    if wanted not in TRANSITIONS[current]:
        raise IllegalTransition(order_id, current, wanted)


def check_release(order_id: int, current: Status, wanted: Status) -> None:
    """Refuse to put an order back that no operator has taken, or that is further.

    Raises:
        IllegalTransition: `RELEASES` does not hold it.
    """
    if RELEASES.get(current) is not wanted:
        raise IllegalTransition(order_id, current, wanted)
