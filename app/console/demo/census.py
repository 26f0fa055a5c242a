"""How many orders stand where, counted in the databases: for the progress bar and the last table."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, func, select

from app.console.audit.databases import SERVICE_TABLES, OrderDatabases, partition_of
from app.console.audit.rules import RowLocation
from app.console.audit.trace import EVENTS
from app.messaging.routing import ServiceName
from app.models.status import DONE, Status

LIFE = tuple(Status)
"""The statuses in the order of a life without trouble."""


@dataclass(frozen=True, slots=True)
class Census:
    """All services' orders at about one moment. `owed` is how many messages are not acknowledged yet."""

    orders: Mapping[tuple[RowLocation, Status], int]
    owed: int

    def total(self, service: ServiceName) -> int:
        """Count the orders of one service."""
        return sum(count for (place, _), count in self.orders.items() if place.service == service)

    def ended(self, service: ServiceName) -> int:
        """Count the orders of one service that have ended."""
        return self._count(service, DONE)

    def reached(self, status: Status) -> int:
        """Count the orders that MES has at `status` or past it; one that has ended is past everything."""
        return self._count(ServiceName.MES, DONE | set(LIFE[LIFE.index(status) :]))

    def in_order(self) -> list[tuple[tuple[RowLocation, Status], int]]:
        """List the counts by database, partition, and status in the order of life."""
        return sorted(
            self.orders.items(),
            key=lambda item: (item[0][0].database, item[0][0].partition, LIFE.index(item[0][1])),
        )

    def _count(self, service: ServiceName, statuses: frozenset[Status]) -> int:
        return sum(
            count
            for (place, status), count in self.orders.items()
            if place.service == service and status in statuses
        )


def take_census(databases: OrderDatabases) -> Census:
    """Count every database."""
    orders: Counter[tuple[RowLocation, Status]] = Counter()
    owed = 0
    for name, service in databases.services.items():
        with databases.connect(name) as connection:
            orders.update(dict(_count_orders(connection, service, name)))
            outbox = SERVICE_TABLES[service].outbox
            owed += connection.scalar(select(func.count()).select_from(outbox)) or 0
    return Census(orders, owed)


def read_reached(databases: OrderDatabases) -> list[dict[Status, datetime]]:
    """Read for every order when it first reached each status; a follower's history repeats the decider's."""
    reached: dict[int, dict[Status, datetime]] = {}
    for name, service in databases.services.items():
        with databases.connect(name) as connection:
            for model in EVENTS[service]:
                query = select(model.order_id, model.status, func.min(model.at))
                for order_id, status, at in connection.execute(query.group_by(model.order_id, model.status)):
                    times = reached.setdefault(order_id, {})
                    times[status] = min(at, times.get(status, at))
    return list(reached.values())


def _count_orders(
    connection: Connection, service: ServiceName, database: str
) -> Iterator[tuple[tuple[RowLocation, Status], int]]:
    for model in SERVICE_TABLES[service].orders:
        partition = partition_of(model.__table__)
        query = select(partition, model.status, func.count()).group_by(partition, model.status)
        for name, status, count in connection.execute(query):
            yield (RowLocation(service, database, model.__tablename__, name), status), count
