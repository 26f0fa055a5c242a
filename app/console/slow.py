"""How long orders stand in each status: read page by page from the histories, summed up without a server."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import partial
from heapq import nlargest
from itertools import groupby
from operator import attrgetter
from statistics import quantiles
from typing import Any, NamedTuple

from sqlalchemy import Connection, select, text

from app.console.audit.databases import OrderDatabases
from app.messaging.routing import ServiceName
from app.models import mes, shop
from app.models.status import DONE, Status
from ops.fleet import Outcome, attempt, results_of
from ops.output import print_table
from sharding.ids import EPOCH, first_id_at

PAGE_ORDERS = 500
STATEMENT_SECONDS = 10
SLOWEST = 10

WORKING = frozenset({Status.MANUFACTURING_STARTED, Status.PACKAGING})
"""Statuses in which someone works at the order; in the others it waits for somebody, or for a price."""

HISTORIES: Mapping[ServiceName, tuple[tuple[Any, Any], ...]] = {
    # Of the Shop only what comes before an order is submitted: MES decides everything after it.
    ServiceName.SHOP: ((shop.ShopOrder, shop.ShopOrderEvent),),
    ServiceName.MES: (
        (mes.MesOrder, mes.MesOrderEvent),
        (mes.MesArchivedOrder, mes.MesArchivedOrderEvent),
    ),
}


class StatusEntry(NamedTuple):
    """A line of a history, as much as is measured of it."""

    order_id: int
    status: Status
    at: datetime


class Stay(NamedTuple):
    """The time that an order has stood in a status; `ended` is false for the one in which it stands now."""

    order_id: int
    status: Status
    seconds: float
    ended: bool


@dataclass(frozen=True, slots=True)
class StageFigures:
    """The times of a status in seconds: how many stays there were, and how many orders stand in it now."""

    status: Status
    is_work: bool
    stays: int
    now: int
    p50: float
    p95: float
    p99: float


@dataclass(slots=True)
class SlowReport:
    """What `mesctl orders slow` shows; `is_sample` is true where there were more orders than were read."""

    orders: int = 0
    is_sample: bool = False
    seconds: dict[Status, list[float]] = field(default_factory=lambda: defaultdict(list))
    open: dict[Status, int] = field(default_factory=lambda: defaultdict(int))
    totals: dict[int, dict[bool, float]] = field(default_factory=dict)
    unread: tuple[Outcome[Any], ...] = ()

    def add(self, stays: Sequence[Stay]) -> None:
        """Add the stays of one order."""
        for stay in stays:
            if stay.ended:
                self.seconds[stay.status].append(stay.seconds)
            else:
                self.open[stay.status] += 1
            total = self.totals.setdefault(stay.order_id, {True: 0.0, False: 0.0})
            total[stay.status in WORKING] += stay.seconds

    def stages(self) -> list[StageFigures]:
        """Return the figures of each status that was seen, in the order of an order's life."""
        seen = [status for status in Status if status in self.seconds or status in self.open]
        return [
            StageFigures(
                status,
                status in WORKING,
                len(self.seconds.get(status, ())),
                self.open.get(status, 0),
                *percentiles(self.seconds.get(status, ())),
            )
            for status in seen
        ]

    def slowest(self) -> list[tuple[int, float, float]]:
        """Return the slowest orders: id, seconds of waiting, seconds of work."""
        found = nlargest(SLOWEST, self.totals.items(), key=lambda item: sum(item[1].values()))
        return [(order_id, total[False], total[True]) for order_id, total in found]

    def share_waiting(self) -> float | None:
        """Return which part of all time the orders waited; None where there was none."""
        waiting = sum(total[False] for total in self.totals.values())
        working = sum(total[True] for total in self.totals.values())
        return waiting / (waiting + working) if waiting + working else None


def percentiles(seconds: Sequence[float]) -> tuple[float, float, float]:
    """Return p50, p95 and p99; of none they are 0."""
    if len(seconds) < 2:
        return (seconds[0],) * 3 if seconds else (0.0, 0.0, 0.0)
    cuts = quantiles(seconds, n=100, method="inclusive")
    return cuts[49], cuts[94], cuts[98]


def stays_of(lines: Iterable[StatusEntry], *, now: datetime) -> Iterator[Stay]:
    """Return how long one order stood in each status, from its history in order of time.

    A line that repeats the status is a remark and ends no stay. An order that has ended stands in no status.
    """
    entered: StatusEntry | None = None
    for line in lines:
        if entered is None:
            entered = line
        elif line.status is not entered.status:
            yield _stay(entered, line.at, ended=True)
            entered = line
    if entered is not None and entered.status not in DONE:
        yield _stay(entered, now, ended=False)


def _stay(entered: StatusEntry, until: datetime, *, ended: bool) -> Stay:
    # A clock may have stood behind the one before it.
    seconds = max(0.0, (until - entered.at).total_seconds())
    return Stay(entered.order_id, entered.status, seconds, ended)


def measure(
    databases: OrderDatabases,
    *,
    since: datetime,
    now: datetime,
    most_orders: int,
) -> SlowReport:
    """Read the histories of the orders that were made since a time, the newest first, page by page.

    Each page is a transaction of its own with a time limit, so a large table holds up nothing.

    Parameters:
        databases: the databases; one that does not answer is named in the report.
        since: when the oldest orders were made that count.
        now: the current instant.
        most_orders: how many of each database are read at most; what is more makes it a sample.
    """
    report = SlowReport()

    def read(name: str) -> bool:
        orders = 0
        for page in _pages(databases, name, oldest=0 if since < EPOCH else first_id_at(since), now=now):
            for stays in page:
                report.add(stays)
            orders += len(page)
            report.orders += len(page) if databases.services[name] is ServiceName.MES else 0
            if orders >= most_orders:
                return True
        return False

    names = [name for name, service in databases.services.items() if service in HISTORIES]
    outcomes = [attempt(databases.topology.database(name), partial(read, name)) for name in names]
    report.is_sample = any(cut for _, cut in results_of(outcomes))
    report.unread = tuple(each for each in outcomes if each.error is not None)
    return report


def _pages(databases: OrderDatabases, name: str, *, oldest: int, now: datetime) -> Iterator[list[list[Stay]]]:
    """Yield the stays of each order of a database, page by page."""
    service = databases.services[name]
    with databases.connect(name) as connection:
        for order, event in HISTORIES[service]:
            below: int | None = None
            while page := _page(connection, order, event, oldest, below):
                below, lines = page
                yield _by_order(lines, service, now)


def _page(
    connection: Connection, order: Any, event: Any, oldest: int, below: int | None
) -> tuple[int, list[StatusEntry]] | None:
    """Read the histories of the orders below one, and return the lowest id among them; None at the end."""
    ids = select(order.order_id).where(order.order_id >= oldest)
    if below is not None:
        ids = ids.where(order.order_id < below)
    with connection.begin():
        connection.execute(text(f"SET LOCAL statement_timeout = '{STATEMENT_SECONDS}s'"))
        chosen = connection.scalars(ids.order_by(order.order_id.desc()).limit(PAGE_ORDERS)).all()
        if not chosen:
            return None
        lines = select(event.order_id, event.status, event.at).where(event.order_id.in_(chosen))
        rows = connection.execute(lines.order_by(event.order_id, event.event_no)).all()
    return min(chosen), [StatusEntry(*row) for row in rows]


def _by_order(lines: Sequence[StatusEntry], service: ServiceName, now: datetime) -> list[list[Stay]]:
    drafts = {Status.INITIATED, Status.FILE_UPLOADED}
    found = []
    for _, of_order in groupby(lines, key=attrgetter("order_id")):
        stays = list(stays_of(of_order, now=now))
        found.append([s for s in stays if s.status in drafts] if service is ServiceName.SHOP else stays)
    return found


def slow_as_json(report: SlowReport) -> dict[str, Any]:
    """Return the report for programs: ids are strings, for JavaScript loses integers above 2^53."""
    return {
        "orders": report.orders,
        "is_sample": report.is_sample,
        "share_waiting": report.share_waiting(),
        "stages": [asdict(stage) for stage in report.stages()],
        "slowest": [
            {"order_id": str(order_id), "waiting_seconds": waiting, "working_seconds": working}
            for order_id, waiting, working in report.slowest()
        ],
        "unread": {each.database.name: each.error for each in report.unread},
    }


def print_slow(report: SlowReport) -> None:
    """Print the stages, the share of waiting, and the slowest orders."""
    if not report.totals:
        print("no orders since then")
        return
    stages = []
    for each in report.stages():
        times = [shown(value) if each.stays else "" for value in (each.p50, each.p95, each.p99)]
        stages.append((each.status, "work" if each.is_work else "wait", each.stays, each.now, *times))
    print_table(("status", "", "orders", "in it now", "p50", "p95", "p99"), stages)
    sample = ", the newest only (--most-orders)" if report.is_sample else ""
    print(f"{report.orders} orders{sample}; {report.share_waiting() or 0:.0%} of their time is waiting")
    slowest = [(order_id, shown(a + b), shown(a), shown(b)) for order_id, a, b in report.slowest()]
    print_table(("slowest order", "in all", "waiting", "work"), slowest)


def shown(seconds: float) -> str:
    """Return a time as a person wants it: `0.4 s`, `12 min`, `3.5 h`, `2.1 d`."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
