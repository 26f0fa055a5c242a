"""`mesctl orders`: where an order is, and whether every order is where it must be."""

import asyncio
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from app.console.audit.books import Books
from app.console.audit.facts import Service
from app.console.audit.page import print_trace
from app.console.audit.run import AuditReport
from app.console.audit.run import audit as compare
from app.console.audit.trace import trace as read_trace
from ops.errors import ExitStatus, OpsError
from ops.options import options_of, print_json
from ops.shards import load_shard_map, locate
from sharding.ids import MAX_ID

app = typer.Typer(help="Find orders, and prove that none is lost.", no_args_is_help=True)

OrderId = Annotated[int, typer.Argument(min=0, max=MAX_ID, help="The order's id.", show_default=False)]


class UnknownOrder(OpsError):
    """No service has ever heard of the order."""

    def __init__(self, order_id: int) -> None:
        self.order_id = order_id
        super().__init__(
            f"order {order_id} is known to no service: check the id, and that this is its platform"
        )


@app.command("audit")
def audit(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=0, help="How many findings to list; all are counted.")] = 100,
) -> None:
    """Compare what Shop, CRM and MES hold: nothing lost, nothing twice, all agreed.

    Differences that a message under way will settle are counted as in flight and are no fault. It may run
    beside the traffic. Exit status 1 if anything is wrong.
    """
    options = options_of(context)
    topology = options.topology()
    shard_map = asyncio.run(load_shard_map(topology, Service.MES))
    report = compare(Books(topology), shard_of=shard_map.shard_of, keep_findings=limit)
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


@app.command("trace")
def trace(context: typer.Context, order_id: OrderId) -> None:
    """Tell where an order is: in every service, with its whole history and what is under way for it."""
    options = options_of(context)
    topology = options.topology()
    told = read_trace(Books(topology), order_id)
    if not told.known:
        raise UnknownOrder(order_id)
    if options.json:
        print_json(told.as_json())
        return
    shard_map = asyncio.run(load_shard_map(topology, Service.MES))
    place = locate(options.project().tree(Service.MES), shard_map, order_id, now=datetime.now(UTC))
    print_trace(Console(), told, place)
