"""Writers and readers that go on through a failover, and the account of what they saw."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count, pairwise
from time import monotonic
from types import MappingProxyType
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo
from sqlalchemy import URL, text
from sqlalchemy.exc import DBAPIError

from ops.ports import LOOPBACK
from ops.waiting import wait_until
from readreplica.addresses import Address, read_patroni
from readreplica.cluster import Cluster
from readreplica.discovery import Discovery
from readreplica.engines import reader_engine, writer_engine
from readreplica.errors import CommitInDoubt, ReplicasTooStale
from readreplica.options import ReplicaOptions
from readreplica.sessions import ReadSession, WriteSession
from readreplica.token import CausalToken
from readreplica.transaction_status import TransactionStatus
from tests.integration.replicas_rig import until
from tests.patroni import PatroniCluster, PatroniNode

# No unique key: a unit that is done twice is there twice.
MAKE_DEEDS = "CREATE TABLE IF NOT EXISTS deeds (n bigint); CREATE INDEX IF NOT EXISTS deeds_n ON deeds (n)"
DO = text("INSERT INTO deeds VALUES (:n)")
DONE = text("SELECT count(*) FROM deeds WHERE n = :n")
# Readers of anything go on where the only replica has become the primary: the budget is other tests' subject.
PATIENT = ReplicaOptions(
    poll_seconds=0.25, failover_wait_seconds=90, fallback_per_second=10**6, fallback_burst=10**6
)


@dataclass
class Account:
    """What writers were told, and when; what readers saw."""

    acknowledged: list[int] = field(default_factory=list)
    acknowledged_at: list[float] = field(default_factory=list)
    told: dict[int, TransactionStatus] = field(default_factory=dict)
    """What became of those in doubt."""

    reads_at: list[float] = field(default_factory=list)
    stale: list[int] = field(default_factory=list)
    newest: tuple[int, CausalToken] | None = None

    def wrong(self, done: Counter[int]) -> dict[str, list[int]]:
        """Compare with what is in the table: nothing lost, nothing twice, no false word of a fate."""
        return {
            "lost": sorted(n for n in self.acknowledged if not done[n]),
            "twice": sorted(n for n, times in done.items() if times > 1 and n > 0),
            "said to be aborted": sorted(
                n for n, fate in self.told.items() if fate is TransactionStatus.ABORTED and done[n]
            ),
            "of unknown fate": sorted(n for n, fate in self.told.items() if fate not in _KNOWN),
            "stale": self.stale,
        }


_KNOWN = (TransactionStatus.COMMITTED, TransactionStatus.ABORTED)


class Load:
    """Four writers, two readers of anything, and one reader of what was written last."""

    def __init__(self, cluster: Cluster) -> None:
        self.account = Account()
        self._cluster = cluster
        self._stop = asyncio.Event()

    @asynccontextmanager
    async def running(self, *, writers: int = 4) -> AsyncIterator[Account]:
        """Run it inside of the block; an error of any of them ends the block with that error."""
        async with asyncio.TaskGroup() as group:
            for writer in range(writers):
                group.create_task(self._write((writer + 1) * 10**9))
            for _ in range(2):
                group.create_task(self._read())
            group.create_task(self._read_newest())
            try:
                yield self.account
            finally:
                self._stop.set()

    async def _write(self, first: int) -> None:
        for n in count(first):
            if self._stop.is_set():
                return
            token = await self._do(n)
            if token is not None:
                self.account.acknowledged.append(n)
                self.account.acknowledged_at.append(monotonic())
                self.account.newest = n, token

    async def _do(self, n: int) -> CausalToken | None:
        try:
            return (await self._cluster.transact(partial(_do, n))).value
        except CommitInDoubt as doubt:
            fate = await self._cluster.resolve(doubt, lookup=partial(_is_done, n), timeout_seconds=90)
            self.account.told[n] = fate
            return CausalToken() if fate is TransactionStatus.COMMITTED else None

    async def _read(self) -> None:
        while not self._stop.is_set():
            await self._cluster.transact_read(partial(_is_done, 1))
            self.account.reads_at.append(monotonic())

    async def _read_newest(self) -> None:
        while not self._stop.is_set():
            if self.account.newest is None or not self.account.newest[1]:
                await asyncio.sleep(0)
                continue
            n, token = self.account.newest
            try:
                is_done = await self._cluster.transact_read(partial(_is_done, n), after=token)
            except (ReplicasTooStale, DBAPIError):
                continue  # a refusal is no lie: there may be nobody who has it, for a while
            if not is_done:
                self.account.stale.append(n)


def all_serve(cluster: Cluster) -> bool:
    """Tell whether all three nodes are known, and none of them is out."""
    nodes = cluster.monitor.nodes.values()
    return len(nodes) == 3 and all(node.health.ejected is None for node in nodes)


async def _do(n: int, session: WriteSession) -> CausalToken:
    await session.execute(DO, {"n": n})
    await session.commit()
    return session.token


async def _is_done(n: int, session: ReadSession) -> bool:
    return bool((await session.execute(DONE, {"n": n})).scalar_one())


def longest_gap(times: list[float]) -> float:
    """Give the longest time between one and the next."""
    return max(later - earlier for earlier, later in pairwise(sorted(times)))


@asynccontextmanager
async def cluster_of(
    patroni: PatroniCluster, *, record_xid: bool, ways: Mapping[int, int] = MappingProxyType({})
) -> AsyncIterator[Cluster]:
    """A cluster that is told of one node, and finds the others by Patroni.

    Patroni announces servers. Where they have poolers the application knows those: `ways`, by servers' ports.
    """
    first = patroni.leader
    words: dict[str, Any] = {"application_name": "test", "prepare_threshold": None if ways else 5}
    url = URL.create(
        "postgresql+psycopg",
        username="postgres",
        host=LOOPBACK,
        port=ways.get(first.port, first.port),
        database="postgres",
        query={"passfile": str(patroni.passfile)},
    )
    cluster = Cluster(
        "main",
        primary=writer_engine(url, record_xid=record_xid, **words),
        primary_reader=reader_engine(url, **words),
        replicas={},
        options=PATIENT,
    )

    async def announced() -> list[Address]:
        found = read_patroni(await asyncio.to_thread(patroni.members))
        return [at._replace(port=ways.get(at.port, at.port)) for at in found]

    discovery = Discovery(
        cluster,
        announced,
        make_reader=lambda at: reader_engine(url.set(host=at.host, port=at.port), **words),
        every_seconds=1,
    )
    discovery.start()
    try:
        yield cluster
    finally:
        await discovery.stop()
        await cluster.close()


def make_deeds(patroni: PatroniCluster) -> None:
    """Make the table, empty."""
    with patroni.leader.server.connect() as connection:
        connection.execute(f"{MAKE_DEEDS}; TRUNCATE deeds")


def deeds_on(node: PatroniNode) -> Counter[int]:
    """Tell how often each deed is there."""
    with node.server.connect() as connection:
        return Counter(dict(connection.execute("SELECT n, count(*) FROM deeds GROUP BY n").fetchall()))


async def go_on(account: Account, *, writes: int) -> None:
    """Return when so many more writes are acknowledged."""
    wanted = len(account.acknowledged) + writes
    await until(lambda: len(account.acknowledged) >= wanted, what="writes", timeout_seconds=90)


def first_write_on(nodes: Sequence[PatroniNode]) -> float:
    """Tell when one of these nodes has taken a write: libpq's own search, again and again."""
    where = make_conninfo(
        host=",".join(LOOPBACK for _ in nodes),
        port=",".join(str(node.port) for node in nodes),
        user="postgres",
        dbname="postgres",
        passfile=str(nodes[0].passfile),
        target_session_attrs="read-write",
        connect_timeout=2,
    )

    def takes_a_write() -> bool:
        try:
            with psycopg.connect(where) as connection:
                connection.execute("INSERT INTO deeds VALUES (-1)")
        except psycopg.Error:
            return False
        return True

    if not wait_until(takes_a_write, timeout_seconds=90, every_seconds=0.005):
        raise TimeoutError("no node takes writes in 90 s")
    return monotonic()
