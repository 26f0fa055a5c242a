"""A service that cannot work says so and what it lacks; one that can says that, whatever is asked of it."""

import asyncio
from time import monotonic

import pytest
from httpx import AsyncClient
from redis.asyncio import Redis
from sqlalchemy import select

from app.crm.application import build as build_crm
from app.kit.health import ANSWER_SECONDS, KEEP_SECONDS, NotReady, Readiness
from app.kit.tasks import Background
from app.mes.application import build as build_mes
from app.models.crm import CrmOrder
from app.shop.application import build as build_shop
from sharding.topology import Topology
from tests.integration.replicas_rig import frozen
from tests.integration.services_rig import Json, client_of, eventually, fast_settings, ok, problem, save_map
from tests.integration.test_services_in_doubt import behind
from tests.servers import PostgresServers, ValkeyServer

pytestmark = pytest.mark.field
NOWHERE = 1


async def missing(service: AsyncClient) -> list[str]:
    """Wait until the service says that something is missing; it is alive all the time."""
    told = await eventually(lambda: service.get("/readyz"), lambda answer: answer.status_code == 503)
    problem(await service.get("/healthz"), 503)
    ok(await service.get("/livez"))
    found: list[str] = told["missing"]
    return found


async def is_ready(service: AsyncClient) -> Json:
    return await eventually(lambda: service.get("/readyz"), lambda answer: answer.status_code == 200)


async def test_a_service_that_can_work(topology: Topology) -> None:
    await save_map(topology)
    for build in (build_shop, build_crm, build_mes):
        async with client_of(build(fast_settings(topology), topology)) as service:
            for path in ("/readyz", "/healthz", "/livez"):
                assert ok(await service.get(path))["status"] == "ok"


async def test_a_database_that_is_away(topology: Topology) -> None:
    gone = behind(topology, crm=NOWHERE)
    async with client_of(build_crm(fast_settings(gone), gone)) as crm:
        assert await missing(crm) == ["database crm"]


async def test_a_database_that_is_frozen(topology: Topology, postgres: PostgresServers) -> None:
    async with client_of(build_crm(fast_settings(topology), topology)) as crm:
        await is_ready(crm)
        with frozen(postgres.primary):
            async with asyncio.timeout(2 * (ANSWER_SECONDS + KEEP_SECONDS) + 1):
                assert await missing(crm) == ["database crm"]
        await is_ready(crm)


async def test_one_shard_of_two_is_a_part_and_both_are_everything(topology: Topology) -> None:
    await save_map(topology)
    gone = behind(topology, mes_1=NOWHERE)
    async with client_of(build_mes(fast_settings(gone), gone)) as mes:
        assert ok(await mes.get("/readyz")) == {"service": "mes", "status": "degraded", "away": ["mes_1"]}
        ok(await mes.get("/healthz"))
    gone = behind(topology, mes_0=NOWHERE, mes_1=NOWHERE)
    async with client_of(build_mes(fast_settings(gone), gone)) as mes:
        assert await missing(mes) == ["database mes_0", "database mes_1"]


async def test_order_ids_that_are_used_up(topology: Topology) -> None:
    app = build_shop(fast_settings(topology), topology)
    async with client_of(app) as shop:
        await is_ready(shop)
        app.state.parts.ids.stop()
        assert await missing(shop) == ["order ids"]


async def test_streams_that_are_none_or_cannot_be_written(topology: Topology, valkey: ValkeyServer) -> None:
    async with (
        Redis.from_url(valkey.url) as redis,
        client_of(build_crm(fast_settings(topology), topology)) as crm,
    ):
        await is_ready(crm)
        for key in ("orders:crm", "acks:crm"):
            await redis.delete(key)
            await redis.set(key, "no stream")
            assert await missing(crm) == ["streams in Redis"]
            await redis.delete(key)
            await is_ready(crm)
        try:
            await redis.config_set("maxmemory", "1")
            assert await missing(crm) == ["streams in Redis"]
        finally:
            await redis.config_set("maxmemory", "0")
        await is_ready(crm)


async def test_redis_that_is_away(topology: Topology, valkey: ValkeyServer) -> None:
    path = topology.path.with_name("away.toml")
    path.write_text(topology.path.read_text().replace(f":{valkey.port}/0", f":{NOWHERE}/0"))
    away = Topology.load(path)
    async with client_of(build_crm(fast_settings(away), away)) as crm:
        assert await missing(crm) == ["streams in Redis"]


async def test_a_pool_that_is_in_use_is_no_database_that_is_away(topology: Topology) -> None:
    app = build_crm(fast_settings(topology), topology)
    async with client_of(app) as crm:
        async with asyncio.TaskGroup() as tasks:
            is_done = asyncio.Event()

            async def hold() -> None:
                async with app.state.parts.orders.write() as session:
                    await session.execute(select(CrmOrder))
                    await is_done.wait()

            holding = [tasks.create_task(hold()) for _ in range(9)]
            await asyncio.sleep(0)
            began = monotonic()
            while monotonic() - began < 2 * KEEP_SECONDS:
                ok(await crm.get("/readyz"))
            is_done.set()
        assert len(holding) == 9


async def test_many_who_ask_cost_no_more_than_one() -> None:
    now, asked = 0.0, 0
    readiness = Readiness("test", clock=lambda: now)

    async def check() -> None:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0)
        if asked == 2:
            raise OSError("away")

    readiness.need("a thing", check)
    async with Background() as background:
        await asyncio.gather(*(readiness.ask(background) for _ in range(100)))
        assert asked == 1
        now = KEEP_SECONDS
        with pytest.raises(NotReady, match="without: a thing"):
            await readiness.ask(background)
        with pytest.raises(NotReady):
            await readiness.ask(background)
        assert asked == 2
