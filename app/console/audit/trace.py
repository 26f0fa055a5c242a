"""Where is my order? Everything that all services know of one order, read in one go and told by time."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import Any

from sqlalchemy import Connection, select

from app.console.audit.books import LAYOUTS, Books, partition_of
from app.console.audit.facts import Place, Service
from app.models import mes
from app.models.status import Status
from ops.fleet import Outcome, attempt, results_of


@dataclass(frozen=True, slots=True)
class Standing:
    """One service's view of the order, now."""

    place: Place
    status: Status
    price: Decimal | None
    reason: str | None
    changed_at: datetime
    operator: str | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One line of a service's history; `detail` holds facts such as the price or the reason."""

    at: datetime
    service: Service
    status: Status
    actor: str
    detail: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Letter:
    """A message that the order's database still owes."""

    source: str
    destination: str
    type: str
    created_at: datetime
    attempts: int
    next_attempt_at: datetime
    set_aside_reason: str | None


@dataclass(frozen=True, slots=True)
class Job:
    """A pricing job that waits, or that a worker holds."""

    database: str
    attempts: int
    leased_by: str | None
    lease_expires_at: datetime


@dataclass(frozen=True, slots=True)
class Trace:
    """The whole story of one order. `history` is sorted by time over all services."""

    order_id: int
    standings: tuple[Standing, ...]
    history: tuple[Step, ...]
    letters: tuple[Letter, ...]
    jobs: tuple[Job, ...]
    unread: tuple[Outcome[Any], ...] = ()
    """The databases that did not answer, of which nothing is known."""

    @property
    def known(self) -> bool:
        """Whether any service holds the order."""
        return bool(self.standings)

    def as_json(self) -> dict[str, Any]:
        """Return the trace as JSON has it: the id is a string, for JavaScript loses integers above 2^53."""
        unread = {each.database.name: each.error for each in self.unread}
        return {**asdict(replace(self, unread=())), "order_id": str(self.order_id), "unread": unread}


def trace(books: Books, order_id: int) -> Trace:
    """Read all that there is about an order; an unknown one gives a trace whose `known` is false.

    A database that does not answer hides nothing of the others.
    """

    def read(name: str) -> list[Standing | Step | Letter | Job]:
        with books.connect(name) as connection:
            return list(_read(connection, name, books.services[name], order_id))

    outcomes = [attempt(books.topology.database(name), partial(read, name)) for name in books.services]
    found = assemble(order_id, [part for _, parts in results_of(outcomes) for part in parts])
    return replace(found, unread=tuple(each for each in outcomes if each.error is not None))


def assemble(order_id: int, parts: Iterable[Standing | Step | Letter | Job]) -> Trace:
    """Put what was read in the order in which a person wants it."""
    parts = list(parts)
    return Trace(
        order_id,
        standings=tuple(part for part in parts if isinstance(part, Standing)),
        history=tuple(sorted((part for part in parts if isinstance(part, Step)), key=lambda step: step.at)),
        letters=tuple(part for part in parts if isinstance(part, Letter)),
        jobs=tuple(part for part in parts if isinstance(part, Job)),
    )


EVENTS: Mapping[Service, tuple[Any, ...]] = {
    **{service: (layout.events,) for service, layout in LAYOUTS.items()},
    Service.MES: (mes.MesOrderEvent, mes.MesArchivedOrderEvent),
}


def _read(
    connection: Connection, database: str, service: Service, order_id: int
) -> Iterator[Standing | Step | Letter | Job]:
    yield from _standings(connection, database, service, order_id)
    for model in EVENTS[service]:
        query = select(model.at, model.status, model.actor, model.detail).where(model.order_id == order_id)
        for row in connection.execute(query.order_by(model.event_no)):
            yield Step(row.at, service, row.status, row.actor, row.detail)
    yield from _letters(connection, database, LAYOUTS[service].outbox, order_id)
    if service == Service.MES:
        yield from _jobs(connection, database, order_id)


def _standings(connection: Connection, database: str, service: Service, order_id: int) -> Iterator[Standing]:
    for model in LAYOUTS[service].orders:
        table = model.__table__
        query = select(table, partition_of(table).label("partition")).where(table.c.order_id == order_id)
        for row in connection.execute(query).mappings():
            place = Place(service, database, table.name, row["partition"])
            yield Standing(
                place, row["status"], row["price"], row["reason"], row["changed_at"], row.get("operator")
            )


def _letters(connection: Connection, database: str, outbox: Any, order_id: int) -> Iterator[Letter]:
    query = select(outbox.__table__).where(outbox.order_id == order_id).order_by(outbox.sequence)
    for row in connection.execute(query):
        aside = None if row.set_aside_at is None else row.set_aside_reason or "no reason given"
        yield Letter(
            database, row.destination, row.type, row.created_at, row.attempts, row.next_attempt_at, aside
        )


def _jobs(connection: Connection, database: str, order_id: int) -> Iterator[Job]:
    for row in connection.execute(
        select(mes.PricingJob.__table__).where(mes.PricingJob.order_id == order_id)
    ):
        yield Job(database, row.attempts, row.leased_by, row.lease_expires_at)
