"""One chunk, one transaction on its shard, within a time limit."""

import asyncio
from typing import NamedTuple

import psycopg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from readreplica.cluster import Cluster
from readreplica.errors import CommitInDoubt as AnswerLost
from readreplica.retry import retry_unit
from readreplica.sessions import WriteSession
from readreplica.token import CausalToken
from sharding.writes.chunks import Chunk
from sharding.writes.deadline import cut_after, is_lost
from sharding.writes.errors import CommitInDoubt, ShardTimedOut
from sharding.writes.statements import write_rows
from sharding.writes.target import Mode, Target


class Written(NamedTuple):
    """How many rows of a chunk were inserted or updated, and what a read must have seen to see them."""

    rows: int
    token: CausalToken


async def write_chunk(
    cluster: Cluster, target: Target, mode: Mode, chunk: Chunk, *, timeout_seconds: float
) -> Written:
    """Write a chunk, again from its start if a concurrent transaction ended it.

    Raises:
        ShardTimedOut: the shard did not answer in time; nothing is written.
        CommitInDoubt: the connection was lost during COMMIT.
        RetriesExhausted: every attempt met a concurrent transaction; nothing is written.
        BucketNotOwned: the shard does not own a row's bucket; nothing is written.
        WritesRefused: the shard is being switched over to another primary; nothing is written.
        DBAPIError: the server refused the rows, or cannot be reached; nothing is written.
    """

    async def unit() -> Written:
        async with cluster.write() as session:
            connection = await connect(session, shard=cluster.name, seconds=timeout_seconds)
            async with cut_after(connection, shard=cluster.name, seconds=timeout_seconds):
                rows = await write_rows(connection, target, mode, chunk.rows)
                await commit(session, shard=cluster.name)
        return Written(rows, session.token)

    return await retry_unit(cluster.name, unit, attempts=5)


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
        CommitInDoubt: the connection was lost before the server answered.
        DBAPIError: the server refused, and has rolled back.
    """
    try:
        await session.commit()
    except AnswerLost as error:
        raise CommitInDoubt(shard) from error
    except (DBAPIError, psycopg.Error) as error:
        if is_lost(error):
            raise CommitInDoubt(shard) from error
        raise
