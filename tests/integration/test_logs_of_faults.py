"""Faults that no route of a service has, brought about: each leaves its line, with the order."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import select, update

from app.console.demo.shapes import good_shapes
from app.kit.logs import LogFile, configure_logging
from app.log_events import SCHEMA
from app.mes.application import build as build_mes
from app.models.crm import CrmOrder
from app.models.mes import MesOrder, ModelMeasurement, PricingJob
from app.models.status import Channel, Status
from app.orders import CRM, MES, add_order, lock_order
from sharding.engines import open_cluster
from sharding.shard_map import key_of_text
from sharding.topology import Topology
from tests.integration.commit_cutter import Cut, cutter_to
from tests.integration.logs_rig import Line, check_line, read_lines, run_services
from tests.integration.messaging_rig import until
from tests.integration.pricing_rig import Rig, open_rig
from tests.integration.services_rig import client_of, fast_settings
from tests.integration.test_services_flow import somebody_waits_for_a_lock
from tests.integration.test_services_in_doubt import behind
from tests.unit.test_log_lines import end_logging
from tests.unit.test_services_logs import restored

__all__ = ["restored"]

AT = datetime(2026, 3, 1, tzinfo=UTC)
RING = next(good_shapes(seed=5))


def of_order(line: Line, order_id: int) -> None:
    """Check that a line is an error, names its order, and the trace in which it was written."""
    assert (line["log.level"], line["order.id"]) == ("error", str(order_id))
    assert len(str(line["trace.id"])) == 32


async def test_a_commit_that_no_one_answers_for(topology: Topology, tmp_path: Path) -> None:
    order = CrmOrder(order_id=17, status=Status.PRICE_CALCULATED, channel=Channel.B2B, summary="a ring")
    async with (
        open_cluster(topology, "crm", role="crm", application_name="test") as orders,
        orders.write() as session,
    ):
        await add_order(session, CRM, order, actor="test", now=AT)
    async with cutter_to(topology.database("crm").primary.port) as cutter:
        cut = behind(topology, crm=cutter.port)
        async with run_services(cut, tmp_path, "crm") as services:
            cutter.arm(Cut.FOR_GOOD, mark=b"Sara")
            answer = await services.crm.post("/v1/orders/17/approve")
            assert answer.status_code == 503
            line = await services.until_logged("commit_in_doubt", order_id="17")
            cutter.is_open = True
    of_order(line, 17)
    assert (line["service.name"], line["event.outcome"]) == ("crm", "unknown")
    assert (line["url.path"], line["http.response.status_code"]) == ("/v1/orders/17/approve", 503)


@asynccontextmanager
async def held(rig: Rig, order_id: int) -> AsyncIterator[None]:
    """Hold the row of an order, so that its price cannot be written."""
    async with rig.sessions.write(order_id) as session:
        await lock_order(session, MES, order_id)
        yield


async def until_priced(rig: Rig, order_id: int) -> None:
    """Wait until the worker has a price and waits for the order's row."""
    await until(partial(somebody_waits_for_a_lock, rig.sessions.clusters[rig.sessions.shard_of(order_id)]))


async def test_a_worker_that_loses_its_databases_while_it_holds_a_job(
    topology: Topology, tmp_path: Path
) -> None:
    """It can neither renew the lease, nor write the price, nor give the job back."""
    async with open_rig(topology) as rig, cutter_to(topology.database("mes_0").primary.port) as cutter:
        order_id = await rig.submit(RING)
        cut = behind(topology, mes_0=cutter.port, mes_1=cutter.port)
        async with (
            run_services(cut, tmp_path, "pricing", MES_STORAGE_STATEMENT_SECONDS="4") as services,
            held(rig, order_id),
        ):
            await until_priced(rig, order_id)
            cutter.is_open = False
            renewed = await services.until_logged("lease_not_renewed", order_id=str(order_id))
            given = await services.until_logged("job_not_given_back", order_id=str(order_id))
            interrupted = await services.until_logged("pricing_interrupted", order_id=str(order_id))
            cutter.is_open = True
    for line in (renewed, given, interrupted):
        of_order(line, order_id)
        assert line["service.name"] == "pricing"
    assert renewed["trace.id"] == given["trace.id"] == interrupted["trace.id"]


async def test_a_worker_whose_lease_another_one_has_taken(topology: Topology, tmp_path: Path) -> None:
    """It sees that when it settles the order, which is sooner than it looks for its lease twice."""
    async with open_rig(topology) as rig:
        order_id = await rig.submit(RING)
        async with run_services(topology, tmp_path, "pricing") as services:
            async with held(rig, order_id):
                await until_priced(rig, order_id)
                async with rig.sessions.write(order_id) as other:
                    taken = {"leased_by": "another", "attempts": PricingJob.attempts + 1}
                    job = update(PricingJob).where(PricingJob.order_id == order_id)
                    await other.execute(job.values(taken))
            line = await services.until_logged("lease_lost", order_id=str(order_id))
            assert (line["event.outcome"], line["mes_storage.attempt"]) == ("failure", 1)
            assert not services.of("order_settled", order_id=str(order_id))
    assert len(str(line["trace.id"])) == 32


async def test_a_price_that_fails_within_the_worker(topology: Topology, tmp_path: Path) -> None:
    """What is remembered of its model has two sides only."""
    async with open_rig(topology) as rig:
        digest = (await rig.store(RING)).rpartition("/")[2]
        remembered = ModelMeasurement(
            digest_key=key_of_text(digest),
            digest=digest,
            seconds=1.0,
            volume_mm3=100.0,
            area_mm2=100.0,
            extents_mm=[5.0, 5.0],
            polygons=12,
        )
        async with rig.sessions.write(remembered.digest_key) as session:
            session.add(remembered)
        order_id = await rig.submit(RING)
        async with run_services(topology, tmp_path, "pricing") as services:
            line = await services.until_logged("pricing_failed", order_id=str(order_id))
            given = await services.until_logged("job_given_back", order_id=str(order_id))
    of_order(line, order_id)
    assert line["mes_storage.attempt"] == 1
    assert "not enough values" in line["error.message"]
    assert "Traceback" in line["error.stack_trace"]
    assert given["mes_storage.counted"] is True


@pytest.mark.usefixtures("restored")
async def test_a_request_that_names_an_order_of_another_shard(topology: Topology, tmp_path: Path) -> None:
    """One route is added that touches two orders in one unit of work."""
    async with open_rig(topology) as rig:
        own, foreign = (
            next(number for number in range(1, 1000) if rig.sessions.shard_of(number) == shard)
            for shard in ("mes_0", "mes_1")
        )

        async def touch(order_id: int) -> None:
            async with rig.sessions.write(order_id) as session:
                await session.scalar(select(MesOrder.status).where(MesOrder.order_id == foreign))

        app = build_mes(fast_settings(topology), topology)
        app.add_api_route("/v1/orders/{order_id}/touch", touch, methods=["POST"])
        file = LogFile(tmp_path / "mes.log", max_bytes=10**7, kept=0)
        configure_logging("mes", level="info", schema=SCHEMA, file=file)
        async with client_of(app) as mes:
            answer = await mes.post(f"/v1/orders/{own}/touch")
        end_logging()
    assert answer.status_code == 500
    [line] = [each for each in read_lines(tmp_path) if each.get("event.action") == "misrouted"]
    check_line(line)
    assert (line["log.level"], line["order.id"]) == ("error", str(own))
