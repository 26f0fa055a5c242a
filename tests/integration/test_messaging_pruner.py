"""The inbox is pruned, and no message is handled twice for it."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from sqlalchemy import func, select, update
from structlog.testing import capture_logs

from app.messaging.inbox import Pruner
from app.messaging.message import SENT
from app.messaging.streams import fields_of
from app.models.crm import CrmInbox
from sharding.topology import Topology
from tests.integration.messaging_rig import STREAM, Rig, open_rig, running, signed_copy, until

KEEP = timedelta(days=7)


@pytest.fixture
async def rig(topology: Topology) -> AsyncIterator[Rig]:
    async with open_rig(topology) as rig:
        yield rig


def pruner(rig: Rig, *, batch: int = 1000) -> Pruner:
    return Pruner(
        rig.crm, CrmInbox, database="crm", keep=KEEP, every_seconds=3600, batch=batch, rest_seconds=0
    )


async def prune(rig: Rig, *, batch: int = 1000) -> int:
    return await pruner(rig, batch=batch).prune(asyncio.Event())


async def pass_days(rig: Rig, days: int) -> None:
    """Have everything in the inbox received so many days before."""
    async with rig.crm.write() as session:
        earlier = CrmInbox.received_at - timedelta(days=days)
        await session.execute(update(CrmInbox).values(received_at=earlier))


async def remembered(rig: Rig) -> int:
    async with rig.crm.write() as session:
        return await session.scalar(select(func.count()).select_from(CrmInbox)) or 0


async def copies(rig: Rig, *orders: int) -> dict[str, str]:
    """Owe, send and handle a message of each order; give a copy of the first one."""
    for order_id in orders:
        await rig.owe(order_id, "word")
    await rig.relay().turn()
    first = (await rig.sent())[0]
    async with running(rig.relay(), rig.consumer()):
        await rig.until_settled()
    return first


async def test_what_another_message_has_followed_is_forgotten(rig: Rig) -> None:
    for _ in range(3):
        await copies(rig, 1, 2)
        await pass_days(rig, 1)
    await copies(rig, 3)
    assert await prune(rig) == 0  # nothing is old enough
    await pass_days(rig, 7)
    with capture_logs() as logs:
        assert await prune(rig) == 4
    assert {"pruned": 4, "kept": 3}.items() <= logs[-1].items()
    assert await remembered(rig) == 3
    assert await prune(rig) == 0


async def test_copies_of_what_is_forgotten_are_refused(rig: Rig) -> None:
    forgotten = await copies(rig, 1)
    await pass_days(rig, 1)
    last = await copies(rig, 1)
    await pass_days(rig, 8)
    assert await prune(rig) == 1
    assert await rig.history() == {1: ["word", "word"]}

    # As by a relay or a consumer that slept since then with a copy in its hands.
    slept = signed_copy({**forgotten, SENT: (await _days_ago(rig, 9))})
    assert forgotten["id"] != last["id"]
    with capture_logs() as logs:
        async with running(rig.consumer()):
            for entry in (slept, slept, last):
                await rig.redis.xadd(STREAM, fields_of(entry))

            async def all_are_answered() -> bool:
                told = [log["event"] for log in logs]
                return told.count("message_postponed") == 2 and told.count("message_repeated") == 1

            await until(all_are_answered)
    assert await rig.history() == {1: ["word", "word"]}


async def _days_ago(rig: Rig, days: int) -> str:
    async with rig.crm.write() as session:
        at = (await session.execute(select(func.now() - timedelta(days=days)))).scalar_one()
    return str(at.isoformat())


async def test_what_is_owed_still_is_not_forgotten_however_old(rig: Rig) -> None:
    await copies(rig, 1)
    await pass_days(rig, 1)
    await rig.owe(1, "again")
    await rig.relay().turn()
    async with running(rig.consumer()):
        await until(lambda: _is_handled(rig, 2))
    await rig.wipe()  # and the acknowledgement with it; the relay is away for a month
    await pass_days(rig, 30)
    assert await prune(rig) == 1  # the first one, whose outbox row was gone before the second was sent
    await rig.make_due()
    async with running(rig.relay(), rig.consumer()):
        await rig.until_settled()
    assert await rig.history() == {1: ["word", "again"]}


async def _is_handled(rig: Rig, times: int) -> bool:
    return len((await rig.history()).get(1, [])) == times


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 7, 100])
async def test_slices_of_any_size_leave_the_same(rig: Rig, batch: int) -> None:
    async with rig.crm.write() as session:
        for order_id in range(1, 6):
            for number in range(order_id):
                received = func.now() - timedelta(days=30 - number)
                row = CrmInbox(order_id=order_id, message_id=func.gen_random_uuid(), source="mes_0", type="t")
                row.received_at = received
                session.add(row)
    pruned = await prune(rig, batch=batch)
    # A slice that an order fills alone proves less: it may keep more, and never less.
    assert pruned == 10 if batch > 5 else pruned <= 10
    async with rig.crm.write() as session:
        newest = select(CrmInbox.order_id, func.max(CrmInbox.received_at)).group_by(CrmInbox.order_id)
        left = (await session.execute(newest)).all()
    assert [order_id for order_id, _ in sorted(left)] == [1, 2, 3, 4, 5]


async def test_it_works_beside_the_service_until_it_is_stopped(rig: Rig) -> None:
    for _ in range(2):
        await copies(rig, 1)
        await pass_days(rig, 8)

    async def is_pruned() -> bool:
        return await remembered(rig) == 1

    async with running(pruner(rig)):
        await until(is_pruned)


# In a process of its own: the SDK can be installed once.
TOLD = """
import asyncio, json, sys
from datetime import timedelta
from pathlib import Path
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

reader = InMemoryMetricReader()
metrics.set_meter_provider(MeterProvider([reader]))
from app.messaging.inbox import Pruner
from app.models.crm import CrmInbox
from sharding.engines import open_cluster
from sharding.topology import Topology

async def main():
    topology = Topology.load(Path(sys.argv[1]))
    async with open_cluster(topology, "crm", role="crm", application_name="test") as crm:
        pruner = Pruner(crm, CrmInbox, database="crm", keep=timedelta(days=7), every_seconds=1)
        await pruner.prune(asyncio.Event())
    found = {}
    for scope in reader.get_metrics_data().resource_metrics[0].scope_metrics:
        for metric in scope.metrics:
            if metric.name.startswith("app.inbox."):
                [point] = metric.data.data_points
                found[metric.name] = [dict(point.attributes), point.value]
    print(json.dumps(found))

asyncio.run(main())
"""


async def test_metrics_tell_of_it(rig: Rig, topology: Topology) -> None:
    for _ in range(2):
        await copies(rig, 1)
        await pass_days(rig, 8)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", TOLD, str(topology.path), stdout=asyncio.subprocess.PIPE
    )
    told, _ = await process.communicate()
    assert process.returncode == 0
    found = json.loads(told.decode().splitlines()[-1])
    assert found["app.inbox.pruned"] == [{"database": "crm"}, 1]
    assert found["app.inbox.kept"] == [{"database": "crm"}, 1]
