"""Nothing is lost and nothing doubled, whatever is killed, cut off or wiped."""

import asyncio
import random
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from app.messaging.errors import NotYet
from app.messaging.message import Message
from ops.embedded.programs import valkey_server
from ops.embedded.valkey import Valkey
from ops.ports import PortPicker
from readreplica.sessions import WriteSession
from sharding.topology import Topology
from tests.integration.messaging_rig import STREAM, Rig, note, open_rig, running, until


@pytest.fixture
async def rig(topology: Topology) -> AsyncIterator[Rig]:
    async with open_rig(topology) as rig:
        yield rig


async def test_a_wiped_redis_is_filled_again(rig: Rig) -> None:
    await rig.owe(1, "a", "b")
    await rig.relay().turn()
    assert await rig.redis.xlen(STREAM) == 1
    await rig.wipe()

    async with running(rig.relay(), rig.consumer()):
        await rig.until_settled()
        await rig.wipe()  # the consumer is waiting on the group that this removes
        await rig.owe(2, "x")
        await rig.until_settled()

    assert await rig.history() == {1: ["a", "b"], 2: ["x"]}


async def test_a_lost_acknowledgement_is_given_again(rig: Rig) -> None:
    await rig.owe(1, "a")
    await rig.relay().turn()
    async with running(rig.consumer()):
        await until(lambda: _has_acks(rig))
    await rig.wipe()

    async with running(rig.relay(), rig.consumer()):
        await rig.until_settled()

    assert await rig.history() == {1: ["a"]}


async def test_what_a_killed_consumer_had_received_is_sent_again(rig: Rig) -> None:
    await rig.redis.xadd(STREAM, {"received": "long ago"}, id="1-0")
    await rig.owe(1, "a")
    await rig.relay().turn()
    # As by a consumer that was killed before it took them out of the stream.
    await rig.redis.xgroup_create(STREAM, "crm", id="0")
    await rig.redis.xreadgroup("crm", "crm", {STREAM: ">"}, noack=True)

    await rig.make_due()
    await rig.relay().turn()
    assert len(await rig.sent()) == 3

    async with running(rig.relay(), rig.consumer()):
        await rig.until_settled()
    assert await rig.history() == {1: ["a"]}
    assert await rig.sent() == []


async def _has_acks(rig: Rig) -> bool:
    return await rig.redis.xlen("acks:shop") > 0


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_a_storm_loses_nothing_doubles_nothing_and_keeps_the_order(rig: Rig, seed: int) -> None:
    dice = random.Random(seed)
    words = {order_id: [f"{order_id}.{n}" for n in range(6)] for order_id in range(1, 13)}

    async def handle(session: WriteSession, message: Message) -> None:
        await note(session, message)
        if dice.random() < 0.2:
            raise dice.choice([NotYet(message.order_id, "luck"), KeyError("luck"), ConnectionError("luck")])

    async def disturb() -> None:
        for _ in range(10):
            trouble = dice.choice([rig.wipe, rig.cut_relays, rig.cut_consumers])
            await trouble()
            await asyncio.sleep(dice.random() / 10)

    relays, consumers = [rig.relay(), rig.relay()], [rig.consumer(handle), rig.consumer(handle)]
    async with running(*relays, *consumers):
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(disturb())
            for order_id, said in words.items():
                tasks.create_task(rig.owe(order_id, *said))
        await rig.until_settled()

    assert await rig.history() == words
    assert await rig.owed() == []


@pytest.mark.parametrize("point", ["handled", "committed"])
async def test_a_consumer_killed_in_its_work(rig: Rig, topology_path: Path, point: str) -> None:
    await rig.owe(1, "a", "b")
    await rig.relay().turn()
    victim = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.integration.messaging_victim", point, str(topology_path)
    )
    async with asyncio.timeout(30):
        assert await victim.wait() == -signal.SIGKILL
    assert await rig.history() == ({1: ["a"]} if point == "committed" else {})
    assert len(await rig.owed()) == 2

    async with running(rig.relay(), rig.consumer()):
        await rig.until_settled()

    assert await rig.history() == {1: ["a", "b"]}


async def test_redis_goes_away_and_comes_back(topology: Topology, tmp_path: Path) -> None:
    program, port = valkey_server(), PortPicker(random.Random()).pick()
    server = Valkey(folder=tmp_path / "own", pidfile=tmp_path / "own.pid", log=tmp_path / "own.log")
    server.start(program=program, port=port)
    try:
        async with open_rig(topology, redis_url=f"redis://127.0.0.1:{port}/0") as rig:
            async with running(rig.relay(), rig.consumer()):
                await rig.owe(1, "a")
                await rig.until_settled()
                await asyncio.to_thread(server.stop)
                with capture_logs() as logs:

                    async def is_named() -> bool:
                        return any(log["event"] == "message_not_sent" for log in logs)

                    await rig.owe(1, "b")
                    await until(is_named)
                [line] = [log for log in logs if log["event"] == "message_not_sent"]
                assert (line["log_level"], line["order_id"], line["stream"]) == ("error", "1", STREAM)
                assert line["message_type"] == "order.shipped"
                await asyncio.to_thread(server.start, program=program, port=port)
                await rig.until_settled()
            assert await rig.history() == {1: ["a", "b"]}
    finally:
        server.stop()


@pytest.mark.parametrize("part", ["relay", "consumer"])
async def test_a_relay_or_a_consumer_that_is_cancelled_ends(rig: Rig, part: str) -> None:
    dice = random.Random(part)
    for _ in range(60):
        stop = asyncio.Event()
        worker = rig.relay() if part == "relay" else rig.consumer()
        working = asyncio.create_task(worker.run(stop))
        await asyncio.sleep(dice.random() / 20)  # whatever it is at
        working.cancel()
        done, _ = await asyncio.wait([working], timeout=10)
        stop.set()  # or a worker that did not heed it would outlive the test
        await asyncio.wait([working])
        assert done
