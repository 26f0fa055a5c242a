"""What the DBA's pages cost: 20 browsers that look at the same time, compared with one."""

import asyncio
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

from sqlalchemy import Engine, create_engine, text
from sqlalchemy.pool import NullPool

from ops.options import Options
from ops.pages.commands import make_app
from ops.pages.sessions import SessionStore
from sharding.topology import Topology
from tests.benchmarks.harness import Measured, benchmark, platform
from tests.integration.services_rig import save_map
from tests.integration.test_dba_pages import entered, served, settled
from tests.project import PROJECT

BROWSERS = 20
_STATEMENTS = text("SELECT sum(xact_commit + xact_rollback)::bigint FROM pg_stat_database")


@benchmark(name="dba_pages", target=1.5)
async def dba_pages() -> Measured:
    """Compare the transactions on the server when 20 browsers read all panels with those of one."""
    with platform() as topology:
        await save_map(topology)
        counting = create_engine(topology.url("mes_0", role="mes_owner"), poolclass=NullPool)
        one, size = await _look(topology, counting, browsers=1)
        many, _ = await _look(topology, counting, browsers=BROWSERS)
    return Measured(
        many / one,
        f"{one} transactions for one browser, {many} for {BROWSERS}; panels of {size / 1000:.0f} KB",
    )


async def _look(topology: Topology, counting: Engine, *, browsers: int) -> tuple[int, int]:
    """Have browsers read every panel once; return the transactions, and the size of the panels."""
    with tempfile.TemporaryDirectory() as home:
        options = Options(
            json=False, named_home=Path(home), named_topology=topology.path, named_project=PROJECT.path
        )
        before = await _count(counting)
        with served(make_app(options, port=1)) as url:
            sessions = SessionStore(Path(home) / "pages")
            async with AsyncExitStack() as stack:
                clients = [
                    await stack.enter_async_context(entered(url, {"token": sessions.make_link()}))
                    for _ in range(browsers)
                ]
                found = await asyncio.gather(*(settled(client) for client in clients))
        return await _count(counting) - before, sum(len(html) for html in found[0].values())


async def _count(counting: Engine) -> int:
    # A server process sends what it has counted once in a second at most, or when its session ends.
    await asyncio.sleep(2)
    with counting.connect() as connection:
        return int(connection.execute(_STATEMENTS).scalar_one())
