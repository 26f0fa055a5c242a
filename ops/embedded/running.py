"""What runs in the folder of a platform, whatever the topology says: found by data folders and pid files.

So `down` needs no topology, and ends also what was taken out of it.
"""

from collections.abc import Iterator
from functools import partial

from ops.embedded.home import Home
from ops.embedded.processes import run_all
from ops.embedded.topology_file import Report
from ops.embedded.postgres import PostgresCluster
from ops.embedded.processes import Daemon, listening_ports
from ops.embedded.service import STOP_SECONDS
from ops.embedded.state import STOP_ORDER, ComponentState, Kind
from ops.embedded.programs import PostgresTools

Stoppable = PostgresCluster | Daemon


class Running:
    """The processes of a platform that run at this moment."""

    def __init__(self, home: Home, *, tools: PostgresTools, report: Report) -> None:
        self._report = report
        there: list[tuple[Kind, Stoppable]] = [*_daemons(home), *_clusters(home, tools)]
        self._found = [(kind, component) for kind, component in there if component.pid() is not None]

    def states(self) -> list[ComponentState]:
        """Give the state of each."""
        return [
            ComponentState(component.name, kind, "running", wanted=False, pid=component.pid())
            for kind, component in self._found
        ]

    def ports(self) -> set[int]:
        """Find the ports on which they listen."""
        ports: set[int] = set()
        for _, component in self._found:
            if isinstance(component, PostgresCluster):
                ports |= {component.port() or 0}
            else:
                ports |= listening_ports(component.pid() or 0)
        return ports

    def stop(self, *kinds: Kind) -> None:
        """Stop the components of these kinds, all kinds if none is named; one kind after the other.

        Raises:
            StopFailed: one survived.
        """
        for kind in kinds or STOP_ORDER:
            run_all(partial(self._stop, kind, each) for found, each in self._found if found == kind)

    def _stop(self, kind: Kind, component: Stoppable) -> None:
        if isinstance(component, Daemon):
            stopped = component.stop(timeout_seconds=STOP_SECONDS)
        else:
            stopped = component.stop()
        if stopped:
            self._report(f"{component.name}{' service' if kind == 'service' else ''}: stopped")


def _daemons(home: Home) -> Iterator[tuple[Kind, Daemon]]:
    for pidfile in sorted(home.pidfile("*").parent.glob("*.pid")):
        kinds: dict[str, Kind] = {"valkey": "valkey", "pgbouncer": "pooler"}
        kind = kinds.get(pidfile.stem, "service")
        name = pidfile.stem.removesuffix("-service")
        yield kind, Daemon(name, pidfile=pidfile, log=home.log(pidfile.stem))


def _clusters(home: Home, tools: PostgresTools) -> Iterator[tuple[Kind, PostgresCluster]]:
    for data in sorted(home.data("*").parent.glob("*/postmaster.pid")):
        name = data.parent.name
        cluster = PostgresCluster(
            name, tools=tools, data=data.parent, log=home.log(name), passfile=home.passfile
        )
        yield "replica" if (data.parent / "standby.signal").exists() else "primary", cluster
