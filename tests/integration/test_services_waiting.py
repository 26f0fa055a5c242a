"""What the MES does not take yet has a place and an expected time, where its sender looks."""

import pytest
from sqlalchemy import text

from sharding.engines import open_cluster
from sharding.topology import Topology
from tests.integration.services_rig import ok, open_services

LIMIT = """
    INSERT INTO flow_overrides (sender, per_second, until, reason, made_by)
    VALUES ('shop', 0.01, now() + interval '1 hour', 'a test', 'dba')
"""


async def test_an_order_that_waits_for_the_mes_says_where_it_stands(topology: Topology) -> None:
    # One in a hundred seconds, as `mesctl flow limit` orders, so the first goes and the others wait. The same
    # floor, for until the first grant is heard.
    async with (
        open_cluster(topology, "directory", role="mes", application_name="test") as directory,
        directory.write() as session,
    ):
        await session.execute(text(LIMIT))
    async with open_services(topology, flow_floor_per_second=0.01) as services:
        first, second, third = [await services.b2c() for _ in range(3)]
        await services.shows(services.mes, first, "SUBMITTED")
        for place, order_id in ((1, second), (2, third)):
            waiting = ok(await services.shop.get(f"/v1/orders/{order_id}"))["waiting"]
            assert (waiting["place"], waiting["expected_seconds"]) == (place, place * 100)
            assert waiting["since"]
            await services.shows(services.crm, order_id, "SUBMITTED")
        assert ok(await services.shop.get(f"/v1/orders/{first}"))["waiting"] is None


@pytest.mark.parametrize("floor", [1000.0])
async def test_nothing_waits_where_the_mes_takes_all(topology: Topology, floor: float) -> None:
    async with open_services(topology, flow_floor_per_second=floor) as services:
        order_id = await services.b2c()
        await services.shows(services.mes, order_id, "SUBMITTED")
        await services.shows(services.crm, order_id, "SUBMITTED")
        assert ok(await services.shop.get(f"/v1/orders/{order_id}"))["waiting"] is None
        assert ok(await services.crm.get(f"/v1/orders/{order_id}"))["waiting"] is None
