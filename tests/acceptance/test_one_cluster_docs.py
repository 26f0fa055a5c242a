"""What docs/how-to/one-cluster.md shows in Python is run, on a primary and its replica."""

import textwrap
from typing import Any

import pytest

from sharding.topology import Topology
from tests.acceptance.test_docs import ROOT, fenced


async def test_python_of_the_page_runs_from_top_to_bottom(
    topology: Topology, monkeypatch: pytest.MonkeyPatch
) -> None:
    mes_0 = topology.databases["mes_0"]
    for variable, replica in (("PRIMARY_URL", None), ("REPLICA_URL", mes_0.replicas[0].name)):
        url = topology.url("mes_0", role=mes_0.owner, replica=replica)
        monkeypatch.setenv(variable, url.render_as_string(hide_password=False))
    blocks = fenced(ROOT / "docs" / "how-to" / "one-cluster.md", "python")
    assert len(blocks) == 2
    body = textwrap.indent("\n".join([*blocks, "return locals()"]), "    ")
    scope: dict[str, Any] = {}
    exec(compile(f"async def main():\n{body}", "one-cluster.md", "exec"), scope)
    seen = await scope["main"]()
    assert (seen["seen"], seen["done"].value) == (1, "seen")
    assert seen["recent"] is not None
    assert set(seen["done"].token.positions) == {"shop"}
