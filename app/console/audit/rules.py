"""What the audit reads of one order, and its decisions about it: pure, so that each rule can be tried alone.

MES is the hub: it holds every order, decides every race, and is the only one whose messages the Shop handles.
So the Shop and the CRM are each compared with MES, and a difference is excused only by a message that is
under way between the two. A message that was set aside excuses nothing: it waits for a person.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from heapq import merge
from itertools import groupby
from operator import attrgetter
from types import MappingProxyType

from app.messaging.routing import ORDER_SERVICES, ServiceName
from app.models.status import DONE, Channel, Status


@dataclass(frozen=True, slots=True)
class RowLocation:
    """Where a row stands: the database, the table that was asked for, and the partition that holds it."""

    service: ServiceName
    database: str
    table: str
    partition: str

    def __str__(self) -> str:
        return f"{self.database}.{self.partition}"


@dataclass(frozen=True, slots=True)
class OrderCopy:
    """A service's view of an order. `submitted` is false while only its customer needs to know of it.

    `operator` and `reason` are the MES's: it decides both.
    """

    order_id: int
    place: RowLocation
    status: Status
    channel: Channel
    price: Decimal | None
    submitted: bool = True
    changed_at: datetime | None = None
    operator: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class ChildRows:
    """One or more rows of a table that is keyed by order; `parent` is the table its order must stand in."""

    order_id: int
    place: RowLocation
    parent: str


@dataclass(frozen=True, slots=True)
class OwedMessage:
    """A row of an outbox: something that `source` still owes to `destination`."""

    order_id: int
    source: ServiceName
    destination: str
    type: str
    set_aside_reason: str | None = None


@dataclass(frozen=True, slots=True)
class IntakeRow:
    """A partner's order that is not placed yet, and for how long it has waited by the database's clock."""

    order_id: int
    database: str
    waited: timedelta


@dataclass(frozen=True, slots=True)
class ShownCopy:
    """What the board has of an order by one service; `in_list` is what its lists say of that.

    `operator` and `reason` are what they say by the MES.
    """

    order_id: int
    source: ServiceName
    status: Status
    price: Decimal | None
    in_list: Status | None
    operator: str | None = None
    reason: str | None = None


Fact = OrderCopy | ChildRows | OwedMessage | IntakeRow | ShownCopy


@dataclass(frozen=True, slots=True)
class OrderFacts:
    """Everything that was read of one order."""

    order_id: int
    copies: tuple[OrderCopy, ...] = ()
    children: tuple[ChildRows, ...] = ()
    messages: tuple[OwedMessage, ...] = ()
    intake: tuple[IntakeRow, ...] = ()
    shown: tuple[ShownCopy, ...] = ()
    has_board: bool = False
    shown_since: datetime | None = None

    def copies_of(self, service: ServiceName) -> tuple[OrderCopy, ...]:
        """Return the copies that one service holds: one, when all is well."""
        return tuple(copy for copy in self.copies if copy.place.service == service)


def gather(
    streams: Iterable[Iterable[Fact]], *, has_board: bool = False, shown_since: datetime | None = None
) -> Iterator[OrderFacts]:
    """Merge streams into one value per order, keeping no more than one order in memory.

    Parameters:
        streams: rows, each stream sorted by `order_id`.
        has_board: whether a board was read as well.
        shown_since: what has ended before that may have left the board; None if it keeps all.

    Yields:
        The facts of each order, by ascending id.
    """
    by_order = attrgetter("order_id")
    for order_id, rows in groupby(merge(*streams, key=by_order), key=by_order):
        yield replace(_facts(order_id, tuple(rows)), has_board=has_board, shown_since=shown_since)


def _facts(order_id: int, rows: tuple[Fact, ...]) -> OrderFacts:
    return OrderFacts(
        order_id,
        # Sorted, for the streams' order is an accident, and two looks at the same must make equal findings.
        tuple(sorted((row for row in rows if isinstance(row, OrderCopy)), key=lambda copy: str(copy.place))),
        tuple(row for row in rows if isinstance(row, ChildRows)),
        tuple(row for row in rows if isinstance(row, OwedMessage)),
        tuple(row for row in rows if isinstance(row, IntakeRow)),
        tuple(row for row in rows if isinstance(row, ShownCopy)),
    )


class Fault(StrEnum):
    """What can be wrong with an order. The value is what the report says."""

    MISSING = "missing"
    DUPLICATE = "duplicate"
    WRONG_SHARD = "wrong shard"
    STATUS_DIFFERS = "status differs"
    PRICE_DIFFERS = "price differs"
    DEAD_LETTER = "message set aside"
    ORPHAN = "orphan"
    STUCK = "stuck"
    NO_JOB = "no pricing job"
    NOT_PLACED = "waits in intake"
    NOT_SHOWN = "not on the board"
    SHOWN_WRONG = "board differs"
    IN_INTAKE_TOO = "placed, and in intake"
    IN_FLIGHT = "in flight"
    """Not a fault: services differ, and the message that will make them agree is under way."""


STUCK_AFTER: Mapping[Status, timedelta] = MappingProxyType(
    {
        Status.SUBMITTED: timedelta(hours=1),  # pricing takes up to 30 minutes
        Status.PRICE_CALCULATED: timedelta(days=3),
        Status.MANUFACTURING_APPROVED: timedelta(days=2),
        Status.MANUFACTURING_STARTED: timedelta(days=7),
        Status.MANUFACTURING_COMPLETED: timedelta(days=1),
        Status.PACKAGING: timedelta(days=1),
        Status.SHIPPED: timedelta(days=14),
    }
)
"""How long an order may stand in MES in a status. Drafts are the customer's own, and an end has no limit."""


@dataclass(frozen=True, slots=True)
class AuditFinding:
    """One thing to know about one order; two looks that see the same make equal findings."""

    order_id: int
    fault: Fault
    detail: str


IN_INTAKE_AFTER = timedelta(hours=1)
"""How long a partner's order may wait to be placed. Who has paused partners for longer sees it here."""

CLEARED_AFTER = timedelta(minutes=1)
"""A repeated request may put an order into the intake again while it is placed; the drain clears that."""

PRICING_JOBS = "pricing_jobs"

MAKES_KNOWN: Mapping[ServiceName, frozenset[ServiceName]] = {
    ServiceName.SHOP: frozenset(),
    ServiceName.CRM: frozenset({ServiceName.SHOP, ServiceName.MES}),
    ServiceName.MES: frozenset({ServiceName.SHOP}),
}
"""Whose message can still bring an order to a service. None brings one to the Shop, which starts them."""


def judge(facts: OrderFacts, *, shard_of: Callable[[int], str]) -> list[AuditFinding]:
    """Return what is wrong with an order.

    Parameters:
        facts: what all databases hold of it.
        shard_of: the shard map: the MES database that must hold an order id.

    Returns:
        The findings; empty when all is well. At most one of them is `IN_FLIGHT`.
    """
    findings = [
        *_duplicates(facts),
        *_misplaced(facts, shard_of),
        *_missing(facts),
        *_differing(facts),
        *_dead_letters(facts),
        *_orphans(facts),
        *_in_intake(facts),
        *_on_board(facts),
    ]
    # Several services may wait for messages of one order: that is still one order in flight.
    return list(dict.fromkeys(findings))


def judge_progress(facts: OrderFacts, *, now: datetime) -> list[AuditFinding]:
    """Return what keeps an order from going on in MES; empty when it may, or has ended.

    Parameters:
        facts: what all databases hold of it.
        now: the current instant, with a time zone.
    """
    return [*_stuck(facts, now), *_unpriced(facts)]


def _stuck(facts: OrderFacts, now: datetime) -> Iterator[AuditFinding]:
    for copy in facts.copies_of(ServiceName.MES):
        limit = STUCK_AFTER.get(copy.status)
        if limit is not None and copy.changed_at is not None and now - copy.changed_at > limit:
            since = f"{copy.changed_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
            yield AuditFinding(facts.order_id, Fault.STUCK, f"{copy.place} {copy.status} since {since}")


def _unpriced(facts: OrderFacts) -> Iterator[AuditFinding]:
    # The job is deleted by the transaction that ends this status, and both are read in one.
    priced = {child.place.database for child in facts.children if child.place.table == PRICING_JOBS}
    for copy in facts.copies_of(ServiceName.MES):
        if copy.status is Status.SUBMITTED and copy.place.database not in priced:
            detail = f"{copy.place} {copy.status}, and no pricing job: no worker will take it"
            yield AuditFinding(facts.order_id, Fault.NO_JOB, detail)


def _duplicates(facts: OrderFacts) -> Iterator[AuditFinding]:
    for service in ORDER_SERVICES:
        copies = facts.copies_of(service)
        if len(copies) > 1:
            places = ", ".join(f"{copy.place} ({copy.status})" for copy in copies)
            yield AuditFinding(facts.order_id, Fault.DUPLICATE, f"stands {len(copies)} times: {places}")


def _misplaced(facts: OrderFacts, shard_of: Callable[[int], str]) -> Iterator[AuditFinding]:
    for copy in facts.copies_of(ServiceName.MES):
        owner = shard_of(facts.order_id)
        if copy.place.database != owner:
            yield AuditFinding(
                facts.order_id, Fault.WRONG_SHARD, f"stands in {copy.place}, belongs to {owner}"
            )


def _missing(facts: OrderFacts) -> Iterator[AuditFinding]:
    submitted = [copy for copy in facts.copies if copy.submitted]
    if not submitted:
        return
    witness = submitted[0]
    required = [
        service for service in ORDER_SERVICES if service != ServiceName.SHOP or witness.channel == Channel.B2C
    ]
    for service in required:
        if facts.copies_of(service):
            continue
        if any(_under_way(facts, source, service) for source in MAKES_KNOWN[service]):
            yield _in_flight(facts)
        else:
            detail = f"not in {service}, though {witness.place} has it ({witness.status})"
            yield AuditFinding(facts.order_id, Fault.MISSING, detail)


def _differing(facts: OrderFacts) -> Iterator[AuditFinding]:
    hub = facts.copies_of(ServiceName.MES)
    if len(hub) != 1:
        return  # missing, or there twice: which copy is right is then a question for a person
    for service in (ServiceName.SHOP, ServiceName.CRM):
        for copy in facts.copies_of(service):
            differences = list(_differences(hub[0], copy))
            between = _under_way(facts, service, ServiceName.MES) or _under_way(
                facts, ServiceName.MES, service
            )
            yield from [_in_flight(facts)] if differences and between else differences


def _differences(hub: OrderCopy, copy: OrderCopy) -> Iterator[AuditFinding]:
    if copy.status != hub.status:
        detail = f"{hub.place} {hub.status}, {copy.place} {copy.status}"
        yield AuditFinding(hub.order_id, Fault.STATUS_DIFFERS, detail)
    if copy.price != hub.price:
        detail = f"{hub.place} {_money(hub)}, {copy.place} {_money(copy)}"
        yield AuditFinding(hub.order_id, Fault.PRICE_DIFFERS, detail)


def _dead_letters(facts: OrderFacts) -> Iterator[AuditFinding]:
    for message in facts.messages:
        if message.set_aside_reason is not None:
            detail = f"{message.type}, {message.source} to {message.destination}: {message.set_aside_reason}"
            yield AuditFinding(facts.order_id, Fault.DEAD_LETTER, detail)


def _orphans(facts: OrderFacts) -> Iterator[AuditFinding]:
    homes = {(copy.place.database, copy.place.table) for copy in facts.copies}
    for child in facts.children:
        if (child.place.database, child.parent) not in homes:
            detail = f"rows in {child.place}, no order in {child.place.database}.{child.parent}"
            yield AuditFinding(facts.order_id, Fault.ORPHAN, detail)


def _on_board(facts: OrderFacts) -> Iterator[AuditFinding]:
    """Compare what the board has of each service with what the service has: it is to be the same."""
    if not facts.has_board:
        return
    shown = {each.source: each for each in facts.shown}
    for service in ORDER_SERVICES:
        copies = facts.copies_of(service)
        if len(copies) > 1:
            continue  # which of them is right is a question for a person
        if service not in shown and _has_left_board(facts):
            continue
        found = list(_shown_faults(copies[0] if copies else None, shown.get(service), facts.order_id))
        yield from [_in_flight(facts)] if found and _under_way(facts, service, ServiceName.BOARD) else found


def _has_left_board(facts: OrderFacts) -> bool:
    """Whether an order has ended so long ago that the board need not have it any more."""
    if facts.shown_since is None or any(copy.status not in DONE for copy in facts.copies):
        return False
    # The board goes by the MES, from which the others hear of an end a little later, or the MES from them.
    return any(each.changed_at is not None and each.changed_at < facts.shown_since for each in facts.copies)


def _shown_faults(copy: OrderCopy | None, shown: ShownCopy | None, order_id: int) -> Iterator[AuditFinding]:
    if copy is None and shown is None:
        return
    if shown is None:
        detail = f"the board has nothing of {copy.place} ({copy.status})" if copy is not None else ""
        yield AuditFinding(order_id, Fault.NOT_SHOWN, detail)
    elif copy is None:
        yield AuditFinding(order_id, Fault.SHOWN_WRONG, f"the board has it of {shown.source}, which has not")
    elif shown.in_list is not shown.status or shown.status is not copy.status:
        detail = f"{copy.place} {copy.status}, board {shown.in_list or 'without a row'}"
        yield AuditFinding(order_id, Fault.SHOWN_WRONG, detail)
    elif shown.price != copy.price:
        of_board = "no price" if shown.price is None else f"{shown.price:.2f}"
        yield AuditFinding(order_id, Fault.SHOWN_WRONG, f"{copy.place} {_money(copy)}, board {of_board}")
    elif (shown.operator, shown.reason) != (copy.operator, copy.reason):
        of_board = f"board {_by_whom(shown)}"
        yield AuditFinding(order_id, Fault.SHOWN_WRONG, f"{copy.place} {_by_whom(copy)}, {of_board}")


def _by_whom(of: OrderCopy | ShownCopy) -> str:
    return f"{of.operator or 'no operator'} ({of.reason or 'no reason'})"


def _in_intake(facts: OrderFacts) -> Iterator[AuditFinding]:
    placed = facts.copies_of(ServiceName.MES)
    for row in facts.intake:
        waited = f"for {row.waited.total_seconds():.0f} s in {row.database}.intake"
        if placed and row.waited > CLEARED_AFTER:
            detail = f"{waited}, and placed in {placed[0].place}"
            yield AuditFinding(facts.order_id, Fault.IN_INTAKE_TOO, detail)
        elif not placed and row.waited > IN_INTAKE_AFTER:
            yield AuditFinding(facts.order_id, Fault.NOT_PLACED, f"{waited}: mesctl flow status says why")


def _under_way(facts: OrderFacts, source: ServiceName, destination: ServiceName) -> bool:
    """Whether a message will still arrive: one is owed, and none that was set aside holds it up."""
    owed = [note for note in facts.messages if (note.source, note.destination) == (source, destination)]
    return bool(owed) and all(note.set_aside_reason is None for note in owed)


def _in_flight(facts: OrderFacts) -> AuditFinding:
    owed = sorted({f"{note.type} to {note.destination}" for note in facts.messages})
    return AuditFinding(facts.order_id, Fault.IN_FLIGHT, ", ".join(owed))


def _money(copy: OrderCopy) -> str:
    return "no price" if copy.price is None else f"{copy.price} EUR"
