"""`mesctl monitoring`: what watches the platform."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from ops.errors import ExitStatus, OpsError
from ops.fleet import Member
from ops.monitoring.section import monitoring_of
from ops.options import Options, options_of
from ops.output import note, print_json
from ops.ports import LOOPBACK

if TYPE_CHECKING:
    from ops.monitoring.exporter import Exporter
    from ops.partitions.metrics import Sample
    from ops.project.project import Project
    from sharding.topology import Topology

app = typer.Typer(help="Watch the platform.", no_args_is_help=True)


class MonitoringMissing(OpsError):
    """The extra with Prometheus' client is not installed."""

    def __init__(self) -> None:
        super().__init__("prometheus-client is not installed: install the extra, mesctl[monitoring]")


class NoExporterPort(OpsError):
    """Neither the topology nor the person says where the exporter listens."""

    exit_status = ExitStatus.USAGE

    def __init__(self) -> None:
        super().__init__("no port: write [monitoring] port = 9187 into the topology, or give --port")


@app.callback()
def monitoring() -> None:
    """Watch the platform."""


@app.command("exporter")
def exporter(
    context: typer.Context,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Else that of [monitoring] in the topology.")
    ] = None,
    host: Annotated[str, typer.Option(help="The address at which it listens.")] = LOOPBACK,
    every: Annotated[float, typer.Option(min=1.0, help="Seconds from one round to the next.")] = 15.0,
    once: Annotated[bool, typer.Option("--once", help="Print what one round reads, and end.")] = False,
) -> None:
    """Serve the databases' own metrics to Prometheus, and keep some of them in the directory.

    It collects in the background: a scrape of /metrics gets what was collected last, and waits for no
    database. Ends at SIGTERM.
    """
    options = options_of(context)
    topology = options.topology()
    made = _exporter(options, topology, round_seconds=every)
    if once:
        _print_once(made, options)
        return
    chosen = monitoring_of(topology).port if port is None else port
    if chosen is None:
        raise NoExporterPort
    from ops.monitoring.exporter import serve

    note(f"metrics at http://{host}:{chosen}/metrics")
    serve(made, host=host, port=chosen, every_seconds=every)


def _exporter(options: Options, topology: "Topology", *, round_seconds: float) -> "Exporter":
    try:
        from ops.monitoring.exporter import Exporter
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("prometheus_client"):
            raise
        raise MonitoringMissing from error
    from ops.monitoring.databases import DatabaseReader

    project = options.project()
    members = [
        Member(database, project.tree_in(topology, database.tree)) for database in topology.databases.values()
    ]
    return Exporter(
        topology,
        DatabaseReader(topology, members),
        read_project=_samples_of(project),
        report=note,
        round_seconds=round_seconds,
    )


def _samples_of(project: "Project") -> "Callable[[Topology], Iterable[Sample]] | None":
    reference = project.file.monitoring.samples
    if reference is None:
        return None
    found: Callable[[Topology], Iterable[Sample]] = project.resolve("monitoring.samples", reference)
    return found


def _print_once(made: "Exporter", options: Options) -> None:
    from prometheus_client import generate_latest

    made.collect(datetime.now(UTC))
    made.close()
    if options.json:
        print_json([sample._asdict() for sample in made.samples])
    else:
        print(generate_latest(made.registry).decode(), end="")
