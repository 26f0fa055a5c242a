"""Reads what the services' databases hold, as streams sorted by order id, in bounded memory.

Each database is read in one REPEATABLE READ transaction through server-side cursors, so its streams agree
with each other. Every database is opened with the role of its own service: no superuser is needed.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import (
    ColumnElement,
    Connection,
    CursorResult,
    Row,
    Select,
    Table,
    case,
    cast,
    exists,
    func,
    literal,
    literal_column,
    select,
    text,
)

from app.console.audit.rules import (
    ChildRows,
    Fact,
    IntakeRow,
    OrderCopy,
    OrderFacts,
    OwedMessage,
    RowLocation,
    ShownCopy,
    gather,
)
from app.kit.caller import calling, shell_user
from app.messaging.routing import ORDER_SERVICES, ServiceName
from app.models import board, crm, mes, shop
from app.models.base import MONEY
from app.models.status import Status
from app.topology import board_keeps, has_board
from ops.fleet import naming, open_engine
from readreplica.sessions import WriteSession
from sharding.engines import open_cluster
from sharding.topology import Database, Topology

FETCH_ROWS = 1_000
"""Rows that one cursor brings per round trip: what the audit's memory is made of, times about 25 cursors."""


SLICE_STATEMENT_SECONDS = 30
WRITE_SECONDS = 10.0

T = TypeVar("T")


class IdRange(NamedTuple):
    """Order ids above `after`, up to `until`; without an end where that is None."""

    after: int
    until: int | None


Chosen = Sequence[int] | IdRange | None
"""Which orders are read: some ids, a range of them, or all."""


@dataclass(frozen=True, slots=True)
class ServiceTables:
    """The tables of one service: where orders stand, what is keyed beside them, and what is owed."""

    orders: tuple[Any, ...]
    children: tuple[tuple[Any, str], ...]
    outbox: Any
    events: Any


SERVICE_TABLES: Mapping[ServiceName, ServiceTables] = {
    ServiceName.SHOP: ServiceTables(
        orders=(shop.ShopOrder,),
        children=((shop.ShopOrderEvent, "orders"),),
        outbox=shop.ShopOutbox,
        events=shop.ShopOrderEvent,
    ),
    ServiceName.CRM: ServiceTables(
        orders=(crm.CrmOrder,),
        children=((crm.CrmOrderEvent, "orders"),),
        outbox=crm.CrmOutbox,
        events=crm.CrmOrderEvent,
    ),
    ServiceName.MES: ServiceTables(
        orders=(mes.MesOrder, mes.MesArchivedOrder),
        children=(
            (mes.MesOrderItem, "orders"),
            (mes.MesOrderEvent, "orders"),
            (mes.PricingJob, "orders"),
            (mes.MesArchivedOrderItem, "orders_archive"),
            (mes.MesArchivedOrderEvent, "orders_archive"),
        ),
        outbox=mes.MesOutbox,
        events=mes.MesOrderEvent,
    ),
}


class OrderDatabases:
    """Every database of a topology that holds orders, ready to be read.

    Parameters:
        topology: where the databases are; each is opened with the role of its own service.
    """

    def __init__(self, topology: Topology) -> None:
        self.services: dict[str, ServiceName] = {
            name: ServiceName(database.tree)
            for name, database in topology.databases.items()
            if database.tree in set(ORDER_SERVICES)
        }
        self.topology = topology
        self.board = next((name for name, each in topology.databases.items() if each.tree == "board"), None)
        """The board's database."""
        self.is_announced = self.board is not None and has_board(topology)
        """Whether orders are announced to the board, so that it is to have them all."""
        self._board_keeps = board_keeps(topology)

    @property
    def shown_since(self) -> datetime:
        """When what the board need not have any more has ended at the latest."""
        return datetime.now(UTC) - self._board_keeps

    @property
    def audited(self) -> Mapping[str, ServiceName]:
        """Every database that the audit reads: those of the services, and the board's."""
        if self.board is None or not self.is_announced:
            return self.services
        return {**self.services, self.board: ServiceName.BOARD}

    @contextmanager
    def connect(self, name: str, *, role: str | None = None) -> Iterator[Connection]:
        """Connect to a database; what is read there is of one moment.

        Parameters:
            name: the database.
            role: who reads; without it, the role of the service.

        Raises:
            DatabasesFailed: it does not answer.
        """
        database, reader = self.topology.database(name), role or self.topology.database(name).tree
        options = {"isolation_level": "REPEATABLE READ", "execution_options": {"postgresql_readonly": True}}
        with open_engine(self.topology, database, role=reader, **options) as engine:
            with naming(database):
                connection = engine.connect()
            with closing(connection):
                yield connection

    def read_slice(self, connections: Mapping[str, Connection], chosen: Chosen) -> list[OrderFacts]:
        """Read the facts of some orders: in each database in a short transaction, which has ended by then.

        Parameters:
            connections: to every database, as `connect` gives them.
            chosen: which orders; few enough for memory.

        Raises:
            DatabasesFailed: a database does not answer, or no longer.
        """
        streams: list[Iterable[Fact]] = []
        for name, connection in connections.items():
            with naming(self.topology.database(name)), connection.begin():
                connection.execute(text(f"SET LOCAL statement_timeout = '{SLICE_STATEMENT_SECONDS}s'"))
                for query, make in _queries(name, self.audited[name]):
                    rows = connection.execute(_chosen(query, chosen)).all()
                    streams.append([make(row) for row in rows])
        return list(gather(streams, has_board=self.is_announced, shown_since=self.shown_since))

    def slice_end(self, connections: Mapping[str, Connection], after: int, *, rows: int) -> int | None:
        """Return up to which id a slice reaches that has at most so many orders of any table; None: no end.

        Raises:
            DatabasesFailed: a database does not answer, or no longer.
        """
        ends: list[int] = []
        for name, connection in connections.items():
            with naming(self.topology.database(name)), connection.begin():
                connection.execute(text(f"SET LOCAL statement_timeout = '{SLICE_STATEMENT_SECONDS}s'"))
                for model in _orders_of(self.audited[name]):
                    following = select(model.order_id).where(model.order_id > after)
                    last = following.order_by(model.order_id).limit(1).offset(rows - 1)
                    if (end := connection.scalar(last)) is not None:
                        ends.append(end)
        return min(ends, default=None)

    async def write(self, name: str, work: Callable[[WriteSession], Awaitable[T]]) -> T:
        """Run a unit of work in a short transaction on a database, as the role of its service.

        Raises:
            DatabasesFailed: it does not answer, or refuses.
        """
        role = self.services[name].value
        with naming(self.topology.database(name)), calling(shell_user()):
            async with (
                asyncio.timeout(WRITE_SECONDS),
                open_cluster(
                    self.topology, name, role=role, application_name="mesctl", direct=True
                ) as cluster,
            ):
                return (await cluster.transact(work)).value

    @contextmanager
    def open(self, order_ids: Sequence[int] | None = None) -> Iterator[Iterator[OrderFacts]]:
        """Take a snapshot of every database and yield the facts of all orders, or of `order_ids` only.

        As long as it is open, vacuum cannot remove what was deleted meanwhile, like in any long read.

        Yields:
            The facts by ascending id; they must be consumed inside the `with` block.

        Raises:
            DatabasesFailed: a database does not answer, or no longer.
        """
        with ExitStack() as stack:
            streams: list[Iterator[Fact]] = []
            for name, service in self.audited.items():
                connection = stack.enter_context(self.connect(name))
                # The snapshot is taken with the first cursor: declare all of them before any is read.
                with naming(self.topology.database(name)):
                    found = _streams(name, service, connection, order_ids)
                for rows, make in found:
                    stack.enter_context(closing(rows))  # also where another database fails
                    streams.append(_named(self.topology.database(name), map(make, rows)))
            yield gather(streams, has_board=self.is_announced, shown_since=self.shown_since)


def _named(database: Database, stream: Iterator[Fact]) -> Iterator[Fact]:
    """Yield a stream, and name its database in an error: many are read at the same time."""
    with naming(database):
        yield from stream


def _streams(
    database: str, service: ServiceName, connection: Connection, order_ids: Sequence[int] | None
) -> list[tuple[CursorResult[Any], Any]]:
    options = connection.execution_options(yield_per=FETCH_ROWS)
    return [(options.execute(_chosen(query, order_ids)), make) for query, make in _queries(database, service)]


def _queries(database: str, service: ServiceName) -> list[tuple[Select[Any], Callable[[Row[Any]], Fact]]]:
    """Return what is read of a database, and what makes a fact of a row."""
    if service is ServiceName.BOARD:
        return [(_shown(), _shown_copy)]
    layout = SERVICE_TABLES[service]
    queries: list[tuple[Select[Any], Any]] = [
        (_copies(model, layout), partial(_copy, service, database, model.__tablename__))
        for model in layout.orders
    ]
    for model, parent in layout.children:
        queries.append((_children(model), partial(_child, service, database, model.__tablename__, parent)))
    queries.append((_messages(layout.outbox), partial(_message, service)))
    if service is ServiceName.MES:
        queries.append((_waiting_intake(), partial(_intake, database)))
    return queries


def _orders_of(service: ServiceName) -> tuple[Any, ...]:
    return (board.BoardOrder,) if service is ServiceName.BOARD else SERVICE_TABLES[service].orders


def _shown() -> Select[Any]:
    source, order = board.BoardSource, board.BoardOrder
    status = source.snapshot["status"].astext
    is_mes = source.source == ServiceName.MES.value
    in_list = {
        ServiceName.SHOP: order.shop_status,
        ServiceName.CRM: order.crm_status,
        # What an order of the MES is listed by is the MES's status as well.
        ServiceName.MES: case((order.mes_status != status, order.mes_status), else_=order.status),
    }
    return select(
        source.order_id,
        source.source,
        status.label("status"),
        cast(source.snapshot["price"].astext, MONEY).label("price"),
        case(*((source.source == each.value, column) for each, column in in_list.items())).label("in_list"),
        case((is_mes, order.operator)).label("operator"),
        # A reason that the MES has not may be another service's.
        case((is_mes & source.snapshot["reason"].astext.is_not(None), order.reason)).label("reason"),
    ).outerjoin(order, order.order_id == source.order_id)


def _shown_copy(row: Row[Any]) -> ShownCopy:
    in_list = None if row.in_list is None else Status(row.in_list)
    source, status = ServiceName(row.source), Status(row.status)
    return ShownCopy(row.order_id, source, status, row.price, in_list, row.operator, row.reason)


def _chosen(query: Select[Any], chosen: Chosen) -> Select[Any]:
    order_id = query.selected_columns.order_id
    query = query.order_by(order_id)
    match chosen:
        case None:
            return query
        case IdRange(after, None):
            return query.where(order_id > after)
        case IdRange(after, until):
            return query.where(order_id > after, order_id <= until)
        case _:
            return query.where(order_id.in_(chosen))


def _copies(model: Any, layout: ServiceTables) -> Select[Any]:
    # Drafts concern the Shop alone. Of a cancelled order only the history says whether it had been one.
    was_submitted = exists().where(
        layout.events.order_id == model.order_id, layout.events.status == literal(Status.SUBMITTED)
    )
    drafts = (Status.INITIATED, Status.FILE_UPLOADED)
    submitted: ColumnElement[bool] = (
        case((model.status == Status.CANCELLED, was_submitted), else_=model.status.not_in(drafts))
        if model is shop.ShopOrder
        else literal(True)
    )
    return select(
        model.order_id,
        partition_of(model.__table__).label("partition"),
        model.status,
        model.channel,
        model.price,
        model.changed_at,
        submitted.label("submitted"),
        *((model.operator, model.reason) if layout is SERVICE_TABLES[ServiceName.MES] else ()),
    )


def _children(model: Any) -> Select[Any]:
    # The pricing jobs of quotes have negative ids, and belong to no order.
    return select(model.order_id).where(model.order_id > 0).distinct()


def _messages(outbox: Any) -> Select[Any]:
    return select(
        outbox.order_id, outbox.destination, outbox.type, outbox.set_aside_at, outbox.set_aside_reason
    )


def _waiting_intake() -> Select[Any]:
    model: Any = mes.Intake
    return select(model.order_id, (func.now() - model.received_at).label("waited"))


def partition_of(table: Table) -> ColumnElement[str]:
    """Return the SQL that names the partition (or the plain table) in which a row of `table` stands."""
    return literal_column(f"{table.name}.tableoid::regclass::text")


def _copy(service: ServiceName, database: str, table: str, row: Row[Any]) -> OrderCopy:
    place = RowLocation(service, database, table, row.partition)
    by_whom = (row.operator, row.reason) if service is ServiceName.MES else ()
    facts = row.status, row.channel, row.price, row.submitted, row.changed_at
    return OrderCopy(row.order_id, place, *facts, *by_whom)


def _child(service: ServiceName, database: str, table: str, parent: str, row: Row[Any]) -> ChildRows:
    return ChildRows(row.order_id, RowLocation(service, database, table, table), parent)


def _intake(database: str, row: Row[Any]) -> IntakeRow:
    return IntakeRow(row.order_id, database, row.waited)


def _message(source: ServiceName, row: Row[Any]) -> OwedMessage:
    reason = None if row.set_aside_at is None else row.set_aside_reason or "no reason given"
    return OwedMessage(row.order_id, source, row.destination, row.type, reason)
