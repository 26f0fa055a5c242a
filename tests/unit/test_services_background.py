"""Background tasks: what dies is reported and restarted, what is stopped ends."""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from fastapi import APIRouter
from httpx import ASGITransport, AsyncClient

from app.kit.health import Readiness
from app.kit.tasks import Background
from app.serve import make_app, spare_what_stays
from app.settings import Settings
from sharding.topology import Topology
from tests.integration.messaging_rig import until

TEMPLATE = Path("app/console/topology.toml")


async def until_down(background: Background, *, is_down: bool) -> None:
    async def holds() -> bool:
        return bool(background.down) is is_down

    await until(holds)


@pytest.mark.parametrize("dies", [True, False])
async def test_a_task_that_ends_is_reported_and_started_again(dies: bool) -> None:
    starts: list[int] = []

    async def work(stop: asyncio.Event) -> None:
        starts.append(len(starts))
        if len(starts) == 1:
            if dies:
                raise RuntimeError("out of memory")
            return
        await stop.wait()

    async with Background(restart_after_seconds=0.01) as background:
        background.start("relay", work)
        await until_down(background, is_down=True)
        expected = "RuntimeError: out of memory" if dies else "it ended although it was not stopped"
        assert background.down == {"relay": expected}
        await until_down(background, is_down=False)
    assert starts == [0, 1]


async def test_the_block_ends_when_its_tasks_have_ended() -> None:
    finished = False

    async def work(stop: asyncio.Event) -> None:
        nonlocal finished
        await stop.wait()
        await asyncio.sleep(0)
        finished = True

    async with Background() as background:
        background.start("consumer", work)
        await asyncio.sleep(0)
    assert finished


async def test_a_task_that_does_not_stop_is_cancelled() -> None:
    cancelled = False

    async def work(_stop: asyncio.Event) -> None:
        nonlocal cancelled
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled = True
            raise

    async with asyncio.timeout(10), Background(stop_seconds=0.01) as background:
        background.start("deaf", work)
        await asyncio.sleep(0)
    assert cancelled


async def test_health_tells_of_a_task_that_is_down() -> None:
    @asynccontextmanager
    async def parts(background: Background, readiness: Readiness) -> AsyncIterator[None]:
        async def die(_stop: asyncio.Event) -> None:
            raise RuntimeError("out of memory")

        background.start("relay mes_0", die)
        yield

    app = make_app(
        "mes",
        description="",
        settings=Settings(topology=TEMPLATE),
        topology=Topology.load(TEMPLATE),  # nothing is there
        router=APIRouter(),
        statuses={},
        parts=parts,
    )
    async with app.router.lifespan_context(app):
        await until_down(app.state.background, is_down=True)
        async with AsyncClient(transport=ASGITransport(app), base_url="http://mes") as client:
            answer = await client.get("/healthz")
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["missing"] == ["relay mes_0"]
    assert "out of memory" not in answer.text  # internals are for the log


def test_the_collector_passes_over_what_stays() -> None:
    before, stays = gc.get_threshold(), [[number] for number in range(100_000)]
    try:
        gc.set_threshold(700)
        spare_what_stays()
        assert gc.get_freeze_count() > len(stays)
        assert gc.get_objects(generation=2) == []
        assert gc.get_threshold()[0] > 700
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
