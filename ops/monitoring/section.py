"""`[monitoring]` of the topology file: where what watches the platform listens."""

from typing import Annotated

from pydantic import Field

from ops.monitoring.model import INTERVAL_SECONDS
from sharding.topology import Port, Section, Text, Topology


class MonitoringSection(Section):
    """The ports, all on loopback; without one, that program is not run.

    `port` is the exporter's. The other two are of programs that `mesctl up --monitoring` runs. Alertmanager
    sends alerts to `alerts_url`, and to `watchdog_url` the one that always fires. `interval_seconds` is from
    one reading to the next, of the exporter and of Prometheus.
    """

    port: Port | None = None
    prometheus_port: Port | None = None
    alertmanager_port: Port | None = None
    alerts_url: Text | None = None
    watchdog_url: Text | None = None
    interval_seconds: Annotated[float, Field(ge=1, le=60)] = INTERVAL_SECONDS


def monitoring_of(topology: Topology) -> MonitoringSection:
    """Return the section; without one in the file, one without ports.

    Raises:
        TopologyError: it is wrong.
    """
    if "monitoring" not in topology.sections:
        return MonitoringSection()
    return topology.section("monitoring", MonitoringSection)
