"""Where is my order? Everything that all services know of one order, read in one go and sorted by time."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from itertools import groupby
from typing import Any, Literal
from uuid import UUID

from rich.console import Console
from rich.table import Table
from sqlalchemy import Connection, select

from app.console.audit.databases import SERVICE_TABLES, OrderDatabases, partition_of
from app.console.audit.rules import RowLocation
from app.console.slow import WORKING, StatusEntry, shown, stays_of
from app.messaging.routing import ServiceName
from app.models import crm, mes, shop
from app.models.base import InboxRow
from app.models.status import DONE, Status
from ops.fleet import Outcome, attempt, results_of
from ops.shards.service import KeyLocation
from sharding.ids import instant_of

Tier = Literal["hot", "done", "archive"]


@dataclass(frozen=True, slots=True)
class CurrentState:
    """One service's view of the order, now."""

    place: RowLocation
    status: Status
    price: Decimal | None
    reason: str | None
    changed_at: datetime
    operator: str | None = None
    tier: Tier = "hot"


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One line of a service's history; `detail` holds facts such as the price or the reason."""

    at: datetime
    service: ServiceName
    status: Status
    actor: str
    detail: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PendingMessage:
    """A message that the order's database still owes."""

    source: str
    destination: str
    type: str
    created_at: datetime
    attempts: int
    next_attempt_at: datetime
    set_aside_reason: str | None
    message_id: UUID | None = None
    set_aside_at: datetime | None = None
    trace_id: str | None = None


@dataclass(frozen=True, slots=True)
class ReceivedMessage:
    """A message that a service has handled; the oldest of an order are pruned after a week."""

    at: datetime
    service: ServiceName
    source: str
    type: str
    message_id: UUID


@dataclass(frozen=True, slots=True)
class Step:
    """A status in which the order has stood, and for how long; `is_wait` where it is not being worked at."""

    status: Status
    seconds: float
    is_wait: bool
    ended: bool


@dataclass(frozen=True, slots=True)
class PendingJob:
    """A pricing job that waits, or that a worker holds."""

    database: str
    attempts: int
    leased_by: str | None
    lease_expires_at: datetime


Part = CurrentState | HistoryEntry | PendingMessage | PendingJob | ReceivedMessage


@dataclass(frozen=True, slots=True)
class Trace:
    """The whole story of one order. `history` is sorted by time over all services."""

    order_id: int
    standings: tuple[CurrentState, ...]
    history: tuple[HistoryEntry, ...]
    letters: tuple[PendingMessage, ...]
    jobs: tuple[PendingJob, ...]
    received: tuple[ReceivedMessage, ...] = ()
    steps: tuple[Step, ...] = ()
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


def trace(databases: OrderDatabases, order_id: int) -> Trace:
    """Read all that there is about an order; an unknown one gives a trace whose `known` is false.

    A database that does not answer hides nothing of the others.
    """

    def read(name: str) -> list[Part]:
        with databases.connect(name) as connection:
            return list(_read(connection, name, databases.services[name], order_id))

    outcomes = [
        attempt(databases.topology.database(name), partial(read, name)) for name in databases.services
    ]
    found = assemble(order_id, [part for _, parts in results_of(outcomes) for part in parts])
    return replace(found, unread=tuple(each for each in outcomes if each.error is not None))


def assemble(order_id: int, parts: Iterable[Part], *, now: datetime | None = None) -> Trace:
    """Put what was read in the order in which a person wants it."""
    parts = list(parts)
    history = sorted((part for part in parts if isinstance(part, HistoryEntry)), key=lambda step: step.at)
    received = sorted((part for part in parts if isinstance(part, ReceivedMessage)), key=lambda x: x.at)
    return Trace(
        order_id,
        standings=tuple(part for part in parts if isinstance(part, CurrentState)),
        history=tuple(history),
        received=tuple(received),
        steps=tuple(steps_of(order_id, history, now=now or datetime.now(UTC))),
        letters=tuple(part for part in parts if isinstance(part, PendingMessage)),
        jobs=tuple(part for part in parts if isinstance(part, PendingJob)),
    )


def steps_of(order_id: int, history: Sequence[HistoryEntry], *, now: datetime) -> Iterator[Step]:
    """Return how long the order stood in each status: the Shop says it of drafts, MES of all that follows."""
    drafts = [step for step in history if step.service is ServiceName.SHOP and step.status in DRAFTS]
    decided = [step for step in history if step.service is ServiceName.MES]
    lines = [StatusEntry(order_id, step.status, step.at) for step in (*drafts, *decided)]
    for stay in stays_of(lines, now=now):
        yield Step(stay.status, stay.seconds, stay.status not in WORKING, stay.ended)


EVENTS: Mapping[ServiceName, tuple[Any, ...]] = {
    **{service: (layout.events,) for service, layout in SERVICE_TABLES.items()},
    ServiceName.MES: (mes.MesOrderEvent, mes.MesArchivedOrderEvent),
}


def _read(connection: Connection, database: str, service: ServiceName, order_id: int) -> Iterator[Part]:
    yield from _standings(connection, database, service, order_id)
    for model in EVENTS[service]:
        query = select(model.at, model.status, model.actor, model.detail).where(model.order_id == order_id)
        for row in connection.execute(query.order_by(model.event_no)):
            yield HistoryEntry(row.at, service, row.status, row.actor, row.detail)
    yield from _letters(connection, database, SERVICE_TABLES[service].outbox, order_id)
    inbox = INBOXES[service]
    handled = select(inbox.received_at, inbox.source, inbox.type, inbox.message_id)
    for row in connection.execute(handled.where(inbox.order_id == order_id)):
        yield ReceivedMessage(row.received_at, service, row.source, row.type, row.message_id)
    if service == ServiceName.MES:
        yield from _jobs(connection, database, order_id)


def _standings(
    connection: Connection, database: str, service: ServiceName, order_id: int
) -> Iterator[CurrentState]:
    for model in SERVICE_TABLES[service].orders:
        table = model.__table__
        query = select(table, partition_of(table).label("partition")).where(table.c.order_id == order_id)
        for row in connection.execute(query).mappings():
            place = RowLocation(service, database, table.name, row["partition"])
            yield CurrentState(
                place,
                row["status"],
                row["price"],
                row["reason"],
                row["changed_at"],
                row.get("operator"),
                tier_of(place, row["status"]),
            )


def tier_of(place: RowLocation, status: Status) -> Tier:
    """Return how far an order is from those that someone must act on. Pure."""
    if place.table == mes.MesArchivedOrder.__tablename__:
        return "archive"
    return "done" if status in DONE else "hot"


def _letters(connection: Connection, database: str, outbox: Any, order_id: int) -> Iterator[PendingMessage]:
    query = select(outbox.__table__).where(outbox.order_id == order_id).order_by(outbox.sequence)
    for row in connection.execute(query):
        aside = None if row.set_aside_at is None else row.set_aside_reason or "no reason given"
        yield PendingMessage(
            database,
            row.destination,
            row.type,
            row.created_at,
            row.attempts,
            row.next_attempt_at,
            aside,
            row.message_id,
            row.set_aside_at,
            trace_id_of(row._mapping.get("traceparent")),
        )


def trace_id_of(traceparent: str | None) -> str | None:
    """Return the trace of a W3C `traceparent`, where a message has one."""
    parts = (traceparent or "").split("-")
    return parts[1] if len(parts) == 4 else None


def _jobs(connection: Connection, database: str, order_id: int) -> Iterator[PendingJob]:
    for row in connection.execute(
        select(mes.PricingJob.__table__).where(mes.PricingJob.order_id == order_id)
    ):
        yield PendingJob(database, row.attempts, row.leased_by, row.lease_expires_at)


DRAFTS = frozenset({Status.INITIATED, Status.FILE_UPLOADED})
INBOXES: Mapping[ServiceName, type[InboxRow]] = {
    ServiceName.SHOP: shop.ShopInbox,
    ServiceName.CRM: crm.CrmInbox,
    ServiceName.MES: mes.MesInbox,
}

SHORT = 60


def print_trace(console: Console, found: Trace, place: KeyLocation) -> None:
    """Print where an order is, what happened to it, and what it waits for."""
    belongs = f"bucket {place.bucket} on {place.shard}, made {_time(instant_of(found.order_id))}"
    console.print(f"order {found.order_id} ({belongs})", highlight=False, soft_wrap=True)
    for table in (_states_table(found), _history_table(found), _steps_table(found), _received_table(found)):
        if table.row_count:
            console.print(table)
    for line in _waits(found):
        console.print(line, highlight=False, soft_wrap=True)


def _states_table(found: Trace) -> Table:
    table = _table("service", "stands in", "tier", "status", "price", "since", "")
    for standing in found.standings:
        price = "" if standing.price is None else f"{standing.price} EUR"
        since = _time(standing.changed_at)
        table.add_row(
            standing.place.service,
            str(standing.place),
            standing.tier,
            standing.status,
            price,
            since,
            _remark(standing),
        )
    return table


def _remark(standing: CurrentState) -> str:
    remarks = (standing.operator and f"held by {standing.operator}", standing.reason)
    return ", ".join(remark for remark in remarks if remark)


def _history_table(found: Trace) -> Table:
    table = _table("at", "status", "by", "known to", "")
    for steps in _same_steps(found.history):
        first = steps[0]
        services = ", ".join(dict.fromkeys(step.service.value for step in steps))
        facts = _facts({name: fact for step in steps for name, fact in step.detail.items()})
        table.add_row(_time(first.at), first.status, first.actor, services, facts)
    return table


def _steps_table(found: Trace) -> Table:
    table = _table("stood in", "for", "")
    for step in found.steps:
        what = "wait" if step.is_wait else "work"
        table.add_row(step.status, shown(step.seconds), what if step.ended else f"{what}, until now")
    return table


def _received_table(found: Trace) -> Table:
    table = _table("handled at", "by", "message", "from")
    for message in found.received:
        table.add_row(_time(message.at), message.service, message.type, message.source)
    return table


def _same_steps(history: Sequence[HistoryEntry]) -> Iterator[list[HistoryEntry]]:
    """Put together what several services have written of one and the same event."""
    by_event = sorted(history, key=lambda step: (step.at, step.status, step.actor))
    for _, steps in groupby(by_event, key=lambda step: (step.at, step.status, step.actor)):
        yield list(steps)


def _facts(detail: Mapping[str, Any]) -> str:
    """Name the short facts of an event; digests and lists are for `--json`."""
    short = {name: str(fact) for name, fact in detail.items() if isinstance(fact, str | int | float)}
    return ", ".join(f"{name} {fact}" for name, fact in short.items() if len(fact) <= SHORT)


def _waits(found: Trace) -> Iterator[str]:
    for job in found.jobs:
        worker = (
            f"{job.leased_by} has it until {_time(job.lease_expires_at)}" if job.leased_by else "it waits"
        )
        yield f"pricing job on {job.database}: {worker}, {job.attempts} attempts so far"
    for letter in found.letters:
        trace = f", trace {letter.trace_id}" if letter.trace_id else ""
        yield f"{letter.type} from {letter.source} to {letter.destination}: {_delivery(letter)}{trace}"
    if not found.jobs and not found.letters:
        yield "no message is under way, no price is owed"


def _delivery(letter: PendingMessage) -> str:
    if letter.set_aside_reason is not None:
        help_ = f" (mesctl orders dead-letters show {letter.message_id})" if letter.message_id else ""
        return f"SET ASIDE after {letter.attempts} attempts: {letter.set_aside_reason}{help_}"
    since = f"under way since {_time(letter.created_at)}"
    return f"{since}, sent {letter.attempts} times, next at {_time(letter.next_attempt_at)}"


def _table(*columns: str) -> Table:
    return Table(*columns, box=None, pad_edge=False, header_style="dim")


def _time(at: datetime) -> str:
    return at.astimezone().isoformat(sep=" ", timespec="milliseconds")
