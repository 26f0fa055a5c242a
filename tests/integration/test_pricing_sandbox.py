"""The sandbox: real processes, real signals, real limits."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from app.console.demo.bad_shapes import bad_shapes
from app.console.demo.shapes import Shape, good_shapes, obj, round_ring, stl_binary, threemf
from app.pricing import sandbox as sandboxing
from app.pricing.errors import SandboxUnavailable
from app.pricing.measurement import Measurement, Outcome, Unmeasurable
from app.pricing.sandbox import Sandbox, SandboxLimits
from tests.integration.messaging_rig import until

GOOD = list(islice(good_shapes(seed=3), 20))
# Some seconds of pure Python, within all limits of what is read.
SLOW = b"v 0 0 0\nv 9 0 0\nv 0 9 0\nv 0 0 9\n" + b"f 1 2 3\nvn 0 0 1\nvn 0 0 1\n" * 999_999


@pytest.fixture(scope="module")
async def sandbox() -> AsyncIterator[Sandbox]:
    """One sandbox for all files: none of them may spoil it for the next."""
    async with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    path = tmp_path / "slow.obj"
    path.write_bytes(SLOW)
    return path


async def measure(sandbox: Sandbox, shape: Shape, folder: Path) -> Outcome:
    path = folder / f"{shape.name}.{shape.suffix}"
    path.write_bytes(shape.data)
    return await sandbox.measure(path, suffix=shape.suffix)


async def assert_still_works(sandbox: Sandbox, folder: Path) -> None:
    assert isinstance(await measure(sandbox, GOOD[0], folder), Measurement)


def zygotes(of: int | None = None) -> list[psutil.Process]:
    """The zygotes of a process, by default this one."""
    children = psutil.Process(of).children()
    return [child for child in children if "app.pricing.zygote" in " ".join(child.cmdline())]


async def child_at_work(of: int | None = None) -> psutil.Process:
    """Wait for a child that measures."""
    found: list[psutil.Process] = []

    async def appeared() -> bool:
        found[:] = [child for zygote in zygotes(of) for child in zygote.children()]
        return bool(found)

    await until(appeared, seconds=120)
    return found[0]


async def gone(*processes: psutil.Process) -> None:
    async def all_ended() -> bool:
        return not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)

    await until(all_ended, seconds=10)


@pytest.mark.parametrize("shape", GOOD, ids=lambda shape: f"{shape.name}.{shape.suffix}")
async def test_good_files_are_measured(sandbox: Sandbox, shape: Shape, tmp_path: Path) -> None:
    assert isinstance(await measure(sandbox, shape, tmp_path), Measurement)


@pytest.mark.parametrize("shape", bad_shapes(), ids=lambda shape: f"{shape.name}.{shape.suffix}")
async def test_bad_files_get_a_reason_and_do_no_harm(sandbox: Sandbox, shape: Shape, tmp_path: Path) -> None:
    outcome = await measure(sandbox, shape, tmp_path)
    assert isinstance(outcome, Unmeasurable)
    assert outcome.final
    await assert_still_works(sandbox, tmp_path)


async def test_a_file_cannot_make_the_reader_open_another(sandbox: Sandbox, tmp_path: Path) -> None:
    # Whoever opens a pipe that nobody writes to waits for ever.
    os.mkfifo(tmp_path / "trap.mtl")
    data = b"mtllib trap.mtl\nusemtl gold\n" + obj(round_ring(radius_mm=9, wire_mm=2))
    async with asyncio.timeout(20):
        assert isinstance(await measure(sandbox, Shape("trapped", "obj", data), tmp_path), Measurement)


async def test_the_reader_has_none_of_the_workers_secrets(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MES_STORAGE_PASSWORD_MES", "secret")
    before = zygotes()
    async with Sandbox() as sandbox:
        await assert_still_works(sandbox, tmp_path)
        (zygote,) = (process for process in zygotes() if process not in before)
        assert "secret" not in zygote.environ().values()
    await gone(zygote)


@pytest.mark.parametrize("suffix", ["stl", "obj", "3mf"])
async def test_memory_is_limited(suffix: str, tmp_path: Path) -> None:
    ring = round_ring(radius_mm=9, wire_mm=2, segments=400, sides=100)
    data = {"stl": stl_binary(ring), "obj": obj(ring), "3mf": threemf([ring])}[suffix]
    async with Sandbox() as sandbox:
        await assert_still_works(sandbox, tmp_path)
        libraries_bytes = zygotes()[-1].memory_info().vms
    async with Sandbox(limits=SandboxLimits(memory_bytes=libraries_bytes + 24 * 2**20)) as sandbox:
        outcome = await measure(sandbox, Shape("large", suffix, data), tmp_path)
        assert outcome == Unmeasurable(
            reason="The model is too complex to be measured. Reduce the number of polygons."
        )
        await assert_still_works(sandbox, tmp_path)


async def test_processor_time_is_limited(slow: Path, tmp_path: Path) -> None:
    async with Sandbox(limits=SandboxLimits(cpu_seconds=1)) as sandbox:
        outcome = await sandbox.measure(slow, suffix="obj")
        assert outcome == Unmeasurable(
            reason="The model is too complex: measuring it took more than 1 s. Simplify it."
        )
        await assert_still_works(sandbox, tmp_path)


async def test_time_by_the_clock_is_limited_but_may_be_the_machines_fault(slow: Path, tmp_path: Path) -> None:
    async with Sandbox(limits=SandboxLimits(wall_seconds=0.5)) as sandbox:
        outcome = await sandbox.measure(slow, suffix="obj")
        assert isinstance(outcome, Unmeasurable)
        assert not outcome.final
        await assert_still_works(sandbox, tmp_path)


@pytest.mark.parametrize(("signum", "final"), [(signal.SIGKILL, False), (signal.SIGSEGV, True)])
async def test_a_child_that_dies_is_an_answer(
    slow: Path, tmp_path: Path, signum: signal.Signals, final: bool
) -> None:
    async with Sandbox() as sandbox:
        measuring = asyncio.create_task(sandbox.measure(slow, suffix="obj"))
        (await child_at_work()).send_signal(signum)
        outcome = await measuring
        assert isinstance(outcome, Unmeasurable)
        assert outcome.final is final
        await assert_still_works(sandbox, tmp_path)


async def test_a_zygote_that_dies_is_replaced(slow: Path, tmp_path: Path) -> None:
    before = zygotes()
    async with Sandbox() as sandbox:
        measuring = asyncio.create_task(sandbox.measure(slow, suffix="obj"))
        child = await child_at_work()
        (zygote,) = (process for process in zygotes() if process not in before)
        zygote.kill()
        outcome = await measuring
        assert isinstance(outcome, Unmeasurable)
        assert not outcome.final
        await gone(zygote, child)
        await assert_still_works(sandbox, tmp_path)


async def test_a_zygote_that_hangs_is_given_up(
    slow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Sandbox(limits=SandboxLimits(wall_seconds=3)) as sandbox:
        await assert_still_works(sandbox, tmp_path)
        monkeypatch.setattr(sandboxing, "GRACE_SECONDS", 0.5)
        measuring = asyncio.create_task(sandbox.measure(slow, suffix="obj"))
        child = await child_at_work()
        zygote = child.parent()
        assert zygote is not None
        zygote.suspend()
        outcome = await measuring
        assert isinstance(outcome, Unmeasurable)
        assert not outcome.final
        await gone(zygote, child)
        monkeypatch.undo()
        await assert_still_works(sandbox, tmp_path)


async def test_a_cancelled_measurement_leaves_no_process(slow: Path, tmp_path: Path) -> None:
    async with Sandbox() as sandbox:
        measuring = asyncio.create_task(sandbox.measure(slow, suffix="obj"))
        child = await child_at_work()
        zygote = child.parent()
        assert zygote is not None
        measuring.cancel()
        with pytest.raises(asyncio.CancelledError):
            await measuring
        await gone(zygote, child)
        await assert_still_works(sandbox, tmp_path)


async def test_a_killed_worker_leaves_no_process(slow: Path) -> None:
    worker = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.integration.pricing_victim", str(slow)
    )
    try:
        child = await child_at_work(worker.pid)
        zygote = child.parent()
        assert zygote is not None
    finally:
        worker.kill()
        await worker.wait()
    await gone(zygote, child)


async def test_a_span_that_cannot_be_made_costs_no_price(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ValueError("no span")

    monkeypatch.setattr(sandboxing, "tracer", SimpleNamespace(start_span=refuse))
    await assert_still_works(sandbox, tmp_path)


async def test_no_more_zygotes_than_files_at_once(tmp_path: Path) -> None:
    before = zygotes()
    async with Sandbox(concurrency=2) as sandbox:
        outcomes = await asyncio.gather(*(measure(sandbox, shape, tmp_path) for shape in GOOD[:6]))
        assert all(isinstance(outcome, Measurement) for outcome in outcomes)
        assert len(zygotes()) - len(before) == 2


async def test_the_event_loop_runs_on_meanwhile(slow: Path) -> None:
    async with Sandbox(limits=SandboxLimits(cpu_seconds=1)) as sandbox:
        measuring = asyncio.create_task(sandbox.measure(slow, suffix="obj"))
        turns = 0
        while not measuring.done():
            await asyncio.sleep(0.01)
            turns += 1
    assert turns > 20


async def test_a_broken_installation_is_no_fault_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trimesh").mkdir()
    (tmp_path / "trimesh" / "__init__.py").write_text("raise ImportError('no trimesh here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    async with Sandbox() as sandbox:
        with pytest.raises(SandboxUnavailable, match=r"did not start \(exit code 1\)"):
            await measure(sandbox, GOOD[0], tmp_path)
        monkeypatch.undo()
        await assert_still_works(sandbox, tmp_path)


async def test_a_file_that_is_gone_is_the_machines_fault(sandbox: Sandbox, tmp_path: Path) -> None:
    outcome = await sandbox.measure(tmp_path / "gone.stl", suffix="stl")
    assert isinstance(outcome, Unmeasurable)
    assert not outcome.final
