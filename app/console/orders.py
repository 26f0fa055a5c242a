"""`mesctl orders`: where an order is, and whether every order is where it must be."""

import asyncio
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from app.console.audit.databases import OrderDatabases
from app.console.audit.repair import repair_orders
from app.console.audit.report import AuditReport
from app.console.audit.report import audit as compare
from app.console.audit.trace import print_trace
from app.console.audit.trace import trace as read_trace
from app.console.audit.watch import OrderWatch, watch_orders
from app.console.dead_letter_commands import app as dead_letters
from app.console.logs import FOLDER_VARIABLE, line_text, logged_of, logs
from app.console.quotes import app as quotes
from app.console.slow import measure, print_slow, slow_as_json
from app.console.sweep import delete_unnamed, find_unnamed, naming_store
from app.files import ModelStore
from app.messaging.routing import ServiceName
from app.topology import files_url
from ops.errors import ExitStatus, OpsError
from ops.fleet import raise_failures
from ops.options import format_duration, options_of, parse_duration
from ops.output import print_json
from ops.shards.service import load_shard_map, locate
from sharding.ids import MAX_ID

app = typer.Typer(help="Find orders, and prove that none is lost.", no_args_is_help=True)
app.add_typer(dead_letters, name="dead-letters")
app.add_typer(quotes, name="quotes")
app.command("logs")(logs)

DEFAULT_GRACE = "7d"
MOST_LOGGED = 20
"""Log lines that a trace shows."""

MIN_GRACE = timedelta(hours=1)

OrderId = Annotated[int, typer.Argument(min=0, max=MAX_ID, help="The order's id.", show_default=False)]


class OrderNotFound(OpsError):
    """No service holds the order."""

    def __init__(self, order_id: int) -> None:
        self.order_id = order_id
        super().__init__(
            f"order {order_id} is known to no service: check the id, and that this is its platform"
        )


@app.command("audit")
def audit(
    context: typer.Context,
    *,
    limit: Annotated[int, typer.Option(min=0, help="How many findings to list; all are counted.")] = 100,
    watch: Annotated[
        bool, typer.Option("--watch", help="In short transactions, and again until Ctrl-C.")
    ] = False,
    every_seconds: Annotated[
        float, typer.Option(min=0, help="With --watch: the pause between passes.")
    ] = 30.0,
    count: Annotated[int, typer.Option(min=0, help="With --watch: end after so many passes; 0: never.")] = 0,
    repair: Annotated[bool, typer.Option("--repair", help="Send again what is safe to send again.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --repair: only say what would be.")
    ] = False,
) -> None:
    """Compare what Shop, CRM and MES hold: nothing lost, nothing twice, all agreed.

    Differences that a message under way will settle are counted as in flight and are no fault. It may run
    beside the traffic. Exit status 1 if anything is wrong.

    Without --watch and --repair each database is read in one transaction, which holds up vacuum as long as
    it takes. With them, orders are read slice by slice in short transactions, and orders that are stuck are
    found as well. A repair changes no status: it writes a lost message or pricing job again, sends a dead
    letter again that its service would take by now, and leaves a line in the order's history.
    """
    options = options_of(context)
    topology = options.topology()
    shard_map = asyncio.run(load_shard_map(topology, ServiceName.MES))
    if watch or repair:
        watching = OrderWatch(OrderDatabases(topology), shard_of=shard_map.shard_of)
        if repair:
            repair_orders(options, OrderDatabases(topology), watching, dry_run=dry_run)
        else:
            watch_orders(options, watching, every_seconds=every_seconds, count=count)
        return
    report = compare(OrderDatabases(topology), shard_of=shard_map.shard_of, keep_findings=limit)
    if options.json:
        print_json(report.as_json())
    else:
        _print_report(report)
    if not report.clean:
        raise typer.Exit(ExitStatus.FAILED)


def _print_report(report: AuditReport) -> None:
    if report.findings:
        table = Table("order", "finding", "detail", box=None, pad_edge=False)
        for found in report.findings:
            table.add_row(str(found.order_id), found.fault, found.detail)
        Console().print(table)
    faults = f"{report.faults} fault{'' if report.faults == 1 else 's'}"
    print(f"{report.orders} orders compared, {faults}, {report.in_flight} in flight")


def _grace(duration: str) -> timedelta:
    found = parse_duration(duration)
    if found < MIN_GRACE:
        least = format_duration(MIN_GRACE)
        raise typer.BadParameter(f"an upload may be under way for longer: give {least} or more")
    return found


@app.command("sweep-files")
def sweep_files(
    context: typer.Context,
    older_than: Annotated[
        timedelta,
        typer.Option(parser=_grace, metavar="DURATION", help="Leave alone what was uploaded since."),
    ] = DEFAULT_GRACE,  # type: ignore[assignment]  # typer parses the text
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List what would be deleted; change nothing.")
    ] = False,
) -> None:
    """Delete the 3D models that no order names: those that were replaced before their orders were submitted.

    Drafts name theirs, and so do archived orders. Nothing is deleted while a database does not answer.
    """
    options = options_of(context)
    topology, before = options.topology(), datetime.now(UTC) - older_than
    with naming_store():
        store = ModelStore.open(files_url(topology))
        found = find_unnamed(store, OrderDatabases(topology), before=before)
        gone = found.unnamed if dry_run else tuple(delete_unnamed(store, found, before=before))
    size_bytes = sum(each.size_bytes for each in gone)
    if options.json:
        keys = [each.key for each in gone]
        facts = {"objects": found.objects, "deleted": 0 if dry_run else len(gone), "unnamed": len(gone)}
        print_json({**facts, "bytes": size_bytes, "dry_run": dry_run, "keys": keys})
        return
    for each in gone if dry_run else ():
        print(f"{each.key} {each.size_bytes} bytes, stored {each.stored_at:%Y-%m-%d %H:%M}")
    verb = "would be deleted" if dry_run else "deleted"
    print(f"{len(gone)} of {found.objects} models {verb}, {size_bytes} bytes")


@app.command("slow")
def slow(
    context: typer.Context,
    *,
    since: Annotated[
        timedelta,
        typer.Option(parser=parse_duration, metavar="DURATION", help="Orders that were made since so long."),
    ] = "30d",  # type: ignore[assignment]  # typer parses the text
    most_orders: Annotated[
        int, typer.Option(min=1, help="How many orders of a database are read at most, the newest first.")
    ] = 20_000,
) -> None:
    """Show how long orders stand in each status, how much of it is waiting, and the ten slowest.

    It reads histories page by page, each page in a short transaction with a time limit. Drafts are read from
    the Shop, everything after them from MES, live and archived.
    """
    options, now = options_of(context), datetime.now(UTC)
    report = measure(OrderDatabases(options.topology()), since=now - since, now=now, most_orders=most_orders)
    if options.json:
        print_json(slow_as_json(report))
    else:
        print_slow(report)
    raise_failures(report.unread)


@app.command("trace")
def trace(context: typer.Context, order_id: OrderId) -> None:
    """Show where an order is: in every service, with its whole history and what is under way for it.

    The newest log lines about it are shown where there are log files: in the folder of MES_STORAGE_LOGS, else
    in that of `mesctl up`. `mesctl orders logs` has all of them.
    """
    options = options_of(context)
    topology = options.topology()
    logged = logged_of(
        Path(os.environ.get(FOLDER_VARIABLE) or options.home / "logs"), order_id, most=MOST_LOGGED
    )
    found = read_trace(OrderDatabases(topology), order_id)
    if not found.known:
        raise_failures(found.unread)
        raise OrderNotFound(order_id)
    if options.json:
        print_json({**found.as_json(), "logs": [dict(line) for line in logged]})
        raise_failures(found.unread)
        return
    shard_map = asyncio.run(load_shard_map(topology, ServiceName.MES))
    place = locate(options.project().tree(ServiceName.MES), shard_map, order_id, now=datetime.now(UTC))
    print_trace(Console(), found, place)
    for line in logged:
        print(line_text(line))
    raise_failures(found.unread)
