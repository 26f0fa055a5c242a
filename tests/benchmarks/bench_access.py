"""What it costs to know who calls, and what a limit lets through by many processes, clocks and partners."""

import asyncio
import multiprocessing
import ssl
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.queues import Queue
from pathlib import Path
from statistics import median
from uuid import uuid4

import httpx
from httpx import ASGITransport, AsyncClient

from app import topology as sections
from app.access import identities
from app.access.limits import PLANS, CallerLimits, plan
from app.console.gateway import DOORS
from app.console.identities import create_all
from app.kit.caller import Caller, Role
from app.mes.application import build
from app.messaging.streams import open_redis
from ops.ports import LOOPBACK
from ops.waiting import wait_until
from sharding.engines import open_cluster
from sharding.topology import Topology
from tests.benchmarks.harness import Measured, benchmark, platform
from tests.integration.gateway_rig import HOST, SOURCE, one_door, run_envoy
from tests.integration.services_rig import fast_settings, save_map
from tests.integration.test_access import open_doors, wrong_cells
from tests.integration.test_services_connections import Anyone
from tests.integration.test_services_schema import served
from tests.load.arrivals import Caller as Client
from tests.load.arrivals import Kind, arrivals, percentile
from tests.load.runs import Bench, open_bench

DECISIONS = 2000
REQUESTS = 600
PROCESSES, FLOOD_SECONDS = 8, 3.0
PER_SECOND, BURST = 50.0, 20.0
FLOODED = plan(
    requests_per_second=PER_SECOND,
    burst=BURST,
    orders_per_day=1e9,
    bytes_per_second=1e12,
    bytes_burst=1e12,
    concurrent=1_000_000,
)


@benchmark(name="limiter_cost", target=1.3)
async def limiter_cost() -> Measured:
    """Decide about one request, and ask Redis for nothing: one after the other."""
    with platform() as topology:
        async with open_redis(sections.redis_url(topology, "test")) as redis:
            limits = CallerLimits(redis)
            made = limits.plan_of(caller := Caller(name="p", role=Role.PARTNER, identity_id=1))
            assert made is not None
            pairs = []
            for _ in range(DECISIONS):
                began = time.perf_counter()
                await redis.ping()
                between = time.perf_counter()
                await limits._decided(made, f"{caller.role}:{uuid4()}", (1.0, 1.0, 100.0), uuid4().hex)
                pairs.append((between - began, time.perf_counter() - between))
            await limits.settled()
    ping, decided = (median(each) * 1e6 for each in zip(*pairs[100:], strict=True))
    return Measured(decided / ping, f"{decided:.0f} us for all limits of a request, {ping:.0f} us for a PING")


def _flood(url: str, subject: int, skew_seconds: float, counted: "Queue[tuple[int, float, float]]") -> None:
    """Ask for as much as can be asked for; tell how much was let in, by a clock that is wrong."""
    real = time.time
    time.time = lambda: real() + skew_seconds

    async def ask() -> tuple[int, float, float]:
        let_in, began = 0, time.monotonic()
        async with open_redis(url) as redis:
            limits = CallerLimits(redis, plans={Role.PARTNER: FLOODED})
            caller = Caller(name="p", role=Role.PARTNER, identity_id=subject)
            made = limits.plan_of(caller)
            assert made is not None
            while time.monotonic() - began < FLOOD_SECONDS:
                verdict = await limits._decided(made, f"flood:{subject}", (1.0, 0.0, 0.0), "")
                let_in += verdict is not None and verdict.refused_by is None
            await limits.settled()
        return let_in, began, time.monotonic()

    counted.put(asyncio.run(ask()))


@benchmark(name="limiter_error", target=0, unit="requests")
def limiter_error() -> Measured:
    """Count what is let in above the limit, by processes whose clocks are up to hours apart."""
    with platform() as topology:
        url, context = sections.redis_url(topology, "test"), multiprocessing.get_context("spawn")
        counted: Queue[tuple[int, float, float]] = context.Queue()
        subject = uuid4().int >> 66
        processes = [
            context.Process(target=_flood, args=(url, subject, (number - 4) * 1800.0, counted))
            for number in range(PROCESSES)
        ]
        for process in processes:
            process.start()
        found = [counted.get(timeout=60) for _ in processes]
        for process in processes:
            process.join()
    let_in = sum(each[0] for each in found)
    seconds = max(each[2] for each in found) - min(each[1] for each in found)
    allowed = BURST + PER_SECOND * seconds
    return Measured(
        max(0, let_in - int(allowed)),
        f"{let_in} of {allowed:.0f} that are allowed in {seconds:.1f} s, by {PROCESSES} processes",
    )


@benchmark(name="auth_cost", target=1.1)
async def auth_cost() -> Measured:
    """List orders with an API key, and without a question who it is: one after the other."""
    with platform() as topology:
        await save_map(topology)
        app = build(fast_settings(topology), topology)
        async with (
            app.router.lifespan_context(app),
            open_cluster(
                topology, "directory", role="directory_owner", application_name="bench"
            ) as directory,
            AsyncClient(transport=ASGITransport(app), base_url="http://mes") as client,
        ):
            key = (
                await directory.transact(lambda s: identities.create(s, "Rosa", Role.OPERATOR, by="bench"))
            ).value
            headers = {"Authorization": f"Bearer {key.text}"}
            known, limits = app.state.access, app.state.limits
            await known.registry.refresh()
            pairs = []
            for _ in range(REQUESTS):
                spent = []
                for access, limited in ((Anyone(), Anyone()), (known, limits)):
                    app.state.access, app.state.limits = access, limited
                    began = time.perf_counter()
                    answer = await client.get("/v1/orders", headers=headers)
                    spent.append(time.perf_counter() - began)
                    assert answer.status_code == 200
                pairs.append(spent)
    without, with_key = (median(each) * 1e3 for each in zip(*pairs[50:], strict=True))
    return Measured(
        with_key / without, f"{with_key:.2f} ms for a list with an API key, {without:.2f} ms without"
    )


@benchmark(name="authz_matrix", target=1, better="higher")
async def authz_matrix() -> Measured:
    """Ask for every route as every role, at every door, for orders of one's own and of others."""
    with platform() as topology:
        await save_map(topology)
        async with open_doors(topology) as doors:
            wrong, cells = await wrong_cells(doors)
    return Measured(1 - len(wrong) / cells, f"{cells - len(wrong)} of {cells} cells; wrong: {wrong[:3]}")


@benchmark(name="gateway_cost", target=2.0)
def gateway_cost() -> Measured:
    """List orders through a door of the gateway, by TLS, and past it: one after the other."""
    with platform() as topology, ExitStack() as opened:
        asyncio.run(save_map(topology))
        settings = fast_settings(topology).model_copy(update={"trusted_proxies": SOURCE})
        direct = opened.enter_context(served(build(settings, topology), settings))
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        gateway = one_door(folder, "staff", DOORS["staff"][:1], service=int(direct.rpartition(":")[2]))
        opened.enter_context(run_envoy(gateway, folder / "gateway"))
        trusted = ssl.create_default_context(cafile=str(folder / "ca.pem"))
        door = f"https://{LOOPBACK}:{gateway.section.doors['staff'].port}"
        # A service's token would not be taken at a door.
        key = asyncio.run(_key_of_operator(topology))
        headers = {"Authorization": f"Bearer {key}", "Host": HOST}
        ways = [
            opened.enter_context(httpx.Client(base_url=url, headers=headers, verify=trusted, trust_env=False))
            for url in (direct, door)
        ]
        wait_until(lambda: ways[1].get("/v1/orders").status_code == 200, timeout_seconds=20)
        pairs = []
        for _ in range(REQUESTS):
            spent = []
            for way in ways:
                began = time.perf_counter()
                answer = way.get("/v1/orders")
                spent.append(time.perf_counter() - began)
                assert answer.status_code == 200
            pairs.append(spent)
    past, through = (median(each) * 1e3 for each in zip(*pairs[50:], strict=True))
    return Measured(through / past, f"{through:.2f} ms for a list through the gateway, {past:.2f} ms past it")


async def _key_of_operator(topology: Topology) -> str:
    async with open_cluster(
        topology, "directory", role="directory_owner", application_name="bench"
    ) as directory:
        made = await directory.transact(lambda s: identities.create(s, "Rosa", Role.OPERATOR, by="bench"))
    return made.value.text


POLITE_PER_SECOND = 15.0
CONNECTIONS, TIMES_THE_LIMIT = 200, 10
ROUNDS, ROUND_SECONDS = 3, 10.0


def _flood_service(url: str, key: str, order_ids: list[str], seconds: float) -> None:
    """Ask from many connections, each once in a time, for ten times what is allowed in all."""
    pause = CONNECTIONS / (TIMES_THE_LIMIT * PLANS[Role.PARTNER].requests.amount)

    async def connection(number: int, until: float) -> None:
        caller = Client(url, order_ids, dict.fromkeys(Role, key))
        await asyncio.sleep(pause * number / CONNECTIONS)
        while time.monotonic() < until:
            began = time.monotonic()
            await caller.one(Kind.HISTORY)
            await asyncio.sleep(max(0.0, pause - (time.monotonic() - began)))
        caller.close()

    async def flood() -> None:
        until = time.monotonic() + seconds
        await asyncio.gather(*(connection(number, until) for number in range(CONNECTIONS)))

    asyncio.run(flood())


@benchmark(name="fairness", target=1.3)
def fairness() -> Measured:
    """Ask as a polite partner, alone and while another one floods, in turns; compare the p99."""
    with (
        tempfile.TemporaryDirectory(prefix="mes-storage-bench-") as folder,
        open_bench(Path(folder) / "platform") as bench,
    ):
        partners = {"atelier-nord": Role.PARTNER, "loud": Role.PARTNER}
        keys = create_all(bench.platform.topology(), partners)
        asking = {"Authorization": f"Bearer {keys['loud']}"}
        wait_until(
            lambda: httpx.get(f"{bench.url}/v1/usage", headers=asking).status_code == 200, timeout_seconds=30
        )
        bench.settle()  # or else the first who is asked pays for the pricing of what was ordered
        alone: list[float] = []
        beside: list[float] = []
        for _ in range(ROUNDS):
            alone += _ask_politely(bench, keys["atelier-nord"])
            with _flooded(bench, keys["loud"]):
                beside += _ask_politely(bench, keys["atelier-nord"])
    quiet, loud = percentile(alone, 99) * 1e3, percentile(beside, 99) * 1e3
    return Measured(
        loud / quiet,
        f"p99 {loud:.1f} ms beside {TIMES_THE_LIMIT} times the limit from {CONNECTIONS} connections, "
        f"{quiet:.1f} ms alone; medians {median(beside) * 1e3:.1f} and {median(alone) * 1e3:.1f} ms",
    )


def _ask_politely(bench: Bench, key: str) -> list[float]:
    """Ask for one's own orders, below one's limits; return how long each answer took."""
    planned = arrivals(lambda _: POLITE_PER_SECOND, seconds=ROUND_SECONDS, seed=1, mix={Kind.HISTORY: 1.0})
    found = asyncio.run(
        Client(bench.url, bench.order_ids, dict.fromkeys(Role, key)).run(planned, seconds=ROUND_SECONDS)
    )
    statuses = Counter(answer.status for answer in found.answers)
    assert statuses.keys() == {200}, statuses
    return [answer.seconds for answer in found.answers]


@contextmanager
def _flooded(bench: Bench, key: str) -> Iterator[None]:
    """Have another process flood the MES during the block."""
    asked = (bench.url, key, bench.order_ids, ROUND_SECONDS + 4)
    flood = multiprocessing.get_context("spawn").Process(target=_flood_service, args=asked)
    flood.start()
    time.sleep(2.0)  # until it has started, and used up what it may ask for at once
    yield
    flood.join()
