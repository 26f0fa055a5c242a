"""A model is measured once, by however many processes, and a piece that is known in another file is not."""

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import chain

import numpy as np
import pytest
from sqlalchemy import func, select, update

from app.console.demo import shapes
from app.console.demo.shapes import Mesh, Shape
from app.models.mes import MeasurementClaim, ModelMeasurement, ModelShape
from app.models.status import Status
from app.pricing import cache, measurement
from app.pricing.cache import MeasurementCache
from app.pricing.measurement import Outcome, Unmeasurable
from app.pricing.sandbox import Sandbox
from tests.integration.measuring_callers import MEASURED
from tests.integration.messaging_rig import until
from tests.integration.pricing_rig import Rig, rig, shared_rig

__all__ = ["rig", "shared_rig"]

SECTION = [(9.0, -2.0), (10.7, -1.9), (11.1, 0.3), (10.2, 2.1), (9.1, 1.7)]


@asynccontextmanager
async def callers(rig: Rig, digest: str, *, count: int, hold: bool = False) -> AsyncIterator[Process]:
    """Start a process of callers, and wait until it is ready to ask."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.integration.measuring_callers",
        *(str(rig.topology.path), digest, str(count), *(["hold"] if hold else [])),
        stdin=PIPE,
        stdout=PIPE,
    )
    try:
        assert await line(process) == "ready"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def line(process: Process) -> str:
    assert process.stdout is not None
    return (await asyncio.wait_for(process.stdout.readline(), 60)).decode().strip()


def ask(process: Process) -> None:
    assert process.stdin is not None
    process.stdin.write(b"\n")


async def rest(process: Process) -> list[str]:
    assert process.stdout is not None
    return (await asyncio.wait_for(process.stdout.read(), 60)).decode().split("\n")[:-1]


async def claims(rig: Rig) -> int:
    counts = []
    for cluster in rig.sessions.clusters.values():
        async with cluster.write() as session:
            counts.append(await session.scalar(select(func.count()).select_from(MeasurementClaim)) or 0)
    return sum(counts)


async def test_a_thousand_callers_of_four_processes_measure_once(rig: Rig) -> None:
    async with AsyncExitStack() as stack:
        processes = [await stack.enter_async_context(callers(rig, "a.stl", count=250)) for _ in range(4)]
        for process in processes:
            ask(process)
        said = [await rest(process) for process in processes]
    assert sorted(chain.from_iterable(said)) == ["answers 250"] * 4 + ["measuring"]
    assert await claims(rig) == 0
    assert len(await rig.known()) == 1


async def test_when_the_one_that_measures_is_killed_another_one_does(rig: Rig) -> None:
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(callers(rig, "b.stl", count=250, hold=True))
        others = [await stack.enter_async_context(callers(rig, "b.stl", count=250)) for _ in range(3)]
        ask(first)
        assert await line(first) == "measuring"
        for process in others:
            ask(process)
        first.kill()
        said = [await rest(process) for process in others]
    assert sorted(chain.from_iterable(said)) == ["answers 250"] * 3 + ["measuring"]
    assert await claims(rig) == 0


async def test_one_that_is_at_work_keeps_its_claim(rig: Rig) -> None:
    """It renews it: a second cache never measures, however long the first one takes."""
    begun, end = asyncio.Event(), asyncio.Event()

    async def slow() -> Outcome:
        begun.set()
        await end.wait()
        return MEASURED

    async def never() -> Outcome:
        raise AssertionError("it is being measured already")

    first = MeasurementCache(rig.sessions, claim_seconds=0.6)
    other = MeasurementCache(rig.sessions, claim_seconds=0.6)
    measuring = asyncio.create_task(first.get_or_measure("c.stl", slow))
    await begun.wait()
    waiting = asyncio.create_task(other.get_or_measure("c.stl", never))
    before = await expiry(rig)

    async def is_renewed() -> bool:
        return await expiry(rig) > before + timedelta(seconds=1.5)

    await until(is_renewed, seconds=30)
    assert not waiting.done()
    end.set()
    assert await measuring == await waiting == MEASURED


async def expiry(rig: Rig) -> datetime:
    for cluster in rig.sessions.clusters.values():
        async with cluster.write() as session:
            found: datetime | None = await session.scalar(select(MeasurementClaim.expires_at))
            if found is not None:
                return found
    raise AssertionError("there is no claim")


async def test_what_is_not_final_is_left_to_the_next_one(rig: Rig) -> None:
    tried: list[int] = []

    async def busy() -> Outcome:
        tried.append(1)
        return Unmeasurable(reason="too busy", final=False)

    found = await asyncio.gather(
        *(MeasurementCache(rig.sessions).get_or_measure("d.stl", busy) for _ in range(3))
    )
    assert [one for one in found if isinstance(one, Unmeasurable)] == found
    assert (len(tried), await claims(rig), await rig.known()) == (3, 0, [])


async def test_a_new_version_of_the_readers_measures_anew(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    async def first() -> Outcome:
        return MEASURED

    async def second() -> Outcome:
        return replace(MEASURED, polygons=961)

    await MeasurementCache(rig.sessions).get_or_measure("e.stl", first)
    monkeypatch.setattr(cache, "READER", measurement.READER + 1)
    renewed = MeasurementCache(rig.sessions)
    assert await renewed.get_or_measure("e.stl", second) == replace(MEASURED, polygons=961)
    assert await renewed.get_or_measure("e.stl", first) == replace(MEASURED, polygons=961)
    (row,) = await rig.known()
    assert row.reader == measurement.READER + 1


RING: Mesh = shapes.sweep(lambda angle: [(r + 0.2 * np.sin(angle), z) for r, z in SECTION], segments=60)


def in_all_formats() -> Iterator[Shape]:
    """The ring in each format, and in another place."""
    points, faces = RING
    moved = [(x + 31.4, y - 2.7, z + 0.123) for x, y, z in points], faces
    yield Shape("ring", "stl", shapes.stl_binary(RING))
    yield Shape("ascii", "stl", shapes.stl_ascii(moved))
    yield Shape("ring", "obj", shapes.obj(moved))
    yield Shape("ring", "3mf", shapes.threemf([RING]))


async def kept_shapes(rig: Rig) -> list[ModelShape]:
    rows: list[ModelShape] = []
    for cluster in rig.sessions.clusters.values():
        async with cluster.write() as session:
            rows += await session.scalars(select(ModelShape))
    return rows


async def test_a_piece_in_another_file_has_the_price_and_is_not_measured(rig: Rig) -> None:
    """One shape is kept, of the first: what was measured would have been kept as well."""
    async with Sandbox() as sandbox:
        worker = rig.worker(sandbox)
        seen = [(await rig.price(worker, await rig.submit(shape)))[0] for shape in in_all_formats()]
    assert {one.order.status for one in seen} == {Status.PRICE_CALCULATED}
    assert len({one.order.price for one in seen}) == 1
    assert len(await kept_shapes(rig)) == 1
    assert len({(row.volume_mm3, row.area_mm2) for row in await rig.known()}) == 1
    assert len(await rig.known()) == 4


async def test_another_piece_and_another_size_have_their_own_price(rig: Rig) -> None:
    points, faces = RING
    larger = Shape("larger", "obj", shapes.obj(([(1.2 * x, 1.2 * y, 1.2 * z) for x, y, z in points], faces)))
    (x, y, z), *others = points
    other = Shape("other", "obj", shapes.obj(([(x, y, z + 0.05), *others], faces)))
    ring = next(in_all_formats())
    async with Sandbox() as sandbox:
        worker = rig.worker(sandbox)
        seen = [(await rig.price(worker, await rig.submit(shape)))[0] for shape in (ring, larger, other)]
    volumes = sorted(row.volume_mm3 or 0 for row in await rig.known())
    assert len(await kept_shapes(rig)) == 2  # the larger one followed by formula
    assert volumes[-1] == pytest.approx(volumes[0] * 1.2**3, rel=1e-4)
    assert len({one.order.price for one in seen}) == 3


async def test_old_shapes_are_swept_by_new_ones(rig: Rig) -> None:
    old, new, *_ = in_all_formats()
    async with Sandbox() as sandbox:
        worker = rig.worker(sandbox)
        await rig.price(worker, await rig.submit(old))
        for cluster in rig.sessions.clusters.values():
            async with cluster.write() as session:
                past = func.now() - cache.SHAPES_KEPT - timedelta(days=1)
                await session.execute(update(ModelShape).values(measured_at=past, name="gone"))
                await session.execute(update(ModelMeasurement).values(digest="gone"))
        await rig.price(worker, await rig.submit(new))
    assert len(await kept_shapes(rig)) == 1
