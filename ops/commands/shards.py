"""`mesctl shards`: who owns which buckets, and where an order belongs."""

import asyncio
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from ops.commands import shard_writes
from ops.options import options_of, print_json
from ops.shards import list_shards, load_shard_map
from ops.shards import locate as find_place
from sharding.ids import MAX_ID

app = typer.Typer(help="Show the shard map.", no_args_is_help=True)
app.add_typer(shard_writes.in_doubt, name="in-doubt")
app.add_typer(shard_writes.reference, name="reference")

OrderId = Annotated[int, typer.Argument(min=0, max=MAX_ID, help="The order's id.", show_default=False)]


@app.command("list")
def list_(
    context: typer.Context,
    exact: Annotated[bool, typer.Option(help="Count even the largest tables.")] = False,
) -> None:
    """List the shards: where they are, how many buckets they own, how many orders they hold."""
    options = options_of(context)
    topology = options.topology()
    shard_map = asyncio.run(load_shard_map(topology))
    rows = list_shards(topology, shard_map, exact=exact)
    if options.json:
        print_json(
            {
                "map_version": shard_map.version,
                "buckets": shard_map.buckets,
                "shards": list(map(asdict, rows)),
            }
        )
        return
    table = Table("shard", "address", "buckets", "live orders", "archived orders", box=None, pad_edge=False)
    for row in rows:
        about = "" if row.exact else "about "
        orders = (f"{about}{count}" for count in (row.live_orders, row.archived_orders))
        table.add_row(row.shard, row.address, str(row.buckets), *orders)
    Console().print(table)
    print(f"map version {shard_map.version}, {shard_map.buckets} buckets")


@app.command("locate")
def locate(context: typer.Context, order_id: OrderId) -> None:
    """Tell where an order belongs, by its id alone: bucket, shard, and the month of its archive partition."""
    options = options_of(context)
    place = find_place(asyncio.run(load_shard_map(options.topology())), order_id)
    if options.json:
        print_json({**asdict(place), "order_id": str(order_id), "month": place.month})
    else:
        print(f"order {order_id}: bucket {place.bucket} on {place.shard}, made in {place.month}")
