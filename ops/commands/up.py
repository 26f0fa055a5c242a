"""`mesctl up`: have the embedded platform running."""

from typing import Annotated

import typer

from ops.embedded.commands import platform_of
from ops.embedded.platform import Platform
from ops.output import note, print_json
from ops.options import options_of
from sharding.topology import Topology


def up(
    context: typer.Context,
    services: Annotated[bool, typer.Option(help="Start the services too, and not only the servers.")] = True,
    fsync: Annotated[bool, typer.Option(help="Wait for the disk at every commit.")] = True,
    pgbouncer: Annotated[
        bool | None,
        typer.Option(
            "--pgbouncer/--no-pgbouncer",
            help="Have services connect through PgBouncer, or directly; without it, as it was.",
        ),
    ] = None,
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
        _print_plan(platform.plan_up(services=services, pgbouncer=pgbouncer), as_json=as_json)
        return
    topology = platform.up(services=services, pgbouncer=pgbouncer)
    _print_result(platform, topology, services=services, as_json=as_json)


def _print_plan(steps: list[str], *, as_json: bool) -> None:
    if as_json:
        print_json({"steps": steps})
    else:
        print("\n".join(f"would {step}" for step in steps) or "everything runs already")


def _print_result(platform: Platform, topology: Topology, *, services: bool, as_json: bool) -> None:
    urls = platform.urls(topology) if services else {}
    if as_json:
        print_json({"topology": str(platform.topology_path), "urls": urls})
        return
    for name, url in urls.items():
        print(f"{name:<10} {url}")
    print(f"topology: {platform.topology_path}")
    note("stop it with `mesctl down`")
