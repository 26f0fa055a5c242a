"""What the audit knows of one order: plain values, gathered from sorted streams of rows."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from heapq import merge
from itertools import groupby
from operator import attrgetter

from app.models.status import Channel, Status


class Service(StrEnum):
    """A keeper of orders. The value is its migration tree, its role, and its name as a destination."""

    SHOP = "shop"
    CRM = "crm"
    MES = "mes"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row stands: the database, the table that was asked for, and the partition that holds it."""

    service: Service
    database: str
    table: str
    partition: str

    def __str__(self) -> str:
        return f"{self.database}.{self.partition}"


@dataclass(frozen=True, slots=True)
class Copy:
    """A service's view of an order. `submitted` is false while only its customer needs to know of it."""

    order_id: int
    place: Place
    status: Status
    channel: Channel
    price: Decimal | None
    submitted: bool = True


@dataclass(frozen=True, slots=True)
class Child:
    """One or more rows of a table that is keyed by order; `parent` is the table its order must stand in."""

    order_id: int
    place: Place
    parent: str


@dataclass(frozen=True, slots=True)
class Message:
    """A row of an outbox: something that `source` still owes to `destination`."""

    order_id: int
    source: Service
    destination: str
    type: str
    set_aside_reason: str | None = None


Row = Copy | Child | Message


@dataclass(frozen=True, slots=True)
class OrderFacts:
    """Everything that was read of one order."""

    order_id: int
    copies: tuple[Copy, ...] = ()
    children: tuple[Child, ...] = ()
    messages: tuple[Message, ...] = ()

    def copies_of(self, service: Service) -> tuple[Copy, ...]:
        """Return the copies that one service holds: one, when all is well."""
        return tuple(copy for copy in self.copies if copy.place.service == service)


def gather(streams: Iterable[Iterable[Row]]) -> Iterator[OrderFacts]:
    """Merge streams into one value per order, keeping no more than one order in memory.

    Parameters:
        streams: rows, each stream sorted by `order_id`.

    Yields:
        The facts of each order, by ascending id.
    """
    by_order = attrgetter("order_id")
    for order_id, rows in groupby(merge(*streams, key=by_order), key=by_order):
        yield _facts(order_id, tuple(rows))


def _facts(order_id: int, rows: tuple[Row, ...]) -> OrderFacts:
    return OrderFacts(
        order_id,
        # Sorted, for the streams' order is an accident, and two looks at the same must make equal findings.
        tuple(sorted((row for row in rows if isinstance(row, Copy)), key=lambda copy: str(copy.place))),
        tuple(row for row in rows if isinstance(row, Child)),
        tuple(row for row in rows if isinstance(row, Message)),
    )
