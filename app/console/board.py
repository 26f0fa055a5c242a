"""`mesctl board`: how the board stands, and the board made again from what the services hold.

A rebuild reads each table of orders of the services by pages of ids, and makes each page part of the board
as messages are made part of it. The board serves meanwhile, and takes messages: the newer of two wins.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Annotated, Any

import typer
from sqlalchemy import Connection, delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.board.projection import BoardChange, apply_snapshots
from app.board.retention import has_left
from app.console.audit.databases import SERVICE_TABLES, OrderDatabases
from app.console.dead_letters import MODELS
from app.messaging.events import OrderSnapshot
from app.messaging.routing import ORDER_SERVICES, ServiceName
from app.models.base import EventRow
from app.models.board import BoardInbox, BoardOrder, BoardRebuild
from app.models.mes import MesArchivedOrder, MesArchivedOrderItem, MesOrderItem, MesOrderItemColumns
from app.orders import OrderModels
from app.snapshots import entry_of, make_snapshot
from ops.errors import ExitStatus, OpsError
from ops.options import Options, options_of
from ops.output import note, print_json, print_table
from readreplica.cluster import Cluster
from readreplica.sessions import WriteSession
from sharding.engines import open_cluster
from sharding.topology import Topology

app = typer.Typer(
    help="Show how the board stands, and make it again from the services.", no_args_is_help=True
)

PAGE_ORDERS = 200
NOTE_SECONDS = 2.0
LATE_AFTER = timedelta(minutes=1)
"""How long a message to the board may be owed before `status` says that it is late."""


class NoBoard(OpsError):
    """The topology has no board."""

    exit_status = ExitStatus.REFUSED

    def __init__(self, topology: Topology) -> None:
        super().__init__(
            f"{topology.path} has no board: add a database of the tree board, and [services.board]"
        )


@dataclass
class RebuildProgress:
    """How many orders of a table were read, and how many of them were not on the board as they are."""

    database: str
    table: str
    orders: int = 0
    changed: int = 0
    added: int = 0

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return dict(vars(self))


class _DryRun(Exception):
    def __init__(self, changes: dict[int, BoardChange]) -> None:
        self.changes = changes


def _services(text: str) -> tuple[ServiceName, ...]:
    chosen = tuple(filter(None, map(str.strip, text.split(","))))
    unknown = sorted(set(chosen) - set(ORDER_SERVICES))
    if unknown or not chosen:
        names = ", ".join(ORDER_SERVICES)
        raise typer.BadParameter(f"no such service: {', '.join(unknown)}; there are {names}")
    return tuple(ServiceName(each) for each in chosen)


@app.command("rebuild")
def rebuild(
    context: typer.Context,
    *,
    from_: Annotated[
        str, typer.Option("--from", metavar="SERVICES", help="Which services, with commas.")
    ] = "shop,crm,mes",
    again: Annotated[
        bool, typer.Option("--again", help="From the first order, also where a rebuild was stopped.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count what would be changed.")] = False,
) -> None:
    """Make the board again from the services' databases, while it serves.

    A rebuild that was stopped goes on where it was.
    """
    options = options_of(context)
    topology = options.topology()
    databases = OrderDatabases(topology)
    if databases.board is None:
        raise NoBoard(topology)
    rebuilding = Rebuild(databases, databases.board, dry_run=dry_run)
    found = asyncio.run(rebuilding.run(_services(from_), again=again))
    if options.json:
        print_json({"dry_run": dry_run, "tables": [each.as_json() for each in found]})
        return
    print_table(
        ("database", "table", "orders", "added", "changed"),
        [(each.database, each.table, each.orders, each.added, each.changed) for each in found],
    )


class Rebuild:
    """Reads what the services hold, and makes it part of the board.

    Parameters:
        databases: the services', and the board's.
        board: the name of the board's.
        page_orders: how many orders are read, and written, at once.
        dry_run: whether each page is rolled back.
    """

    def __init__(
        self, databases: OrderDatabases, board: str, *, page_orders: int = PAGE_ORDERS, dry_run: bool = False
    ) -> None:
        self._databases = databases
        self._board = board
        self._page_orders = page_orders
        self._dry_run = dry_run
        self._noted = time.monotonic()

    async def run(self, services: Sequence[ServiceName], *, again: bool = False) -> list[RebuildProgress]:
        """Read all orders of some services; return what was done, by table.

        Raises:
            DatabasesFailed: a database does not answer; what was done stays done.
        """
        topology = self._databases.topology
        async with open_cluster(
            topology, self._board, role="board", application_name="mesctl", direct=True
        ) as cluster:
            begun = {} if self._dry_run else await self._begin(cluster, again=again)
            found = []
            for name, service in self._databases.services.items():
                if service in services:
                    found += await self._database(cluster, name, service, begun)
            return found

    async def _begin(self, cluster: Cluster, *, again: bool) -> Mapping[tuple[str, str], int | None]:
        """Return behind which order each table goes on that was begun; None where all of it was read.

        Only a rebuild that was stopped goes on: the next one behind an end begins anew.
        """
        async with cluster.write() as session:
            rows = (await session.scalars(select(BoardRebuild))).all()
            if again or all(row.ended_at is not None for row in rows):
                await session.execute(delete(BoardRebuild))
                return {}
            return {
                (row.database, row.table): row.after_order_id if row.ended_at is None else None
                for row in rows
            }

    async def _database(
        self, cluster: Cluster, name: str, service: ServiceName, begun: Mapping[tuple[str, str], int | None]
    ) -> list[RebuildProgress]:
        found = []
        with self._databases.connect(name) as connection:
            # The live orders before the archive: one that is archived meanwhile is read there.
            for models in MODELS[service]:
                progress = RebuildProgress(name, models.order.__tablename__)
                after: int | None = begun.get((name, progress.table), -1)
                while after is not None:
                    page = await asyncio.to_thread(self._read, connection, models, after)
                    after = max(page) if len(page) == self._page_orders else None
                    await self._write(cluster, service, page, progress, after)
                    self._tell(progress)
                found.append(progress)
        return found

    def _read(self, connection: Connection, models: OrderModels[Any], after: int) -> dict[int, OrderSnapshot]:
        """Read a page of orders as they are at one moment, with all that belongs to them."""
        with connection.begin(), Session(connection) as session:
            of = models.order
            query = select(of).where(of.order_id > after).order_by(of.order_id).limit(self._page_orders)
            orders = session.scalars(query).all()
            ids = [order.order_id for order in orders]
            lines = _by_order(session.scalars(_of_orders(models.event, ids, models.event.event_no)))
            item = MesArchivedOrderItem if of is MesArchivedOrder else MesOrderItem
            is_mes = models.service is ServiceName.MES
            items = _by_order(session.scalars(_of_orders(item, ids, item.line_no))) if is_mes else {}
            return {
                order.order_id: _snapshot(order, lines.get(order.order_id, ()), items.get(order.order_id, ()))
                for order in orders
            }

    async def _write(
        self,
        cluster: Cluster,
        service: ServiceName,
        page: Mapping[int, OrderSnapshot],
        progress: RebuildProgress,
        after: int | None,
    ) -> None:
        since = self._databases.shown_since
        kept = {
            order_id: said
            for order_id, said in page.items()
            if not has_left(said.status, said.changed_at, since=since)
        }

        async def work(session: WriteSession) -> dict[int, BoardChange]:
            changes = await apply_snapshots(session, service, kept, is_read=True) if kept else {}
            if self._dry_run:
                raise _DryRun(changes)
            await _keep_progress(session, progress, count=len(page), last=after)
            return changes

        try:
            changes = (await cluster.transact(work)).value
        except _DryRun as rolled_back:
            changes = rolled_back.changes
        progress.orders += len(page)
        progress.added += sum(each.before is None for each in changes.values())
        progress.changed += sum(each.before is not None for each in changes.values())

    def _tell(self, progress: RebuildProgress) -> None:
        now = time.monotonic()
        if now - self._noted >= NOTE_SECONDS:
            self._noted = now
            note(f"{progress.database}.{progress.table}: {progress.orders} orders")


def _of_orders(model: Any, ids: Sequence[int], by: Any) -> Any:
    return select(model).where(model.order_id.in_(ids)).order_by(model.order_id, by)


def _by_order(rows: Any) -> dict[int, list[Any]]:
    return {order_id: list(group) for order_id, group in groupby(rows, key=lambda row: row.order_id)}


def _snapshot(order: Any, lines: Sequence[EventRow], items: Sequence[MesOrderItemColumns]) -> OrderSnapshot:
    version = lines[-1].event_no if lines else 1
    return make_snapshot(order, version=version, history=[entry_of(line) for line in lines], items=items)


async def _keep_progress(
    session: WriteSession, progress: RebuildProgress, *, count: int, last: int | None
) -> None:
    """Note how far a table is, with the page itself: what is noted is written."""
    now = datetime.now(UTC)
    row = {
        "database": progress.database,
        "table_name": progress.table,
        "after_order_id": -1 if last is None else last,
        "orders": progress.orders + count,
        "begun_at": now,
        "changed_at": now,
        "ended_at": now if last is None else None,
    }
    written = insert(BoardRebuild.__table__).values(row)  # type: ignore[arg-type]  # it is a table
    kept = {
        name: written.excluded[name] for name in row if name not in {"database", "table_name", "begun_at"}
    }
    await session.execute(written.on_conflict_do_update(index_elements=["database", "table_name"], set_=kept))


@app.command("status")
def status(context: typer.Context) -> None:
    """Show what the board has, and what it is owed; exit status 1 if that is late."""
    options = options_of(context)
    topology = options.topology()
    databases = OrderDatabases(topology)
    if databases.board is None:
        raise NoBoard(topology)
    _show_status(options, databases, databases.board)


def _show_status(options: Options, databases: OrderDatabases, board: str) -> None:
    owed = list(_owed(databases))
    with databases.connect(board) as connection:
        orders: dict[str, int] = Counter(
            dict(
                connection.execute(select(BoardOrder.status, func.count()).group_by(BoardOrder.status)).all()
            )
        )
        last = connection.scalar(select(func.max(BoardInbox.received_at)))
        table: Any = BoardRebuild.__table__
        rebuilds = connection.execute(select(table).order_by(*table.primary_key)).mappings().all()
    is_late = any(each["oldest_seconds"] > LATE_AFTER.total_seconds() or each["set_aside"] for each in owed)
    if options.json:
        print_json(
            {
                "orders": {str(status): count for status, count in orders.items()},
                "last_message_at": last,
                "owed": owed,
                "rebuilds": [dict(row) for row in rebuilds],
                "late": is_late,
            }
        )
    else:
        print_table(("status", "orders"), [(name, count) for name, count in sorted(orders.items())])
        since = "nothing yet" if last is None else last.isoformat(timespec="seconds")
        print(f"last message: {since}")
        print_table(
            ("database", "owed", "oldest, s", "set aside"),
            [(row["database"], row["owed"], round(row["oldest_seconds"]), row["set_aside"]) for row in owed],
        )
        for row in rebuilds:
            state = "ended" if row["ended_at"] else "stopped, or at work: `mesctl board rebuild` goes on"
            print(f"rebuild of {row['database']}.{row['table_name']}: {row['orders']} orders, {state}")
    if is_late:
        raise typer.Exit(ExitStatus.FAILED)


def _owed(databases: OrderDatabases) -> Iterator[dict[str, Any]]:
    """Yield what each database of the services owes to the board."""
    for name, service in databases.services.items():
        outbox = SERVICE_TABLES[service].outbox
        age = func.coalesce(func.extract("epoch", func.now() - func.min(outbox.created_at)), 0)
        query = select(func.count(), age, func.count(outbox.set_aside_at)).where(
            outbox.destination == ServiceName.BOARD.value
        )
        with databases.connect(name) as connection:
            count, oldest, set_aside = connection.execute(query).one()
        yield {"database": name, "owed": count, "oldest_seconds": float(oldest), "set_aside": set_aside}
