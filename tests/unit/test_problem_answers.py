"""What errors of replicas, failovers and shards are worth in HTTP."""

import psycopg
import pytest
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient, Response
from sqlalchemy.exc import OperationalError

from app import problem
from readreplica.errors import (
    CommitInDoubt,
    CommitLost,
    NotThePrimary,
    ReplicasTooStale,
    RetriesExhausted,
    TwoPrimaries,
    WritesRefused,
)
from sharding.errors import BucketNotOwned, InvalidShardKey, OtherShard, ShardFailed

STALE = ReplicasTooStale("mes_0", asked="0/45450B8", retry_after_seconds=3.2)
NOT_PRIMARY = NotThePrimary("mes_0", "10.0.0.7:5432", "it is in recovery")


async def answer_to(error: Exception, **headers: str) -> Response:
    """Let an endpoint raise an error, and give what a client gets."""
    app = FastAPI()
    problem.install(app, {})

    @app.post("/")
    async def fail() -> None:
        raise error

    transport = ASGITransport(app, raise_app_exceptions=False)
    async with AsyncClient(transport=transport, base_url="http://service") as client:
        return await client.post("/", headers=headers)


def within(error: Exception, *, scattered: bool = False) -> Exception:
    """Wrap an error as SQLAlchemy does, or as a scatter."""
    if scattered:
        failed = ShardFailed("mes_0", error)
        failed.__cause__ = error
        return failed
    return OperationalError("COMMIT", {}, error)


@pytest.mark.parametrize(
    ("error", "name", "retry_after"),
    [
        (STALE, "replicas-too-stale", "4"),
        (within(STALE, scattered=True), "replicas-too-stale", "4"),
        (WritesRefused("mes_0", retry_after_seconds=1.0), "writes-refused", "1"),
        (NOT_PRIMARY, "not-the-primary", "2"),
        (within(NOT_PRIMARY), "not-the-primary", "2"),
        (within(TwoPrimaries("mes_0", ["10.0.0.7:5432", "10.0.0.8:5432"])), "two-primaries", "60"),
        (BucketNotOwned(shard="mes_0", key=17, bucket=3, map_version=2), "bucket-not-owned", "2"),
        (CommitLost("mes_0"), "commit-lost", "2"),
        (RetriesExhausted("mes_0", attempts=5, sqlstate="40001"), "temporarily-unavailable", "2"),
        (within(psycopg.OperationalError("10.0.0.7 is gone")), "temporarily-unavailable", "2"),
    ],
)
async def test_what_passes_by_itself_is_asked_for_again(
    error: Exception, name: str, retry_after: str
) -> None:
    answer = await answer_to(error)
    told = answer.json()
    assert (answer.status_code, told["type"]) == (503, f"urn:mes-storage:problem:{name}")
    assert answer.headers["Retry-After"] == retry_after
    assert f"in {retry_after} seconds" in told["detail"]
    for internal in ("10.0.0.", "mes_0", "45450B8"):
        assert internal not in answer.text


async def test_a_commit_in_doubt_is_to_be_repeated_as_it_was() -> None:
    answer = await answer_to(CommitInDoubt("mes_0", xid=None, before=None, server=None))
    assert answer.status_code == 503
    assert answer.json()["type"].endswith(":commit-in-doubt")
    assert answer.headers["Retry-After"] == "2"
    for words in ("unknown whether this was done", "same Idempotency-Key", "not done twice"):
        assert words in answer.json()["detail"]
    assert "mes_0" not in answer.text


@pytest.mark.parametrize(
    "error",
    [
        OtherShard(key=1, shard="mes_0", other_key=2, other_shard="mes_1", table="orders"),
        InvalidShardKey("17"),
    ],
)
async def test_a_key_of_another_shard_is_a_fault_of_ours(error: Exception) -> None:
    answer = await answer_to(error)
    assert (answer.status_code, answer.json()["title"]) == (500, "Internal error")
    assert "mes_1" not in answer.text
