"""`mesctl status`: what was understood from the topology, and how every component is."""

from collections.abc import Iterator, Mapping
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from ops.embedded.commands import is_embedded, platform_of
from ops.embedded.state import ComponentState
from ops.errors import ExitStatus
from ops.options import Options, options_of
from ops.output import print_json
from sharding.topology import Topology

COLOURS = {
    **{"running": "green", "streaming": "green", "faulty": "red"},
    **{"stopped": "dim", "absent": "dim", "elsewhere": "dim"},
}


def status(context: typer.Context) -> None:
    """Show the topology (passwords masked) and the state of every component that mesctl runs.

    Exit status 1 if something that should run does not, or does not do its work.
    """
    options = options_of(context)
    if not is_embedded(options):
        _show_topology(options)
        return
    state = platform_of(context).status()
    if options.json:
        print_json(state.as_json())
    else:
        _print_topology(state.topology)
        _print_components(state.components)
    if not state.is_right:
        raise typer.Exit(ExitStatus.FAILED)


def _show_topology(options: Options) -> None:
    # Servers that others run: they have their own tools for how they are.
    topology = options.topology().masked()
    if options.json:
        print_json({"topology": topology})
    else:
        _print_topology(topology)


def _print_topology(topology: Mapping[str, Any]) -> None:
    for line in _describe(topology):
        print(line)


def _describe(topology: Mapping[str, Any]) -> Iterator[str]:
    for name, tree in topology["trees"].items():
        spread = f", {tree['buckets']} buckets on {tree['backend']}" if tree["kind"] == "sharded" else ""
        yield f"tree       {name}: {tree['kind']}{spread}"
    for name, database in topology["databases"].items():
        replicas = [f"{replica['name']} {_place(replica)}" for replica in database["replicas"]]
        places = ", replica ".join([_place(database["primary"]), *replicas])
        yield f"database   {name}: {database['dbname']} (tree {database['tree']}) at {places}"
    if topology["pgbouncer"]:
        yield f"pgbouncer  {_place(topology['pgbouncer'])}"
    for name in (name for name in topology if name not in Topology.model_fields):
        for key, value in topology[name].items():
            yield f"{name:<10} {key}: {_place(value) if _is_place(value) else value}"


def _is_place(value: Any) -> bool:
    return isinstance(value, dict) and {"host", "port"} <= value.keys()


def _place(endpoint: Mapping[str, Any]) -> str:
    return f"{endpoint['host']}:{endpoint['port']}"


def _print_components(components: tuple[ComponentState, ...]) -> None:
    table = Table("component", "kind", "state", "port", "pid", "lag", "", box=None, pad_edge=False)
    for component in components:
        table.add_row(*_row(component))
    print()
    Console().print(table)


def _row(component: ComponentState) -> tuple[str, ...]:
    colour = "red" if component.is_wrong else COLOURS[component.state]
    return (
        component.name,
        component.kind,
        f"[{colour}]{component.state}[/]",
        str(component.port or ""),
        str(component.pid or ""),
        "" if component.lag_bytes is None else f"{component.lag_bytes} bytes",
        component.detail,
    )
