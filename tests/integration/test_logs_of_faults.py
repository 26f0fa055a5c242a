"""Faults that no route of a service has, brought about: each leaves its line, with the order."""

from pathlib import Path

import pytest
from sqlalchemy import select

from app.kit.logs import LogFile, configure_logging
from app.log_events import SCHEMA
from app.mes.application import build as build_mes
from app.models.mes import MesOrder
from sharding.topology import Topology
from tests.integration.logs_rig import check_line, read_lines
from tests.integration.pricing_rig import open_rig
from tests.integration.services_rig import client_of, fast_settings
from tests.unit.test_log_lines import end_logging
from tests.unit.test_services_logs import restored

__all__ = ["restored"]


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
