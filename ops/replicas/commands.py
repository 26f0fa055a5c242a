"""`mesctl replicas`: who is the primary, how far the replicas are behind, and a planned switch-over."""

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

from ops.errors import ExitStatus
from ops.options import options_of
from ops.output import note, print_json
from ops.replicas.nodes import NodeRow, NodeWatcher
from ops.replicas.switchover import plan_switchover, switch_over, switchover_script
from sharding.topology import Topology

app = typer.Typer(help="Show the replicas, and switch over to one.", no_args_is_help=True)

Names = Annotated[
    list[str] | None,
    typer.Argument(
        help="The databases; all that have replicas.", metavar="[DATABASE]...", show_default=False
    ),
]


@app.command("list")
def list_(context: typer.Context, databases: Names = None) -> None:
    """List the nodes: address, role by the server's own word, timeline, and whether they serve.

    Exit status 1 if a node does not answer, or a database has no primary.
    """
    rows = _watcher(context, databases).poll()
    if options_of(context).json:
        print_json([asdict(row) for row in rows])
    else:
        table = Table("database", "node", "address", "role", "timeline", "state", box=None, pad_edge=False)
        for row in rows:
            table.add_row(row.database, row.node, row.address, row.role, _shown(row.timeline), row.state)
        Console().print(table)
    _fail_unless_answered(rows)


LAG_HELP = """\
Tell how far each replica is behind, in bytes and in seconds.

The seconds are proven: a replica that has replayed where the primary stood at a look has everything that
was committed before it. An idle primary makes nobody late. Lag older than the first look has no seconds.
Exit status 1 if a node does not answer, or a database has no primary.
"""


@app.command("lag", help=LAG_HELP)
def lag(
    context: typer.Context,
    databases: Names = None,
    looks: Annotated[int, typer.Option(min=2, help="How often to look: more looks date more lag.")] = 3,
    every_seconds: Annotated[float, typer.Option(min=0.05, help="The pause between two looks.")] = 0.5,
) -> None:
    """Print how far each replica is behind."""
    watcher = _watcher(context, databases)
    rows = watcher.poll()
    for _ in range(looks - 1):
        time.sleep(every_seconds)
        rows = watcher.poll()
    replicas = [row for row in rows if row.role != "primary"]
    if options_of(context).json:
        print_json([asdict(row) for row in replicas])
    else:
        Console().print(_lag_table(replicas))
    _fail_unless_answered(rows)


@app.command("watch")
def watch(
    context: typer.Context,
    databases: Names = None,
    every_seconds: Annotated[float, typer.Option(min=0.05, help="How often to look.")] = 1.0,
    count: Annotated[int, typer.Option(min=0, help="End after so many looks; 0: at Ctrl-C.")] = 0,
) -> None:
    """Show roles and lag as they change: a live table on a terminal, elsewhere lines."""
    watcher = _watcher(context, databases)
    as_json = options_of(context).json
    if as_json or not sys.stdout.isatty():
        for rows in _polls(watcher, every_seconds, count):
            for row in rows:
                print_json(asdict(row)) if as_json else print(_line(row), flush=True)
        return
    with Live(_lag_table([]), auto_refresh=False) as live:
        for rows in _polls(watcher, every_seconds, count):
            live.update(_lag_table(rows), refresh=True)


@app.command("switchover")
def switchover(
    context: typer.Context,
    database: Annotated[str, typer.Argument(help="The database.", show_default=False)],
    *,
    to: Annotated[str, typer.Option("--to", help="The replica to promote.", show_default=False)],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the script for psql; change nothing.")
    ] = False,
    timeout_seconds: Annotated[
        float, typer.Option(min=0.1, help="How long writes and replay may take.")
    ] = 30.0,
    superuser: Annotated[str, typer.Option(help="The role that fences and promotes.")] = "postgres",
) -> None:
    """Promote a replica in good order: no new writes, those under way end, it replays all, and takes over.

    The old primary stays read-only: rewind it with pg_rewind or rebuild it, and it follows as a replica. The
    way back is the same verb with the other node.
    """
    topology = options_of(context).topology()
    plan = plan_switchover(topology, database, to=to, superuser=superuser)
    if dry_run:
        print(switchover_script(topology, plan), end="")
        return
    switch_over(topology, plan, timeout_seconds=timeout_seconds, report=note)
    if options_of(context).json:
        print_json({"database": database, "old": plan.old, "new": plan.new})
    else:
        print(
            f"{database}: {plan.new} is the primary; {plan.old} is read-only until it is rewound or rebuilt"
        )


def _watcher(context: typer.Context, databases: Sequence[str] | None) -> NodeWatcher:
    topology = options_of(context).topology()
    return NodeWatcher(topology, databases or _replicated(topology))


def _fail_unless_answered(rows: Sequence[NodeRow]) -> None:
    led = {row.database for row in rows if row.role == "primary"}
    if not all(row.answers and row.database in led for row in rows):
        raise typer.Exit(ExitStatus.FAILED)


def _replicated(topology: Topology) -> list[str]:
    return [name for name, database in sorted(topology.databases.items()) if database.replicas]


def _polls(watcher: NodeWatcher, every_seconds: float, count: int) -> Iterator[list[NodeRow]]:
    done = 0
    while True:
        yield watcher.poll()
        done += 1
        if done == count:
            return
        time.sleep(every_seconds)


def _lag_table(rows: Sequence[NodeRow]) -> Table:
    table = Table(
        "database", "node", "role", "bytes behind", "seconds behind", "state", box=None, pad_edge=False
    )
    for row in rows:
        seconds = "-" if row.lag_seconds is None else f"{row.lag_seconds:.2f}"
        table.add_row(row.database, row.node, row.role, _shown(row.lag_bytes), seconds, row.state)
    return table


def _line(row: NodeRow) -> str:
    seconds = "-" if row.lag_seconds is None else f"{row.lag_seconds:.2f}"
    behind = f"bytes={_shown(row.lag_bytes)} seconds={seconds}"
    return f"{row.database} {row.node} {row.role} {behind} state={row.state!r}"


def _shown(value: int | None) -> str:
    return "-" if value is None else str(value)
