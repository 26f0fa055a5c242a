"""What the hop through a Citus coordinator costs a point read, beside a routed session."""

import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from itertools import cycle
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo

from app.models.mes import MesOrder
from app.models.status import Channel, Status
from ops.embedded.servers import ensure_database
from ops.migrate import run
from ops.ports import LOOPBACK
from sharding.directory import Directory
from sharding.engines import open_cluster
from sharding.sessions import ShardedSessions, open_sessions
from sharding.shard_map import ShardMap
from sharding.topology import Topology
from tests.benchmarks.bench_routing import ORDER_ID
from tests.benchmarks.harness import CannotRun, Comparison, Measured, benchmark, compare
from tests.citus_servers import CitusServers, run_citus
from tests.needs import NEEDS
from tests.platform_topology import name_shards
from tests.project import PROJECT

IDS = [ORDER_ID + (number << 12) for number in range(64)]
POINT = "SELECT order_id, status, version FROM orders WHERE order_id = %s AND status = 'SUBMITTED'"


@benchmark(name="citus_point_read", target=0.4)
async def citus_point_read() -> Measured:
    """Compare a point read on plain shards, by the driver, with the same through the coordinator.

    Both on the same servers: the plain shards are databases of the workers. By the driver, because a session
    costs either way the same time on the client, which the detail has as well.
    """
    if NEEDS["citus"].find() is None:
        raise CannotRun(f"no server here offers Citus ({NEEDS['citus'].package})")
    with tempfile.TemporaryDirectory(prefix="mes-storage-bench-") as folder, run_citus(Path(folder)) as citus:
        for tree in ("directory", "mes"):
            run.upgrade(citus.topology, PROJECT.tree(tree))
        plain = plain_shards(citus, Path(folder))
        async with (
            opened(plain) as routed,
            opened(citus.topology) as through,
        ):
            by_driver = await compare_drivers(routed, plain, citus)
            by_session = await compare_sessions(routed, through)
    return Measured(round(by_driver.ratio, 3), f"{_told(by_driver)}; as whole sessions {_told(by_session)}")


def _told(found: Comparison) -> str:
    routed, through = found.subject_seconds * 1e6, found.reference_seconds * 1e6
    return f"{routed:.0f} us routed, {through:.0f} us through the coordinator (ratio {found.ratio:.2f})"


def plain_shards(citus: CitusServers, folder: Path) -> Topology:
    """Make two plain shards on the servers of the workers, and a map of them."""
    text = citus.topology_path.read_text().replace('backend = "citus"', 'backend = "postgresql"')
    head, rest = text.split("[databases.mes]\n")
    tail = rest[rest.index("[redis]") :]
    for number, worker in enumerate(citus.workers):
        with citus.connect(worker.name, dbname="postgres") as server:
            ensure_database(server, f"mes_{number}", owner="mes_owner", services=("mes",))
        head += (
            f'[databases.mes_{number}]\ntree = "mes"\ndbname = "mes_{number}"\n'
            f'primary = {{ host = "{LOOPBACK}", port = {citus.ports[worker.name]} }}\n'
        )
    path = folder / "plain.toml"
    path.write_text(f"{head}{tail}")
    topology = Topology.load(path)
    run.upgrade(topology, PROJECT.tree("mes"))
    name_shards(topology)
    return topology


@asynccontextmanager
async def opened(topology: Topology) -> AsyncIterator[ShardedSessions]:
    """Open sessions, with some orders."""
    async with open_cluster(topology, "directory", role="mes", application_name="bench") as cluster:
        shards = list(topology.databases_of("mes"))
        if topology.trees["mes"].backend != "citus":
            await Directory(cluster.primary, "mes").ensure_map(
                ShardMap.even(shards, topology.trees["mes"].buckets)
            )
    async with open_sessions(topology, role="mes", application_name="bench") as sessions:
        for order_id in IDS:
            async with sessions.write(order_id) as session:
                session.add(
                    MesOrder(order_id=order_id, status=Status.SUBMITTED, channel=Channel.B2C, summary="ring")
                )
        yield sessions


async def compare_drivers(routed: ShardedSessions, plain: Topology, citus: CitusServers) -> Comparison:
    """Time a point read by prepared statement, each way on one open connection for each server."""
    with ExitStack() as stack:

        def connect(dbname: str, port: int) -> psycopg.Connection:
            # Not asynchronous: what the client does costs the same either way, and so hides the difference.
            words = make_conninfo(host=LOOPBACK, port=port, dbname=dbname, user="mes")
            return stack.enter_context(psycopg.connect(words, autocommit=True, prepare_threshold=0))

        shards = {
            name: connect(base.dbname, base.primary.port) for name, base in plain.databases_of("mes").items()
        }
        coordinator = connect("mes", citus.ports["coordinator"])
        by_route = reader(lambda key: shards[routed.shard_of(key)])
        return await compare(by_route, reader(lambda _: coordinator), rounds=300, calls=20)


def reader(connection_of: Callable[[int], psycopg.Connection]) -> Callable[[], Awaitable[object]]:
    """Make a function that reads one order after another."""
    keys = cycle(IDS)

    async def read() -> object:
        key = next(keys)
        row = connection_of(key).execute(POINT, [key]).fetchone()
        if row is None or row[0] != key:
            raise AssertionError(f"order {key} is not there")
        return row

    return read


async def compare_sessions(routed: ShardedSessions, through: ShardedSessions) -> Comparison:
    """Time a read session with one point read, each way."""

    def reading(sessions: ShardedSessions) -> Callable[[], Awaitable[object]]:
        keys = cycle(IDS)

        async def read() -> object:
            key = next(keys)
            async with sessions.read(key) as session:
                return await session.get_one(MesOrder, key)

        return read

    return await compare(reading(routed), reading(through), rounds=100, calls=10)
