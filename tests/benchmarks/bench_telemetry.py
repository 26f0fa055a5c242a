"""What telemetry costs a request, and whether the traces of the demo's orders reach their ends."""

import asyncio
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path

import psycopg
from httpx import AsyncClient, HTTPError

from app.topology import services_of
from ops.ports import PortPicker
from sharding.topology import Topology
from tests.benchmarks.harness import Measured, benchmark, compare, platform
from tests.collector import Collector, collecting, reaches_its_end
from tests.integration.services_rig import START, ok, save_map
from tests.message_keys import ALL_KEYS

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
    own = {"MES_STORAGE_TOPOLOGY": str(path), "MES_STORAGE_MESSAGE_KEYS": ALL_KEYS}
    words = [sys.executable, "-m", "app.shop"]
    process = await asyncio.create_subprocess_exec(
        *words, env={**os.environ, **own, **environment}, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        async with AsyncClient(base_url=f"http://{listens.host}:{port}", timeout=30) as client:
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
        ended = run_demo(collector)
    complete: Counter[str] = Counter()
    everything: Counter[str] = Counter()
    for order_id, channel, status in ended:
        spans = [span for span in collector.spans if span.order == order_id]
        everything[f"{channel} {status}"] += 1
        complete[f"{channel} {status}"] += reaches_its_end(spans, channel=channel, status=status)
    shares = ", ".join(f"{kind} {complete[kind]} of {everything[kind]}" for kind in sorted(everything))
    return Measured(complete.total() / everything.total(), shares)


def run_demo(collector: Collector) -> list[tuple[str, str, str]]:
    """Run `mesctl demo`, whose services send to the collector; give its orders, as the CRM has them."""
    mesctl = [sys.executable, "-m", "ops"]
    environment = {**os.environ, "MES_STORAGE_OTLP_ENDPOINT": collector.url}
    words = [*mesctl, "demo", "--orders", str(ORDERS), "--keep", "--no-fsync"]
    try:
        subprocess.run(words, env=environment, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        topology = Topology.load(DEMO / "topology.toml")
        url = topology.url("crm", role="crm", driver="psycopg").set(drivername="postgresql")
        with psycopg.connect(url.render_as_string(hide_password=False)) as connection:
            rows = connection.execute("SELECT order_id::text, channel, status FROM orders").fetchall()
    finally:
        # The services send what they have before they end.
        subprocess.run(
            [*mesctl, "--home", str(DEMO), "down"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL
        )
    return [(order_id, channel, status) for order_id, channel, status in rows]
