"""What docs/explanation/scatter.md shows in Python is run, on two shards."""

import textwrap
from decimal import Decimal
from typing import Any

from sqlalchemy import insert

from app.models.mes import MesOrder
from app.models.status import Channel, Status
from readreplica.token import CausalToken
from sharding.directory import Directory
from sharding.engines import open_cluster
from sharding.sessions import open_sessions
from sharding.shard_map import ShardMap
from sharding.topology import Topology
from tests.acceptance.test_docs import ROOT, fenced


async def test_python_of_the_page_runs_from_top_to_bottom(topology: Topology) -> None:
    async with open_cluster(topology, "directory", role="mes", application_name="test") as directory:
        await Directory(directory.primary, "mes").ensure_map(
            ShardMap.even(["mes_0", "mes_1"], topology.trees["mes"].buckets)
        )
    blocks = fenced(ROOT / "docs" / "explanation" / "scatter.md", "python")
    assert len(blocks) == 5
    body = textwrap.indent("\n".join([*blocks, "return locals()"]), "    ")
    scope: dict[str, Any] = {}
    exec(compile(f"async def main(sessions, token):\n{body}", "scatter.md", "exec"), scope)
    async with open_sessions(topology, role="mes", application_name="test") as sessions:
        token = CausalToken()
        for order_id in range(1, 9):
            ring = {"status": Status.SUBMITTED, "channel": Channel.B2B, "summary": "ring", "version": 1}
            async with sessions.write(order_id) as session:
                row = ring | {"order_id": order_id, "price": Decimal(100 - order_id)}
                await session.execute(insert(MesOrder).values(**row))
            token = token.merge(session.token)
        seen = await scope["main"](sessions, token)
    assert [order.order_id for order in seen["page"].rows] == [8, 7, 6]
    assert [order.order_id for order in seen["following"].rows] == [5, 4, 3]
    assert seen["groups"] == [(Status.SUBMITTED, 8, Decimal("95.5"))]
    assert "counts a value once for each shard that has it" in seen["reason"]
    assert seen["partial"].missing == ()
