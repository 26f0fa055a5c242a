"""What `mesctl problems` shows of the order system: dead letters, messages, prices and orders that wait."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from sqlalchemy import Connection, func, literal_column, select, text

from app.console.audit.databases import SERVICE_TABLES, OrderDatabases
from app.console.audit.rules import STUCK_AFTER
from app.console.redis_problems import find_redis_problems
from app.messaging.outbox import is_behind_dead_letter
from app.messaging.routing import ServiceName
from app.models.base import OutboxRow
from app.models.mes import MesOrder, PricingJob
from app.models.status import Status
from ops.problems.service import Limit, OpenProblem, Source, run_sources
from sharding.topology import Topology

DEADLINE_SECONDS = 7.0
STATEMENT_SECONDS = 4
MOST_COUNTED = 1_000

LIMITS: Mapping[str, Limit] = {
    "message not acknowledged, seconds": Limit(60, 600),
    "price waited for, seconds": Limit(120, 900),
    "attempts at a price": Limit(4),
    "dead letter, seconds": Limit(0, 3_600),
    "orders stuck": Limit(1, 100),
}
"""When something that waits is a problem; how long an order may stand in a status says `STUCK_AFTER`."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A number of things that wait, and since when the first of them does."""

    count: int
    oldest: datetime

    def seconds(self, now: datetime) -> float:
        """Return how long the oldest waits."""
        return (now - self.oldest).total_seconds()


@dataclass(frozen=True, slots=True)
class StuckOrders:
    """Orders that stand in a status for longer than they may; `count` ends at `MOST_COUNTED`."""

    status: Status
    waiting: Waiting
    order_id: int


@dataclass(frozen=True, slots=True)
class OrderFigures:
    """What waits in one database, by its server's clock."""

    database: str
    now: datetime
    dead: Mapping[str, Waiting]
    owed: Mapping[str, Waiting]
    unpriced: Waiting | None = None
    held: int = 0
    most_attempts: tuple[int, int] | None = None
    """The highest number of attempts at a price, and its order."""

    stuck: tuple[StuckOrders, ...] = ()


def find_problems(topology: Topology) -> Iterable[OpenProblem]:
    """Return what is wrong with orders, messages, prices and Redis; what does not answer is a problem."""
    databases = OrderDatabases(topology)

    def look(name: str) -> Iterator[OpenProblem]:
        return order_problems(read_figures(databases, name))

    sources: dict[str, Source] = {f"database {name}": partial(look, name) for name in databases.services}
    sources["Redis"] = partial(find_redis_problems, topology)
    return run_sources(sources, deadline_seconds=DEADLINE_SECONDS)


def order_problems(figures: OrderFigures) -> Iterator[OpenProblem]:
    """Return what of the figures of a database is a problem. Pure."""
    now, name = figures.now, figures.database
    for to, dead in figures.dead.items():
        severity = LIMITS["dead letter, seconds"].severity_of(dead.seconds(now))
        what = f"{_number(dead.count, 'dead letter')}: no service could handle them, and their orders wait"
        command = f"mesctl orders dead-letters list --source {name} --destination {to}"
        yield OpenProblem(severity or "ticket", f"messages {name} to {to}", what, dead.oldest, command)
    for to, owed in figures.owed.items():
        severity = LIMITS["message not acknowledged, seconds"].severity_of(owed.seconds(now))
        if severity is not None:
            what = f"{_number(owed.count, 'message')} not acknowledged: relay, Redis or {to} does not work"
            yield OpenProblem(severity, f"messages {name} to {to}", what, owed.oldest, "mesctl status")
    yield from _prices(figures)
    for stuck in figures.stuck:
        severity = LIMITS["orders stuck"].severity_of(stuck.waiting.count)
        more = "+" if stuck.waiting.count == MOST_COUNTED else ""
        what = f"{stuck.waiting.count}{more} orders are {stuck.status} for longer than they may"
        command = f"mesctl orders trace {stuck.order_id}"
        where = f"orders {stuck.status} on {name}"
        yield OpenProblem(severity or "ticket", where, what, stuck.waiting.oldest, command)


def _prices(figures: OrderFigures) -> Iterator[OpenProblem]:
    where = f"prices on {figures.database}"
    if figures.unpriced is not None:
        waited = figures.unpriced.seconds(figures.now)
        severity = LIMITS["price waited for, seconds"].severity_of(waited)
        if severity is not None:
            who = f"workers hold {figures.held}" if figures.held else "no worker takes them"
            what = f"{_number(figures.unpriced.count, 'order')} waiting for a price: {who}"
            yield OpenProblem(severity, where, what, figures.unpriced.oldest, "mesctl status")
    if figures.most_attempts is not None:
        attempts, order_id = figures.most_attempts
        severity = LIMITS["attempts at a price"].severity_of(attempts)
        if severity is not None:
            what = f"order {order_id} was begun {attempts} times and has no price"
            yield OpenProblem(severity, where, what, None, f"mesctl orders trace {order_id}")


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def read_figures(databases: OrderDatabases, name: str) -> OrderFigures:
    """Read what waits in one database, in one short transaction.

    Raises:
        DatabasesFailed: it does not answer.
        DBAPIError: it takes too long.
    """
    service = databases.services[name]
    outbox = SERVICE_TABLES[service].outbox
    with databases.connect(name) as connection:
        connection.execute(text(f"SET LOCAL statement_timeout = '{STATEMENT_SECONDS}s'"))
        now = connection.execute(select(func.clock_timestamp())).scalar_one()
        dead, owed = _dead(connection, outbox), _owed(connection, outbox)
        if service is not ServiceName.MES:
            return OrderFigures(name, now, dead, owed)
        return OrderFigures(
            name,
            now,
            dead,
            owed,
            unpriced=_unpriced(connection),
            held=connection.scalar(
                select(func.count())
                .select_from(PricingJob)
                .where(PricingJob.lease_expires_at > func.now(), PricingJob.leased_by.is_not(None))
            )
            or 0,
            most_attempts=_most_attempts(connection),
            stuck=tuple(_stuck(connection, now)),
        )


def _dead(connection: Connection, outbox: type[OutboxRow]) -> dict[str, Waiting]:
    query = (
        select(outbox.destination, func.count(), func.min(outbox.set_aside_at))
        .where(outbox.set_aside_at.is_not(None))
        .group_by(outbox.destination)
    )
    return {to: Waiting(count, oldest) for to, count, oldest in connection.execute(query) if oldest}


def _owed(connection: Connection, outbox: type[OutboxRow]) -> dict[str, Waiting]:
    """Count what should be under way: not what waits behind a dead letter, which is reported itself."""
    query = (
        select(outbox.destination, func.count(), func.min(outbox.created_at))
        .where(outbox.set_aside_at.is_(None), ~is_behind_dead_letter(outbox))
        .group_by(outbox.destination)
    )
    return {to: Waiting(count, oldest) for to, count, oldest in connection.execute(query)}


def _unpriced(connection: Connection) -> Waiting | None:
    # A job that waits bears the time from which on it may be taken.
    query = select(func.count(), func.min(PricingJob.lease_expires_at)).where(
        PricingJob.lease_expires_at <= func.now()
    )
    count, oldest = connection.execute(query).one()
    return Waiting(count, oldest) if count else None


def _most_attempts(connection: Connection) -> tuple[int, int] | None:
    query = select(PricingJob.attempts, PricingJob.order_id).order_by(PricingJob.attempts.desc()).limit(1)
    row = connection.execute(query).first()
    return None if row is None else (row.attempts, row.order_id)


def _stuck(connection: Connection, now: datetime) -> Iterator[StuckOrders]:
    for status, limit in STUCK_AFTER.items():
        query = (
            select(MesOrder.order_id, MesOrder.changed_at)
            # As a literal: so the partition is pruned and its partial index is used (blueprint fact 3).
            .where(MesOrder.status == literal_column(f"'{status}'"), MesOrder.changed_at < now - limit)
            .order_by(MesOrder.changed_at)
            .limit(MOST_COUNTED)
        )
        rows = connection.execute(query).all()
        if rows:
            yield StuckOrders(status, Waiting(len(rows), rows[0].changed_at), rows[0].order_id)
