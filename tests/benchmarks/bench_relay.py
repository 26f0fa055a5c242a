"""What the relay costs beside raw SQL, how soon it sends, and what an open transaction does to it."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any
from uuid import UUID

import psycopg
from redis.asyncio import Redis

from app import topology as sections
from app.kit.logs import LogFile, configure_logging
from app.log_events import SCHEMA
from app.messaging.message import Ack
from app.messaging.relay import Relay
from app.messaging.routing import ServiceName
from app.messaging.streams import acks_stream, entries_of, fields_of, open_redis, orders_stream
from app.models.shop import ShopOutbox
from readreplica.cluster import Cluster
from sharding.engines import open_cluster
from sharding.topology import Topology
from tests.benchmarks.harness import Measured, benchmark, platform
from tests.message_keys import signer_of

BATCH = 500
MESSAGES = 10_000
ROUNDS = 3
HELD_SECONDS = 300.0
POLL_SECONDS = 0.02
DATA = '{"actor": "Ana", "note": "ring, gold_18k, polished, 1 piece, to be engraved and sent by the shop"}'

FILL = f"""
    INSERT INTO outbox (order_id, message_id, destination, type, data, created_at)
    SELECT %s + i, gen_random_uuid(), 'crm', 'order.shipped', '{DATA}', now() FROM generate_series(1, %s) i
"""


@dataclass
class Bench:
    """A shop's database, its relay, and a CRM that acknowledges at once and does nothing else."""

    cluster: Cluster
    redis: Redis
    raw: psycopg.AsyncConnection[Any]
    relay: Relay
    orders: int = 0

    async def fill(self, count: int) -> None:
        """Owe messages of as many orders."""
        await self.raw.execute(FILL, (self.orders, count))
        self.orders += count

    async def acknowledge(self) -> set[str]:
        """Read what was sent, answer it, and return the ids."""
        stream = orders_stream("crm")
        entries = entries_of(await self.redis.xread({stream: "0"}, count=BATCH))
        if entries:
            signer = signer_of(ServiceName.CRM)
            pipeline = self.redis.pipeline(transaction=False)
            for _, entry in entries:
                ack = Ack(UUID(entry["id"]), "crm", order_id=int(entry["subject"]))
                signed = signer.sign(
                    ack.encode(), kind="acknowledgement", destination="shop", peer=ServiceName.SHOP
                )
                pipeline.xadd(acks_stream("shop"), fields_of(signed))
            pipeline.xdel(stream, *(entry_id for entry_id, _ in entries))
            await pipeline.execute()
        return {entry["id"] for _, entry in entries}

    async def drain(self, count: int) -> float:
        """Have the relay send all that is owed; return how long it was at work, without the CRM's part.

        What is left is counted by what was answered. To count the outbox reads all that has gone from it, and
        so would do itself, between two turns, what is measured here.
        """
        spent, answered = 0.0, set[str]()
        while len(answered) < count or await self.redis.xlen(acks_stream("shop")):
            began = time.perf_counter()
            await self.relay.turn()
            spent += time.perf_counter() - began
            answered |= await self.acknowledge()
        return spent

    async def owed(self) -> int:
        """Count what is in the outbox."""
        found = await (await self.raw.execute("SELECT count(*) FROM outbox")).fetchone()
        assert found is not None
        return int(found[0])

    async def copy(self, target: psycopg.AsyncConnection[Any]) -> float:
        """Copy all that is owed to another database by batches of plain SQL, and delete it."""
        began = time.perf_counter()
        while rows := await self._batch():
            async with target.cursor() as cursor:
                await cursor.executemany(
                    "INSERT INTO inbox (order_id, message_id, source, type) VALUES (%s, %s, 'shop', %s)",
                    [(row[0], row[2], row[4]) for row in rows],
                )
            await target.commit()
            async with self.raw.cursor() as cursor:
                await cursor.executemany(
                    "DELETE FROM outbox WHERE order_id = %s AND sequence = %s", [row[:2] for row in rows]
                )
        return time.perf_counter() - began

    async def _batch(self) -> Sequence[Any]:
        found = await self.raw.execute(
            "SELECT order_id, sequence, message_id, destination, type, data::text, created_at FROM outbox"
            " ORDER BY order_id LIMIT %s",
            (BATCH,),
        )
        return await found.fetchall()


@asynccontextmanager
async def bench(topology: Topology, *, poll_seconds: float = 0.001) -> AsyncIterator[Bench]:
    """Open what is measured."""
    log = LogFile(Path("build/bench-relay.log"), max_bytes=10_000_000, kept=1)
    configure_logging("shop", level="info", schema=SCHEMA, file=log)
    async with (
        open_cluster(topology, "shop", role="shop", application_name="bench") as cluster,
        open_redis(sections.redis_url(topology, "test")) as redis,
        await raw(topology, "shop", autocommit=True) as connection,
    ):
        relay = Relay(
            cluster,
            redis,
            ShopOutbox,
            source="shop",
            signer=signer_of(ServiceName.SHOP),
            poll_seconds=poll_seconds,
            batch=BATCH,
        )
        yield Bench(cluster, redis, connection, relay)


async def raw(topology: Topology, database: str, *, autocommit: bool = False) -> psycopg.AsyncConnection[Any]:
    """Connect as the service does, without anything of ours in between."""
    url = topology.url(database, role=database).set(drivername="postgresql")
    return await psycopg.AsyncConnection.connect(
        url.render_as_string(hide_password=False), autocommit=autocommit
    )


@benchmark(name="relay_rate", target=0.5, better="higher")
async def relay_rate() -> Measured:
    """Compare the relay's rate with that of a copy to another database by batches of raw SQL."""
    with platform() as topology:
        async with bench(topology) as subject, await raw(topology, "crm") as target:
            pairs = []
            for _ in range(ROUNDS + 1):
                await subject.fill(MESSAGES)
                relayed = await subject.drain(MESSAGES)
                await subject.fill(MESSAGES)
                pairs.append((await subject.copy(target), relayed))
    pairs = pairs[1:]
    copied, relayed = (MESSAGES / median(each) for each in zip(*pairs, strict=True))
    return Measured(
        median(first / second for first, second in pairs),
        f"{relayed:.0f} messages in a second are sent and settled; {copied:.0f} rows in batches of "
        f"{BATCH} are read, inserted into another database and deleted",
    )


@benchmark(name="relay_held_xmin", target=0.9, better="higher")
async def relay_held_xmin() -> Measured:
    """Compare the relay's rate after a transaction was open for minutes with the rate without one."""
    seconds = float(os.environ.get("BENCH_HELD_SECONDS", HELD_SECONDS))
    with platform() as topology:
        async with bench(topology) as subject:
            await rate(subject)
            without = median([await rate(subject) for _ in range(ROUNDS)])
            async with await raw(topology, "shop") as holder:
                await holder.execute("SELECT pg_current_xact_id(), count(*) FROM outbox")
                began = time.monotonic()
                while time.monotonic() - began < seconds:
                    await rate(subject)
                held = median([await rate(subject) for _ in range(ROUNDS)])
                dead = subject.orders
                assert await subject.owed() == 0
    return Measured(
        held / without,
        f"{held:.0f} messages in a second after {seconds:.0f} s and {dead} messages, {without:.0f} without",
    )


async def rate(subject: Bench) -> float:
    """Have the relay send a load of messages; return how many in a second."""
    await subject.fill(MESSAGES)
    return MESSAGES / await subject.drain(MESSAGES)


@benchmark(name="relay_latency", target=3.0)
async def relay_latency() -> Measured:
    """Compare the time from commit to stream with that of a loop that only polls, and only sends."""
    with platform() as topology:
        async with bench(topology, poll_seconds=0.1) as subject:
            async with bare_loop(topology, subject.redis):
                bare = await latencies(subject)
            stop = asyncio.Event()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(subject.relay.run(stop))
                tasks.create_task(answering(subject, stop))
                relayed = await latencies(subject)
                stop.set()
    return Measured(
        p99(relayed) / p99(bare),
        f"p99 {p99(relayed) * 1000:.1f} ms, median {median(relayed) * 1000:.1f} ms; a bare loop that polls "
        f"each {POLL_SECONDS * 1000:.0f} ms: p99 {p99(bare) * 1000:.1f} ms, "
        f"median {median(bare) * 1000:.1f} ms",
    )


async def latencies(subject: Bench) -> list[float]:
    """Commit one message after another, and wait for each in the stream."""
    found = []
    last = "$"
    stream = "orders:crm"
    async with open_reader(subject) as reader:
        for number in range(300):
            # At any moment of the loop's rest.
            await asyncio.sleep(0.003 + (number * 7919 % 60) / 1000)
            waiting = asyncio.ensure_future(following(reader, stream, last))
            await asyncio.sleep(0.002)
            began = time.perf_counter()
            await subject.fill(1)
            last = await waiting
            found.append(time.perf_counter() - began)
    return found[20:]


async def following(redis: Redis, stream: str, last: str) -> str:
    """Wait for an entry, and name it."""
    return entries_of(await redis.xread({stream: last}, block=5000))[-1][0]


@asynccontextmanager
async def open_reader(subject: Bench) -> AsyncIterator[Redis]:
    """Connect once more: what waits for an entry keeps its connection."""
    words = subject.redis.connection_pool.connection_kwargs
    async with Redis(host=words["host"], port=words["port"], decode_responses=True) as redis:
        yield redis


async def answering(subject: Bench, stop: asyncio.Event) -> None:
    """Acknowledge what comes, as a consumer does."""
    while not stop.is_set():
        await asyncio.sleep(0.03)
        await subject.acknowledge()


@asynccontextmanager
async def bare_loop(topology: Topology, redis: Redis) -> AsyncIterator[None]:
    """Run a loop that selects, sends and deletes, and rests as long as a relay rests that has work."""

    async def loop() -> None:
        async with await raw(topology, "shop") as connection:
            while True:
                found = await connection.execute(
                    "SELECT order_id, sequence, data::text FROM outbox ORDER BY sequence LIMIT %s", (BATCH,)
                )
                rows = await found.fetchall()
                for order_id, sequence, data in rows:
                    await redis.xadd("orders:crm", {"subject": str(order_id), "data": data})
                    await connection.execute(
                        "DELETE FROM outbox WHERE order_id = %s AND sequence = %s", (order_id, sequence)
                    )
                await connection.commit()
                await asyncio.sleep(POLL_SECONDS)

    running = asyncio.create_task(loop())
    try:
        yield
    finally:
        running.cancel()
        await asyncio.wait([running])
        await redis.delete("orders:crm")


def p99(values: Sequence[float]) -> float:
    """Return the 99th percentile."""
    return quantiles(values, n=100)[98]
