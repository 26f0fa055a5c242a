"""`mesctl up`, `down` and `status`: the embedded platform."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from ops.embedded.home import Home
from ops.embedded.platform import Platform
from ops.embedded.shape import PAGES
from ops.embedded.source import TopologySource
from ops.embedded.state import ComponentState
from ops.errors import ExitStatus, OpsError
from ops.options import Options, options_of
from ops.output import note, print_json
from ops.pages.commands import make_link, port_of
from ops.project.file import ProjectMissing
from sharding.topology import Topology

COLOURS = {
    **{"running": "green", "streaming": "green", "faulty": "red"},
    **{"stopped": "dim", "absent": "dim", "elsewhere": "dim"},
}


class ForeignTopology(OpsError):
    """The topology that was named is not the one of the embedded platform."""

    exit_status = ExitStatus.USAGE

    def __init__(self, options: Options) -> None:
        self.options = options
        super().__init__(
            f"the embedded platform in {options.home} goes by another topology file than "
            f"{options.topology_path}, which you named: leave out --topology (and unset MES_STORAGE_TOPOLOGY)"
        )


def is_embedded(options: Options) -> bool:
    """Whether the topology is the one of the embedded platform in the home folder."""
    if options.named_topology is None:
        return True
    try:
        own = TopologySource(options.project(), Home(options.home)).path
    except ProjectMissing:
        return False
    return options.named_topology.resolve() == own.resolve()


def platform_of(context: typer.Context, *, safe: bool = True) -> Platform:
    """Return the embedded platform of the home folder; it reports its progress on stderr.

    Raises:
        ForeignTopology: another topology file was named.
        ProjectMissing, ProjectInvalid: there is no project, or its file is wrong.
    """
    options = options_of(context)
    if not is_embedded(options):
        raise ForeignTopology(options)
    return Platform(options.home, options.project(), report=note, safe=safe)


def up(
    context: typer.Context,
    *,
    services: Annotated[bool, typer.Option(help="Start the services too, and not only the servers.")] = True,
    fsync: Annotated[bool, typer.Option(help="Wait for the disk at every commit.")] = True,
    pgbouncer: Annotated[
        bool | None,
        typer.Option(
            "--pgbouncer/--no-pgbouncer",
            help="Have services connect through PgBouncer, or directly; without it, as it was.",
        ),
    ] = None,
    monitoring: Annotated[
        bool | None,
        typer.Option(
            "--monitoring/--no-monitoring",
            help="Have Prometheus and Alertmanager watch all, or not; without it, as it was.",
        ),
    ] = None,
    gateway: Annotated[
        bool, typer.Option(help="Start the gateway before the services, where the topology has one.")
    ] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be started.")] = False,
) -> None:
    """Start what the topology has on this machine: PostgreSQL, PgBouncer, Valkey, and the project's services.

    A topology that the project names is started as it stands; without one, HOME/topology.toml is written from
    the project's template, with ports that are free. What is elsewhere is left alone. May be called
    again at any time: what runs is left alone, what is missing or half made is mended.
    """
    platform = platform_of(context, safe=fsync)
    as_json = options_of(context).json
    if dry_run:
        steps = platform.plan_up(services=services, pgbouncer=pgbouncer, monitoring=monitoring)
        _print_plan(steps, as_json=as_json)
        return
    topology = platform.up(services=services, pgbouncer=pgbouncer, monitoring=monitoring, gateway=gateway)
    _print_result(platform, topology, services=services, as_json=as_json)


def _print_plan(steps: list[str], *, as_json: bool) -> None:
    if as_json:
        print_json({"steps": steps})
    else:
        print("\n".join(f"would {step}" for step in steps) or "everything runs already")


def _print_result(platform: Platform, topology: Topology, *, services: bool, as_json: bool) -> None:
    urls = platform.urls(topology) if services else {}
    if PAGES in urls:
        urls[PAGES] = make_link(platform.home.path, port_of(topology, None))
    if as_json:
        print_json({"topology": str(platform.topology_path), "urls": urls})
        return
    for name, url in urls.items():
        print(f"{name:<10} {url}")
    print(f"topology: {platform.topology_path}")
    note("stop it with `mesctl down`")
    if services and (page := platform.page(topology)) is not None:
        print(page)


def down(
    context: typer.Context,
    delete: Annotated[
        bool, typer.Option("--delete", help="Afterwards remove all data of the platform. Asks first.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be stopped.")] = False,
) -> None:
    """Stop services, pooler, replicas, primaries and Valkey, in this order. The data stay."""
    platform = platform_of(context)
    steps = platform.plan_down()
    steps += [f"remove the data in {platform.home.path}"] if delete else []
    if not dry_run:
        if delete and not yes:
            typer.confirm(
                f"Remove the platform in {platform.home.path} with all its data?", abort=True, err=True
            )
        (platform.delete if delete else platform.down)()
    if options_of(context).json:
        print_json({"steps": steps})
    elif dry_run or not steps:
        print("\n".join(f"would {step}" for step in steps) or "nothing runs")


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
        replicas = [f"{replica['name']} {_host_port(replica)}" for replica in database["replicas"]]
        addresses = ", replica ".join([_host_port(database["primary"]), *replicas])
        yield f"database   {name}: {database['dbname']} (tree {database['tree']}) at {addresses}"
    if topology["pgbouncer"]:
        yield f"pgbouncer  {_host_port(topology['pgbouncer'])}"
    for name in (name for name in topology if name not in Topology.model_fields):
        for key, value in topology[name].items():
            yield f"{name:<10} {key}: {_host_port(value) if _is_endpoint(value) else value}"


def _is_endpoint(value: Any) -> bool:
    return isinstance(value, dict) and {"host", "port"} <= value.keys()


def _host_port(endpoint: Mapping[str, Any]) -> str:
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
