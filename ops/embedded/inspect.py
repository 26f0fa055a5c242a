"""How each component is: asked of pid files and of the servers themselves, without changing anything."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import psycopg

from ops.embedded.database import DatabaseServers
from ops.embedded.pooler import PgBouncerProcess
from ops.embedded.pooler import answers as is_listening
from ops.embedded.postgres import PostgresCluster
from ops.embedded.replica import Replica
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
    primary = _cluster(servers.primary, "running", wanted=wanted, fault=fault)
    if len(names) > 1 and not primary.detail:
        primary = replace(primary, detail=f"has {', '.join(names)}")
    return [primary, *(_replica(replica, following, wanted=wanted) for replica in servers.replicas)]


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
    detail = ""
    if pid is not None and port is not None and not is_well(port):
        state, detail = "faulty", fault
    return ComponentState(
        name=process.name, kind=kind, state=state, wanted=wanted, pid=pid, port=port, detail=detail
    )


def _ask_primary(primary: PostgresCluster) -> tuple[dict[str, tuple[str, int | None]], str]:
    if primary.pid() is None:
        return {}, ""
    try:
        with primary.connect(timeout_seconds=2) as connection:
            rows = connection.execute(REPLICATION).fetchall()
    except psycopg.Error as error:
        return {}, " ".join(str(error).split())
    return {name: (state, lag) for name, state, lag in rows}, ""


def _replica(
    replica: Replica, following: dict[str, tuple[str, int | None]], *, wanted: bool
) -> ComponentState:
    state, lag_bytes = following.get(replica.name, ("", None))
    if state == "streaming":
        return _cluster(replica, "streaming", wanted=wanted, lag_bytes=lag_bytes)
    return _cluster(replica, "streaming", wanted=wanted, fault=state or "not connected to its primary")


def _cluster(
    cluster: PostgresCluster, right: State, *, wanted: bool, fault: str = "", lag_bytes: int | None = None
) -> ComponentState:
    pid = cluster.pid()
    state: State = right
    if pid is None:
        state, fault = ("stopped" if cluster.exists() else "absent"), ""
    elif fault:
        state = "faulty"
    return ComponentState(
        name=cluster.name,
        kind="replica" if isinstance(cluster, Replica) else "primary",
        state=state,
        wanted=wanted,
        pid=pid,
        port=cluster.port(),
        lag_bytes=lag_bytes,
        detail=fault,
    )
