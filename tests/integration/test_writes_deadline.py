"""A server that stops answering at COMMIT is given up in time, whatever was being committed."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from ops.reference_tables import tables_of
from readreplica.engines import writer_engine
from sharding.errors import ShardTimedOut
from sharding.writes import Decisions
from sharding.writes.reference import References, Row, apply, shape
from tests.integration.writes_rig import Wide
from tests.project import MES

FINISHES = tables_of(MES)["finishes"]
ROWS: list[Row] = [{"finish": "matte", "eur_per_cm2": "0.9"}]


async def finish(wide: Wide, engine: AsyncEngine) -> None:
    await Decisions(engine, "mes", timeout_seconds=1).finish("ab" * 16)


async def purge(wide: Wide, engine: AsyncEngine) -> None:
    await Decisions(engine, "mes", timeout_seconds=1).purge(older_than=timedelta(days=1))


async def publish(wide: Wide, engine: AsyncEngine) -> None:
    async with own_engine(wide) as shard:
        content = await shape(shard, FINISHES, ROWS, version=1)
    await References(engine, "mes", timeout_seconds=1).publish(content)


async def bring(wide: Wide, engine: AsyncEngine) -> None:
    content = await shape(engine, FINISHES, ROWS, version=1)
    await apply(engine, FINISHES, content, shard="mes_0", seconds=1)


@asynccontextmanager
async def own_engine(wide: Wide) -> AsyncIterator[AsyncEngine]:
    engine = writer_engine(wide.topology.url("mes_0", role="mes"), application_name="test")
    try:
        yield engine
    finally:
        await engine.dispose()


@asynccontextmanager
async def mute_at_commit(wide: Wide, database: str) -> AsyncIterator[AsyncEngine]:
    """An engine whose server never hears a COMMIT, and so never answers one."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, downstream = await asyncio.open_connection("127.0.0.1", wide.servers.primary_port)
        answers = asyncio.create_task(_pass_on(upstream, writer))
        while data := await reader.read(65536):
            if b"COMMIT" not in data:
                downstream.write(data)
        answers.cancel()
        for end in (downstream, writer):
            end.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = wide.topology.url(database, role="mes").set(port=server.sockets[0].getsockname()[1])
    engine = writer_engine(url, application_name="test")
    async with server:
        try:
            yield engine
        finally:
            await engine.dispose()


async def _pass_on(upstream: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await upstream.read(65536):
        writer.write(data)


@pytest.mark.parametrize(
    ("database", "write"),
    [("directory", finish), ("directory", purge), ("directory", publish), ("mes_0", bring)],
)
async def test_a_commit_that_is_not_answered_is_given_up_in_time(
    wide: Wide, database: str, write: Callable[[Wide, AsyncEngine], Awaitable[None]]
) -> None:
    async with asyncio.timeout(30), mute_at_commit(wide, database) as engine:
        with pytest.raises(ShardTimedOut, match="did not answer within 1 s"):
            await write(wide, engine)
