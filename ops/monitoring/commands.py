"""`mesctl monitoring`: what watches the platform."""

import shutil
import subprocess
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from ops.errors import ExitStatus, OpsError
from ops.fleet import Member
from ops.monitoring.model import INTERVAL_SECONDS, unknown_metrics
from ops.monitoring.platform import rules_for
from ops.monitoring.section import monitoring_of
from ops.options import Options, options_of
from ops.output import note, print_json, show_rows, show_written
from ops.pgbouncer import files
from ops.ports import LOOPBACK

if TYPE_CHECKING:
    from ops.monitoring.exporter import Exporter
    from ops.monitoring.model import Rules
    from ops.partitions.metrics import Sample
    from ops.project.project import Project
    from sharding.topology import Topology

app = typer.Typer(help="Watch the platform.", no_args_is_help=True)


class MonitoringMissing(OpsError):
    """The extra with Prometheus' client, PyYAML and Grafana's models is not installed."""

    def __init__(self, module: str = "prometheus-client") -> None:
        super().__init__(f"{module} is not installed: install the extra, mesctl[monitoring]")


class MonitoringDiffers(OpsError):
    """Prometheus or Alertmanager refuse what would be written, or a query reads what is served by none."""

    def __init__(self, findings: int) -> None:
        self.findings = findings
        super().__init__(f"{findings} findings")


class NoExporterPort(OpsError):
    """Neither the topology nor the person says where the exporter listens."""

    exit_status = ExitStatus.USAGE

    def __init__(self) -> None:
        super().__init__("no port: write [monitoring] port = 9187 into the topology, or give --port")


DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be written; change nothing.")]

Interval = Annotated[
    float | None,
    typer.Option(
        min=1.0,
        help="Seconds between two scrapes, else the topology's; alerts wait for as many of them as ever.",
    ),
]

GET_PROGRAM = {
    "promtool": "apt-get install prometheus",
    "amtool": "apt-get install prometheus-alertmanager",
}


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
    every: Annotated[
        float | None, typer.Option(min=1.0, help="Seconds from one round to the next; else the topology's.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Print what one round reads, and end.")] = False,
) -> None:
    """Serve the databases' own metrics to Prometheus, and keep some of them in the directory.

    It collects in the background: a scrape of /metrics gets what was collected last, and waits for no
    database. Ends at SIGTERM.
    """
    options = options_of(context)
    topology = options.topology()
    every_seconds = every or monitoring_of(topology).interval_seconds
    made = _exporter(options, topology, round_seconds=every_seconds)
    if once:
        _print_once(made, options)
        return
    chosen = monitoring_of(topology).port if port is None else port
    if chosen is None:
        raise NoExporterPort
    from ops.monitoring.exporter import serve

    note(f"metrics at http://{host}:{chosen}/metrics")
    serve(made, host=host, port=chosen, every_seconds=every_seconds)


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
        helps=_helps_of(project),
        report=note,
        round_seconds=round_seconds,
    )


def _samples_of(project: "Project") -> "Callable[[Topology], Iterable[Sample]] | None":
    reference = project.file.monitoring.samples
    if reference is None:
        return None
    found: Callable[[Topology], Iterable[Sample]] = project.resolve("monitoring.samples", reference)
    return found


def _helps_of(project: "Project") -> dict[str, str]:
    reference = project.file.monitoring.alerts
    if reference is None:
        return {}
    rules: Rules = project.resolve("monitoring.alerts", reference)
    return {name: metric.help for name, metric in rules.metrics.items() if metric.help}


def _print_once(made: "Exporter", options: Options) -> None:
    from prometheus_client import generate_latest

    made.collect(datetime.now(UTC))
    made.close()
    if options.json:
        print_json([sample._asdict() for sample in made.samples])
    else:
        print(generate_latest(made.registry).decode(), end="")


@app.command()
def render(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the files are written.")],
    *,
    interval_seconds: Interval = None,
    dry_run: DryRun = False,
) -> None:
    """Write the files of Prometheus, Alertmanager and Grafana; what stands already is left alone."""
    options = options_of(context)
    topology = options.topology()
    interval = interval_seconds or monitoring_of(topology).interval_seconds
    texts = texts_of(options.project(), topology, interval_seconds=interval)
    changed = files.changes(folder, texts)
    if not dry_run:
        # Prometheus runs as a user of its own, and has to read them.
        files.write(folder, {name: texts[name] for name in changed}, mode=0o644)
    if options.json:
        print_json({"changed": sorted(changed)})
    else:
        show_written(folder, changed, dry_run=dry_run)


def texts_of(project: "Project", topology: "Topology", *, interval_seconds: float) -> dict[str, str]:
    """Return the text of every file, by its name.

    Raises:
        MonitoringMissing: the extra is not installed.
        ReferenceBroken: the project's rules or dashboards cannot be imported.
    """
    try:
        from ops.monitoring.dashboards import dashboard_files, dashboards_for
        from ops.monitoring.render import files_of
    except ModuleNotFoundError as error:
        missing = {"yaml": "PyYAML", "grafana_foundation_sdk": "grafana-foundation-sdk"}
        module = (error.name or "").partition(".")[0]
        if module not in missing:
            raise
        raise MonitoringMissing(missing[module]) from error
    return {
        **files_of(topology, rules_for(project), interval_seconds=interval_seconds),
        **dashboard_files(dashboards_for(project)),
    }


@app.command()
def rules(context: typer.Context) -> None:
    """List the alerts: severity, how long each must hold, and the command that helps."""
    options = options_of(context)
    rows = [
        {
            "alert": alert.name,
            "severity": alert.severity,
            "for_seconds": alert.for_seconds,
            "summary": alert.summary,
            "command": alert.command,
            "runbook": alert.runbook,
        }
        for alert in rules_for(options.project()).every_alert()
    ]
    show_rows(options, rows, empty="no alerts")


@app.command()
def check(context: typer.Context) -> None:
    """Prove what `render` would write: every query reads what is served, and the programs take the files.

    Where promtool or amtool is not on PATH, a line says how to get it, and the rest is checked.
    """
    options = options_of(context)
    project, topology = options.project(), options.topology()
    texts = texts_of(project, topology, interval_seconds=INTERVAL_SECONDS)
    found = [{"file": "rules", "finding": f"{name} is served by no process"} for name in _unknown(project)]
    with TemporaryDirectory() as folder:
        files.write(Path(folder), texts)
        for program, words in _checks(Path(folder)).items():
            if shutil.which(program) is None:
                note(f"{program} is not here, and its file is not checked by it: {GET_PROGRAM[program]}")
            elif said := _complaint([program, *words]):
                found.append({"file": Path(words[-1]).name, "finding": said})
    show_rows(options, found, empty="every file is as its program wants it; every query reads what is served")
    if found:
        raise MonitoringDiffers(len(found))


def _unknown(project: "Project") -> list[str]:
    from ops.monitoring.dashboards import dashboards_for  # Grafana's models take a while

    found = rules_for(project)
    queries = [alert.expr for alert in found.every_alert()]
    queries += [rule.expr for rule in found.every_recording()]
    queries += [query for each in dashboards_for(project) for query in each.queries]
    return sorted(unknown_metrics(found, queries))


def _checks(folder: Path) -> dict[str, list[str]]:
    return {
        "promtool": ["check", "config", str(folder / "prometheus.yml")],
        "amtool": ["check-config", str(folder / "alertmanager.yml")],
    }


def _complaint(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return "" if done.returncode == 0 else " ".join((done.stderr or done.stdout).split())
