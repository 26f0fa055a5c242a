"""One chunk, one transaction on its shard, within a time limit."""

import asyncio

import psycopg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from readreplica.cluster import Cluster
from readreplica.errors import CommitInDoubt, is_connection_lost
from readreplica.sessions import WriteSession
from readreplica.token import Committed
from sharding.errors import ShardTimedOut
from sharding.shard_call import cut_after
from sharding.writes.chunks import Chunk, write_rows
from sharding.writes.errors import ChunkInDoubt
from sharding.writes.rows import Mode, Target


async def write_chunk(
    cluster: Cluster, target: Target, mode: Mode, chunk: Chunk, *, timeout_seconds: float
) -> Committed[int]:
    """Write a chunk, again from its start if a concurrent transaction ended it.

    Returns:
        How many rows were inserted or updated.

    Raises:
        ShardTimedOut: the shard did not answer in time; nothing is written.
        ChunkInDoubt: the connection was lost during COMMIT.
        RetriesExhausted: every attempt met a concurrent transaction; nothing is written.
        BucketNotOwned: the shard does not own a row's bucket; nothing is written.
        WritesRefused: the shard is being switched over to another primary; nothing is written.
        DBAPIError: the server refused the rows, or cannot be reached; nothing is written.
    """

    async def work(session: WriteSession) -> int:
        connection = await connect(session, shard=cluster.name, seconds=timeout_seconds)
        async with cut_after(connection, shard=cluster.name, seconds=timeout_seconds):
            rows = await write_rows(connection, target, mode, chunk.rows)
            await commit(session, shard=cluster.name)
        return rows

    return await cluster.unit_of_work(work, failover_wait_seconds=0).run()


async def connect(session: WriteSession, *, shard: str, seconds: float) -> AsyncConnection:
    """Take the session's connection, but do not wait for it for ever.

    Raises:
        ShardTimedOut: there was none in time.
    """
    try:
        async with asyncio.timeout(seconds):
            return await session.connection()
    except TimeoutError as error:
        raise ShardTimedOut(shard, seconds=seconds) from error


async def commit(session: WriteSession, *, shard: str) -> None:
    """Commit; tell it apart when nobody knows whether it was done.

    Raises:
        ChunkInDoubt: the connection was lost before the server answered.
        DBAPIError: the server refused, and has rolled back.
    """
    try:
        await session.commit()
    except CommitInDoubt as error:
        raise ChunkInDoubt(shard) from error
    except (DBAPIError, psycopg.Error) as error:
        if is_connection_lost(error):
            raise ChunkInDoubt(shard) from error
        raise
