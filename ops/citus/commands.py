"""`mesctl shards citus`: where Citus keeps the shards, whether it is well, and what is moved where."""

from contextlib import AbstractContextManager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from sqlalchemy import Engine

from ops.citus import service
from ops.errors import ExitStatus
from ops.options import DryRun, Options, options_of
from ops.output import note, print_json, show_rows
from ops.shards.options import TAKES_KEY, Key, Sharded, TreeName, sharded
from sharding.citus import moving
from sharding.citus.catalog import (
    find_node,
    locate,
    read_node_usage,
    read_nodes,
    read_table_shards,
    read_tables,
)
from sharding.citus.columnar import store_statement
from sharding.citus.health import judge, read_health
from sharding.citus.moving import Mode

app = typer.Typer(
    help='Look after the shards where Citus keeps them (`backend = "citus"`).', no_args_is_help=True
)


How = Annotated[
    Mode, typer.Option("--mode", help="block_writes copies faster, and writers of the shard wait for it.")
]

NodeName = Annotated[str, typer.Argument(metavar="HOST:PORT", help="The node, as `health` names it.")]

TableName = Annotated[
    str | None,
    typer.Option("--table", help="The table; without it, the first one of live rows.", show_default=False),
]

Role = Annotated[str | None, typer.Option("--role", help="Who connects; Citus wants a superuser for this.")]


def _print_script(found: Sharded, statement: str, *, role: str | None = None) -> None:
    print(service.render_script(found.topology, found.tree.name, statement, role=role), end="")


def _coordinator(found: Sharded, *, role: str | None = None) -> AbstractContextManager[Engine]:
    return service.open_coordinator(found.topology, found.tree.name, role=role)


@app.command()
def health(context: typer.Context, tree: TreeName = None) -> None:
    """Show the nodes, and what is wrong with them or with their shards. Exit status 1 if anything is."""
    options = options_of(context)
    with _coordinator(sharded(context, tree)) as engine, engine.connect() as connection:
        facts = read_health(connection)
    findings = judge(facts)
    nodes = [asdict(node) | {"versions": facts.versions.get(node.name)} for node in facts.nodes]
    if options.json:
        print_json({"nodes": nodes, "findings": list(map(asdict, findings))})
    else:
        rows = [
            {
                "node": node.name,
                "is": "coordinator" if node.is_coordinator else "worker",
                "active": node.active,
                "metadata": node.has_metadata and node.metadata_synced,
                "takes_shards": node.should_have_shards,
                "versions": facts.versions.get(node.name) or "no answer",
            }
            for node in facts.nodes
        ]
        show_rows(options, rows, empty="no nodes")
        show_rows(options, list(map(asdict, findings)), empty="nothing is wrong")
    if findings:
        raise typer.Exit(ExitStatus.FAILED)


@app.command()
def placements(
    context: typer.Context,
    shards: Annotated[bool, typer.Option("--shards", help="List the shards of a table instead.")] = False,
    table: TableName = None,
    tree: TreeName = None,
) -> None:
    """Show how many shards, bytes and rows each node holds; rows are as of the last ANALYZE."""
    found = sharded(context, tree)
    table = table or service.leading_table(found.tree)
    with _coordinator(found) as engine, engine.connect() as connection:
        rows = read_table_shards(connection, table) if shards else read_node_usage(connection)
    show_rows(options_of(context), list(map(asdict, rows)), empty=f"{table} has no shards")


@app.command()
def plan(context: typer.Context, tree: TreeName = None) -> None:
    """Show what a rebalance would move; nothing is moved."""
    options = options_of(context)
    with _coordinator(sharded(context, tree)) as engine, engine.connect() as connection:
        moves = moving.read_plan(connection)
    show_rows(options, list(map(asdict, moves)), empty="nothing to move: the nodes are even enough")


@app.command()
def rebalance(
    context: typer.Context,
    *,
    mode: How = "auto",
    wait: Annotated[bool, typer.Option(help="Wait for its end, and tell how far it is.")] = True,
    stop: Annotated[
        bool, typer.Option("--stop", help="Stop the one that runs; what has moved stays.")
    ] = False,
    tree: TreeName = None,
    dry_run: DryRun = False,
) -> None:
    """Have Citus even the nodes out, in the background; readers and writers go on.

    Ctrl-C ends the waiting, not the rebalance: `--stop` ends that.
    """
    options = options_of(context)
    found = sharded(context, tree)
    statement = moving.STOP if stop else moving.rebalance_statement(mode)
    with _coordinator(found) as engine:
        if dry_run:
            _print_script(found, statement)
            return
        if stop:
            with engine.connect() as connection:
                connection.exec_driver_sql(statement)
            show_rows(options, [], empty="stopped")
            return
        job_id = service.start_rebalance(engine, mode)
        job = service.wait_for_job(engine, job_id, report=note) if job_id is not None and wait else None
    rows: list[dict[str, Any]] = []
    if job_id is not None:
        rows.append({"job_id": job_id, "state": job.state if job else "running", "moves": job and job.moves})
    show_rows(options, rows, empty="nothing to move: the nodes are even enough")


@app.command()
def drain(
    context: typer.Context,
    node: NodeName,
    *,
    mode: How = "auto",
    role: Role = None,
    tree: TreeName = None,
    dry_run: DryRun = False,
) -> None:
    """Move everything off a node, and let it have no new shards. Inverse: undrain, then rebalance."""
    options = options_of(context)
    found = sharded(context, tree)
    with _coordinator(found, role=role) as engine:
        with engine.connect() as connection:
            statement = moving.drain_statement(moving.check_drain(read_nodes(connection), node), mode)
            if dry_run:
                _print_script(found, statement, role=role)
                return
            moving.require_superuser(connection, "drain a node", role=engine.url.username or "")
        service.run_watched(engine, statement, report=note)
    _show_nodes(options, found, role)


@app.command()
def undrain(
    context: typer.Context,
    node: NodeName,
    *,
    role: Role = None,
    tree: TreeName = None,
    dry_run: DryRun = False,
) -> None:
    """Let a node have shards again; `rebalance` then brings some. Inverse: drain."""
    options = options_of(context)
    found = sharded(context, tree)
    with _coordinator(found, role=role) as engine, engine.connect() as connection:
        statement = moving.undrain_statement(find_node(read_nodes(connection), node))
        if dry_run:
            _print_script(found, statement, role=role)
            return
        moving.require_superuser(connection, "let a node have shards", role=engine.url.username or "")
        connection.exec_driver_sql(statement)
    _show_nodes(options, found, role)


def _show_nodes(options: Options, found: Sharded, role: str | None) -> None:
    with _coordinator(found, role=role) as engine, engine.connect() as connection:
        held = {each.node: each for each in read_node_usage(connection)}
        rows = [
            {
                "node": node.name,
                "takes_shards": node.should_have_shards,
                "shards": held[node.name].shards,
                "bytes": held[node.name].bytes,
            }
            for node in read_nodes(connection)
        ]
    show_rows(options, rows, empty="no nodes")


@app.command()
def move(
    context: typer.Context,
    shard: Annotated[int, typer.Argument(help="A shard's id; `placements --shards` lists them.")],
    *,
    to: Annotated[str, typer.Option("--to", metavar="HOST:PORT", help="The node that gets it.")],
    mode: How = "auto",
    tree: TreeName = None,
    dry_run: DryRun = False,
) -> None:
    """Move a shard, with all that stand together with it, to another node. Inverse: move it back."""
    options = options_of(context)
    found = sharded(context, tree)
    with _coordinator(found) as engine:
        with engine.connect() as connection:
            source, target = moving.check_move(connection, read_nodes(connection), shard, to)
        statement = moving.move_statement(shard, source, target, mode)
        if dry_run:
            _print_script(found, statement)
            return
        service.run_watched(engine, statement, report=note)
    show_rows(options, [{"shard": shard, "source": source.name, "target": target.name}], empty="")


ISOLATE_HELP = """\
Give one key shards of its own, which can then be moved alone. Citus cannot merge shards again.

All tables that stand together with the table follow.
"""


@app.command(context_settings=TAKES_KEY, help=ISOLATE_HELP)
def isolate(
    context: typer.Context,
    key: Key,
    *,
    table: TableName = None,
    mode: How = "auto",
    tree: TreeName = None,
    dry_run: DryRun = False,
) -> None:
    """Isolate one key in shards of its own."""
    options = options_of(context)
    found = sharded(context, tree)
    table = table or service.leading_table(found.tree)
    with _coordinator(found) as engine:
        with engine.connect() as connection:
            before = moving.check_isolate(connection, table, key)
        statement = moving.isolate_statement(table, key, mode)
        if dry_run:
            _print_script(found, statement)
            return
        service.run_watched(engine, statement, report=note)
        with engine.connect() as connection:
            after = locate(connection, table, key)
    row = {"key": str(key), "shard_before": before.shard_id, "shard": after.shard_id, "node": after.node}
    show_rows(options, [row], empty="")


@app.command()
def columnar(
    context: typer.Context,
    partition: Annotated[str, typer.Argument(help="A month of an archive, as NAME_2026_03.")],
    heap: Annotated[bool, typer.Option("--heap", help="Back to rows, which can be changed.")] = False,
    tree: TreeName = None,
    dry_run: DryRun = False,
) -> None:
    """Store an archive month by column; refused while the archive job may write it. Inverse: --heap."""
    options = options_of(context)
    found = sharded(context, tree)
    to = "heap" if heap else "columnar"
    with _coordinator(found) as engine:
        service.check_store(engine, found.tree, partition, to=to, now=datetime.now(UTC))
        if dry_run:
            _print_script(found, store_statement(partition, to))
            return
        row = service.store(engine, partition, to=to)
    show_rows(options, [asdict(row)], empty="")


@app.command()
def preflight(
    context: typer.Context,
    statements: Annotated[
        Path | None, typer.Option(help="SQL of an application, to look through as well.", dir_okay=False)
    ] = None,
    offline: Annotated[
        bool,
        typer.Option("--offline", help="Only look through --statements, for --tree; connect to nothing."),
    ] = False,
    tree: TreeName = None,
) -> None:
    """List what Citus would refuse of each shard; works on plain PostgreSQL, before a move.

    Exit status 1 if there is anything.
    """
    options = options_of(context)
    if offline:
        if statements is None or tree is None:
            raise typer.BadParameter("it needs --statements FILE and --tree NAME", param_hint="--offline")
        objections = {statements.name: service.check_file(options.project().tree(tree), statements)}
    else:
        objections = service.preflight(*sharded(context, tree), statements=statements)
    rows = [{"database": name, **asdict(each)} for name, found in objections.items() for each in found]
    show_rows(options, rows, empty="Citus would refuse nothing of what was looked at")
    if rows:
        raise typer.Exit(ExitStatus.FAILED)


@app.command()
def tables(context: typer.Context, tree: TreeName = None) -> None:
    """List the tables that Citus manages: how each is placed, and in which group."""
    options = options_of(context)
    with _coordinator(sharded(context, tree)) as engine, engine.connect() as connection:
        rows = [asdict(table) for table in read_tables(connection).values()]
    show_rows(options, rows, empty="Citus manages no table: run `mesctl migrate upgrade`")
