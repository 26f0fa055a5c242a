"""Workers as processes: who keeps them, and how fast another takes what a dead one held."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import psutil
import pytest
from prometheus_client import REGISTRY
from sqlalchemy import delete, func, select

from app.console.demo.shapes import Shape, good_shapes
from app.models.mes import PricingJob
from app.models.status import Status
from app.pricing.__main__ import JobCount
from app.pricing.errors import FileTooLarge, SandboxTimedOut, TooLong, TooMuchMemory
from app.pricing.supervisor import FleetMetrics, Room, Supervisor, SupervisorOptions
from tests.integration.messaging_rig import running, until
from tests.integration.pricing_rig import Rig, rig, shared_rig, until_leased

__all__ = ["rig", "shared_rig"]

RINGS = list(islice(good_shapes(seed=11), 40))
# Its reader needs minutes.
SLOW = Shape("slow", "obj", b"v 0 0 0\nv 9 0 0\nv 0 9 0\nv 0 0 9\n" + b"f 1 2 3\nf 1 2 3 4\n" * 1_000_000)
TAKEN_WITHIN_SECONDS = 5.0
START_SECONDS = 30.0
"""How long processes may take to start on a machine that is busy."""


def slow(number: int) -> Shape:
    """Give another slow file."""
    return Shape(f"slow{number}", "obj", b"# %d\n" % number + SLOW.data)


@asynccontextmanager
async def pricing(rig: Rig, *, workers: int | str = "auto", **settings: object) -> AsyncIterator[Process]:
    """Run `python -m app.pricing` with settings."""
    variables = {"topology": rig.topology.path, "pricing_workers": workers, "stop_seconds": 1, **settings}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "app.pricing",
        env=os.environ | {f"MES_STORAGE_{name.upper()}": str(value) for name, value in variables.items()},
        stderr=PIPE,
    )
    reading = asyncio.create_task(process.communicate())
    try:
        yield process
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.terminate()
        await asyncio.wait_for(reading, 60)


def workers_of(process: Process) -> set[int]:
    """Find the workers of a supervisor."""
    found = set()
    with suppress(OSError):
        # psutil reads the status of every process of the machine for this, and tests ask often.
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        for pid in map(int, children.split()):
            with suppress(psutil.NoSuchProcess):
                if "worker" in psutil.Process(pid).cmdline():
                    found.add(pid)
    return found


async def holder_pid(rig: Rig, order_id: int) -> int:
    """Give the pid of the worker that has an order's job."""
    await until_leased(rig, order_id)
    job = await rig.job(order_id)
    assert job is not None
    assert job.leased_by is not None
    return int(job.leased_by.rpartition(":")[2])


async def now(rig: Rig, order_id: int) -> datetime:
    """Read the clock of an order's database."""
    async with rig.sessions.write(order_id) as session:
        moment: datetime = (await session.execute(select(func.clock_timestamp()))).scalar_one()
        return moment


async def until_taken_from(rig: Rig, order_id: int, pid: int) -> datetime:
    """Wait until another worker has a job; give the time, by the database's clock."""

    async def taken() -> bool:
        job = await rig.job(order_id)
        assert job is not None
        return job.leased_by is not None and not job.leased_by.endswith(f":{pid}")

    await until(taken, seconds=START_SECONDS)
    return await now(rig, order_id)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSTOP])
async def test_the_job_of_a_dead_or_frozen_worker_is_taken_within_seconds(
    rig: Rig, signum: signal.Signals
) -> None:
    async with pricing(rig, workers=2) as process:
        await until(partial(_has_workers, process, 2), seconds=START_SECONDS)
        first, second = [await rig.submit(RINGS[number]) for number in range(2)]
        await rig.until_done(first, second)  # both are ready
        order_id = await rig.submit(SLOW)
        pid = await holder_pid(rig, order_id)
        ended = await now(rig, order_id)
        os.kill(pid, signum)
        try:
            taken = await until_taken_from(rig, order_id, pid)
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
    assert (taken - ended).total_seconds() <= TAKEN_WITHIN_SECONDS


async def _has_workers(process: Process, number: int) -> bool:
    return len(workers_of(process)) == number


async def test_a_killed_worker_is_replaced(rig: Rig) -> None:
    async with pricing(rig, workers=1) as process:
        order_id = await rig.submit(RINGS[2])
        await rig.until_done(order_id)
        (pid,) = workers_of(process)
        os.kill(pid, signal.SIGKILL)

        async def replaced() -> bool:
            return len(found := workers_of(process)) == 1 and pid not in found

        await until(replaced, seconds=START_SECONDS)
        order_id = await rig.submit(RINGS[3])
        await rig.until_done(order_id)
        assert (await rig.see(order_id)).order.status is Status.PRICE_CALCULATED


async def test_stopped_in_the_middle_it_gives_all_leases_back(rig: Rig) -> None:
    orders = [await rig.submit(slow(number)) for number in range(3)]
    async with pricing(rig, workers=2) as process:

        async def two_are_held() -> bool:
            jobs = [await rig.job(order_id) for order_id in orders]
            return sum(job is not None and job.leased_by is not None for job in jobs) == 2

        await until(two_are_held, seconds=START_SECONDS)
        process.terminate()
        await asyncio.wait_for(process.wait(), 30)
        assert process.returncode == 0
    left = [await rig.job(order_id) for order_id in orders]
    assert [(job.leased_by, job.attempts) for job in left if job is not None] == [(None, 0)] * 3


async def test_workers_outlive_no_supervisor_and_give_their_jobs_back(rig: Rig) -> None:
    order_id = await rig.submit(SLOW)
    async with pricing(rig, workers=1) as process:
        pid = await holder_pid(rig, order_id)
        process.kill()
        await process.wait()

        async def gone() -> bool:
            return not psutil.pid_exists(pid)

        await until(gone, seconds=START_SECONDS)
    job = await rig.job(order_id)
    assert job is not None
    assert (job.leased_by, job.attempts) == (None, 0)


async def test_two_supervisors_side_by_side_price_each_order_once(rig: Rig) -> None:
    async with pricing(rig, workers=1), pricing(rig, workers=1):
        orders = [await rig.submit(shape) for shape in RINGS[4:16]]
        await rig.until_done(*orders)
    for order_id in orders:
        seen = await rig.see(order_id)
        assert seen.order.status is Status.PRICE_CALCULATED
        assert len([row for row in seen.owed if row.type == "order.price_calculated"]) == 1


async def until_measured(pid: int) -> int:
    """Wait until a worker's zygote has a child at work; give the child's pid."""
    found: list[int] = []

    async def measures() -> bool:
        found[:] = [
            grandchild.pid for child in psutil.Process(pid).children() for grandchild in child.children()
        ]
        return bool(found)

    await until(measures, seconds=START_SECONDS)
    return found[0]


async def test_an_order_cancelled_while_it_is_measured_is_measured_no_longer(rig: Rig) -> None:
    """The child is killed within a second of the cancellation's commit, and nothing is priced."""
    order_id = await rig.submit(SLOW)
    async with pricing(rig, workers=1):
        pid = await holder_pid(rig, order_id)
        child = await until_measured(pid)
        await rig.cancel(order_id)
        async with rig.sessions.write(order_id) as session:
            await session.execute(delete(PricingJob).where(PricingJob.order_id == order_id))
        began = asyncio.get_running_loop().time()

        async def killed() -> bool:
            try:
                # Its zygote was killed with it, and so what reaps it now is no part of this.
                return psutil.Process(child).status() == psutil.STATUS_ZOMBIE
            except psutil.NoSuchProcess:
                return True

        await until(killed, seconds=10)
        assert asyncio.get_running_loop().time() - began <= 1.0
        # It goes on with the next one.
        another = await rig.submit(RINGS[16])
        await rig.until_done(another)
    seen = await rig.see(order_id)
    assert seen.order.status is Status.CANCELLED
    assert not [row for row in seen.owed if row.type == "order.price_calculated"]


def large() -> Shape:
    """Give as many triangles as are read, none of which touch: about a kilobyte of memory each."""
    number = 950_000
    rows = np.zeros(number, dtype=[("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
    rows["corners"] = np.random.default_rng(1).uniform(0, 20, (number, 3, 3))
    return Shape("large", "stl", bytes(80) + number.to_bytes(4, "little") + rows.tobytes())


@pytest.mark.parametrize(
    ("shape", "setting", "value", "reason"),
    [
        (lambda: SLOW, "pricing_cpu_seconds", 1, str(TooLong(1))),
        (large, "pricing_memory_bytes", 512 * 2**20, str(TooMuchMemory())),
        (lambda: SLOW, "pricing_wall_seconds", 0.5, str(SandboxTimedOut())),
        (lambda: SLOW, "pricing_model_bytes", 1000, str(FileTooLarge(len(SLOW.data), 1000))),
    ],
    ids=["time", "memory", "clock", "size"],
)
async def test_each_limit_is_a_setting(
    rig: Rig, shape: Callable[[], Shape], setting: str, value: float, reason: str
) -> None:
    order_id = await rig.submit(shape())
    async with pricing(rig, workers=1, **{setting: value}):
        await rig.until_done(order_id)
    seen = await rig.see(order_id)
    assert (seen.order.status, seen.order.reason) == (Status.REJECTED, reason)


async def test_workers_come_with_a_queue_and_go_without(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MES_STORAGE_TOPOLOGY", str(rig.topology.path))
    monkeypatch.setenv("MES_STORAGE_STOP_SECONDS", "1")
    room = Room(cores=3, memory_bytes=64 * 2**30, free_bytes=32 * 2**30)
    options = SupervisorOptions(poll_seconds=0.1, grow_seconds=0.2, shrink_seconds=0.5)
    supervisor = Supervisor(JobCount(rig.sessions), options, measure_room=lambda: room)

    async def runs(number: int) -> bool:
        return len(supervisor.children) == number

    async with running(supervisor):
        await until(partial(runs, 1), seconds=START_SECONDS)
        orders = [await rig.submit(slow(number)) for number in range(5)]
        await until(partial(runs, 3), seconds=START_SECONDS)

        async def all_have_metrics() -> bool:
            samples = {
                (sample.name, sample.labels.get("worker"))
                for family in FleetMetrics(REGISTRY, supervisor.metrics).collect()
                for sample in family.samples
            }
            return {("app_event_loop_lag_seconds", str(number)) for number in range(3)} <= samples

        await until(all_have_metrics, seconds=START_SECONDS)
        for order_id in orders:
            async with rig.sessions.write(order_id) as session:
                await session.execute(delete(PricingJob).where(PricingJob.order_id == order_id))
        await until(partial(runs, 1), seconds=START_SECONDS)
    assert not supervisor.children
