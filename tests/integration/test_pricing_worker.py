"""The worker: from a submitted order to its price or rejection, whatever dies on the way."""

import asyncio
import json
import os
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Self

import pytest
from psycopg import sql
from sqlalchemy import text
from sqlalchemy.exc import NotSupportedError

from app.console.demo.bad_shapes import bad_shapes
from app.console.demo.shapes import Shape, good_shapes
from app.flow.turns import enqueue
from app.models.mes import PricingJob
from app.models.status import Channel, Status
from app.pricing.errors import AttemptsExhausted
from app.pricing.measure import measure
from app.pricing.measurement import Measurement, Outcome
from app.pricing.sandbox import Sandbox, SandboxLimits, Shapes
from app.pricing.tariff import Price, price
from app.topology import files_url
from ops.ports import LOOPBACK
from sharding.topology import Topology
from tests.integration.archive_rig import shard
from tests.integration.messaging_rig import running, until
from tests.integration.pricing_rig import (
    AT,
    SETTLED,
    SOON,
    CountingSandbox,
    Rig,
    rig,
    shared_rig,
    until_leased,
)
from tests.servers import PostgresServers

__all__ = ["rig", "shared_rig"]

RING, PENDANT, *OTHERS = islice(good_shapes(seed=5), 12)
HOLES = next(shape for shape in bad_shapes() if shape.name == "holes")
# The reader's slow way takes much longer than these tests wait.
SLOW = Shape("slow", "obj", b"v 0 0 0\nv 9 0 0\nv 0 9 0\nv 0 0 9\n" + b"f 1 2 3\nf 1 2 3 4\n" * 1_000_000)
SHARDS = ("mes_0", "mes_1")


@pytest.fixture(scope="module")
async def shared_sandbox() -> AsyncIterator[CountingSandbox]:
    async with CountingSandbox(concurrency=4) as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(shared_sandbox: CountingSandbox) -> CountingSandbox:
    shared_sandbox.measured = []
    return shared_sandbox


def expected(shape: Shape, *, quantity: int = 1) -> Price:
    found = measure(shape.data, suffix=shape.suffix)
    assert isinstance(found, Measurement)
    return price(found, material="silver_925", finish="matte", quantity=quantity)


@pytest.mark.parametrize("shard", SHARDS)
async def test_an_order_gets_its_price(rig: Rig, sandbox: Sandbox, shard: str) -> None:
    order_id = await rig.submit(RING, PENDANT, quantity=3, shard=shard)
    (seen,) = await rig.price(rig.worker(sandbox), order_id)
    lines = [expected(RING, quantity=3), expected(PENDANT, quantity=3)]
    assert seen.order.status is Status.PRICE_CALCULATED
    assert seen.order.changed_at == SETTLED
    assert seen.order.price == sum(line.total_eur for line in lines)
    assert [item.unit_price for item in seen.items] == [line.unit_eur for line in lines]
    last = seen.history[-1]
    assert (last.status, last.actor, last.at) == (Status.PRICE_CALCULATED, "pricing", SETTLED)
    message = seen.owed[-1]
    assert (message.type, message.destination) == ("order.price_calculated", "crm")
    assert message.data["price"] == str(seen.order.price)
    assert seen.job is None


async def test_the_shop_hears_of_its_own_orders(rig: Rig, sandbox: Sandbox) -> None:
    order_id = await rig.submit(RING, channel=Channel.B2C)
    (seen,) = await rig.price(rig.worker(sandbox), order_id)
    assert {(row.type, row.destination) for row in seen.owed} == {
        ("order.price_calculated", "crm"),
        ("order.price_calculated", "shop"),
    }


async def test_a_bad_model_rejects_the_order_with_the_reason(rig: Rig, sandbox: Sandbox) -> None:
    order_id = await rig.submit(HOLES)
    (seen,) = await rig.price(rig.worker(sandbox), order_id)
    assert seen.order.status is Status.REJECTED
    assert seen.order.reason is not None
    assert seen.order.reason.startswith("The model has holes: 16 edges")
    assert seen.order.price is None
    assert seen.items[0].unit_price is None
    assert seen.owed[-1].type == "order.rejected"
    assert seen.owed[-1].data["reason"] == seen.order.reason


async def test_what_was_measured_can_be_looked_at_also_if_it_cannot_be_made(
    rig: Rig, sandbox: Sandbox
) -> None:
    good, holes = await rig.submit(RING), await rig.submit(HOLES)
    async with running(rig.worker(sandbox)):
        for order_id in (good, holes):
            (item,) = (await rig.see(order_id)).items

            async def is_shown(key: str = item.model_key) -> bool:
                return await rig.models.read_preview(key, "png") is not None

            await until(is_shown)
            mesh = await rig.models.read_preview(item.model_key, "glb")
            assert mesh is not None
            assert mesh.startswith(b"glTF")


async def test_an_identical_model_is_measured_once(rig: Rig, sandbox: CountingSandbox) -> None:
    """Eight orders at once, on both shards, and one more with a worker that starts later."""
    orders = [await rig.submit(replace(RING, name=f"{n}"), shard=SHARDS[n % 2]) for n in range(8)]
    seen = await rig.price(rig.worker(sandbox), *orders)
    seen += await rig.price(rig.worker(sandbox, holder="later"), await rig.submit(RING))
    assert {one.order.price for one in seen} == {expected(RING).total_eur}
    assert len(sandbox.measured) == 1
    (known,) = await rig.known()
    assert known.digest == sandbox.measured[0]
    assert known.seconds > 0


async def test_a_verdict_on_the_content_is_remembered_with_its_format(
    rig: Rig, sandbox: CountingSandbox
) -> None:
    # Text may be anything, so that its upload is not refused.
    well_named = next(shape for shape in (RING, PENDANT, *OTHERS) if shape.suffix == "obj")
    misnamed = replace(well_named, suffix="stl")
    for _ in range(2):
        (seen,) = await rig.price(rig.worker(sandbox), await rig.submit(misnamed))
        assert seen.order.status is Status.REJECTED
    assert len(sandbox.measured) == 1
    (seen,) = await rig.price(rig.worker(sandbox), await rig.submit(well_named))
    assert seen.order.status is Status.PRICE_CALCULATED


async def test_a_cancelled_order_stays_cancelled(rig: Rig, sandbox: Sandbox) -> None:
    order_id = await rig.submit(RING)
    await rig.cancel(order_id)
    (seen,) = await rig.price(rig.worker(sandbox), order_id)
    assert seen.order.status is Status.CANCELLED
    assert seen.order.price is None
    assert not [row for row in seen.owed if row.type != "order.submitted"]


async def test_no_answer_is_tried_again_and_not_remembered(rig: Rig) -> None:
    order_id = await rig.submit(SLOW)
    async with CountingSandbox(limits=SandboxLimits(wall_seconds=0.2)) as sandbox:
        (seen,) = await rig.price(rig.worker(sandbox), order_id)
        assert len(sandbox.measured) == 3
    assert seen.order.status is Status.REJECTED
    assert seen.order.reason == "The model could not be measured in time. Simplify it and order again."
    assert await rig.known() == []


async def test_an_order_that_kills_its_workers_is_rejected_unseen(rig: Rig, sandbox: CountingSandbox) -> None:
    order_id = await rig.submit(RING)
    await rig.set_job(order_id, attempts=3)
    (seen,) = await rig.price(rig.worker(sandbox), order_id)
    assert seen.order.status is Status.REJECTED
    assert seen.order.reason == str(AttemptsExhausted(3))
    assert sandbox.measured == []


async def test_a_model_that_is_lost_is_looked_for_three_times(rig: Rig, sandbox: CountingSandbox) -> None:
    order_id = await rig.submit(OTHERS[0])
    file_of(rig, await rig.store(OTHERS[0])).unlink()
    (seen,) = await rig.price(rig.worker(sandbox), order_id)
    assert seen.order.status is Status.REJECTED
    assert seen.order.reason is not None
    assert "could not be found" in seen.order.reason
    assert sandbox.measured == []


async def test_an_outage_of_the_file_store_counts_against_nobody(rig: Rig, sandbox: Sandbox) -> None:
    order_id = await rig.submit(OTHERS[1])
    file = file_of(rig, await rig.store(OTHERS[1]))
    file.unlink()
    file.symlink_to(file)  # the store answers with an error that is not "there is none"
    pace = replace(SOON, retry_seconds=0.01)
    async with running(rig.worker(sandbox, options=pace)):
        for _ in range(6):
            await until_leased(rig, order_id)
        # In one step: a file that is not written yet is an empty one.
        whole = file.with_name("whole")
        whole.write_bytes(OTHERS[1].data)
        whole.replace(file)
        await rig.until_done(order_id)
    assert (await rig.see(order_id)).order.status is Status.PRICE_CALCULATED


def file_of(rig: Rig, key: str) -> Path:
    return Path(files_url(rig.topology).removeprefix("file://")) / key


async def test_a_shard_that_is_away_does_not_hold_up_the_others(
    rig: Rig, sandbox: Sandbox, postgres: PostgresServers
) -> None:
    away, there = [await rig.submit(shape, shard=s) for shape, s in zip(OTHERS[2:4], SHARDS, strict=True)]
    worker = rig.worker(sandbox)
    with closed(postgres, rig.topology.databases["mes_0"].dbname):
        async with running(worker):
            await rig.until_done(there)
    (seen,) = await rig.price(worker, away)
    assert seen.order.status is Status.PRICE_CALCULATED


async def test_a_shard_that_does_not_answer_does_not_hold_up_the_others(rig: Rig, sandbox: Sandbox) -> None:
    late, there = [await rig.submit(shape, shard=s) for shape, s in zip(OTHERS[4:6], SHARDS, strict=True)]
    worker = rig.worker(sandbox)
    async with rig.sessions.clusters["mes_0"].write() as session:
        await session.execute(text("LOCK TABLE pricing_jobs"))
        async with running(worker):
            await rig.until_done(there)
    (seen,) = await rig.price(worker, late)
    assert seen.order.status is Status.PRICE_CALCULATED


async def test_leases_that_expired_reject_no_order_as_soon_as_attempts(rig: Rig, sandbox: Sandbox) -> None:
    """Its worker could not reach the database three times, as it could while it was priced three times."""
    order_id = await rig.submit(RING)
    await rig.set_job(order_id, attempts=3, expired_leases=2, leased_by="away", lease_expires_at=AT)
    (seen,) = await rig.price(rig.worker(sandbox), order_id)
    assert seen.order.status is Status.PRICE_CALCULATED


async def test_an_order_whose_leases_all_expired_is_rejected_in_the_end(rig: Rig, sandbox: Sandbox) -> None:
    order_id = await rig.submit(RING)
    await rig.set_job(order_id, attempts=10, expired_leases=9, leased_by="dead", lease_expires_at=AT)
    (seen,) = await rig.price(rig.worker(sandbox), order_id)
    assert seen.order.reason == str(AttemptsExhausted(10))


async def test_an_order_with_a_price_keeps_it_where_no_new_one_is_found(rig: Rig, sandbox: Sandbox) -> None:
    order_id = await rig.submit(RING)
    (priced,) = await rig.price(rig.worker(sandbox), order_id)
    async with rig.sessions.write(order_id) as session:
        await enqueue(session, PricingJob(order_id=order_id, sender="partner atelier-nord"))
    await rig.set_job(order_id, attempts=10, expired_leases=9, leased_by="dead", lease_expires_at=AT)
    (seen,) = await rig.price(rig.worker(sandbox), order_id)
    assert (seen.order.status, seen.order.price) == (Status.PRICE_CALCULATED, priced.order.price)
    [told] = [row for row in seen.owed if row.type == "order.price_renewed"]
    before = next(row for row in priced.owed if row.type == "order.price_calculated")
    assert told.data == before.data


@contextmanager
def closed(postgres: PostgresServers, dbname: str) -> Iterator[None]:
    """Let nobody into a database, and throw out who is there."""
    with postgres.primary.connect() as connection:
        change = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}")
        connection.execute(change.format(sql.Identifier(dbname), sql.SQL("false")))
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [dbname]
        )
        try:
            yield
        finally:
            connection.execute(change.format(sql.Identifier(dbname), sql.SQL("true")))


@pytest.mark.parametrize(
    "refused",
    [
        "UPDATE ON pricing_jobs FOR EACH ROW WHEN (NEW.leased_by IS NOT NULL)",
        "INSERT ON order_events FOR EACH ROW",
    ],
    ids=["lease", "settle"],
)
async def test_a_statement_that_the_server_does_not_support_ends_the_worker(
    rig: Rig, sandbox: Sandbox, refused: str
) -> None:
    """It is no outage, which the worker would wait out, and no fault of the order, which it would reject."""
    order_id = await rig.submit(RING, shard="mes_0")
    with unsupported(rig.topology, refused):
        worker = rig.worker(sandbox)
        with pytest.raises(ExceptionGroup) as ended:
            await asyncio.wait_for(worker.run(asyncio.Event()), 60)
    assert ended.group_contains(NotSupportedError, match="feature_not_supported")
    seen = await rig.see(order_id)
    assert seen.order.status is Status.SUBMITTED
    assert seen.job is not None
    assert (seen.job.leased_by, seen.job.attempts) == (None, 0)


@contextmanager
def unsupported(topology: Topology, refused: str) -> Iterator[None]:
    """Have a shard refuse something as a server that cannot do it: `refused` is what a trigger is behind."""
    raising = "RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE feature_not_supported; END'"
    with shard(topology, role="mes_owner") as owner:
        with owner.begin() as connection:
            connection.exec_driver_sql(f"CREATE FUNCTION unsupported() {raising}")
            connection.exec_driver_sql(f"CREATE TRIGGER t BEFORE {refused} EXECUTE FUNCTION unsupported()")
        try:
            yield
        finally:
            with owner.begin() as connection:
                connection.exec_driver_sql("DROP FUNCTION unsupported CASCADE")


async def test_a_worker_that_stops_gives_its_jobs_back(rig: Rig) -> None:
    order_id = await rig.submit(SLOW)
    async with Sandbox() as sandbox:
        async with running(rig.worker(sandbox)):
            await until_leased(rig, order_id)
        job = await rig.job(order_id)
    assert job is not None
    assert (job.leased_by, job.attempts) == (None, 0)


async def test_a_worker_that_lost_its_lease_changes_nothing(rig: Rig, sandbox: Sandbox) -> None:
    """The slow worker's verdict comes when the order is settled already."""
    order_id = await rig.submit(SLOW)
    async with Sandbox(limits=SandboxLimits(cpu_seconds=2)) as slow:
        async with running(rig.worker(slow, options=replace(SOON, stop_seconds=30))):
            await until_leased(rig, order_id)
            await rig.set_job(order_id, attempts=7)
        seen = await rig.see(order_id)
    assert seen.order.status is Status.SUBMITTED
    assert seen.job is not None
    assert seen.job.attempts == 7


class HeldSandbox(Sandbox):
    """A sandbox that measures when it is let."""

    async def __aenter__(self) -> Self:
        self.let = asyncio.Event()
        return await super().__aenter__()

    async def measure(self, path: Path, *, suffix: str, shapes: Shapes | None = None) -> Outcome:
        await self.let.wait()
        return await super().measure(path, suffix=suffix, shapes=shapes)


async def test_a_worker_at_work_keeps_its_job_beyond_the_lease(rig: Rig, sandbox: CountingSandbox) -> None:
    pace, measured = replace(SOON, lease_seconds=3.0, stop_seconds=30), [*sandbox.measured]
    order_id = await rig.submit(RING)

    async def ends() -> datetime:
        job = await rig.job(order_id)
        assert job is not None
        assert (job.leased_by, job.attempts) == ("at work", 1)
        return job.lease_expires_at

    async def is_renewed(before: datetime) -> bool:
        return await ends() > before

    async with HeldSandbox() as held, running(rig.worker(held, holder="at work", options=pace)):
        await until_leased(rig, order_id)
        async with running(rig.worker(sandbox, holder="idle", options=pace)):
            for _ in range(3):
                await until(partial(is_renewed, await ends()))
            held.let.set()
            await rig.until_done(order_id)
    assert sandbox.measured == measured


@asynccontextmanager
async def process(rig: Rig, **environment: str) -> AsyncIterator[Process]:
    """Run `python -m app.pricing`."""
    worker = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "app.pricing",
        env=os.environ | {"MES_STORAGE_TOPOLOGY": str(rig.topology.path)} | environment,
        stderr=PIPE,
    )
    try:
        yield worker
    finally:
        if worker.returncode is None:
            worker.kill()
        await worker.communicate()


async def test_the_process_prices_logs_json_and_ends_in_good_order(rig: Rig) -> None:
    order_id = await rig.submit(RING)
    async with process(rig) as worker:
        await rig.until_done(order_id)
        worker.send_signal(signal.SIGTERM)
        _, logged = await asyncio.wait_for(worker.communicate(), 20)
    assert worker.returncode == 0
    lines = [json.loads(line) for line in logged.splitlines()]
    (settled,) = (line for line in lines if line["event"]["action"] == "order_settled")
    assert settled["service"]["name"] == "pricing"
    assert settled["order"]["id"] == str(order_id)
    assert settled["mes_storage"]["verdict"]["price"] == str(expected(RING).total_eur)


async def test_a_second_process_on_a_host_prices_without_its_admin_port(rig: Rig) -> None:
    path = rig.topology.path.with_name("second.toml")
    with socket.create_server((LOOPBACK, 0)) as first:
        port = first.getsockname()[1]
        path.write_text(f"{rig.topology.path.read_text()}[services.pricing]\nadmin_port = {port}\n")
        order_id = await rig.submit(RING)
        async with process(rig, MES_STORAGE_TOPOLOGY=str(path)) as worker:
            await rig.until_done(order_id)
            worker.send_signal(signal.SIGTERM)
            _, logged = await asyncio.wait_for(worker.communicate(), 20)
    assert worker.returncode == 0
    lines = [json.loads(line) for line in logged.splitlines()]
    (taken,) = (line for line in lines if line["event"]["action"] == "admin_port_taken")
    assert f"services.pricing.admin_port: port {port}" in taken["error"]["message"]


async def test_a_killed_process_loses_no_order(rig: Rig) -> None:
    order_id = await rig.submit(SLOW)
    async with process(rig, MES_STORAGE_STOP_SECONDS="1") as supervisor:
        await until_leased(rig, order_id)
        supervisor.kill()
        await supervisor.wait()
    assert await rig.job(order_id) is not None
    async with Sandbox(limits=SandboxLimits(cpu_seconds=1)) as sandbox:
        async with asyncio.timeout(60):  # its worker has ended by itself
            (seen,) = await rig.price(rig.worker(sandbox), order_id)
    assert seen.order.status is Status.REJECTED
    assert seen.order.reason is not None
    assert seen.order.reason.startswith("The model is too complex: measuring it took more than 1 s.")


async def test_a_wrong_configuration_is_one_line_and_status_2(rig: Rig, tmp_path: Path) -> None:
    async with process(rig, MES_STORAGE_TOPOLOGY=str(tmp_path / "none.toml")) as worker:
        _, said = await worker.communicate()
    assert worker.returncode == 2
    (line,) = said.decode().splitlines()
    assert line.startswith("pricing: none.toml")
