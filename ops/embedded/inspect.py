"""How each component is: asked of pid files and of the servers themselves, without changing anything."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import psycopg

from ops.embedded.servers import DatabaseServers
from ops.embedded.errors import ClusterSilent
from ops.embedded.pooler import PgBouncerProcess
from ops.embedded.pooler import answers as is_listening
from ops.ports import holder_of, is_free
from ops.embedded.postgres import PostgresCluster
from ops.embedded.servers import StandbyCluster
from ops.embedded.service import ServiceProcess
from ops.embedded.state import ComponentState, Kind, State
from ops.embedded.valkey import Valkey

REPLICATION = """
    SELECT application_name, state, pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)::bigint
    FROM pg_stat_replication
"""


def inspect_database(servers: DatabaseServers, *, wanted: bool) -> list[ComponentState]:
    """Give the state of a primary and of its replicas."""
    following, fault = _ask_primary(servers.primary)
    names = [database.name for database in servers.shape.databases]
    port = servers.shape.place.port
    primary = _cluster(servers.primary, "running", wanted=wanted, port=port, fault=fault)
    if len(names) > 1 and not primary.detail:
        primary = replace(primary, detail=f"has {', '.join(names)}")
    replicas = zip(servers.replicas, servers.shape.replicas, strict=True)
    return [
        primary,
        *(_replica(each, following, wanted=wanted, port=shape.place.port) for each, shape in replicas),
    ]


def inspect_valkey(valkey: Valkey, *, port: int | None, wanted: bool) -> ComponentState:
    """Give the state of Valkey."""
    fault = "does not answer, or not to our password"
    return _state_of(valkey, "valkey", valkey.answers, fault, port=port, wanted=wanted)


def inspect_pooler(process: PgBouncerProcess, *, port: int | None, wanted: bool) -> ComponentState:
    """Give the state of the pooler."""
    is_well = partial(is_listening, host=process.host)
    return _state_of(process, "pooler", is_well, "does not answer", port=port, wanted=wanted)


def inspect_service(service: ServiceProcess, *, wanted: bool) -> ComponentState:
    """Give the state of a service; its health is what it says itself."""
    port = service.shape.place.port if service.shape.place else None
    return _state_of(
        service, "service", service.is_healthy, "not healthy; see its log", port=port, wanted=wanted
    )


def _state_of(
    process: Valkey | PgBouncerProcess | ServiceProcess,
    kind: Kind,
    is_well: Callable[[int], bool],
    fault: str,
    *,
    port: int | None,
    wanted: bool,
) -> ComponentState:
    pid = process.pid()
    state: State = "stopped" if pid is None else "running"
    detail, found = "", port
    if port is not None and pid is None:
        detail = _stranger(port, process.host)
    elif port is not None and not is_well(port):
        ports = process.ports()
        found = port if port in ports else min(ports, default=None)
        state, detail = "faulty", fault if found == port else _misplaced(found, port)
    return ComponentState(
        name=process.name,
        kind=kind,
        state=state,
        wanted=wanted,
        pid=pid,
        port=found,
        detail=detail,
        should_port=port,
    )


def _misplaced(found: int | None, port: int) -> str:
    """Say that a process does not listen where the topology has it."""
    where = "listens nowhere" if found is None else f"listens on port {found}"
    return f"{where}, and the topology has port {port}: `mesctl up` starts it there"


def _stranger(port: int, host: str) -> str:
    """Say who has the port of a component that does not run; nothing if it is free."""
    return "" if is_free(port, host) else f"port {port} is taken by {holder_of(port)}"


def _ask_primary(primary: PostgresCluster) -> tuple[dict[str, tuple[str, int | None]], str]:
    if primary.pid() is None:
        return {}, ""
    try:
        with primary.connect() as connection:
            rows = connection.execute(REPLICATION).fetchall()
    except (ClusterSilent, psycopg.Error) as error:
        return {}, " ".join(str(error).split())
    return {name: (state, lag) for name, state, lag in rows}, ""


def _replica(
    replica: StandbyCluster, following: dict[str, tuple[str, int | None]], *, wanted: bool, port: int
) -> ComponentState:
    state, lag_bytes = following.get(replica.name, ("", None))
    if state == "streaming":
        return _cluster(replica, "streaming", wanted=wanted, port=port, lag_bytes=lag_bytes)
    fault = state or "not connected to its primary"
    if replica.exists() and not replica.is_standby():
        fault = "was promoted, and follows no primary any more"
    return _cluster(replica, "streaming", wanted=wanted, port=port, fault=fault)


def _cluster(
    cluster: PostgresCluster,
    right: State,
    *,
    wanted: bool,
    port: int,
    fault: str = "",
    lag_bytes: int | None = None,
) -> ComponentState:
    pid = cluster.pid()
    state: State = right
    if pid is None:
        state, fault = ("stopped" if cluster.exists() else "absent"), _stranger(port, cluster.host)
    elif not cluster.is_on(port):
        state, fault = "faulty", _misplaced(cluster.port(), port)
    elif fault:
        state = "faulty"
    return ComponentState(
        name=cluster.name,
        kind="replica" if isinstance(cluster, StandbyCluster) else "primary",
        state=state,
        wanted=wanted,
        pid=pid,
        port=cluster.port(),
        lag_bytes=lag_bytes,
        detail=fault,
        should_port=port,
    )
