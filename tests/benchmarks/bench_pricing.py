"""What pricing costs, and whom it lets wait for others."""

import asyncio
import os
import sys
import time
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import count
from statistics import median

import trimesh

from app.console.demo.shapes import Shape
from sharding.topology import Topology
from tests.benchmarks.harness import Measured, benchmark, platform
from tests.integration.pricing_rig import Rig, open_rig

CROWD = 1000
CROWD_MODELS = 120
"""The first ones of the crowd have a model each; more than these are not reached meanwhile."""
SAMPLES = 7


def rings() -> Iterator[Shape]:
    """Yield rings of about 40,000 triangles, no two of which are alike in shape."""
    for number in count():
        ring = trimesh.creation.torus(
            major_radius=9 + number * 0.013,
            minor_radius=1.5 + number * 0.007,
            major_sections=200,
            minor_sections=100,
        )
        yield Shape(f"ring{number}", "stl", bytes(ring.export(file_type="stl")))


@asynccontextmanager
async def workers(topology: Topology) -> AsyncIterator[None]:
    """Run `python -m app.pricing`, with as many workers as it finds room for."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "app.pricing",
        env=os.environ | {"MES_STORAGE_TOPOLOGY": str(topology.path), "MES_STORAGE_STOP_SECONDS": "1"},
        stderr=DEVNULL,
    )
    try:
        yield
    finally:
        process.terminate()
        await process.wait()


async def seconds_until_priced(rig: Rig, ring: Shape, sender: str) -> float:
    """Return how long a lone job of a sender takes from its submission to its price."""
    began = time.perf_counter()
    order_id = await rig.submit(ring, partner=sender)
    while await rig.job(order_id) is not None:  # noqa: ASYNC110  # another process prices it
        await asyncio.sleep(0.01)
    return time.perf_counter() - began


@benchmark(name="price_fairness", target=2)
async def price_fairness() -> Measured:
    """Submit to priced of a lone job while another sender has 1,000, and without those."""
    ring = rings()
    with platform() as topology:
        async with open_rig(topology) as rig, workers(topology):
            await seconds_until_priced(rig, next(ring), "first")  # the libraries are loaded
            alone = [
                await seconds_until_priced(rig, next(ring), f"lone {number}") for number in range(SAMPLES)
            ]
            models = [await rig.store(next(ring)) for _ in range(CROWD_MODELS)]
            await rig.submit_many([models[number % len(models)] for number in range(CROWD)], partner="many")
            beside = [
                await seconds_until_priced(rig, next(ring), f"late {number}") for number in range(SAMPLES)
            ]
    both = f"{median(beside):.2f} s beside {CROWD}, {median(alone):.2f} s alone, medians of {SAMPLES}"
    return Measured(median(beside) / median(alone), f"submit to priced: {both}; worst {max(beside):.2f} s")
