"""`mesctl shards`: who owns which buckets, whether each row is where it belongs, what might move."""

import asyncio
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from ops.citus import commands as citus
from ops.citus.service import locate_key
from ops.errors import ExitStatus
from ops.fleet import raise_failures, results_of
from ops.options import options_of
from ops.output import note, print_json, print_table, show_rows
from ops.partitions.metrics import write_atomically
from ops.shards import write_commands
from ops.shards.guard import check_shards, init_shards, script_init
from ops.shards.options import TAKES_KEY, Key, Sharded, TreeName, sharded
from ops.shards.service import (
    ShardRow,
    WeightBy,
    ensure_shard_map,
    first_map,
    list_shards,
    load_shard_map,
    render_shard_metrics,
    script_first_map,
    skew,
    weigh_buckets,
)
from ops.shards.service import locate as find_place
from sharding.errors import ShardMapMissing, UnknownDatabase
from sharding.rebalance import Proposal, propose
from sharding.shard_map import ShardMap

app = typer.Typer(help="Show, check and plan the shard map.", no_args_is_help=True)

app.add_typer(write_commands.in_doubt, name="in-doubt")

app.add_typer(write_commands.reference, name="reference")

app.add_typer(citus.app, name="citus")


@app.command("list")
def list_(
    context: typer.Context,
    exact: Annotated[bool, typer.Option(help="Count even the largest tables.")] = False,
    metrics_file: Annotated[
        Path | None, typer.Option(help="Write metrics here, for Prometheus' textfile collector (*.prom).")
    ] = None,
    tree: TreeName = None,
) -> None:
    """List the shards: where they are, how many buckets they own, how many rows they hold.

    Live rows are those of the tables that are partitioned by lists or archived from, archived rows those of
    the archives; without any of them, all rows of tables with a shard key are live.
    """
    options = options_of(context)
    found = sharded(context, tree)
    shard_map = _load_map(found)
    outcomes = list_shards(*found, shard_map, exact=exact)
    rows = [row for _, row in results_of(outcomes)]
    if metrics_file is not None:
        write_atomically(metrics_file, render_shard_metrics(found.tree.name, shard_map, rows))
    if options.json:
        print_json(
            {
                "tree": found.tree.name,
                "map_version": shard_map.version,
                "buckets": shard_map.buckets,
                "skew": round(skew(rows), 4),
                "shards": list(map(asdict, rows)),
            }
        )
    else:
        headers = ("shard", "address", "buckets", "live rows", "archived rows", "size", "told of version")
        print_table(headers, [_cells(row) for row in rows])
        print(f"the fullest shard holds {skew(rows):.2f} times the mean")
        print(f"tree {found.tree.name}, map version {shard_map.version}, {shard_map.buckets} buckets")
    raise_failures(outcomes)


def _load_map(found: Sharded) -> ShardMap:
    return asyncio.run(load_shard_map(found.topology, found.tree.name))


def _cells(row: ShardRow) -> list[object]:
    about = "" if row.exact else "about "
    counts = [f"{about}{count}" for count in (row.live_rows, row.archived_rows)]
    return [
        row.shard,
        row.address,
        row.buckets,
        *counts,
        f"{row.bytes / 2**20:.0f} MB",
        row.map_version or "never",
    ]


@app.command("locate", context_settings=TAKES_KEY)
def locate(context: typer.Context, key: Key, tree: TreeName = None) -> None:
    """Show where a key belongs, by itself alone: bucket and shard, and the month of its archive partition."""
    found = sharded(context, tree)
    place = find_place(found.tree, _load_map(found), key, now=datetime.now(UTC))
    held = locate_key(*found, key) if found.is_on_citus else None
    if options_of(context).json:
        facts = {name: value for name, value in asdict(place).items() if value is not None}
        of_citus = {"citus": asdict(held)} if held else {}
        # As text: JavaScript loses integers above 2^53.
        print_json({**facts, "key": str(key), **of_citus})
    else:
        where = f"{place.shard} (Citus' shard {held.shard_id} on {held.node})" if held else place.shard
        month = f", archived in {place.month}" if place.month else ""
        print(f"key {key} of {place.tree}: bucket {place.bucket} on {where}{month}")


INIT_HELP = """\
Tell every shard its name and the buckets that the map gives it; what it knows is left alone.

A tree without a shard map gets its first one, in which every shard has as many buckets as the next. From then
on each shard refuses rows of other buckets. Writers wait for a moment, readers do not.
"""


@app.command("init", help=INIT_HELP)
def init(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what psql would run.")] = False,
    tree: TreeName = None,
) -> None:
    """Set the name and the ownership of every shard."""
    found = sharded(context, tree)
    topology, name = found.topology, found.tree.name
    if dry_run:
        try:
            shard_map = _load_map(found)
        except ShardMapMissing:
            shard_map = first_map(topology, name)
            print(script_first_map(topology, name), end="")
        print(script_init(*found, shard_map), end="")
        return
    shard_map = asyncio.run(ensure_shard_map(topology, name))
    initialized = init_shards(*found, shard_map, report=note)
    show_rows(options_of(context), [asdict(row) for row in initialized], empty="the tree has no shard")


@app.command("check")
def check(context: typer.Context, tree: TreeName = None) -> None:
    """Prove that every row is on the shard that owns its bucket, and that the shards' guards say so too.

    Exit status 1 if not.
    """
    options = options_of(context)
    found = sharded(context, tree)
    checked = check_shards(*found, _load_map(found), report=note)
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
    by: Annotated[
        WeightBy, typer.Option(help="What a bucket weighs; load is the changes of the last day.")
    ] = WeightBy.ROWS,
    without: Annotated[
        list[str] | None, typer.Option(help="A shard that shall be emptied; may be given again.")
    ] = None,
    tolerance: Annotated[
        float, typer.Option(min=0.0, help="How far above the mean a shard may stay, as a share of it.")
    ] = 0.05,
    tree: TreeName = None,
) -> None:
    """Propose moves of buckets that even the shards out, or empty one; changes nothing.

    The shards are those of the topology: one that the map does not name is new, and gets its share.
    """
    options = options_of(context)
    found = sharded(context, tree)
    shard_map, there = _load_map(found), found.topology.databases_of(found.tree.name)
    for shard in without or ():
        if shard not in there:
            raise UnknownDatabase(shard, there)
    shards = [shard for shard in there if shard not in (without or ())]
    weights = weigh_buckets(*found, shard_map, by)
    proposal = propose(shard_map, shards=shards, weights=weights, tolerance=tolerance)
    if options.json:
        print_json({"tree": found.tree.name, **_as_json(proposal, by)})
        return
    moves = [asdict(move) | {"weight": f"{move.weight:.0f}"} for move in proposal.moves]
    show_rows(options, moves, empty="nothing to move: the shards are even enough")
    for shard, before in proposal.before.items():
        print(f"{shard}: {before:.0f} {by} before, {proposal.after[shard]:.0f} after")


def _as_json(proposal: Proposal, by: WeightBy) -> dict[str, object]:
    return {
        "by": by,
        "map_version": proposal.shard_map.version,
        "owners": proposal.shard_map.owners,
        "moves": [asdict(move) for move in proposal.moves],
        "before": proposal.before,
        "after": proposal.after,
    }
