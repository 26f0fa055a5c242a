"""How many workers there are: by cores, memory and queue."""

import asyncio
import sys
from asyncio.subprocess import PIPE
from importlib.resources import files
from pathlib import Path

import pytest
from prometheus_client import REGISTRY, generate_latest

from app.flow.turns import NEWCOMER_STEP, STEP, ShardTurns, next_position
from app.pricing.supervisor import (
    FleetMetrics,
    Room,
    Supervisor,
    SupervisorOptions,
    listen,
    most_workers,
    workers_for,
)
from app.topology import AUTO, WorkerCount, services_of, worker_count
from sharding.errors import TopologyError
from sharding.topology import Topology

GIB = 2**30


@pytest.mark.parametrize(
    ("wanted", "cores", "memory", "most"),
    [
        (AUTO, 8, 64, 8),
        (AUTO, 8, 24, 4),  # half of the memory is for jobs
        (AUTO, 2, 2, 1),  # one there always is
        (AUTO, 1, 64, 1),
        (5, 1, 2, 5),
    ],
)
def test_auto_is_a_worker_for_each_core_for_which_there_is_memory(
    wanted: WorkerCount, cores: int, memory: int, most: int
) -> None:
    room = Room(cores=cores, memory_bytes=memory * GIB, free_bytes=memory * GIB)
    assert most_workers(wanted, room, job_bytes=3 * GIB) == most


@pytest.mark.parametrize(
    ("jobs", "running", "free", "wanted"),
    [
        (0, 1, 64, 1),
        (3, 1, 64, 3),
        (100, 1, 64, 8),
        (100, 2, 7, 4),  # room for two more
        (100, 2, 0, 2),
        (0, 8, 64, 1),
        (5, 0, 0, 5),  # none runs yet: the first ones are not refused
    ],
)
def test_workers_follow_the_queue(jobs: int, running: int, free: int, wanted: int) -> None:
    room = Room(cores=8, memory_bytes=64 * GIB, free_bytes=free * GIB)
    assert workers_for(jobs, running=running, most=8, room=room, job_bytes=3 * GIB) == wanted


def test_the_machine_has_a_core_and_memory() -> None:
    room = Room.measure()
    assert room.cores >= 1
    assert 0 < room.free_bytes < room.memory_bytes


@pytest.mark.parametrize(
    ("reached", "first", "last", "position"),
    [
        (None, None, None, NEWCOMER_STEP),
        (None, 7.0, None, 7.0 + NEWCOMER_STEP),
        (5.0, 7.0, None, 5.0 + NEWCOMER_STEP),
        (5.0, 7.0, 900.0, 900.0 + STEP),
        (5.0, 7.0, 2.0, 5.0 + NEWCOMER_STEP),
    ],
)
def test_a_position_is_behind_the_senders_last_and_what_was_reached(
    reached: float | None, first: float | None, last: float | None, position: float
) -> None:
    assert next_position(reached=reached, first=first, last=last) == position


def test_a_shard_that_was_empty_has_earned_nothing_by_it() -> None:
    turns = ShardTurns()
    for position in range(100):
        assert turns.order({"a": float(position)}) == ["a"]
        turns.took("a", float(position))
    first = [turns.order({"a": 100.0, "b": 0.25})[0]]
    turns.took("b", 0.25)
    for step in range(1, 9):
        heads = {"a": 100.0, "b": 0.25 + step * NEWCOMER_STEP}
        first.append(turns.order(heads)[0])
        turns.took(first[-1], heads[first[-1]])
        if first[-1] == "a":
            break
    assert first[0] == "b"
    assert first[-1] == "a"
    assert len(first) <= 6


def written(tmp_path: Path, pricing: str) -> Topology:
    path = tmp_path / "topology.toml"
    text = files("app.console").joinpath("topology.toml").read_text()
    path.write_text(text.replace('[services.pricing]\nadmin_port = 9104\nworkers = "auto"\n', pricing))
    return Topology.load(path)


@pytest.mark.parametrize(
    ("pricing", "workers"),
    [
        ("", AUTO),
        ("[services.pricing]\nadmin_port = 9104\n", AUTO),
        ('[services.pricing]\nworkers = "auto"\n', AUTO),
        ("[services.pricing]\nadmin_port = 9104\nworkers = 3\n", 3),
    ],
)
def test_the_topology_says_how_many_workers(tmp_path: Path, pricing: str, workers: WorkerCount) -> None:
    topology = written(tmp_path, pricing)
    assert worker_count(topology, "pricing") == workers
    assert {"shop", "crm", "mes", "board"} == services_of(topology).keys()


@pytest.mark.parametrize("workers", ['"many"', "0", "-1", "1.5", "true", '"3"', "300"])
def test_a_number_of_workers_that_makes_no_sense_is_refused_by_name(tmp_path: Path, workers: str) -> None:
    with pytest.raises(TopologyError, match=r"pricing\.workers"):
        worker_count(written(tmp_path, f"[services.pricing]\nworkers = {workers}\n"), "pricing")


def test_a_shard_whose_positions_have_jumped_does_not_wait_for_all_of_another() -> None:
    """Of a sender's thousand jobs on it all but the last were cancelled."""
    turns = ShardTurns()
    for position in range(3):
        heads = {"a": float(position), "b": float(position)}
        while heads:
            shard = turns.order(heads)[0]
            turns.took(shard, heads.pop(shard))
    came_first = 0
    while turns.order(heads := {"a": 1000.0, "b": 3.0 + came_first})[0] == "b":
        turns.took("b", heads["b"])
        came_first += 1
        assert came_first < 100
    assert came_first <= 20


def test_metrics_that_are_asked_for_again_and_again_do_not_grow() -> None:
    """The family of `python_info` is the same object each time."""
    own = generate_latest(REGISTRY).decode()
    fleet = FleetMetrics(REGISTRY, lambda: {"0": own, "1": own})
    sizes = [sum(len(family.samples) for family in fleet.collect()) for _ in range(3)]
    assert len(set(sizes)) == 1
    assert "worker" not in generate_latest(REGISTRY).decode()


async def test_half_a_line_of_a_worker_that_was_killed_is_no_beat() -> None:
    says = """print('{"ready": true, "metrics": "x"}'); print('{"ready": fal', end="")"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", says, stdout=PIPE)
    assert process.stdout is not None
    beats = [beat async for beat in listen(process.stdout)]
    assert [beat["ready"] for beat in beats] == [True]
    assert await process.wait() == 0


async def test_a_worker_that_cannot_be_started_is_started_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as while the machine has no memory for a process."""
    stop = asyncio.Event()

    async def no_jobs() -> int:
        return 0

    supervisor = Supervisor(no_jobs, SupervisorOptions(workers=1, poll_seconds=0.01, restart_seconds=0.01))
    with monkeypatch.context() as without:
        without.setattr(sys, "executable", "/nothing/python")
        running = asyncio.create_task(supervisor.run(stop))
        while not any(place.failures > 1 for place in supervisor.places.values()):
            await asyncio.sleep(0)
            assert not running.done()
    while not supervisor.children:
        await asyncio.sleep(0)
        assert not running.done()
    stop.set()
    await running
