"""Prometheus and Alertmanager of the embedded platform: on loopback, with bounded data in its folder."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ops.embedded.errors import BinaryMissing
from ops.embedded.home import Home
from ops.embedded.processes import Daemon
from ops.embedded.shape import ALERTMANAGER, PROMETHEUS
from ops.monitoring.section import monitoring_of
from ops.pgbouncer import files
from ops.ports import LOOPBACK

if TYPE_CHECKING:
    from ops.project.project import Project
    from sharding.topology import Topology

KEPT = ("--storage.tsdb.retention.time=35d", "--storage.tsdb.retention.size=4GB")
"""Whichever is reached first: what is usual is a median of four weeks, whose samples are 2 GB at 15 s."""


class Program(NamedTuple):
    """A program that watches: its names, and Debian's package."""

    title: str
    names: tuple[str, ...]
    package: str


WATCHERS: Mapping[str, Program] = {
    # In this order: Prometheus is given the port of the other.
    ALERTMANAGER: Program(
        "Alertmanager", ("prometheus-alertmanager", "alertmanager"), "prometheus-alertmanager"
    ),
    PROMETHEUS: Program("Prometheus", ("prometheus",), "prometheus"),
}


def find_watcher(name: str) -> Path:
    """Find the program of a watcher.

    Raises:
        BinaryMissing: it is not on this machine.
    """
    program = WATCHERS[name]
    for each in program.names:
        if found := shutil.which(each):
            return Path(found)
    remedy = f"apt-get install {program.package}, or `mesctl up --no-monitoring`"
    raise BinaryMissing(program.title, ["PATH"], remedy)


def command_of(name: str, folder: Path, port: int) -> list[str]:
    """Return the command that runs a watcher on the files of a folder.

    Raises:
        BinaryMissing: its program is not on this machine.
    """
    command = [str(find_watcher(name)), f"--web.listen-address={LOOPBACK}:{port}"]
    if name == PROMETHEUS:
        data = f"--storage.tsdb.path={folder / 'prometheus'}"
        return [*command, f"--config.file={folder / 'prometheus.yml'}", data, *KEPT]
    data = f"--storage.path={folder / 'alertmanager'}"
    # It is alone: it listens for no others of its kind.
    return [*command, f"--config.file={folder / 'alertmanager.yml'}", data, "--cluster.listen-address="]


def write_files(project: "Project", topology: "Topology", folder: Path) -> bool:
    """Write the files that fit the topology; return whether any has changed.

    Raises:
        MonitoringMissing: the extra is not installed.
        ReferenceBroken: the project's rules or dashboards cannot be imported.
    """
    from ops.monitoring.commands import texts_of  # with PyYAML and Grafana's models

    interval_seconds = monitoring_of(topology).interval_seconds
    texts = texts_of(project, topology, interval_seconds=interval_seconds)
    changed = files.changes(folder, texts)
    files.write(folder, {name: texts[name] for name in changed})
    return bool(changed)


def stop_watchers(home: Home) -> list[str]:
    """Stop those that run; return their names.

    Raises:
        StopFailed: one survived.
    """
    daemons = [
        Daemon(name, pidfile=home.pidfile(f"{name}-service"), log=home.log(f"{name}-service"))
        for name in WATCHERS
    ]
    return [daemon.name for daemon in daemons if daemon.stop()]
