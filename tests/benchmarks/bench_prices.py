"""A price is computed once: by one process of several, and not again for a piece in another file."""

import asyncio
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from itertools import permutations
from math import cos, sin, tau
from pathlib import Path
from statistics import median
from time import perf_counter

from sqlalchemy import delete

from app.console.demo import shapes
from app.models.mes import ModelMeasurement, ModelShape
from app.pricing.cache import MeasurementCache, ShapeIndex
from app.pricing.measurement import Measurement, Outcome
from app.pricing.sandbox import Sandbox
from sharding.sessions import ShardedSessions, open_sessions
from sharding.topology import Topology
from tests.benchmarks.harness import Measured, benchmark, platform
from tests.integration.services_rig import save_map

PROCESSES = 4
CALLERS = 250
FORMATS = ("stl", "obj", "3mf")
ROUNDS = 3


@asynccontextmanager
async def _callers(topology: Topology, digest: str, *mode: str) -> AsyncIterator[Process]:
    program = [sys.executable, "-m", "tests.integration.measuring_callers"]
    process = await asyncio.create_subprocess_exec(
        *(*program, str(topology.path), digest, str(CALLERS), *mode), stdin=PIPE, stdout=PIPE
    )
    try:
        await _line(process)
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def _line(process: Process) -> bytes:
    assert process.stdout is not None
    return await process.stdout.readline()


async def _answers(processes: list[Process]) -> tuple[int, int]:
    """Let them ask; return how many measured, and how many callers have their answer."""
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"\n")
    said = [(await process.communicate())[0].split(b"\n") for process in processes]
    lines = [line for each in said for line in each]
    return lines.count(b"measuring"), CALLERS * sum(line.startswith(b"answers") for line in lines)


@benchmark(name="price_recompute", target=1, unit="measurements")
async def price_recompute() -> Measured:
    """A thousand callers in four processes; and again, with the one that measures killed."""
    with platform() as topology:
        await save_map(topology)
        async with AsyncExitStack() as stack:
            all_ = [await stack.enter_async_context(_callers(topology, "a.stl")) for _ in range(PROCESSES)]
            measured, answered = await _answers(all_)
        async with AsyncExitStack() as stack:
            first = await stack.enter_async_context(_callers(topology, "b.stl", "hold"))
            others = [
                await stack.enter_async_context(_callers(topology, "b.stl")) for _ in range(PROCESSES - 1)
            ]
            assert first.stdin is not None
            first.stdin.write(b"\n")
            await _line(first)
            asking = asyncio.create_task(_answers(others))
            first.kill()
            again, left = await asking
    lost = CALLERS * (2 * PROCESSES - 1) - answered - left
    detail = f"{answered:,} callers, {PROCESSES} processes; {lost} without an answer"
    return Measured(max(measured, again) + lost, f"{detail}; the measuring one killed: {again} more")


def _ring() -> dict[str, bytes]:
    """Return a ring of 500,000 triangles in each format."""
    section = [(10 + cos(tau * step / 50), 2 * sin(tau * step / 50)) for step in range(50)]
    mesh = shapes.sweep(lambda _: section, segments=5000)
    return {"stl": shapes.stl_binary(mesh), "obj": shapes.obj(mesh), "3mf": shapes.threemf([mesh])}


class _Files:
    """The ring's files, measured as a worker measures them: looked up, in the sandbox, and kept."""

    def __init__(self, sessions: ShardedSessions, sandbox: Sandbox, folder: Path) -> None:
        self._sessions, self._sandbox, self._folder = sessions, sandbox, folder
        for suffix, data in _ring().items():
            (folder / f"ring.{suffix}").write_bytes(data)

    async def seconds(self, suffix: str) -> float:
        """Return how long the outcome of a file took."""
        start = perf_counter()
        cache = MeasurementCache(self._sessions)
        outcome = await cache.get_or_measure(f"ring.{suffix}", partial(self._measure, suffix))
        assert isinstance(outcome, Measurement)
        return perf_counter() - start

    async def _measure(self, suffix: str) -> Outcome:
        path = self._folder / f"ring.{suffix}"
        return await self._sandbox.measure(path, suffix=suffix, shapes=ShapeIndex(self._sessions))

    async def forget(self) -> None:
        """Forget what was measured."""
        for cluster in self._sessions.clusters.values():
            async with cluster.write() as session:
                await session.execute(delete(ModelMeasurement))
                await session.execute(delete(ModelShape))


@asynccontextmanager
async def _files() -> AsyncIterator[_Files]:
    with platform() as topology, tempfile.TemporaryDirectory() as folder:
        await save_map(topology)
        async with (
            open_sessions(topology, role="mes", application_name="bench") as sessions,
            Sandbox() as sandbox,
        ):
            files = _Files(sessions, sandbox, Path(folder))
            await files.seconds("stl")  # starts the zygote
            yield files


@benchmark(name="price_reuse", target=0.2)
async def price_reuse() -> Measured:
    """The ring in a second format, by the time of the first: all six pairs, of which the worst counts."""
    ratios: dict[str, list[float]] = {}
    async with _files() as files:
        for _ in range(ROUNDS):
            for first, second in permutations(FORMATS, 2):
                await files.forget()
                measured = await files.seconds(first)
                ratios.setdefault(f"{first} then {second}", []).append(await files.seconds(second) / measured)
    medians = {pair: median(found) for pair, found in ratios.items()}
    return Measured(
        max(medians.values()), ", ".join(f"{pair} {ratio:.2f}" for pair, ratio in medians.items())
    )


@benchmark(name="price_reuse_bytes", target=0.05)
async def price_reuse_bytes() -> Measured:
    """The same bytes again, by the time of the first."""
    ratios = []
    async with _files() as files:
        for suffix in FORMATS * ROUNDS:
            await files.forget()
            measured = await files.seconds(suffix)
            ratios.append(await files.seconds(suffix) / measured)
    return Measured(median(ratios), f"a ring of 500,000 triangles, {', '.join(FORMATS)}")
