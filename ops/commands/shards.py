"""`mesctl shards`: who owns which buckets, whether each row is where it belongs, what might move."""

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ops.citus import locate_order
from ops.commands import citus, shard_writes
from ops.errors import ExitStatus
from ops.options import note, options_of, print_json
from ops.partition_metrics import write_atomically
from ops.rows import print_table, show_rows
from ops.shard_guard import check_shards, init_shards, script_init
from ops.shard_metrics import render_shard_metrics
from ops.shard_weights import By, weigh_buckets
from ops.shards import ShardRow, list_shards, load_shard_map, skew
from ops.shards import locate as find_place
from sharding.ids import MAX_ID
from sharding.rebalance import Proposal, propose

app = typer.Typer(help="Show, check and plan the shard map.", no_args_is_help=True)
app.add_typer(shard_writes.in_doubt, name="in-doubt")
app.add_typer(shard_writes.reference, name="reference")
app.add_typer(citus.app, name="citus")

OrderId = Annotated[int, typer.Argument(min=0, max=MAX_ID, help="The order's id.", show_default=False)]


@app.command("list")
def list_(
    context: typer.Context,
    exact: Annotated[bool, typer.Option(help="Count even the largest tables.")] = False,
    metrics_file: Annotated[
        Path | None, typer.Option(help="Write metrics here, for Prometheus' textfile collector (*.prom).")
    ] = None,
) -> None:
    """List the shards: where they are, how many buckets they own, how many orders they hold."""
    options = options_of(context)
    topology = options.topology()
    shard_map = asyncio.run(load_shard_map(topology))
    rows = list_shards(topology, shard_map, exact=exact)
    if metrics_file is not None:
        write_atomically(metrics_file, render_shard_metrics(shard_map, rows))
    if options.json:
        print_json(
            {
                "map_version": shard_map.version,
                "buckets": shard_map.buckets,
                "skew": round(skew(rows), 4),
                "shards": list(map(asdict, rows)),
            }
        )
        return
    headers = ("shard", "address", "buckets", "live orders", "archived orders", "size", "told of version")
    print_table(headers, [_cells(row) for row in rows])
    print(f"the fullest shard holds {skew(rows):.2f} times the mean")
    print(f"map version {shard_map.version}, {shard_map.buckets} buckets")


def _cells(row: ShardRow) -> list[object]:
    about = "" if row.exact else "about "
    orders = [f"{about}{count}" for count in (row.live_orders, row.archived_orders)]
    return [
        row.shard,
        row.address,
        row.buckets,
        *orders,
        f"{row.bytes / 2**20:.0f} MB",
        row.map_version or "never",
    ]


@app.command("locate")
def locate(context: typer.Context, order_id: OrderId) -> None:
    """Tell where an order belongs, by its id alone: bucket, shard, and the month of its archive partition."""
    options = options_of(context)
    topology = options.topology()
    place = find_place(asyncio.run(load_shard_map(topology)), order_id)
    held = locate_order(topology, order_id) if topology.backend == "citus" else None
    if options.json:
        of_citus = {"citus": asdict(held)} if held else {}
        print_json({**asdict(place), "order_id": str(order_id), "month": place.month, **of_citus})
    else:
        where = f"{place.shard} (Citus' shard {held.shard_id} on {held.node})" if held else place.shard
        print(f"order {order_id}: bucket {place.bucket} on {where}, made in {place.month}")


@app.command("init")
def init(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what psql would run.")] = False,
) -> None:
    """Tell every shard its name and the buckets that the map gives it; what it knows is left alone.

    From then on it refuses rows of other buckets. Writers wait for a moment, readers do not.
    """
    options = options_of(context)
    topology = options.topology()
    shard_map = asyncio.run(load_shard_map(topology))
    if dry_run:
        print(script_init(topology, shard_map), end="")
        return
    told = init_shards(topology, shard_map, report=note)
    show_rows(options, [asdict(row) for row in told], empty="the topology has no shard")


@app.command("check")
def check(context: typer.Context) -> None:
    """Prove that every row is on the shard that owns its bucket, and that the shards' guards say so too.

    Exit status 1 if not.
    """
    options = options_of(context)
    topology = options.topology()
    checked = check_shards(topology, asyncio.run(load_shard_map(topology)), report=note)
    if options.json:
        print_json(asdict(checked))
    else:
        rows = [
            {
                "shard": each.shard,
                "table": each.table,
                "problem": each.problem,
                "examples": ", ".join(each.examples),
                "fix": each.fix,
            }
            for each in checked.findings
        ]
        fine = f"all {checked.rows} rows are where map version {checked.map_version} has them"
        show_rows(options, rows, empty=fine)
    if checked.findings:
        raise typer.Exit(ExitStatus.FAILED)


@app.command("plan")
def plan(
    context: typer.Context,
    by: Annotated[By, typer.Option(help="What a bucket weighs.")] = By.ROWS,
    without: Annotated[
        list[str] | None, typer.Option(help="A shard that shall be emptied; may be given again.")
    ] = None,
    tolerance: Annotated[
        float, typer.Option(min=0.0, help="How far above the mean a shard may stay, as a share of it.")
    ] = 0.05,
) -> None:
    """Propose moves of buckets that even the shards out, or empty one; changes nothing.

    The shards are those of the topology: one that the map does not name is new, and gets its share.
    """
    options = options_of(context)
    topology = options.topology()
    shard_map = asyncio.run(load_shard_map(topology))
    shards = [shard for shard in topology.databases_of("mes") if shard not in (without or ())]
    for shard in without or ():
        topology.database(shard)
    weights = weigh_buckets(topology, shard_map, by)
    proposal = propose(shard_map, shards=shards, weights=weights, tolerance=tolerance)
    if options.json:
        print_json(_as_json(proposal, by))
        return
    moves = [asdict(move) | {"weight": f"{move.weight:.0f}"} for move in proposal.moves]
    show_rows(options, moves, empty="nothing to move: the shards are even enough")
    for shard, before in proposal.before.items():
        print(f"{shard}: {before:.0f} {by} before, {proposal.after[shard]:.0f} after")


def _as_json(proposal: Proposal, by: By) -> dict[str, object]:
    return {
        "by": by,
        "map_version": proposal.shard_map.version,
        "owners": proposal.shard_map.owners,
        "moves": [asdict(move) for move in proposal.moves],
        "before": proposal.before,
        "after": proposal.after,
    }
