"""Processes that make order ids while their clocks step back, some are frozen, and the directory goes away.

python -m tests.integration.ids_rig TOPOLOGY FOLDER MAKERS IDS_EACH SECONDS    (leaves int64s in FOLDER)

It imports once and forks, so that sixteen processes cost little more than one. The directory is the caller's
matter: whoever runs this takes it away and brings it back meanwhile.
"""

import asyncio
import os
import random
import signal
import sys
import time
from array import array
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from sharding.directory import Directory, open_id_generator
from sharding.engines import open_cluster
from sharding.errors import NodeLeaseExpired
from sharding.ids import IdGenerator, system_clock_ms
from sharding.topology import Topology

WINDOW_SECONDS = 1.0
CHUNK = 1000
GO = "go"
LIVES = 4
STEP_BACK_MS = 5 * 60 * 1000


def faulty_clock(chance: random.Random) -> Callable[[], int]:
    """Make a clock that now and then steps back five minutes, or stands still, and comes back."""
    state = {"until": 0, "step": 0, "held": 0}

    def clock_ms() -> int:
        now = system_clock_ms()
        if now >= state["until"]:
            state["until"] = now + chance.randrange(50, 800)
            state["step"] = chance.choice([0, 0, STEP_BACK_MS])
            state["held"] = chance.choice([0, 0, now])
        return (state["held"] or now) - state["step"]

    return clock_ms


async def make(topology: Topology, folder: Path, *, count: int, seconds: float, number: int) -> "array[int]":
    """Make ids, spread over some seconds, once all makers have their leases."""
    made = array("q")
    clock_ms = faulty_clock(random.Random(number)) if number % 2 else system_clock_ms
    async with open_cluster(topology, "directory", role="mes", application_name="ids") as cluster:
        for life in range(1, LIVES + 1):
            # A new life takes a node that has run out, such as one of a process that is frozen now.
            async with _leased(Directory(cluster.primary, "mes"), number, clock_ms) as ids:
                (folder / f"{number}.leased").touch()
                await _until(folder / GO)
                pause = seconds / (count / CHUNK)
                while len(made) < count * life // LIVES:
                    due = time.monotonic() + pause
                    _make_some(ids, made, min(CHUNK, count - len(made)))
                    await asyncio.sleep(max(0.0, due - time.monotonic()))
    return made


@asynccontextmanager
async def _leased(
    directory: Directory, number: int, clock_ms: Callable[[], int]
) -> AsyncIterator[IdGenerator]:
    """Lease as a service that is started again and again until the directory is there."""
    async with AsyncExitStack() as stack:
        while True:
            opening = open_id_generator(
                directory, holder=f"maker {number}", window_seconds=WINDOW_SECONDS, clock_ms=clock_ms
            )
            try:
                ids = await stack.enter_async_context(opening)
                break
            except SQLAlchemyError:
                await asyncio.sleep(0.1)
        yield ids


async def _until(file: Path) -> None:
    while not file.exists():  # noqa: ASYNC110, ASYNC240 (other processes make it)
        await asyncio.sleep(0.02)


def _make_some(ids: IdGenerator, made: "array[int]", count: int) -> None:
    try:
        for _ in range(count):
            made.append(ids.next_id())
    except NodeLeaseExpired:
        return  # the lease is renewed behind our back, or another is taken


def freeze_some(pids: list[int], *, seconds: float, chance: random.Random) -> None:
    """Stop a quarter of the processes for longer than a lease lasts, again and again."""
    end = time.monotonic() + seconds / 2
    while time.monotonic() < end:
        frozen = chance.sample(pids, len(pids) // 4)
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(WINDOW_SECONDS * 1.7)
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)


async def _until_leased(folder: Path, makers: int) -> None:
    for number in range(makers):
        await _until(folder / f"{number}.leased")


def main(path: str, folder: str, makers: str, count: str, seconds: str) -> int:
    """Fork the makers, freeze some of them, and wait for all; give how many failed."""
    topology, pids = Topology.load(path), []
    for number in range(int(makers)):
        pid = os.fork()
        if pid == 0:
            target = Path(folder) / f"{number}.ids"
            made = asyncio.run(
                make(topology, Path(folder), count=int(count), seconds=float(seconds), number=number)
            )
            target.write_bytes(made.tobytes())
            os._exit(0)
        pids.append(pid)
    asyncio.run(_until_leased(Path(folder), int(makers)))
    (Path(folder) / GO).touch()
    freeze_some(pids, seconds=float(seconds), chance=random.Random(16))
    return sum(os.waitpid(pid, 0)[1] != 0 for pid in pids)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
