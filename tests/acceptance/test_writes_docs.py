"""What docs/explanation/writes-over-shards.md shows in Python is run, on two shards and the directory."""

import textwrap

from sharding.directory import Directory
from sharding.engines import open_cluster
from sharding.sessions import open_sessions
from sharding.shard_map import ShardMap
from sharding.topology import Topology
from tests.acceptance.test_docs import ROOT, fenced


async def test_python_of_the_page_runs_from_top_to_bottom(topology: Topology) -> None:
    blocks = fenced(ROOT / "docs" / "explanation" / "writes-over-shards.md", "python")
    assert len(blocks) == 3
    body = textwrap.indent("".join(blocks), "    ")
    source = f"async def main(sessions, directory):\n{body}\n    return report, unit, one.order_id\n"
    scope: dict[str, object] = {}
    exec(compile(source, "writes-over-shards.md", "exec"), scope)
    async with open_cluster(topology, "directory", role="mes", application_name="test") as directory:
        await Directory(directory.primary, "mes").ensure_map(
            ShardMap.even(["mes_0", "mes_1"], topology.trees["mes"].buckets)
        )
        async with open_sessions(topology, role="mes", application_name="test") as sessions:
            report, unit, order_id = await scope["main"](sessions, directory.primary)  # type: ignore[operator]
    assert (report.written, order_id) == (5_000, 0)
    assert set(unit.token.positions) == set(unit.shards)
