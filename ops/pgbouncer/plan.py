"""How many connections each pool may open: arithmetic only.

A server's max_connections, less what it keeps for superusers and what we keep for migrations, maintenance and
replicas, is the budget of all its pools in all processes of the pooler. A fixed pool_size is taken from it
first; the rest is divided by weight.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ops.pgbouncer.errors import PoolsDoNotFit
from sharding.topology import ServicePool, Topology, pools_of

SMALLEST_POOL = 2
"""A unit of work that reads in another session while it writes needs two; with one it waits for itself."""


class Server(NamedTuple):
    """Where a PostgreSQL server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Limits:
    """What a server gives: max_connections, less the slots that only superusers or named roles get."""

    max_connections: int
    superuser_reserved: int = 3
    reserved: int = 0


@dataclass(frozen=True)
class SizedPool:
    """A pool with the connections that each process of the pooler may open for it."""

    pool: ServicePool
    server: Server
    dbname: str
    size: int


@dataclass(frozen=True)
class ServerPlan:
    """One server's connections, and how they are divided."""

    server: Server
    limits: Limits
    reserve: int
    processes: int
    pools: tuple[SizedPool, ...]

    @property
    def budget(self) -> int:
        """What all processes may open together."""
        limits = self.limits
        return limits.max_connections - limits.superuser_reserved - limits.reserved - self.reserve

    @property
    def arithmetic(self) -> str:
        """The budget of one process, as one writes it on paper."""
        limits = self.limits
        reserved = f" - {limits.reserved} reserved" if limits.reserved else ""
        return (
            f"{limits.max_connections} max_connections - {limits.superuser_reserved} superuser{reserved} "
            f"- {self.reserve} reserve = {self.budget}; / {self.processes} processes = "
            f"{self.budget // self.processes}"
        )


def servers_of(topology: Topology) -> dict[Server, list[tuple[ServicePool, str]]]:
    """List the pools to each server, with the name that the database has there."""
    found: dict[Server, list[tuple[ServicePool, str]]] = {}
    for pool in pools_of(topology):
        database = topology.database(pool.database)
        endpoint = database.replica(pool.replica) if pool.replica else database.primary
        found.setdefault(Server(endpoint.host, endpoint.port), []).append((pool, database.dbname))
    return found


def named(server: Server, pools: Sequence[tuple[ServicePool, str]]) -> str:
    """Return a server with the databases and replicas that its pools lead to, for people."""
    nodes = sorted({pool.node for pool, _ in pools})
    return f"{server} ({', '.join(nodes)})"


def plan_pools(
    servers: Mapping[Server, Sequence[tuple[ServicePool, str]]],
    limits: Mapping[Server, Limits],
    *,
    reserve: int,
    processes: int,
) -> list[ServerPlan]:
    """Divide each server's connections over its pools.

    Parameters:
        servers: the pools to each server.
        limits: what each server gives.
        reserve: connections of each server that no pool takes.
        processes: how many processes of the pooler there are; each has all the pools.

    Raises:
        PoolsDoNotFit: a server has not enough.
    """
    return [
        _plan_server(ServerPlan(server, limits[server], reserve, processes, ()), pools)
        for server, pools in sorted(servers.items())
    ]


def _plan_server(empty: ServerPlan, pools: Sequence[tuple[ServicePool, str]]) -> ServerPlan:
    share = empty.budget // empty.processes
    fixed = sum(pool.size for pool, _ in pools if pool.size is not None)
    weights = sum(pool.weight for pool, _ in pools if pool.size is None)
    sizes = [
        (share - fixed) * pool.weight // weights if pool.size is None else pool.size for pool, _ in pools
    ]
    if sum(sizes) > share:
        raise _misfit(empty, pools, f"the pool sizes sum up to {fixed}")
    for (pool, _), size in zip(pools, sizes, strict=True):
        if pool.size is None and size < SMALLEST_POOL:
            raise _misfit(empty, pools, f"{pool.entry} would get {size} of them, and needs {SMALLEST_POOL}")
    sized = tuple(
        SizedPool(pool, empty.server, dbname, size) for (pool, dbname), size in zip(pools, sizes, strict=True)
    )
    return ServerPlan(empty.server, empty.limits, empty.reserve, empty.processes, sized)


def _misfit(plan: ServerPlan, pools: Sequence[tuple[ServicePool, str]], needed: str) -> PoolsDoNotFit:
    return PoolsDoNotFit(named(plan.server, pools), arithmetic=plan.arithmetic, needed=needed)


def explain(plans: Sequence[ServerPlan]) -> list[str]:
    """Show the arithmetic, a line for each server and one for each of its pools."""
    lines: list[str] = []
    for plan in plans:
        given = sum(sized.size for sized in plan.pools)
        lines.append(f"{plan.server}: {plan.arithmetic}; {given} given to {len(plan.pools)} pools")
        lines += [f"  {sized.pool.entry} as {sized.pool.role}: {_reason(sized)}" for sized in plan.pools]
    return lines


def _reason(sized: SizedPool) -> str:
    how = "pool_size of the topology" if sized.pool.size else f"weight {sized.pool.weight}"
    return f"{sized.size} ({how})"
