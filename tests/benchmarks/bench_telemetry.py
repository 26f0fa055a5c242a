"""What telemetry costs a request, and whether the traces of the demo's orders reach their ends."""

import asyncio
import os
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path
from typing import Any, LiteralString, NamedTuple

import psycopg
from httpx import AsyncClient, HTTPError

from app.console.demo.plan import Deviation, plan_day
from app.models.status import Channel
from app.topology import services_of
from ops.ports import PortPicker
from sharding.topology import Topology
from tests.benchmarks.harness import Measured, benchmark, compare, platform
from tests.callers import ACCESS_KEYS, ActingAs
from tests.collector import Collector, TakenSpan, collecting
from tests.integration.services_rig import START, ok, save_map
from tests.message_keys import ALL_KEYS
from tests.order_traces import Killed, follow

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "build" / "demo"
ORDERS = 40
READY_SECONDS = 60.0
COLLECTOR = """
import sys
from tests.collector import collecting
with collecting() as collector:
    print(collector.url, flush=True)
    sys.stdin.read()
"""
_keys = count(1)


@benchmark(name="telemetry_cost", target=1.15)
async def telemetry_cost() -> Measured:
    """Start an order and show it: by a Shop with all spans sent to a collector, and by one without an SDK."""
    with platform() as topology, separate_collector() as url:
        await save_map(topology)
        async with (
            shop(topology, {"MES_STORAGE_OTLP_ENDPOINT": url, "MES_STORAGE_TRACE_RATIO": "1"}) as watched,
            shop(topology, {"OTEL_SDK_DISABLED": "true"}) as plain,
        ):
            found = await compare(lambda: order(watched), lambda: order(plain), rounds=15, calls=40)
    both = f"{found.subject_seconds * 1000:.2f} ms with, {found.reference_seconds * 1000:.2f} ms without"
    return Measured(found.ratio, f"start an order and show it: {both}")


async def order(client: AsyncClient) -> None:
    """Start an order, and show it."""
    headers = {"Idempotency-Key": f"bench-{next(_keys)}"}
    started = ok(await client.post("/v1/orders", json=START, headers=headers), 201)
    ok(await client.get(f"/v1/orders/{started['order_id']}"))


@contextmanager
def separate_collector() -> Iterator[str]:
    """Run a collector in a process of its own, beside what is measured; give its URL."""
    words = [sys.executable, "-c", COLLECTOR]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


@asynccontextmanager
async def shop(topology: Topology, environment: Mapping[str, str]) -> AsyncIterator[AsyncClient]:
    """Run a Shop as a process, at a port of its own, and give a client of it."""
    listens = services_of(topology)["shop"]
    port = PortPicker(random.Random()).pick(listens.host)
    path = topology.path.with_name(f"shop-{port}.toml")
    path.write_text(topology.path.read_text().replace(f"port = {listens.port}\n", f"port = {port}\n"))
    own = {
        "MES_STORAGE_TOPOLOGY": str(path),
        "MES_STORAGE_MESSAGE_KEYS": ALL_KEYS,
        "MES_STORAGE_ACCESS_KEYS": ACCESS_KEYS,
    }
    words = [sys.executable, "-m", "app.shop"]
    process = await asyncio.create_subprocess_exec(
        *words, env={**os.environ, **own, **environment}, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        async with AsyncClient(
            base_url=f"http://{listens.host}:{port}", timeout=30, auth=ActingAs()
        ) as client:
            await until_ready(client)
            yield client
    finally:
        process.terminate()
        await process.wait()


async def until_ready(client: AsyncClient) -> None:
    """Wait until a service does its work."""
    async with asyncio.timeout(READY_SECONDS):
        while not await is_ready(client):  # noqa: ASYNC110 (what is waited for is another process)
            await asyncio.sleep(0.05)


async def is_ready(client: AsyncClient) -> bool:
    """Return whether a service says so."""
    try:
        return (await client.get("/readyz")).is_success
    except HTTPError:
        return False


@benchmark(name="trace_complete", target=1, better="higher")
def trace_complete() -> Measured:
    """Take the demo's orders through everything, the killed MES included, and follow each by its spans."""
    with collecting() as collector:
        ended, killed = run_demo(collector)
    spans: dict[str | None, list[TakenSpan]] = {}
    for span in collector.spans:
        spans.setdefault(span.order, []).append(span)
    everything, complete, lost = Counter[str](), Counter[str](), Counter[str]()
    faults: list[str] = []
    for order in ended:
        kind = f"{order.channel} {order.status}"
        found = follow(
            spans.get(order.id, ()),
            channel=order.channel,
            status=order.status,
            changed_at=order.changed_at,
            killed=killed,
        )
        everything[kind] += 1
        complete[kind] += found.reaches_its_end
        lost.update(step.name for _, step in found.lost)
        faults += found.faults(order.id)
    assert set(everything) >= ENDINGS, f"the demo lacks {ENDINGS - set(everything)}"
    parts = [f"{kind} {complete[kind]} of {everything[kind]}" for kind in sorted(everything)]
    parts.append(f"{lost.total()} steps lost with the killed MES{_listed(lost)}")
    return Measured(complete.total() / everything.total(), "; ".join([", ".join(parts), *faults]))


def _listed(lost: Counter[str]) -> str:
    return f" ({', '.join(f'{count} {name}' for name, count in sorted(lost.items()))})" if lost else ""


class EndedOrder(NamedTuple):
    """An order of the demo, as the CRM has it: the CRM is not killed."""

    id: str
    channel: str
    status: str
    changed_at: dict[str, float]


ENDINGS = {
    f"{channel} {status}" for channel in ("B2C", "B2B") for status in ("CLOSED", "CANCELLED", "REJECTED")
}


def seed_with_every_ending() -> int:
    """Return the first seed by which buyers of both channels decline, and send models that are bad."""
    wanted = {
        (channel, deviation) for channel in Channel for deviation in (Deviation.DECLINES, Deviation.BAD_MODEL)
    }
    return next(
        seed
        for seed in count(1)
        if wanted <= {(planned.channel, planned.deviation) for planned in plan_day(orders=ORDERS, seed=seed)}
    )


def run_demo(collector: Collector) -> tuple[list[EndedOrder], Killed]:
    """Run `mesctl demo`, whose services send to the collector; return its orders, and the killed MES."""
    mesctl = [sys.executable, "-m", "ops"]
    environment = {**os.environ, "MES_STORAGE_OTLP_ENDPOINT": collector.url}
    size = ["--orders", str(ORDERS), "--seed", str(seed_with_every_ending())]
    words = [*mesctl, "demo", *size, "--keep", "--no-fsync"]
    try:
        pid, killed_at = until_killed(words, environment)
        topology = Topology.load(DEMO / "topology.toml")
        ended = [EndedOrder(*row) for row in rows(topology, "crm", ENDED)]
        for shard in topology.databases_of("mes"):
            for order_id, message_type, at in rows(topology, shard, RECEIVED):
                next(order for order in ended if order.id == order_id).changed_at[message_type] = at
    finally:
        # The services send what they have before they end.
        subprocess.run(
            [*mesctl, "--home", str(DEMO), "down"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL
        )
    last = max(span.began + span.seconds for span in collector.spans if span.instance.endswith(f":{pid}"))
    return ended, Killed("mes", last_seen=last, at=killed_at)


def rows(topology: Topology, name: str, query: LiteralString) -> list[tuple[Any, ...]]:
    """Return the rows of a query to one database."""
    role = topology.databases[name].role
    url = topology.url(name, role=role, driver="psycopg").set(drivername="postgresql")
    with psycopg.connect(url.render_as_string(hide_password=False)) as connection:
        return connection.execute(query).fetchall()


RECEIVED = "SELECT order_id::text, type, extract(epoch FROM received_at)::float8 FROM inbox"
"""The inbox keeps the last message of each order."""

ENDED = """
    SELECT order_id::text, channel, status, (
        SELECT jsonb_object_agg(status, at) FROM (
            SELECT status, extract(epoch FROM min(at))::float8 AS at
            FROM order_events WHERE order_events.order_id = orders.order_id GROUP BY status
        ) AS changes
    )
    FROM orders
"""


def until_killed(words: Sequence[str], environment: Mapping[str, str]) -> tuple[int, float]:
    """Run the demo to its end; return the process id of the MES that it kills, and when that was."""
    killed: tuple[int, float] | None = None
    with subprocess.Popen(
        words, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            found = re.search(r"MES \(pid (\d+)\) killed", line)
            if found is not None:
                killed = int(found[1]), time.time()
    assert process.returncode == 0
    assert killed is not None
    return killed
