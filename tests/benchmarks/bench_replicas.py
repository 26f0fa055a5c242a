"""What sessions on replicas cost, and what they promise: overheads, own writes under lag, failover."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import monotonic, perf_counter

from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from readreplica.cluster import PRIMARY, Cluster
from readreplica.engines import writer_engine
from readreplica.errors import CommitInDoubt
from readreplica.options import ReplicaOptions
from readreplica.sessions import WriteSession
from readreplica.transaction_status import TransactionStatus
from tests.benchmarks.harness import Comparison, Measured, benchmark, compare
from tests.integration.failover_rig import (
    Load,
    all_serve,
    cluster_of,
    deeds_on,
    first_write_on,
    go_on,
    longest_gap,
    make_deeds,
)
from tests.integration.replicas_rig import (
    HAS,
    INSERT,
    cluster_at,
    insert,
    kill,
    make_table,
    parameters,
    promote,
    set_parameters,
    sync_cluster_at,
    until,
    url_of,
)
from tests.needs import NEEDS
from tests.patroni import PatroniCluster, run_patroni
from tests.servers import PostgresServers, run_postgres

CHECKS = 200_000
LAG = "4ms"
UNBOUNDED = ReplicaOptions(replay_wait_seconds=0.02, fallback_per_second=10**9, fallback_burst=10**9)
PIN_SECONDS = 2.0


@contextmanager
def servers_with_notes() -> Iterator[PostgresServers]:
    with (
        tempfile.TemporaryDirectory(prefix="mes-storage-bench-") as folder,
        run_postgres(Path(folder)) as servers,
    ):
        make_table(servers)
        with servers.primary.connect() as connection:
            connection.execute("INSERT INTO notes SELECT generate_series(1, 1000)")
        servers.wait_for_replica()
        yield servers


@asynccontextmanager
async def plain_engine(servers: PostgresServers, port: int) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(url_of(servers, port))
    try:
        yield engine
    finally:
        await engine.dispose()


def told(found: Comparison, subject: str, reference: str) -> Measured:
    detail = (
        f"{found.subject_seconds * 1e6:.0f} us {subject}, {found.reference_seconds * 1e6:.0f} us {reference}"
    )
    return Measured(round(found.ratio, 3), detail)


@benchmark(name="session_overhead", target=1.05)
async def session_overhead() -> Measured:
    """Compare one point read in a read session and in a plain session, on the same replica."""
    return await _compare_reads(autocommit=False)


@benchmark(name="autocommit_gain", target=0.75)
async def autocommit_gain() -> Measured:
    """Compare one point read in an autocommit session and in a plain session, on the same replica."""
    return await _compare_reads(autocommit=True)


async def _compare_reads(*, autocommit: bool) -> Measured:
    with servers_with_notes() as servers:
        async with cluster_at(servers) as cluster, plain_engine(servers, servers.replica_port) as engine:

            async def routed() -> None:
                async with cluster.read(autocommit=autocommit) as session:
                    (await session.execute(HAS, {"n": 5})).scalar_one()
                assert session.node == "replica"

            async def plain() -> None:
                async with AsyncSession(engine) as session:
                    (await session.execute(HAS, {"n": 5})).scalar_one()

            found = await compare(routed, plain, rounds=300, calls=10)
    return told(found, "by session", "plain")


@benchmark(name="session_overhead_sync", target=1.05)
def session_overhead_sync() -> Measured:
    """Compare the same in threads: a read session's point read, and a plain Session's."""
    with servers_with_notes() as servers, sync_cluster_at(servers) as cluster:
        engine = create_engine(url_of(servers, servers.replica_port))

        def routed() -> None:
            with cluster.read() as session:
                session.execute(HAS, {"n": 5}).scalar_one()
            assert session.node == "replica"

        def plain() -> None:
            with Session(engine) as session:
                session.execute(HAS, {"n": 5}).scalar_one()

        try:
            return _compare_sync(routed, plain)
        finally:
            engine.dispose()


def _compare_sync(subject: Callable[[], None], reference: Callable[[], None]) -> Measured:
    def spent(calls: int) -> tuple[float, float]:
        seconds = [0.0, 0.0]
        for call in range(calls):
            for which in (0, 1) if call % 2 else (1, 0):
                start = perf_counter()
                (subject, reference)[which]()
                seconds[which] += perf_counter() - start
        return seconds[0] / calls, seconds[1] / calls

    spent(10)
    pairs = [spent(10) for _ in range(300)]
    found = Comparison(
        median(first / second for first, second in pairs),
        median(first for first, _ in pairs),
        median(second for _, second in pairs),
    )
    return told(found, "by session", "plain")


@benchmark(name="token_cost", target=1.10)
async def token_cost() -> Measured:
    """Compare a durable unit of one insert in a write session, and in a plain session that gives no token."""
    with servers_with_notes() as servers:
        _make_durable(servers)
        async with (
            cluster_at(servers) as cluster,
            plain_engine(servers, servers.primary_port) as engine,
            _recording_xid(servers) as recording,
        ):
            numbers = iter(range(10_000, 10**9))

            async def by_session(of: Cluster) -> None:
                await insert(of, next(numbers))

            async def plain() -> None:
                async with AsyncSession(engine, expire_on_commit=False) as session:
                    await session.execute(INSERT, {"n": next(numbers)})
                    await session.commit()

            found = await compare(partial(by_session, cluster), plain, rounds=150, calls=4)
            dearer = await compare(partial(by_session, recording), plain, rounds=60, calls=4)
    measured = told(found, "with token", "without")
    return measured._replace(detail=f"{measured.detail}; {dearer.ratio:.3f} where the writer records the xid")


def _make_durable(servers: PostgresServers) -> None:
    set_parameters(servers.primary, fsync="on", full_page_writes="on")


@asynccontextmanager
async def _recording_xid(servers: PostgresServers) -> AsyncIterator[Cluster]:
    async with cluster_at(servers, record_xid=True) as cluster:
        yield cluster


@dataclass
class Reads:
    """What became of reads of own writes."""

    checks: int = 0
    stale: int = 0
    on_replicas: int = 0
    pinned_on_replicas: int = 0
    """How many a router would have sent to replicas that pins a writer to the primary for two seconds."""

    errors: list[str] = field(default_factory=list)


_own_writes: list[Reads] = []


def lag_of(servers: PostgresServers) -> AbstractContextManager[None]:
    return parameters(servers.replica, recovery_min_apply_delay=LAG)


async def own_writes_under_lag() -> Reads:
    """Write and read as users do, under an apply delay: several reads after each write, some of them later.

    Measured once for both benchmarks that need it.
    """
    if not _own_writes:
        reads = Reads()
        with servers_with_notes() as servers, lag_of(servers):
            async with cluster_at(servers, options=UNBOUNDED) as cluster:
                users = (_use(cluster, reads, user, CHECKS // 8) for user in range(8))
                await asyncio.gather(*users)
        _own_writes.append(reads)
    return _own_writes[0]


async def _use(cluster: Cluster, reads: Reads, user: int, checks: int) -> None:
    for number in range(checks // 20):
        n = (user + 1) * 10**9 + number
        token = await insert(cluster, n)
        written_at = monotonic()
        for _ in range(20):
            async with cluster.read(after=token, autocommit=True) as session:
                found = (await session.execute(HAS, {"n": n})).scalar_one()
            reads.checks += 1
            reads.stale += found != 1
            reads.on_replicas += session.node != PRIMARY
            reads.pinned_on_replicas += monotonic() - written_at > PIN_SECONDS


@benchmark(name="stale_reads", target=0, unit="reads")
async def stale_reads() -> Measured:
    """Count own writes that a read with the token did not see."""
    reads = await own_writes_under_lag()
    return Measured(reads.stale, f"of {reads.checks:,} reads, apply delay {LAG}, 8 users, 20 reads a write")


@benchmark(name="replica_share", target=2, better="higher")
async def replica_share() -> Measured:
    """Compare the reads that replicas served with those that a pin of two seconds would have left to them."""
    reads = await own_writes_under_lag()
    # A pin leaves nothing to the replicas here; one read stands for none, so that there is a ratio.
    ratio = reads.on_replicas / max(1, reads.pinned_on_replicas)
    detail = f"{reads.on_replicas:,} of {reads.checks:,} on replicas, {reads.pinned_on_replicas:,} with a pin"
    return Measured(round(min(ratio, 1000.0), 2), detail)


@dataclass
class Failover:
    """What writers saw of a failover."""

    how: str = "kill -9 of the primary, and pg_promote"

    acknowledged: list[int] = field(default_factory=list)
    at: list[float] = field(default_factory=list)
    lost: int = 0
    in_doubt: int = 0
    took_seconds: float = 0.0
    stall_seconds: float = 0.0


_failovers: list[Sequence[Failover]] = []


async def failovers(*, rounds: int = 3) -> Sequence[Failover]:
    """Kill the leader under writes, with synchronous replication; once for both benchmarks.

    Patroni promotes, where etcd is installed; else this does.
    """
    if not _failovers:
        etcd = NEEDS["etcd"].find()
        if etcd is None:
            _failovers.append([await _fail_over() for _ in range(rounds)])
        else:
            _failovers.append(await _patroni_fails_over(etcd, rounds=rounds))
    return _failovers[0]


async def _patroni_fails_over(etcd: Path, *, rounds: int) -> Sequence[Failover]:
    found = []
    with (
        tempfile.TemporaryDirectory(prefix="mes-storage-bench-") as folder,
        run_patroni(Path(folder), etcd=etcd) as patroni,
    ):
        for _ in range(rounds):
            found.append(await _patroni_round(patroni))
            await asyncio.to_thread(patroni.wait_until_whole)
    return found


async def _patroni_round(patroni: PatroniCluster) -> Failover:
    """Kill the leader's postmaster; a prober without the library tells when writes are taken again."""
    make_deeds(patroni)
    old = patroni.leader
    others = [node for node in patroni.nodes if node is not old]
    async with cluster_of(patroni, record_xid=True) as cluster:
        await until(
            lambda: all_serve(cluster) and cluster.monitor.primary_state.answers, what="all nodes serve"
        )
        async with Load(cluster).running() as account:
            await go_on(account, writes=100)
            killed_at = monotonic()
            await asyncio.to_thread(kill, old.server)
            accepts = asyncio.create_task(asyncio.to_thread(first_write_on, others))
            took = await accepts - killed_at
            await go_on(account, writes=100)
    wrong = account.wrong(deeds_on(patroni.leader))
    return Failover(
        how="kill -9 of the postmaster of Patroni's leader",
        acknowledged=account.acknowledged,
        at=account.acknowledged_at,
        lost=sum(map(len, wrong.values())),
        in_doubt=len(account.told),
        took_seconds=took,
        stall_seconds=longest_gap(account.acknowledged_at),
    )


async def _fail_over() -> Failover:
    found = Failover()
    options = ReplicaOptions(failover_wait_seconds=60)
    with servers_with_notes() as servers:
        set_parameters(servers.primary, synchronous_standby_names="*")
        async with cluster_at(servers, options=options, record_xid=True) as cluster:
            stop = asyncio.Event()
            writers = [asyncio.create_task(_write(cluster, found, k, stop)) for k in range(4)]
            await until(lambda: len(found.acknowledged) > 100, what="writes")
            killed_at = monotonic()
            await asyncio.to_thread(kill, servers.primary)
            accepts = asyncio.create_task(_first_write(servers))
            await asyncio.to_thread(promote, servers.replica)
            found.took_seconds = await accepts - killed_at
            so_far = len(found.acknowledged)
            await until(lambda: len(found.acknowledged) > so_far + 100, what="writes after the promotion")
            stop.set()
            await asyncio.gather(*writers)
            async with cluster.write() as session:
                there = set((await session.execute(text("SELECT n FROM notes"))).scalars())
    found.lost = len(set(found.acknowledged) - there)
    times = sorted(found.at)
    found.stall_seconds = max(later - earlier for earlier, later in pairwise(times))
    return found


async def _first_write(servers: PostgresServers) -> float:
    """Tell when the new primary has taken a write of somebody who does nothing but try."""
    engine = writer_engine(url_of(servers, servers.replica_port), application_name="bench")
    try:
        while True:
            try:
                async with engine.begin() as connection:
                    await connection.execute(INSERT, {"n": -1})
                return monotonic()
            except Exception:
                await asyncio.sleep(0.005)
    finally:
        await engine.dispose()


async def _write(cluster: Cluster, found: Failover, writer: int, stop: asyncio.Event) -> None:
    n = (writer + 1) * 10**9
    while not stop.is_set():
        n += 1
        try:
            await cluster.transact(partial(_put, n))
        except CommitInDoubt as doubt:
            found.in_doubt += 1
            if await cluster.resolve(doubt) is not TransactionStatus.COMMITTED:
                continue
        found.acknowledged.append(n)
        found.at.append(monotonic())


async def _put(n: int, session: WriteSession) -> None:
    await session.execute(INSERT, {"n": n})


@benchmark(name="failover_stall", target=1.3)
async def failover_stall() -> Measured:
    """Compare the longest time without a write, and the time until the new primary takes one at all."""
    found = await failovers()
    ratio = median(each.stall_seconds / each.took_seconds for each in found)
    each = ", ".join(f"{one.stall_seconds:.2f} s of {one.took_seconds:.2f} s" for one in found)
    return Measured(round(ratio, 3), f"{found[0].how}, under 4 writers: {each}")


@benchmark(name="failover_lost", target=0, unit="writes")
async def failover_lost() -> Measured:
    """Count acknowledged writes that the new primary does not have, with synchronous replication."""
    found = await failovers()
    total = sum(len(each.acknowledged) for each in found)
    doubts = sum(each.in_doubt for each in found)
    how = found[0].how
    detail = f"of {total:,} in {len(found)} failovers ({how}); {doubts} were in doubt and resolved"
    return Measured(sum(each.lost for each in found), detail)


@benchmark(name="eject_polls", target=2, unit="polls")
async def eject_polls() -> Measured:
    """Count the polls that find a replica too far behind until it serves no reads; the worst of ten."""
    worst = 0
    options = ReplicaOptions(poll_seconds=0.2, eject_lag_bytes=1000, eject_lag_seconds=3600)
    with servers_with_notes() as servers:
        async with cluster_at(servers, options=options) as cluster:
            await insert(cluster, -1)
            replica = cluster.monitor.nodes["replica"]
            for number in range(10):
                # Delayed and not paused: a pause is a fault of its own.
                with parameters(servers.replica, recovery_min_apply_delay="1h"):
                    for n in range(20):
                        await insert(cluster, 10**6 + number * 100 + n)
                    await until(lambda: replica.health.ejected is not None, what="the replica is out")
                    worst = max(worst, replica.health.ejected_after)
                await until(lambda: replica.health.ejected is None, what="the replica is in")
    return Measured(worst, "apply delay of an hour, ten times")
