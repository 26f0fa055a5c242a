"""The topology file of the embedded platform: written once, and edited where a port moves."""

import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from ops.embedded.errors import NotOurTopology
from ops.embedded.ports import LOOPBACK
from ops.embedded.shape import (
    DATABASES,
    HTTP_SERVICES,
    POOLER,
    VALKEY,
    DatabaseShape,
    ported_components,
    service_key,
)
from sharding.topology import Topology

HEAD = """\
# Written by `mesctl up`. Edit what you like; a port that is found taken is replaced, and nothing else.
backend = "postgresql"
buckets = 64
passfile = "pgpass"
"""


def write_topology(path: Path, ports: Mapping[str, int], *, files: Path) -> None:
    """Write the topology of a new platform.

    Parameters:
        path: the file; it appears only when it is complete.
        ports: the port of each component (`shape.ported_components`).
        files: the folder of the customers' models.
    """
    blocks = [
        HEAD,
        *(_database(database, ports) for database in DATABASES),
        f'[redis]\nurl = "redis://{LOOPBACK}:{ports[VALKEY]}/0"\n',
        f'[files]\nurl = "{files.as_uri()}"\n',
        *(_service(service, ports[service_key(service)]) for service in HTTP_SERVICES),
    ]
    _replace(path, "\n".join(blocks))


def _database(database: DatabaseShape, ports: Mapping[str, int]) -> str:
    replicas = ", ".join(
        f'{{ name = "{name}", host = "{LOOPBACK}", port = {ports[name]} }}' for name in database.replicas
    )
    lines = [
        f"[databases.{database.name}]",
        f'tree = "{database.tree}"',
        f'dbname = "{database.name}"',
        f'primary = {{ host = "{LOOPBACK}", port = {ports[database.name]} }}',
        *([f"replicas = [ {replicas} ]"] if replicas else ()),
    ]
    return "\n".join(lines) + "\n"


def _service(name: str, port: int) -> str:
    return f'[services.{name}]\nhost = "{LOOPBACK}"\nport = {port}\n'


def read_ports(topology: Topology) -> dict[str, int]:
    """Give the port of each component.

    Raises:
        NotOurTopology: a component of the embedded platform is missing.
    """
    ports = {service_key(name): service.port for name, service in topology.services.items()}
    for name, database in topology.databases.items():
        ports[name] = database.primary.port
        ports |= {replica.name: replica.port for replica in database.replicas}
    if topology.pgbouncer is not None:
        ports[POOLER] = topology.pgbouncer.port
    ports[VALKEY] = urlsplit(topology.redis.url).port or 0
    missing = [name for name in ported_components() if not ports.get(name)]
    if missing:
        raise NotOurTopology(topology.path, missing)
    return ports


def add_pooler(path: Path, *, port: int, version: str) -> None:
    """Add the section of a pooler, with all that has a default left to it."""
    section = f'[pgbouncer]\nhost = "{LOOPBACK}"\nport = {port}\nversion = "{version}"\n'
    _replace(path, f"{path.read_text().rstrip()}\n\n{section}")


def remove_pooler(path: Path) -> None:
    """Remove the section of the pooler, and its services."""
    # A table ends where the next one begins.
    tables = re.split(r"(?m)^(?=\[)", path.read_text())
    left = "".join(table for table in tables if not re.match(r"\[pgbouncer[\].]", table))
    _replace(path, f"{left.rstrip()}\n")


def move_port(path: Path, *, old: int, new: int) -> None:
    """Replace a port in the file; its comments and the user's other edits stay."""
    # Ports of the platform differ from each other and are above 10,000: no other number equals one.
    _replace(path, re.sub(rf"\b{old}\b", str(new), path.read_text()))


def _replace(path: Path, text: str) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(text)
    partial.rename(path)
